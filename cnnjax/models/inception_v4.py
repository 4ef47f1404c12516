"""Inception-v4 and Inception-ResNet-v2, arXiv:1602.07261, on the base of inception_v3.py.

- Inception-v4, figures 3 to 9: `inception_v4` 42,679,816 parameters at 1000 classes, as in timm.
- Inception-ResNet-v2, figure 15 and those that it names: `inception_resnet_v2` 55,843,464, as in
  timm. Keras and TF-slim have no gamma: `norm_scale=False`, 55,813,192.

Both have average pools that do not count padded pixels, and batch norm as in timm: epsilon 1e-3,
moving averages that keep 0.9 of the old value (TF-slim: 0.9997).
"""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.backbone import Mark
from cnnjax.models.inception_v3 import Inception, Mixed, Table
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register

V4_STEM = [
  [["max"], [(96, 3, 2)]],
  [[(64, 1), (96, 3, 1, 0)], [(64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3, 1, 0)]],  # no padding
  [[(192, 3, 2)], ["max"]],
]
V4_A = [[(96, 1)], [(64, 1), (96, 3)], [(64, 1), (96, 3), (96, 3)], ["avg", (96, 1)]]
V4_REDUCTION_A = [[(384, 3, 2)], [(192, 1), (224, 3), (256, 3, 2)], ["max"]]
V4_B = [
  [(384, 1)],
  [(192, 1), (224, (1, 7)), (256, (7, 1))],
  [(192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))],
  ["avg", (128, 1)],
]
V4_REDUCTION_B = [
  [(192, 1), (192, 3, 2)],
  [(256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2)],
  ["max"],
]
V4_C = [
  [(256, 1)],
  [(384, 1), [(256, (1, 3)), (256, (3, 1))]],
  [(384, 1), (448, (3, 1)), (512, (1, 3)), [(256, (1, 3)), (256, (3, 1))]],
  ["avg", (256, 1)],
]

# Figure 15 has the stem of Inception-v4; the authors' code, timm and Keras have the stem of
# Inception-v3 and this module.
RESNET_START = [[(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], ["avg", (64, 1)]]
RESNET_A = [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]]
RESNET_REDUCTION_A = [[(384, 3, 2)], [(256, 1), (256, 3), (384, 3, 2)], ["max"]]
RESNET_B = [[(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]]
RESNET_REDUCTION_B = [
  [(256, 1), (384, 3, 2)],
  [(256, 1), (288, 3, 2)],
  [(256, 1), (288, 3), (320, 3, 2)],
  ["max"],
]
RESNET_C = [[(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]]


class ResidualMixed(nn.Module):
  """relu(x + scale * conv(module(x))): arXiv:1602.07261 figures 16, 17 and 19, section 3.3.

  x keeps its shape.
  """

  branches: Table
  unit: Callable[..., nn.Module]
  conv: Callable[..., nn.Module]
  scale: float
  drop_path: float
  act: bool  # the last block of the network has no relu

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    y = Mixed(self.branches, self.unit, name="mixed")(x, train=train)
    y = self.conv(x.shape[-1], 1, padding=0, use_bias=True, train=train, name="expand")(y)
    x = x + layers.drop_path(self.scale * y, self.drop_path, train=train)
    return nn.relu(x) if self.act else x


@register("inception_v4", input_shape=(299, 299, 3), reference="arXiv:1602.07261 figure 9")
class InceptionV4(Inception):
  """Inception-v4: stages of 4, 7 and 3 modules."""

  stage_sizes: tuple[Size, ...] = (4, 7, 3)

  def _initializers(self) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    # As in TF-slim: He normal by fan-in, truncated, and Glorot in the last layer.
    he = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
    return he, nn.initializers.glorot_uniform()

  def _stages(self, unit: Callable, conv: Callable) -> list[list[Callable[..., nn.Module]]]:
    a, b, c = self.stage_sizes
    return [
      self._mixed(unit, *[V4_A] * a),
      self._mixed(unit, V4_REDUCTION_A, *[V4_B] * b),
      self._mixed(unit, V4_REDUCTION_B, *[V4_C] * c),
    ]

  def _stem(self, x: jax.Array, mark: Mark, unit: Callable, *, train: bool) -> jax.Array:
    strides, padding = (1, None) if self.small_images else (2, 0)
    x = unit(32, 3, strides=strides, padding=padding, name="stem_conv1")(x, train=train)
    x = unit(32, 3, padding=padding, name="stem_conv2")(x, train=train)
    x = unit(64, 3, name="stem_conv3")(x, train=train)
    x = mark("stem", x, stride=strides)
    for i, table in enumerate(V4_STEM, 1):
      mixed = Mixed(table, unit, keep_size=self.small_images, name=f"stem_mixed{i}")
      x = mixed(x, train=train)
      if i == 2:
        x = mark("stem2", x, stride=strides**2)
    return x


@register("inception_resnet_v2", input_shape=(299, 299, 3), reference="arXiv:1602.07261 figure 15")
class InceptionResNetV2(Inception):
  """Inception-ResNet-v2. The last C block is neither scaled nor followed by a relu."""

  stage_sizes: tuple[Size, ...] = (10, 20, 10)
  residual_scales: tuple[Scale, ...] = (0.17, 0.1, 0.2)  # of A, B, C; section 3.3 says 0.1 to 0.3
  drop_path: Rate = 0.0  # of the last block; arXiv:1603.09382 section 3
  drop_path_mode: layers.DropPathMode = (
    "linear"  # grows from 0 with depth, or is the same in all blocks
  )
  NEEDS = (("drop_path_mode", "drop_path", ABOVE_0),)

  head_features = 1536

  def __post_init__(self):
    if len(self.residual_scales) != 3:
      raise UserError(f"residual_scales must be 3 numbers, got {self.residual_scales}")
    super().__post_init__()

  def _initializers(self) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    # The default of TF-slim, which the authors' code does not change, and of Keras.
    return nn.initializers.glorot_uniform(), nn.initializers.glorot_uniform()

  def _stages(self, unit: Callable, conv: Callable) -> list[list[Callable[..., nn.Module]]]:
    starts = self._mixed(unit, RESNET_START, RESNET_REDUCTION_A, RESNET_REDUCTION_B)
    tables, depth, stages = (RESNET_A, RESNET_B, RESNET_C), sum(self.stage_sizes), []
    rates = layers.drop_path_rates(self.drop_path, depth, self.drop_path_mode)
    done = 0
    for start, table, size, scale in zip(
      starts, tables, self.stage_sizes, self.residual_scales, strict=True
    ):
      stages.append([start])
      for _ in range(size):
        done += 1
        last = done == depth
        stages[-1].append(
          functools.partial(
            ResidualMixed, table, unit, conv,
            scale=1.0 if last else scale, act=not last, drop_path=rates[done - 1],
          )
        )  # fmt: skip
    return stages
