"""Turns data sets into batches: a source gives splits, a pipeline the batch of any step.

The batch of a step is a pure function of (config, seed, step) in both pipelines: it does not depend
on the number of devices, processes, threads or restarts. This room imports config, registry and
runtime, and knows nothing of what is learnt: it hands out arrays by the names of `fields`.

    fields     the fields of a batch, each of a kind
    loading    the splits of a run, from a source (arrays, digits, folder, synthetic, tfds)
    placement  the pipeline of a split: on the device (resident), or streamed from the host
    inputs     the pipelines of a run, its length, normalisation and classes
"""

from cnnjax.data import history, holdout, identity, imbalance, levels, order
from cnnjax.data.arrays import from_arrays
from cnnjax.data.crops import Crops
from cnnjax.data.history import History
from cnnjax.data.inputs import Inputs, describe, open_inputs
from cnnjax.data.length import Length, order_and_length
from cnnjax.data.loading import check, has_splits, load, whole, with_given, without_source
from cnnjax.data.names import check_classes
from cnnjax.data.order import Order
from cnnjax.data.placement import pipeline
from cnnjax.data.resident import Resident
from cnnjax.data.split import Arrays, Skipped, Split
from cnnjax.data.streaming import Streaming

__all__ = [
  "Arrays", "Crops", "History", "Inputs", "Length", "Order", "Resident", "Skipped", "Split",
  "Streaming",
  "check", "check_classes", "describe", "from_arrays", "has_splits", "history", "holdout",
  "identity", "imbalance", "levels", "load", "open_inputs", "order", "order_and_length", "pipeline",
  "whole", "with_given", "without_source",
]  # fmt: skip
