"""What one sees of a run: the console, metrics.jsonl and TensorBoard events, behind one class."""

import contextlib
import datetime
import json
import math
import os
import pathlib
import signal
import statistics
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import rich.progress
from ml_collections import ConfigDict

from cnnjax.errors import TransientError, number, warn
from cnnjax.runtime import compiling, console, processes, profiling, strict_json
from cnnjax.runtime.paths import PathLike, quoted, to_path
from cnnjax.tasks.metric import Metric, in_words, named, of_each
from cnnjax.training import health

# Where there is a torch, tensorboardX imports it, for writers that are not used here: seconds at
# start-up, and a second framework in the process. None in its place says that there is none.
_hidden = sys.modules.setdefault("torch", None) is None
from tensorboardX import event_file_writer  # noqa: E402
from tensorboardX.proto import event_pb2  # noqa: E402

if _hidden:
  del sys.modules["torch"]

METRICS = "metrics.jsonl"
BEFORE = f"{METRICS}.before"  # of a run whose checkpoints are not there
UNREADABLE = "unreadable.txt"
PARTIAL = "partial"  # marks a line that was written before it was due, as the run ended
PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal
PEEK_EVERY = 0.5  # seconds between looks at the loss for the progress bar
FLUSH_EVERY = 10.0  # seconds until TensorBoard sees what was written
TIMED = 10_000  # dispatches whose times are kept, for the median


class _Events:
  """TensorBoard events, of the steps from `start` on; those of before have files of their own.

  Written here and now: the thread of tensorboardX.SummaryWriter dies of a full disk, and then
  whoever writes waits for ever (2.6.5).
  """

  def __init__(self, folder: pathlib.Path, start: int):
    # The suffix: a file of that second may be there.
    self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{start}")
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # hides what was done in vain
    self._file.write_event(event_pb2.Event(step=start, session_log=log, wall_time=time.time()))
    self._flushed = time.monotonic()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    event = event_pb2.Event(step=step, wall_time=time.time())
    for name, value in metrics.items():  # summary.scalar would change the "=" in names of runs
      event.summary.value.add(tag=name, simple_value=value)
    self._file.write_event(event)
    if time.monotonic() - self._flushed > FLUSH_EVERY:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    self._file.close()


class Writers:
  """Writes metrics to files and shows them; on a terminal with a progress bar.

  Of several processes the first one does; the others take part in silence.

  Args:
    folder: the workdir.
    start: the step the run starts or goes on from. Lines of later steps are of work that was
      lost with the process that did it, and are dropped: it will be done again.
    total: the steps of the whole run.
    steps_per_epoch: to show epochs.
    batch_size: to show images per second.
    watch: reads each line, and says what is to be warned of; None: nothing is.
    devices: that share a batch.
    profile: `config.profile`; None: no steps are traced.
    clock: of what was compiled since the run began; None: since now.
    metrics: of the task and the weights that are evaluated, by name; the headlines are said.
    monitor: the metric that says which of several learning rates is the best.
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
  ):
    self._metrics, self._monitor = metrics, monitor
    self._total, self._steps_per_epoch, self._batch_size = total, steps_per_epoch, batch_size
    self._devices = devices
    first = processes.is_first()
    self._console = console.Console(quiet=not first, reader_left=self._unread)
    self.latest: dict[str, float] = {}  # the newest value of every metric
    self._watch = watch
    self._measured: set[str] = set()  # the splits that are measured at the newest step
    found = [line for line in read_metrics(folder) if line["step"] <= start]
    kept = [line for line in found if PARTIAL not in line]
    for line in kept:
      self._note(line)
    self._before = 0  # the step that a run had come to whose checkpoints are not there
    if first:
      if not start and (there := read_metrics(folder)) and there[-1]["step"] > 0:
        self._before = there[-1]["step"]
        if self._before > max((line["step"] for line in read_metrics(folder, BEFORE)), default=0):
          (folder / METRICS).replace(folder / BEFORE)
      whole = folder / f"{METRICS}.new"  # so that a kill here loses no line
      whole.write_text("".join(strict_json.dumps(line) + "\n" for line in kept))
      whole.replace(folder / METRICS)
    file = folder / METRICS if first else pathlib.Path(os.devnull)
    self._file = file.open("a", buffering=1)
    # A partial line at `start` is taken back: the whole one follows.
    self._events = _Events(folder, start + 1 if kept == found else start) if first else None
    self._unwritten: tuple[int, Callable] | None = None  # a step, and what reads its metrics
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
    self._compiled, self._compiling = False, clock or compiling.Clock()
    self._ready, self._ready_at = self._began, start  # when and where compiling was done
    self._mark, self._mark_step = self._began, start  # of the newest step, or what followed it
    self._times: deque[float] = deque(maxlen=TIMED)  # seconds of a step
    self.trace = profiling.Trace(profile, folder, self._traced)

  def __enter__(self) -> "Writers":
    if self._console.animated:
      self._bar.start()
    return self

  def __exit__(self, error: type[BaseException] | None = None, *_: Any) -> None:
    self._stop_bar()
    self.trace.close()
    try:
      self._write_rest(error)
      self._file.close()
      if self._events:
        self._events.close()
    except OSError:  # a full disk; what has ended the run already says so better
      if error is None:
        raise

  def _write_rest(self, error: type[BaseException] | None) -> None:
    """Writes a line of the steps since the last one, where a run ends before its next is due.

    It is marked as partial. Nothing is written where the loss is no number, where the workdir may
    be another run's by now, or where the step was broken off.
    """
    gone = error and (issubclass(error, TransientError) or not issubclass(error, Exception))
    if gone or not self._unwritten:
      return
    step, read = self._unwritten
    with contextlib.suppress(RuntimeError):  # the arrays are given away to the step that failed
      metrics = read()
      if math.isfinite(metrics.get("train/loss", 0.0)):
        self._put({**self._line(step, metrics), PARTIAL: True}, metrics)

  def _stop_bar(self) -> None:
    if self._bar.live.is_started:
      self._bar.stop()

  def say(self, text: str) -> None:
    """A line for the person who watches."""
    self._console.print(text)

  def _unread(self) -> None:
    """Says that the reader of the output left, as `| head` does: the run is worth more."""
    warn(f"nobody reads the output any more; the run goes on, with its metrics in {self._folder}")

  def block(self, lines: Mapping[str, str], *, finished: bool) -> None:
    """The start-up block, a name and a text a line, and where the run stands."""
    width = max(map(len, lines))
    for name, text in lines.items():
      self.say(f"  {name:<{width}}  {text}")
    if finished:
      early = " (stopped early)" if self._began_at < self._total else ""
      self.say(f"this run is finished: step {self._began_at:,} of {self._total:,} is done{early}")
    elif self._began_at:
      self.say(f"going on from step {self._began_at:,}")
    elif self._before:
      self.say(
        f"beginning again: this run had come to step {self._before:,} and has no checkpoint; its "
        f"metrics are kept as {BEFORE}"
      )

  def name_unreadable(self, skipped: Mapping[str, str]) -> None:
    """Says which images could not be read, new ones, and lists them in the workdir."""
    if len(skipped) == len(self._named) or not processes.is_first():
      return
    new = {name: reason for name, reason in list(skipped.items()) if name not in self._named}
    for name, reason in new.items():
      self.say(f"skipped, cannot be read: {name}: {reason}")
    self._named |= new.keys()
    file = self._folder / UNREADABLE  # with those that the run met before it stopped and went on
    any_name = {"encoding": "utf-8", "errors": "backslashreplace"}
    lines = set(file.read_text(**any_name).splitlines()) if file.exists() else set()
    lines |= {f"{name}\t{' '.join(reason.split())}" for name, reason in new.items()}
    file.write_text("".join(f"{line}\n" for line in sorted(lines)), **any_name)

  def restart_clock(self, step: int) -> None:
    """From here on time counts as training: call it after compiling, evaluating, saving."""
    self._clock, self._clock_step = self._mark, self._mark_step = time.monotonic(), step

  def _traced(self, text: str, step: int) -> None:
    """Says where a trace that ended with `step` is; writing it takes seconds."""
    self.say(text)
    self.restart_clock(step)

  def progress(self, step: int, read: Callable[[], Mapping[str, float]]) -> None:
    """Moves the bar, or prints a line now and then; metrics are `read` only to be shown."""
    now, self._unwritten = time.monotonic(), (step, read)
    if not self._compiled:
      self._compiled = True
      self.say(self._compiling.describe())
      self.restart_clock(step)
      self._ready, self._ready_at = self._clock, step
    elif step > self._mark_step:
      self._times.append((now - self._mark) / (step - self._mark_step))
    self._mark, self._mark_step = now, step
    if self._console.animated:
      epoch = -(-step // self._steps_per_epoch)
      self._bar.update(self._task, completed=step, description=f"epoch {epoch}")
    often = PEEK_EVERY if self._console.animated else PLAIN_EVERY
    if step == self._ready_at or now - self._shown < often:  # at first there is nothing to go by
      return
    seconds = (now - self._ready) / (step - self._ready_at) * (self._total - step)
    metrics = read()
    loss = f"loss {text}, " if (text := _span(metrics, "train/loss", ".4f")) else ""
    rate = f"learning rate {_span(metrics, 'learning_rate', '.3g')}"
    speed = f", {self._per_second(self._rate(step))}" if step > self._clock_step else ""
    status = f"{loss}{rate}{speed}"
    if self._console.animated:
      self._bar.update(self._task, status=status)
    else:
      left = datetime.timedelta(seconds=round(seconds))
      self.say(f"step {step:,} of {self._total:,}: {status}, {left} left")
    self._shown = time.monotonic()

  def _rate(self, step: int) -> float:
    """Images per second of training since the clock was restarted."""
    seconds = max(time.monotonic() - self._clock, 1e-9)
    return (step - self._clock_step) * self._batch_size / seconds

  def _per_second(self, rate: float) -> str:
    """Images per second in words, of all devices and of one."""
    each = f", {rate / self._devices:,.0f} on each device" if self._devices > 1 else ""
    return f"{rate:,.0f} images/s{each}"

  def _speed(self) -> str:
    """How long compiling took, and a step."""
    text = f"compiling {self._compiling.seconds:.1f} s"
    if not self._times:
      return text
    median = max(statistics.median(self._times), 1e-9)
    rate = self._per_second(self._batch_size / median)
    return f"{text}; a step {1000 * median:,.3g} ms in the median, {rate}"

  def write_training(self, step: int, metrics: Mapping[str, float]) -> None:
    """The training metrics since the last such line, and the speed."""
    self._unwritten = None
    speed = {"images_per_second": self._rate(step)} if step > self._clock_step else {}
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
    """The metrics of a split; returns them under their full names.

    `weights`: "raw", or the average that was evaluated, which then stands in the names:
    validation/ema_accuracy. `of`: the step that they are of, where one was restored.
    """
    of = step if of is None else of
    found = {f"{split}/{named(weights, name)}": value for name, value in metrics.items()}
    self.write(step, found if of == step else {**found, "restored_step": of})
    done, whole = (round(n / self._steps_per_epoch, 2) for n in (step, self._total))
    at = f"epoch {done:g} of {whole:g}"
    self._say_evaluation(at if of == step else f"best step, {of:,}", split, weights, metrics)
    return found

  def _say_evaluation(
    self, at: str, split: str, weights: str, metrics: Mapping[str, float]
  ) -> None:
    """Says the headlines: of several rates a line each, of test that of the chosen one alone."""
    each, train, prefix = of_each(metrics), of_each(self.latest), "train/epoch_loss"
    average = "" if weights == "raw" else f" of {weights}"
    lines = {}
    for run, values in each.items():
      if not (main := in_words(self._headlines(values), self._metrics)):
        continue
      losses = {k: v for k, v in train.get(run, {}).items() if k.startswith(prefix)}
      words = in_words(losses, self._metrics, "train/epoch_") if at.startswith("epoch") else ""
      lines[run] = f"{split}{average} {main}" + (f", train {words}" if words else "")
    if "" in lines:  # of one run, or the mean of seeds
      lines = {"": lines[""]}
    elif split == "test" and (rate := self._best_rate()):
      lines = {rate: lines[rate]}
    if len(lines) == 1:
      ((run, text),) = lines.items()
      self.say(f"{at}{run and f', {run}'}: {text}")
      return
    self.say(f"{at}:")
    width = max(map(len, lines))
    for run, text in lines.items():
      self.say(f"  {run:<{width}}  {text}")

  def _headlines(self, values: Mapping[str, float], prefix: str = "") -> dict[str, float]:
    """Those of the `values` of a run that are headlines; all of them where none is.

    Of values whose names begin with `prefix`.
    """
    names = {f"{prefix}{name}" for name, metric in self._metrics.items() if metric.headline}
    found = {name: v for name, v in values.items() if name.removesuffix("_ci95") in names}
    return found or {name: v for name, v in values.items() if name.startswith(prefix)}

  def _best_rate(self) -> str | None:
    """The name of the best of several learning rates by the monitored metric, if there is one.

    One that led to NaN is none, though classes that are guessed from NaN may be right.
    """
    rates = {
      run: values[self._monitor]
      for run, values in of_each(self.latest).items()
      if run.startswith("rate=") and self._monitor in values
      if all(map(math.isfinite, values.values()))
    }
    if not rates:
      return None
    metric = self._metrics[self._monitor.removeprefix("validation/")]
    return {"max": max, "min": min}[metric.better](rates, key=rates.get)

  def has(self, step: int, split: str) -> bool:
    """Whether the metrics of a split at `step` are written."""
    return self.latest.get("step") == step and split in self._measured

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """A line of metrics.jsonl, and the same for TensorBoard."""
    line = self._line(step, metrics)
    for warning in self._note(line):
      self.say(f"warning: {warning}")
    self._put(line, metrics)

  def _line(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    return {"step": step, "epoch": round(step / self._steps_per_epoch, 6), **metrics}

  def _put(self, line: Mapping[str, float], metrics: Mapping[str, float]) -> None:
    self._file.write(strict_json.dumps(line) + "\n")
    if self._events:
      self._events.write(line["step"], metrics)

  def _note(self, line: Mapping[str, float]) -> list[str]:
    """Takes in a line, new or old; returns what is to be warned of."""
    if line["step"] != self.latest.get("step"):
      self._measured = set()
    self._measured |= {name.split("/")[0] for name in line}
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
    """The last words: the result, of the step that was `restored` or the last, and where it is.

    `arrays`: the run is on arrays, which only Python can give again.
    """
    self._stop_bar()
    if stopped_by and step < self._total:
      command = f"command with --workdir={quoted(folder)}"
      same = f"call with workdir={str(folder)!r}" if arrays else command
      self.say(
        f"stopped by {stopped_by.name} and saved at step {step:,} of {self._total:,}; "
        f"the same {same} goes on from there"
      )
      return
    took = datetime.timedelta(seconds=round(time.monotonic() - self._began))
    done = step - self._began_at
    did = f"trained {number(done, 'step')} in {took} ({self._speed()}). " if done > 0 else ""
    if step < self._total:
      self.say(f"stopped early, at step {step:,} of {self._total:,}")
    each, rate = of_each(self.latest), self._best_rate()
    if any(run.startswith("rate=") for run in each):
      each[""] = {}  # older versions wrote a mean over the rates
    if main := self._headlines(each[rate or ""], "test/"):
      of = "last step" if restored is None else f"best step, {restored:,}"
      of += f" of {rate}" if rate else ""
      sure = " (mean, 95 % interval)" if any(name.endswith("_ci95") for name in main) else ""
      self.say(f"{did}test {in_words(main, self._metrics, 'test/')}{sure}, {of}")
    elif any(self._headlines(values, "test/") for values in each.values()):
      self.say(
        f"{did}no rate is chosen without a validation split: set data.validation, such as 0.1"
      )
    else:  # `epochs` was lowered below where the run stopped, or metrics.jsonl is gone
      self.say(f"{did}the test split was not evaluated")
    chosen = "checkpoint='best'" if arrays else "--checkpoint=best"
    if rate:
      score = {self._monitor: each[rate][self._monitor]}
      self.say(f"best by validation: {rate}, {in_words(score, self._metrics, 'validation/')}")
    elif best is not None:
      self.say(f"best by validation: step {best:,} (evaluate it with {chosen})")
    self.say(
      f"in {folder}: config.json, metrics.jsonl, trained_on.json, checkpoints/, TensorBoard events"
    )
    which = {} if restored is None else {"checkpoint": "best"}
    if "test/schedule_free_loss" in self.latest:  # the weights that this method is about
      which["weights"] = "schedule_free"
    if arrays:
      named = "".join(f", {key}={value!r}" for key, value in which.items())
      call = f"cnnjax.evaluate.evaluate_checkpoint({str(folder)!r}{named}, splits=...)"
    else:
      named = "".join(f" --{key}={value}" for key, value in which.items())
      call = f"python -m cnnjax.evaluate --workdir={quoted(folder)}{named}"
    self.say(f"evaluate with: {call}")


def _span(metrics: Mapping[str, float], name: str, form: str) -> str:
  """Returns a metric in words: of several rates the lowest and the highest that are finite."""
  each = of_each(metrics)
  found = each.values() if name not in each[""] else [each[""]]
  values = sorted(v for run in found if math.isfinite(v := run.get(name, math.nan)))
  return " to ".join(dict.fromkeys(f"{v:{form}}" for v in values[:1] + values[-1:]))


def read_metrics(folder: PathLike, name: str = METRICS) -> list[dict[str, float]]:
  """The lines of a run's metrics.jsonl, up to the first that was cut off or is damaged.

  What is null there was NaN or infinite, and is NaN here.
  """
  file = to_path(folder) / name
  lines = file.read_bytes().split(b"\n") if file.is_file() else []
  found = []
  for line in lines:
    try:
      metrics = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, too many digits
      break
    if not isinstance(metrics, dict) or not isinstance(metrics.get("step"), int):
      break
    found.append({name: math.nan if v is None else v for name, v in metrics.items()})
  return found
