"""Writes TensorBoard events: scalars, pictures, the config as text, and the HParams tab.

The only import of tensorboardX.
"""

import io
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cnnjax.config import flatten, to_json
from cnnjax.writers.groups import grouped
from cnnjax.writers.sinks import PLACE

# Where torch is installed, tensorboardX imports it for writers that are not used here: seconds at
# start-up, and a second framework in the process. None in sys.modules says that it is missing.
_hidden = sys.modules.setdefault("torch", None) is None
from tensorboardX import event_file_writer  # noqa: E402
from tensorboardX.proto import (  # noqa: E402
  api_pb2,
  event_pb2,
  plugin_hparams_pb2,
  plugin_text_pb2,
  summary_pb2,
  tensor_pb2,
)

if _hidden:
  del sys.modules["torch"]

FLUSH_EVERY = 10.0  # seconds between writes to the disk


# The hyperparameters shown beside the metrics at first; the others are one click away.
COLUMNS = ("batch_size", "epochs", "model.name", "optim.learning_rate", "optim.name")
_DIFFERS = b"\x38\x01"  # HParamInfo.differs = true, a field newer than those of tensorboardX


class TensorBoard:
  """Writes events of the steps from `start` on; earlier ones have files of their own.

  Writes in the calling thread: a full disk kills the thread of tensorboardX.SummaryWriter, and the
  caller would then wait for ever (2.6.5).

  Args:
    folder: the workdir.
    start: the first step to write.
    config: of the run, written as text and as hyperparameters; None writes neither.
    headlines: the metrics beside the hyperparameters, by their names in metrics.jsonl.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    start: int,
    config: ConfigDict | None = None,
    headlines: Iterable[str] = (),
  ):
    # The suffix: a file of the same second may be there.
    self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{start}")
    log = event_pb2.SessionLog(
      status=event_pb2.SessionLog.START
    )  # hides events of later steps that were lost
    self._file.write_event(event_pb2.Event(step=start, session_log=log, wall_time=time.time()))
    self._step, self._has_config = start, config is not None
    if config is not None:
      self._write_summary(_text("config", f"```json\n{to_json(config)}```"))
      values = flatten(config)
      self._write_summary(_experiment(values, map(grouped, headlines)))
      self._write_summary(_session_start(values))
    self._flushed = time.monotonic()

  def write(self, line: Mapping[str, float]) -> None:
    self._step, summary = line["step"], summary_pb2.Summary()
    for name, value in line.items():  # summary.scalar would change the "=" in names of runs
      if name not in PLACE:
        summary.value.add(tag=grouped(name), simple_value=value)
    self._write_summary(summary)
    if time.monotonic() - self._flushed > FLUSH_EVERY:
      self._file.flush()
      self._flushed = time.monotonic()

  def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    self._step, summary = step, summary_pb2.Summary()
    for name, pixels in pictures.items():
      summary.value.add(tag=grouped(name), image=_png(pixels))
    self._write_summary(summary)

  def close(self, *, finished: bool) -> None:
    if finished and self._has_config:
      end = plugin_hparams_pb2.SessionEndInfo(
        status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
      )
      self._write_summary(_hparams("session_end_info", end))
    self._file.close()

  def _write_summary(self, summary: summary_pb2.Summary) -> None:
    event = event_pb2.Event(step=self._step, wall_time=time.time(), summary=summary)
    self._file.write_event(event)


def _png(pixels: np.ndarray) -> summary_pb2.Summary.Image:
  """Returns an image of the Images tab; `pixels` uint8 [height, width, 1 or 3]."""
  height, width, channels = pixels.shape
  file = io.BytesIO()
  Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG")
  return summary_pb2.Summary.Image(
    height=height, width=width, colorspace=channels, encoded_image_string=file.getvalue()
  )


def _text(tag: str, markdown: str) -> summary_pb2.Summary:
  """Returns a text for the Text tab."""
  content = plugin_text_pb2.TextPluginData(version=0).SerializeToString()
  shape = {"dim": [{"size": 1}]}
  tensor = tensor_pb2.TensorProto(
    dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=shape
  )
  return summary_pb2.Summary(
    value=[{"tag": tag, "metadata": _metadata("text", content), "tensor": tensor}]
  )


def _experiment(values: Mapping[str, Any], headlines: Iterable[str]) -> summary_pb2.Summary:
  """Returns the columns of the HParams tab; the first run in a folder decides them for all."""
  found = api_pb2.Experiment(time_created_secs=time.time())
  for key, value in values.items():
    column = api_pb2.HParamInfo.FromString(_DIFFERS if key in COLUMNS else b"")
    column.name, column.type = key, _type_of(value)
    found.hparam_infos.append(column)
  for tag in headlines:
    found.metric_infos.add(name={"tag": tag})
  return _hparams("experiment", found)


def _session_start(values: Mapping[str, Any]) -> summary_pb2.Summary:
  """Returns the hyperparameters of this run; None stays empty."""
  start = plugin_hparams_pb2.SessionStartInfo(start_time_secs=time.time())
  for key, value in values.items():
    if isinstance(value, bool):
      start.hparams[key].bool_value = value
    elif isinstance(value, int | float):
      start.hparams[key].number_value = value
    elif value is not None:
      start.hparams[key].string_value = str(value)
  return _hparams("session_start_info", start)


def _type_of(value: Any) -> int:
  if value is None:
    return api_pb2.DATA_TYPE_UNSET
  if isinstance(value, bool):
    return api_pb2.DATA_TYPE_BOOL
  is_number = isinstance(value, int | float)
  return api_pb2.DATA_TYPE_FLOAT64 if is_number else api_pb2.DATA_TYPE_STRING


def _hparams(kind: str, data: Any) -> summary_pb2.Summary:
  """Returns a summary of metadata alone, as the HParams tab reads it."""
  content = plugin_hparams_pb2.HParamsPluginData(version=0, **{kind: data}).SerializeToString()
  return summary_pb2.Summary(
    value=[{"tag": f"_hparams_/{kind}", "metadata": _metadata("hparams", content)}]
  )


def _metadata(plugin: str, content: bytes) -> summary_pb2.SummaryMetadata:
  return summary_pb2.SummaryMetadata(plugin_data={"plugin_name": plugin, "content": content})
