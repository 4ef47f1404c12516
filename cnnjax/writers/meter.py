"""Measures the speed of a run, and estimates the time left."""

import datetime
import statistics
import time
from collections import deque

from cnnjax.runtime import compiling

TIMED = 10_000  # dispatches whose times are kept, for the median


class Meter:
  """The clock of a run: images per second, the median step, the time left.

  Counts neither compiling nor the time between steps: `restart` it after evaluating or saving.

  Args:
    start: the step that the run starts or resumes at.
    total: the steps of the whole run.
    batch_size: to compute images per second.
    devices: the number that share a batch.
    compiled: the clock of compiling since the run began; None starts one now.
  """

  def __init__(
    self,
    start: int,
    total: int,
    batch_size: int,
    devices: int = 1,
    compiled: compiling.Clock | None = None,
  ):
    self.start, self.total = start, total
    self._batch_size, self._devices = batch_size, devices
    self._began = self._restarted = time.monotonic()
    self._restarted_at = start
    self._compiled = compiled or compiling.Clock()
    self._ready: float | None = None  # the time when compiling ended
    self.ready_at = start  # the step that ended it
    self._mark, self._mark_step = self._began, start  # of the newest step, or of `restart` after it
    self._times: deque[float] = deque(maxlen=TIMED)  # seconds of a step

  def restart(self, step: int) -> None:
    """Counts the time from now on as training."""
    self._restarted, self._restarted_at = self._mark, self._mark_step = time.monotonic(), step

  def advance(self, step: int) -> bool:
    """Notes that `step` is done; returns whether it is the first, which is not timed."""
    now, first = time.monotonic(), self._ready is None
    if first:
      self.restart(step)
      self._ready, self.ready_at = now, step
    elif step > self._mark_step:
      self._times.append((now - self._mark) / (step - self._mark_step))
    self._mark, self._mark_step = now, step
    return first

  def timed(self, step: int) -> bool:
    """Returns whether a step was timed since the clock was restarted."""
    return step > self._restarted_at

  def rate(self, step: int) -> float:
    """Returns the images per second of training since the clock was restarted."""
    seconds = max(time.monotonic() - self._restarted, 1e-9)
    return (step - self._restarted_at) * self._batch_size / seconds

  def took(self) -> datetime.timedelta:
    """Returns the time since the run began, to the second; all of compiling lies in it."""
    return datetime.timedelta(seconds=round(time.monotonic() - self._compiled.began))

  def left(self, step: int) -> datetime.timedelta:
    """Returns the time from `step` to the end of the run, at the speed since compiling ended."""
    passed = time.monotonic() - self._ready
    seconds = passed / (step - self.ready_at) * (self.total - step)
    return datetime.timedelta(seconds=round(seconds))

  def in_words(self, rate: float) -> str:
    """Returns images per second in words, of all devices and of one."""
    each = f", {rate / self._devices:,.0f} on each device" if self._devices > 1 else ""
    return f"{rate:,.0f} images/s{each}"

  def describe_compiling(self) -> str:
    """Returns in words the time of compiling so far, and what came from the cache."""
    return self._compiled.describe()

  def describe(self) -> str:
    """Returns in words the time of compiling and of a step."""
    text = f"compiling {self._compiled.seconds:.1f} s"
    if not self._times:
      return text
    median = max(statistics.median(self._times), 1e-9)
    rate = self.in_words(self._batch_size / median)
    return f"{text}; a step {1000 * median:,.3g} ms in the median, {rate}"
