"""What is known of a metric beside its values: which way is better, and how it is written."""

import dataclasses
from collections.abc import Iterable
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric of a task. What monitors, chooses or prints it asks here, and guesses nothing."""

  name: str  # as in the task's collection
  better: Literal["max", "min"]
  form: str = ".4g"  # of its value in words, as format() takes it
  headline: bool = False  # stands in the line of an evaluation and in the result


def named(weights: str, name: str) -> str:
  """The name of a metric of some weights: of "raw" its own, of an average with that in front."""
  return name if weights == "raw" else f"{weights}_{name}"


def of_weights(metrics: Iterable[Metric], weights: Iterable[str]) -> dict[str, Metric]:
  """The metrics of each of the weights, by `named`."""
  metrics = tuple(metrics)
  return {named(w, metric.name): metric for w in weights for metric in metrics}
