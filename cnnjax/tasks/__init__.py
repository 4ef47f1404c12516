"""What is learnt. A task owns its targets, its loss and its metrics."""

from typing import Any

from clu import metrics
from ml_collections import ConfigDict

from cnnjax.errors import unknown
from cnnjax.tasks.classification import Classification

TASKS = {"classification": Classification}


def check(config: ConfigDict) -> None:
  """Raises UserError for an unknown task."""
  if config.name not in TASKS:
    raise unknown("task", config.name, TASKS)


def create(config: ConfigDict, num_classes: int) -> Any:
  """The task of `config.task` over `num_classes` classes."""
  fields = {key: value for key, value in config.items() if key != "name"}
  return TASKS[config.name](num_classes=num_classes, **fields)


def compute(collection: metrics.Collection) -> dict[str, float]:
  """The values of summed metrics, with the seven digits that float32 holds."""
  return {name: float(f"{float(value):.7g}") for name, value in collection.compute().items()}
