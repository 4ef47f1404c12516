"""VGG, arXiv:1409.1556 table 1: configurations A, B, D and E, which have 11 to 19 layers.

Parameters at 1000 classes: `vgg11` 132,863,336, `vgg13` 133,047,848, `vgg16` 138,357,544, `vgg19`
143,667,240; with batch norm, which came later, `vgg11_bn` 132,868,840, `vgg16_bn` 138,365,992.

As in torchvision, an adaptive pool to 7x7 accepts any image size, and convolutions have a bias
beside each batch norm (without it, `conv_bias=False` as in pytorchcv, `vgg11_bn` has 132,866,088).
Keras has the same networks without dropout and without the adaptive pool. timm writes the dense
layers as convolutions, and averages their outputs for images larger than 224.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, HAS_NORM, Rate, Scale, Size, register

# For dense layers as in torchvision, which has he_normal_fan_out for convolutions. The paper
# (section 3.1) says variance 0.01, and starts deep networks from layers of a trained A.
dense_init = nn.initializers.normal(0.01)


class Block(nn.Module):
  """3x3 convolutions, each with its norm and relu; dropout between them.

  [batch, height, width, any] to [batch, height, width, features].
  """

  features: int
  size: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]
  dropout: float
  dropout_kind: str

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    for i in range(1, self.size + 1):
      x = self.conv(self.features, 3, padding=1, train=train, name=f"conv{i}")(x)
      x = nn.relu(self.norm(train=train, name=f"norm{i}")(x))
      if i < self.size:
        x = layers.dropout(x, self.dropout, kind=self.dropout_kind, train=train)
    return x


class VGG(Backbone):
  """Blocks of convolutions with a 2x2 pool after each, two hidden dense layers, head.

  Features double from block to block, up to 8 times those of the first.
  """

  num_classes: int
  stage_sizes: tuple[Size, ...] = (1, 1, 2, 2, 2)  # convolutions in each block
  features: Size = 64  # of the first block
  norm: Literal["none", "batch", "group", "layer"] = "none"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  conv_bias: bool = True
  # For 32x32, as in github.com/kuangliu/pytorch-cifar: a global pool, which at that size has one
  # pixel, instead of the hidden layers.
  small_images: bool = False
  hidden_features: Size = 4096  # of the two dense layers; not with small_images
  pool: layers.Pool = "avg"  # with small_images
  dropout: Rate = 0.5  # after each hidden layer; with small_images before the head
  # Between the convolutions of a block, as in github.com/szagoruyko/cifar.torch (0.4; 0.3 in the
  # first). Not in the paper.
  conv_dropout: Rate = 0.0
  conv_dropout_kind: layers.DropoutKind = "element"  # or whole channels, arXiv:1411.4280
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (
    ("norm_momentum", "norm", HAS_NORM),
    ("norm_epsilon", "norm", HAS_NORM),
    ("hidden_features", "small_images", False),
    ("pool", "small_images", True),
    ("conv_dropout_kind", "conv_dropout", ABOVE_0),
  )

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels]."""
    layers.check_images(x, smallest=2 ** len(self.stage_sizes))
    conv = functools.partial(layers.conv, use_bias=self.conv_bias, dtype=self.dtype)
    norm = layers.no_norm
    if self.norm != "none":
      norm = functools.partial(
        layers.norm, self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
        dtype=self.dtype,
      )  # fmt: skip
    for i, size in enumerate(self.stage_sizes, 1):
      features = self.features * 2 ** min(i - 1, 3)
      block = Block(
        features=features, size=size, conv=conv, norm=norm, dropout=self.conv_dropout,
        dropout_kind=self.conv_dropout_kind, name=f"block{i}",
      )  # fmt: skip
      x = layers.run_block(block, x, train=train, remat=self.remat)
      x = mark(f"stage{i}", x, stride=2 ** (i - 1))
      x = layers.max_pool(x, 2, strides=2)
    return mark("last_pool", x, stride=2 ** len(self.stage_sizes))

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    if self.small_images:
      x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    else:
      x = layers.flatten(layers.adaptive_avg_pool(x, 7))
      for name in ("dense1", "dense2"):
        dense = layers.dense(
          self.hidden_features, kernel_init=dense_init, dtype=self.dtype, name=name
        )
        x = layers.dropout(nn.relu(dense(x)), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=dense_init)(x)


STAGE_SIZES = {
  "vgg11": (1, 1, 2, 2, 2),
  "vgg13": (2, 2, 2, 2, 2),
  "vgg16": (2, 2, 3, 3, 3),
  "vgg19": (2, 2, 4, 4, 4),
}
IMAGENET = dict(input_shape=(224, 224, 3), reference="arXiv:1409.1556 table 1")
VARIANTS = {name: IMAGENET | dict(stage_sizes=sizes) for name, sizes in STAGE_SIZES.items()}
VARIANTS |= {f"{name}_bn": row | dict(norm="batch") for name, row in VARIANTS.items()}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(VGG)
