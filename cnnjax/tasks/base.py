"""What the tasks share: their fields, and metrics that are sums per class."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average, Collection
from clu.metrics import Metric as CluMetric
from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.fields import Need
from cnnjax.tasks import weights
from cnnjax.tasks.metric import Metric


@flax.struct.dataclass
class ClassAverage(CluMetric):
  """Sum of `hits` by sum of `of` in each class; the mean over the classes that have any.

  Integers, so that merging in any order gives the same bits.
  """

  total: jax.Array  # [num_classes] int32
  count: jax.Array  # [num_classes] int32

  @classmethod
  def from_model_output(
    cls, hits: jax.Array, of: jax.Array, mask: jax.Array, **_: Any
  ) -> "ClassAverage":
    """From `hits` and `of`, `[batch, num_classes]`, of the examples where `mask` is true."""
    kept = lambda x: jnp.sum(x, axis=0, where=mask[:, None], dtype=jnp.int32)
    return cls(total=kept(hits), count=kept(of))

  def merge(self, other: "ClassAverage") -> "ClassAverage":
    return type(self)(total=self.total + other.total, count=self.count + other.count)

  def compute(self) -> jax.Array:
    return jnp.mean(self.total / self.count, where=self.count > 0)


@flax.struct.dataclass
class MicroAverage(ClassAverage):
  """The same sums, over all classes together."""

  def compute(self) -> jax.Array:
    sums = [jnp.sum(x, dtype=jnp.float32) for x in (self.total, self.count)]  # may exceed int32
    return sums[0] / sums[1]


def mean_of_sigmoids(logits: Sequence[jax.Array]) -> jax.Array:
  """Logits of the mean of the sigmoids that several `logits` of an image give."""
  # log p - log (1 - p), since p itself rounds to 1 where every view is sure.
  log_mean = lambda x: jax.nn.logsumexp(jax.nn.log_sigmoid(x), axis=0)
  return log_mean(jnp.stack(logits)) - log_mean(-jnp.stack(logits))


def declared(task: Any, more: Sequence[str]) -> tuple[Metric, ...]:
  """What is known of the metrics of a task, or of its class, and of registered ones by name."""
  parts = [(name, registry.part("metric", name, task.name)) for name in more]
  return (*task.METRICS, *(Metric(name, **part.options) for name, part in parts))


@dataclasses.dataclass(frozen=True)
class Task:
  """What a task is made from. Targets are float32 `[batch, num_classes]`, and can be mixed.

  A subclass says `targets(labels)`, `eval_loss(logits, targets)`,
  `distill_loss(logits, teacher_logits, temperature)`, `mean_prediction(logits)`,
  `predictions(logits)`, `outputs(logits, targets)` and `collection`; and `METRICS`, what is known
  of those of the collection, in the order in which they are printed. One that is not declared there
  is printed last, and cannot be monitored. Its losses are registered: functions (task, logits,
  targets) -> the loss of each example, `[batch]`, in nats.
  `SEVERAL`: an image may have several labels. `NEEDS`: the kinds of fields that it reads.
  """

  METRICS: ClassVar[tuple[Metric, ...]] = ()
  SEVERAL: ClassVar[bool] = False
  NEEDS: ClassVar[tuple[Need, ...]] = ("image", ("label", "multi_label"))

  num_classes: int
  name: str = ""  # of the task whose losses and metrics it takes; a subclass says it, and its loss
  loss_name: str = ""
  config: ConfigDict | None = None  # the group `task`, for the keys of registered parts
  more_metrics: tuple[str, ...] = ()  # registered ones, beside those of the collection
  label_smoothing: float = 0.0
  focal_gamma: float = 2.0
  logit_adjustment: float = 0.0  # tau; 0: none
  target_threshold: float | None = None
  aux_weight: float = 0.3  # of the loss of each auxiliary head
  class_weights: weights.Weights = None
  effective_beta: float = 0.999
  counts: np.ndarray | None = None  # [num_classes], training examples
  examples: int | None = None  # of all classes; an image of several counts once

  @property
  def weights(self) -> np.ndarray:
    """What the training loss of each class is multiplied by, `[num_classes]`."""
    return weights.of_classes(
      self.class_weights, self.num_classes, self.counts, self.effective_beta
    )

  def loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The training loss of each example, `[batch]`, by the loss that is registered."""
    return registry.part("loss", self.loss_name, self.name).value(self, logits, targets)

  @property
  def declared(self) -> tuple[Metric, ...]:
    """What is known of its metrics, also of registered ones."""
    return declared(self, self.more_metrics)

  @functools.cached_property
  def measured(self) -> type[Collection]:
    """Its collection, with the registered metrics that are chosen."""
    own = self.collection
    more = {name: Average.from_output(name) for name in self.more_metrics}
    return Collection.create(**own.__annotations__, **more) if more else own

  def metrics(
    self, logits: jax.Array, targets: jax.Array, losses: jax.Array, mask: jax.Array | None = None
  ) -> Collection:
    """Sums and counts of one batch; an example whose mask is false counts nowhere."""
    mask = jnp.ones(losses.shape, bool) if mask is None else mask
    more = {
      name: registry.part("metric", name, self.name).value(self, logits, targets)
      for name in self.more_metrics
    }
    return self.measured.single_from_model_output(
      loss=losses, mask=mask, **self.outputs(logits, targets), **more
    )

  def no_metrics(self) -> Collection:
    """Metrics of no example, with the shapes of those of a batch."""
    values = jax.ShapeDtypeStruct((1, self.num_classes), jnp.float32)
    losses = jax.ShapeDtypeStruct((1,), jnp.float32)
    found = jax.eval_shape(self.metrics, values, values, losses)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
