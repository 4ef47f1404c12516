"""metrics.jsonl: fresh, going on, damaged."""

import json
import math

import pytest
from short_runs import lines, make, run, training

from cnnjax import writers
from cnnjax.writers import metrics_file


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
  """A kill loses none."""
  with make(tmp_path) as out:
    out.write_training(5, training(5))
    assert [line["step"] for line in lines(tmp_path)] == [5]


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


def test_metrics_of_a_run_without_its_checkpoints_are_kept(tmp_path, console):
  shown = console(terminal=False)
  run(tmp_path, stop=20)
  whole = lines(tmp_path)
  for stop in (5, 10):  # and the longest of them stay
    run(tmp_path, stop=stop)
    assert "had come to step" in shown.file.getvalue()
    assert [line["step"] for line in lines(tmp_path)][-1] == stop
    assert writers.read_metrics(tmp_path, writers.BEFORE) == whole


def test_the_last_step_of_a_run_without_checkpoints_is_told(tmp_path):
  """Its metrics go aside where they are longer than those that lie there."""
  write = lambda name, *steps: (tmp_path / name).write_text(
    "".join(f'{{"step": {step}}}\n' for step in steps)
  )
  steps = lambda name: [line["step"] for line in writers.read_metrics(tmp_path, name)]
  assert metrics_file.set_aside(tmp_path) == 0 and not list(tmp_path.iterdir())
  for before, now, kept in (((), (5, 9), [5, 9]), ((5, 9), (4, 9), [5, 9]), ((5, 8), (9,), [9])):
    write(metrics_file.BEFORE, *before)
    write(metrics_file.METRICS, *now)
    assert metrics_file.set_aside(tmp_path) == now[-1]
    assert steps(metrics_file.BEFORE) == kept
  assert (metrics_file.METRICS, metrics_file.BEFORE) == ("metrics.jsonl", "metrics.jsonl.before")
