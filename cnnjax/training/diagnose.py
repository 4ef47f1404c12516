"""Diagnoses a run: warnings, norms of layers, where NaN began."""

import functools
import math
from typing import Any

import optax

from cnnjax import checkpoints, tasks
from cnnjax.errors import UserError
from cnnjax.training import health, state
from cnnjax.training.program import Program


def watch(program: Program) -> health.Watch | health.Watches | None:
  """Returns the warnings of a run, or None where the config wants none."""
  if not program.config.health.warnings:
    return None
  config = program.config
  plain = program.task.loss_name == "cross_entropy"
  plain &= not (program.teacher or config.task.class_weights)
  watch = functools.partial(
    health.Watch,
    program.inputs.length.total,
    config.monitor,
    tasks.monitored(config).better,
    guessing=math.log(program.task.num_classes) if plain else None,
  )
  return health.Watches(program.members.names, watch) if program.members.several else watch()


def examine(program: Program, now: state.TrainState, feed: Any) -> dict[str, float]:
  """Returns norms and dead units of each layer in the step after `now`, without taking it."""
  return health.counted(program.examine_step(now, feed, program.constants))


def check_finite(program: Program, now: state.TrainState, saved: checkpoints.Checkpoints) -> None:
  """Raises UserError if a loss or update was NaN or infinite, and says where that began.

  A sweep goes on while one of its learning rates is finite.
  """
  bad = int(now.bad_step.max() if program.config.rates else now.bad_step.min())
  if bad == state.NEVER:
    return
  bad, last = int(now.bad_step.min()), saved.step()
  kept = f"the last good one is of step {last:,}" if last is not None else "there is none yet"
  where = (
    trace(program, saved, bad)
    if program.config.health.trace
    else "health.trace=True names the layer where it begins"
  )
  raise UserError(
    f"the loss or the update became NaN or infinite in step {bad + 1:,}; checkpoint: {kept}. "
    "Try a lower optim.learning_rate, a longer optim.schedule.warmup, optim.clip_norm=1, or "
    f"dtype=float32, in a new workdir. {where}"
  )


def trace(program: Program, saved: checkpoints.Checkpoints, bad: int) -> str:
  """Computes step `bad`, from 0, again; returns in words where in it NaN or infinity began."""
  now = program.new_state(abstract=True)
  now = saved.restore(now) if saved.any() else program.new_state()
  for step in range(now.steps_done, bad):
    now = program.train_step(now, program.inputs.train.feed(step), 1)
  jit = program.compiler.jit
  batch = jit(program.inputs.train.take)(program.inputs.train.feed(bad), now.step)
  examples = jit(program.context.examples)(now, batch, program.constants)
  scale = 1.0 if now.loss_scale is None else now.loss_scale.scale

  def updates(grads: Any, opt_state: Any, params: Any) -> Any:
    grads = optax.tree.scale(1 / scale, grads)
    return program.optimizer.update(
      grads, opt_state, params, rate_scale=now.rate_scale, step=now.step, grad_fn=lambda *_: grads
    )[0]

  with program.batch_norm_mode():
    return health.trace(
      program.model,
      lambda logits, examples, updated: scale * program.losses(logits, examples, updated),
      now.variables,
      examples.images,
      examples.replace(key=None),
      examples.key,
      updates,
      now.opt_state,
      jit=jit,
    )
