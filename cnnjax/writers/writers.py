"""The writers of a run, which the loop calls to show its metrics and to keep them."""

import contextlib
import math
import pathlib
import signal
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnnjax.checkpoints import workdir
from cnnjax.errors import TransientError, number
from cnnjax.runtime import compiling, processes, profiling
from cnnjax.tasks.metric import Metric, named
from cnnjax.training import diagnose, health, pictures
from cnnjax.training.program import Program
from cnnjax.writers import grid, metrics_file, results
from cnnjax.writers.display import Display
from cnnjax.writers.meter import Meter
from cnnjax.writers.sinks import PARTIAL, PictureSink, Sink
from cnnjax.writers.tensorboard import TensorBoard
from cnnjax.writers.unreadable import Unreadable


def open_sinks(
  folder: pathlib.Path,
  kept: Iterable[Mapping[str, float]],
  first_step: int,
  config: ConfigDict | None,
  headlines: Sequence[str],
) -> list[Sink]:
  """Opens the sinks of a run; a new kind of sink is one more entry here.

  Args:
    folder: the workdir.
    kept: the lines of metrics.jsonl that the run resumes after.
    first_step: of the lines to come.
    config: of the run, with every field of its model, if it is known.
    headlines: the metrics of the result, by their names in metrics.jsonl.
  """
  return [
    metrics_file.MetricsFile(folder, kept),
    TensorBoard(folder, first_step, config, headlines),
  ]


def _headlines(program: Program) -> list[str]:
  """Returns the metrics of the result: on each split, and of each of several rates."""
  metrics, names = program.metrics, program.members.names
  runs = [f"/{name}" for name in names] if program.config.rates else [""]
  shown = [name for name, metric in metrics.items() if metric.headline] or [*metrics]
  splits = program.inputs.evaluations
  return [f"{split}/{name}{run}" for name in shown for split in splits for run in runs]


class Writers:
  """Shows the metrics of a run and writes them to the sinks.

  The first process does so; the others take part in silence.

  Args:
    folder: the workdir.
    start: the step that the run starts or resumes at. Lines of later steps are dropped: they were
      lost with their process, and will be taken again.
    total: the steps of the whole run.
    steps_per_epoch: to show epochs.
    batch_size: to show images per second.
    watch: reads each line and returns warnings; None warns of nothing.
    devices: the number that share a batch.
    profile: `config.profile`; None traces no steps.
    clock: of compiling since the run began; None starts one now.
    metrics: of the task and of the weights that are evaluated, by name; prints the headlines.
    monitor: the metric that chooses the best of several learning rates.
    config: of the run, with every field of its model, for sinks that show it.
    headlines: the metrics of the result, by their names in metrics.jsonl.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    start: int,
    total: int,
    steps_per_epoch: int,
    batch_size: int,
    watch: health.Watch | None = None,
    *,
    devices: int = 1,
    profile: ConfigDict | None = None,
    clock: compiling.Clock | None = None,
    metrics: Mapping[str, Metric] = types.MappingProxyType({}),
    monitor: str = "",
    config: ConfigDict | None = None,
    headlines: Sequence[str] = (),
  ):
    first = processes.is_first()
    self._steps_per_epoch, self._watch = steps_per_epoch, watch
    self._results = results.Results(metrics, monitor)
    self.latest: dict[str, float] = {}  # the newest value of every metric
    self._evaluated: set[str] = set()  # the splits that are measured at the newest step
    found = [line for line in metrics_file.read_metrics(folder) if line["step"] <= start]
    kept = [line for line in found if PARTIAL not in line]
    for line in kept:
      self._note(line)
    self._before = metrics_file.set_aside(folder) if first and not start else 0
    # A partial line at `start` is taken back: the whole one follows.
    first_step = start + 1 if kept == found else start
    self._sinks = open_sinks(folder, kept, first_step, config, headlines) if first else []
    self._clipped: set[str] = set()  # pictures whose clipping was reported
    self._finished = False
    self._unwritten: tuple[int, Callable] | None = (
      None  # a step, and the function that reads its metrics
    )
    self._meter = Meter(start, total, batch_size, devices, clock)
    self._display = Display(self._meter, steps_per_epoch, folder, quiet=not first)
    self._unreadable = Unreadable(folder, self.say) if first else None
    self.trace = profiling.Trace(profile, folder, self._traced)

  @classmethod
  def of(
    cls, program: Program, folder: pathlib.Path, start: int, clock: compiling.Clock
  ) -> "Writers":
    """Returns the writers of a program; the other arguments are those of the class."""
    config, length = program.config, program.inputs.length
    return cls(
      folder,
      start,
      length.total,
      length.steps_per_epoch,
      config.batch_size,
      diagnose.watch(program),
      devices=program.mesh.size,
      profile=config.profile,
      clock=clock,
      metrics=program.metrics,
      monitor=config.monitor,
      config=workdir.resolve(config),
      headlines=_headlines(program),
    )

  def __enter__(self) -> "Writers":
    self._display.open()
    return self

  def __exit__(self, error: type[BaseException] | None = None, *_: Any) -> None:
    self._display.close()
    self.trace.close()
    try:
      self._write_rest(error)
      for sink in self._sinks:
        sink.close(finished=self._finished and error is None)
    except OSError:  # a full disk; the error that ended the run says more
      if error is None:
        raise

  def _write_rest(self, error: type[BaseException] | None) -> None:
    """Writes a line of the steps since the last one, when a run stops before the next is due.

    Marks it as partial. Writes nothing if the loss is no number, if another run may have the
    workdir by now, or if the step was broken off.
    """
    gone = error and (issubclass(error, TransientError) or not issubclass(error, Exception))
    if gone or not self._unwritten:
      return
    step, read = self._unwritten
    with contextlib.suppress(RuntimeError):  # the failed step has taken the arrays
      metrics = read()
      if math.isfinite(metrics.get("train/loss", 0.0)):
        self._put({**self._line(step, metrics), PARTIAL: True})

  def say(self, text: str) -> None:
    """Prints a line."""
    self._display.say(text)

  def block(self, lines: Mapping[str, str], *, finished: bool) -> None:
    """Prints the start-up block, a name and a text per line, and where the run begins."""
    self._display.block(lines, finished=finished, before=self._before)

  def name_unreadable(self, skipped: Mapping[str, str]) -> None:
    """Names further images that cannot be read, and lists them in the workdir."""
    if self._unreadable:
      self._unreadable.name(skipped)

  def restart_clock(self, step: int) -> None:
    """Counts the time from now on as training; call it after evaluating or saving."""
    self._meter.restart(step)

  def _traced(self, text: str, step: int) -> None:
    """Prints where a trace up to `step` is; restarts the clock, as writing it is slow."""
    self.say(text)
    self.restart_clock(step)

  def progress(self, step: int, read: Callable[[], Mapping[str, float]]) -> None:
    """Moves the bar, or prints a line now and then; calls `read` for metrics only to show them."""
    self._unwritten = step, read
    if self._meter.advance(step):
      self.say(self._meter.describe_compiling())
    self._display.progress(step, read)

  def write_training(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the training metrics since the last such line, and the speed."""
    self._unwritten, meter = None, self._meter
    speed = {"images_per_second": meter.rate(step)} if meter.timed(step) else {}
    self.write(step, {**metrics, **speed})

  def write_evaluation(
    self,
    step: int,
    split: str,
    weights: str,
    metrics: Mapping[str, float],
    *,
    of: int | None = None,
  ) -> dict[str, float]:
    """Writes and prints the metrics of a split; returns them under their full names.

    `weights` is "raw" or the name of an average, which becomes a part of the metrics' names:
    validation/ema_accuracy. `of` is the step of the weights, where an earlier one was restored.
    """
    of = step if of is None else of
    found = {f"{split}/{named(weights, name)}": value for name, value in metrics.items()}
    self.write(step, found if of == step else {**found, "restored_step": of})
    steps = step, self._meter.total
    done, whole = (round(n / self._steps_per_epoch, 2) for n in steps)
    at = f"epoch {done:g} of {whole:g}" if of == step else f"best step, {of:,}"
    name = split if weights == "raw" else f"{split} of {weights}"
    lines = self._results.of_evaluation(
      at, name, metrics, self.latest, losses=of == step, chosen=split == "test"
    )
    for line in lines:
      self.say(line)
    return found

  def write_pictures(
    self, step: int, split: str, weights: str, images: Mapping[str, np.ndarray]
  ) -> None:
    """Writes pictures, which `Program.pictures` returns, to the sinks that keep such.

    Their names are those of metrics: validation/ema_samples. Each becomes one grid; what is outside
    [0, 1] is clipped, with a warning.
    """
    grids = {}
    for name, of_name in images.items() if self._sinks else ():
      full = f"{split}/{named(weights, name)}"
      if full not in self._clipped and (wrong := pictures.outside(full, of_name)):
        self._clipped.add(full)
        self.say(f"warning: {wrong}; it is clipped")
      grids[full] = grid.of(of_name)
    for sink in self._sinks:
      if grids and isinstance(sink, PictureSink):
        sink.write_pictures(step, grids)

  def has(self, step: int, split: str) -> bool:
    """Returns whether the metrics of a split at `step` have been written."""
    return self.latest.get("step") == step and split in self._evaluated

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes a line to the sinks, and prints its warnings."""
    line = self._line(step, metrics)
    for warning in self._note(line):
      self.say(f"warning: {warning}")
    self._put(line)

  def _line(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    return {"step": step, "epoch": round(step / self._steps_per_epoch, 6), **metrics}

  def _put(self, line: Mapping[str, float]) -> None:
    for sink in self._sinks:
      sink.write(line)

  def _note(self, line: Mapping[str, float]) -> list[str]:
    """Notes a line, new or old; returns its warnings."""
    if line["step"] != self.latest.get("step"):
      self._evaluated = set()
    self._evaluated |= {name.split("/")[0] for name in line}
    self.latest |= line
    return self._watch.see(line) if self._watch else []

  def report(
    self,
    folder: pathlib.Path,
    step: int,
    best: int | None,
    stopped_by: signal.Signals | None,
    *,
    restored: int | None = None,
    arrays: bool = False,
  ) -> None:
    """Prints the result, of the `restored` step or of the last one, and where it is.

    `arrays` says that the run is on arrays, which only Python can pass again.
    """
    self._display.close()
    meter, latest = self._meter, self.latest
    if stopped_by and step < meter.total:
      self.say(results.of_stop(stopped_by.name, folder, step, meter.total, arrays=arrays))
      return
    self._finished = True
    done = step - meter.start
    did = f"trained {number(done, 'step')} in {meter.took()} ({meter.describe()}). "
    if step < meter.total:
      self.say(f"stopped early, at step {step:,} of {meter.total:,}")
    self.say((did if done > 0 else "") + self._results.of_test(latest, restored))
    for line in self._results.of_best(latest, best, arrays=arrays):
      self.say(line)
    self.say(
      f"in {folder}: config.json, metrics.jsonl, trained_on.json, checkpoints/, TensorBoard events"
    )
    self.say(f"evaluate with: {results.how_to_evaluate(folder, latest, restored, arrays=arrays)}")
