"""Inception-v3, and the base that Inception-v4 and Inception-ResNet share with it.

arXiv:1512.00567 table 1 and figures 5 to 8, widths as in the authors' code (TF-slim).
`inception_v3` has 23,834,568 parameters at 1000 classes, 27,161,264 with the auxiliary head
(`aux_logits`), as in torchvision and timm.

Where implementations differ, and which one the defaults follow:
- torchvision and timm have a gamma in each norm, TF-slim and Keras none: `norm_scale=False`,
  23,817,352.
- The 3x3 average pools count padded pixels as zeros in torchvision and timm, not in TF-slim and
  Keras: `count_padding`.
- Batch norm: epsilon 1e-3 everywhere; moving averages keep 0.9 of the old one (torch), not 0.99
  (Keras) or 0.9997 (TF-slim): `norm_momentum`.
- torchvision and Keras feed images normalised to [-1, 1]: data.mean and data.std of 0.5 here.
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
from cnnjax.models.registry import Rate, Scale, Size, register

# A module is a list of branches, a branch a list of steps. A step is a convolution (features,
# kernel size, stride, padding; by default stride 1 and the padding that keeps the size), "avg" (a
# 3x3 pool of stride 1), "max" (3x3, stride 2), or a list of convolutions side by side. Steps of
# stride 2 have no padding.
Table = list[list]


def v3_a(pool: int) -> Table:
  """Returns the branches of figure 5, with 5x5 as in the authors' code; `pool`: its features."""
  return [[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], ["avg", (pool, 1)]]


def v3_b(width: int) -> Table:
  """Returns the branches of figure 6, n = 7; `width`: features inside the factorised ones."""
  return [
    [(192, 1)],
    [(width, 1), (width, (1, 7)), (192, (7, 1))],
    [(width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))],
    ["avg", (192, 1)],
  ]


V3_REDUCTION_A = [[(384, 3, 2)], [(64, 1), (96, 3), (96, 3, 2)], ["max"]]
V3_REDUCTION_B = [
  [(192, 1), (320, 3, 2)],
  [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)],
  ["max"],
]
V3_C = [
  [(320, 1)],
  [(384, 1), [(384, (1, 3)), (384, (3, 1))]],
  [(448, 1), (384, 3), [(384, (1, 3)), (384, (3, 1))]],
  ["avg", (192, 1)],
]


class Mixed(nn.Module):
  """An Inception module: the branches of a table, side by side, concatenated.

  [batch, height, width, any] to [batch, height, width, features of all branches together]. Where
  the table has strides, n pixels become (n - 3) // 2 + 1. With `keep_size` every stride is 1 and
  the padding keeps the size.
  """

  branches: Table
  unit: Callable[..., nn.Module]
  count_padding: bool = False
  keep_size: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    outputs = []
    for i, branch in enumerate(self.branches, 1):
      y, convs = x, 0
      for step in branch:
        if isinstance(step, str):
          y = self._pool(step, y)
          continue
        convs += 1
        name = f"branch{i}_conv{convs}"
        if isinstance(step[0], int):
          y = self._conv(step, name)(y, train=train)
        else:
          ys = [self._conv(spec, name + "ab"[j])(y, train=train) for j, spec in enumerate(step)]
          y = jnp.concatenate(ys, axis=-1)
      outputs.append(y)
    return jnp.concatenate(outputs, axis=-1)

  def _conv(self, spec: tuple, name: str) -> nn.Module:
    features, kernel_size, strides, padding = (*spec, 1, None)[:4]
    if self.keep_size:
      strides, padding = 1, None
    elif strides > 1:
      padding = 0
    return self.unit(features, kernel_size, strides=strides, padding=padding, name=name)

  def _pool(self, kind: str, x: jax.Array) -> jax.Array:
    if kind == "avg":
      return layers.avg_pool(x, 3, strides=1, padding=1, count_padding=self.count_padding)
    return layers.max_pool(x, 3, strides=1, padding=1) if self.keep_size else halve(x)


class AuxiliaryHead(nn.Module):
  """The auxiliary classifier, arXiv:1512.00567 section 4 and figure 8, sizes as in TF-slim.

  [batch, height, width, any] to float32 logits [batch, classes].
  On maps below 17x17 pixels, the size for 299x299 images, the pool leaves less than the 5x5 of the
  second kernel: its input is padded to 5x5. Initialisation as in torchvision.
  """

  num_classes: int
  unit: Callable[..., nn.Module]
  conv: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.avg_pool(x, min(5, *x.shape[1:3]), strides=3)
    x = self.unit(128, 1, name="conv1")(x, train=train)
    missing = [max(0, 5 - size) for size in x.shape[1:3]]
    padding = [(m // 2, m - m // 2) for m in missing]
    conv = functools.partial(self.conv, kernel_init=nn.initializers.normal(0.01))
    x = self.unit(768, 5, padding=padding, conv=conv, name="conv2")(x, train=train)
    head = layers.head(self.num_classes, kernel_init=nn.initializers.normal(0.001))
    return head(layers.global_pool(x))


def halve(x: jax.Array) -> jax.Array:
  """Pools between stages, without padding."""
  return layers.max_pool(x, 3, strides=2)


class Inception(Backbone):
  """The base of the three networks: stem, stages at strides 8, 16, 32, global pool, head."""

  num_classes: int
  stage_sizes: tuple[Size, ...] = ()  # modules of type A, B, C, without the reductions between
  width: Scale = 1.0  # times the features of every convolution: rounded, and at least 8
  # For 32x32: the stem keeps the size, which otherwise falls to an eighth: strides of 1, padding,
  # and no pools except those beside a convolution, at stride 1.
  small_images: bool = False
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-3  # of the norm
  norm_scale: bool = True  # a gamma in each norm; TF-slim and Keras have none
  count_padding: bool = False  # average pools count padded pixels as zeros; not in TensorFlow
  aux_logits: bool = False  # a second classifier after the middle stage, in training
  pool: layers.Pool = "avg"
  dropout: Rate = 0.2  # before the last layer; arXiv:1602.07261 figure 9 keeps 0.8
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32

  head_features = 0  # of a last 1x1 convolution, if there is one

  def __post_init__(self):
    if len(self.stage_sizes) != 3:
      raise UserError(f"stage_sizes must be the sizes of 3 stages, got {self.stage_sizes}")
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels].

    Images have at least 75x75 pixels, with `small_images` 7x7.
    """
    layers.check_images(x, smallest=7 if self.small_images else 75)
    kernel_init, _ = self._initializers()
    conv = functools.partial(layers.conv, kernel_init=kernel_init, dtype=self.dtype)
    norm = functools.partial(
      layers.norm, self.norm, use_scale=self.norm_scale, momentum=self.norm_momentum,
      epsilon=self.norm_epsilon, dtype=self.dtype,
    )  # fmt: skip
    unit = functools.partial(layers.ConvNormAct, width=self.width, conv=conv, norm=norm)
    x = self._stem(x, mark, unit, train=train)
    stride = 1 if self.small_images else 8
    for stage, blocks in enumerate(self._stages(unit, conv), 1):
      for i, block in enumerate(blocks, 1):
        block = block(name=f"stage{stage}_block{i}")
        x = layers.run_block(block, x, train=train, remat=self.remat)
      x = mark(f"stage{stage}", x, stride=stride)
      stride *= 2
      if stage == 2 and self._wants_aux(train):
        aux = AuxiliaryHead(self.num_classes, unit, conv, name="aux1_head")
        layers.auxiliary(self, "aux1", aux(x, train=train))
    if self.head_features:
      x = unit(self.head_features, 1, name="final_conv")(x, train=train)
      x = mark("head_conv", x, stride=stride // 2)
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    _, init = self._initializers()
    return layers.head(self.num_classes, kernel_init=init)(x)

  def _wants_aux(self, train: bool) -> bool:
    return self.aux_logits and self.num_classes > 0 and (train or self.is_initializing())

  def _initializers(self) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    """Returns the initialisers of convolutions and of the last layer."""
    raise NotImplementedError

  def _stages(self, unit: Callable, conv: Callable) -> list[list[Callable[..., nn.Module]]]:
    """Returns, for each stage, functions that make its blocks from a name."""
    raise NotImplementedError

  def _stem(self, x: jax.Array, mark: Mark, unit: Callable, *, train: bool) -> jax.Array:
    strides, padding, pool = (1, None, layers.identity) if self.small_images else (2, 0, halve)
    x = unit(32, 3, strides=strides, padding=padding, name="stem_conv1")(x, train=train)
    x = unit(32, 3, padding=padding, name="stem_conv2")(x, train=train)
    x = unit(64, 3, name="stem_conv3")(x, train=train)
    x = pool(mark("stem", x, stride=strides))
    x = unit(80, 1, name="stem_conv4")(x, train=train)
    x = unit(192, 3, padding=padding, name="stem_conv5")(x, train=train)
    return pool(mark("stem2", x, stride=strides**2))

  def _mixed(self, unit: Callable, *tables: Table) -> list[Callable[..., nn.Module]]:
    return [functools.partial(Mixed, table, unit, self.count_padding) for table in tables]


@register("inception_v3", input_shape=(299, 299, 3), reference="arXiv:1512.00567 table 1")
class InceptionV3(Inception):
  """Inception-v3. The first A has a narrower pool branch, the inner B have 7x7 of 160."""

  stage_sizes: tuple[Size, ...] = (3, 4, 2)
  count_padding: bool = True
  dropout: Rate = 0.5  # before the last layer, as in torchvision; TF-slim has 0.2

  def _initializers(self) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    # As torchvision and timm: normal of standard deviation 0.1, cut at +-2, which cuts nothing. A
    # head of few classes would start far above the loss of guessing.
    init = nn.initializers.normal(0.1)
    return init, layers.head_init(init, self.num_classes)

  def _stages(self, unit: Callable, conv: Callable) -> list[list[Callable[..., nn.Module]]]:
    return [self._mixed(unit, *stage) for stage in v3_tables(self.stage_sizes)]


def v3_tables(stage_sizes: tuple[int, int, int]) -> list[list[Table]]:
  """Returns the modules of Inception-v3, by stage."""
  a, b, c = stage_sizes
  widths = [128, *[160] * (b - 2), 192][:b]
  return [
    [v3_a(pool) for pool in [32, *[64] * (a - 1)]],
    [V3_REDUCTION_A, *map(v3_b, widths)],
    [V3_REDUCTION_B, *[V3_C] * c],
  ]
