"""Reads lists of images: CSV or JSONL files of paths, labels and, in some lists, splits.

Other columns have masks, values and boxes, see `box_lists`.

Paths start at the folder of the list and may lead out of it: files there are decoded as images, and
nothing else is done with them. A line of CSV may have more labels, with ";" between them; JSONL a
list, which may be empty. Words that programs write for a missing label are refused in CSV; in
JSONL, where null means none, any text is a name.

The split is in a column whose values are all names of splits, or in columns of true and false, see
`FLAGS`. A column named split or subset may have other names, which the config then uses. Folds of a
cross-validation do not say which lines are for training.
"""

import csv
import dataclasses
import io
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cnnjax.data import box_lists
from cnnjax.data.box_lists import Boxes
from cnnjax.data.names import MISSING, labels_in, number_in, same_split, split_of
from cnnjax.errors import UserError, listed, unknown

ENDINGS = (".csv", ".jsonl")
# The names that people give to columns, in any case, with "_", "-" or a space between words.
KEYS = {
  "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
  "label": ("label", "labels", "class", "category"),
  "split": ("split", "subset"),
  "mask": ("mask", "mask_path"),
  "value": ("value", "values"),
}
# Columns of splits by their names, if "train" is among their values; and of folds.
_SPLITS = (*KEYS["split"], "splits", "set", "data_split", "partition", "usage", "phase")
_FOLDS = ("fold", "folds", "kfold", "k_fold", "cv_fold")
# The split of a line where the column is true; is_valid is fastai's. A column `valid` without the
# others may mean that the image is valid.
FLAGS = {
  **dict.fromkeys(("is_train", "is_training", "is_training_image", "train", "training"), "train"),
  **dict.fromkeys(("is_valid", "is_val", "is_validation", "val", "validation"), "validation"),
  **dict.fromkeys(("is_test", "is_testing", "test", "testing"), "test"),
  "valid": "validation",
}
_TRUE, _FALSE = ("true", "1", "yes", "t", "y", "1.0"), ("false", "0", "no", "f", "n", "0.0")
_MOST = 100  # values of a column that are kept; there are fewer splits or folds
Pairs = list[tuple[str, tuple[str, ...]]]  # (file, its labels)
Rows = list[tuple[int, dict[str, Any]]]  # (line, its values by column)


@dataclasses.dataclass(frozen=True)
class Table:
  """The contents of a list."""

  splits: dict[str, Pairs]  # by the names in it, in lower case; of "" where there are no splits
  remarks: dict[str, str]  # on how it was read, for people
  folds: str = ""  # of a cross-validation, in words, if no column has splits
  groups: dict[str, str] | None = None  # of files, by the column that was asked for
  labelled: bool = True  # there is a column of labels
  masks: dict[str, str] | None = None  # the file of the mask of each file
  values: dict[str, tuple[float, ...]] | None = None  # of files
  boxes: dict[str, Boxes] | None = None  # of files


@dataclasses.dataclass
class _Entry:
  """An image of a list, as its first line has it."""

  line: int
  file: str
  labels: tuple[str, ...]
  split: str
  group: str

  def join(self, path: str, other: "_Entry") -> None:
    """Adds another line of the same image, which has another box."""
    for key in ("split", "group"):
      if getattr(self, key) != getattr(other, key):
        raise UserError(
          f"{path}, line {other.line}: {self.file} is of the {key} {getattr(other, key)!r}, and in "
          f"line {self.line} of {getattr(self, key)!r}: give all lines of an image the same"
        )
    self.labels = tuple(dict.fromkeys(self.labels + other.labels))


def read(path: str, group: str | None = None, *, grouped: bool = True) -> Table:
  """Reads the images of each split and, with `group`, the group of each.

  Args:
    path: of the list.
    group: `data.group`, a column or a pattern of paths.
    grouped: if false, there are no groups where `group` is no column.

  Raises:
    UserError: a line is wrong, a file is missing, or the splits are ambiguous.
  """
  data = _text(path)
  rows = lambda: (_csv if path.lower().endswith(".csv") else _jsonl)(path, data)
  columns = _columns(rows())
  by = _split_columns(path, columns)
  group_column = _group_column(path, group, columns, needed=grouped)
  column_of = _columns_of_fields(columns)
  boxes = box_lists.Lines(path, columns, column_of["label"])
  images: dict[str, _Entry] = {}  # by path without "./" and the like
  spelled: dict[str, dict[str, None]] = {}  # the names of a split
  masks: dict[str, str] = {}
  values: dict[str, tuple[float, ...]] = {}
  missing, used = [], {*by, group_column, column_of["mask"], column_of["value"]}
  for line, row in rows():
    keys = [next((name for name in KEYS[key] if name in row), None) for key in ("path", "label")]
    used |= {*keys}
    labelled = bool(column_of["label"]) and not (boxes.none_in(row) and not row.get(keys[1]))
    file, labels = _image(path, line, row, *map(row.get, keys), labelled=labelled)
    split = _split(path, line, row, by, columns)
    spellings = spelled.setdefault(same_split(split), {})
    spellings[split] = None
    entry = _Entry(line, file, labels, next(iter(spellings)), _filled(row.get(group_column)))
    first = images.setdefault(os.path.normpath(file), entry)
    boxes.add(first.file, line, row)
    if first is not entry:
      if not boxes.each:
        raise UserError(
          f"{path}, line {line}: {row[keys[0]]} is in line {first.line} already; an image has one "
          "line: write all of its labels there, with ';' between them (JSONL: a list)"
        )
      first.join(path, entry)
      continue
    missing += [] if os.path.isfile(file) else [f"{file} (line {line})"]
    if column_of["mask"]:
      masks[file] = _mask(path, line, row, column_of["mask"])
      missing += [] if os.path.isfile(masks[file]) else [f"{masks[file]} (line {line})"]
    if column_of["value"]:
      values[file] = _values(path, line, row, column_of["value"], values)
    if "" in spelled and len(spelled) > 1:
      raise UserError(
        f"{path}, line {line}: some lines have a split and others have none; give one to all"
      )
  if missing:
    raise _not_there(path, missing, len(images) + len(masks))
  if not images:
    raise UserError(f"{path} names no images: it has no lines with a path and a label")
  splits: dict[str, Pairs] = {}
  for image in images.values():
    splits.setdefault(image.split, []).append((image.file, image.labels))
  of_boxes, words = boxes.read()
  used |= boxes.columns if of_boxes else set()
  unused = [repr(name) for name in columns if name not in used]
  remarks = {"splits": _of_splits(by, spelled.values()), "boxes": words}
  remarks["not used"] = f"columns {listed(unused)}" if unused else ""
  return Table(
    splits,
    {key: text for key, text in remarks.items() if text},
    "" if by else _folds(columns),
    {image.file: image.group for image in images.values()} if group_column else None,
    bool(column_of["label"]),
    masks or None,
    values or None,
    of_boxes,
  )


def _not_there(path: str, missing: Sequence[str], number: int) -> UserError:
  """Returns the error for the `missing` ones among `number` files."""
  windows = os.sep == "/" and os.path.isfile(missing[0].rsplit(" (", 1)[0].replace("\\", "/"))
  return UserError(
    f"{path}: {len(missing):,} of {number:,} files are not there: {listed(missing)}; paths "
    f"start at the folder of the table{', and have / between folders' if windows else ''}"
  )


def _columns_of_fields(columns: dict[str, set[str]]) -> dict[str, str | None]:
  """Returns the column for each of KEYS; the one of values only if they are numbers."""
  column_of = {key: next((name for name in KEYS[key] if name in columns), None) for key in KEYS}
  as_cell = lambda word: word.strip("[]").replace(",", ";")  # of a list in JSONL
  value = column_of["value"]
  if value and not all(_numbers(as_cell(word)) for word in columns[value]):
    column_of["value"] = None
  return column_of


def _mask(path: str, line: int, row: dict[str, Any], column: str) -> str:
  """Returns the file of the mask of a line."""
  if not isinstance(name := row.get(column), str) or not name:
    raise UserError(f"{path}, line {line}: no mask in {str(row)[:200]}")
  return os.path.join(os.path.dirname(path), name)


def _values(
  path: str, line: int, row: dict[str, Any], column: str, others: dict[str, tuple[float, ...]]
) -> tuple[float, ...]:
  """Returns the values of a line, as many as those of the lines before."""
  if not (numbers := _numbers(row.get(column))):
    raise UserError(f"{path}, line {line}: no value in {str(row)[:200]}")
  if others and len(numbers) != len(first := next(iter(others.values()))):
    raise UserError(
      f"{path}, line {line}: {len(numbers)} values, and the first image has {len(first)}"
    )
  return numbers


def _numbers(cell: Any) -> tuple[float, ...]:
  """Returns the numbers in a cell, separated by ";" or in a list; () if any part is none."""
  try:
    parts = cell if isinstance(cell, list) else str(cell).split(";")
  except ValueError:  # a number of thousands of digits
    return ()
  numbers = tuple(number_in(part) for part in parts if not isinstance(part, bool))
  return () if None in numbers else numbers


def _of_splits(by: Sequence[str], spelled: Iterable[Iterable[str]]) -> str:
  """Returns in words the columns of the splits, and the names that mean the same split."""
  words = [f"{_quoted(names)} are one split" for names in map(list, spelled) if len(names) > 1]
  if not {*by} <= {*KEYS["split"]}:
    words.insert(0, f"by the column{'s' * (len(by) > 1)} {_quoted(by)}")
  return "; ".join(words)


def _quoted(names: Iterable[str]) -> str:
  return " and ".join(map(repr, names))


def _image(
  path: str, line: int, row: dict[str, Any], name: Any, label: Any, *, labelled: bool
) -> tuple[str, tuple[str, ...]]:
  """Returns (file, labels) of a line; no labels if no line is `labelled`."""
  if not labelled:
    if not name or not isinstance(name, str):
      raise UserError(f"{path}, line {line}: no path in {str(row)[:200]}")
    return os.path.join(os.path.dirname(path), name), ()
  labels = labels_in(label, csv=(csv_file := path.lower().endswith(".csv")))
  if csv_file and (none := next((name for name in labels if name in MISSING), None)):
    raise UserError(
      f"{path}, line {line}: the label {none!r} is how programs write a missing one; delete the "
      "line, or give the class another name (a list in JSONL may keep it)"
    )
  if not name or not isinstance(name, str) or not all(labels):
    what = "label" if name and isinstance(name, str) else "path"
    raise UserError(f"{path}, line {line}: no {what} in {str(row)[:200]}")
  return os.path.join(os.path.dirname(path), name), tuple(dict.fromkeys(labels))


def _columns(rows: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, set[str]]:
  """Returns the values of each column in lower case, `_MOST` at most; "" for a missing one."""
  columns: dict[str, set[str]] = {}
  for row, (_, values) in enumerate(rows):
    for name in values:
      columns.setdefault(name, {""} if row else set())
    for name, words in columns.items():
      if len(words) <= _MOST:
        words.add(_word(values.get(name)))
  return columns


def _filled(value: Any) -> str:
  """Returns a cell as text; "" if it is empty."""
  text = "" if value is None else str(value).strip()
  return "" if text in MISSING else text


def _word(value: Any) -> str:
  return _filled(value).lower()


def _group_column(
  path: str, group: str | None, columns: Iterable[str], *, needed: bool
) -> str | None:
  """Returns the column that `group` names; None if it is a pattern of paths, or None."""
  if group is None or _column(group) in columns:
    return group and _column(group)
  if needed and re.fullmatch(r"[\w\s-]+", group):
    raise unknown(f"column of {path} in data.group", group, columns)
  return None


def _split_columns(path: str, columns: dict[str, set[str]]) -> list[str]:
  """Returns the column of the split, or the columns that mark splits by true and false."""
  others = [
    (name, values)
    for name, values in columns.items()
    if name not in (*KEYS["path"], *KEYS["label"], *KEYS["mask"], *box_lists.LABELS)
    and len(values) <= _MOST
  ]
  flags = [name for name, values in others if _is_flag(name, values)]
  flags = [] if flags == ["valid"] else flags
  named = [name for name, values in others if name not in flags and _says_split(name, values)]
  if len(named) + bool(flags) > 1:
    raise UserError(
      f"{path}: the columns {_quoted(named + flags)} each give the split of a line; keep one, and "
      "delete or rename the others"
    )
  return named or flags


def _is_flag(name: str, values: set[str]) -> bool:
  return name in FLAGS and set() < values - {""} <= {*_TRUE, *_FALSE}


def _says_split(name: str, values: set[str]) -> bool:
  filled = values - {""}
  if not filled:
    return False
  splits = {split_of(value) for value in filled}
  if name in KEYS["split"] or (name in (*_SPLITS, *_FOLDS) and splits & {"train"}):
    return True
  return None not in splits and (name in _SPLITS or ("" not in values and "train" in splits))


def _split(
  path: str, line: int, row: dict[str, Any], by: Sequence[str], columns: dict[str, set[str]]
) -> str:
  """Returns the split of a line by the columns `by`; "" if they are empty.

  Raises:
    UserError: the columns contradict each other, or leave the line without a split.
  """
  words = {name: _word(row.get(name)) for name in by}
  if not any(_is_flag(name, columns[name]) for name in by):
    return "".join(words.values())
  true, false = (
    {FLAGS[name] for name, word in words.items() if word in kind} for kind in (_TRUE, _FALSE)
  )
  if len(true) == 1 and not true & false:
    return true.pop()
  if not true and "" in words.values():
    return ""
  if not true and false == {"train"}:
    return "test"
  if true or "train" in false:
    said = ", ".join(f"{name}={word}" for name, word in words.items())
    wrong = "contradict each other" if true else "leave it without a split"
    raise UserError(f"{path}, line {line}: {said} {wrong}; mend the line, or delete a column")
  return "train"


def _folds(columns: dict[str, set[str]]) -> str:
  """Returns the column of folds and its values in words."""
  for name in (*_FOLDS, *_SPLITS):
    values = columns.get(name, set()) - {""}
    if 1 < len(values) <= _MOST and all(re.fullmatch(r"\d+(\.0)?", value) for value in values):
      return f"the column {name!r} has {listed(sorted(values, key=float))}"
  return ""


def _text(path: str) -> str:
  try:
    data = pathlib.Path(path).read_bytes()
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as e:
    line = data.count(b"\n", 0, e.start) + 1
    raise UserError(f"{path}, line {line}: this is not UTF-8; save the file as UTF-8") from e
  except OSError as e:
    raise UserError(f"{path} cannot be read: {e.strerror}") from e


def _column(name: str) -> str:
  """Returns a column's name as `KEYS` spells it."""
  return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _by_column(path: str, line: int, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
  """Returns the values of a line by column.

  Raises:
    UserError: two columns have the same name.
  """
  row: dict[str, Any] = {}
  for name, value in pairs:
    if (key := _column(name)) in row:
      raise UserError(f"{path}, line {line}: two columns are named {key!r}; rename or delete one")
    row[key] = value
  return row


def _csv(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
  rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
  header, line = [], 1
  try:
    for row in rows:
      cells = [cell.strip() for cell in row]
      if not header and any(cells):
        header = _header(path, line, cells)
      elif any(cells):
        if len(cells) != len(header):
          raise UserError(
            f"{path}, line {line}: {len(cells)} columns, and the first line has {len(header)}"
          )
        yield line, dict(zip(header, cells, strict=True))
      line = rows.line_num + 1
  except csv.Error as e:
    raise UserError(f"{path}, line {line}: {e}; look at its quotes") from e


def _header(path: str, line: int, cells: list[str]) -> list[str]:
  """Returns the names of the columns; a column without one is named by its place."""
  names = [cell or f"column {place}" for place, cell in enumerate(cells, 1)]
  columns = _by_column(path, line, zip(names, names, strict=True))
  known = {*KEYS["path"], *KEYS["mask"], *KEYS["value"], *_SPLITS, *_FOLDS, *FLAGS}
  boxes = box_lists.Lines(path, columns, None).there
  for key in ("path", *(["label"] if {*columns} - known and not boxes else [])):
    if not {*KEYS[key]} & {*columns}:
      whole = ", ".join(cells)
      signs = {";": "semicolons", "\t": "tabs", "|": "bars"}
      other = [
        word for sign, word in signs.items() if {*KEYS[key]} & {*map(_column, whole.split(sign))}
      ]
      raise UserError(
        f"{path}: the first line needs a column {key} (or {', '.join(KEYS[key][1:])}), with "
        f"commas between columns, and has {whole}"
        + (f": replace its {other[0]} with commas, in every line" if other else "")
      )
  return [*columns]


def _jsonl(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
  for line, row in enumerate(text.split("\n"), 1):
    if row.strip():
      try:
        pairs = json.loads(row, object_pairs_hook=tuple)  # a dict would lose one of equal names
      except (ValueError, RecursionError) as e:
        raise UserError(f"{path}, line {line}: not JSON: {getattr(e, 'msg', e)}") from e
      if not isinstance(pairs, tuple):
        raise UserError(f'{path}, line {line}: it should be like {{"path": "a.jpg", "label": "b"}}')
      yield line, _by_column(path, line, pairs)
