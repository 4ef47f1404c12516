"""What is learnt. A task owns its targets, its loss and its metrics."""

import numpy as np
from clu import metrics
from ml_collections import ConfigDict

from cnnjax.errors import unknown
from cnnjax.tasks import weights
from cnnjax.tasks.base import Task
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.multi_label import MultiLabel

TASKS = {"classification": Classification, "multi_label": MultiLabel}


def check(config: ConfigDict) -> None:
  """Raises UserError for an unknown task, or class weights that cannot be."""
  if config.name not in TASKS:
    raise unknown("task", config.name, TASKS)
  weights.check(config.class_weights)


def create(config: ConfigDict, num_classes: int, counts: np.ndarray | None = None) -> Task:
  """The task of `config.task` over `num_classes` classes.

  Args:
    config: the group `task` of the config.
    num_classes: of the data.
    counts: `[num_classes]` training examples of each class, which the loss needs where
      `class_weights` is a name. Evaluation needs none: its loss is not weighted.

  Raises:
    UserError: `class_weights` is a list of another length.
  """
  weights.check(config.class_weights, num_classes)
  fields = {key: value for key, value in config.items() if key != "name"}
  return TASKS[config.name](num_classes=num_classes, counts=counts, **fields)


def compute(collection: metrics.Collection) -> dict[str, float]:
  """The values of summed metrics, with the seven digits that float32 holds."""
  return {name: float(f"{float(value):.7g}") for name, value in collection.compute().items()}
