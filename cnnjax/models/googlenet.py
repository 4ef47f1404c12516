"""GoogLeNet (Inception-v1) and BN-Inception (Inception-v2).

- `googlenet_2014`: arXiv:1409.4842 table 1: 5x5 convolutions, local response normalisation, biases;
  6,998,552 parameters at 1000 classes, 13,378,280 with its two auxiliary heads (section 5). What
  the paper does not say is as in Caffe's bvlc_googlenet: initialisation, LRN with k = 1.
- `googlenet`: as in torchvision, which follows TensorFlow: batch norm, 3x3 where the paper has 5x5
  (a known bug that weights depend on: pytorch/vision issue 906), a 2x2 last pool, auxiliary heads
  on an adaptive pool; 6,624,904 parameters, 13,004,888 with auxiliary heads.
- `bn_inception`: arXiv:1502.03167 figure 5: two 3x3 for each 5x5, strides in modules 3c and 4e
  instead of pools between stages, average pools; 11,295,240 parameters, with biases beside the
  batch norms, as in the versions of Caffe, Cadene and pytorchcv. Their stem is a plain 7x7
  convolution; the paper's is separable.

Pools count a last window that reaches over the edge, as in Caffe and torchvision (ceil_mode).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.layers import ConvNormAct
from cnnjax.models.registry import HAS_NORM, Rate, Scale, register


class Spec(NamedTuple):
  """The features of a module's branches; without a 1x1 it has stride 2 and a pool alone."""

  conv1: int
  reduce3: int
  conv3: int
  reduce5: int
  conv5: int
  project: int  # after the pool


# fmt: off
V1 = (  # arXiv:1409.4842 table 1
  {"3a": Spec(64, 96, 128, 16, 32, 32), "3b": Spec(128, 128, 192, 32, 96, 64)},
  {"4a": Spec(192, 96, 208, 16, 48, 64), "4b": Spec(160, 112, 224, 24, 64, 64),
   "4c": Spec(128, 128, 256, 24, 64, 64), "4d": Spec(112, 144, 288, 32, 64, 64),
   "4e": Spec(256, 160, 320, 32, 128, 128)},
  {"5a": Spec(256, 160, 320, 32, 128, 128), "5b": Spec(384, 192, 384, 48, 128, 128)},
)
V2 = (  # arXiv:1502.03167 figure 5
  {"3a": Spec(64, 64, 64, 64, 96, 32), "3b": Spec(64, 64, 96, 64, 96, 64)},
  {"3c": Spec(0, 128, 160, 64, 96, 0),
   "4a": Spec(224, 64, 96, 96, 128, 128), "4b": Spec(192, 96, 128, 96, 128, 128),
   "4c": Spec(160, 128, 160, 128, 160, 128), "4d": Spec(96, 128, 192, 160, 192, 128)},
  {"4e": Spec(0, 128, 192, 192, 256, 0),
   "5a": Spec(352, 192, 320, 160, 224, 128), "5b": Spec(352, 192, 320, 192, 224, 128)},
)
# fmt: on
LAYOUTS = {"v1": V1, "v2": V2}
IN_PLACE_OF_5X5 = {"5x5": (5,), "3x3": (3,), "3x3,3x3": (3, 3)}
# trunc_normal: torchvision (cut at -2 and 2, which cuts nothing). xavier: Caffe, whose biases start
# at 0.2. he_uniform: pytorchcv.
INITS = {
  "trunc_normal": nn.initializers.normal(0.01),
  "xavier": nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
  "he_uniform": nn.initializers.he_uniform(),
}


class Inception(nn.Module):
  """Four branches side by side: 1x1; 1x1, 3x3; 1x1, 5x5; pool, 1x1.

  [batch, height, width, any] to [batch, height, width, features of all branches together]. Without
  a 1x1 in the spec, height and width are halved, rounded up.
  """

  spec: Spec
  kernels5: tuple[int, ...]  # of the convolutions of the 5x5 branch
  pool: Literal["avg", "max"]
  unit: Callable[..., nn.Module]  # makes a convolution with norm and relu

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    spec = self.spec
    if spec.conv1:
      strides = 1
      branches = [self.unit(spec.conv1, 1, name="conv1x1")(x, train=train)]
    else:
      strides = 2
      branches = []

    y = self.unit(spec.reduce3, 1, name="reduce3x3")(x, train=train)
    branches.append(self.unit(spec.conv3, 3, strides=strides, name="conv3x3")(y, train=train))

    y = self.unit(spec.reduce5, 1, name="reduce5x5")(x, train=train)
    for i, kernel_size in enumerate(self.kernels5, 1):
      last = i == len(self.kernels5)
      name = "conv5x5" if len(self.kernels5) == 1 else f"conv5x5_{i}"
      unit = self.unit(spec.conv5, kernel_size, strides=strides if last else 1, name=name)
      y = unit(y, train=train)
    branches.append(y)

    pool = layers.avg_pool if self.pool == "avg" and strides == 1 else layers.max_pool
    # "SAME" is ceil mode without padding where the size is even; it always fits the convolutions.
    y = pool(x, 3, strides=strides, padding=1 if strides == 1 else "SAME")
    if spec.project:
      y = self.unit(spec.project, 1, name="project")(y, train=train)
    return jnp.concatenate([*branches, y], axis=-1)


class AuxiliaryHead(nn.Module):
  """Average pool to 4x4, 1x1 convolution, dense layer, logits; arXiv:1409.4842 section 5.

  [batch, height, width, any] to float32 logits [batch, classes].
  """

  num_classes: int
  unit: Callable[..., nn.Module]
  dense: Callable[..., nn.Module]
  head: Callable[..., Callable]
  adaptive_pool: bool
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if not self.adaptive_pool and min(x.shape[1:3]) >= 5:
      x = layers.avg_pool(x, 5, strides=3)  # 14x14, for images of 224 pixels, becomes 4x4
    x = layers.adaptive_avg_pool(x, 4)
    x = layers.flatten(self.unit(128, 1, name="conv")(x, train=train))
    x = nn.relu(self.dense(1024, name="dense")(x))
    return self.head(self.num_classes)(layers.dropout(x, self.dropout, train=train))


class GoogLeNet(Backbone):
  """Stem, three stages of inception modules, global pool, head."""

  num_classes: int
  layout: Literal["v1", "v2"] = "v1"  # the modules: V1 or V2 above
  width: Scale = 1.0  # times the features of every convolution: rounded, and at least 8
  conv5x5: Literal["5x5", "3x3", "3x3,3x3"] = "3x3"  # kernels of the 5x5 branch
  norm: Literal["none", "batch", "group", "layer"] = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-3  # of the norm
  conv_bias: bool = False
  # Local response normalisation before and after convolutions 2 and 3 of the stem; not with
  # small_images.
  lrn: bool = False
  last_pool: Literal[2, 3] = 2  # window of the pool before stage 3, with layout v1
  # For 32x32, as in github.com/kuangliu/pytorch-cifar: the stem is one 3x3/1 of 192 features.
  small_images: bool = False
  aux_logits: bool = False  # auxiliary heads after modules 4a and 4d, in training
  aux_adaptive_pool: bool = True  # their pool as in torchvision; else 5x5/3, as in the paper
  weight_init: Literal[tuple(INITS)] = "trunc_normal"
  pool: layers.Pool = "avg"
  dropout: Rate = 0.2
  aux_dropout: Rate = 0.7
  remat: bool = False  # recompute modules in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (
    ("norm_momentum", "norm", HAS_NORM),
    ("norm_epsilon", "norm", HAS_NORM),
    ("lrn", "small_images", False),
    ("last_pool", "layout", "v1"),
    ("aux_adaptive_pool", "aux_logits", True),
    ("aux_dropout", "aux_logits", True),
  )

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels]."""
    layers.check_images(x, smallest=self._smallest())
    kernel_init = INITS[self.weight_init]
    bias_init = nn.initializers.constant(0.2 if self.weight_init == "xavier" else 0.0)
    norm = layers.no_norm
    if self.norm != "none":
      norm = functools.partial(
        layers.norm, self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
        dtype=self.dtype,
      )  # fmt: skip
    conv = functools.partial(
      layers.conv, use_bias=self.conv_bias, kernel_init=kernel_init, bias_init=bias_init,
      dtype=self.dtype,
    )  # fmt: skip
    unit = functools.partial(ConvNormAct, width=self.width, conv=conv, norm=norm)
    dense = functools.partial(
      layers.dense, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype
    )
    head = functools.partial(layers.head, kernel_init=kernel_init)
    x, stride = self._stem(x, mark, unit, train=train)
    for stage, modules in enumerate(LAYOUTS[self.layout], 1):
      if stage > 1:
        stride *= 2
        if self.layout == "v1":
          x = layers.max_pool(x, 3 if stage == 2 else self.last_pool, strides=2, ceil=True)
      for name, spec in modules.items():
        module = Inception(
          spec=spec,
          kernels5=IN_PLACE_OF_5X5[self.conv5x5],
          pool="max" if self.layout == "v1" or name == "5b" else "avg",
          unit=unit,
          name=f"inception{name}",
        )
        x = layers.run_block(module, x, train=train, remat=self.remat)
        aux = {"4a": "aux1", "4d": "aux2"}.get(name) if self.aux_logits else None
        if aux and self.num_classes > 0 and (train or self.is_initializing()):
          auxiliary = AuxiliaryHead(
            num_classes=self.num_classes, unit=unit, dense=dense, head=head,
            adaptive_pool=self.aux_adaptive_pool, dropout=self.aux_dropout, name=f"{aux}_head",
          )  # fmt: skip
          layers.auxiliary(self, aux, auxiliary(x, train=train))
      x = mark(f"stage{stage}", x, stride=stride)
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.dropout, train=train)
    return layers.head(self.num_classes, kernel_init=INITS[self.weight_init])(x)

  def _stem(
    self, x: jax.Array, mark: Mark, unit: Callable[..., nn.Module], *, train: bool
  ) -> tuple[jax.Array, int]:
    """Returns the input of the first module, and its stride."""
    if self.small_images:
      x = unit(192, 3, name="stem_conv")(x, train=train)
      return mark("stem", x, stride=1), 1
    # Caffe has alpha 1e-4 for the mean of the squares; this is for their sum.
    lrn = functools.partial(layers.local_response_norm, alpha=1e-4 / 5, k=1.0)
    x = unit(64, 7, strides=2, name="stem_conv1")(x, train=train)
    x = mark("stem", x, stride=2)
    x = layers.max_pool(x, 3, strides=2, ceil=True)
    x = lrn(x) if self.lrn else x
    x = unit(64, 1, name="stem_conv2")(x, train=train)
    x = unit(192, 3, name="stem_conv3")(x, train=train)
    x = mark("stem2", x, stride=4)
    x = lrn(x) if self.lrn else x
    return layers.max_pool(x, 3, strides=2, ceil=True), 8

  def _smallest(self) -> int:
    """Returns the smallest image that leaves one pixel; a 3x3 pool in ceil mode needs two."""
    size = 1
    if self.layout == "v1":
      size *= 2 if self.last_pool == 2 else 4
    return size if self.small_images else 8 * size - 1


IMAGENET = dict(input_shape=(224, 224, 3))
VARIANTS = {
  "googlenet": IMAGENET | dict(reference="arXiv:1409.4842 table 1, as in torchvision"),
  "googlenet_2014": IMAGENET | dict(
    conv5x5="5x5", norm="none", conv_bias=True, lrn=True, last_pool=3, aux_adaptive_pool=False,
    weight_init="xavier", dropout=0.4, reference="arXiv:1409.4842 table 1",
  ),
  "bn_inception": IMAGENET | dict(
    layout="v2", conv5x5="3x3,3x3", norm_epsilon=1e-5, conv_bias=True, weight_init="he_uniform",
    dropout=0.0, reference="arXiv:1502.03167 figure 5",
  ),
}  # fmt: skip
for _name, _row in VARIANTS.items():
  register(_name, **_row)(GoogLeNet)
