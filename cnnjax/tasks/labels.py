"""Defines the base of tasks of labels: weights of classes, and metrics that are sums per class."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Metric as CluMetric
from ml_collections import ConfigDict

from cnnjax.data import fields
from cnnjax.data.fields import Fields, Kind, Need
from cnnjax.tasks import weights
from cnnjax.tasks.base import Task

# The keys of the group `task` that the tasks of labels read.
LABEL_KEYS = ("label_smoothing", "class_weights", "effective_beta")


@flax.struct.dataclass
class ClassAverage(CluMetric):
  """The sum of `hits` by that of `of` in each class; the mean over the classes that have any.

  Integers, so that merging in any order gives the same bits.
  """

  total: jax.Array  # [num_classes] int32
  count: jax.Array  # [num_classes] int32

  @classmethod
  def from_model_output(
    cls, hits: jax.Array, of: jax.Array, mask: jax.Array, **_: Any
  ) -> "ClassAverage":
    """Sums `hits` and `of`, `[batch, num_classes]`, over the examples where `mask` is true."""
    kept = lambda x: jnp.sum(x, axis=0, where=mask[:, None], dtype=jnp.int32)
    return cls(total=kept(hits), count=kept(of))

  def merge(self, other: "ClassAverage") -> "ClassAverage":
    return type(self)(total=self.total + other.total, count=self.count + other.count)

  def compute(self) -> jax.Array:
    return jnp.mean(self.total / self.count, where=self.count > 0)


@flax.struct.dataclass
class MicroAverage(ClassAverage):
  """The sum of `hits` by that of `of` over all classes together."""

  def compute(self) -> jax.Array:
    sums = [jnp.sum(x, dtype=jnp.float32) for x in (self.total, self.count)]  # may exceed int32
    return sums[0] / sums[1]


def mean_of_sigmoids(logits: Sequence[jax.Array]) -> jax.Array:
  """Returns logits of the mean of the sigmoids of `logits`, one array for each view."""
  # log p - log (1 - p), as p itself rounds to 1 where every view is sure.
  log_mean = lambda x: jax.nn.logsumexp(jax.nn.log_sigmoid(x), axis=0)
  return log_mean(jnp.stack(logits)) - log_mean(-jnp.stack(logits))


@dataclasses.dataclass(frozen=True)
class LabelTask(Task):
  """A task of the classes of images, with mixable targets `[batch, num_classes]`, float32.

  A subclass defines `targets(labels)`, `eval_loss(logits, targets)`, `outputs(logits, targets)`,
  `predictions(logits)` and `collection`.
  """

  NEEDS: ClassVar[tuple[Need, ...]] = ("image", ("label", "multi_label"))
  TARGET: ClassVar[Kind | None] = "targets"

  label_smoothing: float = 0.0
  focal_gamma: float = 2.0
  logit_adjustment: float = 0.0  # tau; 0: none
  target_threshold: float | None = None
  class_weights: weights.Weights = None
  effective_beta: float = 0.999
  counts: np.ndarray | None = None  # [num_classes], training examples
  examples: int | None = None  # of all classes; an image with more than one counts once

  @property
  def num_classes(self) -> int:
    """The number of classes, each of which has an output."""
    return self.num_outputs

  @classmethod
  def count_outputs(cls, data: Fields, config: ConfigDict) -> int:
    return len(fields.first(data, "label", "multi_label").classes)

  @classmethod
  def check_data(cls, data: Fields) -> None:
    label = fields.first(data, "label", "multi_label")
    cls.check_labels(label.kind == "multi_label", label.classes)

  @classmethod
  def check_labels(cls, several: bool, classes: Sequence[str]) -> None:
    """Raises UserError if the task cannot take images with `several` labels, or with one."""

  def field(self, kind: Kind) -> str:
    return "label"

  @property
  def weights(self) -> np.ndarray:
    """The weight of each class in the training loss, `[num_classes]`."""
    return weights.of_classes(
      self.class_weights, self.num_classes, self.counts, self.effective_beta
    )
