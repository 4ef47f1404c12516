"""Runs of Writers without any training, and what they leave."""

import functools
import io
import json
import struct

from cnnjax import writers
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.metric import of_weights

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


def summaries(folder):
  """[(step, value of a summary)] of the TensorBoard events of a folder, oldest file first.

  The files are TFRecords. A session that starts hides what older ones wrote of later steps.
  """
  from tensorboardX.proto import event_pb2

  found = []
  for file in sorted(folder.glob("events.out.tfevents.*")):
    data = io.BytesIO(file.read_bytes())
    while header := data.read(12):  # length, its checksum; the event, its checksum
      event = event_pb2.Event.FromString(data.read(struct.unpack("<Q", header[:8])[0]))
      data.read(4)
      if event.HasField("session_log") and event.session_log.status == 1:  # START: a purge
        found = [entry for entry in found if entry[0] < event.step]
      found += [(event.step, value) for value in event.summary.value]
  return found


def events(folder):
  """[(tag, step, value)] of the scalars among them."""
  return [
    (value.tag, step, value.simple_value)
    for step, value in summaries(folder)
    if value.HasField("simple_value")
  ]
