"""Image files: a folder of class folders, or a CSV or JSONL file of paths and labels.

    PATH/train/<class>/*.jpg, PATH/val/..., PATH/test/...    splits
    PATH/<class>/*.jpg                                       no splits: a fifth is held out as test
    PATH/*.jpg                                               images without labels
    PATH.csv, PATH.jsonl                                     path, label, mask, value and split

Images lie at any depth below the folder of their class. Files without the ending of an image, what
is hidden and what other programs leave are not read, and counted at the start. The classes are
those of the training split, of which others may lack some. Without a test split the validation
split is tested.
"""

import dataclasses
import difflib
import functools
import itertools
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnnjax import fields
from cnnjax.data import groups, identity, names, tables
from cnnjax.data.images import IMAGE_ENDINGS, UnreadableImage, decode_mask, read
from cnnjax.data.leftovers import Leftovers, is_litter
from cnnjax.data.names import ALIASES, split_of
from cnnjax.data.split import Example, Split
from cnnjax.data.tables import Pairs
from cnnjax.errors import TransientError, UserError, listed, unknown
from cnnjax.fields import Field
from cnnjax.runtime.paths import quoted, to_path

TEST_SHARE = 0.2  # held out where there are no splits


@dataclasses.dataclass(frozen=True)
class Files:
  """Records in files below `root`, with labels and groups as in `Records`."""

  paths: tuple[str, ...]
  labels: np.ndarray | None
  root: str = "."
  groups: np.ndarray | None = None
  masks: tuple[str, ...] | None = None  # the file of each mask
  values: np.ndarray | None = None  # [n] or [n, k] float32

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, i: int) -> Example:
    found: Example = {"image": self._read(self.paths[i], i)}
    if self.labels is not None:
      found["label"] = self.labels[i]
    if self.masks is not None:
      found["mask"] = self._read(self.masks[i], i)
    if self.values is not None:
      found["value"] = self.values[i]
    return found

  def _read(self, path: str, i: int) -> bytes | UnreadableImage:
    """The bytes of a file of example i, or why there are none."""
    try:
      return read(path)
    except UnreadableImage as e:
      return e
    except OSError as e:  # as an image that cannot be decoded: skipped, counted and named
      if gone := self._gone(i):
        raise TransientError(
          f"{gone} has gone, and {self.name(i)} was to be read: look at the disk or the server, "
          "and start the same command again when it is back"
        ) from e
      return UnreadableImage(e.strerror)

  def _gone(self, i: int) -> pathlib.Path | None:
    """The first folder above image i that is not there, if those of others are not there either."""
    above = [pathlib.Path(self.paths[at]).parent for at in (i, 0, -1)]
    if any(folder.is_dir() for folder in above):
      return None
    there = itertools.takewhile(lambda folder: not folder.is_dir(), above[0].parents)
    return [above[0], *there][-1]

  def name(self, i: int) -> str:
    return _printable(self.paths[i])

  @functools.cached_property
  def contents(self) -> np.ndarray:
    """Fingerprints of the files; of the path where a file cannot be read."""

    def content(i: int) -> bytes:
      found = self._read(self.paths[i], i)
      return found if isinstance(found, bytes) else os.fsencode(self.relative(i))

    return identity.fingerprints(lambda at: map(content, at), len(self))

  @functools.cached_property
  def places(self) -> np.ndarray:
    """Fingerprints of path and size; of the path alone where the file is missing."""
    sizes = ("" if size is None else size for size in self._sizes)
    found = [os.fsencode(f"{self.relative(i)}|{size}") for i, size in enumerate(sizes)]
    return np.array(list(map(identity.fingerprint, found)), np.uint64)

  def relative(self, i: int) -> str:
    """Returns the path of file i below the root."""
    path, above = self.paths[i], os.path.join(self.root, "")
    below = os.path.normpath(path.removeprefix(above))
    if path.startswith(above) and not below.startswith(("/", "..")):  # ten times as fast
      return below
    return os.path.relpath(path, self.root)

  @functools.cached_property
  def large(self) -> bool:
    """Whether all files together exceed `identity.LARGE`."""
    return sum(size or 0 for size in self._sizes) > identity.LARGE

  @functools.cached_property
  def _sizes(self) -> list[int | None]:
    """In bytes; None of what is no file, or not there."""
    found = identity.in_parts(lambda at: [_size(self.paths[i]) for i in at], len(self))
    return list(itertools.chain.from_iterable(found))


@dataclasses.dataclass(frozen=True)
class Listing:
  """The files of the splits that a config names."""

  files: dict[str, Files]  # by the names that the config has
  classes: tuple[str, ...]
  own: dict[str, str]  # and what the folder or table calls them; "" is all of it, without splits
  unused: tuple[str, ...]  # splits that the config does not name
  remarks: dict[str, str]  # what a person should know of how it is read

  @property
  def whole(self) -> bool:
    return "" in self.own.values()


def check(config: ConfigDict) -> None:
  """Raises UserError for a path that holds no images, or a split that is not there."""
  _listing.cache_clear()  # files may have come and gone since, as in a notebook
  _listed(config)
  if config.image_size is None:
    raise UserError(
      f"the images of {config.path} may differ in size; set data.image_size, such as 224"
    )
  shares = test_share(config), config.validation, config.test
  if config.group and not any(isinstance(share, int | float) for share in shares):
    raise UserError(
      f"data.group='{config.group}' has no effect: {config.path} has splits, and nothing is held "
      f"out; {_hold_out('validation')}, or leave it at None"
    )


def load(config: ConfigDict, split: str) -> Split:
  listing = _listed(config)
  own = listing.own[split]
  notes = [f"its {own!r}"] if own.lower() not in ("", split.lower()) else []
  if split == config.train and listing.unused:
    notes.append(f"not used: {listed(listing.unused)}")
  declared = _declared(config, listing)
  return Split.of_fields(
    listing.files[split], declared, note=", ".join(notes), remarks=listing.remarks
  )


def _declared(config: ConfigDict, listing: Listing) -> dict[str, Field]:
  """The fields of a folder or list."""
  train = listing.files[config.train]
  found = {"image": fields.image(None, None, config.channels or 3, config.dtype or "uint8")}
  if train.labels is not None:
    several = train.labels.ndim == 2
    found["label"] = (fields.multi_label if several else fields.label)(listing.classes)
  if train.masks is not None:
    found["mask"] = _masks_field(config.classes, train.masks)
  if train.values is not None:
    found["value"] = fields.value(*train.values.shape[1:])
  return found


@functools.lru_cache(maxsize=2)
def _masks_field(classes: tuple[str, ...] | int | None, masks: tuple[str, ...]) -> Field:
  """The field of masks with these `classes`; None: as many as the `masks` have, which are read."""
  if classes is None:
    classes = 1 + max(itertools.chain.from_iterable(identity.in_parts(
      lambda places: [_largest(masks[i]) for i in places], len(masks))))  # fmt: skip
  named = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
  if len(named) < 2:
    raise UserError(
      f"the masks have {len(named)} class besides what does not count (255), and it takes two or "
      "more: write the number of a class in each pixel, from 0"
    )
  return fields.mask(None, None, named, "uint8" if len(named) <= 255 else "uint16")


def _largest(path: str) -> int:
  """The largest class in the file of a mask; -1 where there is none, or it cannot be read."""
  try:
    mask = decode_mask(read(path))
  except (UnreadableImage, OSError):  # skipped, counted and named when the image is
    return -1
  counted = mask[mask != np.iinfo(mask.dtype).max]
  return int(counted.max()) if counted.size else -1


def test_share(config: ConfigDict) -> float | None:
  """Returns the share to hold out as the test split where there are no splits, else None."""
  return TEST_SHARE if isinstance(config.test, str) and _listed(config).whole else None


def split_folders(path: str) -> dict[str, str]:
  """Returns the folders of the splits in `path` by name; {} where its folders are classes.

  One folder alone with the name of a split, beside others, is a class (of trains and buses, of what
  is valid and what invalid), unless it is one to train on and has classes of its own.
  """
  folders = _folders(path)
  splits = {name: folder for name, folder in folders.items() if split_of(name)}
  if len(splits) == 1 < len(folders):
    ((name, folder),) = splits.items()
    if split_of(name) != "train" or len(_folders(folder)) < 2:
      return {}
  return splits


def beside(path: str, splits: Mapping[str, str]) -> dict[str, str]:
  """Returns remarks on folders beside the splits, and on classes with the name of a split."""
  folders = _folders(path)
  if splits:
    odd = [name for name in folders if name not in splits]
    return {"not used": f"folders beside the splits: {listed(odd)}"} if odd else {}
  odd = [name for name in folders if split_of(name)]
  return {"labels": f"the folder {odd[0]!r} is a class, as are those beside it"} if odd else {}


def _listed(config: ConfigDict) -> Listing:
  keys = ("train", "validation", "test")
  named = tuple((key, config[key]) for key in keys if isinstance(config[key], str))
  return _listing(config.path, named, config.group, config.masks)


def whole(config: ConfigDict) -> Split:
  """Returns all images of a folder or list, of every split, with its own classes."""
  found = _look(config.path, config.group, config.masks, grouped=False)
  pairs, classes, remarks = found.read(("train", place) for place in found.own)
  every = list(itertools.chain(*pairs.values()))
  several = any(len(labels) != 1 for _, labels in every)
  files = found.files(every, classes, several=several)
  listing = Listing({config.train: files}, classes, {}, (), remarks)
  return Split.of_fields(files, _declared(config, listing), remarks=remarks)


def has_splits(path: str) -> bool:
  """Whether a folder or list says what is trained on and what tested."""
  return "" not in _look(path).own


@dataclasses.dataclass(frozen=True)
class _Found:
  """What lies at a path."""

  below: str  # the folder that paths start at
  own: Mapping[str, str | Pairs]  # the folder or the images of each split; "" is all, without
  remarks: dict[str, str]
  left: Leftovers  # beside the splits
  folds: str = ""  # as of `tables.Table`, as are `groups`
  groups: Mapping[str, str] | None = None
  pattern: str | None = None  # of masks
  labelled: bool = True  # a list with labels, or a folder, which may turn out to have none
  masks: Mapping[str, str] | None = None
  values: Mapping[str, tuple[float, ...]] | None = None

  def files(self, pairs: Pairs, classes: tuple[str, ...], *, several: bool) -> Files:
    """The records of some images, which have labels if there are `classes`."""
    paths = tuple(file for file, _ in pairs)
    labels = _labels(pairs, classes, several) if classes else None
    masks = self.masks
    if self.pattern is not None:
      masks = _masks(self.pattern, self.below, paths)
    values = self.values and np.array([self.values[path] for path in paths], np.float32)
    if values is not None and values.shape[1:] == (1,):
      values = values[:, 0]
    masks = masks and tuple(masks[path] for path in paths)
    return Files(paths, labels, self.below, masks=masks, values=values)

  def read(
    self, places: Iterable[tuple[str, str]]
  ) -> tuple[dict[str, Pairs], tuple[str, ...], dict[str, str]]:
    """(the images of some splits; their classes in order; remarks).

    `places` are (key of the config, key of `own`).
    """
    left, splits, keys = Leftovers(), {}, {}
    left.add(self.left)
    for key, place in places:
      if place not in splits:
        found = self.own[place]
        if isinstance(found, list):
          splits[place] = found
        elif self.pattern is not None:
          splits[place] = _with_masks(found, self.pattern, self.below, left)
        else:
          splits[place] = _of_folder(found, key, left)
        keys[place] = key
    self._check_labels(splits, keys)
    called = names.classes(
      label for pairs in splits.values() for _, labels in pairs for label in labels
    )
    pairs = {
      place: [(file, tuple(dict.fromkeys(map(called.get, labels)))) for file, labels in found]
      for place, found in splits.items()
    }
    doubts = [text for text in (self.remarks.get("labels"), names.doubts(called)) if text]
    remarks = self.remarks | left.remarks() | ({"labels": "; ".join(doubts)} if doubts else {})
    return pairs, tuple(dict.fromkeys(called.values())), remarks

  def _check_labels(self, splits: Mapping[str, Pairs], keys: Mapping[str, str]) -> None:
    """Raises UserError where a split is a folder of images and another one has classes."""
    flat = [place for place, found in splits.items() if not any(labels for _, labels in found)]
    if 0 < len(flat) < len(splits) and isinstance(path := self.own[flat[0]], str):
      raise UserError(
        f"{path} has images, but no folders of classes: it takes "
        f"{os.path.join(path, '<class>', 'a.jpg')}, or a CSV or JSONL file of paths and labels"
        + (f"; or {_hold_out(keys[flat[0]])}" if keys[flat[0]] != "train" else "")
      )


def _look(
  path: str | None, group: str | None = None, pattern: str | None = None, *, grouped: bool = True
) -> _Found:
  root = _existing(path)
  if os.path.isdir(root):
    splits = split_folders(root)
    left = _loose(root) if splits else Leftovers()
    return _Found(root, splits or {"": root}, beside(root, splits), left, pattern=pattern)
  if root.lower().endswith(tables.ENDINGS):
    table = tables.read(root, group, grouped=grouped)
    if pattern and table.masks:
      raise UserError(f"data.masks={pattern!r}: {path} has a column of masks; leave it at None")
    return _Found(
      os.path.dirname(root),
      table.splits,
      table.remarks,
      Leftovers(),
      table.folds,
      table.groups,
      pattern,
      table.labelled,
      table.masks,
      table.values,
    )
  raise UserError(f"data.path {path!r} is neither a folder nor a .csv or .jsonl file")


@functools.lru_cache(maxsize=1)
def _listing(
  path: str | None,
  named: tuple[tuple[str, str], ...],
  group: str | None = None,
  masks: str | None = None,
) -> Listing:
  """`named` are (key, split) of the config; other splits are not looked at."""
  looked = _look(path, group, masks)
  if looked.folds and "test" in dict(named):
    raise UserError(
      f"{path}: {looked.folds}, which are no names of splits: write train and test there; or "
      f"{_hold_out('test')}, whatever the fold"
    )
  places = _places(path, looked.own, dict(named))
  pairs, ordered, remarks = looked.read(places.items())
  known = {label for _, labels in pairs[places["train"]] for label in labels}
  for place, found in pairs.items():
    if odd := sorted({label for _, labels in found for label in labels} - known):
      raise UserError(
        f"{path}: {place!r} has classes that {places['train']!r} lacks, so that they cannot be "
        f"learnt: {listed(odd)}; add images of them to {places['train']!r}, or take those in "
        f"{place!r} out"
      )
  unlabelled = not known and (looked.pattern or not looked.labelled or _is_flat(looked, pairs))
  if len(known) < 2 and not unlabelled:
    raise _too_few(path, known)
  classes = tuple(label for label in ordered if label in known)
  several = any(len(labels) != 1 for found in pairs.values() for _, labels in found)
  files = {place: looked.files(found, classes, several=several) for place, found in pairs.items()}
  if group:
    place = places["train"]
    found, remarks["groups"] = groups.of_files(group, files[place], looked.groups)
    files[place] = dataclasses.replace(files[place], groups=found)
  own_names = {name: places[key] for key, name in named}
  unused = tuple(sorted({*looked.own} - {*own_names.values()}))
  by_name = {name: files[place] for name, place in own_names.items()}
  return Listing(by_name, classes, own_names, unused, remarks)


def _too_few(path: str, known: set[str]) -> UserError:
  if not known:
    return UserError(f"{path}: no image that is trained on has a label")
  inner = os.path.join(to_path(path), *known)  # as where an archive was unpacked
  hint = (
    f"; did you mean data.path={quoted(inner)}?" if os.path.isdir(inner) and _folders(inner) else ""
  )
  return UserError(f"{path} has one class only, {next(iter(known))!r}; it takes two or more{hint}")


def _existing(path: str | None) -> str:
  """The path with `~` filled in, which exists."""
  if not path:
    raise UserError("data.source=folder needs data.path, a folder of images or a CSV or JSONL file")
  root = str(to_path(path))
  try:
    os.stat(root)
  except (FileNotFoundError, NotADirectoryError):
    above = pathlib.Path(root).absolute()
    while not os.path.exists(above):
      name, above = above.name, above.parent
    there = os.listdir(above) if above.is_dir() and os.access(above, os.R_OK) else []
    near = difflib.get_close_matches(name, {*there} - {name}, n=1)
    hint = f" Did you mean {str(above / near[0])!r}?" if near else ""
    raise UserError(f"data.path {path!r}: there is no {name!r} in {above}.{hint}") from None
  except (OSError, ValueError) as e:
    raise UserError(f"data.path {path!r} cannot be read: {getattr(e, 'strerror', e)}") from e
  return root


def _places(path: str, own: Mapping[str, Any], named: dict[str, str]) -> dict[str, str]:
  """The key in `own` of each split that the config names."""
  if "" in own:
    for key, name in named.items():
      if name != key or key == "validation":
        raise UserError(
          f"data.{key}={name!r}: there are no splits in {path}; "
          + ("leave it at 'train'" if key == "train" else _hold_out(key))
        )
    return dict.fromkeys(named, "")
  places = {key: _find(path, own, name, key) for key, name in named.items()}
  for (one, a), (other, b) in itertools.combinations(places.items(), 2):
    if a == b:
      raise UserError(
        f"{path}: data.{one}={named[one]!r} and data.{other}={named[other]!r} are both its split "
        f"{a!r}, and what is trained on or chosen by cannot be tested on; {_hold_out(other)}"
      )
  return places


def _find(path: str, own: Mapping[str, Any], name: str, key: str) -> str:
  there = {place.lower(): place for place in own}
  # Where there is no test split, as in ImageNet's layout, it is that of validation.
  kinds = (split_of(name), *(["validation"] if name == "test" else []))
  aliases = [alias for kind in kinds if kind for alias in ALIASES[kind]]
  alike = [place for kind in kinds if kind for place in sorted(there) if split_of(place) == kind]
  for alias in (name.lower(), *aliases, *alike):
    if alias in there:
      return there[alias]
  error = unknown(f"split of {path} in data.{key}", name, own)
  raise error if key == "train" else UserError(f"{error}; or {_hold_out(key)}")


def _hold_out(key: str) -> str:
  return f"hold out a share, as --config.data.{key}=0.1"


def _labels(pairs: Pairs, classes: tuple[str, ...], several: bool) -> np.ndarray:
  """[n] int32, or [n, num_classes] uint8 where there are `several` an image."""
  place = {name: i for i, name in enumerate(classes)}
  if not several:
    return np.array([place[name] for _, (name,) in pairs], np.int32)
  labels = np.zeros((len(pairs), len(classes)), np.uint8)
  for row, (_, found) in zip(labels, pairs, strict=True):
    row[[place[name] for name in found]] = 1
  return labels


def _of_folder(path: str, key: str, left: Leftovers) -> Pairs:
  """The images of a split by class; `left` counts what is not read."""
  here, found, empty = _loose(path), {}, []
  flat = bool(here.outside)
  for name, folder in _folders(path).items():
    inside, name = Leftovers(), _printable(name)
    found[name] = list(_images(folder, inside, os.path.join(os.path.realpath(folder), "")))
    if not found[name]:
      empty.append(f"{name} ({inside.photos()})" if inside.photos() else name)
    here.add(inside)
  if not any(found.values()) and flat:  # images without labels
    here.outside.clear()
    left.add(here)
    entries = _entries(path)
    return [(entry.path, ()) for entry, folder in entries if not folder and _is_image(entry.name)]
  if not any(found.values()):
    photos = f", but {here.photos()}" if here.photos() else ""
    raise UserError(
      f"{path} has no images{photos}: it "
      f"takes {os.path.join(path, '<class>', 'a.jpg')}, or a CSV or JSONL file of paths and labels"
      + (f"; or {_hold_out(key)}" if key != "train" else "")
    )
  if empty:
    raise UserError(f"{path}: no image in the folder of {listed(empty)}; fill it or delete it")
  left.add(here)
  return [(file, (name,)) for name, files in found.items() for file in files]


def _is_flat(looked: "_Found", pairs: Mapping[str, Pairs]) -> bool:
  """Whether no split of a folder has folders of classes."""
  folder = not any(isinstance(own, list) for own in looked.own.values())
  return folder and not any(labels for found in pairs.values() for _, labels in found)


def _with_masks(path: str, pattern: str, root: str, left: Leftovers) -> Pairs:
  """The images at any depth that are not the mask of another one; folders are no classes."""
  files = list(_images(path, left, os.path.join(os.path.realpath(path), "")))
  masks = {*map(os.path.normpath, _masks(pattern, root, files, there=False).values())}
  found = [file for file in files if os.path.normpath(file) not in masks]
  if not found:
    raise UserError(
      f"{path} has no images beside those that data.masks={pattern!r} takes for masks"
    )
  return [(file, ()) for file in found]


def _masks(pattern: str, root: str, files: Sequence[str], *, there: bool = True) -> dict[str, str]:
  """The file of the mask of each image, by `data.masks`.

  Raises:
    UserError: the pattern is none, or, if they are to be `there`, masks are missing.
  """
  found = {}
  for file in files:
    folder, name = os.path.split(os.path.relpath(file, root))
    try:
      place = pattern.format(folder=folder or ".", name=os.path.splitext(name)[0])
    except (KeyError, IndexError, ValueError, AttributeError) as e:
      raise UserError(
        f"data.masks={pattern!r} is a path below data.path with {{folder}} and {{name}}, those of "
        f"the image, as '{{folder}}/../masks/{{name}}.png': {e}"
      ) from e
    found[file] = os.path.normpath(os.path.join(root, place))
  if there and (missing := [file for file, mask in found.items() if not os.path.isfile(mask)]):
    raise UserError(
      f"{len(missing):,} of {len(files):,} images have no mask: that of {missing[0]} would be "
      f"{found[missing[0]]} by data.masks={pattern!r}"
    )
  return found


def _loose(path: str) -> Leftovers:
  """What lies in a folder itself and is not read."""
  left = Leftovers()
  for entry, is_folder in _entries(path, left):
    if not is_folder and _is_image(entry.name):
      left.outside.append(_printable(entry.path))
    elif not is_folder:
      left.add_file(entry.name)
  return left


def _is_image(name: str) -> bool:
  return name.lower().endswith(IMAGE_ENDINGS)


def _entries(path: str, left: Leftovers | None = None) -> list[tuple[os.DirEntry, bool]]:
  """(entry, whether it is a folder), in the same order on every machine.

  What is hidden, or litter of other programs, is passed over, and counted in `left`.
  """
  try:
    with os.scandir(path) as entries:
      found = [(e, e.is_dir()) for e in entries]
  except OSError as e:
    raise UserError(f"{e.filename} cannot be read: {e.strerror}") from e
  kept = []
  for entry, is_folder in sorted(found, key=lambda pair: pair[0].name):
    if not (entry.name.startswith(".") or is_litter(entry.name)):
      kept.append((entry, is_folder))
    elif left is not None:
      left.pass_over(entry.name, is_folder=is_folder)
  return kept


def _folders(path: str) -> dict[str, str]:
  return {entry.name: entry.path for entry, is_folder in _entries(path) if is_folder}


def _images(folder: str, left: Leftovers, *real: str) -> Iterator[str]:
  """The image files at any depth; `real` are the places of the folders that led here."""
  for entry, is_folder in _entries(folder, left):
    if is_folder:
      place = os.path.join(real[-1], entry.name)
      place = os.path.join(os.path.realpath(entry.path) if entry.is_symlink() else place, "")
      if not any(above.startswith(place) for above in real):  # a link to where it lies
        yield from _images(entry.path, left, *real, place)
    elif _is_image(entry.name):
      yield entry.path
    else:
      left.add_file(entry.name)


def _size(path: str) -> int | None:
  try:
    found = os.stat(path)
  except (OSError, ValueError):
    return None
  return found.st_size if stat.S_ISREG(found.st_mode) else None


def _printable(name: str) -> str:
  """A file name, which may be in no encoding, as text."""
  return os.fsencode(name).decode(errors="backslashreplace")
