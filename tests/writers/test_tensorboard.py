"""TensorBoard events."""

import pytest
from short_runs import events, lines, rate, run


def test_tensorboard_events(tmp_path):
  run(tmp_path, stop=10)
  found = {(tag, step): value for tag, step, value in events(tmp_path)}
  assert found[("train/loss", 5)] == pytest.approx(0.2)
  assert found[("validation/accuracy", 10)] == pytest.approx(0.1)
  assert found[("optim/learning_rate", 10)] == pytest.approx(rate(10))
  logged = {(key, line["step"]) for line in lines(tmp_path) for key in line}
  own = {"learning_rate": "optim/learning_rate", "images_per_second": "speed/images_per_second"}
  wanted = {(own.get(key, key), step) for key, step in logged if key not in ("step", "epoch")}
  assert set(found) == wanted


def test_tensorboard_itself_reads_them(tmp_path):
  accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  run(tmp_path, stop=20)
  run(tmp_path, start=10, stop=15)
  reader = accumulators.EventAccumulator(str(tmp_path)).Reload()
  assert [e.step for e in reader.Scalars("train/loss")] == [5, 10, 15]
