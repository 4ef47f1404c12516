"""Learns any number of labels for each image, by binary cross-entropy or focal loss."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics

from cnnjax.errors import UserError
from cnnjax.registry import register
from cnnjax.tasks import weights
from cnnjax.tasks.labels import LABEL_KEYS, ClassAverage, LabelTask, MicroAverage, mean_of_sigmoids
from cnnjax.tasks.metric import Metric


def _right(present: jax.Array, predicted: jax.Array, **_: Any) -> dict[str, jax.Array]:
  return {"hits": present == predicted, "of": jnp.ones_like(present)}


def _f1(present: jax.Array, predicted: jax.Array, **_: Any) -> dict[str, jax.Array]:
  """Returns the parts of F1, 2 true positives / (positives + predicted positives)."""
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


_BETWEEN = "|;,/+& "  # signs that people put between labels, the surest first


def _losses(
  task: LabelTask, logits: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns (binary cross-entropy of each class, targets, [log p, log (1 - p)]).

  -w t log p - (1 - t) log (1 - p), as torch.nn.BCEWithLogitsLoss with `pos_weight`. Label smoothing
  goes toward 0.5.
  """
  if task.target_threshold is not None:
    targets = (targets > task.target_threshold).astype(logits.dtype)
  targets = (1 - task.label_smoothing) * targets + task.label_smoothing / 2
  present, absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
  losses = -task.weights * targets * present - (1 - targets) * absent
  return losses, targets, jnp.stack([present, absent])


@register("loss", "binary_cross_entropy", of="multi_label", uses=("target_threshold",))
def binary_cross_entropy(task: LabelTask, logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns the mean over the classes of the binary cross-entropy, `[batch]`."""
  return _losses(task, logits, targets)[0].mean(-1)


@register("loss", "focal", of="multi_label", uses=("focal_gamma",))
def focal(task: LabelTask, logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns the mean over the classes of the binary cross-entropy times (1 - p_t)^gamma, `[batch]`.

  arXiv:1708.02002 with the sigmoid of each class, as in optax's and torchvision's
  `sigmoid_focal_loss`, where alpha / (1 - alpha) stands for the weight of a class.
  """
  losses, targets, both = _losses(task, logits, targets)
  shares = jnp.stack([1 - targets, targets])
  losses *= jnp.exp(task.focal_gamma * jax.nn.logsumexp(both, axis=0, b=shares))  # 1 - p_t
  return losses.mean(-1)


@register("task", "multi_label", uses=LABEL_KEYS)
@dataclasses.dataclass(frozen=True)
class MultiLabel(LabelTask):
  """A task of any number of labels for each image; targets are the probabilities of the classes."""

  METRICS: ClassVar = (
    Metric("accuracy", better="max", form=".2%", headline=True),
    Metric("loss", better="min", form=".4f", headline=True),
    Metric("f1", better="max", form=".2%"),
    Metric("f1_macro", better="max", form=".2%"),
  )
  SEVERAL_LABELS: ClassVar = True
  name: str = "multi_label"
  loss_name: str = "binary_cross_entropy"

  @classmethod
  def check_labels(cls, several: bool, classes: Sequence[str]) -> None:
    """Raises UserError unless an image may have `several` of the `classes`."""
    if several:
      return
    joined = [(name, sign) for sign in _BETWEEN for name in classes if sign in name.strip(sign)]
    hint = ""
    if joined:
      name, sign = joined[0]
      written = ";".join(part.strip() for part in name.split(sign))
      hint = f"; or, if {name!r} stands for several, write {written!r} (JSONL: a list)"
    raise UserError(
      "task.name=multi_label takes any number of classes an image, and in these data an image "
      f"has one: set task.name=classification{hint}"
    )

  def targets(self, labels: jax.Array) -> jax.Array:
    """Returns targets of multi-hot labels `[batch, num_classes]`."""
    return labels.astype(jnp.float32)

  @property
  def weights(self) -> np.ndarray:
    """The weight of an image with a class beside one without it, `[num_classes]`.

    The same weight on both would not move a class's optimum.
    """
    return weights.of_positives(
      self.class_weights, self.num_classes, self.counts, self.examples, self.effective_beta
    )

  def eval_loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the plain binary cross-entropy, without weights, so that runs compare."""
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)

  def distill_loss(
    self, logits: jax.Array, teacher_logits: jax.Array, temperature: float
  ) -> jax.Array:
    """Returns T^2 KL(teacher || student) of the sigmoids of the logits over T, `[batch]`, in nats.

    It is the mean over the classes, as in the loss beside it; see `Classification.distill_loss`.
    """
    pairs = lambda x: jax.nn.log_sigmoid(jnp.stack([x, -x], axis=-1) / temperature)
    kl = optax.losses.kl_divergence_with_log_targets(pairs(logits), pairs(teacher_logits))
    return temperature**2 * kl.mean(-1)

  def mean_prediction(self, logits: Sequence[jax.Array]) -> jax.Array:
    """Returns logits of the mean of the probabilities of `logits`, one array for each view."""
    return logits[0] if len(logits) == 1 else mean_of_sigmoids(logits)

  def predictions(self, logits: jax.Array) -> dict[str, jax.Array]:
    """Returns the probability of each class, `[batch, num_classes]`."""
    return {"probabilities": jax.nn.sigmoid(logits)}

  def metric_inputs(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Returns the arrays for the metrics: the true classes and the predicted ones."""
    as_int = lambda x: x.astype(jnp.int32)
    return {"present": as_int(targets > 0.5), "predicted": as_int(logits > 0)}

  @property
  def collection(self) -> type[metrics.Collection]:
    return MultiLabelMetrics
