"""Reads the boxes of lists: a column with all boxes of an image, or a line for each box.

The column `boxes` has [[ymin, xmin, ymax, xmax], ...], in CSV as text; `boxes_label` has the class
of each box, in CSV with ";" between them. Without it, the labels of an image are those of its
boxes, if there are as many in every line.

A list with the columns ymin, xmin, ymax and xmax has a line for each box, with its class in the
column of labels. A line without these numbers names an image without boxes.

Boxes are shares of the height and width of the image, from 0 to 1; or pixels, where the columns
`height` and `width` give the size of the image.
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data.names import MISSING, labels_in, number_in
from cnnjax.errors import UserError, number

# The names that people give to columns, as in `tables.KEYS`.
BOXES = ("boxes", "bboxes")
LABELS = ("boxes_label", "boxes_labels", "box_label", "box_labels", "boxes_class", "box_class")
SIDES = (("ymin", "y_min"), ("xmin", "x_min"), ("ymax", "y_max"), ("xmax", "x_max"))
SIZE = ("height", "width")
ALONE = "0"  # the class of all boxes, where the list names none
Row = Mapping[str, Any]  # a line: its values by column


@dataclasses.dataclass(frozen=True)
class Boxes:
  """The boxes of an image."""

  sides: np.ndarray  # [k, 4] float32, as of `fields`
  labels: tuple[str, ...]  # of each box, as the list spells them


class _Box(NamedTuple):
  """A box in a line of the list, as written."""

  line: int
  sides: tuple[float, ...]
  size: tuple[float | None, ...]  # height and width of its image; () if the list has no sizes
  label: str


class Lines:
  """Collects the lines of a list whose columns may have boxes."""

  def __init__(self, path: str, columns: Collection[str], label: str | None):
    """Looks for boxes among the `columns`, of which `label` has the labels of images."""
    first_of = lambda spellings: next((name for name in spellings if name in columns), None)
    self._path, self._column, self._label = path, first_of(BOXES), first_of(LABELS)
    self._of_images = label
    sides = tuple(map(first_of, SIDES))
    self._sides = () if self._column or None in sides else sides
    self._size = SIZE if {*SIZE} <= {*columns} else ()
    self._rows: dict[str, list[tuple[int, Row]]] = {}  # by file

  @property
  def each(self) -> bool:
    """True if the list has a line for each box, so that an image may have more than one."""
    return bool(self._sides)

  @property
  def there(self) -> bool:
    """True if the list has a column of boxes, or the columns of their sides."""
    return self._column is not None or self.each

  @property
  def columns(self) -> set[str | None]:
    """The columns that are read."""
    return {self._column, self._label, *self._sides, *self._size}

  def none_in(self, row: Row) -> bool:
    """Returns whether a line says that its image has no boxes."""
    if self._column:
      return _empty(row.get(self._column)) or row[self._column] in ([], "[]")
    return self.each and all(_empty(row.get(side)) for side in self._sides)

  def add(self, file: str, line: int, row: Row) -> None:
    """Adds a line of the image in `file`."""
    if self.there:
      self._rows.setdefault(file, []).append((line, row))

  def read(self) -> tuple[dict[str, Boxes] | None, str]:
    """Returns the boxes of each file, or None without boxes; and in words how they were read.

    Raises:
      UserError: a line is wrong. If the list has labels and one line for each image, its columns
        need not be meant as boxes: then only the words tell of the line.
    """
    if not self._rows:
      return None, ""
    try:
      return self._read()
    except UserError as e:
      if self.each and self._of_images and all(len(rows) == 1 for rows in self._rows.values()):
        return None, f"not used: {e}"
      raise

  def _read(self) -> tuple[dict[str, Boxes], str]:
    label = self._label or (self._of_images if self.each or self._as_many() else None)
    by_file = {
      file: [box for line, row in rows for box in self._of_line(line, row, label)]
      for file, rows in self._rows.items()
    }
    every = [box for boxes in by_file.values() for box in boxes]
    if not every:
      raise UserError(f"{self._path} has columns of boxes, and no line with a box")
    pixels = next((box for box in every if self._size and max(box.sides) > 1), None)
    words = ["pixels, divided by the columns height and width"] if pixels else []
    words += [] if label else ["all of one class, as there is no column boxes_label"]
    if none := sum(not boxes for boxes in by_file.values()):
      words.append(f"{number(none, 'image')} of {len(by_file):,} without any")
    boxes_of = {}
    for file, boxes in by_file.items():
      sides = np.array([self._shares(box, pixels) for box in boxes], np.float32).reshape(-1, 4)
      boxes_of[file] = Boxes(sides, tuple(box.label for box in boxes))
    return boxes_of, "; ".join(words)

  def _as_many(self) -> bool:
    """Returns whether every line of an image has as many labels of images as boxes."""
    number_of = lambda line, row: len(self._in_cell(line, row[self._column]))
    return self._of_images is not None and all(
      self.none_in(row) or len(self._labels(line, row, self._of_images)) == number_of(line, row)
      for ((line, row),) in self._rows.values()
    )

  def _of_line(self, line: int, row: Row, label: str | None) -> list[_Box]:
    """Returns the boxes of a line, whose classes are in the column `label`."""
    if self.none_in(row):
      return []
    boxes = self._in_cell(line, row[self._column]) if self._column else [self._in_cells(line, row)]
    labels = self._labels(line, row, label) if label else [ALONE] * len(boxes)
    if len(labels) != len(boxes):
      raise self._wrong(
        line,
        f"the number of boxes is {len(boxes)}, and that of labels in the column {label!r} "
        f"{len(labels)}: give one to each box, in CSV with ';' between them, in JSONL as a list",
      )
    size = tuple(number_in(row.get(side)) for side in self._size)
    return [_Box(line, sides, size, text) for sides, text in zip(boxes, labels, strict=True)]

  def _in_cell(self, line: int, cell: Any) -> list[tuple[float, ...]]:
    """Returns the boxes in a cell of the column of boxes."""
    try:
      boxes = json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
      boxes = None
    boxes = boxes if isinstance(boxes, list) else [None]
    sides = [tuple(map(number_in, box)) if isinstance(box, list) else () for box in boxes]
    if any(len(box) != 4 or None in box for box in sides):
      text = repr(cell)[:200]
      raise self._wrong(line, f"boxes are [[ymin, xmin, ymax, xmax], ...] of numbers, not {text}")
    return sides

  def _in_cells(self, line: int, row: Row) -> tuple[float, ...]:
    """Returns the box of a line by the columns of its sides."""
    sides = tuple(number_in(row.get(side)) for side in self._sides)
    if None in sides:
      cells = ", ".join(f"{side}={row.get(side)!r}" for side in self._sides)
      raise self._wrong(line, f"the sides of a box are four numbers, or none, not {cells[:200]}")
    return sides

  def _labels(self, line: int, row: Row, column: str) -> list[str]:
    """Returns the labels in a cell."""
    cell, csv = row.get(column), self._path.lower().endswith(".csv")
    labels = [] if _empty(cell) else labels_in(cell, csv=csv)
    # In CSV, a list and the texts that programs write for a missing label are no labels.
    odd = csv and bool(labels) and (bool({*labels} & MISSING) or cell.startswith("["))
    if odd or not all(labels):
      raise self._wrong(
        line,
        f"the labels of boxes in the column {column!r} are names, in CSV with ';' between them as "
        f"in cat;dog, in JSONL a list, not {repr(cell)[:200]}",
      )
    return labels

  def _shares(self, box: _Box, pixels: _Box | None) -> tuple[float, ...]:
    """Returns the sides of a box as shares of its image; `pixels` is a box in pixels, or None."""
    sides, of = box.sides, "from 0 to 1, shares of the height and width of the image"
    if pixels:
      if None in box.size or min(box.size) <= 0:
        raise self._wrong(box.line, f"height and width are above 0, not {self._sizes(box)}")
      if max(sides) <= 1:
        raise self._wrong(
          box.line,
          f"the box {[*sides]} has shares of the image, and that of line {pixels.line} pixels: "
          "give all boxes of a list in one way",
        )
      sides = tuple(side / length for side, length in zip(sides, box.size * 2, strict=True))
      of = f"pixels within the image, which has {self._sizes(box)}"
    if min(sides) < 0 or max(sides) > 1:
      mend = "" if pixels else ": divide pixels by these, or add columns height and width"
      raise self._wrong(
        box.line, f"the box {[*box.sides]} is not ymin, xmin, ymax, xmax {of}{mend}"
      )
    top, left, bottom, right = np.array(sides, np.float32)
    if not (top < bottom and left < right):
      raise self._wrong(
        box.line,
        f"the box {[*box.sides]} has no area: it is ymin, xmin, ymax, xmax, the larger ones last",
      )
    return sides

  def _sizes(self, box: _Box) -> str:
    return " and ".join(f"{name}={size}" for name, size in zip(SIZE, box.size, strict=True))

  def _wrong(self, line: int, words: str) -> UserError:
    return UserError(f"{self._path}, line {line}: {words}")


def _empty(cell: Any) -> bool:
  return cell is None or cell == ""


def largest(boxes: Iterable[Boxes]) -> int:
  """Returns the largest number of boxes that an image has."""
  return max(len(of_image.labels) for of_image in boxes)
