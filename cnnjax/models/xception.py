"""Xception, arXiv:1610.02357 figure 5: `xception` has 22,855,952 parameters at 1000 classes.

The network is as in Keras, by the paper's author, in timm (`legacy_xception`) and in pytorchcv. The
entry flow of the figure is the stem, stages 1 and 2 and the first block of stage 3; the middle flow
is the rest of stage 3, the exit flow is stage 4.

Keras and timm differ where a map has an even size: Keras pads the pools of stride 2 as TensorFlow
does, timm by one pixel on each side (`padding`). The defaults are those of Keras, also for batch
norm; timm has epsilon 1e-5, and moving averages that keep 0.9 of the old value.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register

glorot = nn.initializers.glorot_uniform()  # of every kernel in Keras; the paper does not say


class SeparableConvNorm(nn.Module):
  """A depthwise 3x3 and a 1x1 convolution without activation between, then a norm.

  [batch, height, width, any] to [batch, height, width, features].
  """

  features: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    channels = x.shape[-1]
    x = self.conv(channels, 3, groups=channels, padding=1, train=train, name="depthwise")(x)
    x = self.conv(self.features, 1, padding=0, train=train, name="pointwise")(x)
    return self.norm(train=train, name="norm")(x)


class Block(nn.Module):
  """shortcut(x) + branch(x); the branch is relu, separable convolution, norm, ..., 3x3/2 max pool.

  Only blocks of stride 2 have the pool. The shortcut is a 1x1 convolution where the shape changes.
  [batch, height, width, any] to [batch, height / strides, width / strides, widths[-1]], rounded up.
  """

  widths: tuple[int, ...]  # of the convolutions
  strides: int
  padding: str | int  # of the pool
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]
  drop_path: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    y = x
    for i, features in enumerate(self.widths, 1):
      # The figure has no relu here in the first block; its input comes from a relu: it is the same.
      y = SeparableConvNorm(features, self.conv, self.norm, name=f"conv{i}")(
        nn.relu(y), train=train
      )
    if self.strides != 1:
      y = layers.max_pool(y, 3, strides=self.strides, padding=self.padding)
    if x.shape != y.shape:
      shortcut = layers.ConvNormAct(
        self.widths[-1], 1, self.conv, self.norm, strides=self.strides, act=None, name="shortcut"
      )
      x = shortcut(x, train=train)
    return x + layers.drop_path(y, self.drop_path, train=train)


@register("xception", input_shape=(299, 299, 3), reference="arXiv:1610.02357 figure 5")
class Xception(Backbone):
  """Stem, stages of blocks, two separable convolutions, global pool, head."""

  num_classes: int
  middle_blocks: Size = 8  # of the middle flow, stage 3
  width: Scale = 1.0  # times the features of every convolution: rounded, and at least 8
  # For 32x32, as in github.com/weiaicunzai/pytorch-cifar100: stem and stage 3 keep the size, so
  # that the middle flow has maps of 8x8 and the last map is 4x4.
  small_images: bool = False
  padding: Literal["same", "symmetric"] = "same"  # of pools: as in TensorFlow or as in torch
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.99  # of the moving averages: the weight of the old value
  norm_epsilon: Scale = 1e-3
  pool: layers.Pool = "avg"
  dropout: Rate = 0.5  # before the last layer, section 4.3
  drop_path: Rate = 0.0  # of the last block; arXiv:1603.09382 section 3
  drop_path_mode: layers.DropPathMode = (
    "linear"  # grows from 0 with depth, or is the same in all blocks
  )
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (("drop_path_mode", "drop_path", ABOVE_0),)

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels].

    Images have at least 7x7 pixels, with `small_images` any size.
    """
    layers.check_images(x, smallest=1 if self.small_images else 7)
    conv = functools.partial(layers.conv, kernel_init=glorot, dtype=self.dtype)
    norm = functools.partial(
      layers.norm, self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      dtype=self.dtype,
    )  # fmt: skip
    unit = functools.partial(layers.ConvNormAct, conv=conv, norm=norm)
    scaled = lambda features: max(8, round(self.width * features))
    stride, padding = (1, 1) if self.small_images else (2, 0)
    x = unit(scaled(32), 3, strides=stride, padding=padding, name="stem_conv1")(x, train=train)
    x = unit(scaled(64), 3, padding=padding, name="stem_conv2")(x, train=train)
    x = mark("stem", x, stride=stride)

    block = functools.partial(
      Block, padding=1 if self.padding == "symmetric" else "SAME", conv=conv, norm=norm
    )
    middle = [(728, 728, 728)] * self.middle_blocks
    stages = [[(128, 128)], [(256, 256)], [(728, 728), *middle], [(728, 1024)]]
    depth = sum(map(len, stages))
    rates = iter(layers.drop_path_rates(self.drop_path, depth, self.drop_path_mode))
    for stage, blocks in enumerate(stages, 1):
      strides = 1 if self.small_images and stage == 3 else 2
      for i, widths in enumerate(blocks, 1):
        module = block(
          widths=tuple(map(scaled, widths)),
          strides=strides if i == 1 else 1,
          drop_path=next(rates),
          name=f"stage{stage}_block{i}",
        )
        x = layers.run_block(module, x, train=train, remat=self.remat)
      stride *= strides
      if stage < len(stages):
        x = mark(f"stage{stage}", x, stride=stride)
    for i, features in enumerate((1536, 2048), 1):
      last = SeparableConvNorm(scaled(features), conv, norm, name=f"stage4_conv{i}")
      x = nn.relu(last(x, train=train))
    return mark("stage4", x, stride=stride)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=glorot)(x)
