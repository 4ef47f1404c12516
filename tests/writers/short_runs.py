"""Runs of Writers without any training, and what they leave."""

import functools
import json

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
