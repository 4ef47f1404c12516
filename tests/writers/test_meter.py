"""The speed of a run."""

import functools
import re
import time

from short_runs import BATCH, PER_EPOCH, TOTAL, make, training

from cnnjax import writers
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
