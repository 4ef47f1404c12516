"""The start-up block, the progress bar and plain progress lines."""

import functools
import math
import os
import re
import sys
import time

import pytest
from short_runs import TOTAL, lines, make, run, training

from cnnjax.writers import display, meter


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path, capsys, monkeypatch):
  read, sent = os.pipe()
  with os.fdopen(sent, "w") as stdout:
    monkeypatch.setattr(sys, "stdout", stdout)
    with make(tmp_path) as out:
      out.say("a line")
      os.close(read)
      for step in (5, 10):
        out.write_evaluation(step, "validation", "raw", {"accuracy": 0.5, "loss": 1.0})
    stdout.flush()
  assert [line["step"] for line in lines(tmp_path)] == [5, 10]
  said = capsys.readouterr().err
  assert said.startswith("warning: nobody reads the output any more; the run goes on")
  assert said.count("\n") == 1 and str(tmp_path) in said


def test_colour_in_a_file_is_no_animation(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("FORCE_COLOR", "1")
  run(tmp_path)
  assert "epoch 4 of 4" in (printed := capsys.readouterr().out)
  assert not re.search("[\r━]|\x1b\\[\\?25", printed)


def test_a_terminal_has_a_bar(tmp_path, console, monkeypatch):
  shown = console(terminal=True)
  monkeypatch.setattr(display, "PEEK_EVERY", 0.0)
  with make(tmp_path) as out:
    assert out._display._bar.live.is_started
    out.progress(10, lambda: training(10, loss=0.5))  # the first dispatch: there is no speed yet
    out.progress(15, lambda: training(15, loss=0.5))
    out._display._bar.refresh()
    text = shown.file.getvalue()
    assert "━" in text and "15/40" in text and "epoch 2" in text and "loss 0.5000" in text
    assert "images/s" in text and "learning rate" in text
  assert not out._display._bar.live.is_started


def test_the_bar_is_gone_after_an_error(tmp_path, console):
  shown = console(terminal=True)
  with pytest.raises(ZeroDivisionError), make(tmp_path) as out:
    raise ZeroDivisionError
  assert not out._display._bar.live.is_started
  assert shown.file.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in shown.file.getvalue()


def test_no_terminal_has_plain_lines(tmp_path, console, monkeypatch):
  shown = console(terminal=False)
  monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
  with make(tmp_path) as out:
    assert not out._display._bar.live.is_started
    out.block({"model": "lenet5", "workdir": "runs/x"}, finished=False)
    out.progress(10, lambda: training(10, loss=0.5))
    time.sleep(0.01)
    out.progress(15, lambda: training(15, loss=0.25))
    out.write_training(20, {**training(20, loss=0.125), "train/epoch_loss": 0.25})
    out.write_evaluation(20, "validation", "raw", {"accuracy": 0.875, "loss": 0.5})
  text = shown.file.getvalue().splitlines()
  assert not re.search("[\x1b\r━]", shown.file.getvalue())
  assert text[:2] == ["  model    lenet5", "  workdir  runs/x"]
  assert re.fullmatch(r"compiled in \d+\.\d s, 0 of 0 programs from the cache in .*", text[2])
  assert re.fullmatch(
    r"step 15 of 40: loss 0\.2500, learning rate 0\.00667, [\d,]+ images/s, "
    r"0:00:\d\d left",
    text[3],
  )
  assert text[4] == "epoch 2 of 4: validation accuracy 87.50%, loss 0.5000, train loss 0.2500"
  assert len(text) == 5


def test_the_step_that_was_compiled_says_nothing_of_speed_or_end(tmp_path, console, monkeypatch):
  shown = console(terminal=False)
  monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
  with make(tmp_path) as out:
    out.progress(1, functools.partial(training, 1))
  assert shown.file.getvalue().startswith("compiled in") and "left" not in shown.file.getvalue()


def test_plain_lines_come_now_and_then(tmp_path, console):
  shown = console(terminal=False)
  with make(tmp_path) as out:
    for step in range(1, 40):
      out.progress(step, functools.partial(training, step))
  assert len(shown.file.getvalue().splitlines()) == 1  # the compilation


@pytest.mark.parametrize(
  "start, words",
  [(0, None), (15, "going on from step 15"), (40, "finished: step 40 of 40 is done")],
)
def test_the_block_says_where_the_run_stands(tmp_path, console, start, words):
  shown = console(terminal=False)
  with make(tmp_path, start) as out:
    out.block({"model": "m"}, finished=start >= TOTAL)
  assert (words or "  model  m") in shown.file.getvalue().splitlines()[-1]


def test_names_are_shown_as_they_are(tmp_path, console):
  """Neither markup nor emoji codes nor line breaks."""
  monkey = "data train[:90%] [red]x[/red] runs/:fire: " + "long " * 60
  shown = console(terminal=False)
  with make(tmp_path) as out:
    out.say(monkey)
  assert shown.file.getvalue() == monkey + "\n"


@pytest.mark.parametrize(
  "metrics, words",
  [
    ({"train/loss": 0.5, "learning_rate": 0.1}, "loss 0.5000, learning rate 0.1"),
    (
      {"train/loss": 0.5, "train/loss/seed=0": 0.4, "train/loss_ci95": 0.1, "learning_rate": 0.1},
      "loss 0.5000, learning rate 0.1",
    ),
    (
      {"train/loss/rate=1": 0.5, "train/loss/rate=2": math.nan, "train/loss/rate=3": 2.0,
       "learning_rate/rate=1": 1.0, "learning_rate/rate=2": 2.0, "learning_rate/rate=3": 3.0},
      "loss 0.5000 to 2.0000, learning rate 1 to 3",
    ),
  ],
)  # fmt: skip
def test_progress_of_several_runs(tmp_path, console, monkeypatch, metrics, words):
  shown = console(terminal=False)
  monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
  with make(tmp_path) as out:
    for step in (10, 15):
      out.progress(step, lambda: metrics)
  assert f"step 15 of 40: {words}," in shown.file.getvalue()


def test_the_bar_looks_at_the_loss_every_half_second_and_lines_come_every_ten(
  tmp_path, console, monkeypatch
):
  now, asked = [100.0], []
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  for terminal, steps in ((False, [20, 40]), (True, [2, 3])):
    shown = console(terminal=terminal)
    of = meter.Meter(0, 100, 4)
    shows = display.Display(of, 10, tmp_path, quiet=False)
    for step in range(1, 41):
      now[0] += 0.5
      of.advance(step)
      before = len(asked)
      shows.progress(step, lambda: asked.append(0) or training(1))
      if len(asked) > before and len(steps) > (done := len(asked) - 1):
        assert step == steps[done]
    assert len(asked) == (39 if terminal else 2)
    asked.clear()
    assert ("left" in shown.file.getvalue()) != terminal


@pytest.mark.parametrize(
  "start, finished, before, words",
  [
    (0, False, 1200, "beginning again: this run had come to step 1,200 and has no checkpoint; its "
     "metrics are kept as metrics.jsonl.before"),
    (1500, False, 7, "going on from step 1,500"),
    (1500, True, 0, "this run is finished: step 1,500 of 2,000 is done (stopped early)"),
    (2000, True, 0, "this run is finished: step 2,000 of 2,000 is done"),
  ],
)  # fmt: skip
def test_the_last_line_of_the_block(tmp_path, console, start, finished, before, words):
  shown = console(terminal=False)
  shows = display.Display(meter.Meter(start, 2000, 4), 10, tmp_path, quiet=False)
  shows.block({"a": "b", "long": "c"}, finished=finished, before=before)
  assert shown.file.getvalue().splitlines() == ["  a     b", "  long  c", words]


def test_a_line_of_progress_has_what_is_known(tmp_path, console, monkeypatch):
  """No loss where it is not finite, and no speed where no step was timed since the restart."""
  shown, now = console(terminal=False), [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  of = meter.Meter(0, 2000, 4)
  shows = display.Display(of, 10, tmp_path, quiet=False)
  of.advance(1000)
  now[0] += 10.0
  of.advance(1500)
  of.restart(1500)
  shows.progress(1500, lambda: {"train/loss": math.nan, "learning_rate": 0.00012345})
  shows.progress(1501, lambda: pytest.fail("it was shown just now"))
  assert shown.file.getvalue() == ("step 1,500 of 2,000: learning rate 0.000123, 0:00:10 left\n")


def test_the_bar_is_there_with_the_part_that_was_done(tmp_path, console):
  console(terminal=True)
  shows = display.Display(meter.Meter(25, 40, 4), 10, tmp_path, quiet=False)
  (task,) = shows._bar.tasks
  assert (task.completed, task.total, task.description) == (25, 40, "compiling")
  for step, epoch in ((1, 1), (10, 1), (11, 2), (25, 3)):
    shows.progress(step, lambda: training(1))
    assert (task.completed, task.description) == (step, f"epoch {epoch}")
  assert shows._bar.live.transient
