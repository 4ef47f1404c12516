"""SqueezeNet, arXiv:1602.07360 table 1, as in torchvision.

Parameters at 1000 classes: `squeezenet1_0` 1,248,424, `squeezenet1_1` 1,235,496; 1.1 (from
github.com/forresti/SqueezeNet) has a smaller stem and pools earlier, for 2.4 times fewer MACs.

In the authors' 1.0 the last convolution, 1x1, is padded by one pixel, which lowers the mean of its
global pool. Here, in torchvision and in their 1.1 it is not padded.
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
from cnnjax.models.registry import Rate, Size, register

# As in torchvision: uniform, variance 2 / fan_in, biases 0.
conv_with_bias = functools.partial(
  layers.conv, use_bias=True, kernel_init=nn.initializers.he_uniform()
)


class Fire(nn.Module):
  """1x1 to few features, then 1x1 and 3x3 side by side, each to 4 times as many.

  [batch, height, width, any] to [batch, height, width, 8 * squeeze]. `bypass` adds x.
  """

  squeeze: int
  bypass: bool
  conv: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    conv = functools.partial(self.conv, train=train)
    y = nn.relu(conv(self.squeeze, 1, padding=0, name="squeeze")(x))
    y1 = nn.relu(conv(4 * self.squeeze, 1, padding=0, name="expand1x1")(y))
    y3 = nn.relu(conv(4 * self.squeeze, 3, padding=1, name="expand3x3")(y))
    y = jnp.concatenate([y1, y3], axis=-1)
    return x + y if self.bypass else y


class SqueezeNet(Backbone):
  """Stem, stages of fire modules with a pool before each, head, global pool.

  The head is a 1x1 convolution with a relu; the global pool of its maps gives the logits.
  """

  num_classes: int
  stem_features: Size = 96
  stem_kernel_size: Size = 7  # not with small_images
  stage_sizes: tuple[Size, ...] = (3, 4, 1)  # fire modules in each stage
  # Features inside each fire module; its output has 8 times as many.
  squeeze: tuple[Size, ...] = (16, 16, 32, 32, 48, 48, 64, 64)
  bypass: bool = False  # x + fire(x) in every other module, section 6: "simple bypass"
  small_images: bool = False  # for 32x32: the stem is 3x3/1 and no pool follows it
  pool: layers.Pool = "avg"
  dropout: Rate = 0.5
  remat: bool = False  # recompute fire modules in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (("stem_kernel_size", "small_images", False),)

  def __post_init__(self):
    if sum(self.stage_sizes) != len(self.squeeze):
      raise UserError(
        f"stage_sizes={self.stage_sizes} makes {sum(self.stage_sizes)} fire modules, but squeeze "
        f"has {len(self.squeeze)} numbers: give one for each"
      )
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels]."""
    layers.check_images(x, smallest=self._smallest())
    conv = functools.partial(conv_with_bias, dtype=self.dtype)
    stride = 1 if self.small_images else 2
    x = conv(
      self.stem_features,
      3 if self.small_images else self.stem_kernel_size,
      strides=stride,
      padding=1 if self.small_images else 0,
      train=train,
      name="stem_conv",
    )(x)
    x = mark("stem", nn.relu(x), stride=stride)
    number = 1  # of fire modules; the first is fire2, as in the paper
    for stage, size in enumerate(self.stage_sizes, 1):
      if stage > 1 or not self.small_images:
        x = layers.max_pool(x, 3, strides=2, ceil=True)
        stride *= 2
      for _ in range(size):
        squeeze, number = self.squeeze[number - 1], number + 1
        bypass = self.bypass and number % 2 == 1 and x.shape[-1] == 8 * squeeze
        fire = Fire(squeeze=squeeze, bypass=bypass, conv=conv, name=f"fire{number}")
        x = layers.run_block(fire, x, train=train, remat=self.remat)
      x = mark(f"stage{stage}", x, stride=stride)
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    if self.num_classes > 0:
      x = layers.dropout(x, self.dropout, train=train)
      head = conv_with_bias(
        self.num_classes, 1, padding=0, kernel_init=nn.initializers.normal(0.01),
        dtype=jnp.float32, train=train, name="head",
      )  # fmt: skip
      x = nn.relu(head(x))
    return layers.global_pool(x, self.pool)

  def _smallest(self) -> int:
    if self.small_images:
      return 2 ** (len(self.stage_sizes) - 1)
    return 2 * (2 ** len(self.stage_sizes) - 1) + self.stem_kernel_size


IMAGENET = dict(input_shape=(224, 224, 3), reference="arXiv:1602.07360 table 1")
VARIANTS = {
  "squeezenet1_0": IMAGENET,
  "squeezenet1_1": IMAGENET | dict(stem_features=64, stem_kernel_size=3, stage_sizes=(2, 2, 4)),
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(SqueezeNet)
