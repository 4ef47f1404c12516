"""What the loop calls: lines of metrics, fresh and going on, and what ends a run."""

import contextlib
import csv
import functools
import math
import signal
import time

import numpy as np
import pytest
from event_files import events
from short_runs import BATCH, lines, make, rate, run, training

from cnnjax.errors import TransientError, UserError
from cnnjax.runtime import processes
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


def test_the_place_of_a_line_is_rounded(tmp_path):
  with writers.Writers(tmp_path, 0, 700, 7, BATCH) as out:
    out.write(1, {"a": 1.0})
    out.write(700, {"a": 2.0})
  assert lines(tmp_path) == [
    {"step": 1, "epoch": 0.142857, "a": 1.0}, {"step": 700, "epoch": 100.0, "a": 2.0}
  ]  # fmt: skip


class Full(Lines):
  def close(self, *, finished):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
def test_a_disk_that_is_full_at_the_end_hides_no_other_error(tmp_path, monkeypatch, error):
  monkeypatch.setattr(writers, "open_sinks", lambda *args: [Full()])
  with pytest.raises(type(error) if error else OSError), make(tmp_path):
    if error:
      raise error


def test_other_processes_write_and_say_nothing(tmp_path, capsys, monkeypatch):
  (tmp_path / "metrics.jsonl").write_text('{"step": 3, "a": 1.0}\n')
  monkeypatch.setattr(processes, "is_first", lambda: False)
  with make(tmp_path) as out:
    out.block({"a": "b"}, finished=False)
    out.progress(5, lambda: training(5))
    out.write_training(5, training(5))
    out.write_evaluation(10, "test", "raw", {"loss": 0.5})
    out.write_pictures(10, "test", "raw", {"a": np.full((1, 2, 2, 1), 3.0)})
    out.name_unreadable({"a.png": "torn"})
    out.report(tmp_path, 40, None, None)
    assert out.latest["test/loss"] == 0.5 and out.has(10, "test")
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
  assert lines(tmp_path) == [{"step": 3, "a": 1.0}]
  assert capsys.readouterr() == ("", "")


def test_a_sink_gets_the_first_step_that_comes(tmp_path, monkeypatch):
  """That of the last line again, where it was written early."""
  asked = []
  monkeypatch.setattr(writers, "open_sinks", lambda *args: asked.append(args) or [])
  file = tmp_path / "metrics.jsonl"
  whole, early, late = '{"step": 5, "a": 1.0}\n', '{"step": 7, "partial": true}\n', '{"step": 9}\n'
  for text, start, first, kept in (
    ("", 0, 1, []), (whole + late, 7, 8, [5]), (whole + early + late, 7, 7, [5]),
    (whole + early + late, 9, 9, [5, 9]),
  ):  # fmt: skip
    file.write_text(text)
    writers.Writers(tmp_path, start, 40, 10, BATCH, config="config", headlines=["a"])
    folder, lines_kept, first_step, config, headlines = asked.pop()
    assert [line["step"] for line in lines_kept] == kept and first_step == first
    assert (folder, config, headlines) == (tmp_path, "config", ["a"])


def test_a_new_run_sets_the_metrics_of_one_without_checkpoints_aside(tmp_path, capsys):
  (tmp_path / "metrics.jsonl").write_text('{"step": 1200}\n')
  with make(tmp_path, start=0) as out:
    out.block({"a": "b"}, finished=False)
  assert "had come to step 1,200" in capsys.readouterr().out
  assert (tmp_path / writers.metrics_file.BEFORE).exists()
  with make(tmp_path / "..", start=5) as out:  # a run that goes on keeps its own
    assert out._before == 0


@pytest.mark.parametrize(
  "start, step, by, said",
  [
    (0, 40, None, ["trained 40 steps in", "test loss 0.5000, last step", "in "]),
    (40, 40, None, ["test loss 0.5000, last step", "in "]),
    (10, 30, None, ["stopped early, at step 30 of 40", "trained 20 steps in", "in "]),
    (39, 40, signal.SIGTERM, ["trained 1 step in", "in "]),
    (0, 39, signal.SIGTERM, ["stopped by SIGTERM and saved at step 39 of 40; the same command"]),
  ],
)
def test_the_last_words(tmp_path, capsys, start, step, by, said):
  with make(tmp_path, start=start) as out:
    out.write_evaluation(40, "test", "raw", {"loss": 0.5})
    capsys.readouterr()
    out.report(tmp_path, step, None, by)
  text = capsys.readouterr().out
  for words in said:
    assert words in text
  assert ("stopped early" in text) == (step == 30) and ("trained " in text) == (
    start < step and not text.startswith("stopped by")
  )
  assert out._finished == (not text.startswith("stopped by"))


def test_an_evaluation_is_said_with_its_epoch_or_its_step(tmp_path, capsys):
  """Of a step that was restored without the training loss, which is of another."""
  with make(tmp_path) as out:
    out.write_training(10, {**training(10), "train/epoch_loss": 0.25})
    out.write_evaluation(13, "validation", "ema", {"loss": 0.5})
    out.write_evaluation(40, "test", "raw", {"loss": 0.5}, of=30)
  assert capsys.readouterr().out.splitlines() == [
    "epoch 1.3 of 4: validation of ema loss 0.5000, train loss 0.2500",
    "best step, 30: test loss 0.5000",
  ]
  assert lines(tmp_path)[1:] == [
    {"step": 13, "epoch": 1.3, "validation/ema_loss": 0.5},
    {"step": 40, "epoch": 4.0, "test/loss": 0.5, "restored_step": 30},
  ]
