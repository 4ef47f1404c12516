"""Traces some steps of a run by jax.profiler: the work of host and devices over time."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from cnnjax.errors import UserError
from cnnjax.runtime import processes
from cnnjax.runtime.paths import quoted

FOLDER = "profile"  # in the workdir


def check(config: ConfigDict, total: int) -> None:
  """Raises UserError if `config.profile` begins after the run's `total` steps."""
  if config.start is not None and config.start >= total:
    raise UserError(
      f"profile.start={config.start} is not before the end of the run, which has {total} steps"
    )


class Trace:
  """Traces `config.steps` steps from `config.start` on, in the first process.

  A run that resumes among these steps traces the rest; one that ends among them keeps its part.

  Args:
    config: `config.profile`; None traces nothing.
    workdir: the trace is written to its folder `FOLDER`.
    say: prints a line; takes the line and the last step of the trace.
  """

  def __init__(
    self, config: ConfigDict | None, workdir: pathlib.Path, say: Callable[[str, int], None]
  ):
    wanted = config is not None and config.start is not None
    self._steps = range(config.start, config.start + config.steps) if wanted else range(0)
    self._folder, self._say = workdir / FOLDER, say
    self._traced: range | None = None  # while a trace is taken

  def left(self, step: int) -> float:
    """Returns the steps from `step` to the trace's begin or end; infinity after the trace."""
    ends = (end - step for end in (self._steps.start, self._steps.stop) if end > step)
    return min(ends, default=float("inf"))

  @contextlib.contextmanager
  def of(self, step: int, n: int) -> Iterator[None]:
    """Traces the body, which takes `n` steps from `step` on; n is `left(step)` at most."""
    if step not in self._steps or not processes.is_first():  # all processes take the same steps
      yield
      return
    if self._traced is None:
      jax.profiler.start_trace(self._folder)
    self._traced = range(self._traced.start if self._traced else step, step + n)
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      yield
    if step + n == self._steps.stop:
      self.close()

  def close(self) -> None:
    """Writes a trace that has begun."""
    if self._traced is None:
      return
    traced, self._traced = self._traced, None
    text = f"steps {traced.start:,} to {traced.stop:,}"
    try:
      jax.profiler.stop_trace()
      newest = max(self._folder.glob("plugins/profile/*/*.trace.json.gz"), key=str)
    except (OSError, RuntimeError, ValueError) as e:  # of a full disk; nothing was written
      text = f"the trace of {text} was not written: {e}"
    else:
      text = (
        f"traced {text}: open {newest} at https://ui.perfetto.dev, or, after "
        f"`pip install tensorboard xprof`, see `tensorboard --logdir={quoted(self._folder)}`"
      )
    self._say(text, traced.stop)
