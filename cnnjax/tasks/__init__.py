"""What is learnt. A task owns its targets, its loss and its metrics."""

import numpy as np
from clu import metrics
from ml_collections import ConfigDict

from cnnjax.config import keys
from cnnjax.errors import UserError, unknown
from cnnjax.optim.averaging import WEIGHTS
from cnnjax.tasks import weights
from cnnjax.tasks.base import Task
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.metric import Metric, of_weights
from cnnjax.tasks.multi_label import MultiLabel

TASKS = {"classification": Classification, "multi_label": MultiLabel}
SOME_READ = ("focal_gamma", "logit_adjustment", "target_threshold")  # keys of some losses alone


def check(config: ConfigDict) -> None:
  """Raises UserError for a name that is not there, and for keys that the task's loss does not read.

  `config` is the group `task`.
  """
  if config.name not in TASKS:
    raise unknown("task", config.name, TASKS)
  task = TASKS[config.name]
  if (loss := config.loss or task.loss_name) not in task.LOSSES:
    raise unknown(f"loss of {config.name}: task.loss", loss, task.LOSSES)
  weights.check(config.class_weights)
  defaults = keys.default().task
  for key in SOME_READ:
    if config[key] != defaults[key] and key not in task.LOSSES[loss]:
      readers = [name for name, read in task.LOSSES.items() if key in read]
      choices = f"set task.loss={' or '.join(readers)}, or leave" if readers else "leave"
      raise UserError(
        f"task.{key}={config[key]} is not read by task.loss={loss} of task.name={config.name}; "
        f"{choices} it at {defaults[key]}"
      )
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
  fields = {key: value for key, value in config.items() if key not in ("name", "loss")}
  task = TASKS[config.name]
  loss = config.loss or task.loss_name
  return task(num_classes=num_classes, loss_name=loss, counts=counts, examples=examples, **fields)


def compute(collection: metrics.Collection) -> dict[str, float]:
  """The values of summed metrics, with the seven digits that float32 holds."""
  return {name: float(f"{float(value):.7g}") for name, value in collection.compute().items()}


def monitored(config: ConfigDict) -> Metric:
  """Returns the metric that is monitored, as the task declares it. Takes the whole config.

  Raises:
    UserError: the task declares no such metric, so that nobody knows which way is better.
  """
  task = TASKS[config.task.name]
  declared = of_weights(task.METRICS, WEIGHTS)
  if (name := config.monitor.removeprefix("validation/")) not in declared:
    names = [f"validation/{name}" for name in declared]
    raise UserError(
      f"{unknown('metric: monitor', config.monitor, names)}. Another one has to be declared, with "
      f"the direction that is better, in METRICS of {task.__name__}"
    )
  return declared[name]
