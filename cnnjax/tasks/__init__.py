"""What is learnt. A task owns its targets, its loss and its metrics."""

import dataclasses

import numpy as np
from clu import metrics
from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.errors import UserError, unknown
from cnnjax.optim.averaging import WEIGHTS
from cnnjax.tasks import weights
from cnnjax.tasks.base import Task, declared
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.metric import Metric, of_weights
from cnnjax.tasks.multi_label import MultiLabel

__all__ = [
  "Classification", "Metric", "MultiLabel", "Task", "check", "compute", "create", "lookup",
  "monitored", "needs_counts", "of_weights", "weights",
]  # fmt: skip


def lookup(name: str) -> type[Task]:
  """The class of the task of that name; UserError where there is none."""
  return registry.part("task", name).value


def check(config: ConfigDict) -> None:
  """Raises UserError for a name that is not there, and for keys that the task's loss does not read.

  `config` is the group `task`.
  """
  task = lookup(config.name)
  registry.check_idle("task", (config.name,), config)
  of = task.name or config.name
  if loss := config.loss or task.loss_name:
    registry.part("loss", loss, of)
  registry.check_idle("loss", (loss,), config, of)
  for name in config.metrics:
    better = registry.part("metric", name, of).options["better"]
    if better not in ("min", "max"):
      raise unknown(f"direction: metric {name!r} is better when", better, ("min", "max"))
  registry.check_idle("metric", config.metrics, config, of)
  weights.check(config.class_weights)
  if config.target_threshold is not None and config.label_smoothing:
    raise UserError(
      f"task.target_threshold={config.target_threshold} makes each target 0 or 1, and "
      f"task.label_smoothing={config.label_smoothing} neither; set one of them"
    )


def needs_counts(config: ConfigDict) -> bool:
  """Whether the training loss of `config.task` asks how many examples each class has."""
  return isinstance(config.class_weights, str) or config.logit_adjustment > 0


def create(
  config: ConfigDict,
  num_classes: int,
  counts: np.ndarray | None = None,
  examples: int | None = None,
) -> Task:
  """The task of `config.task` over `num_classes` classes.

  Args:
    config: the group `task` of the config.
    num_classes: of the data.
    counts: `[num_classes]` training examples of each class, which the loss needs where
      `needs_counts`. Evaluation needs none: its loss is plain.
    examples: for training, likewise.

  Raises:
    UserError: `class_weights` is a list of another length.
  """
  weights.check(config.class_weights, num_classes)
  task = lookup(config.name)
  names = {field.name for field in dataclasses.fields(task)} - {"name"}
  return task(
    num_classes=num_classes,
    loss_name=config.loss or task.loss_name,
    config=config,
    more_metrics=tuple(config.metrics),
    counts=counts,
    examples=examples,
    **{key: value for key, value in config.items() if key in names},
  )


def compute(collection: metrics.Collection) -> dict[str, float]:
  """The values of summed metrics, with the seven digits that float32 holds."""
  return {name: float(f"{float(value):.7g}") for name, value in collection.compute().items()}


def monitored(config: ConfigDict) -> Metric:
  """Returns the metric that is monitored, as the task declares it. Takes the whole config.

  Raises:
    UserError: the task declares no such metric, so that nobody knows which way is better.
  """
  task = lookup(config.task.name)
  known = of_weights(declared(task, config.task.metrics), WEIGHTS)
  if (name := config.monitor.removeprefix("validation/")) not in known:
    names = [f"validation/{name}" for name in known]
    raise UserError(
      f"{unknown('metric: monitor', config.monitor, names)}. Another one has to be declared, with "
      f"the direction that is better, in METRICS of {task.__name__}, or registered and named in "
      "task.metrics"
    )
  return known[name]
