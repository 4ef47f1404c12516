"""MnasNet: inverted residuals whose kernels, widths and squeezes come from a search.

arXiv:1807.11626. Parameters at 1000 classes: A1 of figure 7, with squeeze-and-excitation,
`semnasnet_100` 3,887,038; B1 of the authors' code, without, `mnasnet_100` 4,383,312, `mnasnet_050`
2,218,512, `mnasnet_130` 6,282,256 (torchvision's mnasnet1_3). At every width the last convolution
has 1280 features.

Padding is 1 or 2 pixels on each side, as in torchvision (B1) and timm (both); the authors' code
(tensorflow/tpu, models/official/mnasnet) pads as TensorFlow: `padding="same"`. Batch norm has the
momentum of the paper (section 5), 0.99; timm has 0.9, torchvision 0.9997, whose averages take ten
thousand steps to settle. Epsilon is 1e-5 as in both; the authors have 1e-3. Initialisation as in
models/mobilenet.py.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark, run_stages
from cnnjax.models.mobilenet import InvertedResidual, head_init, make_layers, stage_strides
from cnnjax.models.registry import ABOVE_0, Factor, Odd, Rate, Scale, Size, register


class Stage(NamedTuple):
  """Inverted residuals of one kind; the first has the stride."""

  expand: Size  # features inside a block, as a multiple of its input's
  kernel_size: Odd
  features: Size
  repeats: Size
  strides: Size
  se_ratio: Factor = 0.0  # features of the squeeze / features of the input; 0: no squeeze


A1 = (
  Stage(1, 3, 16, 1, 1),
  Stage(6, 3, 24, 2, 2),
  Stage(3, 5, 40, 3, 2, 0.25),
  Stage(6, 3, 80, 4, 2),
  Stage(6, 3, 112, 2, 1, 0.25),
  Stage(6, 5, 160, 3, 2, 0.25),
  Stage(6, 3, 320, 1, 1),
)
B1 = (
  Stage(1, 3, 16, 1, 1),
  Stage(3, 3, 24, 3, 2),
  Stage(3, 5, 40, 3, 2),
  Stage(6, 5, 80, 3, 2),
  Stage(6, 3, 96, 2, 1),
  Stage(6, 5, 192, 4, 2),
  Stage(6, 3, 320, 1, 1),
)


class MNASNet(Backbone):
  """Stem, stages of inverted residuals, 1x1 convolution, global pool, head."""

  num_classes: int
  stages: tuple[Stage, ...] = B1  # at width 1
  width: Scale = 1.0  # times the features of stem and stages, rounded to multiples of 8
  scale_stem: bool = True  # False: not of the stem and the first stage, as in torchvision 0.4
  head_features: Size = 1280  # of the last convolution
  # For 32x32: stem and second stage (the first with a stride) keep the size; the last map is 4x4.
  small_images: bool = False
  padding: Literal["symmetric", "same"] = "symmetric"  # at stride 2: as in torch or TensorFlow
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.99  # of batch norm
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
      padding=self.padding, act="relu", dtype=self.dtype,
    )  # fmt: skip
    stride = 1 if self.small_images else 2
    stem = layers.make_divisible(32 * (self.width if self.scale_stem else 1))
    x = layer(stem, 3, strides=stride, name="conv_stem")(x, train=train)
    x = mark("stem", x, stride=stride)

    stages = [Stage(*stage) for stage in self.stages]

    def block(stage: int, number: int, width: int, **options: Any) -> InvertedResidual:
      row = stages[stage]
      return InvertedResidual(
        expanded=row.expand * width,
        features=layers.make_divisible(row.features * self._width(stage)),
        kernel_size=row.kernel_size,
        squeeze=round(row.se_ratio * width),
        residual=stage > 0,  # the first stage has no shortcut, whatever its width
        layer=layer,
        depthwise=depthwise,
        dtype=self.dtype,
        **options,
      )

    depth = sum(stage.repeats for stage in stages)
    x, stride = run_stages(
      block, stage_strides(stages, self.small_images), x, mark, stride=stride, train=train,
      remat=self.remat,
      drop_path=layers.drop_path_rates(self.drop_path, depth, self.drop_path_mode),
    )  # fmt: skip
    x = layer(self.head_features, 1, name="conv_head")(x, train=train)
    return mark("head_conv", x, stride=stride)

  def _width(self, stage: int) -> float:
    return self.width if self.scale_stem or stage > 0 else 1.0

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=head_init)(x)


for _prefix, _stages, _widths, _reference in (
  ("mnasnet", B1, (0.5, 0.75, 1.0, 1.3, 1.4), "arXiv:1807.11626, B1 of the authors' code"),
  ("semnasnet", A1, (0.5, 0.75, 1.0, 1.4), "arXiv:1807.11626 figure 7"),
):
  for _width in _widths:
    register(
      f"{_prefix}_{round(100 * _width):03}", stages=_stages, width=_width,
      input_shape=(224, 224, 3), reference=_reference,
    )(MNASNet)  # fmt: skip
