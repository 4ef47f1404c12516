"""One label an image, softmax cross-entropy."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics

from cnnjax.errors import UserError
from cnnjax.tasks.base import ClassAverage, Task

TOP = 5  # classes that top5_accuracy takes; with as few or fewer it would say nothing


def _recalls(correct: jax.Array, classes: jax.Array, **_: Any) -> dict[str, jax.Array]:
  return {"hits": correct[:, None] & classes, "of": classes}


@flax.struct.dataclass
class ClassificationMetrics(metrics.Collection):
  """Sums and counts, so that merging in any order gives the same.

  `mean_class_accuracy` is the mean of the recalls of the classes that occur (balanced accuracy).
  """

  loss: metrics.Average.from_output("loss")
  accuracy: metrics.Average.from_output("correct")
  mean_class_accuracy: ClassAverage.from_fun(_recalls)


ClassificationMetricsTop5 = metrics.Collection.create(
  **ClassificationMetrics.__annotations__, top5_accuracy=metrics.Average.from_output("in_top5")
)


@dataclasses.dataclass(frozen=True)
class Classification(Task):
  """Targets are distributions over the classes."""

  def check_labels(self, several: bool) -> None:
    """Raises UserError if an image of the data may have `several` labels."""
    if several:
      raise UserError(
        "task.name=classification takes one class an image, and in these data an image may have "
        "several: set task.name=multi_label"
      )

  def targets(self, labels: jax.Array) -> jax.Array:
    """One-hot targets of int labels `[batch]`."""
    return jax.nn.one_hot(labels, self.num_classes)

  def loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-sum_c w_c t_c log p_c per example `[batch]`, in nats, t being the smoothed targets.

    What torch.nn.CrossEntropyLoss with `weight` and `label_smoothing` gives for targets that are
    probabilities, mixed ones too. The loss of a batch is the plain mean of these, as there (for
    targets that are classes torch divides by the sum of their weights instead).
    """
    smoothed = optax.smooth_labels(targets, self.label_smoothing)
    return optax.softmax_cross_entropy(logits, smoothed * self.weights)

  def eval_loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy with the targets as they are, unweighted, so that runs compare."""
    return optax.softmax_cross_entropy(logits, targets)

  def mean_prediction(self, logits: Sequence[jax.Array]) -> jax.Array:
    """Logits of the mean of the probabilities that several `logits` of an image give."""
    if len(logits) == 1:
      return logits[0]
    return jax.nn.logsumexp(jax.nn.log_softmax(jnp.stack(logits)), axis=0) - math.log(len(logits))

  def outputs(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """What the metrics are made from; with mixed targets, the heavier class counts."""
    label = jnp.argmax(targets, -1)
    classes = jax.nn.one_hot(label, self.num_classes, dtype=bool)
    found = {"correct": jnp.argmax(logits, -1) == label, "classes": classes}
    if self.num_classes > TOP:
      # The classes ahead of the label are counted: jax.lax.top_k would gather a batch that is split
      # over devices. Of equal logits the first is ahead, as in argmax, and NaN is ahead of all.
      own = jnp.sum(logits, -1, where=classes, keepdims=True)
      before = jnp.arange(self.num_classes) < label[:, None]
      ahead = ~jnp.where(before, logits < own, logits <= own)
      found["in_top5"] = ahead.sum(-1) < TOP
    return found

  @property
  def collection(self) -> type[metrics.Collection]:
    return ClassificationMetricsTop5 if self.num_classes > TOP else ClassificationMetrics
