"""MobileNet v1 and v2: depthwise separable convolutions, then inverted residuals.

- MobileNet, arXiv:1704.04861 table 1, width multipliers of section 3.3. Parameters at 1000 classes:
  `mobilenetv1_100` 4,231,976, `mobilenetv1_075` 2,585,560, `mobilenetv1_050` 1,331,592,
  `mobilenetv1_025` 470,072.
- MobileNetV2, arXiv:1801.04381 table 2: `mobilenetv2_100` 3,504,872, `mobilenetv2_140` 6,108,776,
  `mobilenetv2_035` 1,677,128. Multipliers below 1 leave the last 1x1 convolution at 1280 features.

The defaults are those of torchvision and timm: 1 pixel of padding on each side, batch norm with
epsilon 1e-5 and momentum 0.9, and ReLU6 also in v1, where the paper says ReLU and its code ReLU6.
Keras and the authors' code pad as TensorFlow (`padding="same"`, one pixel off at stride 2), with
epsilon 1e-3 and momentum 0.99 (v1) or 0.999 (v2). Keras' v1 pads so only where a stride meets an
even number of pixels; its classifier is a 1x1 convolution with the same parameters.

Initialisation: kernels normal, variance 2 / fan_out, where a depthwise kernel has one output, as in
timm (efficientnet_init_weights, after the authors' tensorflow/tpu; torchvision counts all of its
channels). The last layer is normal with standard deviation 0.01, as in torchvision: timm's, uniform
in +-1 / sqrt(classes), starts far above the loss of guessing where classes are few.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.attention import SqueezeExcite
from cnnjax.models.backbone import Backbone, Mark, first_strided, run_stages
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register

# [height, width, 1, channels]: the fan-in, height * width, is the fan-out of one output.
depthwise_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
head_init = nn.initializers.normal(0.01)


class SeparableConv(nn.Module):
  """pointwise(depthwise(x)), each with norm and activation: arXiv:1704.04861 section 3.1.

  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  features: int
  strides: int
  layer: Callable[..., nn.Module]  # ConvNormAct with the settings of the network
  depthwise: Callable[..., nn.Module]  # the same for depthwise convolutions

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    width = x.shape[-1]
    x = self.depthwise(width, 3, strides=self.strides, groups=width, name="depthwise")(
      x, train=train
    )
    return self.layer(self.features, 1, name="pointwise")(x, train=train)


class InvertedResidual(nn.Module):
  """x + project(se(depthwise(expand(x)))); without x where the shape changes.

  arXiv:1801.04381 section 3.3; squeeze-and-excitation as in arXiv:1807.11626 and arXiv:1905.02244.
  The projection is linear: no activation follows it. Without expansion if x already has `expanded`
  features.
  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  expanded: int  # features inside the block
  features: int
  strides: int
  layer: Callable[..., nn.Module]
  depthwise: Callable[..., nn.Module]
  dtype: Any
  kernel_size: int = 3
  squeeze: int = 0  # features of the squeeze; 0: no squeeze-and-excitation
  squeeze_act: str = "relu"
  gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
  residual: bool = True  # x is added wherever shapes allow

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: float) -> jax.Array:
    y = x
    if self.expanded != x.shape[-1]:
      y = self.layer(self.expanded, 1, name="expand")(y, train=train)
    y = self.depthwise(
      self.expanded, self.kernel_size, strides=self.strides, groups=self.expanded, name="depthwise"
    )(y, train=train)
    if self.squeeze:
      y = SqueezeExcite(
        self.squeeze, act=self.squeeze_act, gate=self.gate, dtype=self.dtype, name="se"
      )(y)
    y = self.layer(self.features, 1, act=None, name="project")(y, train=train)
    if not self.residual or x.shape != y.shape:
      return y
    return x + layers.drop_path(y, drop_path, train=train)


def make_layers(
  *, norm: str, momentum: float, epsilon: float, padding: str, act: str, dtype: Any
) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
  """Returns ConvNormAct for full and for depthwise convolutions, with the settings of a network."""
  conv = functools.partial(layers.conv, dtype=dtype)
  layer = functools.partial(
    layers.ConvNormAct,
    conv=conv,
    norm=functools.partial(layers.norm, norm, dtype=dtype, momentum=momentum, epsilon=epsilon),
    padding="SAME" if padding == "same" else None,
    act=act,
  )
  return layer, functools.partial(layer, conv=functools.partial(conv, kernel_init=depthwise_init))


def stage_strides(stages: Sequence[Any], small_images: bool) -> list[list[int]]:
  """Returns the strides of the blocks of each stage, from its `strides` and `repeats`.

  The first block has the stride of its stage. For small images the first stride of 2 becomes 1.
  """
  strides = without_first_2([stage.strides for stage in stages], small_images)
  return first_strided(strides, [stage.repeats for stage in stages])


def without_first_2(strides: Sequence[int], small_images: bool) -> list[int]:
  """Returns the strides; for small images the first stride of 2 becomes 1."""
  strides = list(strides)
  if small_images and 2 in strides:
    strides[strides.index(2)] = 1
  return strides


class StageV1(NamedTuple):
  """Separable convolutions of one width; the first has the stride. Table 1 of the paper."""

  features: Size
  repeats: Size
  strides: Size


V1 = (
  StageV1(64, 1, 1),
  StageV1(128, 2, 2),
  StageV1(256, 2, 2),
  StageV1(512, 6, 2),
  StageV1(1024, 2, 2),
)


class MobileNetV1(Backbone):
  """Stem, stages of depthwise separable convolutions, global pool, head."""

  num_classes: int
  stages: tuple[StageV1, ...] = V1  # at width 1
  width: Scale = 1.0  # times the features everywhere, rounded to multiples of 8
  # For 32x32, as in github.com/kuangliu/pytorch-cifar: a stem without stride; the last map is 2x2.
  small_images: bool = False
  activation: layers.Activation = "relu6"
  padding: Literal["symmetric", "same"] = "symmetric"  # at stride 2: as in torch or TensorFlow
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  pool: layers.Pool = "avg"
  dropout: Rate = 0.0  # before the last layer
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels] of any size."""
    layers.check_images(x)
    layer, depthwise = make_layers(
      norm=self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      padding=self.padding, act=self.activation, dtype=self.dtype,
    )  # fmt: skip
    stride = 1 if self.small_images else 2
    stem = layers.make_divisible(32 * self.width)
    x = layer(stem, 3, strides=stride, name="conv_stem")(x, train=train)
    x = mark("stem", x, stride=stride)
    stages = [StageV1(*stage) for stage in self.stages]

    def block(stage: int, number: int, width: int, **options: Any) -> SeparableConv:
      features = layers.make_divisible(stages[stage].features * self.width)
      return SeparableConv(features, layer=layer, depthwise=depthwise, **options)

    strides = stage_strides(stages, small_images=False)
    return run_stages(block, strides, x, mark, stride=stride, train=train, remat=self.remat)[0]

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=head_init)(x)


class StageV2(NamedTuple):
  """Inverted residuals of one width; the first has the stride: t, c, n, s of table 2."""

  expand: Size  # features inside a block, as a multiple of its input's
  features: Size
  repeats: Size
  strides: Size


V2 = (
  StageV2(1, 16, 1, 1),
  StageV2(6, 24, 2, 2),
  StageV2(6, 32, 3, 2),
  StageV2(6, 64, 4, 2),
  StageV2(6, 96, 3, 1),
  StageV2(6, 160, 3, 2),
  StageV2(6, 320, 1, 1),
)


class MobileNetV2(Backbone):
  """Stem, stages of inverted residuals, 1x1 convolution, global pool, head."""

  num_classes: int
  stages: tuple[StageV2, ...] = V2  # at width 1
  width: Scale = 1.0  # times the features everywhere, rounded to multiples of 8
  head_features: Size = 1280  # of the last convolution; times the width only above 1
  # For 32x32, as in github.com/kuangliu/pytorch-cifar: stem and second stage (the first with a
  # stride) keep the size; the last map is 4x4.
  small_images: bool = False
  activation: layers.Activation = "relu6"
  padding: Literal["symmetric", "same"] = "symmetric"  # at stride 2: as in torch or TensorFlow
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  pool: layers.Pool = "avg"
  dropout: Rate = 0.2  # before the last layer
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
    layer, depthwise = make_layers(
      norm=self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      padding=self.padding, act=self.activation, dtype=self.dtype,
    )  # fmt: skip
    stride = 1 if self.small_images else 2
    stem = layers.make_divisible(32 * self.width)
    x = layer(stem, 3, strides=stride, name="conv_stem")(x, train=train)
    x = mark("stem", x, stride=stride)

    stages = [StageV2(*stage) for stage in self.stages]

    def block(stage: int, number: int, width: int, **options: Any) -> InvertedResidual:
      return InvertedResidual(
        expanded=stages[stage].expand * width,
        features=layers.make_divisible(stages[stage].features * self.width),
        layer=layer, depthwise=depthwise, dtype=self.dtype, **options,
      )  # fmt: skip

    depth = sum(stage.repeats for stage in stages)
    x, stride = run_stages(
      block, stage_strides(stages, self.small_images), x, mark, stride=stride, train=train,
      remat=self.remat,
      drop_path=layers.drop_path_rates(self.drop_path, depth, self.drop_path_mode),
    )  # fmt: skip
    features = layers.make_divisible(self.head_features * max(1.0, self.width))
    x = layer(features, 1, name="conv_head")(x, train=train)
    return mark("head_conv", x, stride=stride)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=head_init)(x)


IMAGENET = dict(input_shape=(224, 224, 3))
for _width in (0.25, 0.5, 0.75, 1.0, 1.25):
  _row = IMAGENET | dict(width=_width, reference="arXiv:1704.04861 table 1")
  register(f"mobilenetv1_{round(100 * _width):03}", **_row)(MobileNetV1)
for _width in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4):
  _row = IMAGENET | dict(width=_width, reference="arXiv:1801.04381 table 2")
  register(f"mobilenetv2_{round(100 * _width):03}", **_row)(MobileNetV2)
