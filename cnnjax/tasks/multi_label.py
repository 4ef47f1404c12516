"""Any number of labels an image, sigmoid binary cross-entropy."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics

from cnnjax.errors import UserError
from cnnjax.tasks.base import ClassAverage, MicroAverage, Task


def _right(present: jax.Array, predicted: jax.Array, **_: Any) -> dict[str, jax.Array]:
  return {"hits": present == predicted, "of": jnp.ones_like(present)}


def _f1(present: jax.Array, predicted: jax.Array, **_: Any) -> dict[str, jax.Array]:
  """F1 = 2 true positives / (positives + predicted positives)."""
  return {"hits": 2 * present * predicted, "of": present + predicted}


@flax.struct.dataclass
class MultiLabelMetrics(metrics.Collection):
  """Sums and counts; a class is predicted where its probability is above 0.5.

  `accuracy` is the share of (image, class) pairs that are right, `f1` that of all pairs together
  (micro), `f1_macro` the mean over the classes that occur or are predicted.
  """

  loss: metrics.Average.from_output("loss")
  accuracy: MicroAverage.from_fun(_right)
  f1: MicroAverage.from_fun(_f1)
  f1_macro: ClassAverage.from_fun(_f1)


@dataclasses.dataclass(frozen=True)
class MultiLabel(Task):
  """Targets are the probability of each class."""

  def check_labels(self, several: bool) -> None:
    """Raises UserError unless an image of the data may have `several` labels."""
    if not several:
      raise UserError(
        "task.name=multi_label takes any number of classes an image, and in these data an image "
        "has one: set task.name=classification"
      )

  def targets(self, labels: jax.Array) -> jax.Array:
    """Targets of multi-hot labels `[batch, num_classes]`."""
    return labels.astype(jnp.float32)

  def loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy, the mean of the weighted classes, per example `[batch]`, in nats.

    What torch.nn.BCEWithLogitsLoss with `weight` gives; label smoothing goes toward 0.5.
    """
    smoothed = (1 - self.label_smoothing) * targets + self.label_smoothing / 2
    return (self.weights * optax.sigmoid_binary_cross_entropy(logits, smoothed)).mean(-1)

  def eval_loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy with the targets as they are, unweighted, so that runs compare."""
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)

  def mean_prediction(self, logits: Sequence[jax.Array]) -> jax.Array:
    """Logits of the mean of the probabilities that several `logits` of an image give."""
    if len(logits) == 1:
      return logits[0]
    # log p - log (1 - p), since p itself rounds to 1 where every view is sure.
    log_mean = lambda x: jax.nn.logsumexp(jax.nn.log_sigmoid(x), axis=0)
    return log_mean(jnp.stack(logits)) - log_mean(-jnp.stack(logits))

  def outputs(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """What the metrics are made from: which classes are there, and which are predicted."""
    as_int = lambda x: x.astype(jnp.int32)
    return {"present": as_int(targets > 0.5), "predicted": as_int(logits > 0)}

  @property
  def collection(self) -> type[metrics.Collection]:
    return MultiLabelMetrics
