"""Shows a run while it trains: the start-up block, and a bar or lines of progress."""

import math
import pathlib
import time
from collections.abc import Callable, Mapping

import rich.progress

from cnnjax.errors import warn
from cnnjax.runtime import console
from cnnjax.tasks.metric import of_each
from cnnjax.writers.meter import Meter
from cnnjax.writers.metrics_file import BEFORE

PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal
PEEK_EVERY = 0.5  # seconds between looks at the loss for the progress bar


class Display:
  """Prints lines; on a terminal moves a progress bar below them, between `open` and `close`.

  Args:
    meter: of the run.
    steps_per_epoch: to show epochs.
    folder: the workdir, named when the reader of the output leaves.
    quiet: prints nothing.
  """

  def __init__(self, meter: Meter, steps_per_epoch: int, folder: pathlib.Path, *, quiet: bool):
    self._meter, self._steps_per_epoch, self._folder = meter, steps_per_epoch, folder
    self._console = console.Console(quiet=quiet, reader_left=self._unread)
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TimeRemainingColumn(),
      rich.progress.TextColumn("{task.fields[status]}"),
      console=self._console,
      transient=True,
    )
    self._task = self._bar.add_task(
      "compiling", total=meter.total, completed=meter.start, status=""
    )
    self._shown = time.monotonic()

  def _unread(self) -> None:
    """Warns that the reader of the output left, as `| head` does; the run goes on."""
    warn(f"nobody reads the output any more; the run goes on, with its metrics in {self._folder}")

  def open(self) -> None:
    """Shows the bar on a terminal."""
    if self._console.animated:
      self._bar.start()

  def close(self) -> None:
    """Removes the bar."""
    if self._bar.live.is_started:
      self._bar.stop()

  def say(self, text: str) -> None:
    """Prints a line."""
    self._console.print(text)

  def block(self, lines: Mapping[str, str], *, finished: bool, before: int) -> None:
    """Prints the start-up block, a name and a text per line, and the step that the run begins at.

    `before` is the last step of an earlier run whose checkpoints are gone, 0 for none.
    """
    width = max(map(len, lines))
    for name, text in lines.items():
      self.say(f"  {name:<{width}}  {text}")
    start, total = self._meter.start, self._meter.total
    if finished:
      early = " (stopped early)" if start < total else ""
      self.say(f"this run is finished: step {start:,} of {total:,} is done{early}")
    elif start:
      self.say(f"going on from step {start:,}")
    elif before:
      self.say(
        f"beginning again: this run had come to step {before:,} and has no checkpoint; its "
        f"metrics are kept as {BEFORE}"
      )

  def progress(self, step: int, read: Callable[[], Mapping[str, float]]) -> None:
    """Moves the bar, or prints a line now and then; calls `read` for metrics only to show them.

    The meter must have advanced to the step.
    """
    meter, animated, now = self._meter, self._console.animated, time.monotonic()
    if animated:
      epoch = -(-step // self._steps_per_epoch)
      self._bar.update(self._task, completed=step, description=f"epoch {epoch}")
    often = PEEK_EVERY if animated else PLAIN_EVERY
    if step == meter.ready_at or now - self._shown < often:  # at first there is no speed
      return
    left, metrics = meter.left(step), read()
    loss = f"loss {text}, " if (text := _span(metrics, "train/loss", ".4f")) else ""
    rate = f"learning rate {_span(metrics, 'learning_rate', '.3g')}"
    speed = f", {meter.in_words(meter.rate(step))}" if meter.timed(step) else ""
    status = f"{loss}{rate}{speed}"
    if animated:
      self._bar.update(self._task, status=status)
    else:
      self.say(f"step {step:,} of {meter.total:,}: {status}, {left} left")
    self._shown = time.monotonic()


def _span(metrics: Mapping[str, float], name: str, form: str) -> str:
  """Returns a metric in words: of several rates the lowest and the highest that are finite."""
  each = of_each(metrics)
  found = each.values() if name not in each[""] else [each[""]]
  values = sorted(v for run in found if math.isfinite(v := run.get(name, math.nan)))
  return " to ".join(dict.fromkeys(f"{v:{form}}" for v in values[:1] + values[-1:]))
