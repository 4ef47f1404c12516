"""What a config comes to: the pieces of a run, put together, and the functions made from them."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import (
  augment,
  checkpoints,
  compiling,
  data,
  durations,
  health,
  keys,
  loss_scale,
  members,
  models,
  monitor,
  optim,
  profiling,
  sharding,
  state,
  steps,
  tasks,
  trained,
)
from cnnjax.errors import Stopped, TransientError, UserError
from cnnjax.metrics import Metric, of_weights
from cnnjax.models import batch_stats
from cnnjax.optim import averaging
from cnnjax.paths import to_path

# What XLA's errors begin with where a device, or a wire to it, is at fault: those of a program that
# it cannot run are INVALID_ARGUMENT or UNIMPLEMENTED.
FAILED = ("INTERNAL", "UNAVAILABLE", "ABORTED", "DATA_LOSS", "UNKNOWN", "CANCELLED", "DEADLINE")
EVERY = ("log", "eval", "checkpoint")  # what happens now and then


@dataclasses.dataclass(frozen=True)
class Program:
  """The pieces of a run; its functions are compiled when they are first called."""

  config: ConfigDict
  mesh: Mesh
  inputs: data.Inputs  # batches of each split, and how long the run is
  members: members.Members  # the runs that are trained, mostly one
  model: nn.Module
  task: tasks.Task
  schedule: optax.Schedule  # step -> learning rate
  optimizer: optax.GradientTransformationExtraArgs
  averages: averaging.Averaging
  teacher: trained.Teacher | None  # whose predictions are learnt as well
  frozen: Any  # a tree like the parameters, true for what is not trained, or None
  summary: dict[str, str]  # the start-up block

  @functools.cached_property
  def every(self) -> dict[str, int]:
    """Steps between two of each."""
    every = {name: (f"{name}_every", self.config[f"{name}_every"]) for name in EVERY}
    if self.config.health.every is not None:
      every["health"] = "health.every", self.config.health.every
    return {name: max(1, self.inputs.to_steps(value, key)) for name, (key, value) in every.items()}

  def open_checkpoints(self, workdir: pathlib.Path) -> checkpoints.Checkpoints:
    """Those of the run in `workdir`, to be written."""
    keep = checkpoints.Keep.of(self.config.keep, self.inputs.to_steps)
    return checkpoints.Checkpoints.of(workdir, self.config, keep=keep)

  @property
  def metrics(self) -> dict[str, Metric]:
    """What is known of the metrics, by their names without the split."""
    return of_weights(self.task.METRICS, ("raw", *self.averages.names))

  @property
  def per_dispatch(self) -> int:
    """Steps in one program at most."""
    return self.config.steps_per_dispatch or self.inputs.train.per_dispatch

  def new_state(self, *, abstract: bool = False) -> state.TrainState:
    """That of a run that begins; with `abstract`, shapes and shardings only."""
    config = self.config

    def rest(variables: dict[str, Any]) -> dict[str, Any]:
      return {
        "opt_state": self.optimizer.init(variables["params"]),
        "averages": self.averages.init(variables),
        "monitor": monitor.create(config),
        "loss_scale": loss_scale.create(config.loss_scale, config.dtype),
        "window": steps.no_metrics(self.task),
        "epoch": self.task.no_metrics(),
      }

    shape = self.inputs.image_shape
    where = self.mesh, config.mesh
    return state.create(self.model, shape, rest, self.members, *where, abstract=abstract)

  def begin(self, saved: checkpoints.Checkpoints) -> tuple[state.TrainState, dict[str, Any]]:
    """The state of the last checkpoint and what was saved beside it, or a new one and nothing."""
    if not saved.any():
      return self.new_state(), {}
    meta = saved.meta(saved.step())
    data.check_classes(meta["classes"], self.inputs.classes)
    trained.check_teacher(meta, self.teacher)
    now = self.restored(saved)
    if averaging.SLOW in now.averages.keys() - saved.averages(now.steps_done):
      saved.say(
        "this run was begun when Lookahead's fast weights were evaluated: from here on the slow "
        "ones are; its best checkpoint so far is the best of the fast ones"
      )
    return now, saved.meta(now.steps_done)  # of an earlier step, where the last was damaged

  def going_on(
    self,
    now: state.TrainState,
    meta: dict[str, Any],
    epochs: float | int | str | None,
    line: dict[str, float],
  ) -> dict[str, str]:
    """Returns in words what jumps where a run goes on with another length than it had.

    Args:
      now: the state that it goes on from.
      meta: what was saved beside `now`.
      epochs: `config.epochs` of its last start.
      line: the newest values of its metrics.
    """
    step, total, per_epoch = now.steps_done, self.inputs.total, self.inputs.steps_per_epoch
    lengths = self._length_before(meta, epochs, line)
    if lengths in (None, (total, per_epoch)) or self.finished(now):
      return {}
    (before, per_epoch_before), config, found = lengths, self.config.optim, []
    to_steps = functools.partial(
      durations.in_steps, steps_per_epoch=per_epoch_before, batch_size=self.config.batch_size
    )
    peak = optim.schedules.scaled_rate(config, self.config.batch_size)
    schedule = optim.schedules.create(config.schedule, peak, before, to_steps)
    if rates := optim.schedules.jump(schedule, self.schedule, step):
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
    order = self.inputs.train.order
    sizes = order.for_run(before).size(step - 1), order.size(step)
    if sizes[0] != sizes[1] != order.for_run(before).size(step):
      found.append(f"images change from {sizes[0]} to {sizes[1]} pixels (data.progressive)")
    return {"going on": "; ".join(found)} if found else {}

  def _length_before(
    self, meta: dict[str, Any], epochs: float | int | str | None, line: dict[str, float]
  ) -> tuple[int, int] | None:
    """Returns (steps of the run, of an epoch) before it went on, None where nobody knows.

    Arguments are as of `going_on`. Checkpoints of older versions do not say it: there the length
    follows from `epochs`, where an epoch has as many steps still, as `line` shows.
    """
    if "steps_per_epoch" in meta:
      return meta["total_steps"], meta["steps_per_epoch"]
    per_epoch = self.inputs.steps_per_epoch
    epoch = line.get("step", 0) / per_epoch
    if not meta or not math.isclose(line.get("epoch", math.nan), epoch, abs_tol=1e-6):
      return None
    return max(1, self.inputs.to_steps(epochs, "epochs")), per_epoch

  def restored(self, saved: checkpoints.Checkpoints, which: str = "last") -> state.TrainState:
    """The state of a checkpoint, also of one without the averages that an optimizer makes."""
    return self.with_optimizer_averages(saved.restore(self.new_state(abstract=True), which))

  def no_metrics(self) -> Any:
    """An empty window of training metrics, on the mesh."""
    windows = self.members.stacked(steps.no_metrics(self.task))
    return sharding.put(windows, sharding.replicated(self.mesh))

  @functools.cached_property
  def _normalize(self) -> Callable:
    return steps.normalizer(self.inputs.meta["mean"], self.inputs.meta["std"])

  @functools.cached_property
  def prepare(self) -> Callable:
    """See `steps.preparer`."""
    teach = self.teacher.teach if self.teacher else None
    return steps.preparer(self.task, augment.create(self.config.augment), self._normalize, teach)

  def treated(self) -> contextlib.AbstractContextManager:
    """How batch norms are treated in training."""
    frozen, ghost = None, self.config.batch_norm.ghost
    if self.frozen is not None:
      shapes = state.abstract_variables(self.model, self.inputs.image_shape, self.mesh)
      frozen = batch_stats.frozen_modules(shapes["params"], shapes["batch_stats"], self.frozen)
    return batch_stats.treated(frozen=frozen, ghost=ghost)

  @functools.cached_property
  def _losses(self) -> Callable:
    return steps.losses(self.task, self.config.distill)

  @functools.cached_property
  def _gradients(self) -> Callable:
    return steps.gradients(
      self.model,
      self._losses,
      accumulate=self.config.accumulate,
      matched=self.config.batch_norm.accumulated == "matched",
      treated=self.treated,
      frozen=self.frozen,
      gather=self._gather,
    )

  @functools.cached_property
  def _gather(self) -> Callable | None:
    return sharding.gatherer(self.mesh, self.config.mesh)

  @functools.cached_property
  def _compiler(self) -> compiling.Compiler:
    return compiling.Compiler.of(self.config)

  @functools.cached_property
  def compiled_step(self) -> Callable:
    """(state, feed, n, constants) -> state, n steps on."""
    one = steps.train_step(
      self._gradients,
      self.task,
      self.optimizer,
      self.prepare,
      self.averages,
      self.inputs.steps_per_epoch,
    )
    run = steps.several(one, self.inputs.train.take, loop=self.per_dispatch > 1)
    shapes = state.abstract_variables(self.model, self.inputs.image_shape, self.mesh)["params"]
    asked = models.ops.compiler_options(self.model, shapes)
    now = self.new_state(abstract=True)
    where = {"out_shardings": jax.tree.map(lambda x: x.sharding, now)} if self.mesh.size > 1 else {}
    return self._compiler.jit(run, (0, _axes_of_feed, None, None), asked, donate_argnums=0, **where)

  def train_step(self, now: state.TrainState, feed: Any, n: int) -> state.TrainState:
    """`now` after n steps, when they are done."""
    with named_failures(self.config):
      return jax.block_until_ready(self.compiled_step(now, feed, n, self.constants))

  @functools.cached_property
  def constants(self) -> Any:
    """What the step takes beside the state and the feed: the teacher's variables."""
    if not self.teacher:
      return None
    return sharding.put(self.teacher.variables, sharding.replicated(self.mesh))

  @functools.cached_property
  def eval_step(self) -> Callable:
    """(variables, batch, mask) -> metrics."""
    views = augment.views.create(self.config.eval_views)
    step = steps.eval_step(self.model, self.task, self._normalize, views)
    whole = self._gather or (lambda variables: variables)
    replicated = sharding.replicated(self.mesh)
    return self._compiler.jit(
      lambda variables, *batch: step(whole(variables), *batch),
      (0, None, None),
      out_shardings=replicated,
    )

  @functools.cached_property
  def moments_step(self) -> Callable:
    """(variables, seed, step, feed) -> moments of the batch norms."""
    one = steps.moments_step(self.model, self.prepare, self.treated)
    take = self.inputs.train.take

    def run(variables: Any, seed: Any, step: Any, feed: Any, constants: Any) -> Any:
      return one(variables, seed, step, take(feed, step), constants)

    jitted = self._compiler.jit(run, (0, 0, None, _axes_of_feed, None))
    return lambda *args: jitted(*args, self.constants)

  def training_metrics(self, now: state.TrainState, *, of_epoch: bool = False) -> dict[str, float]:
    """Returns what the log says of the steps since its last line, and, if asked, of the epoch.

    Those of the epoch are sums over its steps so far, named train/epoch_loss and the like.
    """
    metrics = {
      name if name.startswith(steps.NORMS) else f"train/{name}": value
      for name, value in self.members.compute(now.window).items()
    }
    if of_epoch:
      found = self.members.compute(now.epoch)
      metrics |= {f"train/epoch_{name}": value for name, value in found.items()}
    if now.loss_scale is not None:  # while it comes down, all steps of a window may be left out
      metrics = {name: value for name, value in metrics.items() if not math.isnan(value)}
      metrics["loss_scale"] = float(now.loss_scale.scale.min())
    return {**metrics, **self._rates(now)}

  def _rates(self, now: state.TrainState) -> dict[str, float]:
    """The learning rate of the step before `now`, as it was: in a sweep, and on a plateau."""
    scales = np.asarray(now.rate_scale) * float(self.schedule(now.steps_done - 1))
    if not self.config.rates:
      return {"learning_rate": float(scales.flat[0])}
    return self.members.report([{"learning_rate": float(rate)} for rate in scales])

  def finished(self, now: state.TrainState) -> bool:
    """Whether the run is at its end, or was stopped early."""
    return now.steps_done >= self.inputs.total or monitor.stopped(now.monitor, self.config)

  def watched(self, now: state.TrainState, measured: dict[str, float]) -> state.TrainState:
    """`now` after an evaluation: what follows the monitored metric moves."""
    config = self.config
    if config.monitor not in measured:  # there is no validation split, or no SWA yet
      return now
    return now.replace(monitor=monitor.update(now.monitor, measured[config.monitor], config))

  def weights(self, now: state.TrainState) -> dict[str, Any]:
    """The variables that are evaluated: `raw`, and the averages that there are."""
    return {
      "raw": now.evaluated,
      **{
        name: {key: now.averages[name][key] for key in ("params", "batch_stats")}
        for name in self.averages.ready(now.averages)
      },
    }

  def with_optimizer_averages(self, now: state.TrainState) -> state.TrainState:
    """Returns `now` with the averages that follow from the state of its optimizer."""
    return now.replace(
      averages=self.averages.with_optimizer_averages(now.averages, now.opt_state, now.params)
    )

  def to_measure(self, now: state.TrainState) -> list[str]:
    """The weights whose batch statistics are measured for an evaluation: precise BN, SWA."""
    if not jax.tree.leaves(now.batch_stats):
      return []
    return [name for name in self.weights(now) if averaging.measured(name, self.config)]

  def measured(
    self, now: state.TrainState, stop: Callable[[], Any] = lambda: None
  ) -> state.TrainState:
    """Returns `now` with averages and batch statistics of its step.

    Batch statistics are measured on the batches before its step, an epoch of them at most, as they
    were trained on.

    Raises:
      Stopped: `stop`, asked before each batch, said so.
    """
    now, step = self.with_optimizer_averages(now), now.steps_done
    found = {name: [] for name in self.to_measure(now)}
    batches = min(self.config.batch_norm.batches, self.inputs.steps_per_epoch, step)
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
  def _examine(self) -> Callable:
    def examine(now: Any, feed: Any, constants: Any) -> dict[str, jax.Array]:
      batch = self.inputs.train.take(feed, now.step)
      examples = self.prepare(now.seed, now.step, batch, constants)
      grads, updates, _, _ = steps.update(now, examples, self._gradients, self.optimizer)
      with self.treated():
        rngs = {"dropout": examples.key}
        dead = health.dead_units(self.model, now.variables, examples.images, rngs)
      return health.by_layer(now.params, grads, updates) | dead

    return self._compiler.jit(examine)

  def watch(self) -> health.Watch | health.Watches | None:
    """What warns in words, unless the config wants none."""
    if not self.config.health.warnings:
      return None
    config = self.config
    plain = self.task.loss_name == "cross_entropy"
    plain &= not (self.teacher or config.task.class_weights)
    watch = functools.partial(
      health.Watch,
      self.inputs.total,
      config.monitor,
      monitor.metric(config).better,
      guessing=math.log(self.task.num_classes) if plain else None,
    )
    return health.Watches(self.members.names, watch) if self.members.several else watch()

  def examine(self, now: state.TrainState, feed: Any) -> dict[str, float]:
    """Norms and dead units of each layer, in a step from `now` on a batch of `feed`, not taken."""
    return health.counted(self._examine(now, feed, self.constants))

  def check_finite(self, now: state.TrainState, saved: checkpoints.Checkpoints) -> None:
    """Raises UserError if a loss or update so far was NaN or infinite, and says where it began.

    Of learning rates that are tried, if all of them came to that: the others go on.
    """
    if self.config.rates and int(now.bad_step.max()) == state.NEVER:
      return
    try:
      saved.check_finite(now)
    except UserError as e:
      if not self.config.health.trace:
        raise UserError(f"{e}. health.trace=True names the layer where it begins") from e
      raise UserError(f"{e}. {self.trace(saved, int(now.bad_step))}") from e

  def trace(self, saved: checkpoints.Checkpoints, bad: int) -> str:
    """Where NaN or infinity began in step `bad`, from 0: the run goes there once more."""
    now = self.new_state(abstract=True)
    now = saved.restore(now) if saved.any() else self.new_state()
    for step in range(now.steps_done, bad):
      now = self.train_step(now, self.inputs.train.feed(step), 1)
    jit = self._compiler.jit
    batch = jit(self.inputs.train.take)(self.inputs.train.feed(bad), now.step)
    examples = jit(self.prepare)(now.seed, now.step, batch, self.constants)
    scale = 1.0 if now.loss_scale is None else now.loss_scale.scale

    def updates(grads: Any, opt_state: Any, params: Any) -> Any:
      grads = optax.tree.scale(1 / scale, grads)
      return self.optimizer.update(
        grads, opt_state, params, rate_scale=now.rate_scale, step=now.step, grad_fn=lambda *_: grads
      )[0]

    with self.treated():
      return health.trace(
        self.model,
        lambda logits, examples, updated: scale * self._losses(logits, examples, updated),
        now.variables,
        examples.images,
        examples.replace(key=None),
        {"dropout": examples.key},
        updates,
        now.opt_state,
        jit=jit,
      )


def _axes_of_feed(feed: Any) -> Any:
  return feed.axes


def measured_later(
  folder: pathlib.Path,
  config: ConfigDict,
  saved: checkpoints.Checkpoints,
  step: int,
  weights: str,
  *,
  given: dict[str, data.Split] | None = None,
) -> Any:
  """Returns variables of a checkpoint as an evaluation in its run would have them.

  It loads the training data of the run in `folder`, `given` where they are arrays.

  Raises:
    UserError: they are not there, or are others than the run had.
  """
  config = data.with_given(config.copy_and_resolve_references(), given)
  config.mesh.data = math.gcd(config.batch_size // config.accumulate, jax.device_count())
  config.mesh.fsdp = 1
  program = build(config, given, before=data.history.read(folder))
  data.check_classes(saved.meta(step)["classes"], program.inputs.classes)
  with contextlib.closing(program.inputs.train):
    return program.weights(program.measured(program.restored(saved, str(step))))[weights]


@contextlib.contextmanager
def named_failures(config: ConfigDict, *, evaluating: bool = False) -> Iterator[None]:
  """What to try, where a device has too little memory or fails in the middle of a computation."""
  try:
    yield
  except jax.errors.JaxRuntimeError as e:
    text = str(e)
    if "RESOURCE_EXHAUSTED" not in text and "ut of memory" not in text:
      if not text.startswith(FAILED) or "Traceback" in text:  # of a callback
        raise
      raise TransientError(
        f"the device failed: {text.splitlines()[0]}. Start the same command again, which goes on "
        "from the last checkpoint; if it comes back, look at the device (nvidia-smi, dmesg), or "
        "leave it out"
      ) from e
    if evaluating:
      size = config.eval_batch_size
      raise UserError(
        f"the device has too little memory to evaluate batches of {size}; try "
        f"--config.eval_batch_size={max(size // 2, 1)}"
      ) from e
    twice = 2 * config.accumulate
    tries = [f"accumulate={twice} (micro-batches of {config.batch_size // twice})"]
    if "remat" not in config.model:
      tries.append("model.remat=True, where the model has it")
    tries += ["dtype=bfloat16"] if config.dtype == "float32" else []
    raise UserError(
      f"the device has too little memory for batches of {config.batch_size} in {config.accumulate} "
      f"part{'s' * (config.accumulate > 1)}. Try --config."
      + ", or --config.".join(tries)
      + f", or batch_size={config.batch_size // 2}"
    ) from e


def build(
  config: ConfigDict,
  given: dict[str, data.Split] | None = None,
  teacher: trained.Teacher | None = None,
  before: data.History | None = None,
) -> Program:
  """Loads the data and puts the pieces together; compiles nothing.

  Arguments are as of `train.train`; `before` is what the run was trained on so far.

  Raises:
    UserError: the pieces do not fit each other.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  peak = optim.schedules.scaled_rate(config.optim, config.batch_size)
  peaks = [peak * rate / config.optim.learning_rate for rate in config.rates] or [peak]
  runs = members.create(config)
  seeds = runs.seeds if runs.several else ()
  counted = tasks.needs_counts(config.task) or config.data.sampling != data.order.UNIFORM
  inputs = data.open_inputs(config, mesh, given, seeds=seeds, counted=counted, before=before)
  model = models.create(**config.model, num_classes=len(inputs.classes), dtype=config.dtype)
  variables = state.abstract_variables(model, inputs.image_shape, mesh)
  state.check_sizes(model, variables, inputs.image_shape, inputs.sizes)
  params = variables["params"]
  examples = len(inputs.train.split)
  task = tasks.create(config.task, len(inputs.classes), inputs.counts, examples)
  task.check_labels(inputs.several, inputs.classes)
  schedule = optim.schedules.create(config.optim.schedule, peak, inputs.total, inputs.to_steps)
  depths = state.depths(model, inputs.image_shape)
  averages = averaging.create(config.average, config.optim, inputs.total, inputs.to_steps)
  profiling.check(config.profile, inputs.total)
  monitor.check_metric(config.monitor, task.collection.__annotations__, averages.names)
  scaling = (
    "" if config.rates else optim.schedules.describe_scaling(config.optim, config.batch_size)
  )
  teacher = teacher or trained.teacher(
    config.distill, inputs.meta, mesh, inputs.sizes, measure=measured_later
  )
  if teacher and teacher.step is not None:
    inputs.meta["teacher_step"] = teacher.step
  inputs.meta.update(total_steps=inputs.total, steps_per_epoch=inputs.steps_per_epoch)
  return Program(
    config=config,
    mesh=mesh,
    inputs=inputs,
    members=runs,
    model=model,
    task=task,
    schedule=schedule,
    optimizer=optim.create(config.optim, schedule, params, depths, seed=config.seed),
    averages=averages,
    teacher=teacher,
    frozen=optim.masks.frozen(config.optim, params) if config.optim.freeze else None,
    summary={
      "model": f"{config.model.name}, {state.count(params):,} parameters, {config.dtype}",
      **inputs.summary,
      **_against_imbalance(config, task, inputs),
      "devices": sharding.describe(mesh, config.batch_size),
      **sharding.describe_parts(params, mesh, config.mesh),
      **runs.describe(),
      "schedule": optim.schedules.describe(config.optim.schedule, peaks, scaling),
      **monitor.describe(config),
      **optim.describe(config.optim, params, depths),
      **averages.describe(),
      **(_taught(config.distill, teacher, inputs) if teacher else {}),
      **_micro_batches(config, has_batch_norm=bool(variables["batch_stats"])),
      "augment": config.augment or "none",
    },
  )


def _against_imbalance(config: ConfigDict, task: tasks.Task, inputs: data.Inputs) -> dict[str, str]:
  """What the classes come to, where more than one key acts against their imbalance."""
  tau, sampling, counts = config.task.logit_adjustment, config.data.sampling, inputs.counts
  acting = {
    f"data.sampling={sampling}": sampling != data.order.UNIFORM,
    f"task.class_weights={config.task.class_weights}": config.task.class_weights is not None,
    f"task.logit_adjustment={tau}": tau > 0,
  }
  if sum(acting.values()) < 2 or counts.max() == counts.min():
    return {}
  present = np.flatnonzero(counts)
  weighed = data.order.shares(counts, sampling)[present] * task.weights[present]
  weighed /= counts[present] ** float(tau)  # arXiv:2007.07314: as weights of 1 / prior^tau
  small, large = counts[present].argmin(), counts[present].argmax()
  names = [inputs.classes[i] for i in present[[small, large]]]
  return {
    "imbalance": f"{' and '.join(key for key, acts in acting.items() if acts)} act together: "
    f"{names[0]} (smallest class) comes to {weighed[small] / weighed[large]:.3g} times the weight "
    f"of {names[1]} (largest) in the loss; one of them alone is usual"
  }


def _taught(config: ConfigDict, teacher: trained.Teacher, inputs: data.Inputs) -> dict[str, str]:
  """The teacher in words, with what it knows of the images that the run is evaluated on."""
  lines = {
    "teacher": f"{teacher.text}; weight {config.weight:g}, temperature {config.temperature:g}"
  }
  if config.workdir is not None:
    before = data.history.read(to_path(config.workdir))
    for name, batches in inputs.evaluations.items():
      if overlap := before.overlap(batches.split, "the teacher"):
        lines[f"taught {name}"] = f"{overlap}: what it knows of them may be learnt from it"
  return lines


def _micro_batches(config: ConfigDict, *, has_batch_norm: bool) -> dict[str, str]:
  """How a batch is taken, where it is not at once; UserError for what asks for batch norm."""
  lines, standard = {}, keys.default().batch_norm
  for key in ("ghost", "accumulated", "precise"):
    if not has_batch_norm and (value := config.batch_norm[key]) != standard[key]:
      raise UserError(
        f"batch_norm.{key}={value!r} has no effect: {config.model.name} has no batch norm as it is "
        f"configured; leave it at {standard[key]!r}"
      )
  if config.accumulate > 1:
    how = "move once a step" if config.batch_norm.accumulated == "matched" else "move with each"
    norm = f"; batch norm normalises within each, and its running statistics {how}"
    lines["micro-batches"] = f"{config.accumulate} of {config.batch_size // config.accumulate}" + (
      norm if has_batch_norm else ""
    )
  if config.batch_norm.ghost:
    lines["ghost batch norm"] = f"over {config.batch_norm.ghost} examples"
  return lines
