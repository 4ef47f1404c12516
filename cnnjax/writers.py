"""What one sees of a run: the console, metrics.jsonl and TensorBoard events, behind one class."""

import datetime
import json
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import rich.console
import rich.progress

from cnnjax import tasks

# Where there is a torch, tensorboardX imports it, for writers that are not used here: seconds at
# start-up, and a second framework in the process. None in its place says that there is none.
_hidden = sys.modules.setdefault("torch", None) is None
import tensorboardX  # noqa: E402

if _hidden:
  del sys.modules["torch"]

METRICS = "metrics.jsonl"
UNREADABLE = "unreadable.txt"
PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal
PEEK_EVERY = 0.5  # seconds between looks at the loss for the progress bar


class Writers:
  """Writes metrics to files and shows them; on a terminal with a progress bar.

  Args:
    folder: the workdir.
    start: the step the run starts or goes on from. Lines of later steps are of work that was
      lost with the process that did it, and are dropped: it will be done again.
    total: the steps of the whole run.
    steps_per_epoch: to show epochs.
    batch_size: to show images per second.
  """

  def __init__(
    self, folder: pathlib.Path, start: int, total: int, steps_per_epoch: int, batch_size: int
  ):
    self._total, self._steps_per_epoch, self._batch_size = total, steps_per_epoch, batch_size
    self._console = rich.console.Console(highlight=False, soft_wrap=True, emoji=False)
    self.latest: dict[str, float] = {}  # the newest value of every metric
    kept = [line for line in read_metrics(folder) if line["step"] <= start]
    for line in kept:
      self.latest |= line
    whole = folder / f"{METRICS}.new"  # so that a kill here loses no line
    whole.write_text("".join(json.dumps(line) + "\n" for line in kept))
    whole.replace(folder / METRICS)
    self._file = (folder / METRICS).open("a", buffering=1)
    self._events = tensorboardX.SummaryWriter(  # the suffix: a file of that second may be there
      str(folder), purge_step=start + 1, filename_suffix=f".{start}"
    )
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TimeRemainingColumn(),
      rich.progress.TextColumn("{task.fields[status]}"),
      console=self._console,
      transient=True,
    )
    self._folder, self._named = folder, set()
    self._task = self._bar.add_task("compiling", total=total, completed=start, status="")
    self._began = self._shown = self._clock = time.monotonic()
    self._began_at = self._clock_step = start
    self._compiled = False
    self._ready, self._ready_at = self._began, start  # when and where compiling was done

  def __enter__(self) -> "Writers":
    if self._console.is_terminal:
      self._bar.start()
    return self

  def __exit__(self, *exception: Any) -> None:
    self._stop_bar()
    self._file.close()
    self._events.close()

  def _stop_bar(self) -> None:
    if self._bar.live.is_started:
      self._bar.stop()

  def say(self, text: str) -> None:
    """A line for the person who watches."""
    self._console.print(text, markup=False)

  def block(self, lines: Mapping[str, str]) -> None:
    """The start-up block, a name and a text a line, and where the run stands."""
    width = max(map(len, lines))
    for name, text in lines.items():
      self.say(f"  {name:<{width}}  {text}")
    if self._began_at >= self._total:
      self.say(f"this run is finished: step {self._began_at:,} of {self._total:,} is done")
    elif self._began_at:
      self.say(f"going on from step {self._began_at:,}")

  def name_unreadable(self, skipped: Mapping[str, str]) -> None:
    """Says which images could not be read, new ones, and lists them in the workdir."""
    if len(skipped) == len(self._named):
      return
    new = {name: reason for name, reason in list(skipped.items()) if name not in self._named}
    for name, reason in new.items():
      self.say(f"skipped, cannot be read: {name}: {reason}")
    self._named |= new.keys()
    file = self._folder / UNREADABLE  # with those that the run met before it stopped and went on
    lines = set(file.read_text().splitlines()) if file.exists() else set()
    lines |= {f"{name}\t{' '.join(reason.split())}" for name, reason in new.items()}
    file.write_text("".join(f"{line}\n" for line in sorted(lines)))

  def restart_clock(self, step: int) -> None:
    """From here on time counts as training: call it after compiling, evaluating, saving."""
    self._clock, self._clock_step = time.monotonic(), step

  def progress(self, step: int, window: Any, schedule: Callable) -> None:
    """Moves the bar, or prints a line now and then; reads the loss only to show it."""
    if not self._compiled:
      self._compiled = True
      self.say(f"compiled in {time.monotonic() - self._began:.1f} s")
      self.restart_clock(step)
      self._ready, self._ready_at = self._clock, step
    now = time.monotonic()
    if self._console.is_terminal:
      epoch = -(-step // self._steps_per_epoch)
      self._bar.update(self._task, completed=step, description=f"epoch {epoch}")
    if now - self._shown < (PEEK_EVERY if self._console.is_terminal else PLAIN_EVERY):
      return
    done = max(step - self._ready_at, 1)
    seconds = (now - self._ready) / done * (self._total - step)
    status = (
      f"loss {tasks.compute(window)['loss']:.4f}, learning rate "
      f"{float(schedule(step - 1)):.3g}, {self._rate(step):,.0f} images/s"
    )
    if self._console.is_terminal:
      self._bar.update(self._task, status=status)
    else:
      left = datetime.timedelta(seconds=round(seconds))
      self.say(f"step {step:,} of {self._total:,}: {status}, {left} left")
    self._shown = time.monotonic()

  def _rate(self, step: int) -> float:
    """Images per second of training since the clock was restarted."""
    seconds = max(time.monotonic() - self._clock, 1e-9)
    return (step - self._clock_step) * self._batch_size / seconds

  def write_training(self, step: int, window: Any, schedule: Callable) -> None:
    """The training metrics since the last such line, the learning rate and the speed."""
    metrics = {f"train/{name}": value for name, value in tasks.compute(window).items()}
    speed = {"images_per_second": self._rate(step)} if step > self._clock_step else {}
    self._write(step, {**metrics, "learning_rate": float(schedule(step - 1)), **speed})

  def write_evaluation(
    self, step: int, split: str, metrics: Mapping[str, float]
  ) -> dict[str, float]:
    """The metrics of a split; returns them under their full names."""
    named = {f"{split}/{name}": value for name, value in metrics.items()}
    self._write(step, named)
    train = f", train loss {self.latest['train/loss']:.4f}" if "train/loss" in self.latest else ""
    self.say(
      f"epoch {step / self._steps_per_epoch:g} of {self._total / self._steps_per_epoch:g}: "
      f"{split} accuracy {metrics['accuracy']:.2%}, loss {metrics['loss']:.4f}{train}"
    )
    return named

  def _write(self, step: int, metrics: Mapping[str, float]) -> None:
    line = {"step": step, "epoch": round(step / self._steps_per_epoch, 6), **metrics}
    self.latest |= line
    self._file.write(json.dumps(line) + "\n")
    for name, value in metrics.items():
      self._events.add_scalar(name, value, step)

  def report(
    self, folder: pathlib.Path, step: int, best: int | None, stopped_by: list[signal.Signals]
  ) -> None:
    """The last words: the result, and where things are."""
    self._stop_bar()
    if step < self._total:
      self.say(
        f"stopped by {stopped_by[0].name} and saved at step {step:,} of {self._total:,}; "
        f"the same command with --workdir={folder} goes on from there"
      )
      return
    took = datetime.timedelta(seconds=round(time.monotonic() - self._began))
    did = f"trained {step - self._began_at:,} steps in {took}. " if step > self._began_at else ""
    if "test/accuracy" in self.latest:
      self.say(
        f"{did}test accuracy {self.latest['test/accuracy']:.2%}, "
        f"loss {self.latest['test/loss']:.4f}, last step"
      )
    else:  # `epochs` was lowered below where the run stopped, or metrics.jsonl is gone
      self.say(f"{did}the test split was not evaluated")
    if best is not None:
      self.say(f"best by validation: step {best:,} (evaluate it with --checkpoint=best)")
    self.say(f"in {folder}: config.json, metrics.jsonl, checkpoints/, TensorBoard events")
    self.say(f"evaluate with: python -m cnnjax.evaluate --workdir={folder}")


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
  """The lines of a run's metrics.jsonl; a last line that was cut off by a kill is left out."""
  file = folder / METRICS
  lines = file.read_text().splitlines() if file.is_file() else []
  found = []
  for line in lines:
    try:
      metrics = json.loads(line)
    except json.JSONDecodeError:
      break
    if not isinstance(metrics, dict) or "step" not in metrics:
      break
    found.append(metrics)
  return found
