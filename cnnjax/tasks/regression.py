"""Learns numbers of an image, by mean squared, mean absolute or Huber loss."""

import dataclasses
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics
from ml_collections import ConfigDict

from cnnjax.data import fields
from cnnjax.data.fields import Fields
from cnnjax.registry import register
from cnnjax.tasks.base import Task
from cnnjax.tasks.metric import Metric


@flax.struct.dataclass
class Determination(metrics.Metric):
  """R2, the coefficient of determination: 1 - sum (y - p)^2 / sum (y - mean y)^2.

  It is the mean over the values of an example, as in `sklearn.metrics.r2_score`. Sums of squares
  about the mean are merged by the formula of Chan, Golub and LeVeque (1979), as those about 0 would
  cancel. It is NaN where all values are equal.
  """

  count: jax.Array  # [] float32
  mean: jax.Array  # [k] float32, of the values
  about_mean: jax.Array  # [k] float32, sum of (y - mean)^2
  errors: jax.Array  # [k] float32, sum of (y - p)^2

  @classmethod
  def from_model_output(
    cls, values: jax.Array, predicted: jax.Array, mask: jax.Array, **_: Any
  ) -> "Determination":
    """Sums over values and predictions `[batch, k]` of the examples where `mask` is true."""
    kept = mask[:, None]
    count = mask.sum().astype(jnp.float32)
    mean = jnp.sum(values, axis=0, where=kept) / jnp.maximum(count, 1)
    squares = lambda x: jnp.sum(jnp.square(x), axis=0, where=kept)
    return cls(count, mean, squares(values - mean), squares(values - predicted))

  def merge(self, other: "Determination") -> "Determination":
    count = self.count + other.count
    apart = other.mean - self.mean
    share = other.count / jnp.maximum(count, 1)
    about_mean = self.about_mean + other.about_mean + apart**2 * self.count * share
    return Determination(count, self.mean + apart * share, about_mean, self.errors + other.errors)

  def compute(self) -> jax.Array:
    return (1 - self.errors / self.about_mean).mean()


@flax.struct.dataclass
class RootMean(metrics.Average):
  """The square root of a mean."""

  def compute(self) -> jax.Array:
    return jnp.sqrt(super().compute())


@flax.struct.dataclass
class RegressionMetrics(metrics.Collection):
  """Means over the examples and over the values of each, in units of the values."""

  loss: metrics.Average.from_output("loss")
  rmse: RootMean.from_output("squared")
  mae: metrics.Average.from_output("absolute")
  r2: Determination


@register("loss", "mse", of="regression")
def mse(task: Task, outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns the mean of (p - y)^2 of each example, in deviations."""
  return jnp.square(outputs - targets).mean(-1)


@register("loss", "mae", of="regression")
def mae(task: Task, outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns the mean of |p - y| of each example, in deviations."""
  return jnp.abs(outputs - targets).mean(-1)


@register("loss", "huber", of="regression", uses=("huber_delta",))
def huber(task: Task, outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns the mean of e^2 / 2 up to an error of delta, and of delta (|e| - delta / 2) above it.

  Huber (1964), doi:10.1214/aoms/1177703732, with the task's `huber_delta` in deviations.
  """
  return optax.losses.huber_loss(outputs, targets, delta=task.huber_delta).mean(-1)


@register("task", "regression", uses=("value_mean", "value_std"))
@dataclasses.dataclass(frozen=True)
class Regression(Task):
  """A task of the values of images; targets are these, `[batch, k]` float32, standardised.

  The network learns (value - value_mean) / value_std. Predictions and metrics but the loss are in
  units of the values.
  """

  NEEDS: ClassVar = ("image", "value")
  TARGET: ClassVar = "value"
  METRICS: ClassVar = (
    Metric("rmse", better="min", form=".4g", headline=True),
    Metric("loss", better="min", form=".4f", headline=True),
    Metric("mae", better="min", form=".4g"),
    Metric("r2", better="max", form=".4f"),
  )
  name: str = "regression"
  loss_name: str = "mse"
  huber_delta: float = 1.0
  value_mean: float = 0.0
  value_std: float = 1.0

  @classmethod
  def count_outputs(cls, data: Fields, config: ConfigDict) -> int:
    shape = fields.first(data, "value").shape
    return shape[0] if shape else 1

  def targets(self, values: jax.Array) -> jax.Array:
    """Returns standardised targets `[batch, k]` of values `[batch]` or `[batch, k]`."""
    return (values.reshape(len(values), -1) - self.value_mean) / self.value_std

  def _in_units(self, standardised: jax.Array) -> jax.Array:
    return standardised * self.value_std + self.value_mean

  def predictions(self, outputs: jax.Array) -> dict[str, jax.Array]:
    """Returns the `values`, `[batch, k]` float32."""
    return {"values": self._in_units(outputs)}

  def metric_inputs(self, outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Returns the arrays for the metrics."""
    errors = (outputs - targets) * self.value_std
    return {
      "squared": jnp.square(errors).mean(-1),
      "absolute": jnp.abs(errors).mean(-1),
      "values": targets,
      "predicted": outputs,
    }

  @property
  def collection(self) -> type[metrics.Collection]:
    return RegressionMetrics
