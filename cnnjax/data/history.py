"""Records which examples a run was trained on, so that none is evaluated on later."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cnnjax.data.holdout import NOTHING
from cnnjax.data.split import Split
from cnnjax.errors import UserError, listed


@dataclasses.dataclass(frozen=True)
class History:
  """The examples that a run was trained and evaluated on, and how these were drawn.

  A run of an older version kept no such record: then `by` is "" and `ids` are empty.
  """

  by: str  # the kind of ids, see `identity`
  older: bool  # held-out examples were drawn by the older rule of `holdout.carve`
  ids: np.ndarray  # uint64, sorted
  shared: np.ndarray  # the ids that its other splits had from the start
  held: Mapping[str, np.ndarray]  # sorted ids of its other splits, by name

  def sides(self, key: str, carved: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ids never held out for `key`, ids always held out), so that none changes sides.

    `carved` are the splits that are held out of the training split.
    """
    held = {name: self.held.get(name, NOTHING) for name in carved}
    return np.concatenate([self.ids, *(held[name] for name in held if name != key)]), held[key]

  def as_json(self) -> dict[str, Any]:
    """Returns the history as JSON."""
    text = lambda ids: ids.astype("<u8").tobytes().hex()
    return {
      "by": self.by,
      "older": self.older,
      "ids": text(self.ids),
      "shared": text(self.shared),
      "held": {name: text(ids) for name, ids in self.held.items()},
    }

  def share(self, split: Split) -> float:
    """Returns the share of the run's data that a split has, in [0, 1]; 0 if unknown.

    It is the smaller of two shares: of the training images and of the test images.
    """
    held = [ids for ids in (self.ids, self.held.get("test", NOTHING)) if len(ids)]
    return min((float(np.isin(ids, split.ids(self.by)).mean()) for ids in held), default=0.0)

  def changed(self, name: str, split: Split) -> str:
    """Returns in words the changes of a split since the run evaluated it; "" if none."""
    if name not in self.held:
      return ""
    before, now = self.held[name], np.unique(split.ids(self.by))
    gone, new = _gone_and_new(before, now)
    if not gone and not new:
      return ""
    return f"of {len(before):,} {name} images that the run had, {gone:,} are gone; {new:,} are new"

  def overlap(self, split: Split, who: str = "this run") -> str:
    """Returns in words the examples of a split that `who` was trained on; "" if none."""
    if not self.by:
      return ""
    ids = split.ids(self.by)
    trained_on = np.flatnonzero(np.isin(ids, self.ids) & ~np.isin(ids, self.shared))
    names = listed([split.name(i) for i in trained_on])
    of = f"{len(trained_on):,} of these {len(ids):,} images"
    return f"{of} were trained on by {who}: {names}" if len(trained_on) else ""

  def check(self, split: Split) -> None:
    """Raises UserError if the run was trained on examples of a held-out split."""
    if overlap := self.overlap(split):
      raise UserError(
        "Remove these images, restore the original data, or train anew in another --workdir: "
        f"{overlap}"
      )


def _gone_and_new(before: np.ndarray, now: np.ndarray) -> tuple[int, int]:
  return len(np.setdiff1d(before, now)), len(np.setdiff1d(now, before))


def of_run(
  before: History | None, train: Split, others: Mapping[str, Split]
) -> tuple[History, dict[str, str]]:
  """Returns the history after this run, and remarks for the start by name.

  Args:
    before: the history of the run so far.
    train: its training split.
    others: the splits that it evaluates, by name.

  Raises:
    UserError: one of the splits has examples that the run was trained on.
  """
  known = before is not None and before.by != ""
  by = before.by if known else train.by
  ids, remarks = np.unique(train.ids(by)), {}
  shared, copies, held = [NOTHING], [], dict(before.held) if before else {}
  changes = []  # in words
  for name, split in others.items():
    if known:
      before.check(split)
      changes.append(before.changed(name, split))
    split_ids = split.ids(by)
    held[name] = np.union1d(held.get(name, NOTHING), split_ids)
    copied = np.isin(split_ids, ids)
    if copied.any():
      copies.append(f"{copied.sum():,} of {len(split):,} {name} images")
      shared.append(np.intersect1d(split_ids, ids))
  if copies:
    remarks["overlap"] = f"{' and '.join(copies)} are in the training split as well"
  if known:
    gone, new = _gone_and_new(before.ids, ids)
    if gone or new:
      trained = (
        f"of {len(before.ids):,} images that the run was trained on, {gone:,} are not trained"
      )
      changes.insert(0, f"{trained} on any more; {new:,} are new")
    if any(changes):
      remarks["changed"] = "; ".join(filter(None, changes))
    ids, shared = np.union1d(ids, before.ids), [*shared, before.shared]
  older = before is not None and before.older
  return History(by, older, ids, np.unique(np.concatenate(shared)), held), remarks
