"""EfficientNets: inverted bottlenecks, scaled together in width, depth and image size.

- EfficientNet-B0 to B7, arXiv:1905.11946 table 1 and section 3.3: widths times alpha, rounded to
  multiples of 8, blocks times beta, rounded up. Parameters at 1000 classes: `efficientnet_b0`
  5,288,548, b1 7,794,184, b2 9,109,994, b3 12,233,232, b4 19,341,616, b5 30,389,784, b6 43,040,704,
  b7 66,347,960.
- EfficientNetV2-S, M, L, arXiv:2104.00298 table 4, in the sizes of the authors' code
  (github.com/google/automl, efficientnetv2): `efficientnetv2_s` 21,458,488, m 54,139,356, l
  118,515,272.
- EfficientNet-Lite0 to 4, github.com/tensorflow/tpu, efficientnet/lite: no squeeze-and-excitation,
  ReLU6, stem and head not scaled: `efficientnet_lite0` 4,652,008, lite1 5,416,680, lite2 6,092,072,
  lite3 8,197,096, lite4 13,006,568.

Where implementations differ, the defaults are those of the authors' code and Keras: padding as in
TensorFlow, batch norm with epsilon 1e-3 and momentum 0.99 (0.9 in V2). So `efficientnet_b0` gives
the logits of timm's tf_efficientnet_b0. timm's and torchvision's efficientnet_b0 pad both sides
alike (`padding="symmetric"`), with momentum 0.9 and epsilon 1e-5 in timm and in B0 to B4 of
torchvision.

Initialisation as in the authors' code (tensorflow/tpu, efficientnet_model.py): convolutions normal,
variance 2 / fan_out, where a depthwise kernel has one output; head uniform in +-1 / sqrt(classes)
for 1000 classes or more. For fewer classes that starts far above the loss of guessing: see
`layers.head_init`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark, first_strided, run_stages
from cnnjax.models.mobilenet import InvertedResidual, make_layers, without_first_2
from cnnjax.models.registry import ABOVE_0, Odd, Rate, Scale, Size, register

published_head = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class Stage(NamedTuple):
  """Blocks of one kind; the first has the stride. A row of the tables below."""

  block: Literal["mbconv", "fused"]
  expand: Size  # features inside the block, as a multiple of its input's
  kernel_size: Odd
  strides: Size
  features: Size
  repeats: Size


class FusedMBConv(nn.Module):
  """x + project(expand(x)): one full convolution replaces the 1x1 and the depthwise one.

  Without expansion the full convolution is the only one, and has the activation. x is added only
  where its shape is that of the output. There is no squeeze-and-excitation.
  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  expand: int
  kernel_size: int
  features: int
  strides: int
  layer: Callable[..., nn.Module]  # a partial of layers.ConvNormAct

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: float) -> jax.Array:
    full = functools.partial(self.layer, kernel_size=self.kernel_size, strides=self.strides)
    if self.expand == 1:
      y = full(self.features, name="project")(x, train=train)
    else:
      y = full(self.expand * x.shape[-1], name="expand")(x, train=train)
      y = self.layer(self.features, 1, act=None, name="project")(y, train=train)
    return x + layers.drop_path(y, drop_path, train=train) if x.shape == y.shape else y


# fmt: off
B0 = (
  Stage("mbconv", 1, 3, 1, 16, 1),
  Stage("mbconv", 6, 3, 2, 24, 2),
  Stage("mbconv", 6, 5, 2, 40, 2),
  Stage("mbconv", 6, 3, 2, 80, 3),
  Stage("mbconv", 6, 5, 1, 112, 3),
  Stage("mbconv", 6, 5, 2, 192, 4),
  Stage("mbconv", 6, 3, 1, 320, 1),
)
V2_S = (
  Stage("fused", 1, 3, 1, 24, 2),
  Stage("fused", 4, 3, 2, 48, 4),
  Stage("fused", 4, 3, 2, 64, 4),
  Stage("mbconv", 4, 3, 2, 128, 6),
  Stage("mbconv", 6, 3, 1, 160, 9),
  Stage("mbconv", 6, 3, 2, 256, 15),
)
V2_M = (
  Stage("fused", 1, 3, 1, 24, 3),
  Stage("fused", 4, 3, 2, 48, 5),
  Stage("fused", 4, 3, 2, 80, 5),
  Stage("mbconv", 4, 3, 2, 160, 7),
  Stage("mbconv", 6, 3, 1, 176, 14),
  Stage("mbconv", 6, 3, 2, 304, 18),
  Stage("mbconv", 6, 3, 1, 512, 5),
)
V2_L = (
  Stage("fused", 1, 3, 1, 32, 4),
  Stage("fused", 4, 3, 2, 64, 7),
  Stage("fused", 4, 3, 2, 96, 7),
  Stage("mbconv", 4, 3, 2, 192, 10),
  Stage("mbconv", 6, 3, 1, 224, 19),
  Stage("mbconv", 6, 3, 2, 384, 25),
  Stage("mbconv", 6, 3, 1, 640, 7),
)
# fmt: on


class EfficientNet(Backbone):
  """Stem, stages of (fused) inverted bottlenecks, 1x1 convolution, global pool, head."""

  num_classes: int
  stages: tuple[Stage, ...] = B0  # at width and depth 1
  width: Scale = 1.0  # times the features everywhere, rounded to multiples of 8
  depth: Scale = 1.0  # times the blocks of each stage, rounded up
  # False, as in Lite: width leaves stem and last convolution as they are, and depth the first and
  # the last stage.
  scale_ends: bool = True
  stem_features: Size = 32
  head_features: Size = 1280  # of the last convolution
  se_ratio: Rate = 0.25  # squeeze of the MBConv blocks, as a share of their input; 0: none
  activation: layers.Activation = "silu"
  # For 32x32: stem and second stage (the first that has a stride) keep the size, so that the last
  # map has 4x4 pixels, not 1x1.
  small_images: bool = False
  padding: Literal["same", "symmetric"] = "same"  # at stride 2: as in TensorFlow or as in torch
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.99  # of batch norm
  norm_epsilon: Scale = 1e-3  # of the norm
  pool: layers.Pool = "avg"
  dropout: Rate = 0.2  # before the last layer
  drop_path: Rate = 0.2
  # linear: block i of n, from 0, has drop_path * i / n, as in the authors' code.
  drop_path_mode: layers.DropPathMode = "linear"
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (("drop_path_mode", "drop_path", ABOVE_0),)

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels] of any size."""
    layers.check_images(x)
    layer, depthwise = make_layers(
      norm=self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      padding=self.padding, act=self.activation, dtype=self.dtype,
    )  # fmt: skip
    stem, head = self.stem_features, self.head_features
    if self.scale_ends:
      stem, head = self._width(stem), self._width(head)
    stride = 1 if self.small_images else 2
    x = layer(stem, 3, strides=stride, name="conv_stem")(x, train=train)
    x = mark("stem", x, stride=stride)

    def block(stage: int, number: int, width: int, **options: Any) -> nn.Module:
      row = self.stages[stage]
      options |= dict(features=self._width(row.features), kernel_size=row.kernel_size, layer=layer)
      if row.block == "fused":
        return FusedMBConv(expand=row.expand, **options)
      # The squeeze is a share of the features of the input, not of the expanded ones.
      squeeze = max(1, int(self.se_ratio * width)) if self.se_ratio else 0
      return InvertedResidual(
        expanded=row.expand * width, squeeze=squeeze, squeeze_act=self.activation,
        depthwise=depthwise, dtype=self.dtype, **options,
      )  # fmt: skip

    sizes = self.stage_sizes()
    strides = without_first_2([stage.strides for stage in self.stages], self.small_images)
    depth = sum(sizes)
    x, stride = run_stages(
      block, first_strided(strides, sizes), x, mark, stride=stride, train=train, remat=self.remat,
      drop_path=layers.drop_path_rates(
        self.drop_path, depth, self.drop_path_mode, first=0, divisor=depth
      ),
    )  # fmt: skip
    x = layer(head, 1, name="conv_head")(x, train=train)
    return mark("head_conv", x, stride=stride)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    init = layers.head_init(published_head, self.num_classes)
    return layers.head(self.num_classes, kernel_init=init)(x)

  def _width(self, features: int) -> int:
    return layers.make_divisible(features * self.width, 8)

  def stage_sizes(self) -> list[int]:
    """Returns the number of blocks of each stage."""
    return [self._depth(i) for i in range(len(self.stages))]

  def _depth(self, stage: int) -> int:
    repeats = self.stages[stage].repeats
    if not self.scale_ends and stage in (0, len(self.stages) - 1):
      return repeats
    return math.ceil(self.depth * repeats)


def v1(width: float, depth: float, size: int, dropout: float) -> dict[str, Any]:
  """Returns the options of a variant of version 1, by the compound scaling of section 3.3."""
  return dict(
    width=width, depth=depth, dropout=dropout,
    input_shape=(size, size, 3), reference="arXiv:1905.11946 table 1",
  )  # fmt: skip


def v2(stages: tuple[Stage, ...], size: int, dropout: float) -> dict[str, Any]:
  """Returns the options of a variant of version 2: each has its own stages."""
  return dict(
    stages=stages, stem_features=stages[0].features, norm_momentum=0.9, dropout=dropout,
    input_shape=(size, size, 3), reference="arXiv:2104.00298 table 4",
  )  # fmt: skip


def lite(width: float, depth: float, size: int, dropout: float) -> dict[str, Any]:
  """Returns the options of a Lite variant: no operations that are slow on phones."""
  reference = "github.com/tensorflow/tpu, efficientnet/lite"
  return v1(width, depth, size, dropout) | dict(
    scale_ends=False, se_ratio=0.0, activation="relu6", reference=reference
  )


VARIANTS = {
  "efficientnet_b0": v1(1.0, 1.0, 224, 0.2),
  "efficientnet_b1": v1(1.0, 1.1, 240, 0.2),
  "efficientnet_b2": v1(1.1, 1.2, 260, 0.3),
  "efficientnet_b3": v1(1.2, 1.4, 300, 0.3),
  "efficientnet_b4": v1(1.4, 1.8, 380, 0.4),
  "efficientnet_b5": v1(1.6, 2.2, 456, 0.4),
  "efficientnet_b6": v1(1.8, 2.6, 528, 0.5),
  "efficientnet_b7": v1(2.0, 3.1, 600, 0.5),
  "efficientnetv2_s": v2(V2_S, 384, 0.2),
  "efficientnetv2_m": v2(V2_M, 480, 0.3),
  "efficientnetv2_l": v2(V2_L, 480, 0.4),
  "efficientnet_lite0": lite(1.0, 1.0, 224, 0.2),
  "efficientnet_lite1": lite(1.0, 1.1, 240, 0.2),
  "efficientnet_lite2": lite(1.1, 1.2, 260, 0.3),
  "efficientnet_lite3": lite(1.2, 1.4, 280, 0.3),
  "efficientnet_lite4": lite(1.4, 1.8, 300, 0.3),
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(EfficientNet)
