"""NFNets: residual networks without normalisation, arXiv:2102.06171.

Batch norm is replaced by convolutions with standardised weights, activations scaled to variance 1,
and residual branches whose input is divided by the standard deviation of the sum before them (a
factor beta) and whose output is multiplied by alpha. Section 5 and table 1: `dm_nfnet_f0`
71,489,284 parameters at 1000 classes, `dm_nfnet_f6` 438,359,116. They are made for training with
adaptive gradient clipping (section 4).

The network follows github.com/google-deepmind/deepmind-research/tree/master/nfnets; the names of
networks and weights are timm's. Differences between the two, and options for them:
- Each branch ends in a trainable factor that starts at 0 (SkipInit). timm's own `nfnet_f0` starts
  the gain of the last convolution at 0 instead: `skip_init=False`, 71,489,272 parameters. It also
  pads symmetrically and multiplies weights by the activation's constant; no weights are published.
- DeepMind's GELU is the tanh approximation, timm's is exact: `activation`.
- Standardisation divides by the root of max(fan_in * variance, 1e-4); timm adds 1e-5 to the
  variance: `variance_floor=False`.
- Stochastic depth scales the branches that it keeps, here as in timm; DeepMind's does not.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.attention import SqueezeExcite
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register

# Each activation times the constant that gives it variance 1 for a standard normal input.
ACTIVATIONS = {
  "gelu_tanh": lambda x: nn.gelu(x, approximate=True) * 1.7015043497085571,
  "gelu": lambda x: layers.ACTIVATIONS["gelu"](x) * 1.7015043497085571,
  "relu": lambda x: nn.relu(x) * 1.7139588594436646,
  "silu": lambda x: nn.silu(x) * 1.7881293296813965,
}
# As in DeepMind's code; standardisation makes its scale nearly irrelevant.
fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class StandardizedConv(nn.Module):
  """A convolution with scaled weight standardisation, arXiv:2102.06171 section 3.

  The weights of each output have mean 0 and variance gain**2 / fan_in.
  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  features: int
  kernel_size: int
  variance_floor: bool
  dtype: Any
  strides: int = 1
  groups: int = 1
  gain_init: nn.initializers.Initializer = nn.initializers.ones

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    gain = self.param("gain", self.gain_init, (self.features,), jnp.float32)

    def standardized(kernel: jax.Array) -> jax.Array:
      kernel, dtype = kernel.astype(gain.dtype), kernel.dtype
      fan_in = math.prod(kernel.shape[:-1])
      centred = kernel - kernel.mean(axis=(0, 1, 2))
      variance = jnp.mean(centred**2, axis=(0, 1, 2))
      if self.variance_floor:
        spread = jnp.maximum(fan_in * variance, 1e-4)
      else:
        spread = fan_in * (variance + 1e-5)
      return (centred * jax.lax.rsqrt(spread) * gain).astype(dtype)

    conv = layers.conv(
      self.features, self.kernel_size, strides=self.strides, groups=self.groups, padding="SAME",
      use_bias=True, kernel_init=fan_in_normal, transform=standardized, dtype=self.dtype,
      train=train,
    )  # fmt: skip
    nn.share_scope(self, conv)  # kernel, bias and gain side by side
    return conv(x)


class Block(nn.Module):
  """shortcut + alpha * branch(beta * act(x)), pre-activated; arXiv:2102.06171 section 5.

  The branch is 1x1, two grouped 3x3, 1x1, and squeeze-and-excitation times 2.
  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  """

  features: int
  strides: int
  beta: float
  alpha: float
  group_size: int
  activation: str
  skip_init: bool
  variance_floor: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: layers.Drop) -> jax.Array:
    conv = functools.partial(StandardizedConv, variance_floor=self.variance_floor, dtype=self.dtype)
    act = ACTIVATIONS[self.activation]
    width = self.features // 2
    groups = max(1, width // self.group_size)
    width = width // groups * groups
    y = act(x) * self.beta
    shortcut = x
    if self.strides > 1 or x.shape[-1] != self.features:
      shortcut = y
      if self.strides > 1:
        shortcut = layers.avg_pool(
          shortcut, self.strides, strides=self.strides, padding="SAME", count_padding=False
        )
      shortcut = conv(self.features, 1, name="shortcut_conv")(shortcut, train=train)
    y = conv(width, 1, name="conv1")(y, train=train)
    y = conv(width, 3, strides=self.strides, groups=groups, name="conv2")(act(y), train=train)
    y = conv(width, 3, groups=groups, name="conv3")(act(y), train=train)
    gain = nn.initializers.ones if self.skip_init else nn.initializers.zeros
    y = conv(self.features, 1, gain_init=gain, name="conv4")(act(y), train=train)
    squeeze = max(1, self.features // 2)
    init = nn.initializers.lecun_normal()  # nearly what Haiku draws; the gates start near a half
    y = 2 * SqueezeExcite(squeeze, kernel_init=init, dtype=self.dtype, name="se")(y)
    y = layers.drop_path(y, drop_path, train=train)
    if self.skip_init:
      y = y * self.param("skip_gain", nn.initializers.zeros, (), jnp.float32).astype(y.dtype)
    return shortcut + self.alpha * y


class NFNet(Backbone):
  """Stem of four 3x3 convolutions, stages of blocks, 1x1 convolution, global pool, head."""

  num_classes: int
  stage_sizes: tuple[Size, ...] = (1, 2, 6, 3)  # blocks in each stage
  features: tuple[Size, ...] = (256, 512, 1536, 1536)  # of each stage
  group_size: Size = 128  # channels of each group of the 3x3 convolutions
  # For 32x32: the stem has no strides, the paper's has two; maps are 32x32 to 4x4.
  small_images: bool = False
  activation: Literal[tuple(ACTIVATIONS)] = "gelu_tanh"
  alpha: Scale = 0.2  # factor of each branch, arXiv:2102.06171 section 3
  skip_init: bool = True  # False: the last gain of each branch starts at 0 instead
  variance_floor: bool = True  # a floor for the variance of weights; False: a term added to it
  pool: layers.Pool = "avg"
  dropout: Rate = 0.2  # before the last layer
  drop_path: Rate = 0.25
  # linear: block i of n, from 0, has drop_path * i / n.
  drop_path_mode: layers.DropPathMode = "linear"
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (("drop_path_mode", "drop_path", ABOVE_0),)

  def __post_init__(self):
    if len(self.stage_sizes) != len(self.features):
      raise UserError(
        f"stage_sizes={self.stage_sizes} and features={self.features} must have the same length"
      )
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels] of any size."""
    layers.check_images(x)
    conv = functools.partial(StandardizedConv, variance_floor=self.variance_floor, dtype=self.dtype)
    act = ACTIVATIONS[self.activation]
    stem = self.features[0] // 2
    stride = 1 if self.small_images else 2
    for i, (divisor, strides) in enumerate([(8, stride), (4, 1), (2, 1), (1, stride)], 1):
      x = act(x) if i > 1 else x
      x = conv(max(1, stem // divisor), 3, strides=strides, name=f"stem_conv{i}")(x, train=train)
    stride = stride**2
    x = mark("stem", x, stride=stride)
    depth = sum(self.stage_sizes)
    rates = iter(
      layers.drop_path_rates(self.drop_path, depth, self.drop_path_mode, first=0, divisor=depth)
    )
    variance = 1.0  # of x at initialisation, as if no branch started at 0
    for stage, (size, features) in enumerate(zip(self.stage_sizes, self.features, strict=True), 1):
      for i in range(1, size + 1):
        block = Block(
          features=features,
          strides=2 if stage > 1 and i == 1 else 1,
          beta=variance**-0.5,
          alpha=self.alpha,
          group_size=self.group_size,
          activation=self.activation,
          skip_init=self.skip_init,
          variance_floor=self.variance_floor,
          dtype=self.dtype,
          name=f"stage{stage}_block{i}",
        )
        x = layers.run_block(block, x, train=train, remat=self.remat, drop_path=next(rates))
        # The first block of a stage normalises its shortcut too.
        variance = (1.0 if i == 1 else variance) + self.alpha**2
      stride *= 2 if stage > 1 else 1
      x = mark(f"stage{stage}", x, stride=stride)
    x = act(conv(2 * self.features[-1], 1, name="final_conv")(x, train=train))
    return mark("head_conv", x, stride=stride)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=nn.initializers.normal(0.01))(x)


def row(number: int, size: int, dropout: float) -> dict[str, Any]:
  """Returns the options of NFNet-F`number`: depth, test image size and dropout grow with it."""
  return dict(
    stage_sizes=tuple((number + 1) * n for n in (1, 2, 6, 3)), dropout=dropout,
    input_shape=(size, size, 3), reference="arXiv:2102.06171 table 1",
  )  # fmt: skip


VARIANTS = {
  "dm_nfnet_f0": row(0, 256, 0.2),
  "dm_nfnet_f1": row(1, 320, 0.3),
  "dm_nfnet_f2": row(2, 352, 0.4),
  "dm_nfnet_f3": row(3, 416, 0.4),
  "dm_nfnet_f4": row(4, 512, 0.5),
  "dm_nfnet_f5": row(5, 544, 0.5),
  "dm_nfnet_f6": row(6, 576, 0.5),
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(NFNet)
