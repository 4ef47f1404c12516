"""Chooses the checkpoints that stay: the newest, the best by the monitored metric, every n-th."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

from ml_collections import ConfigDict

from cnnjax.checkpoints import integrity
from cnnjax.checkpoints.store import METRICS, Store
from cnnjax.runtime import processes


@dataclasses.dataclass(frozen=True)
class Keep:
  """The rule by which checkpoints stay."""

  last: int = 2  # the number of newest ones; -1: all
  best: int = 1  # the number of best ones by the monitored metric
  every: int | None = None  # and each whose step is a multiple

  @classmethod
  def of(cls, config: ConfigDict, to_steps: Callable[[Any, str], int]) -> "Keep":
    """Returns the rule of `config.keep`; `to_steps` is (duration, key) -> steps."""
    every = None if config.every is None else max(1, to_steps(config.every, "keep.every"))
    return cls(config.last, config.best, every)

  def choose(self, scores: dict[int, float | None]) -> set[int]:
    """Returns the steps that stay, of `steps` in rising order, some with a score.

    The first of equal scores counts as best, as in early stopping. All steps stay, with a score or
    without, while there are no more than `best`.
    """
    steps = list(scores)
    if self.last == -1 or len(steps) <= max(self.last, self.best):
      return set(steps)
    scored = [step for step in steps if scores[step] is not None]
    by_score = sorted(scored, key=lambda step: (-scores[step], step))
    stay = {*steps[len(steps) - self.last :], *by_score[: self.best]}
    return stay | {step for step in steps if self.every and step % self.every == 0}


STANDARD = Keep()


class Scores:
  """The monitored metric of each checkpoint, the higher the better.

  Args:
    store: reads them.
    monitor: the metric, such as validation/accuracy.
    better: "max" if large values of it are better, else "min".
  """

  def __init__(self, store: Store, monitor: str, better: Literal["max", "min"]):
    self._store, self._monitor = store, monitor
    self.sign = {"max": 1, "min": -1}[better]
    self._known: dict[int, float | None] = {}

  def of(self, step: int) -> float | None:
    """Returns the score of a checkpoint, None if it was not measured.

    Infinite if it cannot be read any more, so that it is examined and not deleted.
    """
    if step not in self._known:
      try:
        damaged = integrity.problems(self._store.place(step), METRICS)
        score = math.inf if damaged else self._score(self._store.metrics(step))
      except Exception:  # Orbax raises any kind for damaged files
        score = math.inf
      self._known[step] = score
    return self._known[step]

  def to_save(self, metrics: dict[str, float]) -> dict[str, float | None] | None:
    """Returns the part of `metrics` to save: the monitored one, None if it was not measured."""
    if (value := metrics.get(self._monitor)) is None:
      return None
    return {self._monitor: value if math.isfinite(value) else None}  # JSON has no more

  def note(self, step: int, saved: dict[str, float | None] | None) -> None:
    """Notes the score of a step from what `to_save` returned."""
    self._known[step] = self._score(saved)

  def forget(self, step: int) -> None:
    """Lets the score of a step be read again."""
    self._known.pop(step, None)

  def _score(self, metrics: dict[str, float | None] | None) -> float | None:
    if not metrics or self._monitor not in metrics:
      return None
    value = metrics[self._monitor]
    return -math.inf if value is None or not math.isfinite(value) else self.sign * float(value)


def delete_others(store: Store, keep: Keep, scores: Scores, damaged: dict[int, str]) -> None:
  """Deletes the checkpoints that need not stay; `damaged` ones stay and do not count."""
  steps = store.known()
  known = {step: scores.of(step) for step in steps if step not in damaged}
  stay = keep.choose({step: score for step, score in known.items() if score != math.inf})
  for step in steps:
    goes = known.get(step, math.inf) != math.inf and step not in stay
    if processes.broadcast_from_first(int(goes)):
      store.delete(step)
  store.empty()
