"""Lines of evaluations, and the last words."""

import json
import re
import shlex
import signal

import pytest
from event_files import events
from short_runs import BATCH, METRICS, PER_EPOCH, TOTAL, make

from cnnjax import writers
from cnnjax.tasks.metric import Metric, of_weights


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


@pytest.mark.parametrize("restored, which", [(None, ""), (30, " --checkpoint=best")])
def test_the_command_evaluates_the_step_of_the_result(tmp_path, console, restored, which):
  """Also where another step is the best: the result is the last one unless that was restored."""
  shown = console(terminal=False)
  with make(tmp_path) as out:
    out.write_evaluation(TOTAL, "test", "raw", {"loss": 1.0}, of=restored or TOTAL)
    out.report(tmp_path, TOTAL, 30, None, restored=restored)
  assert shown.file.getvalue().endswith(f".evaluate --workdir={tmp_path}{which}\n")


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
