"""ConvNeXt and ConvNeXt V2: residual networks modelled on the vision transformer.

- ConvNeXt, arXiv:2201.03545 section 3: parameters at 1000 classes `convnext_tiny` 28,589,128,
  `convnext_small` 50,223,688, `convnext_base` 88,591,464, `convnext_large` 197,767,336,
  `convnext_xlarge` 350,196,968. torchvision, timm and Keras agree exactly.
- ConvNeXt V2, arXiv:2301.00808 appendix A: global response normalisation instead of layer scale;
  `convnextv2_atto` 3,708,400 to `convnextv2_huge` 660,289,640, as in timm.

`drop_path` of V1 is the rate of the paper's training on ImageNet-1K (table 5; for XL on
ImageNet-22K), as in torchvision's constructors. For V2 it is 0, as in the authors' code and timm:
the paper chooses it for the fine-tuning after masked pre-training. The output of the global pool is
normalised before the last layer, and so are the pooled features of `num_classes=0`.

Initialisation as in github.com/facebookresearch/ConvNeXt: see `kernel_init`; biases zero.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, Factor, Rate, Size, register

# The authors' trunc_normal_(std=0.02) cuts at -2 and 2, a hundred standard deviations away.
kernel_init = nn.initializers.normal(0.02)


class Block(nn.Module):
  """x + layer_scale * branch(x); the branch is depthwise, norm, 1x1, GELU, response norm, 1x1.

  The 1x1 convolutions are dense layers over the channels. x keeps its shape.
  """

  kernel_size: int
  layer_scale: float
  response_norm: bool
  norm: str
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: layers.Drop) -> jax.Array:
    features = x.shape[-1]
    dense = functools.partial(layers.dense, dtype=self.dtype, kernel_init=kernel_init)
    y = layers.conv(
      features, self.kernel_size, padding="SAME", groups=features, use_bias=True,
      kernel_init=kernel_init, dtype=self.dtype, train=train, name="depthwise",
    )(x)  # fmt: skip
    y = layers.norm(self.norm, epsilon=1e-6, dtype=self.dtype, train=train, name="norm")(y)
    y = layers.ACTIVATIONS["gelu"](dense(4 * features, name="expand")(y))
    if self.response_norm:
      y = ResponseNorm(name="response_norm")(y)
    y = dense(features, name="project")(y)
    if self.layer_scale:
      init = nn.initializers.constant(self.layer_scale)
      y = y * self.param("layer_scale", init, (features,), jnp.float32).astype(y.dtype)
    return x + layers.drop_path(y, drop_path, train=train)


class ResponseNorm(nn.Module):
  """Global response normalisation, arXiv:2301.00808 section 4, algorithm 1.

  Weights each channel by its L2 norm over the image, relative to the mean over all channels.
  x is [batch, height, width, channels] and keeps its shape.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    squares = jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    # The maximum keeps the gradient of the root finite where a channel is 0 everywhere.
    response = jnp.sqrt(jnp.maximum(squares.sum(axis=(1, 2), keepdims=True), 1e-24))
    response /= response.mean(axis=-1, keepdims=True) + 1e-6
    return x * (1 + scale * response).astype(x.dtype) + bias.astype(x.dtype)


class ConvNeXt(Backbone):
  """Patches, stages that each halve the resolution, global pool, norm, head."""

  num_classes: int
  stage_sizes: tuple[Size, ...] = (3, 3, 9, 3)  # blocks in each stage
  features: tuple[Size, ...] = (96, 192, 384, 768)  # of each stage
  kernel_size: Size = 7  # of the depthwise convolutions, arXiv:2201.03545 section 2.5
  # For 32x32: patches of 2x2 instead of 4x4, so that maps of 16x16, 8x8, 4x4 and 2x2 follow.
  small_images: bool = False
  layer_scale: Factor = 1e-6  # initial factor of each branch, arXiv:2103.17239; 0: none
  response_norm: bool = False  # V2
  norm: layers.Norm = "layer"
  pool: layers.Pool = "avg"
  dropout: Rate = 0.0  # before the last layer
  drop_path: Rate = 0.0  # of the last block
  drop_path_mode: layers.DropPathMode = (
    "linear"  # grows from 0 in the first block, or is the same in all
  )
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (("drop_path_mode", "drop_path", ABOVE_0),)

  def __post_init__(self):
    if len(self.stage_sizes) != len(self.features):
      raise UserError(
        f"stage_sizes={self.stage_sizes} and features={self.features} must have the same length"
      )
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels].

    For four stages images have at least 32x32 pixels, with `small_images` 16x16.
    """
    patch = 2 if self.small_images else 4
    layers.check_images(x, smallest=patch * 2 ** (len(self.features) - 1))
    norm = self._norm(train=train)
    conv = functools.partial(
      layers.conv, padding=0, use_bias=True, kernel_init=kernel_init, dtype=self.dtype, train=train
    )
    block = functools.partial(
      Block,
      kernel_size=self.kernel_size,
      layer_scale=self.layer_scale,
      response_norm=self.response_norm,
      norm=self.norm,
      dtype=self.dtype,
    )
    x = conv(self.features[0], patch, strides=patch, name="stem_conv")(x)
    x = norm(dtype=self.dtype, name="stem_norm")(x)
    x = mark("stem", x, stride=patch)
    depth = sum(self.stage_sizes)
    rates = iter(layers.drop_path_rates(self.drop_path, depth, self.drop_path_mode, first=0))
    for stage, (size, features) in enumerate(zip(self.stage_sizes, self.features, strict=True), 1):
      if stage > 1:
        x = norm(dtype=self.dtype, name=f"stage{stage}_downsample_norm")(x)
        x = conv(features, 2, strides=2, name=f"stage{stage}_downsample_conv")(x)
      for i in range(1, size + 1):
        x = layers.run_block(
          block(name=f"stage{stage}_block{i}"), x, train=train, remat=self.remat,
          drop_path=next(rates),
        )  # fmt: skip
      x = mark(f"stage{stage}", x, stride=patch * 2 ** (stage - 1))
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    norm = self._norm(train=train)
    x = norm(dtype=jnp.float32, name="head_norm")(layers.global_pool(x, self.pool))
    x = layers.dropout(x, self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=kernel_init)(x)

  def _norm(self, *, train: bool) -> Callable[..., Callable]:
    return functools.partial(layers.norm, self.norm, epsilon=1e-6, train=train)


V1 = dict(input_shape=(224, 224, 3), reference="arXiv:2201.03545 section 3")
V2 = dict(
  input_shape=(224, 224, 3), reference="arXiv:2301.00808 appendix A",
  layer_scale=0.0, response_norm=True,
)  # fmt: skip
BIG = (3, 3, 27, 3)


def widths(first: int) -> tuple[int, ...]:
  """Returns the features of the four stages: each has twice those of the one before."""
  return first, 2 * first, 4 * first, 8 * first


VARIANTS = {
  "convnext_tiny": V1 | dict(drop_path=0.1),
  "convnext_small": V1 | dict(stage_sizes=BIG, drop_path=0.4),
  "convnext_base": V1 | dict(stage_sizes=BIG, features=widths(128), drop_path=0.5),
  "convnext_large": V1 | dict(stage_sizes=BIG, features=widths(192), drop_path=0.5),
  "convnext_xlarge": V1 | dict(stage_sizes=BIG, features=widths(256), drop_path=0.2),
  "convnextv2_atto": V2 | dict(stage_sizes=(2, 2, 6, 2), features=widths(40)),
  "convnextv2_femto": V2 | dict(stage_sizes=(2, 2, 6, 2), features=widths(48)),
  "convnextv2_pico": V2 | dict(stage_sizes=(2, 2, 6, 2), features=widths(64)),
  "convnextv2_nano": V2 | dict(stage_sizes=(2, 2, 8, 2), features=widths(80)),
  "convnextv2_tiny": V2,
  "convnextv2_base": V2 | dict(stage_sizes=BIG, features=widths(128)),
  "convnextv2_large": V2 | dict(stage_sizes=BIG, features=widths(192)),
  "convnextv2_huge": V2 | dict(stage_sizes=BIG, features=widths(352)),
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(ConvNeXt)
