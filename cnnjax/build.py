"""Builds a run from its config: the one place for training, evaluation, plans and pictures."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnnjax import augment, data, models, optim, registry, tasks, transfer
from cnnjax.checkpoints import trained_on
from cnnjax.config import check_values, import_parts, keys
from cnnjax.errors import UserError
from cnnjax.optim import averaging, joined
from cnnjax.runtime import profiling, sharding
from cnnjax.runtime.paths import to_path
from cnnjax.training import members, monitor, state, stepping
from cnnjax.training.program import Program
from cnnjax.training.teacher import Teacher


def validate(config: ConfigDict) -> None:
  """Raises UserError for the first wrong key or value; downloads and compiles nothing.

  Imports the modules of `config.imports`, and adds missing keys of their parts with defaults.
  """
  import_parts(config)  # parts bring keys
  check_values(config)
  _check_names(config)


def _check_names(config: ConfigDict) -> None:
  """Raises UserError for a name in `config` that its room does not know."""
  for key, why in (("num_classes", "the data say it"), ("dtype", "it is the key 'dtype'")):
    if key in config.model:
      raise UserError(f"config key 'model.{key}' cannot be set: {why}")
  models.create(**config.model, num_classes=2, dtype=config.dtype)
  data.check(config.data)
  augment.parse(config.augment)
  augment.views.parse(config.eval_views)
  tasks.check(config.task)
  optim.check(config.optim)
  joined.check(config, _check_optimizer)
  members.check(config)
  monitor.check(config)
  stepping.check(config)
  _check_batches(config)
  _check_teacher(config)


def _check_optimizer(config: ConfigDict) -> None:
  """Raises UserError for wrong settings of one of several optimizers, `config.optim`."""
  check_values(config)
  optim.check(config.optim)


def _check_teacher(config: ConfigDict) -> None:
  """Raises UserError if a run shall learn from its own average but keeps none."""
  if config.distill.teacher is None:
    return
  given = f"distill.teacher={config.distill.teacher!r}"
  if config.distill.workdir is not None:
    raise UserError(f"distill.workdir and {given} both name a teacher: leave one of them at None")
  if config.average.ema is None:
    raise UserError(f"{given} is the moving average of this run: set average.ema, such as 0.999")


def _check_batches(config: ConfigDict) -> None:
  """Raises UserError for batch sizes that do not fit each other."""
  if config.batch_size % config.accumulate:
    raise UserError(
      f"accumulate={config.accumulate} does not divide batch_size={config.batch_size} into "
      "micro-batches of one size"
    )
  micro, ghost = config.batch_size // config.accumulate, config.batch_norm.ghost
  if ghost and micro % ghost:
    raise UserError(
      f"batch_norm.ghost={ghost} does not divide the {micro} examples of a micro-batch "
      "(batch_size / accumulate)"
    )
  if config.batch_norm.accumulated == "matched" and (config.accumulate == 1 or ghost):
    raise UserError(
      "batch_norm.accumulated=matched needs accumulate above 1, and no batch_norm.ghost"
    )
  if config.loss_scale.initial > config.loss_scale.maximum:
    raise UserError(
      f"loss_scale.initial={config.loss_scale.initial} is above "
      f"loss_scale.maximum={config.loss_scale.maximum}"
    )


def build(
  config: ConfigDict,
  given: dict[str, data.Split] | None = None,
  teacher: Teacher | None = None,
  before: data.History | None = None,
  pretrained: transfer.Pretrained | None = None,
) -> Program:
  """Builds the program of a run: loads its data and makes its parts; compiles nothing.

  Arguments are those of `train.train`, but the teacher of `distill.workdir` has to be given, from
  `trained.teacher`; `before` is what the run was trained on so far, and `pretrained` the network
  that a new run begins with, from `trained.with_init`.

  Raises:
    UserError: the parts do not fit each other.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  peak = optim.schedules.scaled_rate(config.optim, config.batch_size)
  peaks = [peak * rate / config.optim.learning_rate for rate in config.rates] or [peak]
  runs = members.create(config)
  seeds = runs.seeds if runs.several else ()
  counted = tasks.needs_counts(config.task) or config.data.sampling != data.order.UNIFORM
  needs = tasks.lookup(config.task.name).NEEDS
  inputs = data.open_inputs(
    config, mesh, given, seeds=seeds, counted=counted, before=before, needs=needs
  )
  task = tasks.of_data(
    config.task, inputs.fields, counts=inputs.counts, examples=len(inputs.train.split)
  )
  _check_task(config, task, inputs)
  model = tasks.network(task, config)
  variables = state.abstract_variables(model, inputs.image_shape, mesh)
  state.check_sizes(model, variables, inputs.image_shape, inputs.sizes)
  params = variables["params"]
  depths = state.depths(model, inputs.image_shape)
  optimizer, schedules, words = _optimizers(config, inputs, params, depths)
  start = _start(config, pretrained, variables, model, inputs)
  frozen = optim.masks.frozen(config.optim, params) if config.optim.freeze else None
  averages = averaging.create(
    config.average, config.optim, inputs.length.total, inputs.length.to_steps
  )
  profiling.check(config.profile, inputs.length.total)
  monitor.check_metric(config.monitor, task.eval_metric_names, averages.names)
  teacher = _teacher(config.distill, teacher, model, inputs)
  inputs.meta.update(total_steps=inputs.length.total, steps_per_epoch=inputs.length.steps_per_epoch)
  program = Program(
    config=config,
    mesh=mesh,
    inputs=inputs,
    members=runs,
    model=model,
    task=task,
    schedules=schedules,
    optimizer=optimizer,
    averages=averages,
    teacher=teacher,
    frozen=frozen,
    start=start and start.variables,
    summary={
      "model": f"{config.model.name}, {state.count(params):,} parameters, {config.dtype}",
      **(start.summary if start else {}),
      **inputs.summary,
      **_against_imbalance(config, task, inputs),
      "devices": sharding.describe(mesh, config.batch_size),
      **sharding.describe_parts(params, mesh, config.mesh),
      **runs.describe(),
      "schedule": _schedule_words(config, peaks),
      **monitor.describe(config),
      **words,
      **_frozen_statistics(variables, frozen),
      **averages.describe(),
      **(_taught(config.distill, teacher, inputs) if teacher else {}),
      **_micro_batches(config, has_batch_norm=bool(variables["batch_stats"])),
      "augment": config.augment or "none",
    },
  )
  if config.step.name != stepping.STANDARD or _has_parts_from_outside(config, task):
    program.check_step()
  program.pictures.check()
  return program


def _has_parts_from_outside(config: ConfigDict, task: tasks.Task) -> bool:
  """Returns whether a module of a user brought the task, its loss or one of its metrics."""
  parts = [registry.part("task", config.task.name)]
  parts += [registry.part("loss", task.loss_name, task.name)] if task.loss_name else []
  parts += [registry.part("metric", name, task.name) for name in task.more_metrics]
  return any(not part.module.startswith("cnnjax.") for part in parts)


def _check_task(config: ConfigDict, task: tasks.Task, inputs: data.Inputs) -> None:
  """Raises UserError for keys of the run that its task does not allow."""
  name = f"task.name={config.task.name}"
  augment.check(config.augment, task.kinds, inputs.image_shape[-1])
  augment.views.check(config.eval_views, task.kinds)
  if config.accumulate > 1 and task.LOSS_OVER_BATCH:
    raise UserError(
      f"accumulate={config.accumulate} splits a batch, but the loss of {name} compares all its "
      "examples: set accumulate=1"
    )
  if config.health.trace and task.VIEWS > 1:
    raise UserError(
      f"health.trace needs one view per image, but {name} has {task.VIEWS}: set it to False"
    )
  if task.NEEDS_TEACHER and not (config.distill.teacher and config.distill.weight == 1):
    raise UserError(
      f"{name} learns only from the moving average of its own run: set distill.teacher=ema, "
      "distill.weight=1 and average.ema, such as 0.99"
    )
  if (config.distill.workdir or config.distill.teacher) and not task.can_distill():
    raise UserError(f"{name} has no loss toward a teacher: leave out the keys of distill")


def _optimizers(
  config: ConfigDict, inputs: data.Inputs, params: Any, depths: Any
) -> tuple[Any, dict[str, Any], dict[str, str]]:
  """Returns the optimizer of a run, joined from several if it has several.

  Returns:
    The optimizer; the schedules by name, step -> learning rate, that of `config.optim` first; and
    lines of the summary.
  """
  own, length = joined.settings(config), inputs.length
  shares = joined.shares(own, params) if own else {}
  made, schedules, words = {}, {}, {}
  for name, each in {joined.MAIN: config, **{k: one.config for k, one in own.items()}}.items():
    settings, peak = each.optim, optim.schedules.scaled_rate(each.optim, config.batch_size)
    share = joined.share_of(shares[name], params) if own else params
    schedules[name] = optim.schedules.create(settings.schedule, peak, length.total, length.to_steps)
    made[name] = optim.create(settings, schedules[name], share, depths, seed=config.seed)
    for key, text in optim.describe(settings, share, depths).items():
      words[key if name == joined.MAIN else f"{name} {key}"] = text
  every = {name: one.every for name, one in own.items()}
  return (joined.join(made, shares, every) if own else made[joined.MAIN]), schedules, words


def _schedule_words(config: ConfigDict, peaks: list[float]) -> str:
  """Returns the schedule and its largest rates in words."""
  scaling = optim.schedules.describe_scaling(config.optim, config.batch_size)
  return optim.schedules.describe(config.optim.schedule, peaks, "" if config.rates else scaling)


def _start(
  config: ConfigDict,
  pretrained: transfer.Pretrained | None,
  variables: Any,
  model: Any,
  inputs: data.Inputs,
) -> transfer.Start | None:
  """Returns the values that a new run begins with, if it begins with those of a trained network."""
  if pretrained is None:
    return None
  shape, classes = inputs.image_shape, inputs.classes
  start = transfer.adapt(pretrained, variables, shape, model, classes, config.init.head)
  record = pretrained.preprocessing
  others = {k: config.data[k] for k, v in record.keys.items() if config.data[k] != v}
  text = f"as the weights take them: {record.words}"
  if others:
    text += f"; but {', '.join(f'data.{key}={value}' for key, value in others.items())}"
  return start._replace(summary={**start.summary, "images": text})


def _teacher(
  config: ConfigDict, given: Teacher | None, model: Any, inputs: data.Inputs
) -> Teacher | None:
  """Returns the teacher that is given, checked, or the average of this run as its teacher."""
  if given is not None:
    given.check(inputs.meta, inputs.sizes)
    inputs.meta.update({"teacher_step": given.step} if given.step is not None else {})
    return given
  if config.workdir is not None:
    raise UserError(f"distill.workdir={config.workdir!r}: give build trained.teacher(config)")
  own = config.teacher is not None
  return Teacher.own(model, inputs.meta["mean"], inputs.meta["std"]) if own else None


def _frozen_statistics(variables: Any, frozen: Any) -> dict[str, str]:
  """Returns the line of the summary on batch norms that are frozen with their parameters."""
  if frozen is None or not variables["batch_stats"]:
    return {}
  norms = models.batch_stats.modules(variables["batch_stats"])
  still = models.batch_stats.frozen_modules(variables["params"], variables["batch_stats"], frozen)
  return {
    "statistics": f"{sum(map(still, norms))} of {len(norms)} batch norms are frozen: they "
    "normalise by their running statistics, which do not change"
  }


def _against_imbalance(config: ConfigDict, task: tasks.Task, inputs: data.Inputs) -> dict[str, str]:
  """Returns a line on the weight of classes where several keys act against their imbalance."""
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
  weighed /= counts[present] ** float(tau)  # arXiv:2007.07314: equals weights of 1 / prior^tau
  small, large = counts[present].argmin(), counts[present].argmax()
  names = [inputs.classes[i] for i in present[[small, large]]]
  return {
    "imbalance": f"{' and '.join(key for key, acts in acting.items() if acts)} act together: "
    f"{names[0]} (smallest class) has {weighed[small] / weighed[large]:.3g} times the weight of "
    f"{names[1]} (largest) in the loss; usually one of them is used alone"
  }


def _taught(config: ConfigDict, teacher: Teacher, inputs: data.Inputs) -> dict[str, str]:
  """Returns lines on the teacher, and on evaluation images that it was trained on."""
  lines = {
    "teacher": f"{teacher.text}; weight {config.weight:g}, temperature {config.temperature:g}"
  }
  if config.workdir is not None:
    before = trained_on.read(to_path(config.workdir))
    for name, batches in inputs.evaluations.items():
      if overlap := before.overlap(batches.split, "the teacher"):
        lines[f"taught {name}"] = f"{overlap}: the run may learn from it what it knows of them"
  return lines


def _micro_batches(config: ConfigDict, *, has_batch_norm: bool) -> dict[str, str]:
  """Returns lines on micro-batches and ghost batch norm.

  Raises:
    UserError: a key of batch norm is set, and the model has none.
  """
  lines, standard = {}, keys.default().batch_norm
  for key in ("ghost", "accumulated", "precise"):
    if not has_batch_norm and (value := config.batch_norm[key]) != standard[key]:
      raise UserError(
        f"batch_norm.{key}={value!r} has no effect: {config.model.name} has no batch norm with "
        f"these options; leave it at {standard[key]!r}"
      )
  if config.accumulate > 1:
    how = "once per step" if config.batch_norm.accumulated == "matched" else "by each of them"
    norm = f"; batch norm normalises within each, and its running statistics are updated {how}"
    lines["micro-batches"] = f"{config.accumulate} of {config.batch_size // config.accumulate}" + (
      norm if has_batch_norm else ""
    )
  if config.batch_norm.ghost:
    lines["ghost batch norm"] = f"over {config.batch_norm.ghost} examples"
  return lines
