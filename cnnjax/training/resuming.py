"""Resumes a run from its last checkpoint, and says what a new length changes."""

import functools
import math
import pathlib
from typing import Any

import numpy as np

from cnnjax import checkpoints, data, optim
from cnnjax.config import durations
from cnnjax.optim import averaging
from cnnjax.training import state
from cnnjax.training.program import Program
from cnnjax.training.teacher import check_teacher


def open_checkpoints(program: Program, workdir: pathlib.Path) -> checkpoints.Checkpoints:
  """Returns the checkpoints of the run in `workdir`, for reading and writing."""
  keep = checkpoints.Keep.of(program.config.keep, program.inputs.length.to_steps)
  return checkpoints.Checkpoints.of(workdir, program.config, keep=keep)


def begin(
  program: Program, saved: checkpoints.Checkpoints
) -> tuple[state.TrainState, dict[str, Any]]:
  """Returns the state of the last checkpoint and its `meta`, or a new state and {}."""
  if not saved.any():
    return program.new_state(), {}
  meta = saved.meta(saved.step())
  data.check_classes(meta["classes"], program.inputs.classes)
  check_teacher(meta, program.teacher)
  now = restored(program, saved)
  if averaging.SLOW in now.averages.keys() - saved.averages(now.steps_done):
    saved.say(
      "this run was begun when Lookahead's fast weights were evaluated: from here on the slow "
      "ones are; its best checkpoint so far is the best of the fast ones"
    )
  return now, saved.meta(now.steps_done)  # of an earlier step, where the last was damaged


def restored(
  program: Program, saved: checkpoints.Checkpoints, which: str = "last"
) -> state.TrainState:
  """Returns the state of a checkpoint; adds averages that an older one lacks."""
  return program.with_optimizer_averages(saved.restore(program.new_state(abstract=True), which))


def going_on(
  program: Program,
  now: state.TrainState,
  meta: dict[str, Any],
  epochs: float | int | str | None,
  line: dict[str, float],
) -> dict[str, str]:
  """Returns in words what jumps when a run resumes with another length.

  Args:
    now: the state that it resumes from.
    meta: of the checkpoint of `now`.
    epochs: `config.epochs` of its last start.
    line: the newest value of each metric.
  """
  step, total, per_epoch = (
    now.steps_done,
    program.inputs.length.total,
    program.inputs.length.steps_per_epoch,
  )
  lengths = _length_before(program, meta, epochs, line)
  if lengths in (None, (total, per_epoch)) or program.finished(now):
    return {}
  (before, per_epoch_before), config, found = lengths, program.config.optim, []
  to_steps = functools.partial(
    durations.in_steps, steps_per_epoch=per_epoch_before, batch_size=program.config.batch_size
  )
  peak = optim.schedules.scaled_rate(config, program.config.batch_size)
  schedule = optim.schedules.create(config.schedule, peak, before, to_steps)
  if rates := optim.schedules.jump(schedule, program.schedule, step):
    scales = dict.fromkeys(np.atleast_1d(np.asarray(now.rate_scale)).tolist())
    last, following = (" | ".join(f"{rate * scale:.3g}" for scale in scales) for rate in rates)
    why = (
      f"{config.schedule.name} follows the length of the run, which was {before:,} steps and is "
      f"{total:,} now; constant, step, multi_step and exponential do not, nor does trapezoid "
      "before its cool-down"
      if per_epoch == per_epoch_before
      else f"an epoch was {per_epoch_before:,} steps and is {per_epoch:,} now, the run was "
      f"{before:,} and is {total:,}"
    )
    verb = "falls" if rates[1] < rates[0] else "rises"
    found.append(f"the learning rate {verb} from {last} to {following}: {why}")
  order = program.inputs.train.order
  sizes = order.for_run(before).size(step - 1), order.size(step)
  if sizes[0] != sizes[1] != order.for_run(before).size(step):
    found.append(f"images change from {sizes[0]} to {sizes[1]} pixels (data.progressive)")
  return {"going on": "; ".join(found)} if found else {}


def _length_before(
  program: Program, meta: dict[str, Any], epochs: float | int | str | None, line: dict[str, float]
) -> tuple[int, int] | None:
  """Returns the earlier (steps of the run, steps of an epoch), or None where they are unknown.

  Takes the arguments of `going_on`. Checkpoints of older versions do not say them: there the length
  follows from `epochs`, if `line` shows that an epoch still has as many steps.
  """
  if "steps_per_epoch" in meta:
    return meta["total_steps"], meta["steps_per_epoch"]
  per_epoch = program.inputs.length.steps_per_epoch
  epoch = line.get("step", 0) / per_epoch
  if not meta or not math.isclose(line.get("epoch", math.nan), epoch, abs_tol=1e-6):
    return None
  return max(1, program.inputs.length.to_steps(epochs, "epochs")), per_epoch
