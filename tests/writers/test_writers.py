"""What the loop calls: lines of metrics, fresh and going on, and what ends a run."""

import contextlib
import csv
import functools
import math
import time

import numpy as np
import pytest
from event_files import events
from short_runs import BATCH, lines, make, rate, run, training

from cnnjax.errors import TransientError, UserError
from cnnjax.writers import writers


def test_lines_of_metrics(tmp_path):
  with make(tmp_path) as out:
    out.progress(5, lambda: training(5))
    time.sleep(0.02)
    out.restart_clock(0)
    time.sleep(0.1)
    out.write_training(5, training(5, loss=0.25))
    named = out.write_evaluation(10, "test", "raw", {"loss": 0.5, "accuracy": 0.75})
  train, test = lines(tmp_path)
  speed = train.pop("images_per_second")
  assert 5 * BATCH / 1.0 < speed < 5 * BATCH / 0.1
  assert train == {
    "step": 5,
    "epoch": 0.5,
    "train/loss": 0.25,
    "train/accuracy": 0.75,
    "learning_rate": rate(5),
  }  # the rate of the last step done
  assert test == {"step": 10, "epoch": 1.0, "test/loss": 0.5, "test/accuracy": 0.75}
  assert named == {"test/loss": 0.5, "test/accuracy": 0.75}


def test_no_speed_where_no_step_was_timed(tmp_path):
  with make(tmp_path) as out:
    out.progress(5, lambda: training(5))  # the first dispatch: compiling, then the clock starts
    out.write_training(5, training(5))
  assert "images_per_second" not in lines(tmp_path)[0]


def test_a_split_is_measured_at_the_newest_step_or_not_at_all(tmp_path):
  with make(tmp_path) as out:
    out.write_evaluation(10, "test", "raw", {"loss": 1.0})
    assert out.has(10, "test") and not out.has(10, "validation")
    out.write_training(20, training(20))
    assert not out.has(20, "test") and not out.has(10, "test")


def test_latest(tmp_path):
  out = run(tmp_path, stop=20)
  assert out.latest.pop("images_per_second") > 0
  assert out.latest == {
    "step": 20,
    "epoch": 2.0,
    "train/loss": 0.05,
    "train/accuracy": 0.75,
    "learning_rate": rate(20),
    "validation/accuracy": 0.2,
    "validation/loss": 0.1,
  }


def test_a_stopped_run_reads_like_one_that_was_not(tmp_path):
  for name in ("whole", "stopped"):
    (tmp_path / name).mkdir()
  run(tmp_path / "whole")
  run(tmp_path / "stopped", stop=27)  # what is after the checkpoint at 10 is done again
  run(tmp_path / "stopped", start=10)
  timeless = lambda folder: [
    {k: v for k, v in line.items() if k != "images_per_second"} for line in lines(folder)
  ]
  assert timeless(tmp_path / "whole") == timeless(tmp_path / "stopped")
  scalars = lambda folder: [e for e in events(folder) if e[0] != "speed/images_per_second"]
  assert scalars(tmp_path / "whole") == scalars(tmp_path / "stopped")


@pytest.mark.parametrize("error", [None, UserError("bad"), ValueError("bad")])
def test_what_ends_a_run_writes_what_there_is(tmp_path, error):
  """A run that goes on takes it back; the steps are counted in the next whole line."""
  with contextlib.suppress(ValueError), make(tmp_path) as out:
    out.progress(7, functools.partial(training, 7, loss=0.5))
    if error:
      raise error
  (line,) = lines(tmp_path)
  assert line == {"step": 7, "epoch": 0.7, **training(7, loss=0.5), "partial": True}
  assert ("train/loss", 7, 0.5) in events(tmp_path)
  with make(tmp_path, start=7) as out:
    out.write_training(10, training(10, loss=0.25))
  assert [line["step"] for line in lines(tmp_path)] == [10]
  assert [step for tag, step, _ in events(tmp_path) if tag == "train/loss"] == [10]


@pytest.mark.parametrize(
  "error, loss", [(TransientError("gone"), 0.5), (KeyboardInterrupt(), 0.5), (None, math.nan)]
)
def test_nothing_is_written_at_the_end_that_may_be_wrong(tmp_path, error, loss):
  """Another run may have the workdir, the step may be broken off, the loss may be no number."""
  with contextlib.suppress(BaseException), make(tmp_path) as out:
    out.progress(7, functools.partial(training, 7, loss=loss))
    if error:
      raise error
  assert lines(tmp_path) == []


def test_arrays_that_are_gone_at_the_end_are_no_error(tmp_path):
  def read():
    raise RuntimeError("Array has been deleted")

  with make(tmp_path) as out:
    out.progress(7, read)
  assert lines(tmp_path) == []


def test_another_sink_is_a_small_class(tmp_path, monkeypatch):
  """It gets the lines of metrics.jsonl, and hears of the end."""

  class Csv:
    def __init__(self, file):
      self._file = file.open("w", newline="")
      self._writer = csv.writer(self._file)

    def write(self, line):
      self._writer.writerows((line["step"], *item) for item in line.items())

    def close(self, *, finished):
      self._writer.writerow(["finished", finished])
      self._file.close()

  usual = writers.open_sinks
  more = lambda *args: [*usual(*args), Csv(tmp_path / "metrics.csv")]
  monkeypatch.setattr(writers, "open_sinks", more)
  run(tmp_path, stop=12)
  with (tmp_path / "metrics.csv").open(newline="") as file:
    *rows, last = csv.reader(file)
  wanted = [[str(line["step"]), k, str(v)] for line in lines(tmp_path) for k, v in line.items()]
  assert rows == wanted and rows[-1] == ["12", "partial", "True"]
  assert last == ["finished", "False"]


class Lines:
  """A sink that keeps no pictures."""

  def write(self, line):
    pass

  def close(self, *, finished):
    pass


class Album(Lines):
  def __init__(self):
    self.found = []

  def write_pictures(self, step, pictures):
    self.found += [(step, name, pixels) for name, pixels in pictures.items()]


def test_pictures_go_to_the_sinks_that_keep_them(tmp_path, monkeypatch, capsys):
  """Under names like those of metrics; what leaves [0, 1] is clipped, and said once."""
  album, usual = Album(), writers.open_sinks
  monkeypatch.setattr(writers, "open_sinks", lambda *args: [Lines(), *usual(*args), album])
  dark, light = np.zeros((1, 2, 2, 1)), np.full((1, 2, 2, 3), 2.0)
  with make(tmp_path) as out:
    for step in (10, 20):
      out.write_pictures(step, "test", "ema", {"a": dark, "b/seed=1": light})
    out.write_pictures(30, "test", "raw", {})
  assert [found[:2] for found in album.found] == [
    (step, name) for step in (10, 20) for name in ("test/ema_a", "test/ema_b/seed=1")
  ]
  assert (album.found[0][2] == 0).all() and (album.found[1][2] == 255).all()
  assert album.found[0][2].shape == (2, 2, 1) and album.found[1][2].shape == (2, 2, 3)
  said = capsys.readouterr().out
  assert said.count("warning: the picture 'test/ema_b/seed=1' has values from 2 to 2") == 1
  assert said.count("warning") == 1 and lines(tmp_path) == []
