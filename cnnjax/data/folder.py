"""Image files: a folder of class folders, or a CSV or JSONL file of paths and labels.

    PATH/train/<class>/*.jpg, PATH/val/..., PATH/test/...    splits
    PATH/<class>/*.jpg                                       no splits: a fifth is held out as test
    PATH.csv, PATH.jsonl                                     path, label and, if there is one, split

Images lie at any depth below the folder of their class; hidden files and files without the ending
of an image are not read. In a table, paths start at its folder. Labels in a CSV file may be
several, with ";" between them; in JSONL a list, which may be empty. The classes are those of the
training split, of which others may lack some. Without a test split the validation split is tested.
"""

import csv
import dataclasses
import difflib
import functools
import io
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data.images import IMAGE_ENDINGS
from cnnjax.data.split import Split, carve
from cnnjax.errors import UserError, unknown

# What people call their splits.
ALIASES = {
  "train": ("train", "training"),
  "validation": ("validation", "val", "valid", "dev"),
  "test": ("test", "testing", "eval"),
}
TEST_SHARE = 0.2  # held out where there are no splits
# And their columns, in any case.
KEYS = {
  "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
  "label": ("label", "labels", "class", "category"),
  "split": ("split", "subset"),
}
Pairs = list[tuple[str, tuple[str, ...]]]  # (file, its labels)


@dataclasses.dataclass(frozen=True)
class Files:
  """Records in files, with labels as in `Records`."""

  paths: tuple[str, ...]
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, i: int) -> tuple[bytes, np.ndarray]:
    try:
      return pathlib.Path(self.paths[i]).read_bytes(), self.labels[i]
    except OSError as e:  # as an image that cannot be decoded: skipped, counted and named
      return str(e).encode(), self.labels[i]

  def name(self, i: int) -> str:
    return _printable(self.paths[i])


@dataclasses.dataclass(frozen=True)
class Listing:
  """What the splits that a config names consist of."""

  files: dict[str, Files]  # by the names that the config has
  classes: tuple[str, ...]
  whole: bool  # there are no splits: each is all there is


def check(config: ConfigDict) -> None:
  """Raises UserError for a path that holds no images, or a split that is not there."""
  _listing.cache_clear()  # files may have come and gone since, as in a notebook
  listing = _listed(config)
  labels = listing.files[config.train].labels
  held = listing.whole or not all(isinstance(config[k] or "", str) for k in ("validation", "test"))
  if held and labels.ndim == 1:
    counts = np.bincount(labels, minlength=len(listing.classes))
    if single := [name for name, n in zip(listing.classes, counts, strict=True) if n == 1]:
      raise UserError(
        f"{config.path}: one image only of {_some(single)}, and a part of each class is to be held "
        "out; add images, or leave the class out"
      )


def load(config: ConfigDict, split: str) -> Split:
  listing = _listed(config)
  found = Split(listing.files[split], listing.classes, (None, None, config.channels or 3))
  if not listing.whole or not isinstance(config.test, str):
    return found
  kept, held = carve(found, TEST_SHARE, "test", config.split_seed)
  return held if split == config.test else kept


def split_folders(path: str) -> dict[str, str]:
  """The folders of the splits in `path`, by name; {} where those in it are of classes.

  A single folder `train` that has no folders is a class among others, as of trains and buses.
  """
  folders = _folders(path)
  names = {*itertools.chain(*ALIASES.values())}
  splits = {name: folder for name, folder in folders.items() if name.lower() in names}
  if len(splits) == 1 < len(folders) and not any(map(_folders, splits.values())):
    return {}
  return splits


def _listed(config: ConfigDict) -> Listing:
  keys = ("train", "validation", "test")
  return _listing(
    config.path, tuple((key, config[key]) for key in keys if isinstance(config[key], str))
  )


@functools.lru_cache(maxsize=1)
def _listing(path: str | None, named: tuple[tuple[str, str], ...]) -> Listing:
  """`named` are (key, split) of the config; other splits are not looked at."""
  root = _existing(path)
  if os.path.isdir(root):
    own = split_folders(root) or {"": root}
  elif root.lower().endswith((".csv", ".jsonl")):
    own = _of_table(root)
  else:
    raise UserError(f"data.path {path!r} is neither a folder nor a .csv or .jsonl file")
  places = _places(path, own, named)
  pairs = {
    key: found if isinstance(found := own[place], list) else _of_folder(found, key)
    for key, place in places.items()
  }
  known = {label for _, labels in pairs["train"] for label in labels}
  for key, found in pairs.items():
    if odd := sorted({label for _, labels in found for label in labels} - known):
      raise UserError(
        f"{path}: {places[key]} has classes that are not in {places['train']}: {_some(odd)}; add "
        "images of them there, or take them out here"
      )
  if len(known) < 2:
    raise UserError(
      f"{path} has {'one class only, ' + repr(*known) if known else 'no labels'}; at least two "
      "are needed to tell apart" + _hint(root)
    )
  classes = tuple(sorted(known, key=_numbers_first))
  several = any(len(labels) != 1 for found in pairs.values() for _, labels in found)
  files = {
    name: Files(tuple(file for file, _ in pairs[key]), _labels(pairs[key], classes, several))
    for key, name in named
  }
  return Listing(files, classes, whole="" in own)


def _existing(path: str | None) -> str:
  """The path with `~` filled in, which exists."""
  if not path:
    raise UserError("data.source=folder needs data.path, a folder of images or a CSV or JSONL file")
  root = os.path.expanduser(path)
  try:
    os.stat(root)
  except (FileNotFoundError, NotADirectoryError):
    above = pathlib.Path(root).absolute()
    while not os.path.exists(above):
      name, above = above.name, above.parent
    there = os.listdir(above) if above.is_dir() and os.access(above, os.R_OK) else []
    near = difflib.get_close_matches(name, there, n=1)
    hint = f" Did you mean {str(above / near[0])!r}?" if near else ""
    raise UserError(f"data.path {path!r}: there is no {name!r} in {above}.{hint}") from None
  except (OSError, ValueError) as e:
    raise UserError(f"data.path {path!r} cannot be read: {getattr(e, 'strerror', e)}") from e
  return root


def _places(
  path: str, own: Mapping[str, Any], named: tuple[tuple[str, str], ...]
) -> dict[str, str]:
  """The key in `own` of each split that the config names."""
  if "" in own:
    for key, name in named:
      if name != key or key == "validation":
        raise UserError(
          f"data.{key}={name!r}: there are no splits in {path}; "
          + ("leave it at 'train'" if key == "train" else _hold_out(key))
        )
    return {key: "" for key, _ in named}
  places = {key: _find(path, own, name, key) for key, name in named}
  for (one, a), (other, b) in itertools.combinations(places.items(), 2):
    if a == b:
      raise UserError(
        f"{path}: data.{one} and data.{other} are both {a!r}: examples that are trained on "
        f"cannot be evaluated on, nor those of the final test be used to choose; {_hold_out(other)}"
      )
  return places


def _find(path: str, own: Mapping[str, Any], name: str, key: str) -> str:
  there = {place.lower(): place for place in own}
  aliases = next((names for names in ALIASES.values() if name.lower() in names), ())
  # Where there is no test split, as in ImageNet's layout, it is that of validation.
  for alias in (name.lower(), *aliases, *(ALIASES["validation"] if name == "test" else ())):
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
  for row, (_, names) in zip(labels, pairs, strict=True):
    row[[place[name] for name in names]] = 1
  return labels


def _of_folder(path: str, key: str) -> Pairs:
  """The images of a split by class."""
  folders = _folders(path)
  found = {
    name: list(_images(folder, os.path.realpath(folder))) for name, folder in folders.items()
  }
  if not any(found.values()):
    other = "" if key == "train" else f", or {_hold_out(key)}"
    raise UserError(
      f"{path} has no folders of classes with images in them, {path}/<class>/*.jpg (or "
      f"{', '.join(IMAGE_ENDINGS)}); put images there, or name them and their labels in a CSV or "
      f"JSONL file{other}"
    )
  if empty := [name for name, files in found.items() if not files]:
    raise UserError(f"{path}: no image in the folder of {_some(empty)}; fill it or delete it")
  return [(file, (_printable(name),)) for name, files in found.items() for file in files]


def _entries(path: str) -> list[os.DirEntry]:
  """What is in a folder and not hidden, by name: in the same order on every machine."""
  try:
    with os.scandir(path) as entries:
      return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
  except OSError as e:
    raise UserError(f"the folder {path} cannot be read: {e.strerror}") from e


def _folders(path: str) -> dict[str, str]:
  return {entry.name: entry.path for entry in _entries(path) if entry.is_dir()}


def _images(folder: str, *real: str) -> Iterator[str]:
  """The image files at any depth; `real` are the places of the folders that led here."""
  for entry in _entries(folder):
    if not entry.is_dir():
      if entry.name.lower().endswith(IMAGE_ENDINGS):
        yield entry.path
      continue
    place = os.path.realpath(entry.path) if entry.is_symlink() else f"{real[-1]}/{entry.name}"
    if not any(f"{above}/".startswith(f"{place}/") for above in real):  # a link back up
      yield from _images(entry.path, *real, place)


def _of_table(path: str) -> dict[str, Pairs]:
  """The images of each split; of "" where there are no splits."""
  splits: dict[str, Pairs] = {}
  lines: dict[str, int] = {}  # by file
  missing = []
  for line, row in _rows(path):
    name, label, split = (next((row[k] for k in KEYS[key] if k in row), None) for key in KEYS)
    labels = label if isinstance(label, list) else [label]
    labels = [str(x).strip() if isinstance(x, str | int | float) else "" for x in labels]
    if not name or not isinstance(name, str) or not all(labels):
      what = "label" if name and isinstance(name, str) else "path"
      raise UserError(f"{path}, line {line}: no {what} in {str(row)[:200]}")
    file = os.path.join(os.path.dirname(path), name)
    if lines.setdefault(os.path.normpath(file), line) != line:
      raise UserError(
        f"{path}, line {line}: {name} is in line {lines[os.path.normpath(file)]} already; an image "
        "has one line, and several labels stand in it with ';' between (JSONL: a list)"
      )
    missing += [] if os.path.isfile(file) else [f"{file} (line {line})"]
    split = str(split or "").strip().lower()
    splits.setdefault(split, []).append((file, tuple(dict.fromkeys(labels))))
    if "" in splits and len(splits) > 1:
      raise UserError(
        f"{path}, line {line}: a split in some lines and none in others; give it to all"
      )
  if missing:
    raise UserError(
      f"{path}: {len(missing):,} of {len(lines):,} files are not there: {_some(missing)}; paths "
      "start at the folder of the table"
    )
  if not splits:
    raise UserError(f"{path} names no images: it has no lines with a path and a label")
  return splits


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  """(line, what is in it by column, in lower case), without blank lines."""
  try:
    data = pathlib.Path(path).read_bytes()
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as e:
    line = data.count(b"\n", 0, e.start) + 1
    raise UserError(f"{path}, line {line}: this is not UTF-8; save the file as UTF-8") from e
  except OSError as e:
    raise UserError(f"{path} cannot be read: {e.strerror}") from e
  return (_csv if path.lower().endswith(".csv") else _jsonl)(path, text)


def _csv(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
  rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
  header, line = [], 1
  try:
    for row in rows:
      cells = [cell.strip() for cell in row]
      if not header and any(cells):
        header = [cell.lower() for cell in cells]
        for key in ("path", "label"):
          if not {*KEYS[key]} & {*header}:
            raise UserError(
              f"{path}: the first line needs a column {key} (or {', '.join(KEYS[key][1:])}), with "
              f"commas between columns, and has {', '.join(cells)}"
            )
      elif any(cells):
        if len(cells) != len(header):
          raise UserError(
            f"{path}, line {line}: {len(cells)} columns, and the first line has {len(header)}"
          )
        values = dict(zip(header, cells, strict=True))
        label = next(key for key in KEYS["label"] if key in values)
        yield line, {**values, label: [name.strip() for name in values[label].split(";")]}
      line = rows.line_num + 1
  except csv.Error as e:
    raise UserError(f"{path}, line {line}: {e}; look at its quotes") from e


def _jsonl(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
  for line, row in enumerate(text.split("\n"), 1):
    if row.strip():
      try:
        values = json.loads(row)
      except (ValueError, RecursionError) as e:
        raise UserError(f"{path}, line {line}: not JSON: {getattr(e, 'msg', e)}") from e
      if not isinstance(values, dict):
        raise UserError(f'{path}, line {line}: it should be like {{"path": "a.jpg", "label": "b"}}')
      yield line, {key.lower(): value for key, value in values.items()}


def _printable(name: str) -> str:
  """A file name, which may be in no encoding, as text."""
  return os.fsencode(name).decode(errors="backslashreplace")


def _numbers_first(name: str) -> tuple:
  """Classes 0, 1, 2, ..., 10 in the order of numbers, others in that of the alphabet."""
  return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _some(names: list[str]) -> str:
  return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
