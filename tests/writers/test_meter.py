"""The speed of a run."""

import functools
import re
import time
import types

from short_runs import BATCH, PER_EPOCH, TOTAL, make, training

from cnnjax import writers
from cnnjax.runtime import compiling
from cnnjax.writers import display, meter


def test_speed_is_that_of_steps_alone(tmp_path, console, monkeypatch):
  """Neither compiling nor an evaluation nor a trace counts, and a slow step changes nothing."""
  shown, now = console(terminal=False), [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  with writers.Writers(tmp_path, 0, TOTAL, PER_EPOCH, BATCH, devices=2) as out:
    for step, took in enumerate([30.0, 0.5, 0.5, 4.0, 0.5, 0.5], 1):
      now[0] += took
      if step == 5:
        now[0] += 60
        out._traced("traced", step - 1)
        now[0] += took
      out.progress(step, functools.partial(training, step))
      if step == 3:
        now[0] += 1000
        out.restart_clock(step)
    now[0] += 0.5 + 2.0  # two steps in one program, and what is written in between
    out.progress(8, functools.partial(training, 8))
    out.report(tmp_path, TOTAL, None, None)
  text = shown.file.getvalue()
  assert re.search(r"a step 500 ms in the median, 8 images/s, 4 on each device\)", text)
  assert "step 6 of 40" not in text  # the clock had not moved by so much


def test_the_time_of_a_program_is_that_of_its_steps(tmp_path, console, monkeypatch):
  shown, now = console(terminal=False), [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
  with make(tmp_path) as out:
    for step in range(0, 9, 2):  # two steps in each
      now[0] += 0.5
      out.progress(step, functools.partial(training, step))
    out.restart_clock(8)
    now[0] += 2.0
    out.write_training(12, training(12))  # four steps of four images since then
    out.report(tmp_path, TOTAL, None, None)
  assert "a step 250 ms in the median, 16 images/s" in shown.file.getvalue()
  assert out.latest["images_per_second"] == 8.0
  last = re.findall(r"step 8 of 40: .*", shown.file.getvalue())
  assert last == ["step 8 of 40: loss 0.5000, learning rate 0.0125, 16 images/s, 0:00:08 left"]


def test_the_median_is_that_of_the_newest_steps(tmp_path, console, monkeypatch):
  """A run of millions of steps keeps the times of some alone, and says how fast it is by then."""
  shown, now = console(terminal=False), [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  monkeypatch.setattr(meter, "TIMED", 3)
  with make(tmp_path) as out:
    for step, took in enumerate([1.0, 4.0, 4.0, 4.0, 0.5, 0.5, 0.25]):
      now[0] += took
      out.progress(step, functools.partial(training, step))
    out.report(tmp_path, TOTAL, None, None)
  assert "a step 500 ms in the median, 8 images/s" in shown.file.getvalue()


def test_the_clock_of_a_run(monkeypatch):
  """From the step where compiling ended; a restart begins the speed anew, and not the time left."""
  now = [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  found = meter.Meter(10, 110, 8, devices=4)
  assert (found.start, found.total, found.ready_at) == (10, 110, 10)
  assert re.fullmatch(r"compiling \d+\.\d s", found.describe())  # no step was timed
  now[0] = 130.0
  assert found.advance(12) and not found.timed(12)
  assert found.ready_at == 12
  now[0] = 134.0
  assert not found.advance(20) and found.timed(20)
  assert found.rate(20) == 8 * 8 / 4.0
  assert str(found.left(20)) == "0:00:45"  # 90 steps of half a second
  assert str(found.took()) == "0:00:34"
  found.restart(20)
  assert not found.timed(20) and found.rate(20) == 0
  now[0] = 136.0
  assert not found.advance(20)  # no step passed: none is timed
  now[0] = 138.5
  found.advance(21)
  assert found.timed(21) and found.rate(21) == 8 / 4.5
  assert found.describe().endswith(
    "; a step 1.5e+03 ms in the median, 5 images/s, 1 on each device"
  )
  assert found.in_words(12345.6) == "12,346 images/s, 3,086 on each device"
  assert meter.Meter(0, 1, 8).in_words(1000) == "1,000 images/s"
  assert meter.TIMED == 10_000


def test_no_time_between_two_steps_is_no_error(monkeypatch):
  """Of a clock that is coarse."""
  monkeypatch.setattr(time, "monotonic", lambda: 100.0)
  found = meter.Meter(0, 9, 4)
  for step in (1, 2, 3):
    found.advance(step)
  assert found.rate(3) == 2 * 4 / 1e-9
  assert "a step 1e-06 ms in the median, 4,000,000,000 images/s" in found.describe()


def test_the_time_of_compiling_is_that_of_the_clock_it_is_given():
  clock = types.SimpleNamespace(seconds=12.34, describe=lambda: "compiled in no time")
  found = meter.Meter(0, 9, 4, compiled=clock)
  assert found.describe() == "compiling 12.3 s"
  assert found.describe_compiling() == "compiled in no time"


def test_the_time_of_a_run_has_all_of_its_compiling_in_it(monkeypatch):
  """Also that before the first step could be waited for."""
  now = [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  clock = compiling.Clock()
  now[0] = 116.0
  assert str(meter.Meter(0, 10, 8, compiled=clock).took()) == "0:00:16"
