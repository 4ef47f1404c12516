"""metrics.jsonl, TensorBoard events and the console, fresh and going on."""

import contextlib
import functools
import io
import json
import math
import os
import re
import shlex
import signal
import struct
import sys
import time

import pytest

from cnnjax import writers
from cnnjax.errors import TransientError, UserError
from cnnjax.runtime import console as consoles
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.metric import Metric, of_weights

PER_EPOCH, BATCH, TOTAL = 10, 4, 40
METRICS = of_weights(Classification.METRICS, ["raw", "ema"])


def rate(step):
  return 0.1 / step


def training(step, loss=0.5):
  """What `Program.training_metrics` gives."""
  return {"train/loss": loss, "train/accuracy": 0.75, "learning_rate": rate(step)}


def make(folder, start=0, total=TOTAL):
  return writers.Writers(folder, start, total, PER_EPOCH, BATCH, metrics=METRICS)


def run(folder, start=0, stop=TOTAL):
  """Writes what a run from `start` to `stop` does, five steps a line, an evaluation an epoch."""
  with make(folder, start) as out:
    out.block({"model": "m"}, finished=start >= TOTAL)
    for step in range(start + 1, stop + 1):
      out.progress(step, functools.partial(training, step))
      if step % 5 == 0:
        out.write_training(step, training(step, loss=1 / step))
      if step % PER_EPOCH == 0:
        out.write_evaluation(step, "validation", "raw", {"accuracy": step / 100, "loss": 2 / step})
      out.restart_clock(step)
  return out


def lines(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
  """[(tag, step, value)] of the TensorBoard events of a folder: TFRecords, oldest file first."""
  from tensorboardX.proto import event_pb2

  found = []
  for file in sorted(folder.glob("events.out.tfevents.*")):
    data = io.BytesIO(file.read_bytes())
    while header := data.read(12):  # length, its checksum; the event, its checksum
      event = event_pb2.Event.FromString(data.read(struct.unpack("<Q", header[:8])[0]))
      data.read(4)
      if event.HasField("session_log") and event.session_log.status == 1:  # START: a purge
        found = [entry for entry in found if entry[1] < event.step]
      found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
  return found


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


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
  """A kill loses none."""
  with make(tmp_path) as out:
    out.write_training(5, training(5))
    assert [line["step"] for line in lines(tmp_path)] == [5]


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


@pytest.mark.parametrize(
  "start, kept", [(0, []), (10, [5, 10, 10]), (12, [5, 10, 10]), (20, [5, 10, 10, 15, 20, 20])]
)
def test_going_on_drops_later_lines(tmp_path, start, kept):
  run(tmp_path, stop=20)
  before = lines(tmp_path)
  with make(tmp_path, start) as out:
    assert lines(tmp_path) == before[: len(kept)]
    assert [line["step"] for line in lines(tmp_path)] == kept
    assert out.latest.get("step") == (kept[-1] if kept else None)
    assert out.latest.get("validation/accuracy") == {0: None, 20: 0.2}.get(start, 0.1)
  assert not list(tmp_path.glob("*.new"))


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
  scalars = lambda folder: [e for e in events(folder) if e[0] != "images_per_second"]
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


@pytest.mark.parametrize(
  "tail", ['{"step": 10, "trai', "{", "\0\0\0", '{"step": 10}garbage', '{"loss": 1}', "7"]
)
def test_a_last_line_that_was_cut_off(tmp_path, tail):
  run(tmp_path, stop=5)
  with (tmp_path / "metrics.jsonl").open("a") as f:
    f.write(tail)
  assert [line["step"] for line in writers.read_metrics(tmp_path)] == [5]
  run(tmp_path, start=5, stop=10)
  assert [line["step"] for line in lines(tmp_path)] == [5, 10, 10]


def test_what_is_not_finite_is_null(tmp_path):
  """JSON has no NaN; it is NaN again for who reads it, and null when the run goes on."""
  with make(tmp_path) as out:
    out.write_training(5, {**training(5, loss=math.nan), "grad_norm": math.inf})
  written = (tmp_path / "metrics.jsonl").read_text()
  old = written.replace("null", "NaN")  # as it was written once
  (tmp_path / "metrics.jsonl").write_text(old)
  with make(tmp_path, start=5) as out:
    assert math.isnan(out.latest["train/loss"]) and math.isnan(out.latest["grad_norm"])
  assert (tmp_path / "metrics.jsonl").read_text() == written
  refuse = lambda word: pytest.fail(f"{word} is no JSON")
  (line,) = (json.loads(x, parse_constant=refuse) for x in written.splitlines())
  assert line["train/loss"] is line["grad_norm"] is None and line["train/accuracy"] == 0.75
  (read,) = writers.read_metrics(tmp_path)
  assert math.isnan(read["train/loss"]) and read["step"] == 5


def test_no_metrics_yet(tmp_path):
  assert writers.read_metrics(tmp_path) == []


def test_a_kill_while_going_on_loses_no_line(tmp_path, monkeypatch):
  run(tmp_path, stop=20)
  before = lines(tmp_path)

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr("pathlib.Path.replace", killed)
  with pytest.raises(KeyboardInterrupt):
    make(tmp_path, start=10)
  assert lines(tmp_path) == before


def test_tensorboard_events(tmp_path):
  run(tmp_path, stop=10)
  found = {(tag, step): value for tag, step, value in events(tmp_path)}
  assert found[("train/loss", 5)] == pytest.approx(0.2)
  assert found[("validation/accuracy", 10)] == pytest.approx(0.1)
  assert found[("learning_rate", 10)] == pytest.approx(rate(10))
  logged = {(key, line["step"]) for line in lines(tmp_path) for key in line}
  assert {(tag, step) for tag, step in logged if tag not in ("step", "epoch")} == set(found)


def test_tensorboard_itself_reads_them(tmp_path):
  accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  run(tmp_path, stop=20)
  run(tmp_path, start=10, stop=15)
  reader = accumulators.EventAccumulator(str(tmp_path)).Reload()
  assert [e.step for e in reader.Scalars("train/loss")] == [5, 10, 15]


# The console


@pytest.fixture
def console(monkeypatch):
  """A function that makes what Writers take for the console; its `file` has what was shown."""
  real = consoles.Console

  def make_console(terminal):
    file = io.StringIO()
    file.isatty = lambda: terminal
    console = real(file=file, force_terminal=terminal, width=120)
    monkeypatch.setattr(consoles, "Console", lambda **_: console)
    return console

  return make_console


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
  monkeypatch.setattr(writers, "PEEK_EVERY", 0.0)
  with make(tmp_path) as out:
    assert out._bar.live.is_started
    out.progress(10, lambda: training(10, loss=0.5))  # the first dispatch: there is no speed yet
    out.progress(15, lambda: training(15, loss=0.5))
    out._bar.refresh()
    text = shown.file.getvalue()
    assert "━" in text and "15/40" in text and "epoch 2" in text and "loss 0.5000" in text
    assert "images/s" in text and "learning rate" in text
  assert not out._bar.live.is_started


def test_the_bar_is_gone_after_an_error(tmp_path, console):
  shown = console(terminal=True)
  with pytest.raises(ZeroDivisionError), make(tmp_path) as out:
    raise ZeroDivisionError
  assert not out._bar.live.is_started
  assert shown.file.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in shown.file.getvalue()


def test_no_terminal_has_plain_lines(tmp_path, console, monkeypatch):
  shown = console(terminal=False)
  monkeypatch.setattr(writers, "PLAIN_EVERY", 0.0)
  with make(tmp_path) as out:
    assert not out._bar.live.is_started
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


def test_speed_is_that_of_steps_alone(tmp_path, console, monkeypatch):
  """Neither compiling nor an evaluation nor a trace counts, and a slow step changes nothing."""
  shown, now = console(terminal=False), [100.0]
  monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
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
  monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
  monkeypatch.setattr(writers, "PLAIN_EVERY", 0.0)
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


def test_the_step_that_was_compiled_says_nothing_of_speed_or_end(tmp_path, console, monkeypatch):
  shown = console(terminal=False)
  monkeypatch.setattr(writers, "PLAIN_EVERY", 0.0)
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


def report(folder, console, start, step, best=None, caught=None, test=True):
  shown = console(terminal=False)
  with make(folder, start) as out:
    if test:
      out.write_evaluation(TOTAL, "test", "raw", {"accuracy": 0.9731, "loss": 0.1})
    out.report(folder, step, best, caught)
  return shown.file.getvalue()


def test_report_of_a_whole_run(tmp_path, console):
  text = report(tmp_path, console, 0, TOTAL, best=30)
  assert re.search(r"trained 40 steps in 0:00:0\d \(compiling \d+\.\d s\)\. test accuracy 97", text)
  assert "test accuracy 97.31%, loss 0.1000" in text
  assert "best by validation: step 30 " in text and "--checkpoint=best" in text
  assert f"python -m cnnjax.evaluate --workdir={tmp_path}" in text


def test_one_step_and_a_part_of_an_epoch(tmp_path, console):
  shown = console(terminal=False)
  with writers.Writers(tmp_path, 0, 8, 11, BATCH) as out:
    out.write_evaluation(8, "test", "raw", {"accuracy": 0.5})
    out.report(tmp_path, 1, None, None)
  assert "epoch 0.73 of 0.73: " in shown.file.getvalue()
  assert "trained 1 step in " in shown.file.getvalue()


def test_a_run_on_arrays_is_evaluated_from_python(tmp_path, console):
  """And goes on there: no command has the arrays."""
  folder = tmp_path / "it's a run"
  folder.mkdir()
  shown = console(terminal=False)
  with make(folder) as out:
    out.write_evaluation(TOTAL, "test", "schedule_free", {"loss": 1.0})
    out.report(folder, TOTAL, 30, None, restored=30, arrays=True)
    out.report(folder, 17, None, signal.SIGTERM, arrays=True)
  said, call = shown.file.getvalue(), f"evaluate_checkpoint({str(folder)!r}, checkpoint='best', "
  assert f"evaluate with: cnnjax.evaluate.{call}weights='schedule_free', splits=...)" in said
  assert "(evaluate it with checkpoint='best')" in said and "python -m" not in said
  assert f"the same call with workdir={str(folder)!r} goes on" in said and "--" not in said


def test_the_weights_that_schedule_free_is_about_are_evaluated(tmp_path, console):
  shown = console(terminal=False)
  with make(tmp_path) as out:
    out.write_evaluation(TOTAL, "test", "schedule_free", {"loss": 1.0})
    out.report(tmp_path, TOTAL, None, None)
  assert shown.file.getvalue().endswith(" --weights=schedule_free\n")


def test_commands_can_be_copied(tmp_path, console):
  folder = tmp_path / "it's a run"
  folder.mkdir()
  for text in (
    report(folder, console, 0, TOTAL),
    report(folder, console, 0, 17, caught=signal.SIGTERM, test=False),
  ):
    said = re.search("--workdir=.*", text)[0]
    assert shlex.split(said)[0] == f"--workdir={folder}"


def test_report_of_a_run_that_was_done_already(tmp_path, console):
  report(tmp_path, console, 0, TOTAL)
  text = report(tmp_path, console, TOTAL, TOTAL, test=False)
  assert "trained " not in text and "test accuracy 97.31%" in text and "best by" not in text


def test_report_of_a_stopped_run(tmp_path, console):
  text = report(tmp_path, console, 0, 17, caught=signal.SIGTERM, test=False)
  assert "stopped by SIGTERM and saved at step 17 of 40" in text
  assert f"--workdir={tmp_path} goes on" in text and "accuracy" not in text


def test_report_without_a_test_result(tmp_path, console):
  """`epochs` was lowered below the step that the run had reached, or metrics.jsonl was deleted."""
  assert "test split was not evaluated" in report(tmp_path, console, 50, 50, test=False)


def test_unreadable_images_are_listed_in_the_workdir(tmp_path, capsys):
  """Each is said once; a run that goes on keeps those that it met before."""
  listed = lambda: (tmp_path / writers.UNREADABLE).read_text()
  with make(tmp_path) as out:
    out.name_unreadable({})
    assert not (tmp_path / writers.UNREADABLE).exists()
    found = {"x/b [red].jpg": "the file is empty"}
    out.name_unreadable(found)
    assert listed() == "x/b [red].jpg\tthe file is empty\n"
    found["x/a.jpg"] = "truncated:\n3 rows"
    for _ in range(2):
      out.name_unreadable(found)
  assert listed() == "x/a.jpg\ttruncated: 3 rows\nx/b [red].jpg\tthe file is empty\n"
  printed = capsys.readouterr().out
  assert printed.count("skipped, cannot be read: x/b [red].jpg: the file is empty") == 1
  assert printed.count("skipped, cannot be read") == 2
  with make(tmp_path, start=20) as out:
    out.name_unreadable({"x/a.jpg": "truncated: 3 rows"})
    out.name_unreadable({"x/a.jpg": "truncated: 3 rows", "x/c.jpg": "no image"})
  assert [line.split("\t")[0] for line in listed().splitlines()] == [
    "x/a.jpg", "x/b [red].jpg", "x/c.jpg",
  ]  # fmt: skip


def test_metrics_of_a_run_without_its_checkpoints_are_kept(tmp_path, console):
  shown = console(terminal=False)
  run(tmp_path, stop=20)
  whole = lines(tmp_path)
  for stop in (5, 10):  # and the longest of them stay
    run(tmp_path, stop=stop)
    assert "had come to step" in shown.file.getvalue()
    assert [line["step"] for line in lines(tmp_path)][-1] == stop
    assert writers.read_metrics(tmp_path, writers.BEFORE) == whole


@pytest.mark.parametrize("better, best", [("max", "rate=0.1, .* 7.0"), ("min", "rate=0.3, .* 2.0")])
def test_the_best_rate_is_that_of_the_monitored_metric(tmp_path, capsys, better, best):
  """In the direction that the metric declares, whatever its name; NaN is never the best."""
  metrics = of_weights(
    [Metric("accuracy_error", better, form=".1f", headline=True)], ["raw", "ema"]
  )
  monitor = "validation/ema_accuracy_error"
  with writers.Writers(tmp_path, 0, 10, PER_EPOCH, BATCH, metrics=metrics, monitor=monitor) as out:
    values = {0.1: 7.0, 0.3: 2.0, 1.0: float("nan"), 3.0: 5.0}
    each = {f"accuracy_error/rate={rate:g}": value for rate, value in values.items()}
    train = {f"train/epoch_loss/rate={rate:g}": rate for rate in values}
    out.write_training(10, train)
    out.write_evaluation(10, "validation", "ema", {**each, "accuracy/rate=3": 1.0})
    out.write_evaluation(10, "test", "ema", {name: v + 10 for name, v in each.items()})
    out.report(tmp_path, 10, None, None)
  said = capsys.readouterr().out.splitlines()
  assert said[:2] == [
    "epoch 1 of 1:", "  rate=0.1  validation of ema accuracy error 7.0, train loss 0.1",
  ]  # fmt: skip
  assert len(said) == 5 + 5 and "100" not in " ".join(said)
  # Of the test split that of the chosen one is said alone.
  rate, score = re.match(r"(rate=\S+), \.\* (\S+)", best).groups()
  assert re.fullmatch(rf"epoch 1 of 1, {rate}: test of ema accuracy error 1{score}, .*", said[5])
  assert said[6].endswith(f". test ema accuracy error 1{score}, last step of {rate}")
  assert re.fullmatch(rf"best by validation: {best}", said[7])
  assert ("validation/ema_accuracy_error/rate=0.1", 10, 7.0) in events(tmp_path)


def test_no_rate_is_chosen_by_the_test_split(tmp_path, capsys):
  with make(tmp_path) as out:
    out.write_evaluation(TOTAL, "test", "raw", {"accuracy/rate=0.1": 0.5, "accuracy/rate=1": 0.9})
    out.report(tmp_path, TOTAL, None, None)
  *rows, last = capsys.readouterr().out.splitlines()[:4]
  assert rows == [
    "epoch 4 of 4:",
    "  rate=0.1  test accuracy 50.00%",
    "  rate=1    test accuracy 90.00%",
  ]
  assert last.endswith(
    "no rate is chosen without a validation split: set data.validation, such as 0.1"
  )


@pytest.mark.parametrize("runs", [("",), ("/rate=0.1", "/rate=1")])
def test_all_metrics_are_said_where_none_is_a_headline(tmp_path, capsys, runs):
  metrics = of_weights([Metric("own", "max", form=".1f"), Metric("other", "min")], ["raw"])
  monitor = "validation/own"
  values = {f"{name}{run}": i + 2.0 for i, run in enumerate(runs) for name in ("other", "own")}
  with writers.Writers(tmp_path, 0, 10, PER_EPOCH, BATCH, metrics=metrics, monitor=monitor) as out:
    for split in ("validation", "test"):
      out.write_evaluation(10, split, "raw", values)
    out.report(tmp_path, 10, None, None)
  said = capsys.readouterr().out
  best = 1.0 + len(runs)
  assert f"validation own {best}, other {best:g}\n" in said
  assert f": test own {best}, other {best:g}\n" in said
  assert f". test own {best}, other {best:g}, last step" in said


@pytest.mark.parametrize("validated", [True, False])
def test_the_mean_that_runs_of_before_wrote_of_rates_is_no_result(tmp_path, capsys, validated):
  of = {"accuracy": 0.7, "accuracy (rate 0.1)": 0.5, "accuracy (rate 1)": 0.9}
  splits = ("validation", "test") if validated else ("test",)
  line = {"step": TOTAL, **{f"{split}/{k}": v for split in splits for k, v in of.items()}}
  (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
  options = {"metrics": METRICS, "monitor": "validation/accuracy"}
  with writers.Writers(tmp_path, TOTAL, TOTAL, PER_EPOCH, BATCH, **options) as out:
    out.report(tmp_path, TOTAL, None, None)
  said = capsys.readouterr().out
  assert "70.00%" not in said
  if validated:
    assert said.startswith("test accuracy 90.00%, last step of rate=1\n")
    assert "best by validation: rate=1, accuracy 90.00%\n" in said
  else:
    assert said.startswith("no rate is chosen without a validation split")


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
  monkeypatch.setattr(writers, "PLAIN_EVERY", 0.0)
  with make(tmp_path) as out:
    for step in (10, 15):
      out.progress(step, lambda: metrics)
  assert f"step 15 of 40: {words}," in shown.file.getvalue()
