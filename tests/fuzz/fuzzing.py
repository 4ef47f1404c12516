"""Fuzzing: Hypothesis makes corrupted inputs, and a process of its own looks what comes of each.

A check is a function of a test file: it is given an input, and returns in a word how that ended, or
raises if it ended in a way that is not allowed. It runs in another process, so that a crash of the
interpreter, a hang (`SECONDS`) and memory without end (`GIB`) are failures as well, of the input
that Hypothesis then names. Inputs are the same in every run, and none is stored.
"""

import collections
import concurrent.futures
import contextlib
import faulthandler
import functools
import multiprocessing
import pathlib
import re
import resource

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = 60  # that one input may take; the slowest take 2
GIB = 4  # that it may take beside what the process has already
PROFILE = settings(
  derandomize=True,
  deadline=None,  # `SECONDS` is
  database=None,
  suppress_health_check=list(HealthCheck),
  print_blob=False,
)


def fuzz(check, inputs, *, few, many, ends=(), always=()):
  """The test of `check` on `few` of the `inputs`, a strategy; on `many` in the slow part.

  `ends`: that come about in it, or the inputs would not reach what they are for. `always`: inputs
  that failed once, beside those that are drawn.
  """

  def test(examples):
    seen = collections.Counter(apart(check, value) for value in always)

    @settings(PROFILE, max_examples=examples)
    @given(inputs)
    def all_of_them(value):
      seen[apart(check, value)] += 1

    all_of_them()
    print(f"{check.__name__}: {seen.total()} inputs, {dict(seen)}")
    assert seen.total() >= examples + len(always) and seen.keys() >= {*ends}, seen

  long = pytest.param(many, marks=pytest.mark.slow)
  return pytest.mark.parametrize("examples", [few, long], ids=["few", "many"])(test)


def apart(check, *values):
  """What `check(*values)` returns, in a process of its own that others share."""
  try:
    return _process().submit(_limited, check, values).result()
  except concurrent.futures.process.BrokenProcessPool:
    _process.cache_clear()
    raise AssertionError("the interpreter crashed, or took too long: see its stderr") from None


@functools.cache
def _process():
  spawn = multiprocessing.get_context("spawn")
  return concurrent.futures.ProcessPoolExecutor(
    1, mp_context=spawn, initializer=faulthandler.enable
  )


def end():
  """Ends that process, which would outlive workers of pytest-xdist: they leave without atexit."""
  if _process.cache_info().currsize:
    _process().shutdown()
    _process.cache_clear()


def _limited(check, values):
  # The check is imported, with all that it needs, by now. Where there is no such file, no limit.
  with contextlib.suppress(FileNotFoundError):
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + GIB * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
  faulthandler.dump_traceback_later(SECONDS, exit=True)
  try:
    return check(*values)
  finally:
    faulthandler.cancel_dump_traceback_later()


def one_clear_line(text, longest=2000):
  """Raises unless `text` is what a person can read at the end of a command."""
  text = str(text)
  assert 8 <= len(text) < longest, f"{len(text)} characters: {text[:300]}"
  assert not re.search(r"Traceback|\bobject at 0x|<class '", text), text


@st.composite
def corrupted(draw, original):
  """Bytes near `original`: bits flipped, parts overwritten, cut, left out, put in or repeated."""
  data = bytearray(original)
  for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
    if not data:
      break
    # Headers are short and matter, and Hypothesis alone prefers low numbers only a little.
    at = draw(st.integers(0, len(data) - 1) | st.integers(0, min(len(data) - 1, 48)))
    end = min(len(data), at + draw(st.sampled_from([1, 2, 4, 8, 40, 400])))
    match draw(st.sampled_from(["flip", "flip", "set", "zero", "cut", "drop", "put", "repeat"])):
      case "flip":
        data[at] ^= 1 << draw(st.integers(0, 7))
      case "set":
        data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]))
      case "zero":
        data[at:end] = bytes(end - at)
      case "cut":
        del data[at:]
      case "drop":
        del data[at:end]
      case "put":
        data[at:at] = draw(st.binary(min_size=1, max_size=16))
      case "repeat":
        data[at:at] = data[at:end]
  return bytes(data)
