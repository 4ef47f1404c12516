"""MobileNetV3: inverted residuals from a search, hard-swish and hard-sigmoid gates.

arXiv:1905.02244 tables 1 and 2. Parameters at 1000 classes: `mobilenetv3_large_100` 5,483,032,
`mobilenetv3_large_075` 3,993,528, `mobilenetv3_small_100` 2,542,856, `mobilenetv3_small_075`
2,041,872, `mobilenetv3_small_050` 1,593,224. A hidden layer follows the global pool, so
`num_classes=0` returns its output (1280 or 1024 features).

At width 1 torchvision, timm and Keras have the same network except for batch norm and padding. The
defaults are torchvision's, epsilon 1e-3 and momentum 0.99; timm has 1e-5 and 0.9, Keras 1e-3, 0.999
and `padding="same"`. At other widths this file follows the authors' code, as timm and Keras do: a
block expands the width of its input by the ratio of the table, and the stem and the hidden layer do
not shrink. (torchvision multiplies the expanded widths themselves, and shrinks the hidden layer;
above width 1 timm keeps the hidden layer as it is, Keras the stem.)

Initialisation as in models/mobilenet.py.
"""

import functools
import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark, run_stages
from cnnjax.models.mobilenet import InvertedResidual, head_init, make_layers, without_first_2
from cnnjax.models.registry import ABOVE_0, Odd, Rate, Scale, Size, register


class Row(NamedTuple):
  """A block: a row of tables 1 and 2. Rows of the same width are a stage."""

  kernel_size: Odd
  expanded: Size  # features inside the block, at width 1
  features: Size
  se: bool
  act: layers.Activation
  strides: Size = 1


LARGE = (
  Row(3, 16, 16, False, "relu"),
  Row(3, 64, 24, False, "relu", 2),
  Row(3, 72, 24, False, "relu"),
  Row(5, 72, 40, True, "relu", 2),
  Row(5, 120, 40, True, "relu"),
  Row(5, 120, 40, True, "relu"),
  Row(3, 240, 80, False, "hard_swish", 2),
  Row(3, 200, 80, False, "hard_swish"),
  Row(3, 184, 80, False, "hard_swish"),
  Row(3, 184, 80, False, "hard_swish"),
  Row(3, 480, 112, True, "hard_swish"),
  Row(3, 672, 112, True, "hard_swish"),
  Row(5, 672, 160, True, "hard_swish", 2),
  Row(5, 960, 160, True, "hard_swish"),
  Row(5, 960, 160, True, "hard_swish"),
)
SMALL = (
  Row(3, 16, 16, True, "relu", 2),
  Row(3, 72, 24, False, "relu", 2),
  Row(3, 88, 24, False, "relu"),
  Row(5, 96, 40, True, "hard_swish", 2),
  Row(5, 240, 40, True, "hard_swish"),
  Row(5, 240, 40, True, "hard_swish"),
  Row(5, 120, 48, True, "hard_swish"),
  Row(5, 144, 48, True, "hard_swish"),
  Row(5, 288, 96, True, "hard_swish", 2),
  Row(5, 576, 96, True, "hard_swish"),
  Row(5, 576, 96, True, "hard_swish"),
)


class MobileNetV3(Backbone):
  """Stem, stages of inverted residuals, 1x1 convolution, global pool, hidden layer, head."""

  num_classes: int
  blocks: tuple[Row, ...] = LARGE  # at width 1
  width: Scale = 1.0  # times the features, rounded to multiples of 8; stem and hidden: above 1 only
  stem_features: Size = 16
  hidden_features: Size = 1280  # of the layer after the global pool
  # For 32x32: stem and the first block with a stride keep the size; the last map is 4x4.
  small_images: bool = False
  padding: Literal["symmetric", "same"] = "symmetric"  # at stride 2: as in torch or TensorFlow
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.99  # of batch norm
  norm_epsilon: Scale = 1e-3  # of the norm
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
      padding=self.padding, act="hard_swish", dtype=self.dtype,
    )  # fmt: skip
    stride = 1 if self.small_images else 2
    stem = layers.make_divisible(self.stem_features * max(1.0, self.width))
    x = layer(stem, 3, strides=stride, name="conv_stem")(x, train=train)
    x = mark("stem", x, stride=stride)

    stages = self._rows()

    def block(stage: int, number: int, width: int, **options: Any) -> InvertedResidual:
      row = stages[stage][number]
      # The width of the input in the table.
      before = stages[stage] if number else stages[stage - 1]
      nominal = before[0].features if stage or number else self.stem_features
      expanded = layers.make_divisible(width * row.expanded / nominal)
      return InvertedResidual(
        expanded=expanded,
        features=layers.make_divisible(row.features * self.width),
        kernel_size=row.kernel_size,
        squeeze=layers.make_divisible(expanded / 4) if row.se else 0,
        gate=nn.hard_sigmoid,
        layer=functools.partial(layer, act=row.act),
        depthwise=functools.partial(depthwise, act=row.act),
        dtype=self.dtype,
        **options,
      )

    strides = [[row.strides for row in stage] for stage in stages]
    rates = layers.drop_path_rates(self.drop_path, len(self.blocks), self.drop_path_mode)
    x, stride = run_stages(
      block, strides, x, mark, stride=stride, train=train, remat=self.remat, drop_path=rates
    )
    x = layer(6 * x.shape[-1], 1, name="conv_head")(x, train=train)
    return mark("head_conv", x, stride=stride)

  def _rows(self) -> list[list[Row]]:
    """Returns the rows of each stage."""
    rows = [Row(*row) for row in self.blocks]
    strides = without_first_2([row.strides for row in rows], self.small_images)
    rows = [row._replace(strides=s) for row, s in zip(rows, strides, strict=True)]
    return [list(stage) for _, stage in itertools.groupby(rows, key=lambda row: row.features)]

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.global_pool(x, self.pool)
    hidden = layers.make_divisible(self.hidden_features * max(1.0, self.width))
    init = layers.he_normal_fan_out
    x = layers.dense(hidden, dtype=self.dtype, kernel_init=init, name="head_hidden")(x)
    x = layers.dropout(nn.hard_swish(x), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=head_init)(x)


LARGE_ROW = dict(input_shape=(224, 224, 3), reference="arXiv:1905.02244 table 1")
SMALL_ROW = dict(
  blocks=SMALL, hidden_features=1024,
  input_shape=(224, 224, 3), reference="arXiv:1905.02244 table 2",
)  # fmt: skip
VARIANTS = {
  "mobilenetv3_large_075": LARGE_ROW | dict(width=0.75),
  "mobilenetv3_large_100": LARGE_ROW,
  "mobilenetv3_small_050": SMALL_ROW | dict(width=0.5),
  "mobilenetv3_small_075": SMALL_ROW | dict(width=0.75),
  "mobilenetv3_small_100": SMALL_ROW,
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(MobileNetV3)
