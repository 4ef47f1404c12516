"""One label an image, softmax cross-entropy."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics


@flax.struct.dataclass
class ClassificationMetrics(metrics.Collection):
  """Sums and counts, so that merging in any order gives the same."""

  loss: metrics.Average.from_output("loss")
  accuracy: metrics.Average.from_output("correct")


@dataclasses.dataclass(frozen=True)
class Classification:
  """Targets are distributions over the classes, `[batch, num_classes]`, which can be mixed."""

  num_classes: int
  label_smoothing: float = 0.0
  aux_weight: float = 0.3  # of the loss of each auxiliary head

  def targets(self, labels: jax.Array) -> jax.Array:
    """One-hot targets of int labels `[batch]`."""
    return jax.nn.one_hot(labels, self.num_classes)

  def loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy with smoothed targets, per example `[batch]`, in nats."""
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, self.label_smoothing))

  def eval_loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy with the targets as they are, so that runs compare."""
    return optax.softmax_cross_entropy(logits, targets)

  def metrics(
    self, logits: jax.Array, targets: jax.Array, losses: jax.Array, mask: jax.Array | None = None
  ) -> ClassificationMetrics:
    """Metrics of one batch; with mixed targets, accuracy counts the heavier class."""
    correct = jnp.argmax(logits, -1) == jnp.argmax(targets, -1)
    mask = jnp.ones(losses.shape, bool) if mask is None else mask
    return ClassificationMetrics.single_from_model_output(
      loss=losses, correct=correct.astype(jnp.float32), mask=mask
    )

  def no_metrics(self) -> ClassificationMetrics:
    """Metrics of no example."""
    return ClassificationMetrics.empty()
