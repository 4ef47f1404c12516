"""Learns one label for each image, by softmax or binary cross-entropy, or focal loss."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics

from cnnjax.errors import UserError
from cnnjax.registry import register
from cnnjax.tasks import weights
from cnnjax.tasks.labels import LABEL_KEYS, ClassAverage, LabelTask, mean_of_sigmoids
from cnnjax.tasks.metric import Metric

TOP = 5  # classes that top5_accuracy takes; with no more classes it would always be 1


def _recalls(correct: jax.Array, classes: jax.Array, **_: Any) -> dict[str, jax.Array]:
  return {"hits": correct[:, None] & classes, "of": classes}


@flax.struct.dataclass
class ClassificationMetrics(metrics.Collection):
  """Sums and counts, which merge in any order to the same values.

  `mean_class_accuracy` is the mean of the recalls of the classes that occur (balanced accuracy).
  """

  loss: metrics.Average.from_output("loss")
  accuracy: metrics.Average.from_output("correct")
  mean_class_accuracy: ClassAverage.from_fun(_recalls)


ClassificationMetricsTop5 = metrics.Collection.create(
  **ClassificationMetrics.__annotations__, top5_accuracy=metrics.Average.from_output("in_top5")
)


def _prepared(
  task: LabelTask, logits: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns (adjusted logits, smoothed and weighted targets).

  The logits get + tau log prior: arXiv:2007.07314, equation 10.
  """
  targets = optax.smooth_labels(targets, task.label_smoothing) * task.weights
  if task.logit_adjustment:
    logits = logits + task.logit_adjustment * weights.log_prior(task.counts)
  return logits, targets


@register("loss", "cross_entropy", of="classification", uses=("logit_adjustment",))
def cross_entropy(task: LabelTask, logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns -sum_c w_c t_c log p_c, `[batch]`, with smoothed targets t and class weights w.

  It is torch.nn.CrossEntropyLoss with `weight` and `label_smoothing` for targets that are
  probabilities, mixed ones too. The loss of a batch is the plain mean of these, as there (for
  targets that are classes torch divides by the sum of their weights instead).
  """
  return optax.softmax_cross_entropy(*_prepared(task, logits, targets))


@register("loss", "focal", of="classification", uses=("focal_gamma", "logit_adjustment"))
def focal(task: LabelTask, logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns -sum_c w_c t_c (1 - p_c)^gamma log p_c: arXiv:1708.02002, equation 4, by a softmax."""
  logits, targets = _prepared(task, logits, targets)
  # Where p rounds to 1, the gradient of (1 - p)^gamma is infinite for a gamma below 1.
  rest = jnp.maximum(1 - jax.nn.softmax(logits), jnp.finfo(jnp.float32).eps)
  return optax.softmax_cross_entropy(logits, targets * rest**task.focal_gamma)


@register("loss", "binary_cross_entropy", of="classification", uses=("target_threshold",))
def binary_cross_entropy(task: LabelTask, logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns the mean over the classes of the binary cross-entropy of each against the rest.

  It is the loss of "ResNet strikes back" (arXiv:2110.00476, section 2.2) as timm's
  `BinaryCrossEntropy` computes it, with smoothing to 1 - e + e / K and e / K, and with its
  `target_threshold`; its `sum_classes`, false there by default, is younger than the paper.

  An image has the weight of its label in all classes; a mixed image mixes the losses of its labels:
  arXiv:1901.05555, section 4.2. timm and torch multiply class c by w_c, for the images without it
  as well, so that its prior stays and rare classes gain nothing: experiments/recipes/README.md.
  """
  if task.target_threshold is not None:
    present = (targets > task.target_threshold).astype(logits.dtype)
    losses = optax.sigmoid_binary_cross_entropy(logits, present).mean(-1)
    return losses * (targets * task.weights).sum(-1)
  present = optax.smooth_labels(targets, task.label_smoothing) * task.weights
  absent = present.sum(-1, keepdims=True) - present
  return -(present * jax.nn.log_sigmoid(logits) + absent * jax.nn.log_sigmoid(-logits)).mean(-1)


@register("task", "classification", uses=LABEL_KEYS)
@dataclasses.dataclass(frozen=True)
class Classification(LabelTask):
  """A task of one label for each image; targets are distributions over the classes."""

  METRICS: ClassVar = (
    Metric("accuracy", better="max", form=".2%", headline=True),
    Metric("loss", better="min", form=".4f", headline=True),
    Metric("mean_class_accuracy", better="max", form=".2%"),
    Metric("top5_accuracy", better="max", form=".2%"),
  )
  name: str = "classification"
  loss_name: str = "cross_entropy"

  @classmethod
  def check_labels(cls, several: bool, classes: Sequence[str]) -> None:
    """Raises UserError if an image may have `several` labels."""
    if several:
      raise UserError(
        "task.name=classification takes one class an image, and in these data an image may have "
        "several: set task.name=multi_label"
      )

  def targets(self, labels: jax.Array) -> jax.Array:
    """Returns one-hot targets of int labels `[batch]`."""
    return jax.nn.one_hot(labels, self.num_classes)

  def eval_loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the plain softmax cross-entropy, without weights or smoothing, so that runs compare.

    It serves every loss: timm validates by it after training with binary cross-entropy, too.
    """
    return optax.softmax_cross_entropy(logits, targets)

  def distill_loss(
    self, logits: jax.Array, teacher_logits: jax.Array, temperature: float
  ) -> jax.Array:
    """Returns T^2 KL(teacher || student) of the softmax of the logits over T, `[batch]`, in nats.

    arXiv:1503.02531, section 2: with T^2 the gradient stays as large as that of the other loss.
    """
    student, teacher = (jax.nn.log_softmax(x / temperature) for x in (logits, teacher_logits))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(student, teacher)

  def mean_prediction(self, logits: Sequence[jax.Array]) -> jax.Array:
    """Returns logits of the mean of the probabilities of `logits`, one array for each view.

    Probabilities are those of the loss: with binary cross-entropy the sigmoid of each class.
    """
    if len(logits) == 1:
      return logits[0]
    if self.loss_name == "binary_cross_entropy":
      return mean_of_sigmoids(logits)
    return jax.nn.logsumexp(jax.nn.log_softmax(jnp.stack(logits)), axis=0) - math.log(len(logits))

  def predictions(self, logits: jax.Array) -> dict[str, jax.Array]:
    """Returns the probability of each class, `[batch, num_classes]`, as the loss reads logits."""
    binary = self.loss_name == "binary_cross_entropy"
    return {"probabilities": jax.nn.sigmoid(logits) if binary else jax.nn.softmax(logits)}

  def metric_inputs(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Returns the arrays for the metrics; of mixed targets the heavier class counts."""
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
