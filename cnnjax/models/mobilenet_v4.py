"""MobileNetV4, the convolutional variants: universal inverted bottlenecks.

arXiv:2404.10518, figure 4 and the tables of appendix D. Parameters at 1000 classes:
`mobilenetv4_conv_small` 3,774,024, `mobilenetv4_conv_medium` 9,715,512, `mobilenetv4_conv_large`
32,590,864; narrow, as in timm, `mobilenetv4_conv_small_050` 2,238,952, `mobilenetv4_conv_small_035`
1,905,384. A 1x1 convolution with norm follows the global pool, so `num_classes=0` returns its 1280
features. The hybrid variants, with attention, are not here.

As in timm: 1 or 2 pixels of padding on each side, epsilon 1e-5, momentum 0.9. The authors' code
(tensorflow/models, official/vision) pads as TensorFlow (`padding="same"`), with epsilon 1e-3 and
momentum 0.997 (1e-6 and 0.95 for small). Dropout and stochastic depth are those of its configs; for
large the rate there is the same in all blocks. Initialisation as in models/mobilenet.py.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark, first_strided, run_stages
from cnnjax.models.efficientnet import FusedMBConv
from cnnjax.models.mobilenet import head_init, make_layers, without_first_2
from cnnjax.models.registry import ABOVE_0, Check, Count, Rate, Scale, Size, register

OddOrNone = Annotated[Count, Check(lambda n: n == 0 or n % 2 == 1, "odd, or 0 for none")]


class Row(NamedTuple):
  """A block; the first of a stage has the stride.

  The paper calls a universal inverted bottleneck ExtraDW if it has both depthwise convolutions, an
  inverted bottleneck if only the second, ConvNext if only the first, FFN if neither.
  """

  kind: Literal["conv", "fused", "uib"]
  # uib: of the depthwise before the expansion, 0: none. conv, fused: of the full convolution.
  kernel_size1: OddOrNone
  kernel_size2: OddOrNone  # uib: of the depthwise after the expansion, 0: none
  expand: Size  # features inside the block, as a multiple of its input's
  features: Size
  strides: Size = 1


def check(row: Row) -> None:
  """Raises UserError if a kernel that the block needs is 0."""
  if row.kind != "uib" and not row.kernel_size1:
    raise UserError(f"stages: {row} has a convolution, so kernel_size1 must be at least 1, got 0")
  if row.kind == "uib" and row.strides > 1 and not (row.kernel_size1 or row.kernel_size2):
    raise UserError(
      f"stages: {row} has no depthwise convolution that could take its stride; set kernel_size1 or "
      "kernel_size2"
    )


def conv(kernel_size: int, features: int, strides: int = 1) -> Row:
  """Returns the row of a convolution with norm and activation."""
  return Row("conv", kernel_size, 0, 1, features, strides)


def fused(kernel_size: int, expand: int, features: int, strides: int = 1) -> Row:
  """Returns the row of a FusedMBConv, see models/efficientnet.py."""
  return Row("fused", kernel_size, 0, expand, features, strides)


def uib(kernel_size1: int, kernel_size2: int, expand: int, features: int, strides: int = 1) -> Row:
  """Returns the row of a UniversalBottleneck."""
  return Row("uib", kernel_size1, kernel_size2, expand, features, strides)


class UniversalBottleneck(nn.Module):
  """x + project(depthwise2(expand(depthwise1(x)))); without x where the shape changes.

  Activations follow the expansion and depthwise2. The last depthwise has the stride.
  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  row: Row  # with features scaled by the width of the network
  layer: Callable[..., nn.Module]  # ConvNormAct with the settings of the network
  depthwise: Callable[..., nn.Module]  # the same for depthwise convolutions

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: float) -> jax.Array:
    row, width, y = self.row, x.shape[-1], x
    expanded = layers.make_divisible(row.expand * width)
    if row.kernel_size1:
      y = self.depthwise(
        width, row.kernel_size1, strides=1 if row.kernel_size2 else row.strides, groups=width,
        act=None, name="depthwise1",
      )(y, train=train)  # fmt: skip
    y = self.layer(expanded, 1, name="expand")(y, train=train)
    if row.kernel_size2:
      y = self.depthwise(
        expanded, row.kernel_size2, strides=row.strides, groups=expanded, name="depthwise2"
      )(y, train=train)
    y = self.layer(row.features, 1, act=None, name="project")(y, train=train)
    return x + layers.drop_path(y, drop_path, train=train) if x.shape == y.shape else y


# fmt: off
SMALL = (
  (conv(3, 32, 2), conv(1, 32)),
  (conv(3, 96, 2), conv(1, 64)),
  (uib(5, 5, 3, 96, 2), *4 * (uib(0, 3, 2, 96),), uib(3, 0, 4, 96)),
  (uib(3, 3, 6, 128, 2), uib(5, 5, 4, 128), uib(0, 5, 4, 128), uib(0, 5, 3, 128),
   *2 * (uib(0, 3, 4, 128),)),
)
MEDIUM = (
  (fused(3, 4, 48, 2),),
  (uib(3, 5, 4, 80, 2), uib(3, 3, 2, 80)),
  (uib(3, 5, 6, 160, 2), *2 * (uib(3, 3, 4, 160),), uib(3, 5, 4, 160), uib(3, 3, 4, 160),
   uib(3, 0, 4, 160), uib(0, 0, 2, 160), uib(3, 0, 4, 160)),
  (uib(5, 5, 6, 256, 2), uib(5, 5, 4, 256), *2 * (uib(3, 5, 4, 256),), uib(0, 0, 4, 256),
   uib(3, 0, 4, 256), uib(3, 5, 2, 256), uib(5, 5, 4, 256), *2 * (uib(0, 0, 4, 256),),
   uib(5, 0, 2, 256)),
)
LARGE = (
  (fused(3, 4, 48, 2),),
  (uib(3, 5, 4, 96, 2), uib(3, 3, 4, 96)),
  (uib(3, 5, 4, 192, 2), *3 * (uib(3, 3, 4, 192),), uib(3, 5, 4, 192),
   *5 * (uib(5, 3, 4, 192),), uib(3, 0, 4, 192)),
  (uib(5, 5, 4, 512, 2), *3 * (uib(5, 5, 4, 512),), uib(5, 0, 4, 512), uib(5, 3, 4, 512),
   *2 * (uib(5, 0, 4, 512),), uib(5, 3, 4, 512), uib(5, 5, 4, 512), *3 * (uib(5, 0, 4, 512),)),
)
# fmt: on


class MobileNetV4(Backbone):
  """Stem, stages, 1x1 convolution, global pool, 1x1 convolution with norm, head."""

  num_classes: int
  stages: tuple[tuple[Row, ...], ...] = SMALL  # at width 1
  width: Scale = 1.0  # times the features, rounded to multiples of 8; the stem: above 1 only
  stem_features: Size = 32
  head_features: Size = 960  # of the convolution before the global pool
  hidden_features: Size = 1280  # of the convolution after it; the width does not change it
  # For 32x32: stem and first stage keep the size; the last map is 4x4.
  small_images: bool = False
  activation: layers.Activation = "relu"
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

  def __post_init__(self):
    for row in (row for stage in self.stages for row in stage):
      check(Row(*row))
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels] of any size."""
    layers.check_images(x)
    layer, depthwise = self._layers()
    stride = 1 if self.small_images else 2
    stem = layers.make_divisible(self.stem_features * max(1.0, self.width))
    x = layer(stem, 3, strides=stride, name="conv_stem")(x, train=train)
    x = mark("stem", x, stride=stride)

    stages = [[Row(*row) for row in stage] for stage in self.stages]

    def block(stage: int, number: int, width: int, *, strides: int, name: str) -> nn.Module:
      row = stages[stage][number]
      row = row._replace(features=layers.make_divisible(row.features * self.width), strides=strides)
      if row.kind == "conv":
        return layer(row.features, row.kernel_size1, strides=strides, name=name)
      if row.kind == "fused":
        return FusedMBConv(
          row.expand, row.kernel_size1, row.features, strides, layer=layer, name=name
        )
      return UniversalBottleneck(row, layer=layer, depthwise=depthwise, name=name)

    strides = without_first_2([stage[0].strides for stage in stages], self.small_images)
    sizes = [len(stage) for stage in stages]
    rates = layers.drop_path_rates(self.drop_path, sum(sizes), self.drop_path_mode)
    kinds = [row.kind for stage in stages for row in stage]
    rates = [None if kind == "conv" else rate for kind, rate in zip(kinds, rates, strict=True)]
    x, stride = run_stages(
      block, first_strided(strides, sizes), x, mark, stride=stride, train=train, remat=self.remat,
      drop_path=rates,
    )  # fmt: skip
    features = layers.make_divisible(self.head_features * self.width)
    x = layer(features, 1, name="conv_head")(x, train=train)
    return mark("head_conv", x, stride=stride)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    layer, _ = self._layers()
    x = layers.global_pool(x, self.pool)[:, None, None, :]
    x = layer(self.hidden_features, 1, name="head_hidden")(x, train=train)
    x = layers.dropout(layers.flatten(x), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=head_init)(x)

  def _layers(self) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    return make_layers(
      norm=self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      padding=self.padding, act=self.activation, dtype=self.dtype,
    )  # fmt: skip


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
