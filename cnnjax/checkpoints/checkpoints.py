"""The checkpoints of one run: saves its state, finds the last or the best one, restores it.

Puts together the files (store.py), which of them are whole (ledger.py), which stay (retention.py)
and the layout of a state (layout.py).
"""

import functools
import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import errors, tasks
from cnnjax.checkpoints import layout, ledger
from cnnjax.checkpoints.retention import STANDARD, Keep, Scores, delete_others
from cnnjax.checkpoints.store import FOLDER, Store, Unreadable, reason
from cnnjax.errors import TransientError, UserError, unknown
from cnnjax.optim.averaging import SLOW
from cnnjax.runtime import processes
from cnnjax.runtime.paths import PathLike, check_text, to_path

WHICH = ("last", "best")


class Checkpoints:
  """The checkpoints of one workdir, written in the background, each one whole or not there.

  All processes of a run call each method; the first one verifies, deletes, renames and prints.

  Args:
    workdir: its folder `checkpoints` holds them.
    monitor: the metric that chooses the best one.
    better: "max" if large values of it are better, else "min".
    read_only: writes, renames and deletes nothing.
    keep: which checkpoints stay.
    say: prints a line about a damaged checkpoint.
  """

  def __init__(
    self,
    workdir: PathLike,
    *,
    monitor: str,
    better: Literal["max", "min"] = "max",
    read_only: bool = False,
    keep: Keep = STANDARD,
    say: Callable[[str], None] = errors.warn,
  ):
    check_text(to_path(workdir))
    self._folder = to_path(workdir).absolute() / FOLDER
    self._read_only, self._keep, self.say = read_only, keep, say
    self._store = Store(self._folder, read_only=read_only)
    self._ledger = ledger.Ledger(self._store)
    self._scores = Scores(self._store, monitor, better)

  @classmethod
  def of(cls, workdir: PathLike, config: ConfigDict, **options: Any) -> "Checkpoints":
    """Returns the checkpoints of the run in `workdir` by its config; takes the class's options."""
    better = tasks.monitored(config).better
    return cls(workdir, monitor=config.monitor, better=better, **options)

  # The steps.
  def steps(self) -> list[int]:
    """Returns the steps that have a checkpoint, damaged or not, in rising order."""
    return self._store.steps()

  def any_gone(self) -> bool:
    """Returns whether a run has deleted a checkpoint since this was opened."""
    return self._store.steps() != self._store.known()

  def place(self, step: int) -> pathlib.Path:
    """Returns the folder of a checkpoint."""
    return self._store.place(step)

  def problems(self, step: int) -> list[str]:
    """Returns in words how a checkpoint is damaged; UserError where a newer cnnjax wrote it."""
    return self._ledger.problems(step)

  def score(self, step: int) -> float | None:
    """Returns the monitored metric, the higher the better; None if it was not measured.

    Infinite where it cannot be read.
    """
    return self._scores.of(step)

  def monitored(self, step: int) -> float | None:
    """Returns the monitored metric with its own sign; otherwise as `score`."""
    score = self._scores.of(step)
    return score if score in (None, math.inf) else self._scores.sign * score

  def any(self) -> bool:
    """Returns whether there is a checkpoint; raises as `step` does."""
    return self.step() is not None

  def step(self, which: str = "last") -> int | None:
    """Returns the step of the last or the best whole checkpoint, None if there is no checkpoint.

    Raises:
      UserError: all of them are damaged, or a newer cnnjax wrote them.
    """
    self._settle()
    step, error = -1, None
    try:
      if processes.is_first():
        step = self._choose(which)
    except UserError as e:
      error = e
    if processes.max_over_processes(int(error is not None)):
      raise error or UserError(f"the first process found no checkpoint in {self._folder}")
    step = processes.broadcast_from_first(step)
    return None if step == -1 else step

  def _choose(self, which: str) -> int:
    """Returns the step of the first whole checkpoint, or -1; reports those it passes over."""
    candidates = self.steps()[::-1]
    if which == "best":
      scored = [step for step in candidates if self.score(step) is not None]
      candidates = sorted(scored, key=lambda step: (-self.score(step), step))  # of equals the first
    chosen = next((step for step in candidates if self._ledger.is_whole(step)), -1)
    damaged = self._ledger.damaged
    if chosen == -1 and candidates and which == "last":
      raise UserError(
        f"no checkpoint in {self._folder} can be read: "
        + "; ".join(f"step {step:,}: {damaged[step]}" for step in candidates)
        + ". Choose a new workdir, or take that folder away to begin again"
      )
    instead = f"that of step {chosen:,} is taken" if chosen != -1 else "there is no other"
    for step in self._ledger.new_damage():
      stays = self._read_only or which == "best"  # that may be asked for without being restored
      aside = "" if stays else f", and it is set aside as {ledger.aside(step)}"
      self.say(f"the checkpoint of step {step:,} is damaged: {damaged[step]}; {instead}{aside}")
    return chosen

  def find(self, which: str) -> int:
    """Returns the step of a checkpoint: "last", "best", or a step as digits.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    if which not in WHICH:
      if not which.isdecimal() or (step := int(which)) not in self.steps():
        raise unknown("step", which, [*WHICH, *self.steps()])
      if not self._ledger.is_whole(step):
        damage = self._ledger.damaged[step]
        raise UserError(f"the checkpoint of step {step:,} is damaged: {damage}")
      return step
    if (step := self.step(which)) is not None:
      return step
    if which == "last" or not self.any():
      raise UserError(f"{self._folder.parent} holds no checkpoint")
    raise UserError(
      f"{self._folder.parent} holds no best checkpoint (a run keeps its best when it has a "
      "validation split, data.validation, and one learning rate)"
    )

  # Saving.
  def save(
    self,
    state: Any,
    meta: dict[str, Any],
    metrics: dict[str, float],
    *,
    replace: bool = False,
  ) -> None:
    """Starts to save a state; keeps a checkpoint that the step has already, or replaces it.

    Raises:
      UserError: this save or the one before failed; earlier checkpoints are still there.
    """
    self.save_items(state.steps_done, layout.items(state), meta, metrics, replace=replace)

  def save_items(
    self,
    step: int,
    items: dict[str, Any],
    meta: dict[str, Any],
    metrics: dict[str, float],
    *,
    replace: bool = False,
  ) -> None:
    """Saves some of the items `variables`, `averages` and `training`, as `save` does."""
    if step in self._store.known() and not replace:
      return
    self._settle()
    if step in self._store.known():
      self._store.put_away(step)
    measured = self._scores.to_save(metrics)
    try:
      self._store.start(step, items, meta, measured)
    except Exception as e:  # the disk may be full already
      raise self._unsaved(step, e) from e
    self._scores.note(step, measured)
    self._ledger.mark_unknown(step)

  def _settle(self) -> None:
    """Waits until a started save is verified, then deletes checkpoints that need not stay."""
    step, error, failed = self._store.finish()
    if step is None:
      return
    if failed:
      raise self._unsaved(step, error) from error
    self._ledger.mark_whole(step)
    delete_others(self._store, self._keep, self._scores, self._ledger.damaged)

  def _unsaved(self, step: int, error: Exception | None) -> UserError:
    # Pending tasks of Orbax would report the same error again, by tracebacks.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    older = [other for other in self.steps() if other not in {step, *self._ledger.damaged}]
    kept = f"the last good one is of step {older[-1]:,}" if older else "there is no other"
    text = f"the checkpoint of step {step:,} could not be saved"
    if error is not None and errors.is_of_full_disk(error):
      return TransientError(
        f"the disk is full: {text}; {kept}; free space and run the same command"
      )
    return UserError(f"{text}: {reason(error)}; {kept}")

  def wait(self) -> None:
    """Waits until a started save is on disk and verified; raises as `save` does."""
    self._settle()

  def close(self) -> None:
    """Waits as `wait` does, and ends; no call may follow."""
    try:
      self._settle()
    finally:
      self._store.close()

  # Restoring.
  def restore(self, abstract: Any, which: str = "last") -> Any:
    """Returns the state of the last or the best checkpoint, with the shardings of `abstract`.

    Passes over damaged ones, and sets them aside.

    Raises:
      UserError: the checkpoint is of another model, or none can be read.
    """
    while True:
      step, found, error = self.find(which), None, None
      try:
        found = self._restore_state(step, abstract)
      except Unreadable as e:
        error = e
      if processes.max_over_processes(int(error is not None)):
        self._ledger.mark_damaged(step, reason(error and error.__cause__))
        continue
      if not self._read_only and processes.max_over_processes(len(self._ledger.damaged)):
        for damaged in self._ledger.damaged:
          self._scores.forget(damaged)
        self._ledger.set_aside()
      return found

  def _restore_state(self, step: int, abstract: Any) -> Any:
    self._check(step, abstract.variables)
    there = self._store.trees(step)
    if there["training"] is None:
      raise UserError(
        f"the checkpoint of step {step} in {self._folder} holds weights alone, as an average does, "
        "and can only be evaluated: choose another workdir to train in"
      )
    return layout.restore(abstract, there, functools.partial(self._store.restore, step))

  def _check(self, step: int, variables: Any) -> None:
    """Raises UserError unless the saved shapes are those of the model."""
    if (saved := self._store.trees(step)["variables"]) is None:
      error = ValueError("it holds no parameters")
      raise self._store.unreadable(step, error) from error
    before, now = (
      {path: tuple(x.shape) for path, x in layout.paths(tree).items()}
      for tree in (saved, variables)
    )
    for path in sorted({*before, *now}):
      if before.get(path) != now.get(path):
        raise UserError(
          f"the checkpoint in {self._folder} is of another model: {path} "
          f"is {before.get(path, 'not there')} in it, and "
          f"{now.get(path, 'not there')} in the model; put that model back, or choose "
          "another workdir"
        )

  def averages(self, step: int) -> set[str]:
    """Returns the names of the averages in the checkpoint at `step`."""
    return {*(self._store.trees(step)["averages"] or {})}

  def restore_variables(self, step: int, abstract: Any, weights: str = "raw") -> Any:
    """Returns the variables of a checkpoint, or an average of them; raises as `restore` does.

    "raw" weights are those of `TrainState.evaluated`.
    """
    self._check(step, abstract)
    kept = self.averages(step)
    if weights == "raw" and SLOW not in kept:
      return self._store.restore(step, variables=abstract)["variables"]
    if weights != "raw" and weights not in kept:
      raise unknown("weights", weights, ["raw", *(kept - {SLOW})])
    name = SLOW if weights == "raw" else weights
    found = self.arrays(step, "averages", jax.tree.leaves(abstract)[0].sharding)[name]
    if not found.get("count", np.ones(())).any():
      raise UserError(
        f"the average {weights} had not begun at step {step:,}: choose --weights=raw, or a later "
        "checkpoint"
      )
    return {name: found.get(name, {}) for name in abstract}

  # Looking into one.
  def arrays(self, step: int, item: str, where: jax.sharding.Sharding) -> Any:
    """Returns the arrays of an item as they were saved, all with the sharding `where`."""
    return self._store.arrays(step, item, where)

  def shapes(self, step: int) -> dict[str, dict[str, Any]]:
    """Returns the shape and dtype of each array of a checkpoint by item and path."""
    trees = {item: tree for item, tree in self._store.trees(step).items() if tree is not None}
    return {item: layout.paths(tree) for item, tree in trees.items()}

  def meta(self, step: int) -> dict[str, Any]:
    """Returns the JSON saved beside the arrays; UserError if a newer cnnjax wrote it."""
    return self._store.meta(step)

  def time(self, step: int) -> float | None:
    """Returns when a checkpoint was written, in seconds since 1970; None if unknown."""
    return self._store.time(step)
