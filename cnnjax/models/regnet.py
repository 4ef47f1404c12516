"""RegNets: residual networks whose stages are computed from five numbers.

RegNetX is arXiv:2003.13678 section 3.3; RegNetY, section 4, adds squeeze-and-excitation. The five
numbers of each model are those of the authors' code (github.com/facebookresearch/pycls).
Parameters at 1000 classes: `regnetx_002` 2,684,792, `regnetx_004` 5,157,512, `regnetx_032`
15,296,552, `regnety_004` 4,344,144, `regnety_016` 11,202,430, `regnety_032` 19,436,338,
`regnety_160` 83,590,140.

Stage widths are rounded to the nearest multiple of the group width, as by the authors and timm;
torchvision takes the next multiple where the nearest is more than 10 % below (`keep_width=True`).
The two differ for X-400MF, Y-800MF and Y-8GF, which are here in both forms: `regnetx_004_tv`
5,495,976, `regnety_008` 6,263,168, `regnety_008_tv` 6,432,512, `regnety_080` 39,180,068,
`regnety_080_tv` 39,381,472.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.attention import SqueezeExcite
from cnnjax.models.backbone import Backbone, Mark, first_strided, run_stages
from cnnjax.models.registry import ABOVE_0, Check, Factor, Rate, Scale, Size, register

Step = Annotated[float, Check(lambda step: step > 1, "above 1")]
Width = Annotated[int, Check(lambda n: n >= 8 and n % 8 == 0, "a multiple of 8, at least 8")]

head_init = nn.initializers.normal(0.01)  # as in pycls; convolutions too: normal, by fan_out


class Block(nn.Module):
  """relu(shortcut(x) + branch(x)); the branch is 1x1, grouped 3x3, squeeze-and-excitation, 1x1.

  This is the block of figure 4 with bottleneck ratio 1. The squeeze is a share of x's features.
  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  features: int
  strides: int
  group_width: int
  se_ratio: float
  zero_init_gamma: bool
  layer: Callable[..., nn.Module]  # a partial of layers.ConvNormAct
  norm: Callable[..., Callable]
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: float) -> jax.Array:
    y = self.layer(self.features, 1, name="conv1")(x, train=train)
    y = self.layer(
      self.features, 3, strides=self.strides, groups=self.features // self.group_width, name="conv2"
    )(y, train=train)
    if self.se_ratio:
      squeeze = max(1, round(self.se_ratio * x.shape[-1]))
      y = SqueezeExcite(squeeze, dtype=self.dtype, name="se")(y)
    gamma = nn.initializers.zeros if self.zero_init_gamma else nn.initializers.ones
    norm = functools.partial(self.norm, scale_init=gamma)
    y = self.layer(self.features, 1, norm=norm, act=None, name="conv3")(y, train=train)
    y = layers.drop_path(y, drop_path, train=train)
    if x.shape != y.shape:
      x = self.layer(self.features, 1, strides=self.strides, act=None, name="shortcut")(
        x, train=train
      )
    return nn.relu(x + y)


def stages(
  w_0: int, w_a: float, w_m: float, depth: int, group_width: int, *, keep_width: bool
) -> tuple[list[int], list[int], list[int]]:
  """Returns features, blocks and group width of each stage, by equations 2 to 4 of section 3.3.

  Block j should have u_j = w_0 + w_a * j features. It gets w_0 * w_m ** s_j, with the integer s_j
  for which this is nearest, rounded to a multiple of 8. Blocks of equal width form a stage.
  """
  linear = w_0 + w_a * np.arange(depth)
  steps = np.round(np.log(linear / w_0) / np.log(w_m))
  widths = np.round(w_0 * w_m**steps / 8).astype(int) * 8
  features, blocks = np.unique(widths, return_counts=True)
  groups = [min(group_width, int(width)) for width in features]
  nearest = lambda width, group: max(group, round(width / group) * group)
  fit = layers.make_divisible if keep_width else nearest
  features = [fit(int(width), group) for width, group in zip(features, groups, strict=True)]
  return features, blocks.tolist(), groups


class RegNet(Backbone):
  """Stem, stages of residual blocks that each halve the resolution, global pool, head."""

  num_classes: int
  depth: Size = 13  # blocks; `stages` computes the network from this and the next four
  w_0: Width = 24  # features of the first block
  w_a: Factor = 36.44  # features that each block should have more than the last
  w_m: Step = 2.49  # features of stages differ by powers of it
  group_width: Size = 8  # features of each group of the 3x3
  keep_width: bool = False  # rounding lowers widths by at most 10 %, as in torchvision
  stem_features: Size = 32
  se_ratio: Rate = 0.0  # squeeze as a share of the features of the block's input; Y: 0.25
  # For 32x32: stem and first stage keep the size, so that the last map has 4x4 pixels, not 1x1.
  small_images: bool = False
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  zero_init_gamma: bool = False  # each branch starts at zero, arXiv:1706.02677 section 5.1
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
    layer = functools.partial(layers.ConvNormAct, conv=conv, norm=norm)
    stride = 1 if self.small_images else 2
    x = layer(self.stem_features, 3, strides=stride, name="conv_stem")(x, train=train)
    x = mark("stem", x, stride=stride)
    features, sizes, group_widths = stages(
      self.w_0, self.w_a, self.w_m, self.depth, self.group_width, keep_width=self.keep_width
    )

    def block(stage: int, number: int, width: int, **options: Any) -> Block:
      return Block(
        features=features[stage], group_width=group_widths[stage], se_ratio=self.se_ratio,
        zero_init_gamma=self.zero_init_gamma, layer=layer, norm=norm, dtype=self.dtype, **options,
      )  # fmt: skip

    strides = [1 if self.small_images else 2, *[2] * (len(sizes) - 1)]
    x, _ = run_stages(
      block, first_strided(strides, sizes), x, mark, stride=stride, train=train, remat=self.remat,
      drop_path=layers.drop_path_rates(self.drop_path, self.depth, self.drop_path_mode),
    )  # fmt: skip
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=head_init)(x)


def regnet(
  depth: int, w_0: int, w_a: float, w_m: float, group_width: int, se_ratio: float = 0.0
) -> dict[str, Any]:
  """Returns the options of a variant: the numbers of the design space, and SE for a RegNetY."""
  section = "4" if se_ratio else "3.3"
  return dict(
    depth=depth, w_0=w_0, w_a=w_a, w_m=w_m, group_width=group_width, se_ratio=se_ratio,
    input_shape=(224, 224, 3), reference=f"arXiv:2003.13678 section {section}",
  )  # fmt: skip


TORCHVISION = dict(keep_width=True)
VARIANTS = {
  "regnetx_002": regnet(13, 24, 36.44, 2.49, 8),
  "regnetx_004": regnet(22, 24, 24.48, 2.54, 16),
  "regnetx_006": regnet(16, 48, 36.97, 2.24, 24),
  "regnetx_008": regnet(16, 56, 35.73, 2.28, 16),
  "regnetx_016": regnet(18, 80, 34.01, 2.25, 24),
  "regnetx_032": regnet(25, 88, 26.31, 2.25, 48),
  "regnetx_040": regnet(23, 96, 38.65, 2.43, 40),
  "regnetx_064": regnet(17, 184, 60.83, 2.07, 56),
  "regnetx_080": regnet(23, 80, 49.56, 2.88, 120),
  "regnetx_120": regnet(19, 168, 73.36, 2.37, 112),
  "regnetx_160": regnet(22, 216, 55.59, 2.1, 128),
  "regnetx_320": regnet(23, 320, 69.86, 2.0, 168),
  "regnety_002": regnet(13, 24, 36.44, 2.49, 8, 0.25),
  "regnety_004": regnet(16, 48, 27.89, 2.09, 8, 0.25),
  "regnety_006": regnet(15, 48, 32.54, 2.32, 16, 0.25),
  "regnety_008": regnet(14, 56, 38.84, 2.4, 16, 0.25),
  "regnety_016": regnet(27, 48, 20.71, 2.65, 24, 0.25),
  "regnety_032": regnet(21, 80, 42.63, 2.66, 24, 0.25),
  "regnety_040": regnet(22, 96, 31.41, 2.24, 64, 0.25),
  "regnety_064": regnet(25, 112, 33.22, 2.27, 72, 0.25),
  "regnety_080": regnet(17, 192, 76.82, 2.19, 56, 0.25),
  "regnety_120": regnet(19, 168, 73.36, 2.37, 112, 0.25),
  "regnety_160": regnet(18, 200, 106.23, 2.48, 112, 0.25),
  "regnety_320": regnet(20, 232, 115.89, 2.53, 232, 0.25),
}
for _name in ("regnetx_004", "regnety_008", "regnety_080"):
  VARIANTS[f"{_name}_tv"] = VARIANTS[_name] | TORCHVISION
for _name, _row in VARIANTS.items():
  register(_name, **_row)(RegNet)
