"""PyramidNet, arXiv:1610.02915: pre-activation blocks, each a little wider than the last.

Block n of N has 16 + alpha n / N features, rounded (64 + alpha n / N on ImageNet), and 4 times as
many at the ends of a bottleneck (the paper's additive form). Compared with ResNet v2, a block has
one more norm, after the last convolution, and lacks the first relu. Its shortcut appends zeros for
the missing channels, after an average pool where the stride is 2.

CIFAR, at 10 classes: `pyramidnet110_a84` 3,904,446, `pyramidnet110_a270` 28,485,477,
`pyramidnet200_a240_bn` 26,752,702, `pyramidnet272_a200_bn` 26,210,842 ("bn": bottleneck). ImageNet:
`pyramidnet101_a360` 42,455,070 at 1000. Names and counts are those of pytorchcv.

As in the authors' code (github.com/jhkim89/PyramidNet, github.com/dyhan0920/PyramidNet-PyTorch)
widths are rounded from a running sum; the paper takes the floor of each width, which would lose a
fraction in every block. Kernels are normal with variance 2 / fan_out, as in that code.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark, first_strided, run_stages
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register


class Block(nn.Module):
  """shortcut(x) + branch(x); the branch is norm, conv, norm, relu, conv, ..., norm.

  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  features: int
  block: str
  strides: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: layers.Drop = 0.0) -> jax.Array:
    features = self.features
    convs = [(features, 3, self.strides), (features, 3, 1)]
    if self.block == "bottleneck":
      convs = [(features // 4, 1, 1), (features // 4, 3, self.strides), (features, 1, 1)]
    y = x
    for i, (width, kernel_size, strides) in enumerate(convs, 1):
      y = self.norm(train=train, name=f"norm{i}")(y)
      if i > 1:
        y = nn.relu(y)
      y = self.conv(
        width, kernel_size, strides=strides, padding=kernel_size // 2, train=train, name=f"conv{i}"
      )(y)
    y = self.norm(train=train, name="last_norm")(y)
    y = layers.drop_path(y, drop_path, train=train)
    if self.strides != 1:
      x = layers.avg_pool(x, 2, strides=2, ceil=True, count_padding=False)
    return y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


class PyramidNet(Backbone):
  """Stem, stages of blocks, norm, relu, global pool, head; later stages halve the size."""

  num_classes: int
  stage_sizes: tuple[Size, ...] = (18, 18, 18)  # blocks in each stage
  block: Literal["basic", "bottleneck"] = "basic"  # 3x3, 3x3 or 1x1, 3x3, 1x1
  alpha: Size = 48  # features that the last block has more than the stem, before the factor of 4
  stem_features: Size = 64
  # For 32x32: the stem is 3x3/1 alone instead of 7x7/2, relu and a 3x3/2 max pool, as in the
  # authors' code.
  small_images: bool = False
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  pool: layers.Pool = "avg"
  dropout: Rate = 0.0  # before the last layer
  drop_path: Rate = 0.0  # of the last block; arXiv:1603.09382 section 3
  drop_path_mode: layers.DropPathMode = (
    "linear"  # grows from 0 with depth, or is the same in all blocks
  )
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (("drop_path_mode", "drop_path", ABOVE_0),)

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels] of any size."""
    layers.check_images(x)
    conv = functools.partial(layers.conv, dtype=self.dtype)
    norm = functools.partial(
      layers.norm, self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      dtype=self.dtype,
    )  # fmt: skip
    kernel_size, stride = (3, 1) if self.small_images else (7, 2)
    x = conv(
      self.stem_features, kernel_size, strides=stride, padding=kernel_size // 2, train=train,
      name="stem_conv",
    )(x)  # fmt: skip
    x = norm(train=train, name="stem_norm")(x)
    if not self.small_images:
      x = nn.relu(x)
    x = mark("stem", x, stride=stride)
    if not self.small_images:
      x = layers.max_pool(x, 3, strides=2, padding=1)
      stride = 4
    sizes, depth = self.stage_sizes, sum(self.stage_sizes)

    def block(stage: int, number: int, _: int, **options: Any) -> Block:
      n = sum(sizes[:stage]) + number + 1
      width = round(self.stem_features + self.alpha * n / depth)
      features = width * (4 if self.block == "bottleneck" else 1)
      return Block(features=features, block=self.block, conv=conv, norm=norm, **options)

    strides = first_strided([1, *[2] * (len(sizes) - 1)], sizes)
    x, _ = run_stages(
      block, strides, x, mark, stride=stride, train=train, remat=self.remat,
      drop_path=layers.drop_path_rates(self.drop_path, depth, self.drop_path_mode),
    )  # fmt: skip
    return nn.relu(norm(train=train, name="final_norm")(x))

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes)(x)


CIFAR = dict(
  input_shape=(32, 32, 3), reference="arXiv:1610.02915", stem_features=16, small_images=True,
)  # fmt: skip
BOTTLENECK = CIFAR | dict(block="bottleneck")
VARIANTS = {
  "pyramidnet110_a48": CIFAR | dict(stage_sizes=(18, 18, 18), alpha=48),
  "pyramidnet110_a84": CIFAR | dict(stage_sizes=(18, 18, 18), alpha=84),
  "pyramidnet110_a270": CIFAR | dict(stage_sizes=(18, 18, 18), alpha=270),
  "pyramidnet164_a270_bn": BOTTLENECK | dict(stage_sizes=(18, 18, 18), alpha=270),
  "pyramidnet200_a240_bn": BOTTLENECK | dict(stage_sizes=(22, 22, 22), alpha=240),
  "pyramidnet236_a220_bn": BOTTLENECK | dict(stage_sizes=(26, 26, 26), alpha=220),
  "pyramidnet272_a200_bn": BOTTLENECK | dict(stage_sizes=(30, 30, 30), alpha=200),
  "pyramidnet101_a360": dict(
    input_shape=(224, 224, 3), reference="github.com/dyhan0920/PyramidNet-PyTorch",
    block="bottleneck", stage_sizes=(3, 4, 23, 3), alpha=360,
  ),
}  # fmt: skip
for _name, _row in VARIANTS.items():
  register(_name, **_row)(PyramidNet)
