"""The pieces of a run, and the compiled functions made of them."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import augment, data, models, tasks
from cnnjax.errors import Stopped, UserError
from cnnjax.models import batch_stats
from cnnjax.optim import averaging
from cnnjax.optim.joined import MAIN
from cnnjax.runtime import sharding
from cnnjax.tasks.metric import Metric, of_weights
from cnnjax.training import health, loss_scale, members, monitor, passes, state, stepping
from cnnjax.training.compiler import Compiler
from cnnjax.training.failures import named_failures
from cnnjax.training.pictures import Pictures
from cnnjax.training.teacher import Teacher

EVERY = ("log", "eval", "checkpoint")  # actions that the run repeats


@dataclasses.dataclass(frozen=True)
class Program:
  """The pieces of a run; its functions are compiled when they are first called."""

  config: ConfigDict
  mesh: Mesh
  inputs: data.Inputs  # batches of each split, and how long the run is
  members: members.Members  # the runs that are trained, mostly one
  model: nn.Module
  task: tasks.Task
  schedules: dict[str, optax.Schedule]  # step -> learning rate, of each optimizer by name
  optimizer: optax.GradientTransformationExtraArgs
  averages: averaging.Averaging
  teacher: Teacher | None  # whose predictions are learnt as well
  frozen: Any  # a tree like the parameters, true for what is not trained, or None
  summary: dict[str, str]  # the start-up block
  start: Any = None  # values of variables that a new run begins with, {collection: tree}

  @property
  def schedule(self) -> optax.Schedule:
    """step -> learning rate, of `config.optim`."""
    return self.schedules[MAIN]

  @functools.cached_property
  def every(self) -> dict[str, int]:
    """Steps from one action to the next, by the name of the action."""
    every = {name: (f"{name}_every", self.config[f"{name}_every"]) for name in EVERY}
    if self.config.health.every is not None:
      every["health"] = "health.every", self.config.health.every
    return {
      name: max(1, self.inputs.length.to_steps(value, key)) for name, (key, value) in every.items()
    }

  @property
  def metrics(self) -> dict[str, Metric]:
    """The metrics of the task, by their names without the split."""
    return of_weights(self.task.declared_metrics, ("raw", *self.averages.names))

  @property
  def per_dispatch(self) -> int:
    """The largest number of steps in one program."""
    return self.config.steps_per_dispatch or self.inputs.train.per_dispatch

  def new_state(self, *, abstract: bool = False) -> state.TrainState:
    """Returns the state of a new run; with `abstract`, shapes and shardings only."""
    config, context = self.config, self.context

    def rest(variables: dict[str, Any], seed: jax.Array) -> dict[str, Any]:
      return {
        "opt_state": self.optimizer.init(variables["params"]),
        "averages": self.averages.init(variables),
        "monitor": monitor.create(config),
        "loss_scale": loss_scale.create(config.loss_scale, config.dtype),
        "window": passes.no_metrics(self.task),
        "epoch": self.task.no_metrics(),
        "extra": stepping.extra(context, variables, seed),
      }

    shape = self.inputs.image_shape
    where = self.mesh, config.mesh
    return state.create(
      self.model, shape, rest, self.members, *where, start=self.start, abstract=abstract
    )

  def no_metrics(self) -> Any:
    """Returns an empty window of training metrics, on the mesh."""
    windows = self.members.stacked(passes.no_metrics(self.task))
    return sharding.put(windows, sharding.replicated(self.mesh))

  @functools.cached_property
  def normalize(self) -> Callable:
    """images in [0, 1] -> images as the model takes them."""
    return passes.normalizer(self.inputs.meta["mean"], self.inputs.meta["std"])

  @functools.cached_property
  def prepare(self) -> Callable:
    """See `passes.preparer`."""
    teach = self.teacher.teach if self.teacher else None
    return passes.preparer(self.task, augment.create(self.config.augment), self.normalize, teach)

  def batch_norm_mode(self) -> contextlib.AbstractContextManager:
    """Returns the context that sets how batch norms run in training."""
    frozen, ghost = None, self.config.batch_norm.ghost
    if self.frozen is not None:
      shapes = state.abstract_variables(self.model, self.inputs.image_shape, self.mesh)
      frozen = batch_stats.frozen_modules(shapes["params"], shapes["batch_stats"], self.frozen)
    return batch_stats.batch_norm_mode(frozen=frozen, ghost=ghost)

  @functools.cached_property
  def losses(self) -> Callable:
    """See `passes.losses`."""
    return passes.losses(self.task, self.config.distill)

  @functools.cached_property
  def _gradients(self) -> Callable:
    return passes.gradients(
      self.model,
      self.losses,
      accumulate=self.config.accumulate,
      matched=self.config.batch_norm.accumulated == "matched",
      batch_norm_mode=self.batch_norm_mode,
      frozen=self.frozen,
      gather=self.gather,
    )

  @functools.cached_property
  def gather(self) -> Callable | None:
    """See `sharding.gatherer`."""
    return sharding.gatherer(self.mesh, self.config.mesh)

  @functools.cached_property
  def compiler(self) -> Compiler:
    """Compiles all functions of the run alike."""
    return Compiler.of(self.config)

  @functools.cached_property
  def context(self) -> stepping.StepContext:
    """The pieces that the step needs."""
    return stepping.StepContext(
      self.config,
      self.model,
      self.task,
      self._gradients,
      self.optimizer,
      self.prepare,
      self.averages,
      self.inputs.length.steps_per_epoch,
      self._own_teacher,
    )

  @property
  def _own_teacher(self) -> Callable | None:
    if not self.teacher or self.teacher.variables is not None:
      return None
    whole = self.gather or (lambda variables: variables)
    return lambda averages: whole(averages["ema"])

  @functools.cached_property
  def compiled_step(self) -> Callable:
    """(state, feed, n, constants) -> state, n steps on."""
    one = stepping.create(self.context)
    run = passes.several(one, self.inputs.train.take, loop=self.per_dispatch > 1)
    shapes = state.abstract_variables(self.model, self.inputs.image_shape, self.mesh)["params"]
    asked = models.ops.compiler_options(self.model, shapes)
    now = self.new_state(abstract=True)
    where = {"out_shardings": jax.tree.map(lambda x: x.sharding, now)} if self.mesh.size > 1 else {}
    return self.compiler.jit(run, (0, _axes_of_feed, None, None), asked, donate_argnums=0, **where)

  def check_step(self) -> None:
    """Raises UserError unless the step returns a state like the one it takes, one step on.

    Also if it never moves one of several optimizers, whose parameters would stay, or if it takes
    gradients of its own while the config splits a batch.
    """
    name, moved, asked = self.config.step.name, set(), []
    context = dataclasses.replace(
      self.context,
      optimizer=stepping.noting(self.optimizer, moved),
      gradients=lambda *given: (asked.append(True), self._gradients(*given))[1],
    )
    stepping.check_step(name, stepping.create(context), *self.shapes, self.constants)
    if self.config.accumulate > 1 and not asked:
      raise UserError(
        f"step {name!r} takes gradients of its own, which accumulate={self.config.accumulate} does "
        "not split: set accumulate=1, or let the step call `update` or `context.gradients`"
      )
    all_of = (MAIN, *dict(self.config.optimizers)) if self.config.optimizers else ()
    if None not in moved and (still := [one for one in all_of if one not in moved]):
      raise UserError(
        f"step {name!r} never moves the parameters of the optimizer {still[0]!r}: leave it out of "
        f"optimizers, or let the step call descend(..., only={still[0]!r})"
      )

  @property
  def shapes(self) -> tuple[state.TrainState, passes.Batch]:
    """The shapes of the state and of the batch of a step, of one run."""
    now, feed = self.new_state(abstract=True), self.inputs.train.shapes(0)
    given = lambda now, feed: (now, self.inputs.train.take(feed, now.step))
    if not self.members.several:
      return jax.eval_shape(given, now, feed)
    shapes = jax.eval_shape(jax.vmap(given, (0, feed.axes)), now, feed)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)

  def train_step(self, now: state.TrainState, feed: Any, n: int) -> state.TrainState:
    """Takes n steps and waits for them; returns the state after them."""
    with named_failures(self.config):
      return jax.block_until_ready(self.compiled_step(now, feed, n, self.constants))

  @functools.cached_property
  def constants(self) -> Any:
    """The constants of a step: the variables of the teacher, or None."""
    if not self.teacher or self.teacher.variables is None:
      return None
    return sharding.put(self.teacher.variables, sharding.replicated(self.mesh))

  @functools.cached_property
  def predicted(self) -> Callable:
    """See `passes.predicted_outputs`."""
    views = augment.views.create(self.config.eval_views)
    return passes.predicted_outputs(self.model, self.task, self.normalize, views)

  @functools.cached_property
  def eval_step(self) -> Callable:
    """(variables, batch, mask) -> metrics."""
    step = passes.eval_step(self.task, self.predicted)
    whole = self.gather or (lambda variables: variables)
    replicated = sharding.replicated(self.mesh)
    return self.compiler.jit(
      lambda variables, *batch: step(whole(variables), *batch),
      (0, None, None),
      out_shardings=replicated,
    )

  @functools.cached_property
  def pictures(self) -> Pictures:
    """The pictures that the task shows of its network."""
    return Pictures(self)

  @functools.cached_property
  def moments_step(self) -> Callable:
    """(variables, seed, step, feed) -> moments of the batch norms."""
    one = passes.moments_step(self.model, self.prepare, self.batch_norm_mode)
    take = self.inputs.train.take

    def run(variables: Any, seed: Any, step: Any, feed: Any, constants: Any) -> Any:
      return one(variables, seed, step, take(feed, step), constants)

    jitted = self.compiler.jit(run, (0, 0, None, _axes_of_feed, None))
    return lambda *args: jitted(*args, self.constants)

  def training_metrics(self, now: state.TrainState, *, of_epoch: bool = False) -> dict[str, float]:
    """Returns the metrics since the last line of the log and, if asked, those of the epoch.

    Those of the epoch, such as train/epoch_loss, are of all its steps so far.
    """
    metrics = {
      name if name.startswith(passes.NORMS) else f"train/{name}": value
      for name, value in self.members.compute(now.window).items()
    }
    if of_epoch:
      found = self.members.compute(now.epoch)
      metrics |= {f"train/epoch_{name}": value for name, value in found.items()}
    if now.loss_scale is not None:  # while it comes down, all steps of a window may be left out
      metrics = {name: value for name, value in metrics.items() if not math.isnan(value)}
      metrics |= self._of_runs("loss_scale", now.loss_scale.scale)
    return {**metrics, **self._rates(now)}

  def _rates(self, now: state.TrainState) -> dict[str, float]:
    """Returns the learning rates of the step before `now`, as a sweep or a plateau scaled them."""
    found = {}
    for name, schedule in self.schedules.items():
      rates = np.asarray(now.rate_scale) * float(schedule(now.steps_done - 1))
      metric = "learning_rate" if name == MAIN else f"learning_rate_{name}"
      # Seeds have one rate.
      found |= self._of_runs(metric, rates if self.config.rates else rates.flat[0])
    return found

  def _of_runs(self, name: str, values: Any) -> dict[str, float]:
    """Returns a metric that is one number `[]`, or for `[runs]` what `Members.report` returns."""
    if not np.ndim(values):
      return {name: float(values)}
    return self.members.report([{name: float(value)} for value in values])

  def finished(self, now: state.TrainState) -> bool:
    """Returns whether the run is at its end, or was stopped early."""
    return now.steps_done >= self.inputs.length.total or monitor.stopped(now.monitor, self.config)

  def with_monitor(self, now: state.TrainState, metrics: dict[str, float]) -> state.TrainState:
    """Returns `now` with its monitor updated by the metrics of an evaluation."""
    config = self.config
    if config.monitor not in metrics:  # there is no validation split, or no SWA yet
      return now
    return now.replace(monitor=monitor.update(now.monitor, metrics[config.monitor], config))

  def weights(self, now: state.TrainState) -> dict[str, Any]:
    """Returns the variables to evaluate by name: `raw`, and each average that is ready."""
    return {
      "raw": now.evaluated,
      **{
        name: {collection: now.averages[name][collection] for collection in now.variables}
        for name in self.averages.ready(now.averages)
      },
    }

  def with_optimizer_averages(self, now: state.TrainState) -> state.TrainState:
    """Returns `now` with the averages that follow from the state of its optimizer."""
    return now.replace(
      averages=self.averages.with_optimizer_averages(now.averages, now.opt_state, now.variables)
    )

  def to_measure(self, now: state.TrainState) -> list[str]:
    """Returns the weights whose batch statistics an evaluation needs measured: precise BN, SWA."""
    if not jax.tree.leaves(now.batch_stats):
      return []
    return [name for name in self.weights(now) if averaging.needs_measuring(name, self.config)]

  def with_measured_batch_stats(
    self, now: state.TrainState, stop: Callable[[], Any] = lambda: None
  ) -> state.TrainState:
    """Returns `now` with averages and batch statistics of its step.

    Batch statistics are measured on the batches of the steps before, augmented as in training, and
    on those of an epoch at most.

    Raises:
      Stopped: `stop` returned true; it is called before each batch.
    """
    now, step = self.with_optimizer_averages(now), now.steps_done
    found = {name: [] for name in self.to_measure(now)}
    batches = min(self.config.batch_norm.batches, self.inputs.length.steps_per_epoch, step)
    for at in range(step - batches, step) if found else ():
      if stop():
        raise Stopped
      feed = self.inputs.train.feed(at)
      for name in found:
        moments = self.moments_step(self.weights(now)[name], now.seed, jnp.asarray(at), feed)
        found[name].append(moments)
    for name, moments in found.items():
      before = self.weights(now)[name]["batch_stats"]
      now = now.with_statistics(name, batch_stats.pooled(moments, before))
    return now

  @functools.cached_property
  def examine_step(self) -> Callable:
    """(state, feed, constants) -> norms and dead units of each layer, in a step not taken."""

    def examine(now: Any, feed: Any, constants: Any) -> dict[str, jax.Array]:
      batch = self.inputs.train.take(feed, now.step)
      examples = self.context.examples(now, batch, constants)
      result = stepping.update(self.context, now, examples)
      with self.batch_norm_mode():
        images = examples.images.reshape(-1, *self.inputs.image_shape)  # all views
        dead = health.dead_units(self.model, now.variables, images, examples.key)
      return health.by_layer(now.params, result.grads, result.updates) | dead

    return self.compiler.jit(examine)


def _axes_of_feed(feed: Any) -> Any:
  return feed.axes
