"""AlexNet: the network of 2012, and the one that is called AlexNet today.

- `alexnet`: "One weird trick", arXiv:1404.5997, as in torchvision: one tower, no normalisation;
  61,100,840 parameters at 1000 classes. (The paper has 384 features in convolution 4, not 256.)
- `alexnet_2012`: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
  Neural Networks", NIPS 2012, section 3: two towers, that is, convolutions 2, 4 and 5 in two
  groups; local response normalisation by the formula of section 3.3; 227x227 pixels without padding
  (the paper says 224, which does not give its 55x55 maps); 60,965,224 parameters. Ungrouped
  (`groups=1`) it has 62,378,344 and is, with `lrn_alpha=2e-5`, what pytorchcv calls AlexNet.

Caffe's bvlc_alexnet is the network of 2012 with k = 1, alpha times the mean of the squares instead
of their sum, and smaller initial biases. Caffe's bvlc_reference_caffenet pools before the norm.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import Rate, Scale, Size, register

KERNEL_SIZES = (11, 5, 3, 3, 3)
IN_TOWERS = (2, 4, 5)  # convolutions that see only their own tower; their biases may start at 1
INITS = {  # initialisers of kernels, and of biases that may start at 1
  "torch": (layers.torch_linear, nn.initializers.zeros),
  "2012": (nn.initializers.normal(0.01), nn.initializers.ones),
}
POOLED = {1: "stem", 2: "stage1", 5: "stage2"}  # convolutions that a pool follows


class AlexNet(Backbone):
  """Five convolutions, three pools, two hidden dense layers, head."""

  num_classes: int
  features: tuple[Size, ...] = (64, 192, 384, 256, 256)  # of the convolutions
  groups: Size = 1  # of convolutions 2, 4 and 5: the towers
  lrn: bool = False  # local response normalisation after convolutions 1 and 2, before the pool
  lrn_alpha: Scale = 1e-4  # of the sum of squares; 2e-5 here is 1e-4 in Caffe and torch
  stem_padding: Literal[0, 2] = 2
  # For 32x32, as in github.com/bearpaw/pytorch-classification: padding 5 in the stem, 2x2 pools,
  # and a global pool instead of the hidden layers.
  small_images: bool = False
  hidden_features: Size = 4096  # of the two dense layers; not with small_images
  pool: layers.Pool = "avg"  # with small_images
  dropout: Rate = 0.5
  dropout_first: bool = (
    True  # before each hidden layer, as in torchvision; else after it, as in 2012
  )
  # torch: uniform in +-1 / sqrt(fan_in), biases 0 (torch draws them too). 2012: section 5, normal
  # with standard deviation 0.01, biases 1 in convolutions 2, 4, 5 and in the hidden layers.
  weight_init: Literal["torch", "2012"] = "torch"
  dtype: Any = jnp.float32
  NEEDS = (
    ("lrn_alpha", "lrn", True),
    ("stem_padding", "small_images", False),
    ("hidden_features", "small_images", False),
    ("dropout_first", "small_images", False),
    ("pool", "small_images", True),
  )

  def __post_init__(self):
    if len(self.features) != len(KERNEL_SIZES):
      raise UserError(f"an AlexNet has 5 convolutions, got features={self.features}")
    if any(features % self.groups for features in self.features):
      raise UserError(f"groups={self.groups} does not divide features={self.features}")
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels]."""
    layers.check_images(x, smallest=29 if self.small_images else 67 - 2 * self.stem_padding)
    stem_padding = 5 if self.small_images else self.stem_padding
    window = 2 if self.small_images else 3
    kernel_init, bias_init = INITS[self.weight_init]

    stride = 4
    for i, (features, kernel_size) in enumerate(zip(self.features, KERNEL_SIZES, strict=True), 1):
      x = layers.conv(
        features,
        kernel_size,
        strides=4 if i == 1 else 1,
        padding=stem_padding if i == 1 else kernel_size // 2,
        groups=self.groups if i in IN_TOWERS else 1,
        use_bias=True,
        kernel_init=kernel_init,
        bias_init=bias_init if i in IN_TOWERS else nn.initializers.zeros,
        dtype=self.dtype,
        train=train,
        name=f"conv{i}",
      )(x)
      x = nn.relu(x)
      if i in POOLED:
        x = mark(POOLED[i], x, stride=stride)
        if self.lrn and i != 5:
          x = layers.local_response_norm(x, alpha=self.lrn_alpha)
        x = layers.max_pool(x, window, strides=2)
        stride *= 2
    return mark("last_pool", x, stride=stride)

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    kernel_init, bias_init = INITS[self.weight_init]
    drop = functools.partial(layers.dropout, rate=self.dropout, train=train)
    if self.small_images:
      x = drop(layers.global_pool(x, self.pool))
      return layers.head(self.num_classes, kernel_init=kernel_init)(x)
    x = layers.flatten(layers.adaptive_avg_pool(x, 6))
    for name in ("dense1", "dense2"):
      if self.dropout_first:
        x = drop(x)
      hidden = functools.partial(layers.dense, kernel_init=kernel_init, bias_init=bias_init)
      x = nn.relu(hidden(self.hidden_features, dtype=self.dtype, name=name)(x))
      if not self.dropout_first:
        x = drop(x)
    return layers.head(self.num_classes, kernel_init=kernel_init)(x)


VARIANTS = {
  "alexnet": dict(input_shape=(224, 224, 3), reference="arXiv:1404.5997, as in torchvision"),
  "alexnet_2012": dict(
    features=(96, 256, 384, 384, 256), groups=2, lrn=True, stem_padding=0, dropout_first=False,
    weight_init="2012", input_shape=(227, 227, 3),
    reference="Krizhevsky et al., NIPS 2012, section 3",
  ),
}  # fmt: skip
for _name, _row in VARIANTS.items():
  register(_name, **_row)(AlexNet)
