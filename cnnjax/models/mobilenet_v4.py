"""MobileNetV4, the convolutional ones: universal inverted bottlenecks.

arXiv:2404.10518, figure 4 and the tables of appendix D. Parameters at 1000 classes:
`mobilenetv4_conv_small` 3,774,024, `mobilenetv4_conv_medium` 9,715,512, `mobilenetv4_conv_large`
32,590,864; narrow as in timm `mobilenetv4_conv_small_050` 2,238,952, `mobilenetv4_conv_small_035`
1,905,384. A 1x1 convolution with norm stands behind the global pool, so that `num_classes=0` gives
its 1280 features. The hybrid ones, with attention, are not here.

As in timm: 1 or 2 pixels of padding on each side, epsilon 1e-5, momentum 0.9. The authors' code
(tensorflow/models, official/vision) pads as TensorFlow (`padding="same"`) and takes epsilon 1e-3,
momentum 0.997 (1e-6, 0.95 for small). Dropout and stochastic depth are those of its configs, where
the rate of large is the same for all blocks. Initialisation as in models/mobilenet.py.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.mobilenet import head_init, make_layers, stage_strides
from cnnjax.models.registry import Rate, Scale, Size, register


class Conv(NamedTuple):
  """A convolution with norm and activation, a row of the tables below."""

  kernel_size: int
  features: int
  strides: int = 1


class Fused(NamedTuple):
  """A fused inverted bottleneck: the convolution that expands is a full one."""

  kernel_size: int
  expand: int  # features inside, as a multiple of those of the input
  features: int
  strides: int = 1


class UIB(NamedTuple):
  """A universal inverted bottleneck: kernel sizes of its depthwise convolutions, 0 for none.

  Both: ExtraDW; the second: inverted bottleneck; the first: as in ConvNeXt; none: FFN.
  """

  kernel_size1: int  # before the expansion
  kernel_size2: int  # after it
  expand: int
  features: int
  strides: int = 1


class FusedBottleneck(nn.Module):
  """x + project(expand(x)); without x where the shape changes."""

  expanded: int  # features inside
  features: int
  spec: Fused
  strides: int
  layer: Callable[..., nn.Module]  # ConvNormAct, with what the network shares
  depthwise: Callable[..., nn.Module]  # the same for a depthwise convolution

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: float) -> jax.Array:
    y = self.layer(self.expanded, self.spec.kernel_size, strides=self.strides, name="expand")(
      x, train=train
    )
    y = self.layer(self.features, 1, act=None, name="project")(y, train=train)
    return x + layers.drop_path(y, drop_path, train=train) if x.shape == y.shape else y


class UniversalBottleneck(nn.Module):
  """x + project(depthwise2(expand(depthwise1(x)))); without x where the shape changes.

  Activation after the expansion and after depthwise2. The last depthwise has the stride.
  """

  expanded: int  # features inside
  features: int
  spec: UIB
  strides: int
  layer: Callable[..., nn.Module]
  depthwise: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: float) -> jax.Array:
    size1, size2 = self.spec.kernel_size1, self.spec.kernel_size2
    y, width = x, x.shape[-1]
    if size1:
      strides = 1 if size2 else self.strides
      y = self.depthwise(
        width, size1, strides=strides, groups=width, act=None, name="depthwise1"
      )(y, train=train)  # fmt: skip
    y = self.layer(self.expanded, 1, name="expand")(y, train=train)
    if size2:
      y = self.depthwise(
        self.expanded, size2, strides=self.strides, groups=self.expanded, name="depthwise2"
      )(y, train=train)
    y = self.layer(self.features, 1, act=None, name="project")(y, train=train)
    return x + layers.drop_path(y, drop_path, train=train) if x.shape == y.shape else y


# fmt: off
SMALL = (
  (Conv(3, 32, 2), Conv(1, 32)),
  (Conv(3, 96, 2), Conv(1, 64)),
  (UIB(5, 5, 3, 96, 2), *4 * (UIB(0, 3, 2, 96),), UIB(3, 0, 4, 96)),
  (UIB(3, 3, 6, 128, 2), UIB(5, 5, 4, 128), UIB(0, 5, 4, 128), UIB(0, 5, 3, 128),
   *2 * (UIB(0, 3, 4, 128),)),
)
MEDIUM = (
  (Fused(3, 4, 48, 2),),
  (UIB(3, 5, 4, 80, 2), UIB(3, 3, 2, 80)),
  (UIB(3, 5, 6, 160, 2), *2 * (UIB(3, 3, 4, 160),), UIB(3, 5, 4, 160), UIB(3, 3, 4, 160),
   UIB(3, 0, 4, 160), UIB(0, 0, 2, 160), UIB(3, 0, 4, 160)),
  (UIB(5, 5, 6, 256, 2), UIB(5, 5, 4, 256), *2 * (UIB(3, 5, 4, 256),), UIB(0, 0, 4, 256),
   UIB(3, 0, 4, 256), UIB(3, 5, 2, 256), UIB(5, 5, 4, 256), *2 * (UIB(0, 0, 4, 256),),
   UIB(5, 0, 2, 256)),
)
LARGE = (
  (Fused(3, 4, 48, 2),),
  (UIB(3, 5, 4, 96, 2), UIB(3, 3, 4, 96)),
  (UIB(3, 5, 4, 192, 2), *3 * (UIB(3, 3, 4, 192),), UIB(3, 5, 4, 192),
   *5 * (UIB(5, 3, 4, 192),), UIB(3, 0, 4, 192)),
  (UIB(5, 5, 4, 512, 2), *3 * (UIB(5, 5, 4, 512),), UIB(5, 0, 4, 512), UIB(5, 3, 4, 512),
   *2 * (UIB(5, 0, 4, 512),), UIB(5, 3, 4, 512), UIB(5, 5, 4, 512), *3 * (UIB(5, 0, 4, 512),)),
)
# fmt: on


class MobileNetV4(nn.Module):
  """Stem, stages, 1x1 convolution, global pool, 1x1 convolution with norm, head."""

  num_classes: int
  stages: tuple[tuple, ...] = SMALL  # of Conv, Fused and UIB, at width 1
  width: Scale = 1.0  # times the features, rounded to multiples of 8; the stem: above 1 only
  stem_features: Size = 32
  head_features: Size = 960  # of the convolution before the global pool
  hidden_features: Size = 1280  # of the one behind it; the width does not change it
  # For 32x32: stem and first stage without stride; 4x4 pixels are left.
  small_images: bool = False
  activation: Literal[tuple(layers.ACTIVATIONS)] = "relu"
  padding: Literal["symmetric", "same"] = "symmetric"  # at stride 2: as in torch or TensorFlow
  norm: layers.Norm = "batch"
  momentum: Rate = 0.9  # of batch norm
  epsilon: Scale = 1e-5  # of the norm
  pool: layers.Pool = "avg"
  dropout: Rate = 0.2  # before the last layer
  drop_path: Rate = 0.0  # of the last block; linear in depth from 0, arXiv:1603.09382 section 3
  remat: bool = False  # compute blocks again in the backward pass: less memory, more time
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Float [batch, height, width, channels] of any size to float32 logits [batch, classes]."""
    layers.check_images(x)
    layer, depthwise = make_layers(
      norm=self.norm, momentum=self.momentum, epsilon=self.epsilon, padding=self.padding,
      act=self.activation, dtype=self.dtype,
    )  # fmt: skip
    stride = 1 if self.small_images else 2
    stem = layers.make_divisible(self.stem_features * max(1.0, self.width))
    x = layer(stem, 3, strides=stride, name="conv_stem")(x, train=train)
    x = layers.feature(self, "stem", x, stride=stride)

    strides = stage_strides([stage[0].strides for stage in self.stages], self.small_images)
    depth, done = sum(len(stage) for stage in self.stages), 0
    for i, stage in enumerate(self.stages, 1):
      for n, spec in enumerate(stage, 1):
        done += 1
        features = layers.make_divisible(spec.features * self.width)
        name, strides_here = f"stage{i}_block{n}", strides[i - 1] if n == 1 else 1
        if isinstance(spec, Conv):
          block = layer(features, spec.kernel_size, strides=strides_here, name=name)
          options = {}
        else:
          block = (FusedBottleneck if isinstance(spec, Fused) else UniversalBottleneck)(
            expanded=layers.make_divisible(spec.expand * x.shape[-1]), features=features, spec=spec,
            strides=strides_here, layer=layer, depthwise=depthwise, name=name,
          )  # fmt: skip
          options = dict(drop_path=self.drop_path * done / depth)
        x = layers.run_block(block, x, train=train, remat=self.remat, **options)
      stride *= strides[i - 1]
      x = layers.feature(self, f"stage{i}", x, stride=stride)

    features = layers.make_divisible(self.head_features * self.width)
    x = layer(features, 1, name="conv_head")(x, train=train)
    x = layers.feature(self, "head_conv", x, stride=stride)
    x = layers.global_pool(x, self.pool)[:, None, None, :]
    x = layer(self.hidden_features, 1, name="head_hidden")(x, train=train)
    x = layers.dropout(layers.flatten(x), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=head_init)(x)


TABLES = dict(reference="arXiv:2404.10518 appendix D")
SMALL_ROW = TABLES | dict(dropout=0.3, input_shape=(224, 224, 3))
VARIANTS = {
  "mobilenetv4_conv_small_035": SMALL_ROW | dict(width=0.35, reference="timm"),
  "mobilenetv4_conv_small_050": SMALL_ROW | dict(width=0.5, reference="timm"),
  "mobilenetv4_conv_small": SMALL_ROW,
  "mobilenetv4_conv_medium": TABLES
  | dict(stages=MEDIUM, drop_path=0.075, input_shape=(256, 256, 3)),
  "mobilenetv4_conv_large": TABLES
  | dict(stages=LARGE, stem_features=24, drop_path=0.2, input_shape=(384, 384, 3)),
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(MobileNetV4)
