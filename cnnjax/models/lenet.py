"""LeNet-5 as it is used today, and as it was published.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc.
IEEE 1998, section II.B. Trainable parameters at 10 classes: `lenet5` 61,706; `lenet5_1998` 60,000,
the paper's figure. Both take images from 28x28 to 32x32 and centre them on the paper's 32x32 field,
filled with zeros.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import register

# Inputs of each C3 map (columns) among the maps of S2 (rows): table I of the paper.
C3_TABLE = """
  X...XXX..XXXX.XX
  XX...XXX..XXXX.X
  XXX...XXX..X.XXX
  .XXX..XXXX..X.XX
  ..XXX..XXXX.XX.X
  ...XXX..XXXX.XXX
"""
C3_CONNECTED = np.array([[cell == "X" for cell in row] for row in C3_TABLE.split()])

# The targets of F6: stylised 7x12 bitmaps, drawn after figure 3 of the paper.
DIGITS = """
  ..###.. ...##.. .#####. .#####. .....## ####### ..####. ####### .#####. .#####.
  .##.##. ..###.. ##...## ##...## ....### ##..... .##.... .....## ##...## ##...##
  ##...## .####.. ##...## .....## ...#### ##..... ##..... .....## ##...## ##...##
  ##...## ...##.. .....## .....## ..##.## ##..... ##..... ....##. ##...## ##...##
  ##...## ...##.. .....## .....## .##..## ######. ##..... ....##. .##.##. ##...##
  ##...## ...##.. ....##. ..####. ##...## .....## ######. ...##.. ..###.. .######
  ##...## ...##.. ...##.. .....## ##...## .....## ##...## ...##.. .##.##. .....##
  ##...## ...##.. ..##... .....## ####### .....## ##...## ..##... ##...## .....##
  ##...## ...##.. .##.... .....## .....## .....## ##...## ..##... ##...## .....##
  ##...## ...##.. ##..... ##...## .....## ##...## ##...## .##.... ##...## .....##
  .##.##. ...##.. ##..... ##...## .....## ##...## ##...## .##.... ##...## ....##.
  ..###.. .###### ####### .#####. .....## .#####. .#####. .##.... .#####. .####..
"""

# Glorot and Bengio, AISTATS 2010, equation 16, derived for tanh networks.
glorot_conv = functools.partial(
  layers.conv, padding="VALID", use_bias=True, kernel_init=nn.initializers.glorot_uniform()
)


@register("lenet5", input_shape=(28, 28, 1), reference="LeCun et al., Proc. IEEE 1998, modernised")
class LeNet5(Backbone):
  """LeNet-5 of today: every S2 map feeds every C3 map, pooling without parameters, softmax."""

  num_classes: int
  activation: layers.Activation = "tanh"
  pool: Literal["avg", "max"] = "avg"
  dtype: Any = jnp.float32

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels]."""
    conv, activation = self._layers(train=train)
    pool = layers.avg_pool if self.pool == "avg" else layers.max_pool

    x = centre_on_field(x)
    x = activation(conv(6, 5, name="c1")(x))
    x = mark("stage1", x, stride=1)
    x = pool(x, 2, strides=2, padding=0)
    x = activation(conv(16, 5, name="c3")(x))
    x = mark("stage2", x, stride=2)
    x = pool(x, 2, strides=2, padding=0)
    x = activation(conv(120, 5, name="c5")(x))
    return mark("stage3", x, stride=4)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    conv, activation = self._layers(train=train)
    x = activation(conv(84, 1, name="f6")(x))
    return layers.head(self.num_classes)(layers.flatten(x))

  def _layers(self, *, train: bool) -> tuple[Callable[..., nn.Module], Callable]:
    conv = functools.partial(glorot_conv, dtype=self.dtype, train=train)
    return conv, layers.ACTIVATIONS[self.activation]


@register("lenet5_1998", input_shape=(28, 28, 1), reference="LeCun et al., Proc. IEEE 1998, II.B")
class LeNet51998(Backbone):
  """LeNet-5 as published.

  The logits are minus the squared distances of F6 to the fixed prototypes of the classes (equation
  7), unscaled: softmax cross-entropy on them is the paper's equation 9 without its constant j.
  With 0 classes the outputs are F6, [batch, 84].
  """

  num_classes: int
  dtype: Any = jnp.float32

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels]."""
    conv = self._conv(train=train)
    x = centre_on_field(x)
    x = squash(conv(6, 5, kernel_init=uniform(25), name="c1")(x))
    x = mark("stage1", x, stride=1)
    x = squash(Subsample(dtype=self.dtype, name="s2")(x))
    x = squash(C3(dtype=self.dtype, name="c3")(x))
    x = mark("stage2", x, stride=2)
    x = squash(Subsample(dtype=self.dtype, name="s4")(x))
    x = squash(conv(120, 5, kernel_init=uniform(400), name="c5")(x))
    return mark("stage3", x, stride=4)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    conv = self._conv(train=train)
    x = squash(conv(84, 1, kernel_init=uniform(120), name="f6")(x))
    f6 = layers.flatten(x).astype(jnp.float32)
    if self.num_classes == 0:
      return f6
    return -jnp.sum((f6[:, None, :] - prototypes(self.num_classes)) ** 2, axis=-1)

  def _conv(self, *, train: bool) -> Callable[..., nn.Module]:
    return functools.partial(
      layers.conv, padding="VALID", use_bias=True, dtype=self.dtype, train=train
    )


class Subsample(nn.Module):
  """The sum of 2x2 pixels times a trainable coefficient plus a bias, one of each per map.

  [batch, height, width, channels] to [batch, height / 2, width / 2, channels], rounded down.
  """

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    coefficient = self.param("coefficient", uniform(4), (x.shape[-1],), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    total = 4 * layers.avg_pool(x, 2, strides=2, padding=0)
    return total * coefficient.astype(self.dtype) + bias.astype(self.dtype)


class C3(nn.Module):
  """A 5x5 convolution whose 16 maps each see some of the 6 maps of S2, with 1,516 parameters.

  [batch, height, width, 6] to [batch, height - 4, width - 4, 16].
  """

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    sources, targets = np.nonzero(C3_CONNECTED)
    fan_in = 25 * C3_CONNECTED.sum(axis=0)[targets]
    weights = self.param("kernel", uniform(fan_in), (5, 5, len(sources)), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (16,), jnp.float32)
    kernel = jnp.zeros((5, 5, *C3_CONNECTED.shape)).at[:, :, sources, targets].set(weights)
    x = jax.lax.conv_general_dilated(
      x,
      kernel.astype(self.dtype),
      window_strides=(1, 1),
      padding="VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return x + bias.astype(self.dtype)


def centre_on_field(x: jax.Array) -> jax.Array:
  """Pads [batch, 28 to 32, 28 to 32, channels] with zeros to [batch, 32, 32, channels]."""
  layers.check_images(x)
  height, width = x.shape[1:3]
  if not (28 <= height <= 32 and 28 <= width <= 32):
    raise UserError(
      f"LeNet-5 takes images from 28x28 to 32x32, got {height}x{width};"
      " set --config.data.image_size=32"
    )
  top, left = (32 - height) // 2, (32 - width) // 2
  return jnp.pad(x, ((0, 0), (top, 32 - height - top), (left, 32 - width - left), (0, 0)))


def squash(x: jax.Array) -> jax.Array:
  """Applies the scaled hyperbolic tangent of the paper's appendix A: +-1 are fixed points."""
  return 1.7159 * jnp.tanh(2 / 3 * x)


def uniform(fan_in: int | np.ndarray) -> nn.initializers.Initializer:
  """Returns the initialiser uniform in +-2.4 / fan_in (appendix A of the paper)."""
  return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -1, 1) * (2.4 / fan_in)


def prototypes(num_classes: int) -> np.ndarray:
  """Returns the fixed +-1 codes of the classes, [num_classes, 84]: bitmaps of digits, or random."""
  if num_classes != 10:
    bits = np.random.default_rng(1998).integers(2, size=(num_classes, 84))
    return np.where(bits, np.float32(1), np.float32(-1))
  rows = [line.split() for line in DIGITS.strip().splitlines()]  # [12][10] strings of 7 pixels
  bitmaps = [[pixel == "#" for row in rows for pixel in row[digit]] for digit in range(10)]
  return np.where(bitmaps, np.float32(1), np.float32(-1))
