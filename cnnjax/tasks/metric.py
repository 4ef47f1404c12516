"""Describes metrics: the direction that is better, their names, their values in words."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from cnnjax.errors import UserError, unknown

WEIGHTS = ("raw", "ema", "swa", "schedule_free")  # the weights to evaluate; raw: the trained ones
OF_RUN = re.compile(r"(.+)/((?:seed|rate)=[^/]+)")  # the name of a metric of one run of many
_OF_OLDER = re.compile(r"(.+) \((seed|rate) ([^)]+)\)")  # and as older versions wrote it


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric of a task: its direction and its format, for all that monitor, choose or print it.

  Raises:
    UserError: `better` is missing, or neither of the two, or `form` formats no number.
  """

  name: str  # as in the task's collection
  better: Literal["max", "min"] | None = None  # must be given
  form: str = ".4g"  # of its value in words, as format() takes it
  headline: bool = False  # stands in the line of an evaluation and in the result

  def __post_init__(self):
    if self.better is None:
      raise UserError(
        f"the metric {self.name!r} has no direction: give better='min' or better='max'"
      )
    if self.better not in ("min", "max"):
      raise unknown(f"direction: metric {self.name!r} is better when", self.better, ("min", "max"))
    try:
      format(0.5, self.form)
    except (TypeError, ValueError) as e:
      raise UserError(
        f"the metric {self.name!r} is written by form={self.form!r}, which formats no number: give "
        "one such as '.2%' or '.4f'"
      ) from e


def named(weights: str, name: str) -> str:
  """Returns the name of a metric of some weights: "accuracy" of "raw", "ema_accuracy" of "ema"."""
  return name if weights == "raw" else f"{weights}_{name}"


def of_weights(metrics: Iterable[Metric], weights: Iterable[str]) -> dict[str, Metric]:
  """Returns the metrics of each of the weights, by `named`."""
  metrics = tuple(metrics)
  return {named(w, metric.name): metric for w in weights for metric in metrics}


def of_each(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
  """Returns the metrics of each run by its name; under "" those of all runs together."""
  found: dict[str, dict[str, float]] = {"": {}}
  for name, value in metrics.items():
    match = OF_RUN.fullmatch(_OF_OLDER.sub(r"\1/\2=\3", name))
    metric, run = match.groups() if match else (name, "")
    found.setdefault(run, {})[metric] = value
  return found


def in_words(values: Mapping[str, float], metrics: Mapping[str, Metric], prefix: str = "") -> str:
  """Returns values of one run, or means of seeds with their intervals, behind their names.

  Takes the values whose names begin with `prefix`, which it leaves out, in the order and form of
  `metrics`; others come last.
  """
  bare = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
  names = [name for name in dict.fromkeys([*metrics, *bare]) if name in bare]
  found = []
  for name in names:
    if name.endswith("_ci95"):
      continue
    form = metrics[name].form if name in metrics else Metric.form
    interval = f" ± {bare[f'{name}_ci95']:{form}}" if f"{name}_ci95" in bare else ""
    found.append(f"{name.replace('_', ' ')} {bare[name]:{form}}{interval}")
  return ", ".join(found)
