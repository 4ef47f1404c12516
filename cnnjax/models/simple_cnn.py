"""Small networks of well-known tutorials: convolutions, pools, dense layers.

Parameters at 10 classes on the usual input: `simple_cnn` 1,199,882 (github.com/pytorch/examples,
mnist), `simple_cnn_small` 136,874, `simple_cnn_flax` 824,458 (github.com/google/flax,
examples/mnist), `simple_cnn_keras` 34,826 (keras.io, "Simple MNIST convnet").
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register


class SimpleCNN(Backbone):
  """Convolutions with a pool after every `pool_every` of them, dense layers, head."""

  num_classes: int
  conv_features: tuple[Size, ...] = (32, 64)
  dense_features: tuple[Size, ...] | tuple[()] = (128,)
  kernel_size: Size = 3
  padding: Literal["SAME", "VALID"] = "SAME"
  pool: Literal["max", "avg", "none"] = "max"
  pool_every: Size = 1
  activation: layers.Activation = "relu"
  conv_dropout: Rate = 0.0  # on the last map, before it is flattened
  conv_dropout_kind: layers.DropoutKind = "element"  # or whole channels, arXiv:1411.4280
  dropout: Rate = 0.0  # after each hidden dense layer
  batch_norm: bool = False  # between each convolution and its activation
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5
  dtype: Any = jnp.float32
  NEEDS = (
    ("norm_momentum", "batch_norm", True),
    ("norm_epsilon", "batch_norm", True),
    ("conv_dropout_kind", "conv_dropout", ABOVE_0),
  )

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels] of one size."""
    layers.check_images(x, smallest=self._smallest())
    stride = 1
    for i, features in enumerate(self.conv_features, 1):
      x = layers.conv(
        features,
        self.kernel_size,
        padding=self.padding,
        use_bias=not self.batch_norm,
        dtype=self.dtype,
        train=train,
        name=f"conv{i}",
      )(x)
      if self.batch_norm:
        x = layers.batch_norm(
          momentum=self.norm_momentum, epsilon=self.norm_epsilon, dtype=self.dtype, train=train,
          name=f"norm{i}",
        )(x)  # fmt: skip
      x = mark(f"stage{i}", layers.ACTIVATIONS[self.activation](x), stride=stride)
      if i % self.pool_every == 0 and self.pool != "none":
        pool = layers.max_pool if self.pool == "max" else layers.avg_pool
        x = pool(x, 2, strides=2, padding=0)
        stride *= 2
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    activation = layers.ACTIVATIONS[self.activation]
    x = layers.dropout(x, self.conv_dropout, kind=self.conv_dropout_kind, train=train)
    x = layers.flatten(x)
    for i, features in enumerate(self.dense_features, 1):
      x = activation(layers.dense(features, dtype=self.dtype, name=f"dense{i}")(x))
      x = layers.dropout(x, self.dropout, train=train)
    return layers.head(self.num_classes)(x)

  def _smallest(self) -> int:
    """Returns the size of the image that leaves one pixel."""
    size = 1
    for i in range(len(self.conv_features), 0, -1):
      if i % self.pool_every == 0 and self.pool != "none":
        size *= 2
      if self.padding == "VALID":
        size += self.kernel_size - 1
    return size


MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
VARIANTS = {
  "simple_cnn": dict(
    padding="VALID", pool_every=2, conv_dropout=0.25, dropout=0.5,
    input_shape=MNIST, reference="github.com/pytorch/examples, mnist",
  ),
  "simple_cnn_small": dict(
    conv_features=(16, 32), dense_features=(64,),
    input_shape=CIFAR, reference="small enough for a laptop",
  ),
  "simple_cnn_flax": dict(
    pool="avg", dense_features=(256,),
    input_shape=MNIST, reference="github.com/google/flax, examples/mnist",
  ),
  "simple_cnn_keras": dict(
    padding="VALID", dense_features=(), conv_dropout=0.5,
    input_shape=MNIST, reference="keras.io/examples/vision/mnist_convnet",
  ),
}  # fmt: skip
for _name, _row in VARIANTS.items():
  register(_name, **_row)(SimpleCNN)
