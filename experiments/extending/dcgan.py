"""The networks of a DCGAN, arXiv:1511.06434, for images of 8x8 pixels and one channel.

gan.py trains them against each other.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import register
from cnnjax.models import layers


class Generator(nn.Module):
  """Noise `[batch, numbers]` to normalised images `[batch, 8, 8, 1]`."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    norm = lambda x: nn.relu(layers.batch_norm(dtype=self.dtype, train=train)(x))
    options = dict(strides=(2, 2), padding="SAME", use_bias=False, dtype=self.dtype)
    x = nn.Dense(4 * 4 * 64, use_bias=False, dtype=self.dtype)(x)
    x = nn.ConvTranspose(32, (4, 4), **options)(norm(x.reshape(-1, 4, 4, 64)))
    x = nn.Conv(1, (3, 3), padding="SAME", dtype=self.dtype)(norm(x))
    return 2 * nn.tanh(x.astype(jnp.float32))  # normalised pixels lie within


@register("model", "dcgan_critic", input_shape=(8, 8, 1), reference="after arXiv:1511.06434")
class Critic(nn.Module):
  """Strides instead of pooling; no batch norm at the input."""

  num_classes: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    options = dict(kernel_size=(4, 4), strides=2, padding="SAME", dtype=self.dtype)
    x = nn.leaky_relu(nn.Conv(64, **options)(x), 0.2)
    x = layers.batch_norm(dtype=self.dtype, train=train)(nn.Conv(128, use_bias=False, **options)(x))
    return layers.head(self.num_classes)(layers.flatten(nn.leaky_relu(x, 0.2)))
