"""ShuffleNetV2: half of the channels pass each block unchanged, then the channels are shuffled.

arXiv:1807.11164 section 3 and table 5. Parameters at 1000 classes: `shufflenet_v2_x0_5` 1,366,792,
`shufflenet_v2_x1_0` 2,278,604, `shufflenet_v2_x1_5` 3,503,624 and `shufflenet_v2_x2_0` 7,393,996,
as in torchvision. The authors' code (github.com/megvii-model/ShuffleNet-Series) has no bias in the
last layer, and dropout in x2_0, as here.

Initialisation as in torchvision, by torch's default: kernels uniform in +-1 / sqrt(fan_in).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark, first_strided, run_stages
from cnnjax.models.registry import Rate, Scale, Size, register


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
  """Returns the first channel of each group, then the second of each (arXiv:1707.01083 3.1).

  x is [batch, height, width, channels], with the channels of each of `groups` groups together.
  """
  shape = x.shape
  x = x.reshape(*shape[:-1], groups, shape[-1] // groups)
  return jnp.swapaxes(x, -1, -2).reshape(shape)


class ShuffleBlock(nn.Module):
  """Half of the channels, and a branch of the other half, shuffled: figure 3 (c) and (d).

  With a stride, or where the number of channels changes, both halves are branches of all of x.
  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  features: int
  strides: int
  layer: Callable[..., nn.Module]  # ConvNormAct with the settings of the network

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    half = self.features // 2
    if self.strides == 1 and x.shape[-1] == self.features:
      shortcut, y = x[..., :half], x[..., half:]
    else:
      shortcut = self._depthwise(x, "shortcut_depthwise", train=train)
      shortcut = self.layer(half, 1, name="shortcut_conv")(shortcut, train=train)
      y = x
    y = self.layer(half, 1, name="conv1")(y, train=train)
    y = self._depthwise(y, "depthwise", train=train)
    y = self.layer(half, 1, name="conv2")(y, train=train)
    return channel_shuffle(jnp.concatenate([shortcut, y], axis=-1), 2)

  def _depthwise(self, x: jax.Array, name: str, *, train: bool) -> jax.Array:
    width = x.shape[-1]
    layer = self.layer(width, 3, strides=self.strides, groups=width, act=None, name=name)
    return layer(x, train=train)


class ShuffleNetV2(Backbone):
  """Stem, max pool, stages of shuffled blocks, 1x1 convolution, global pool, head."""

  num_classes: int
  stage_sizes: tuple[Size, ...] = (4, 8, 4)  # blocks in each stage
  stage_features: tuple[Size, ...] = (116, 232, 464)  # even numbers
  stem_features: Size = 24
  head_features: Size = 1024  # of the last convolution
  # For 32x32, as in github.com/kuangliu/pytorch-cifar: a stem without stride or pool; the last map
  # is 4x4.
  small_images: bool = False
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  pool: layers.Pool = "avg"
  dropout: Rate = 0.0  # before the last layer
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32

  def __post_init__(self):
    if len(self.stage_sizes) != len(self.stage_features):
      raise UserError(
        f"stage_sizes={self.stage_sizes} and stage_features={self.stage_features} must have the "
        "same length"
      )
    if any(features % 2 for features in self.stage_features):
      raise UserError(f"stage_features must be even numbers, got {self.stage_features}")
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels] of any size."""
    layers.check_images(x)
    layer = functools.partial(
      layers.ConvNormAct,
      conv=functools.partial(layers.conv, kernel_init=layers.torch_linear, dtype=self.dtype),
      norm=functools.partial(
        layers.norm,
        self.norm,
        momentum=self.norm_momentum,
        epsilon=self.norm_epsilon,
        dtype=self.dtype,
      ),
    )
    stride = 1 if self.small_images else 2
    x = layer(self.stem_features, 3, strides=stride, name="conv_stem")(x, train=train)
    x = mark("stem", x, stride=stride)
    if not self.small_images:
      x = layers.max_pool(x, 3, strides=2, padding=1)
      stride *= 2

    def block(stage: int, number: int, width: int, **options: Any) -> ShuffleBlock:
      return ShuffleBlock(self.stage_features[stage], layer=layer, **options)

    strides = first_strided([2] * len(self.stage_sizes), self.stage_sizes)
    x, stride = run_stages(block, strides, x, mark, stride=stride, train=train, remat=self.remat)
    x = layer(self.head_features, 1, name="conv_head")(x, train=train)
    return mark("head_conv", x, stride=stride)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes)(x)


ROW = dict(input_shape=(224, 224, 3), reference="arXiv:1807.11164 table 5")
VARIANTS = {
  "shufflenet_v2_x0_5": ROW | dict(stage_features=(48, 96, 192)),
  "shufflenet_v2_x1_0": ROW | dict(stage_features=(116, 232, 464)),
  "shufflenet_v2_x1_5": ROW | dict(stage_features=(176, 352, 704)),
  "shufflenet_v2_x2_0": ROW | dict(stage_features=(244, 488, 976), head_features=2048, dropout=0.2),
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(ShuffleNetV2)
