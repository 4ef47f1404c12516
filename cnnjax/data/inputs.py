"""Opens the inputs of a run: the pipelines of its splits, its length, normalisation, classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax.data import history, imbalance, levels
from cnnjax.data.examples import Examples
from cnnjax.data.fields import Field, Need, to_json
from cnnjax.data.history import History
from cnnjax.data.length import Length, order_and_length
from cnnjax.data.loading import load
from cnnjax.data.placement import pipeline
from cnnjax.data.resident import Resident
from cnnjax.data.split import LABELS, Skipped, Split
from cnnjax.data.streaming import Streaming
from cnnjax.errors import UserError
from cnnjax.runtime import processes, sharding


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The pipelines that a run trains and evaluates on, and the properties that its data decide."""

  train: Resident | Streaming
  evaluations: dict[str, Resident | Streaming]  # the splits that are evaluated
  skipped: Skipped  # images that cannot be read
  classes: tuple[str, ...]
  counts: np.ndarray | None  # training examples of each class, if the loss needs them
  fields: dict[str, Field]  # of the batches that the run ends with, by name
  sizes: tuple[int, ...]  # other sizes of images that the model gets
  meta: dict[str, Any]  # mean and deviation per channel, classes, fields; for checkpoints
  length: Length  # of the run
  summary: dict[str, str]  # in words

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """The shape of the images that the run ends with."""
    return self.fields["image"].shape

  def history(self, before: History | None) -> tuple[History, dict[str, str]]:
    """Returns `history.of_run` of the run; may read all images.

    Raises:
      UserError: also if the processes of a run have different images.
    """
    others = {name: batches.split for name, batches in self.evaluations.items()}
    if processes.several():
      by = (before and before.by) or self.train.split.by
      splits = {"train": self.train.split, **others}.items()
      processes.check_same({f"{key} split": (by, s.ids(by).tobytes()) for key, s in splits})
    return history.of_run(before, self.train.split, others)


def open_inputs(
  config: ConfigDict,
  mesh: Mesh,
  given: dict[str, Split] | None = None,
  *,
  seeds: Sequence[int] = (),
  counted: bool = False,
  before: History | None = None,
  needs: Sequence[Need] | None = None,
) -> Inputs:
  """Loads the splits of a run and starts its pipelines. Takes the whole config.

  Args:
    config: of the run.
    mesh: each batch is split over its devices.
    given: the splits of `from_arrays`, instead of a source.
    seeds: of each run, where a program trains more than one.
    counted: the loss needs the number of examples of each class.
    before: the history of a run that resumes.
    needs: the kinds of fields that the task needs, see `load`.

  Raises:
    UserError: the data do not fit the config.
  """
  c = config.data
  sharding.check_divides(config.batch_size, mesh, config.accumulate)
  skipped = Skipped(c.max_unreadable)
  where = {"devices": mesh.size, "needs": needs, "who": f"task.name={config.task.name}"}
  splits = load(c, skipped=skipped, given=given, before=before, **where)
  splits = {name: split for name, split in splits.items() if split is not None}
  train = splits["train"]
  order, length = order_and_length(train, config)
  cropped = Examples.of(c, train.fields).cropped(c.image_size)
  train_levels = levels.count(c, train)
  mean, std = levels.normalization(c, train_levels, adapt=config.init["from"] is not None)
  for name in splits.keys() - {"train"}:
    levels.compare(c, name, splits[name], mean)
  batches = pipeline(train, c, mesh, skipped, order, seeds)
  _check_dispatch(config, batches)
  return Inputs(
    train=batches,
    evaluations={
      name: pipeline(splits[name], c, mesh, skipped)
      for name in ("validation", "test")
      if name in splits
    },
    skipped=skipped,
    classes=train.classes,
    counts=imbalance.counts(train.listed, len(train.classes)) if counted else None,
    fields=cropped,
    sizes=tuple({*c.progressive, c.eval_size} - {None, c.image_size}),
    meta={
      "mean": mean,
      "std": std,
      "classes": train.classes,
      "image_shape": cropped["image"].shape,
      "fields": to_json(cropped),
    },
    length=length,
    summary={
      "data": describe(c, splits),
      **train.remarks,
      "pixels": levels.describe(c, train, train_levels),
      **_imbalance(train),
      "input": batches.describe(),
      "length": length.describe(),
    },
  )


def _check_dispatch(config: ConfigDict, batches: Resident | Streaming) -> None:
  """Raises UserError for more than one step in a program where batches are streamed."""
  if (config.steps_per_dispatch or 1) > 1 and isinstance(batches, Streaming):
    raise UserError(
      f"steps_per_dispatch={config.steps_per_dispatch} needs the training split on the device, and "
      "it is streamed, one batch for each step: set steps_per_dispatch=1, or data.pipeline=resident"
    )


def describe(config: ConfigDict, splits: dict[str, Split]) -> str:
  """Returns the data in words."""
  name = config.name or config.path or config.npz or config.source
  train = splits["train"]
  cropped = Examples.of(config, train.fields).cropped(config.image_size)
  size = "x".join(map(str, cropped["image"].shape))
  classes = [f"{len(train.classes)} classes"] if train.classes else []
  others = [name for name, field in cropped.items() if name != "image" and field.kind not in LABELS]
  having = [f"with {' and '.join(others)}"] if others else []
  words = ", ".join([name, size, *classes, *having])
  sizes = ", ".join(
    f"{len(split):,} {key}" + (f" ({split.note})" if split.note else "")
    for key, split in splits.items()
  )
  carved = "" if "validation" in splits else " (no validation split: no best checkpoint)"
  return f"{words}: {sizes}{carved}"


def _imbalance(train: Split) -> dict[str, str]:
  """Returns the classes in words, unless the labels would have to be read for it."""
  if not train.knows_labels:
    return {}
  counts = imbalance.counts(train.listed, len(train.classes))
  return {"classes": imbalance.describe(counts, train.classes)}
