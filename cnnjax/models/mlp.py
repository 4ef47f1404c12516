"""A multilayer perceptron, a baseline for convolutional networks.

784-512-256-10 on 28x28x1: 784*512+512 + 512*256+256 + 256*10+10 = 535,818 parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import Rate, Size, register


@register("mlp", input_shape=(28, 28, 1), reference="dropout as in arXiv:1207.0580")
class MLP(Backbone):
  """Flatten, then Dense, ReLU and dropout for each of `features`, then the head."""

  num_classes: int
  features: tuple[Size, ...] | tuple[()] = (512, 256)
  dropout: Rate = 0.5
  dtype: Any = jnp.float32

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns float images [batch, height, width, channels] unchanged: there are no maps."""
    layers.check_images(x)
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.flatten(x)
    for i, features in enumerate(self.features, 1):
      x = nn.relu(layers.dense(features, dtype=self.dtype, name=f"dense{i}")(x))
      x = layers.dropout(x, self.dropout, train=train)
    return layers.head(self.num_classes)(x)
