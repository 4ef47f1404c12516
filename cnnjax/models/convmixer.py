"""ConvMixer, arXiv:2201.09792: patches, then depthwise and 1x1 convolutions at one resolution.

Parameters at 1000 classes: `convmixer_768_32` 21,110,248, `convmixer_1536_20` 51,625,960,
`convmixer_1024_20_ks9_p14` 24,383,464, as in timm. The names give features and depth, and kernel
and patch size where they are not 7. `convmixer_256_8` is the network of the authors'
github.com/locuslab/convmixer-cifar10 for 32x32 images, 594,186 at 10 classes. `convmixer_768_32`
uses relu, as the authors trained it; the others use GELU.

Initialisation: kernels uniform in +-1 / sqrt(fan in), torch's default, which the authors leave;
biases zero, where torch draws them from the same range.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register


class ConvActNorm(nn.Module):
  """Convolution, activation, norm, in this order; "SAME" pads even kernels as torch does.

  [batch, height, width, any] to [batch, height / strides, width / strides, features].
  """

  features: int
  kernel_size: int
  act: str
  norm: Callable[..., Callable]
  dtype: Any
  strides: int = 1
  groups: int = 1
  padding: layers.Padding = "SAME"

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.conv(
      self.features, self.kernel_size, strides=self.strides, groups=self.groups,
      padding=self.padding, use_bias=True, kernel_init=layers.torch_linear, dtype=self.dtype,
      train=train, name="conv",
    )(x)  # fmt: skip
    return self.norm(train=train, name="norm")(layers.ACTIVATIONS[self.act](x))


class Block(nn.Module):
  """Mixes pixels (x + depthwise), then channels (1x1); keeps the shape of x."""

  kernel_size: int
  unit: Any  # ConvActNorm with the settings of the network

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: layers.Drop) -> jax.Array:
    features = x.shape[-1]
    y = self.unit(features, self.kernel_size, groups=features, name="depthwise")(x, train=train)
    x = x + layers.drop_path(y, drop_path, train=train)
    return self.unit(features, 1, name="pointwise")(x, train=train)


class ConvMixer(Backbone):
  """Patch embedding, equal blocks, global pool, head.

  All maps have one size. A stage is a quarter of the depth.
  """

  num_classes: int
  features: Size = 768  # of every layer: h in the paper
  depth: Size = 32  # blocks
  kernel_size: Size = 7  # of the depthwise convolutions, odd or even
  patch_size: Size = 7  # pixels on each side
  # For 32x32: a quarter of the patch size, rounded up. 7 becomes 2, as the authors have it for
  # CIFAR-10 (github.com/locuslab/convmixer-cifar10).
  small_images: bool = False
  activation: layers.Activation = "gelu"
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  pool: layers.Pool = "avg"
  dropout: Rate = 0.0  # before the last layer
  drop_path: Rate = 0.0  # of the last block's depthwise branch
  drop_path_mode: layers.DropPathMode = (
    "linear"  # grows from 0 in the first block, or is the same in all
  )
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (("drop_path_mode", "drop_path", ABOVE_0),)

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels].

    Images have at least one patch. Pixels at the edges that fill no whole patch are ignored.
    """
    patch = -(-self.patch_size // 4) if self.small_images else self.patch_size
    layers.check_images(x, smallest=patch)
    norm = functools.partial(
      layers.norm, self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      dtype=self.dtype,
    )  # fmt: skip
    unit = functools.partial(ConvActNorm, act=self.activation, norm=norm, dtype=self.dtype)
    x = unit(self.features, patch, strides=patch, padding=0, name="patch_embed")(x, train=train)
    x = mark("stem", x, stride=patch)
    stages = layers.stages_of(self.depth)
    rates = layers.drop_path_rates(self.drop_path, self.depth, self.drop_path_mode, first=0)
    for i in range(1, self.depth + 1):
      x = layers.run_block(
        Block(self.kernel_size, unit, name=f"block{i}"), x, train=train, remat=self.remat,
        drop_path=rates[i - 1],
      )  # fmt: skip
      if i in stages:
        x = mark(stages[i], x, stride=patch)
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes)(x)


IMAGENET = dict(input_shape=(224, 224, 3), reference="arXiv:2201.09792 table 1")
VARIANTS = {
  "convmixer_768_32": IMAGENET | dict(activation="relu"),
  "convmixer_1536_20": IMAGENET | dict(features=1536, depth=20, kernel_size=9),
  "convmixer_1024_20_ks9_p14": IMAGENET
  | dict(features=1024, depth=20, kernel_size=9, patch_size=14),
  "convmixer_256_8": dict(
    features=256, depth=8, kernel_size=5, patch_size=2,
    input_shape=(32, 32, 3), reference="github.com/locuslab/convmixer-cifar10",
  ),
}  # fmt: skip
for _name, _row in VARIANTS.items():
  register(_name, **_row)(ConvMixer)
