"""Holds out a part of a training split: the side of an example follows from the example alone.

With a share, adding, removing, renaming or relabelling an example moves no other one. A number of
examples, and the last example of a class, depend on the list: within a run its history keeps each
example on its side. Exact copies stay on one side, and so do the examples of a group. Examples
known by place (see `identity`) count as no copies, and a file with another name as another example.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import train_test_split

from cnnjax.data import identity, imbalance
from cnnjax.data.split import Split
from cnnjax.errors import UserError

NOTE = "held out of train"
OLDER = f"{NOTE} by the older rule of this run"
MOVES = "anew whenever files come or go"
NOTHING = np.zeros(0, np.uint64)


def carve(
  split: Split,
  amount: float | int,
  key: str,
  seed: int,
  by: str,
  never: np.ndarray = NOTHING,
  always: np.ndarray = NOTHING,
  *,
  older: bool = False,
) -> tuple[Split, Split]:
  """Splits off a share or a number of examples; returns (the rest, the held-out examples).

  Each example draws a number from its id, `key` and `seed`. A share holds out the examples whose
  number is below it, and at least the smallest one; a number of examples holds out the smallest
  ones. Classes have their shares but for chance; a class that would have no training example left
  keeps the last one, or its group.

  Args:
    split: the one to divide.
    amount: a share, or a number of examples: at most so many, as groups and copies stay together.
    key: "test" or "validation".
    seed: of the draw, `data.split_seed`.
    by: the kind of ids, see `identity`.
    never: ids that stay, with their group, as the run was trained on them.
    always: ids that are held out, as they were before in this run; a number of examples begins with
      them.
    older: keeps the rule of runs that began with an older version, which draws places in the list,
      stratified over the classes, and so moves with the list. Examples recorded since then stay.

  Raises:
    UserError: nothing can be held out, or nothing would be left.
  """
  refused = lambda why: UserError(
    f"data.{key} {amount!r} cannot be held out of {len(split)} training examples of "
    f"{len(split.classes)} classes{why}"
  )
  known = _known(split, by, never, always)
  if older:
    rows = _by_place(split, amount, seed, known, refused)
    note, remarks = OLDER if len(never) else f"{OLDER}, {MOVES}", split.remarks
  else:
    if amount >= len(split):
      raise refused(": nothing would be left to train on")
    names, units = _units(split, by)  # the units that stay together, and the unit of each example
    numbers = identity.drawn(names, key, seed)
    rows = _by_example(split, amount, numbers, units, known, refused)
    if not rows.any():
      raise refused(
        f": hold out more (--config.data.{key}=0.5) or set another data.split_seed: copies and "
        f"groups form {len(names):,} units, and each class needs one to train on"
      )
    lacking = split.has_label and imbalance.lacking(split.labels, split.labels[rows], split.classes)
    note = f"{NOTE}, by chance without {lacking}" if lacking else NOTE
    remarks = _remarks(split, by, len(split) - len(names))
  kept, held_out = (split.take(np.flatnonzero(chosen)) for chosen in (~rows, rows))
  return dataclasses.replace(kept, remarks=remarks), dataclasses.replace(held_out, note=note)


def _remarks(split: Split, by: str, copies: int) -> dict[str, str]:
  """Returns remarks on the rest of a split: on its `copies`, and on ids by place."""
  remarks = dict(split.remarks)
  if split.groups is None and copies:
    words = (
      f"{copies:,} images are copies of others, and on the same side as those"
      if copies > 1
      else "1 image is a copy of another, and on the same side as that"
    )
    remarks = {"copies": words, **remarks}
  if by == identity.PLACE:
    remarks["held out"] = (
      f"of more than {identity.LARGE / 2**30:.3g} GiB, examples are known by path and "
      "size, not by content: copies are not kept together, and a renamed file may change sides"
    )
  return remarks


def _by_example(
  split: Split,
  amount: float | int,
  numbers: np.ndarray,
  units: np.ndarray,
  known: tuple[np.ndarray, np.ndarray],
  refused: Callable[[str], UserError],
) -> np.ndarray:
  """Returns the rows that are held out, [n] bool, by the `numbers` of their units.

  `known` rows stay where they were.
  """
  trained, stays = known
  barred, fixed = (np.bincount(units, rows, len(numbers)) > 0 for rows in (trained, stays))
  if isinstance(amount, float):
    held = (numbers < amount * 2.0**64) | (numbers == numbers.min())
  else:
    order, held = np.lexsort((numbers, ~fixed)), np.zeros(len(numbers), bool)
    held[order] = np.cumsum((np.bincount(units) * ~barred)[order]) <= amount
  held = (held | fixed) & ~barred
  if split.has_label:
    _keep_classes(held, split, numbers, units, fixed)
  elif held.all():
    held[numbers.argmax()] = False
  rows = held[units] | stays
  if rows.all():
    raise refused(": the run held all of them out before, and nothing would be left to train on")
  return rows


def _keep_classes(
  held: np.ndarray, split: Split, numbers: np.ndarray, units: np.ndarray, fixed: np.ndarray
) -> None:
  """Takes out of `held` the last unit of a class that it has whole, unless it is `fixed`."""
  count = lambda rows: imbalance.counts(split.labels[rows], len(split.classes))
  for lost in np.flatnonzero((count(slice(None)) > 0) & (count(~held[units]) == 0)):
    labels = split.labels
    candidates = units[labels[:, lost] > 0 if labels.ndim == 2 else labels == lost]
    if len(candidates := candidates[~fixed[candidates]]):
      held[candidates[numbers[candidates].argmax()]] = False


def _by_place(
  split: Split,
  amount: float | int,
  seed: int,
  known: tuple[np.ndarray, np.ndarray],
  refused: Callable[[str], UserError],
) -> np.ndarray:
  """Returns the rows that the older rule holds out, [n] bool."""
  try:
    _, held = train_test_split(
      np.arange(len(split)),
      test_size=amount,
      stratify=split.labels if split.has_label and split.labels.ndim == 1 else None,
      random_state=seed,
    )
  except ValueError as e:
    raise refused(f", as this run did before: {e}; choose a new --workdir") from e
  trained, stays = known
  return np.isin(np.arange(len(split)), held) & ~trained | stays


def _known(
  split: Split, by: str, never: np.ndarray, always: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (the rows in `never`, the other rows in `always`), [n] bool each."""
  if not len(never) and not len(always):
    return (np.zeros(len(split), bool),) * 2
  ids = split.ids(by)
  trained = np.isin(ids, never)
  return trained, np.isin(ids, always) & ~trained


def _units(split: Split, by: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns (the id of each unit that stays together, the unit of each example).

  A unit is an image with its copies, or a group; groups that share an image are one.
  """
  ids, groups = split.ids(by), split.groups
  if groups is None:
    return np.unique(ids, return_inverse=True)
  names, group = np.unique(np.where(groups, groups, ids), return_inverse=True)
  _, image = np.unique(ids, return_inverse=True)
  size = len(names) + len(split)  # nodes: the groups, then the images
  edges = coo_array((np.ones(len(split), bool), (group, len(names) + image)), (size, size))
  units = connected_components(edges, directed=False)[1][: len(names)]
  _, units = np.unique(units, return_inverse=True)
  first = np.full(units.max() + 1, np.iinfo(np.uint64).max, np.uint64)
  np.minimum.at(first, units, names)
  return first, units[group]


def tail_by_place(labels: np.ndarray, seed: int) -> np.ndarray:
  """Returns [n] numbers like `identity.drawn`, for a long tail by the older rule."""
  rng, numbers = np.random.default_rng(seed), np.empty(len(labels), np.uint64)
  for label in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == label))
    numbers[members] = np.arange(len(members))
  return numbers
