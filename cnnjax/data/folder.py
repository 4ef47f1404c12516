"""Reads image files from a folder of class folders, or by a CSV or JSONL file of paths.

    PATH/train/<class>/*.jpg, PATH/val/..., PATH/test/...    splits
    PATH/<class>/*.jpg                                       no splits: a fifth is held out as test
    PATH/*.jpg                                               images without labels
    PATH.csv, PATH.jsonl                                     path, label, mask, boxes, value, split

Images lie at any depth below the folder of their class. Files without the ending of an image,
hidden files and litter of other programs are counted at the start and not read. The classes are
those of the training split; other splits may lack some. Without a test split the validation split
is tested.
"""

import dataclasses
import difflib
import functools
import itertools
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import fields, groups, mask_files, names, tables, walk
from cnnjax.data.box_lists import Boxes, largest
from cnnjax.data.fields import Field
from cnnjax.data.files import Files
from cnnjax.data.leftovers import Leftovers
from cnnjax.data.names import ALIASES, split_of
from cnnjax.data.split import Split
from cnnjax.data.tables import Pairs
from cnnjax.errors import UserError, listed, unknown
from cnnjax.runtime.paths import quoted, to_path

TEST_SHARE = 0.2  # held out where there are no splits


@dataclasses.dataclass(frozen=True)
class Listing:
  """The files of the splits that a config names."""

  files: dict[str, Files]  # by the names that the config has
  classes: tuple[str, ...]
  own: dict[str, str]  # their names in the folder or table; "" stands for all of it, unsplit
  unused: tuple[str, ...]  # splits that the config does not name
  remarks: dict[str, str]  # on how it was read, for people
  boxes: Field | None = None

  @property
  def whole(self) -> bool:
    return "" in self.own.values()


def check(config: ConfigDict) -> None:
  """Raises UserError for a path without images, or an unknown split."""
  _listing.cache_clear()  # files may have come and gone since, as in a notebook
  mask_files.forget()
  _boxes(config, _listed(config))
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
  """Returns the split of that name."""
  listing = _listed(config)
  place = listing.own[split]
  notes = [f"its {place!r}"] if place.lower() not in ("", split.lower()) else []
  if split == config.train and listing.unused:
    notes.append(f"not used: {listed(listing.unused)}")
  return _split(config, listing, listing.files[split], note=", ".join(notes))


def _split(config: ConfigDict, listing: Listing, files: Files, note: str = "") -> Split:
  """Returns a split of `files` of a folder or list, with its fields."""
  train, remarks = listing.files[config.train], dict(listing.remarks)
  declared = {"image": fields.image(None, None, config.channels or 3, config.dtype or "uint8")}
  if train.labels is not None:
    multi_label = train.labels.ndim == 2
    declared["label"] = (fields.multi_label if multi_label else fields.label)(listing.classes)
  if train.masks is not None:
    masks = mask_files.of_files(config, train.masks)
    declared["mask"], files = masks.field, dataclasses.replace(files, white=masks.white)
    remarks |= {"masks": masks.words} if masks.words else {}
  elif config.masks_white:
    raise UserError(
      f"data.masks_white={config.masks_white} has no effect: {config.path} has no masks; leave it "
      "at None"
    )
  if train.values is not None:
    declared["value"] = fields.value(*train.values.shape[1:])
  if (boxes := _boxes(config, listing)) is not None:
    declared["boxes"] = boxes
  return Split.of_fields(files, declared, note=note, remarks=remarks)


def _boxes(config: ConfigDict, listing: Listing) -> Field | None:
  """Returns the field of boxes, if there is one, with room for `data.max_boxes`."""
  boxes, most = listing.boxes, config.max_boxes
  if most is None:
    return boxes
  if boxes is None:
    raise UserError(
      f"data.max_boxes={most} has no effect: {config.path} has no boxes; leave it at None"
    )
  if boxes.shape[0] > most:
    raise UserError(
      f"data.max_boxes={most} is too small: an image of {config.path} has {boxes.shape[0]} boxes"
    )
  return fields.boxes(most, boxes.classes)


def test_share(config: ConfigDict) -> float | None:
  """Returns the share to hold out as the test split of data without splits, else None."""
  return TEST_SHARE if isinstance(config.test, str) and _listed(config).whole else None


def _listed(config: ConfigDict) -> Listing:
  keys = ("train", "validation", "test")
  named = tuple((key, config[key]) for key in keys if isinstance(config[key], str))
  return _listing(config.path, named, config.group, config.masks)


def whole(config: ConfigDict) -> Split:
  """Returns all images of a folder or list, of every split, with its own classes."""
  looked = _look(config.path, config.group, config.masks, grouped=False)
  pairs, classes, remarks = looked.read(("train", place) for place in looked.own)
  every = list(itertools.chain(*pairs.values()))
  multi_label = any(len(labels) != 1 for _, labels in every)
  numbers, boxes = looked.of_boxes(config.path, {"": every}, "", remarks)
  files = looked.files(every, classes, numbers, several=multi_label)
  listing = Listing({config.train: files}, classes, {}, (), remarks, boxes)
  return _split(config, listing, files)


def has_splits(path: str) -> bool:
  """Returns whether a folder or list has splits."""
  return "" not in _look(path).own


@dataclasses.dataclass(frozen=True)
class _Contents:
  """The splits at a path, before they are read."""

  below: str  # the folder that paths start at
  own: Mapping[str, str | Pairs]  # the folder or images of each split; "" stands for all, unsplit
  remarks: dict[str, str]
  left: Leftovers  # beside the splits
  folds: str = ""  # as of `tables.Table`, as are `groups`
  groups: Mapping[str, str] | None = None
  pattern: str | None = None  # of masks
  labelled: bool = True  # a list with labels, or a folder, which may turn out to have none
  masks: Mapping[str, str] | None = None
  values: Mapping[str, tuple[float, ...]] | None = None
  boxes: Mapping[str, Boxes] | None = None

  def files(
    self, pairs: Pairs, classes: tuple[str, ...], numbers: Mapping[str, int], *, several: bool
  ) -> Files:
    """Returns the records of some images, with labels if there are `classes`.

    `numbers` are those of the classes of boxes, as of `of_boxes`.
    """
    paths = tuple(file for file, _ in pairs)
    labels = _labels(pairs, classes, several) if classes else None
    masks = self.masks
    if self.pattern is not None:
      masks = mask_files.of_images(self.pattern, self.below, paths)
    values = self.values and np.array([self.values[path] for path in paths], np.float32)
    if values is not None and values.shape[1:] == (1,):
      values = values[:, 0]
    masks = masks and tuple(masks[path] for path in paths)
    boxes = self.boxes and tuple(
      (self.boxes[path].sides, np.array([*map(numbers.get, self.boxes[path].labels)], np.int32))
      for path in paths
    )
    return Files(paths, labels, self.below, masks=masks, values=values, boxes=boxes)

  def of_boxes(
    self, path: str | None, pairs: Mapping[str, Pairs], train: str, remarks: dict[str, str]
  ) -> tuple[dict[str, int], Field | None]:
    """Returns (the number of each class as the list spells it, the field of boxes if there is one).

    The classes are those of the split `train` of `pairs`. Adds possible mistakes to `remarks`.
    """
    if self.boxes is None:
      return {}, None
    labels = {
      place: {label for file, _ in images for label in self.boxes[file].labels}
      for place, images in pairs.items()
    }
    if not labels[train]:
      raise UserError(f"{path}: no training image has a box")
    called = names.classes(itertools.chain.from_iterable(labels.values()))
    known = _known(path, {key: {*map(called.get, some)} for key, some in labels.items()}, train)
    if (doubts := names.doubts(called)) and doubts not in remarks.get("labels", ""):
      remarks["boxes"] = "; ".join(filter(None, (remarks.get("boxes"), doubts)))
    classes = [name for name in dict.fromkeys(called.values()) if name in known]
    numbers = {label: classes.index(name) for label, name in called.items()}
    return numbers, fields.boxes(largest(self.boxes.values()), classes)

  def read(
    self, places: Iterable[tuple[str, str]]
  ) -> tuple[dict[str, Pairs], tuple[str, ...], dict[str, str]]:
    """Returns (the images of some splits, their classes in order, remarks).

    `places` are pairs (key of the config, key of `own`).
    """
    left, splits, keys = Leftovers(), {}, {}
    left.add(self.left)
    for key, place in places:
      if place not in splits:
        source = self.own[place]
        if isinstance(source, list):
          splits[place] = source
        elif self.pattern is not None:
          splits[place] = mask_files.images_alone(source, self.pattern, self.below, left)
        else:
          splits[place] = _of_folder(source, key, left)
        keys[place] = key
    self._check_labels(splits, keys)
    called = names.classes(
      label for pairs in splits.values() for _, labels in pairs for label in labels
    )
    pairs = {
      place: [(file, tuple(dict.fromkeys(map(called.get, labels)))) for file, labels in images]
      for place, images in splits.items()
    }
    doubts = [text for text in (self.remarks.get("labels"), names.doubts(called)) if text]
    remarks = self.remarks | left.remarks() | ({"labels": "; ".join(doubts)} if doubts else {})
    return pairs, tuple(dict.fromkeys(called.values())), remarks

  def _check_labels(self, splits: Mapping[str, Pairs], keys: Mapping[str, str]) -> None:
    """Raises UserError if one split is a folder of images and another one has classes."""
    flat = [place for place, images in splits.items() if not any(labels for _, labels in images)]
    if 0 < len(flat) < len(splits) and isinstance(path := self.own[flat[0]], str):
      raise UserError(
        f"{path} has images, but no folders of classes: a split takes "
        f"{os.path.join(path, '<class>', 'a.jpg')}, or a CSV or JSONL file of paths and labels"
        + (f"; or {_hold_out(keys[flat[0]])}" if keys[flat[0]] != "train" else "")
      )


def _look(
  path: str | None, group: str | None = None, pattern: str | None = None, *, grouped: bool = True
) -> _Contents:
  root = _existing(path)
  if os.path.isdir(root):
    splits = walk.split_folders(root)
    left = walk.loose(root) if splits else Leftovers()
    return _Contents(root, splits or {"": root}, walk.beside(root, splits), left, pattern=pattern)
  if root.lower().endswith(tables.ENDINGS):
    table = tables.read(root, group, grouped=grouped)
    if pattern and table.masks:
      raise UserError(f"data.masks={pattern!r}: {path} has a column of masks; leave it at None")
    return _Contents(
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
      table.boxes,
    )
  raise UserError(f"data.path {path!r} is neither a folder nor a .csv or .jsonl file")


@functools.lru_cache(maxsize=1)
def _listing(
  path: str | None,
  named: tuple[tuple[str, str], ...],
  group: str | None = None,
  masks: str | None = None,
) -> Listing:
  """Reads the splits that a config names; `named` are its pairs (key, split)."""
  looked = _look(path, group, masks)
  if looked.folds and "test" in dict(named):
    raise UserError(
      f"{path}: {looked.folds}, which are no names of splits: write train and test there; or "
      f"{_hold_out('test')}, whatever the fold"
    )
  places = _places(path, looked.own, dict(named))
  pairs, ordered, remarks = looked.read(places.items())
  train = places["train"]
  labels = {
    place: {label for _, of_image in images for label in of_image}
    for place, images in pairs.items()
  }
  known = _known(path, labels, train)
  numbers, boxes = looked.of_boxes(path, pairs, train, remarks)
  unlabelled = not known and (looked.pattern or not looked.labelled or _is_flat(looked, pairs))
  if len(known) < 2 and boxes is not None:  # of boxes, which may be of one class
    known, unlabelled = set(), True
  if len(known) < 2 and not unlabelled:
    raise _too_few(path, known)
  classes = tuple(label for label in ordered if label in known)
  multi_label = any(len(labels) != 1 for images in pairs.values() for _, labels in images)
  files = {
    place: looked.files(images, classes, numbers, several=multi_label)
    for place, images in pairs.items()
  }
  if group:
    group_ids, remarks["groups"] = groups.of_files(group, files[train], looked.groups)
    files[train] = dataclasses.replace(files[train], groups=group_ids)
  own_names = {name: places[key] for key, name in named}
  unused = tuple(sorted({*looked.own} - {*own_names.values()}))
  by_name = {name: files[place] for name, place in own_names.items()}
  return Listing(by_name, classes, own_names, unused, remarks, boxes)


def _known(path: str, labels: Mapping[str, set[str]], train: str) -> set[str]:
  """Returns the labels of the split `train`; UserError if another one has more."""
  for place, of_split in labels.items():
    if odd := sorted(of_split - labels[train]):
      raise UserError(
        f"{path}: {place!r} has classes that {train!r} lacks, so that they cannot be learnt: "
        f"{listed(odd)}; add images of them to {train!r}, or take those in {place!r} out"
      )
  return labels[train]


def _too_few(path: str, known: set[str]) -> UserError:
  if not known:
    return UserError(f"{path}: no training image has a label")
  inner = os.path.join(to_path(path), *known)  # as where an archive was unpacked
  unpacked = os.path.isdir(inner) and walk.subfolders(inner)
  hint = f"; did you mean data.path={quoted(inner)}?" if unpacked else ""
  return UserError(
    f"{path} has one class only, {next(iter(known))!r}; training takes two or more{hint}"
  )


def _existing(path: str | None) -> str:
  """Returns the path with the home folder for `~`; UserError unless it exists."""
  if not path:
    raise UserError("data.source=folder needs data.path, a folder of images or a CSV or JSONL file")
  root = str(to_path(path))
  try:
    os.stat(root)
  except (FileNotFoundError, NotADirectoryError):
    above = pathlib.Path(root).absolute()
    while not os.path.exists(above):
      name, above = above.name, above.parent
    entries = os.listdir(above) if above.is_dir() and os.access(above, os.R_OK) else []
    near = difflib.get_close_matches(name, {*entries} - {name}, n=1)
    hint = f" Did you mean {str(above / near[0])!r}?" if near else ""
    raise UserError(f"data.path {path!r}: there is no {name!r} in {above}.{hint}") from None
  except (OSError, ValueError) as e:
    raise UserError(f"data.path {path!r} cannot be read: {getattr(e, 'strerror', e)}") from e
  return root


def _places(path: str, own: Mapping[str, Any], named: dict[str, str]) -> dict[str, str]:
  """Returns the key in `own` of each split that the config names."""
  if "" in own:
    for key, name in named.items():
      if name != key or key == "validation":
        raise UserError(
          f"data.{key}={name!r}: there are no splits in {path}; "
          + ("leave it at 'train'" if key == "train" else _hold_out(key))
        )
    return dict.fromkeys(named, "")
  places = {key: _find(path, own, name, key) for key, name in named.items()}
  for (first, a), (second, b) in itertools.combinations(places.items(), 2):
    if a == b:
      raise UserError(
        f"{path}: data.{first}={named[first]!r} and data.{second}={named[second]!r} are both its "
        f"split {a!r}, and no image may serve two of train, validation and test; "
        f"{_hold_out(second)}"
      )
  return places


def _find(path: str, own: Mapping[str, Any], name: str, key: str) -> str:
  by_name = {place.lower(): place for place in own}
  # Without a test split, as in ImageNet's layout, validation serves as test.
  kinds = (split_of(name), *(["validation"] if name == "test" else []))
  aliases = [alias for kind in kinds if kind for alias in ALIASES[kind]]
  alike = [place for kind in kinds if kind for place in sorted(by_name) if split_of(place) == kind]
  for alias in (name.lower(), *aliases, *alike):
    if alias in by_name:
      return by_name[alias]
  error = unknown(f"split of {path} in data.{key}", name, own)
  raise error if key == "train" else UserError(f"{error}; or {_hold_out(key)}")


def _hold_out(key: str) -> str:
  return f"hold out a share, as --config.data.{key}=0.1"


def _labels(pairs: Pairs, classes: tuple[str, ...], several: bool) -> np.ndarray:
  """Returns labels [n] int32, or with `several` an image [n, num_classes] uint8."""
  place = {name: i for i, name in enumerate(classes)}
  if not several:
    return np.array([place[name] for _, (name,) in pairs], np.int32)
  labels = np.zeros((len(pairs), len(classes)), np.uint8)
  for row, (_, of_image) in zip(labels, pairs, strict=True):
    row[[place[name] for name in of_image]] = 1
  return labels


def _of_folder(path: str, key: str, left: Leftovers) -> Pairs:
  """Returns the images of a split with their classes; `left` counts files that are not read."""
  here, by_class, empty = walk.loose(path), {}, []
  flat = bool(here.outside)
  for name, folder in walk.subfolders(path).items():
    inside, name = Leftovers(), walk.printable(name)
    real = os.path.join(os.path.realpath(folder), "")
    by_class[name] = list(walk.image_files(folder, inside, real))
    if not by_class[name]:
      empty.append(f"{name} ({inside.photos()})" if inside.photos() else name)
    here.add(inside)
  if not any(by_class.values()) and flat:  # images without labels
    here.outside.clear()
    left.add(here)
    files = [entry for entry, folder in walk.entries(path) if not folder]
    return [(entry.path, ()) for entry in files if walk.is_image(entry.name)]
  if not any(by_class.values()):
    photos = f", but {here.photos()}" if here.photos() else ""
    raise UserError(
      f"{path} has no images{photos}: data.path "
      f"takes {os.path.join(path, '<class>', 'a.jpg')}, or a CSV or JSONL file of paths and labels"
      + (f"; or {_hold_out(key)}" if key != "train" else "")
    )
  if empty:
    raise UserError(f"{path}: no image in the folder of {listed(empty)}; fill it or delete it")
  left.add(here)
  return [(file, (name,)) for name, files in by_class.items() for file in files]


def _is_flat(looked: "_Contents", pairs: Mapping[str, Pairs]) -> bool:
  """Returns whether no split of a folder has folders of classes."""
  folder = not any(isinstance(images, list) for images in looked.own.values())
  return folder and not any(labels for images in pairs.values() for _, labels in images)
