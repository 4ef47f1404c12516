"""Keeps account of whole and damaged checkpoints, and of the damage that the user knows.

Reads the files of each checkpoint once; changes nothing but the name of a damaged one, to set it
aside.
"""

from cnnjax.checkpoints import integrity
from cnnjax.checkpoints.store import FOLDER, META, Store, Unreadable, reason


class Ledger:
  """The known state of each checkpoint in a store: whole, damaged, reported."""

  def __init__(self, store: Store):
    self._store = store
    self._whole: set[int] = set()
    self.damaged: dict[int, str] = {}  # step: the reason
    self._told: set[int] = set()  # damaged steps that were reported

  def is_whole(self, step: int) -> bool:
    """Returns whether a checkpoint is as it was written; notes the reason if not."""
    if step not in self._whole and step not in self.damaged:
      if found := self.problems(step):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        self.damaged[step] = found[0] + more
      else:
        self._whole.add(step)
    return step in self._whole

  def problems(self, step: int) -> list[str]:
    """Returns in words how a checkpoint is damaged; UserError where a newer cnnjax wrote it."""
    if found := integrity.problems(self._store.place(step)):
      return found
    try:
      self._store.meta(step)
    except Unreadable as e:
      return [f"{META} cannot be read: {reason(e.__cause__)}"]
    return []

  def mark_whole(self, step: int) -> None:
    """Notes that a checkpoint was written and verified just now."""
    self._whole.add(step)

  def mark_unknown(self, step: int) -> None:
    """Notes that a checkpoint is being written anew."""
    self._whole.discard(step)

  def mark_damaged(self, step: int, why: str) -> None:
    """Notes that a checkpoint could not be restored."""
    self._whole.discard(step)
    self.damaged[step] = why

  def new_damage(self) -> list[int]:
    """Returns the damaged steps that were not reported yet, and marks them as reported."""
    found = sorted(set(self.damaged) - self._told)
    self._told |= set(self.damaged)
    # A run that goes on may have deleted one while it was read.
    return [step for step in found if self._store.place(step).exists()]

  def set_aside(self) -> None:
    """Renames the damaged checkpoints, so that their steps can be saved again."""
    names = {}
    for step in sorted(self.damaged):
      free = (f"{step}.damaged{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
      names[step] = next(name for name in free if not (self._store.folder / name).exists())
    self.damaged.clear()
    self._told.clear()
    self._store.rename(names)


def aside(step: int) -> str:
  """Returns where the damaged checkpoint of a step is set aside, for the user."""
  return f"{FOLDER}/{step}.damaged"
