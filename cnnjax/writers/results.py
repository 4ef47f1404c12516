"""Puts the results of a run into words: the lines of an evaluation, and the final report."""

import math
import pathlib
from collections.abc import Mapping

from cnnjax.runtime.paths import quoted
from cnnjax.tasks.metric import Metric, in_words, of_each

INTERVAL = "_ci95"  # ends the name of half the interval of a mean over seeds


class Results:
  """Chooses the metrics to print, and the best of several learning rates.

  Args:
    metrics: of the task and of the weights that are evaluated, by name; prints the headlines.
    monitor: the metric that chooses the best of several learning rates.
  """

  def __init__(self, metrics: Mapping[str, Metric], monitor: str):
    self._metrics, self._monitor = metrics, monitor

  def of_evaluation(
    self,
    at: str,
    name: str,
    metrics: Mapping[str, float],
    latest: Mapping[str, float],
    *,
    losses: bool,
    chosen: bool,
  ) -> list[str]:
    """Returns the lines of an evaluation, one for each of several rates.

    Args:
      at: its time, such as "epoch 2 of 10".
      name: of the split, and of the weights if they are an average.
      metrics: of the split, by their names without it.
      latest: the newest value of every metric.
      losses: adds the training losses of the epoch.
      chosen: returns only the line of the best of several rates, as for the test split.
    """
    each, train, prefix = of_each(metrics), of_each(latest), "train/epoch_loss"
    lines = {}
    for run, values in each.items():
      if not (main := in_words(self._headlines(values), self._metrics)):
        continue
      of_run = {k: v for k, v in train.get(run, {}).items() if k.startswith(prefix)}
      words = in_words(of_run, self._metrics, "train/epoch_") if losses else ""
      lines[run] = f"{name} {main}" + (f", train {words}" if words else "")
    if "" in lines:  # of one run, or the mean of seeds
      lines = {"": lines[""]}
    elif chosen and (rate := self.best_rate(latest)):
      lines = {rate: lines[rate]}
    if len(lines) == 1:
      ((run, text),) = lines.items()
      return [f"{at}{run and f', {run}'}: {text}"]
    width = max(map(len, lines))
    return [f"{at}:", *(f"  {run:<{width}}  {text}" for run, text in lines.items())]

  def _headlines(self, values: Mapping[str, float], prefix: str = "") -> dict[str, float]:
    """Returns the headlines among the `values` of a run; all values where none is a headline.

    Only names that begin with `prefix` count.
    """
    names = {f"{prefix}{name}" for name, metric in self._metrics.items() if metric.headline}
    found = {name: v for name, v in values.items() if name.removesuffix(INTERVAL) in names}
    return found or {name: v for name, v in values.items() if name.startswith(prefix)}

  def best_rate(self, latest: Mapping[str, float]) -> str | None:
    """Returns the name of the best of several learning rates by the monitored metric, if any.

    A rate that led to NaN does not count, though classes guessed from NaN may be right.
    """
    rates = {
      run: values[self._monitor]
      for run, values in of_each(latest).items()
      if run.startswith("rate=") and self._monitor in values
      if all(map(math.isfinite, values.values()))
    }
    if not rates:
      return None
    metric = self._metrics[self._monitor.removeprefix("validation/")]
    return {"max": max, "min": min}[metric.better](rates, key=rates.get)

  def of_test(self, latest: Mapping[str, float], restored: int | None) -> str:
    """Returns the result, of the step that was `restored` or of the last one."""
    each, rate = self._of_runs(latest), self.best_rate(latest)
    if main := self._headlines(each[rate or ""], "test/"):
      of = "last step" if restored is None else f"best step, {restored:,}"
      of += f" of {rate}" if rate else ""
      sure = " (mean, 95 % interval)" if any(name.endswith(INTERVAL) for name in main) else ""
      return f"test {in_words(main, self._metrics, 'test/')}{sure}, {of}"
    if any(self._headlines(values, "test/") for values in each.values()):
      return "no rate is chosen without a validation split: set data.validation, such as 0.1"
    # `epochs` was set below the step at which the run stopped, or metrics.jsonl is gone
    return "the test split was not evaluated"

  def of_best(self, latest: Mapping[str, float], best: int | None, *, arrays: bool) -> list[str]:
    """Returns in words the rate or the step that is the best by validation, if there is one."""
    if rate := self.best_rate(latest):
      score = {self._monitor: self._of_runs(latest)[rate][self._monitor]}
      return [f"best by validation: {rate}, {in_words(score, self._metrics, 'validation/')}"]
    chosen = "checkpoint='best'" if arrays else "--checkpoint=best"
    if best is not None:
      return [f"best by validation: step {best:,} (evaluate it with {chosen})"]
    return []

  @staticmethod
  def _of_runs(latest: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Returns the metrics of each of several runs, without a mean over rates (older versions)."""
    each = of_each(latest)
    return each | {"": {}} if any(run.startswith("rate=") for run in each) else each


def of_stop(name: str, folder: pathlib.Path, step: int, total: int, *, arrays: bool) -> str:
  """Returns in words that the signal `name` stopped a run, and how to resume it."""
  command = f"command with --workdir={quoted(folder)}"
  same = f"call with workdir={str(folder)!r}" if arrays else command
  return (
    f"stopped by {name} and saved at step {step:,} of {total:,}; the same {same} goes on from there"
  )


def how_to_evaluate(
  folder: pathlib.Path, latest: Mapping[str, float], restored: int | None, *, arrays: bool
) -> str:
  """Returns the command, or for a run on arrays the call, that evaluates the result again."""
  which = {} if restored is None else {"checkpoint": "best"}
  if "test/schedule_free_loss" in latest:  # the weights that this optimizer returns
    which["weights"] = "schedule_free"
  if arrays:
    named = "".join(f", {key}={value!r}" for key, value in which.items())
    return f"cnnjax.evaluate.evaluate_checkpoint({str(folder)!r}{named}, splits=...)"
  named = "".join(f" --{key}={value}" for key, value in which.items())
  return f"python -m cnnjax.evaluate --workdir={quoted(folder)}{named}"
