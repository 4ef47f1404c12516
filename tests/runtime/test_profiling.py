"""The trace of chosen steps: which they are, and that what is written can be read."""

import gzip
import json

import jax
import pytest

from cnnjax import train
from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.runtime import profiling


def settings(start, steps):
  config = default().profile
  config.start, config.steps = start, steps
  return config


@pytest.fixture
def calls(monkeypatch, tmp_path):
  """What is called in the place of the profiler, which writes an empty trace."""
  made = []

  def stop():
    made.append("stop")
    folder = tmp_path / "profile" / "plugins" / "profile" / f"{len(made)}"
    folder.mkdir(parents=True)
    (folder / "host.trace.json.gz").touch()

  monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: made.append("start"))
  monkeypatch.setattr(jax.profiler, "stop_trace", stop)
  return made


def run(trace, calls, start, total, per_dispatch=1):
  """The loop of a run: what was called, and between which steps."""
  step = start
  while step < total:
    n = min(per_dispatch, trace.left(step), total - step)
    with trace.of(step, n):
      calls.append(step)
    step += n
  trace.close()
  return calls


@pytest.mark.parametrize(
  "window, start, total, per_dispatch, expected",
  [
    ((2, 2), 0, 6, 1, [0, 1, "start", 2, 3, "stop", 4, 5]),
    ((0, 1), 0, 3, 1, ["start", 0, "stop", 1, 2]),
    ((2, 5), 0, 12, 4, [0, "start", 2, 6, "stop", 7, 11]),  # steps of one dispatch are cut to fit
    ((2, 4), 4, 8, 1, ["start", 4, 5, "stop", 6, 7]),  # goes on within them
    ((2, 2), 4, 6, 1, [4, 5]),  # they lie behind
    ((3, 9), 0, 5, 1, [0, 1, 2, "start", 3, 4, "stop"]),  # the run ends within them
    ((None, 5), 0, 3, 2, [0, 2]),
  ],
)  # fmt: skip
def test_which_steps(window, start, total, per_dispatch, expected, calls, tmp_path):
  said = []
  trace = profiling.Trace(settings(*window), tmp_path, lambda *args: said.append(args))
  assert run(trace, calls, start, total, per_dispatch) == expected
  assert len(said) == expected.count("stop")


def test_nothing_is_traced_where_nothing_is_asked_for(calls, tmp_path):
  assert run(profiling.Trace(None, tmp_path, print), calls, 0, 3, 2) == [0, 2]


def test_an_error_within_the_steps_keeps_what_there_is(calls, tmp_path):
  said = []
  trace = profiling.Trace(settings(0, 3), tmp_path, lambda *args: said.append(args))
  with pytest.raises(ZeroDivisionError), trace.of(0, 1):
    raise ZeroDivisionError
  trace.close()
  assert calls == ["start", "stop"] and "traced steps 0 to 1: open " in said[0][0]


def test_a_trace_that_cannot_be_written_ends_nothing(calls, tmp_path, monkeypatch):
  def full():
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(jax.profiler, "stop_trace", full)
  said = []
  run(profiling.Trace(settings(0, 1), tmp_path, lambda *args: said.append(args)), calls, 0, 2)
  assert "steps 0 to 1 was not written: [Errno 28] No space" in said[0][0]


def test_steps_that_the_run_has_not_are_refused(tiny):
  profiling.check(settings(None, 5), 1)
  profiling.check(settings(9, 5), 10)
  with pytest.raises(UserError, match=r"profile\.start=10 is not before .* has 10 steps"):
    profiling.check(settings(10, 5), 10)
  with pytest.raises(UserError, match=r"profile\.start=18 is not before"):
    train.train(tiny(**{"profile.start": 18}))  # before there is a workdir


@pytest.mark.slow
def test_the_trace_of_a_run_can_be_read(tiny, tmp_path, capsys):
  """By what Perfetto reads, the trace events of Chrome; and ours are among them."""
  config = tiny(epochs="8 steps", **{"profile.start": 3, "profile.steps": 2})
  train.train(config, tmp_path)
  [file] = (tmp_path / "profile").glob("plugins/profile/*/*.trace.json.gz")
  assert list(file.parent.glob("*.xplane.pb"))  # for TensorBoard
  [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("traced ")]
  assert f"steps 3 to 5: open {file} at https://ui.perfetto.dev" in line
  assert f"tensorboard --logdir={tmp_path / 'profile'}" in line
  events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
  steps = [event for event in events if event.get("name") == "train" and "dur" in event]
  assert [event["args"]["step_num"] for event in steps] == ["3", "4"]
  first, second = steps
  compiled = [event for event in events if "PjitFunction(once)" in event.get("name", "")]
  for step in (first, second):
    assert any(
      step["ts"] <= event["ts"] and event["ts"] + event["dur"] <= step["ts"] + step["dur"]
      for event in compiled
      if "dur" in event
    )
  # One goes on within the steps, and asks for others.
  config.epochs, config.profile.start = "12 steps", 10
  train.train(config, tmp_path)
  assert "traced steps 10 to 12" in capsys.readouterr().out
  assert len(list((tmp_path / "profile").glob("plugins/profile/*/*.trace.json.gz"))) == 2
