"""Keeps compiled programs for the next run, and counts the time that compiling takes."""

import contextlib
import functools
import glob
import os
import pathlib
import re
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from cnnjax.errors import UserError, warn
from cnnjax.runtime.paths import to_path

# JAX would not keep programs that compile in less than a second: most of a small network.
MIN_SECONDS = 0.0
COMPILING = "/jax/core/compile/"  # the prefix of JAX's events with a duration
ASKED = "/jax/compilation_cache/compile_requests_use_cache"
FOUND = "/jax/compilation_cache/cache_hits"
BROKEN = re.compile(
  r"Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)", re.DOTALL
)


def use_cache(where: str | None) -> "Clock":
  """Keeps compiled programs in a folder and reads them from there. Call it before compiling.

  JAX's key of a program holds its code and options, the versions, XLA's flags and the processor's
  instructions, so a run with a cached program ends in the same bits, on CPU as well. The folder
  holds code that will be run: nobody else should be able to write to it.

  Args:
    where: the folder; "auto": JAX_COMPILATION_CACHE_DIR, or cnnjax/xla in the user's cache folder;
      None: keeps nothing.

  Returns:
    A clock that runs from this call on.
  """
  folder = where if where != "auto" else jax.config.jax_compilation_cache_dir or _default()
  if folder is not None and jax.config.jax_enable_compilation_cache and "://" not in folder:
    try:
      folder = str(to_path(folder).absolute())
      pathlib.Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, UserError) as e:
      warn(
        f"no compiled programs are kept: {e}; choose another folder: --config.compilation_cache=DIR"
      )
      folder = None
  if folder != jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # JAX opens a folder once
  jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
  if getattr(warnings.showwarning, "func", None) is not _mend:
    warnings.showwarning = functools.partial(_mend, warnings.showwarning)
  return Clock()


def _default() -> str:
  home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
  return os.path.join(home, "cnnjax", "xla")


def _mend(show: Callable, message: Any, *where: Any) -> None:
  """Replaces `warnings.showwarning`: reports an error of the cache, and mends it.

  JAX goes on without files that it cannot read or write. It never overwrites one: a file that a
  kill or a full disk cut off would stay and cause a warning in every run, and JAX would try to
  write each program again.
  """
  if not (match := BROKEN.match(str(message))):
    show(message, *where)
    return
  how, program, reason = match.groups()
  folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
  for file in folder.glob(f"{glob.escape(program)}-*"):  # JAX does not say which
    with contextlib.suppress(OSError):
      file.unlink()
  if how == "reading":
    warn(f"a compiled program in {folder} is damaged, and compiled anew: {reason}")
    return
  jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))
  warn(f"compiled programs cannot be kept for the next run: {reason}")


class _Spans:
  """Collects the times of JAX's events, of which one may lie within another."""

  def __init__(self) -> None:
    self.all: list[tuple[float, float]] = []  # (start, seconds), one after the other
    self.asked = self.found = 0
    jax.monitoring.register_event_duration_secs_listener(self._took)
    jax.monitoring.register_event_listener(self._happened)

  def _took(self, event: str, seconds: float, **_: Any) -> None:
    if not event.startswith(COMPILING):
      return
    start = time.monotonic() - seconds
    while self.all and self.all[-1][0] >= start:  # it was a part of this
      self.all.pop()
    self.all.append((start, seconds))

  def _happened(self, event: str, **_: Any) -> None:
    self.asked += event == ASKED
    self.found += event == FOUND


_spans = _Spans()


class Clock:
  """Counts the programs that the process compiles from now on, and the time that it takes."""

  def __init__(self) -> None:
    self.began, self._asked, self._found = time.monotonic(), _spans.asked, _spans.found

  @property
  def seconds(self) -> float:
    """The seconds of tracing, lowering and compiling, and of reading compiled programs."""
    return sum(seconds for start, seconds in _spans.all if start >= self.began)

  def describe(self) -> str:
    """Returns in words how long it took so far, and how many programs came from the cache."""
    text = f"compiled in {self.seconds:.1f} s"
    folder = jax.config.jax_compilation_cache_dir
    if not folder or not jax.config.jax_enable_compilation_cache:
      return text
    found, asked = _spans.found - self._found, _spans.asked - self._asked
    return f"{text}, {found} of {asked} programs from the cache in {folder}"
