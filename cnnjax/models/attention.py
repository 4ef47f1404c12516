"""Channel and spatial attention: layers that weight a feature map by its content.

Families call `attend("cbam", x, train=train, ...)` at the end of a residual branch.

- Squeeze-and-excitation, arXiv:1709.01507 section 3.
- CBAM, arXiv:1807.06521 section 3: channel attention, then spatial; either alone by name.
- ECA, arXiv:1910.03151 section 3.2.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers

Attention = Literal["none", "se", "eca", "cbam", "cbam_channel", "cbam_spatial"]


def attend(
  kind: Attention, x: jax.Array, *, train: bool, dtype: Any, reduction: int = 16
) -> jax.Array:
  """Weights x [batch, height, width, channels]. Call it in a compact method."""
  if kind == "se":
    x = SqueezeExcite(max(1, x.shape[-1] // reduction), dtype=dtype, name="se")(x)
  elif kind == "eca":
    x = ECA(name="eca")(x)
  if kind in ("cbam", "cbam_channel"):
    x = ChannelAttention(max(1, x.shape[-1] // reduction), dtype=dtype, name="channel")(x)
  if kind in ("cbam", "cbam_spatial"):
    x = SpatialAttention(dtype=dtype, name="spatial")(x, train=train)
  return x


class SqueezeExcite(nn.Module):
  """x * gate(expand(act(reduce(mean of x)))): one weight per channel, from the global mean.

  x is [batch, height, width, channels] and keeps its shape.
  """

  features: int  # of the squeeze
  dtype: Any
  act: str = "relu"
  gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
  kernel_init: nn.initializers.Initializer = layers.he_normal_fan_out

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
    init = self.kernel_init
    y = layers.dense(self.features, dtype=self.dtype, kernel_init=init, name="reduce")(y)
    y = layers.ACTIVATIONS[self.act](y)
    y = layers.dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name="expand")(y)
    return x * self.gate(y)[:, None, None, :]


class ECA(nn.Module):
  """One weight per channel, by a 1-D convolution over the means of neighbouring channels.

  Its kernel size grows with the channels (equation 12, gamma 2, b 1): 5 at 256, 7 at 2048, as in
  timm. The authors' published ResNet-50 has sizes chosen for each stage: 3, 5, 5, 7.
  x is [batch, height, width, channels] and keeps its shape.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    size = int(abs(math.log2(x.shape[-1]) / 2 + 0.5))
    size += 1 - size % 2
    kernel = self.param("kernel", layers.torch_linear, (size, 1, 1), jnp.float32)
    mean = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)[..., None]  # [batch, channels, 1]
    y = jax.lax.conv_general_dilated(
      mean, kernel.astype(mean.dtype), (1,), [(size // 2, size // 2)],
      dimension_numbers=("NWC", "WIO", "NWC"),
    )  # fmt: skip
    return x * nn.sigmoid(y)[:, None, None, :, 0].astype(x.dtype)


class ChannelAttention(nn.Module):
  """Channel attention of CBAM (section 3, equation 2): one perceptron for mean and maximum, added.

  x is [batch, height, width, channels] and keeps its shape.
  """

  features: int  # of the hidden layer
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = layers.he_normal_fan_out
    reduce = layers.dense(self.features, dtype=self.dtype, kernel_init=init, name="reduce")
    expand = layers.dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name="expand")
    mean, peak = jnp.mean(x, axis=(1, 2), dtype=jnp.float32), jnp.max(x, axis=(1, 2))
    y = expand(nn.relu(reduce(mean))) + expand(nn.relu(reduce(peak)))
    return x * nn.sigmoid(y)[:, None, None, :]


class SpatialAttention(nn.Module):
  """Spatial attention of CBAM (section 3, equation 3): a 7x7 convolution on maximum and mean.

  Batch norm follows the convolution, as in the authors' code.

  x is [batch, height, width, channels] and keeps its shape.
  """

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    peak = jnp.max(x, axis=-1, keepdims=True)
    mean = jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32).astype(x.dtype)
    y = jnp.concatenate([peak, mean], axis=-1)
    y = layers.conv(1, 7, padding=3, dtype=self.dtype, train=train, name="conv")(y)
    return x * nn.sigmoid(layers.batch_norm(dtype=self.dtype, train=train, name="norm")(y))
