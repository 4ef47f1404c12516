"""TensorBoard events."""

import contextlib
import dataclasses
import io
import signal
import struct
import sys
import time

import cv2
import numpy as np
import pytest
from event_files import events, summaries
from short_runs import lines, rate, run

from cnnjax import build, writers
from cnnjax import config as configs
from cnnjax.config import flatten, from_json
from cnnjax.runtime import compiling
from cnnjax.tasks.metric import Metric
from cnnjax.writers.tensorboard import TensorBoard


def write(program, folder, leave=lambda out: None, start=0):
  """What writers of a program write that is not trained."""
  with writers.Writers.of(program, folder, start, compiling.Clock()) as out:
    leave(out)


def hparams(folder):
  """{kind: message} of what the HParams tab reads."""
  from tensorboardX.proto import plugin_hparams_pb2

  found = {}
  for _, value in summaries(folder):
    if value.metadata.plugin_data.plugin_name == "hparams":
      data = plugin_hparams_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
      kind = data.WhichOneof("data")
      assert value.tag == f"_hparams_/{kind}" and kind not in found
      found[kind] = getattr(data, kind)
  return found


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


def test_events_are_on_the_disk_within_seconds(tmp_path, monkeypatch):
  """TensorBoard shows a run while it trains; not each line waits for the disk."""
  now, there = [100.0], lambda: [(tag, step) for tag, step, _ in events(tmp_path)]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  board = TensorBoard(tmp_path, 0)
  for step, seconds, shown in ((1, 0, 0), (2, 11, 2), (3, 5, 2), (4, 6, 4)):
    now[0] += seconds
    board.write({"step": step, "train/loss": 0.5})
    assert there() == [("train/loss", n) for n in range(1, shown + 1)]
  board.close(finished=False)


def test_pictures_are_pngs(tmp_path):
  """Grey and of colours, at their step, as another program reads them."""
  rng, board = np.random.default_rng(0), TensorBoard(tmp_path, 0)
  given = {
    (step, f"test/{channels}"): rng.integers(0, 256, (5, 7, channels), np.uint8)
    for step in (3, 6)
    for channels in (1, 3)
  }
  for step in (3, 6):
    board.write_pictures(step, {name: x for (s, name), x in given.items() if s == step})
  board.close(finished=False)
  found = {(step, value.tag): value.image for step, value in summaries(tmp_path)}
  assert found.keys() == given.keys()
  for key, image in found.items():
    assert [image.height, image.width, image.colorspace] == [*given[key].shape]
    pixels = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), -1)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., ::-1]
    np.testing.assert_array_equal(pixels, given[key])


def test_the_config_is_there_as_text_and_as_hyperparameters(tmp_path, tiny):
  """With every field of the model, as in config.json; None is no value."""
  program = build.build(tiny(**{"model.dropout": 0.25}))
  write(program, tmp_path)
  ((step, text),) = [(step, value) for step, value in summaries(tmp_path) if value.tag == "config"]
  assert step <= 1 and text.metadata.plugin_data.plugin_name == "text"
  (written,) = text.tensor.string_val
  fence, *shown, end = written.decode().splitlines()
  assert (fence, end) == ("```json", "```")
  values = flatten(from_json("\n".join(shown)))
  given = flatten(program.config)
  assert values.items() >= given.items() and "model.conv_dropout" in {*values} - {*given}
  found = hparams(tmp_path)
  columns = {info.name: info for info in found["experiment"].hparam_infos}
  assert list(columns) == list(values)
  told = {
    key: getattr(value, value.WhichOneof("kind"))
    for key, value in found["session_start_info"].hparams.items()
  }
  assert told == {
    key: value if isinstance(value, bool | int | float | str) else str(value)
    for key, value in values.items()
    if value is not None
  }
  assert told["model.dropout"] == 0.25 and told["model.batch_norm"] is True
  assert told["model.conv_features"] == "(4,)" and "data.validation" not in told
  from tensorboardX.proto import api_pb2

  types = {key: api_pb2.DataType.Name(columns[key].type) for key in columns}
  assert types["model.dropout"] == types["batch_size"] == "DATA_TYPE_FLOAT64"
  assert types["model.batch_norm"] == "DATA_TYPE_BOOL"
  assert types["model.name"] == "DATA_TYPE_STRING" and types["data.validation"] == "DATA_TYPE_UNSET"


@pytest.mark.parametrize(
  "settings, metrics",
  [
    ({}, ["test/accuracy", "test/loss"]),
    (
      {"data.validation": 21, "average.ema": 0.9, "seeds": 2},
      [
        "validation/accuracy", "test/accuracy", "validation/loss", "test/loss",
        "validation/ema_accuracy", "test/ema_accuracy", "validation/ema_loss", "test/ema_loss",
      ],
    ),
    (
      {"rates": (0.1, 0.01)},
      [
        "test/accuracy/rate=0.1", "test/accuracy/rate=0.01", "test/loss/rate=0.1",
        "test/loss/rate=0.01",
      ],
    ),
  ],
)  # fmt: skip
def test_headlines_stand_beside_the_hyperparameters(tmp_path, tiny, settings, metrics):
  write(build.build(tiny(**settings)), tmp_path)
  assert [info.name.tag for info in hparams(tmp_path)["experiment"].metric_infos] == metrics


def test_all_metrics_stand_there_where_none_is_a_headline(tmp_path, tiny):
  program = build.build(tiny())

  class Other(type(program.task)):
    METRICS = (Metric("own", "min"), Metric("other", "max"))

  task = Other(**{f.name: getattr(program.task, f.name) for f in dataclasses.fields(program.task)})
  write(dataclasses.replace(program, task=task), tmp_path)
  metrics = hparams(tmp_path)["experiment"].metric_infos
  assert [info.name.tag for info in metrics] == ["test/own", "test/other"]


def test_the_end_is_written_once_the_run_is_finished(tmp_path, tiny):
  program = build.build(tiny())
  total = program.inputs.length.total

  def fail(out):
    out.report(tmp_path, total, None, None)
    raise ZeroDivisionError

  broken = {
    "stopped": lambda out: out.report(tmp_path, 5, None, signal.SIGTERM),
    "failed": fail,
    "left": lambda out: None,
  }
  for name, leave in broken.items():
    (tmp_path / name).mkdir()
    with contextlib.suppress(ZeroDivisionError):
      write(program, tmp_path / name, leave)
    assert hparams(tmp_path / name).keys() == {"experiment", "session_start_info"}
  write(program, tmp_path, lambda out: out.report(tmp_path, total, None, None))
  found = hparams(tmp_path)
  assert found["session_end_info"].status == 1  # STATUS_SUCCESS
  assert found["session_end_info"].end_time_secs >= found["session_start_info"].start_time_secs


def test_nothing_but_scalars_without_a_config(tmp_path):
  run(tmp_path, stop=10)
  assert len(events(tmp_path)) == len(summaries(tmp_path)) > 0


def test_tensorboard_itself_reads_them(tmp_path):
  accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  run(tmp_path, stop=20)
  run(tmp_path, start=10, stop=15)
  reader = accumulators.EventAccumulator(str(tmp_path)).Reload()
  assert [e.step for e in reader.Scalars("train/loss")] == [5, 10, 15]


def all_events(folder):
  """Every event of the files of a folder, and their names."""
  from tensorboardX.proto import event_pb2

  found, names = [], []
  for file in sorted(folder.glob("events.out.tfevents.*")):
    data, names = io.BytesIO(file.read_bytes()), [*names, file.name]
    while header := data.read(12):
      found.append(event_pb2.Event.FromString(data.read(struct.unpack("<Q", header[:8])[0])))
      data.read(4)
  return found, names


def test_each_event_has_its_step_and_time(tmp_path, monkeypatch):
  """The first hides what an earlier process wrote of these steps and later ones."""
  now = [5000.0]
  monkeypatch.setattr(time, "time", lambda: now[0])
  board = TensorBoard(tmp_path, 7, configs.default(), ["test/loss", "learning_rate"])
  now[0] = 6000.0
  board.write({"step": 9, "epoch": 0.5, "partial": True, "train/loss/seed=0": 0.5})
  now[0] = 7000.0
  board.close(finished=True)
  (version, session, *rest), (name,) = all_events(tmp_path)
  assert name.endswith(".7") and version.file_version == "brain.Event:2"
  assert (session.step, session.wall_time, session.session_log.status) == (7, 5000.0, 1)
  assert [(e.step, e.wall_time) for e in rest] == [
    *[(7, 5000.0)] * 3, (9, 6000.0), (9, 7000.0)
  ]  # fmt: skip
  tags = [[value.tag for value in e.summary.value] for e in rest]
  assert tags == [
    ["config"], ["_hparams_/experiment"], ["_hparams_/session_start_info"], ["train/loss/seed=0"],
    ["_hparams_/session_end_info"],
  ]  # fmt: skip
  found = hparams(tmp_path)
  assert found["experiment"].time_created_secs == found["session_start_info"].start_time_secs
  assert found["session_start_info"].start_time_secs == 5000.0
  assert found["session_end_info"].end_time_secs == 7000.0
  shown = [info.name for info in found["experiment"].hparam_infos if b"8\x01" in
           info.SerializeToString().replace(info.name.encode(), b"")]  # fmt: skip
  assert sorted(shown) == ["batch_size", "epochs", "model.name", "optim.learning_rate",
                           "optim.name"]  # fmt: skip
  metrics = [info.name.tag for info in found["experiment"].metric_infos]
  assert metrics == ["test/loss", "optim/learning_rate"]
  text = rest[0].summary.value[0]
  assert text.tensor.dtype == 7  # DT_STRING
  assert [dim.size for dim in text.tensor.tensor_shape.dim] == [1]


def test_without_a_config_or_an_end_there_are_no_hyperparameters(tmp_path):
  board = TensorBoard(tmp_path, 0)
  board.close(finished=True)
  events_of, _ = all_events(tmp_path)
  assert len(events_of) == 2
  for finished in (True, False):
    (tmp_path / str(finished)).mkdir()
    TensorBoard(tmp_path / str(finished), 0, configs.default()).close(finished=finished)
    assert ("session_end_info" in hparams(tmp_path / str(finished))) == finished


def test_torch_is_as_importable_as_before():
  """It is hidden while tensorboardX is imported, and no longer."""
  assert sys.modules.get("torch", "none") is not None
