"""A task and its head: semantic segmentation, the class of each pixel, on any backbone.

python -m cnnjax.main --config=experiments/extending/segmentation_config.py
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics

from cnnjax import Key, register, tasks
from cnnjax.data import fields
from cnnjax.models import layers
from cnnjax.tasks.labels import ClassAverage


class TopDown(nn.Module):
  """Brings the feature maps of all scales to the finest: arXiv:1612.03144, section 3."""

  backbone: nn.Module
  num_outputs: int
  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Float [batch, height, width, channels] to logits [batch, height, width, num_outputs]."""
    maps = self.backbone.feature_maps(x, train=train).values()
    by_stride = {feature.stride: feature.x for feature in maps}  # the last of each size
    options = dict(padding=0, dtype=self.backbone.dtype, train=train)
    merged = None
    for stride in sorted(by_stride, reverse=True):
      here = layers.conv(self.width, 1, name=f"lateral{stride}", **options)(by_stride[stride])
      if merged is not None:
        here += jax.image.resize(merged, here.shape, "nearest")
      merged = here
    merged = layers.conv(self.width, 3, name="smooth", **{**options, "padding": 1})(merged)
    merged = nn.relu(layers.batch_norm(dtype=self.backbone.dtype, train=train, name="norm")(merged))
    logits = nn.Conv(self.num_outputs, (1, 1), name="classes")(merged.astype(jnp.float32))
    return jax.image.resize(logits, (*x.shape[:3], self.num_outputs), "linear")


@flax.struct.dataclass
class SegmentationMetrics(metrics.Collection):
  """`miou`: the mean over the classes of intersection over union, of all pixels of a split."""

  loss: metrics.Average.from_output("loss")
  miou: ClassAverage
  pixel_accuracy: metrics.Average.from_output("right")


@register("head", "top_down", of="segmentation", width=Key(32, "top_down: channels of its maps"))
def top_down(task: tasks.Task, backbone: nn.Module) -> nn.Module:
  return TopDown(backbone, task.num_outputs, task.config.width)


@register("task", "segmentation")
@dataclasses.dataclass(frozen=True)
class Segmentation(tasks.Task):
  """Targets are masks, `[batch, height, width]`; pixels of the value `ignore` do not count."""

  NEEDS: ClassVar = ("image", "mask")
  TARGET: ClassVar = "mask"
  METRICS: ClassVar = (
    tasks.Metric("miou", better="max", form=".2%", headline=True),
    tasks.Metric("loss", better="min", form=".4f", headline=True),
    tasks.Metric("pixel_accuracy", better="max", form=".2%"),
  )
  name: str = "segmentation"
  head: str = "top_down"

  @classmethod
  def count_outputs(cls, data: fields.Fields, config: Any) -> int:
    return len(fields.first(data, "mask").classes)

  def counted(self, mask: jax.Array) -> jax.Array:
    """Returns whether each pixel counts."""
    return mask < self.num_outputs

  def mean_of_pixels(self, values: jax.Array, mask: jax.Array) -> jax.Array:
    counted = self.counted(mask)
    return (values * counted).sum((1, 2)) / jnp.maximum(counted.sum((1, 2)), 1)

  def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    classes = jnp.minimum(targets, self.num_outputs - 1).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, classes)
    return self.mean_of_pixels(losses, targets)

  def metric_inputs(self, outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    predicted, counted = outputs.argmax(-1), self.counted(targets)[..., None]
    there = lambda x: jax.nn.one_hot(x, self.num_outputs, dtype=jnp.int32) * counted
    a, b = there(predicted), there(targets)
    both, either = (a * b).sum((1, 2)), jnp.maximum(a, b).sum((1, 2))
    right = self.mean_of_pixels(predicted == targets, targets)
    return {"hits": both, "of": either, "right": right}

  @property
  def example_shapes(self) -> tuple[Any, Any]:
    shape = jax.ShapeDtypeStruct
    return shape((1, 1, 1, self.num_outputs), jnp.float32), shape((1, 1, 1), jnp.uint8)

  def predictions(self, outputs: jax.Array) -> dict[str, jax.Array]:
    return {"mask": outputs.argmax(-1).astype(jnp.uint8)}

  def pictures(self, fitted: tasks.Fitted, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
    """Shows each image, its mask and the predicted one side by side."""
    images, bands = batch["image"], batch["image"].shape[-1]
    shade = lambda mask: jnp.minimum(mask / self.num_outputs, 1)[..., None].repeat(bands, -1)
    predicted = self.predictions(fitted.outputs(images))["mask"]
    shown = images, shade(self.encode(batch)["mask"]), shade(predicted)
    return {"masks": jnp.concatenate(shown, axis=2)}

  @property
  def collection(self) -> type[metrics.Collection]:
    return SegmentationMetrics
