"""The training program: build, restore, loop, evaluate, report."""

import contextlib
import dataclasses
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from cnnjax import (
  augment,
  checkpoints,
  data,
  models,
  optim,
  sharding,
  state,
  steps,
  tasks,
  writers,
)
from cnnjax import config as configs
from cnnjax import workdir as workdirs
from cnnjax.errors import UserError
from cnnjax.evaluate import evaluate
from cnnjax.signals import catch_signals


@dataclasses.dataclass(frozen=True)
class Program:
  """What a config comes to: the compiled functions and the numbers that the loop needs."""

  inputs: data.Inputs  # batches of each split, and how long the run is
  new_state: Callable[..., state.TrainState]  # (abstract=False)
  train_step: Callable  # (state, feed, n) -> state, n steps on
  eval_step: Callable  # (variables, batch, mask) -> metrics
  no_metrics: Callable[[], Any]  # an empty window of training metrics, on the mesh
  schedule: Callable  # step -> learning rate
  every: dict[str, int]  # steps between two of each: log, eval, checkpoint
  per_dispatch: int  # steps in one program at most
  summary: dict[str, str]  # the start-up block


def build(config: ConfigDict, given: dict[str, data.Split] | None = None) -> Program:
  """Loads the data and puts the pieces together; compiles nothing.

  Raises:
    UserError: the pieces do not fit each other.
  """
  mesh = sharding.make_mesh(config.mesh.data)
  inputs = data.open_inputs(config, mesh, given)
  model = models.create(**config.model, num_classes=len(inputs.classes), dtype=config.dtype)
  variables = state.abstract_variables(model, inputs.image_shape, mesh)
  state.check_sizes(model, variables, inputs.image_shape, inputs.sizes)
  params = variables["params"]
  task = tasks.create(config.task, len(inputs.classes), inputs.counts)
  task.check_labels(inputs.several)
  schedule = optim.schedules.create(
    config.optim.schedule, config.optim.learning_rate, inputs.total, inputs.to_steps
  )
  optimizer = optim.create(config.optim, schedule, params)

  normalize = steps.normalizer(inputs.meta["mean"], inputs.meta["std"])
  one_step = steps.train_step(
    model, task, optimizer, augment.create(config.augment), normalize, config.seed
  )
  per_dispatch = config.steps_per_dispatch or inputs.train.per_dispatch
  return Program(
    inputs=inputs,
    new_state=lambda abstract=False: state.create(
      model, optimizer, task.no_metrics(), inputs.image_shape, config.seed, mesh, abstract=abstract
    ),
    train_step=jax.jit(
      steps.several(one_step, inputs.train.take, loop=per_dispatch > 1),
      donate_argnums=0,
      compiler_options=models.ops.compiler_options(model, params),
    ),
    eval_step=jax.jit(
      steps.eval_step(model, task, normalize, augment.views.create(config.eval_views))
    ),
    no_metrics=lambda: sharding.put(task.no_metrics(), sharding.replicated(mesh)),
    schedule=schedule,
    every={
      name: max(1, inputs.to_steps(config[f"{name}_every"], f"{name}_every"))
      for name in ("log", "eval", "checkpoint")
    },
    per_dispatch=per_dispatch,
    summary={
      "model": f"{config.model.name}, {state.count(params):,} parameters, {config.dtype}",
      **inputs.summary,
      "devices": sharding.describe(mesh, config.batch_size),
      "schedule": optim.schedules.describe(config.optim.schedule, config.optim.learning_rate),
      **optim.describe(config.optim, params),
      "augment": config.augment or "none",
    },
  )


def train(
  config: ConfigDict,
  workdir: pathlib.Path | None = None,
  splits: dict[str, data.Split] | None = None,
) -> tuple[state.TrainState, dict[str, float], signal.Signals | None]:
  """Trains what `config` says in `workdir`, going on where a run in it stopped.

  Without a `workdir` the run gets a fresh one under runs/. `splits` are those of
  `data.from_arrays`, in the place of what `config.data` names.

  Returns:
    The last state, the newest value of every metric, and the signal that stopped it, if one did.

  Raises:
    UserError: something in the config, the data or the workdir is wrong, or the loss diverged.
  """
  config = data.with_given(config, splits)
  configs.validate(config)
  if workdir:
    workdirs.check(workdir, config)
  program = build(config, splits)
  inputs = program.inputs
  if workdir and (reached := checkpoints.last_step(workdir) or 0) > inputs.total:
    raise UserError(
      f"the run in {workdir} is at step {reached:,} already, and epochs={config.epochs!r} ends at "
      f"step {inputs.total:,}; give it more"
    )
  workdir = workdirs.claim(workdir, config)
  with (
    contextlib.closing(inputs.train),
    contextlib.closing(checkpoints.Checkpoints(workdir)) as saved,
  ):
    if saved.any():
      data.check_classes(saved.meta(saved.step())["classes"], inputs.classes)
    now = saved.restore(program.new_state(abstract=True)) if saved.any() else program.new_state()
    with (
      catch_signals() as caught,
      writers.Writers(
        workdir, int(now.step), inputs.total, inputs.steps_per_epoch, config.batch_size
      ) as out,
    ):
      out.block({**program.summary, "workdir": str(workdir)})
      try:
        now = loop(program, now, saved, out, config.eval_batch_size, caught)
      finally:
        out.name_unreadable(inputs.skipped)
      saved.wait()
      out.report(workdir, int(now.step), saved.step("best"), caught)
      return now, out.latest, caught[0] if caught else None


def loop(
  program: Program,
  now: state.TrainState,
  saved: checkpoints.Checkpoints,
  out: writers.Writers,
  eval_batch_size: int,
  caught: list[signal.Signals],
) -> state.TrainState:
  """Steps from `now` to the end, or to the first signal; writes, evaluates and saves on the way."""
  inputs, step = program.inputs, int(now.step)
  per_epoch = inputs.steps_per_epoch
  events = (*program.every.values(), per_epoch, inputs.phase, inputs.total)
  while step < inputs.total and not caught:
    n = min(program.per_dispatch, *(event - step % event for event in events))
    # Waiting for each dispatch keeps a queue of steps from standing between a signal and its save.
    with saved.kept(now, inputs.meta):
      feed = inputs.train.feed(step)
    now = jax.block_until_ready(program.train_step(now, feed, n))
    step += n
    out.progress(step, now.window, program.schedule)
    out.name_unreadable(inputs.skipped)

    final = step == inputs.total
    due = {name: final or step % steps == 0 for name, steps in program.every.items()}
    due["log"] |= step % per_epoch == 0
    if not any(due.values()):
      continue
    saved.check_finite(now)
    measured = {}
    if due["log"]:
      out.write_training(step, now.window, program.schedule)
      now = now.replace(window=program.no_metrics())
    if due["eval"]:
      # The test split stands in where there is no validation split, to be seen, not to choose by.
      for name in list(inputs.evaluations)[: None if final else 1]:
        with saved.kept(now, inputs.meta):
          found = evaluate(
            program.eval_step, now.variables, inputs.evaluations[name], eval_batch_size
          )
        measured |= out.write_evaluation(step, name, found)
    if due["checkpoint"] or checkpoints.METRIC in measured:  # so that the best one can be kept
      saved.save(now, inputs.meta, measured)
    out.restart_clock(step)
  if caught:  # whenever it came; a step that is saved already is left alone
    saved.check_finite(now)
    saved.save(now, inputs.meta, {})
  return now
