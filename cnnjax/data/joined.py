"""Joins splits into one with the class numbers of a run, to evaluate them together."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from cnnjax.data import fields, identity, names
from cnnjax.data.split import Example, Label, Split
from cnnjax.errors import UserError, listed


@dataclasses.dataclass(frozen=True)
class Joined:
  """The records of `parts`, one after the other; their class c is `numbers[c]` of `num_classes`.

  `num_classes` is 0 where an image has one label.
  """

  parts: tuple[Split, ...]
  numbers: np.ndarray
  num_classes: int
  groups = None

  def __len__(self) -> int:
    return sum(map(len, self.parts))

  def _find(self, i: int) -> tuple[Split, int]:
    for part in self.parts:
      if i < len(part):
        return part, i
      i -= len(part)
    raise IndexError(i)

  def __getitem__(self, i: int) -> Example:
    part, at = self._find(i)
    example = part[at]
    return example | ({"label": self._label(example["label"])} if "label" in example else {})

  def _label(self, label: Label) -> Label:
    if not self.num_classes:
      return self.numbers[label]
    present = self.numbers[np.flatnonzero(label) if np.ndim(label) else [label]]
    return np.isin(np.arange(self.num_classes), present).astype(np.uint8)

  def name(self, i: int) -> str:
    part, at = self._find(i)
    return part.name(at)

  @functools.cached_property
  def labels(self) -> np.ndarray | None:
    if self.parts[0].label is None:
      return None
    labels = np.stack([self._label(label) for part in self.parts for label in part.labels])
    return labels.astype(np.uint8 if self.num_classes else np.int32)

  @functools.cached_property
  def contents(self) -> np.ndarray:
    return np.concatenate([part.ids(identity.CONTENT) for part in self.parts])

  @functools.cached_property
  def places(self) -> np.ndarray:
    return np.concatenate([part.ids(identity.PLACE) for part in self.parts])

  @property
  def large(self) -> bool:
    return any(part.records.large for part in self.parts)


def join(parts: Sequence[Split], classes: Sequence[str], *, several: bool) -> Split:
  """Returns all examples of `parts`, with the class numbers of a run on `classes`.

  Args:
    parts: splits of the same classes; some may lack examples of a class.
    classes: of the run.
    several: an image of the run may have more than one label.

  Raises:
    UserError: the run lacks a class, or an image has more labels than the one that a run knows.
  """
  first = parts[0]
  numbers = {names.same(name): i for i, name in enumerate(classes)}
  if odd := [name for name in first.classes if names.same(name) not in numbers]:
    raise UserError(
      f"these data have classes that the run was not trained on: {listed(odd)}. It knows "
      f"{listed(classes)}; rename them, or take their images out"
    )
  label = first.label
  if label is not None and label.kind == "multi_label" and not several:
    raise UserError(
      "an image of these data may have several labels, and the run knows one for each image"
    )
  class_numbers = np.array([numbers[names.same(name)] for name in first.classes], np.int32)
  placed = fields.of_kind(first.fields, "mask", "boxes")
  if placed and [*class_numbers] != [*range(len(classes))]:
    raise UserError(
      f"the {' and '.join(placed)} of these data have other classes than the run, or the same in "
      f"another order: {listed(first.classes)}, and the run has {listed(classes)}"
    )
  declared = dict(first.fields)
  if label is not None:
    declared["label"] = fields.multi_label(classes) if several else fields.label(classes)
  records = Joined(tuple(parts), class_numbers, len(classes) if several else 0)
  return Split.of_fields(records, declared, remarks=first.remarks)
