"""Residual networks: ResNet, its pre-activation form, Wide ResNet, ResNeXt, attention and BiT.

- ResNet, arXiv:1512.03385: table 1 (ImageNet) and section 4.2 (CIFAR, 6n+2 layers; `resnet20` has
  269,722 parameters at 10 classes). `resnet50` and the deeper ones are v1.5, with the stride in the
  3x3 convolution (torchvision, fb.resnet.torch); `resnet50_v1` is the paper's, with the stride in
  the first 1x1. Both have 25,557,032 at 1000 classes.
- Pre-activation (v2), arXiv:1603.05027: `resnetv2_50` 25,549,352 as in timm; CIFAR
  `preact_resnet164` 1,703,258 and `preact_resnet1001` 10,327,706 at 10 classes.
- Wide ResNet, arXiv:1605.07146: `wrn_28_10` 36,479,194 at 10 classes.
- ResNeXt, arXiv:1611.05431: `resnext50_32x4d` 25,028,904 at 1000 classes.
- Attention at the end of each branch (models/attention.py): `seresnet50` 28,088,024
  (arXiv:1709.01507), `cbamresnet50` 28,089,624 (arXiv:1807.06521; pytorchcv's cbam_resnet50),
  `ecaresnet50` 25,557,118 (arXiv:1910.03151).
- ResNet-D, arXiv:1812.01187 section 4.2: `resnet50d` 25,576,264.
- BiT, arXiv:1912.11370: `resnetv2_50x1_bit`, group norm and standardised weights, 25,549,352.

Batch norm is as in torchvision and timm: epsilon 1e-5, moving averages that keep 0.9 of the old
value. Keras has another ResNet: v1 with a bias in every convolution (`conv_bias=True` on
`resnet50_v1`, 25,583,592 trainable), and a v2 whose stages end with the stride instead of beginning
with it, which is not here. pytorchcv has a norm and a relu after the stem of v2 (128 parameters
more), and its own `wrn50_2`, with biases. The squeeze of SE is a 16th of the features, as in the
paper; timm rounds it up to a multiple of 8, so its `seresnet18` and `seresnet34` have 1,032 and
1,548 parameters more.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.attention import Attention, attend
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register


class ConvSpec(NamedTuple):
  """One convolution of a residual branch."""

  features: int
  kernel_size: int
  strides: int = 1
  groups: int = 1


class Block(nn.Module):
  """relu(shortcut(x) + branch(x)); the branch is conv, norm, relu, ..., conv, norm, attention.

  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up.
  In the branch, dropout comes before every convolution but the first. DropBlock (arXiv:1810.12890
  section 4.1) comes after each convolution with its norm and relu, and on the shortcut, as in the
  authors' code (github.com/tensorflow/tpu, models/official/resnet).
  """

  convs: tuple[ConvSpec, ...]
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]
  shortcut: str
  attention: str
  zero_init_gamma: bool
  dropout: float
  dtype: Any
  dropout_kind: layers.DropoutKind = "element"
  drop_block: float = 0.0
  drop_block_size: int = 7

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: layers.Drop = 0.0) -> jax.Array:
    features, strides = output_of(self.convs)
    drop = functools.partial(
      layers.drop_block, rate=self.drop_block, block_size=self.drop_block_size, train=train
    )
    y = x
    for i, spec in enumerate(self.convs, 1):
      last = i == len(self.convs)
      if i > 1:
        y = layers.dropout(y, self.dropout, kind=self.dropout_kind, train=train)
      padding = spec.kernel_size // 2
      y = self.conv(**spec._asdict(), padding=padding, train=train, name=f"conv{i}")(y)
      gamma = nn.initializers.zeros if last and self.zero_init_gamma else nn.initializers.ones
      y = self.norm(scale_init=gamma, train=train, name=f"norm{i}")(y)
      y = drop(y if last else nn.relu(y))
    y = attend(self.attention, y, train=train, dtype=self.dtype)
    y = layers.drop_path(y, drop_path, train=train)

    if x.shape[-1] != features or strides != 1:
      if self.shortcut == "A":
        x = layers.option_a_shortcut(x, features, strides=strides)
      else:
        if self.shortcut == "D" and strides != 1:
          x = layers.avg_pool(x, strides, strides=strides, ceil=True, count_padding=False)
          strides = 1
        x = self.conv(features, 1, strides=strides, padding=0, train=train, name="shortcut_conv")(x)
        x = self.norm(train=train, name="shortcut_norm")(x)
    return nn.relu(drop(x) + y)


class PreActBlock(nn.Module):
  """shortcut(x) + branch(x); the branch is norm, relu, conv, norm, relu, conv, ..., attention.

  A projection shortcut is a convolution of the pre-activated input without a norm, as in the
  authors' code and in timm; identity and option A take x itself. Shapes and dropout are as in
  Block. So is DropBlock, but it does not follow the last convolution, as in the authors' code.
  """

  convs: tuple[ConvSpec, ...]
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]
  shortcut: str
  attention: str
  zero_init_gamma: bool
  dropout: float
  dtype: Any
  dropout_kind: layers.DropoutKind = "element"
  drop_block: float = 0.0
  drop_block_size: int = 7

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: layers.Drop = 0.0) -> jax.Array:
    features, strides = output_of(self.convs)
    drop = functools.partial(
      layers.drop_block, rate=self.drop_block, block_size=self.drop_block_size, train=train
    )
    y = x
    for i, spec in enumerate(self.convs, 1):
      y = nn.relu(self.norm(train=train, name=f"norm{i}")(y))
      if i == 1:
        preact = y
      else:
        y = layers.dropout(drop(y), self.dropout, kind=self.dropout_kind, train=train)
      last = {}
      if self.zero_init_gamma and i == len(self.convs):
        last = dict(kernel_init=nn.initializers.zeros)
      padding = spec.kernel_size // 2
      y = self.conv(**spec._asdict(), **last, padding=padding, train=train, name=f"conv{i}")(y)
    y = attend(self.attention, y, train=train, dtype=self.dtype)
    y = layers.drop_path(y, drop_path, train=train)

    if x.shape[-1] != features or strides != 1:
      if self.shortcut == "A":
        x = layers.option_a_shortcut(x, features, strides=strides)
      else:
        project = self.conv(
          features, 1, strides=strides, padding=0, train=train, name="shortcut_conv"
        )
        x = project(preact)
    return drop(x) + y


def output_of(convs: tuple[ConvSpec, ...]) -> tuple[int, int]:
  """Returns (features, total stride) of a branch."""
  return convs[-1].features, max(spec.strides for spec in convs)


class ResNet(Backbone):
  """Stem, stages of residual blocks, global pool, head.

  Each stage after the first halves the resolution and doubles the features. A bottleneck block has
  4 times the features of its stage at its ends.
  """

  num_classes: int
  stage_sizes: tuple[Size, ...] = (2, 2, 2, 2)  # blocks in each stage
  block: Literal["basic", "bottleneck"] = "basic"  # 3x3, 3x3 or 1x1, 3x3, 1x1
  preact: bool = False  # norm and relu before the convolutions: v2, arXiv:1603.05027
  # 7x7/2, or the three 3x3 of ResNet-C and D (arXiv:1812.01187 section 4.2); then a 3x3/2 max pool,
  # which "bit" pads with zeros and "caffe" does not pad in front: the last window may be cut off.
  # small_images is for 32x32: 3x3/1 and no pool; "bit" and "caffe" are then "7x7".
  stem: Literal["7x7", "deep", "bit", "caffe"] = "7x7"
  small_images: bool = False
  stem_features: Size = 64
  features: Size = 64  # of the first stage
  groups: Size = 1  # of the 3x3 of a bottleneck: the cardinality of ResNeXt
  width_per_group: Size = 64  # bottleneck width at 64 features and 1 group, as in torchvision
  stride_in_1x1: bool = False  # bottleneck stride in the first 1x1 (v1), else in the 3x3 (v1.5)
  # Where shapes change: A zero padding, B 1x1 projection, D average pool and 1x1 projection.
  shortcut: Literal["A", "B", "D"] = "B"
  attention: Attention = "none"  # at the end of each branch
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  standardize: bool = False  # the weights of convolutions, arXiv:1903.10520
  conv_bias: bool = False  # beside the norm, as in Keras
  final_norm: bool = True  # norm and relu before the global pool, with preact
  # Each branch starts at zero (arXiv:1706.02677 section 5.1) by the gamma of its last norm. With
  # preact by its last kernel, as in timm: gamma and beta of zero before a relu would never learn.
  zero_init_gamma: bool = False
  pool: layers.Pool = "avg"
  dropout: Rate = 0.0  # between the convolutions of a block, arXiv:1605.07146 section 2.4
  dropout_kind: layers.DropoutKind = "element"  # or whole channels, arXiv:1411.4280
  head_dropout: Rate = 0.0  # before the last layer, which is `dropout` in most other families
  drop_path: Rate = 0.0  # of the last block; arXiv:1603.09382 section 3
  drop_path_mode: layers.DropPathMode = (
    "linear"  # grows from 0 with depth, or is the same in all blocks
  )
  # DropBlock, see `Block`: the rate, 1 - keep_prob, in the last stage; a quarter of it in the stage
  # before. It is constant; the paper lets it grow from 0 during training.
  drop_block: Rate = 0.0
  drop_block_size: Size = 7  # pixels on each side, arXiv:1810.12890 section 4.1
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  # Run the equal blocks of a stage in a loop over parameters stacked as `stageN_rest`, so that
  # compile time does not grow with depth. On CPU, loops around convolutions are slow:
  # experiments/benchmarks/train_step/README.md.
  scan: bool = False
  dtype: Any = jnp.float32
  NEEDS = (
    ("final_norm", "preact", True),
    ("dropout_kind", "dropout", ABOVE_0),
    ("drop_path_mode", "drop_path", ABOVE_0),
    ("drop_block_size", "drop_block", ABOVE_0),
  )

  def __post_init__(self):
    bottleneck_only = (self.groups, self.width_per_group, self.stride_in_1x1)
    if self.block == "basic" and bottleneck_only != (1, 64, False):
      raise UserError("groups, width_per_group and stride_in_1x1 need block='bottleneck'")
    if self.preact and self.shortcut == "D":
      raise UserError("shortcut='D' is for networks that are not pre-activated")
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels] of any size."""
    layers.check_images(x)
    transform = layers.standardized if self.standardize else layers.identity
    conv = functools.partial(
      layers.conv, use_bias=self.conv_bias, transform=transform, dtype=self.dtype
    )
    norm = functools.partial(
      layers.norm, self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      dtype=self.dtype,
    )  # fmt: skip
    block = functools.partial(
      PreActBlock if self.preact else Block,
      conv=conv,
      norm=norm,
      shortcut=self.shortcut,
      attention=self.attention,
      zero_init_gamma=self.zero_init_gamma,
      dropout=self.dropout,
      dropout_kind=self.dropout_kind,
      drop_block_size=self.drop_block_size,
      dtype=self.dtype,
    )
    x, stride = self._stem(x, mark, conv, norm, train=train)
    depth, done = sum(self.stage_sizes), 0
    drop_path = layers.drop_path_rates(self.drop_path, depth, self.drop_path_mode)
    drop_block = layers.drop_block_rates(self.drop_block, len(self.stage_sizes))
    for stage, size in enumerate(self.stage_sizes):
      first, rest = (
        self._convs(self.features * 2**stage, strides=s) for s in (2 if stage else 1, 1)
      )
      rates = drop_path[done : done + size]
      stage_block = functools.partial(block, drop_block=drop_block[stage])
      options = dict(train=train, remat=self.remat)
      name = f"stage{stage + 1}"
      x = layers.run_block(
        stage_block(convs=first, name=f"{name}_block1"), x, drop_path=rates[0], **options
      )
      if self.scan and size > 1:
        x = layers.scan_blocks(
          stage_block(convs=rest, name=f"{name}_rest"), x, drop_path=rates[1:], **options
        )
      else:
        for i, rate in enumerate(rates[1:], 2):
          x = layers.run_block(
            stage_block(convs=rest, name=f"{name}_block{i}"), x, drop_path=rate, **options
          )
      done += size
      stride *= 2 if stage else 1
      x = mark(name, x, stride=stride)
    if self.preact and self.final_norm:
      x = nn.relu(norm(train=train, name="final_norm")(x))
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.head_dropout, train=train)
    return layers.head(self.num_classes)(x)

  def _stem(
    self, x: jax.Array, mark: Mark, conv: Callable, norm: Callable, *, train: bool
  ) -> tuple[jax.Array, int]:
    """Returns the stem's output and its stride."""
    features, kernel_size, strides = [self.stem_features], 7, 2
    if self.stem == "deep":
      features, kernel_size = [self.stem_features // 2] * 2 + features, 3
    if self.small_images:
      kernel_size, strides = 3, 1
    for i, width in enumerate(features, 1):
      number = "" if len(features) == 1 else str(i)
      if i > 1:
        kernel_size, strides = 3, 1
      x = conv(
        width, kernel_size, strides=strides, padding=kernel_size // 2, train=train,
        name=f"stem_conv{number}",
      )(x)  # fmt: skip
      if not self.preact or i < len(features):
        x = nn.relu(norm(train=train, name=f"stem_norm{number}")(x))
    if self.small_images:
      return mark("stem", x, stride=1), 1
    x = mark("stem", x, stride=2)
    if self.stem == "bit":
      return layers.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, strides=2), 4
    if self.stem == "caffe":
      return layers.max_pool(x, 3, strides=2, ceil=True), 4
    return layers.max_pool(x, 3, strides=2, padding=1), 4

  def _convs(self, features: int, *, strides: int) -> tuple[ConvSpec, ...]:
    if self.block == "basic":
      return ConvSpec(features, 3, strides), ConvSpec(features, 3)
    width = max(1, features * self.width_per_group // 64) * self.groups
    first, second = (strides, 1) if self.stride_in_1x1 else (1, strides)
    return (
      ConvSpec(width, 1, first),
      ConvSpec(width, 3, second, self.groups),
      ConvSpec(4 * features, 1),
    )


IMAGENET = dict(input_shape=(224, 224, 3), reference="arXiv:1512.03385 table 1")
BOTTLENECK = IMAGENET | dict(block="bottleneck")
CIFAR = dict(
  input_shape=(32, 32, 3), small_images=True, stem_features=16, features=16, shortcut="A",
  reference="arXiv:1512.03385 section 4.2",
)  # fmt: skip
V1 = dict(stride_in_1x1=True)
V2 = dict(preact=True, reference="arXiv:1603.05027")
PREACT = CIFAR | V2 | dict(shortcut="B")
PREACT_BOTTLENECK = PREACT | dict(block="bottleneck")
WIDE = dict(width_per_group=128, reference="arXiv:1605.07146 table 8")
D = dict(stem="deep", shortcut="D", reference="arXiv:1812.01187 section 4.2")
SE = dict(attention="se", reference="arXiv:1709.01507 table 2")
CBAM = dict(attention="cbam", reference="arXiv:1807.06521 table 4")
ECA = dict(attention="eca", reference="arXiv:1910.03151 table 3")
BIT = dict(stem="bit", norm="group", standardize=True, reference="arXiv:1912.11370 section 3.1")
NEXT = dict(reference="arXiv:1611.05431 table 1")
NEXT29 = dict(
  stage_sizes=(3, 3, 3), block="bottleneck", small_images=True,
  input_shape=(32, 32, 3), reference="arXiv:1611.05431 section 5.3",
)  # fmt: skip


def wide(depth: int, factor: int) -> dict[str, Any]:
  """Returns the options of WRN-depth-factor: 6n+4 layers, features times factor after the stem."""
  reference = "arXiv:1605.07146 table 1"
  return PREACT | dict(
    stage_sizes=((depth - 4) // 6,) * 3, features=16 * factor, reference=reference
  )


VARIANTS = {
  "resnet18": IMAGENET | dict(stage_sizes=(2, 2, 2, 2)),
  "resnet34": IMAGENET | dict(stage_sizes=(3, 4, 6, 3)),
  "resnet50": BOTTLENECK | dict(stage_sizes=(3, 4, 6, 3)),
  "resnet101": BOTTLENECK | dict(stage_sizes=(3, 4, 23, 3)),
  "resnet152": BOTTLENECK | dict(stage_sizes=(3, 8, 36, 3)),
  "resnet200": BOTTLENECK | dict(stage_sizes=(3, 24, 36, 3), reference="arXiv:1603.05027"),
  "resnet50_v1": BOTTLENECK | V1 | dict(stage_sizes=(3, 4, 6, 3)),
  "resnet101_v1": BOTTLENECK | V1 | dict(stage_sizes=(3, 4, 23, 3)),
  "resnet152_v1": BOTTLENECK | V1 | dict(stage_sizes=(3, 8, 36, 3)),
  "resnetv2_18": IMAGENET | V2 | dict(stage_sizes=(2, 2, 2, 2)),
  "resnetv2_34": IMAGENET | V2 | dict(stage_sizes=(3, 4, 6, 3)),
  "resnetv2_50": BOTTLENECK | V2 | dict(stage_sizes=(3, 4, 6, 3)),
  "resnetv2_101": BOTTLENECK | V2 | dict(stage_sizes=(3, 4, 23, 3)),
  "resnetv2_152": BOTTLENECK | V2 | dict(stage_sizes=(3, 8, 36, 3)),
  "resnetv2_200": BOTTLENECK | V2 | dict(stage_sizes=(3, 24, 36, 3)),
  "wide_resnet50_2": BOTTLENECK | WIDE | dict(stage_sizes=(3, 4, 6, 3)),
  "wide_resnet101_2": BOTTLENECK | WIDE | dict(stage_sizes=(3, 4, 23, 3)),
  "resnext50_32x4d": BOTTLENECK | NEXT
  | dict(stage_sizes=(3, 4, 6, 3), groups=32, width_per_group=4),
  "resnext101_32x8d": BOTTLENECK | NEXT
  | dict(stage_sizes=(3, 4, 23, 3), groups=32, width_per_group=8),
  "resnext101_64x4d": BOTTLENECK | NEXT
  | dict(stage_sizes=(3, 4, 23, 3), groups=64, width_per_group=4),
  "resnet18d": IMAGENET | D | dict(stage_sizes=(2, 2, 2, 2)),
  "resnet34d": IMAGENET | D | dict(stage_sizes=(3, 4, 6, 3)),
  "resnet50d": BOTTLENECK | D | dict(stage_sizes=(3, 4, 6, 3)),
  "resnet101d": BOTTLENECK | D | dict(stage_sizes=(3, 4, 23, 3)),
  "resnet152d": BOTTLENECK | D | dict(stage_sizes=(3, 8, 36, 3)),
  "seresnet18": IMAGENET | SE | dict(stage_sizes=(2, 2, 2, 2)),
  "seresnet34": IMAGENET | SE | dict(stage_sizes=(3, 4, 6, 3)),
  "seresnet50": BOTTLENECK | SE | dict(stage_sizes=(3, 4, 6, 3)),
  "seresnet101": BOTTLENECK | SE | dict(stage_sizes=(3, 4, 23, 3)),
  "seresnet152": BOTTLENECK | SE | dict(stage_sizes=(3, 8, 36, 3)),
  "seresnext50_32x4d": BOTTLENECK | SE
  | dict(stage_sizes=(3, 4, 6, 3), groups=32, width_per_group=4),
  "cbamresnet18": IMAGENET | CBAM | dict(stage_sizes=(2, 2, 2, 2)),
  "cbamresnet34": IMAGENET | CBAM | dict(stage_sizes=(3, 4, 6, 3)),
  "cbamresnet50": BOTTLENECK | CBAM | dict(stage_sizes=(3, 4, 6, 3)),
  "cbamresnet101": BOTTLENECK | CBAM | dict(stage_sizes=(3, 4, 23, 3)),
  "cbamresnet152": BOTTLENECK | CBAM | dict(stage_sizes=(3, 8, 36, 3)),
  "ecaresnet18": IMAGENET | ECA | dict(stage_sizes=(2, 2, 2, 2)),
  "ecaresnet34": IMAGENET | ECA | dict(stage_sizes=(3, 4, 6, 3)),
  "ecaresnet50": BOTTLENECK | ECA | dict(stage_sizes=(3, 4, 6, 3)),
  "ecaresnet101": BOTTLENECK | ECA | dict(stage_sizes=(3, 4, 23, 3)),
  "ecaresnet152": BOTTLENECK | ECA | dict(stage_sizes=(3, 8, 36, 3)),
  "resnetv2_50x1_bit": BOTTLENECK | V2 | BIT | dict(stage_sizes=(3, 4, 6, 3)),
  "resnetv2_101x1_bit": BOTTLENECK | V2 | BIT | dict(stage_sizes=(3, 4, 23, 3)),
  "seresnet20": CIFAR | SE | dict(stage_sizes=(3, 3, 3)),
  "resnet20": CIFAR | dict(stage_sizes=(3, 3, 3)),
  "resnet32": CIFAR | dict(stage_sizes=(5, 5, 5)),
  "resnet44": CIFAR | dict(stage_sizes=(7, 7, 7)),
  "resnet56": CIFAR | dict(stage_sizes=(9, 9, 9)),
  "resnet110": CIFAR | dict(stage_sizes=(18, 18, 18)),
  "resnet1202": CIFAR | dict(stage_sizes=(200, 200, 200)),
  "preact_resnet110": PREACT | dict(stage_sizes=(18, 18, 18)),
  "preact_resnet110_bottleneck": PREACT_BOTTLENECK | dict(stage_sizes=(12, 12, 12)),
  "preact_resnet164": PREACT_BOTTLENECK | dict(stage_sizes=(18, 18, 18)),
  "preact_resnet1001": PREACT_BOTTLENECK | dict(stage_sizes=(111, 111, 111)),
  # The network of the mixup paper (arXiv:1710.09412), as in github.com/kuangliu/pytorch-cifar.
  "preact_resnet18": PREACT
  | dict(stage_sizes=(2, 2, 2, 2), stem_features=64, features=64, final_norm=False),
  "wrn_16_4": wide(16, 4),
  "wrn_16_8": wide(16, 8),
  "wrn_22_8": wide(22, 8),
  "wrn_28_2": wide(28, 2),
  "wrn_28_10": wide(28, 10),
  "wrn_28_12": wide(28, 12),
  "wrn_28_20": wide(28, 20),
  "wrn_40_4": wide(40, 4),
  "wrn_40_8": wide(40, 8),
  "wrn_40_10": wide(40, 10),
  "resnext29_8x64d": NEXT29 | dict(groups=8),
  "resnext29_16x64d": NEXT29 | dict(groups=16),
}  # fmt: skip
for _name, _row in VARIANTS.items():
  register(_name, **_row)(ResNet)
