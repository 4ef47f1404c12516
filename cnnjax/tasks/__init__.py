"""Creates tasks: each owns its network, its targets, its loss and its metrics.

This room imports models and registry, and of data only the fields.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from clu import metrics
from ml_collections import ConfigDict

from cnnjax import models, registry
from cnnjax.data import fields
from cnnjax.data.fields import Fields
from cnnjax.errors import UserError, unknown
from cnnjax.tasks import heads, weights  # noqa: F401 - registers the heads
from cnnjax.tasks.base import Fitted, Task, declared_metrics
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.labels import LabelTask
from cnnjax.tasks.metric import WEIGHTS, Metric, of_weights
from cnnjax.tasks.multi_label import MultiLabel
from cnnjax.tasks.regression import Regression

__all__ = [
  "Classification", "Fitted", "LabelTask", "Metric", "MultiLabel", "Regression", "Task", "check",
  "check_part", "compute", "create", "lookup", "monitored", "needs_counts", "network", "of_data",
  "of_weights", "weights",
]  # fmt: skip


def lookup(name: str) -> type[Task]:
  """Returns the class of a task by its name; UserError if there is none."""
  return registry.part("task", name).value


def check_part(kind: str, name: str, value: Any, options: Mapping[str, Any]) -> None:
  """Raises UserError for a task or a metric from outside that cannot be one."""
  if kind == "metric":
    Metric(name, **options)
  elif not (isinstance(value, type) and issubclass(value, Task)):
    raise UserError(f"the task {name!r} must be a subclass of cnnjax.tasks.Task, not {value!r}")


def _check_owners() -> None:
  """Raises UserError for a loss, head or metric of a task that does not exist."""
  names = {part.value.name or name for name, part in registry.parts("task").items()}
  for kind in ("loss", "head", "metric"):
    for of, name in registry.owned(kind):
      if of not in names:
        raise unknown(f"task: the {kind} {name!r} is registered with of", of, names)


def check(config: ConfigDict) -> None:
  """Raises UserError for an unknown name, and for keys that nothing chosen reads.

  `config` is the group `task`.
  """
  _check_owners()
  task = lookup(config.name)
  fields.check_kinds(task.NEEDS, f"task.name={config.name}")
  # A task also reads the keys of the tasks that it is derived from.
  kin = [name for name, part in registry.parts("task").items() if issubclass(task, part.value)]
  registry.check_idle("task", (config.name, *(n for n in kin if n != config.name)), config)
  of = task.name or config.name
  if loss := config.loss or task.loss_name:
    registry.part("loss", loss, of)
  if head := config.head or task.head:
    registry.part("head", head, of)
  registry.check_idle("head", (head,), config, of)
  registry.check_idle("loss", (loss,), config, of)
  _check_metrics(task, config)
  registry.check_idle("metric", config.metrics, config, of)
  weights.check(config.class_weights)
  if config.target_threshold is not None and config.label_smoothing:
    raise UserError(
      f"task.target_threshold={config.target_threshold} makes each target 0 or 1, and "
      f"task.label_smoothing={config.label_smoothing} neither; set one of them"
    )


def _check_metrics(task: type[Task], config: ConfigDict) -> None:
  """Raises UserError for metrics of a task that are declared wrongly, or twice."""
  for one in (*task.METRICS, *task.SPLIT_METRICS):
    if not isinstance(one, Metric):
      raise UserError(
        f"METRICS and SPLIT_METRICS of {task.__name__} hold {one!r}: write Metric({str(one)!r}, "
        "better='min'), or 'max'"
      )
  names = [metric.name for metric in declared_metrics(task, config.metrics)]
  if twice := [name for name in config.metrics if names.count(name) > 1]:
    raise UserError(
      f"task.metrics names {twice[0]!r}, which task.name={config.name} measures already: leave it "
      "out, or register the metric under another name"
    )


def needs_counts(config: ConfigDict) -> bool:
  """Returns whether the training loss needs the number of examples of each class."""
  return isinstance(config.class_weights, str) or config.logit_adjustment > 0


def create(
  config: ConfigDict,
  num_outputs: int,
  counts: np.ndarray | None = None,
  examples: int | None = None,
  data: Fields | None = None,
) -> Task:
  """Returns the task of `config.task`.

  Args:
    config: the group `task` of the config.
    num_outputs: of the network; the number of classes, if there are classes.
    counts: `[num_classes]` training examples of each class, which the loss needs where
      `needs_counts`. Evaluation needs none: its loss is plain.
    examples: for training, likewise.
    data: the fields of the data.

  Raises:
    UserError: `class_weights` is a list of another length.
  """
  weights.check(config.class_weights, num_outputs)
  task = lookup(config.name)
  given = {
    **config,
    "num_outputs": num_outputs,
    "loss_name": config.loss or task.loss_name,
    "head": config.head or task.head,
    "config": config,
    "more_metrics": tuple(config.metrics),
    "counts": counts,
    "examples": examples,
    "data": data,
  }
  names = {field.name for field in dataclasses.fields(task)} - {"name"}
  return task(**{key: value for key, value in given.items() if key in names})


def of_data(config: ConfigDict, data: Fields, **rest: Any) -> Task:
  """Returns `create` for data with these fields; `rest` are its other arguments.

  Raises:
    UserError: the data lack a kind that the task needs, or do not fit it.
  """
  task = lookup(config.name)
  fields.check(task.NEEDS, data, f"task.name={config.name}")
  task.check_data(data)
  return create(config, task.count_outputs(data, config), data=data, **rest)


def network(task: Task, config: ConfigDict) -> nn.Module:
  """Returns the network of a task. Takes the whole config.

  Raises:
    UserError: the task puts a head on a model that has no feature maps.
  """

  def backbone(outputs: int) -> nn.Module:
    model = models.create(**config.model, num_classes=outputs, dtype=config.dtype)
    if not outputs and not hasattr(model, "feature_maps"):
      raise UserError(
        f"model.name={config.model.name} cannot take the head of task.name={config.task.name}, "
        f"which needs feature maps: derive {type(model).__name__} from cnnjax.models.Backbone, or "
        "choose another model"
      )
    return model

  return task.network(backbone)


def compute(collection: metrics.Collection) -> dict[str, float]:
  """Returns the values of summed metrics, with the seven digits that float32 holds."""
  return {name: float(f"{float(value):.7g}") for name, value in collection.compute().items()}


def monitored(config: ConfigDict) -> Metric:
  """Returns the monitored metric, as the task declares it. Takes the whole config.

  Raises:
    UserError: the task declares no such metric, so its direction is unknown.
  """
  task = lookup(config.task.name)
  known = of_weights(declared_metrics(task, config.task.metrics), WEIGHTS)
  if (name := config.monitor.removeprefix("validation/")) not in known:
    names = [f"validation/{metric.name}" for metric in declared_metrics(task, config.task.metrics)]
    if not names:
      raise UserError(
        f"monitor={config.monitor!r} is no metric of task.name={config.task.name}, which declares "
        f"none: list them in METRICS of {task.__name__}, such as Metric('loss', better='min')"
      )
    raise UserError(
      f"{unknown('metric: monitor', config.monitor, names)}; with task.name={config.task.name} "
      f"set monitor={names[0]}, or one of an average, such as "
      "validation/ema_loss. Another one has to be declared, with "
      f"the direction that is better, in METRICS of {task.__name__}, or registered and named in "
      "task.metrics"
    )
  return known[name]
