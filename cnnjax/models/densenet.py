"""Densely connected networks, arXiv:1608.06993: each layer sees the feature maps of all before it.

- ImageNet, table 1: `densenet121` 7,978,856, `densenet169` 14,149,480, `densenet201` 20,013,928,
  `densenet264` 33,337,704 at 1000 classes. `densenet161` (growth rate 48, 28,681,000) is not in the
  paper's last version, but in torchvision. Two networks are called DenseNet-264: the paper's has
  growth rate 32; `densenet264_k48`, 72,686,632, comes from the report on memory
  (arXiv:1707.06990).
- CIFAR, section 3 and table 2, named by depth and growth rate: `densenet40_k12` 1,019,722,
  `densenet_bc100_k12` 769,162, `densenet_bc190_k40` 25,624,430 at 10 classes. BC has bottlenecks
  and compresses by half. For other sizes set `depth` and `growth_rate`:
  `models.create("densenet_bc100_k12", 10, depth=160, growth_rate=24)`. The plain networks of
  pytorchcv also compress and begin with 2k maps: its densenet40_k12 has 599,050
  (`compression=0.5, stem_features=0`).

torchvision and timm have dropout only after the 3x3; here it follows every convolution but the
first, as in the paper (rate 0.2 for data sets without augmentation). Keras has epsilon 1.001e-5.

Initialisation: He normal by fan out, as in the authors' github.com/liuzhuang13/DenseNet
(torchvision: by fan in).

**Memory.** In training a plain implementation keeps, for each of the l layers of a block, the
concatenation of all maps before it and a normalised copy: of order l^2 maps. `memory_efficient`
(arXiv:1707.06990) keeps only the outputs of the convolutions, of order l, and recomputes
concatenation, norm and relu in the backward pass; no convolution is computed twice. Outputs,
statistics and gradients are the same. The authors publish 1,655 instead of 5,453 MB on a GPU (their
models/README.md); figures on CPU are in experiments/benchmarks/train_step/README.md.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, Check, Count, Rate, Scale, Size, register

Share = Annotated[float, Check(lambda share: 0 < share <= 1, "above 0 and at most 1")]
StemFeatures = Annotated[int, Check(lambda n: n >= 0, "at least 0 (0: twice the growth rate)")]


def recomputed(run: Callable, apply: Callable) -> Callable:
  """Returns run(unit, maps) so that it keeps only the maps and recomputes the rest backward.

  `apply(variables, maps)` returns the output of the unit and its new variables. This is nn.remat in
  a form that XLA cannot undo: on CPU before jax 0.12 XLA drops the barriers of nn.remat and merges
  the second computation with the first. Here the second depends on the gradient through
  0 * gradient, which XLA must compute because the gradient may be infinite.
  """

  def forward(unit: nn.Module, maps: list[jax.Array]) -> tuple[Any, Any]:
    return run(unit, maps), (unit.variables, maps)

  def backward(kept: Any, gradients: list[jax.Array]) -> tuple[Any, list[jax.Array]]:
    variables, maps = kept
    maps = [x + 0 * gradients[-1][..., :1].astype(x.dtype) for x in maps]
    maps, gradients = jax.lax.optimization_barrier((maps, gradients))
    again = lambda params, maps: apply({**variables, "params": params}, maps)[0]
    params, maps = jax.vjp(again, variables["params"], maps)[1](gradients)
    return {"params": params}, maps

  return nn.custom_vjp(run, forward, backward)


class NormActConv(nn.Module):
  """Concatenation, norm, relu, a convolution of the same size, DropBlock and dropout."""

  features: int
  kernel_size: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]
  dropout: float
  dropout_kind: str
  drop_block_size: int
  memory_efficient: bool
  drop_block: float = 0.0

  @nn.compact
  def __call__(self, maps: list[jax.Array], *, train: bool) -> list[jax.Array]:
    """Returns the maps [batch, height, width, any] followed by the result."""

    def run(self, maps: list[jax.Array]) -> list[jax.Array]:
      x = nn.relu(self.norm(train=train, name="norm")(jnp.concatenate(maps, axis=-1)))
      conv = self.conv(
        self.features, self.kernel_size, padding=self.kernel_size // 2, train=train, name="conv"
      )
      return [*maps, conv(x)]

    if self.memory_efficient:
      # The maps pass through so that the backward pass adds up their gradients layer by layer, not
      # all at the end. (It does not need the result of the convolution.)
      plain = self.clone(parent=None, memory_efficient=False, dropout=0.0, drop_block=0.0)
      run = recomputed(run, functools.partial(plain.apply, train=train, mutable=True))
    *maps, x = run(self, maps)
    x = layers.drop_block(x, self.drop_block, self.drop_block_size, train=train)
    return [*maps, layers.dropout(x, self.dropout, kind=self.dropout_kind, train=train)]


class DenseBlock(nn.Module):
  """`size` layers; each appends `growth_rate` maps made from all maps before.

  [batch, height, width, channels] to [batch, height, width, channels + size * growth_rate].
  """

  size: int
  growth_rate: int
  bottleneck: bool
  unit: Callable[..., NormActConv]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    maps = [x]  # not one growing map: each layer concatenates once, and nothing is kept twice
    for i in range(1, self.size + 1):
      growth = self.unit(self.growth_rate, 3, name=f"layer{i}_growth")
      if self.bottleneck:  # section 3, "Bottleneck layers"
        bottleneck = self.unit(4 * self.growth_rate, 1, name=f"layer{i}_bottleneck")
        *maps, x = bottleneck(maps, train=train)
        *_, x = growth([x], train=train)
        maps.append(x)
      else:
        maps = growth(maps, train=train)
    return jnp.concatenate(maps, axis=-1)


def three_blocks(depth: int, *, bottleneck: bool) -> tuple[int, int, int]:
  """Returns the layers in each dense block of a CIFAR network, arXiv:1608.06993 section 3.

  `depth` counts the convolutions (two per layer with bottlenecks) and the last layer; 4 of them are
  the stem, two transitions and the head.

  Raises:
    UserError: three equal blocks cannot have this depth.
  """
  step = 6 if bottleneck else 3  # one more layer in each block
  size, rest = divmod(depth - 4, step)
  if size < 1 or rest:
    lower = 4 + max(1, size) * step
    raise UserError(
      f"a depth is 4 more than a multiple of {step}, such as {lower} or {lower + step}; got {depth}"
    )
  return size, size, size


class DenseNet(Backbone):
  """Stem, dense blocks with a transition between each two, norm, relu, global pool, head.

  A transition is norm, relu, 1x1 convolution, 2x2 average pool. The map of a stage is the output of
  its dense block, in the last stage after the last norm and relu.
  """

  num_classes: int
  # Layers in each dense block; () takes them from `depth`.
  stage_sizes: tuple[Size, ...] | tuple[()] = (6, 12, 24, 16)
  depth: Count = 0  # of a CIFAR network, see `three_blocks`; 0: by `stage_sizes`
  growth_rate: Size = 32  # maps that each layer adds: k
  bottleneck: bool = True  # a 1x1 convolution to 4k maps before each 3x3: B
  compression: Share = 0.5  # share of the maps that a transition leaves: theta; C when below 1
  stem_features: StemFeatures = 0  # 0: 2k, as on ImageNet and in BC
  # For 32x32: a 3x3/1 convolution alone, as in the CIFAR networks of the paper, instead of a 7x7/2
  # with norm and relu and a 3x3/2 max pool.
  small_images: bool = False
  norm: layers.Norm = "batch"
  norm_momentum: Rate = 0.9  # of batch norm
  norm_epsilon: Scale = 1e-5  # of the norm
  pool: layers.Pool = "avg"
  dropout: Rate = 0.0  # after every convolution but the first
  dropout_kind: layers.DropoutKind = "element"  # or whole channels, arXiv:1411.4280
  # In the same places, in the last dense block; a quarter of the rate in the block before.
  # arXiv:1810.12890 proposes it for residual networks.
  drop_block: Rate = 0.0
  drop_block_size: Size = 7  # pixels on each side
  head_dropout: Rate = 0.0  # before the last layer, which is `dropout` in most other families
  memory_efficient: bool = False  # recompute concatenation, norm and relu in the backward pass
  remat: bool = False  # recompute whole dense blocks in the backward pass, convolutions too
  dtype: Any = jnp.float32
  NEEDS = (("dropout_kind", "dropout", ABOVE_0), ("drop_block_size", "drop_block", ABOVE_0))

  def __post_init__(self):
    if bool(self.depth) == bool(self.stage_sizes):
      raise UserError(
        f"a DenseNet takes its layers from depth or from stage_sizes: set depth=0 or "
        f"stage_sizes=(), got depth={self.depth} and stage_sizes={self.stage_sizes}"
      )
    if self.remat and self.memory_efficient:
      raise UserError(
        "remat recomputes whole dense blocks, memory_efficient only what is cheap: choose one"
      )
    if self.depth:
      three_blocks(self.depth, bottleneck=self.bottleneck)
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the last map of float images [batch, height, width, channels].

    Images have at least 29x29 pixels for four blocks; with `small_images` 8x8, or 4x4 for three.
    """
    stage_sizes = self.stage_sizes or three_blocks(self.depth, bottleneck=self.bottleneck)
    last_stride = 2 ** (len(stage_sizes) - 1)  # of the transitions; each halves, rounding down
    layers.check_images(x, smallest=last_stride if self.small_images else 4 * last_stride - 3)
    conv = functools.partial(layers.conv, dtype=self.dtype)
    norm = functools.partial(
      layers.norm, self.norm, momentum=self.norm_momentum, epsilon=self.norm_epsilon,
      dtype=self.dtype,
    )  # fmt: skip
    unit = functools.partial(
      NormActConv, conv=conv, norm=norm, dropout=self.dropout, dropout_kind=self.dropout_kind,
      drop_block_size=self.drop_block_size, memory_efficient=self.memory_efficient,
    )  # fmt: skip
    x, stride = self._stem(x, mark, conv, norm, train=train)
    drop_block = layers.drop_block_rates(self.drop_block, len(stage_sizes))
    for stage, size in enumerate(stage_sizes, 1):
      dropped = functools.partial(unit, drop_block=drop_block[stage - 1])
      block = DenseBlock(size, self.growth_rate, self.bottleneck, dropped, name=f"block{stage}")
      x = layers.run_block(block, x, remat=self.remat, train=train)
      if stage == len(stage_sizes):
        x = nn.relu(norm(train=train, name="final_norm")(x))
      x = mark(f"stage{stage}", x, stride=stride)
      if stage < len(stage_sizes):
        features = max(1, int(x.shape[-1] * self.compression))
        *_, x = unit(features, 1, name=f"transition{stage}")([x], train=train)
        x = layers.avg_pool(x, 2, strides=2)
        stride *= 2
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = layers.dropout(layers.global_pool(x, self.pool), self.head_dropout, train=train)
    return layers.head(self.num_classes)(x)

  def _stem(
    self, x: jax.Array, mark: Mark, conv: Callable, norm: Callable, *, train: bool
  ) -> tuple[jax.Array, int]:
    """Returns the stem's output and its stride."""
    features = self.stem_features or 2 * self.growth_rate
    if self.small_images:
      x = conv(features, 3, padding=1, train=train, name="stem_conv")(x)
      return mark("stem", x, stride=1), 1
    x = conv(features, 7, strides=2, padding=3, train=train, name="stem_conv")(x)
    x = nn.relu(norm(train=train, name="stem_norm")(x))
    x = mark("stem", x, stride=2)
    return layers.max_pool(x, 3, strides=2, padding=1), 4


def cifar(depth: int, growth_rate: int, *, bc: bool) -> dict[str, Any]:
  """Returns the options of a CIFAR network: plain, or with bottlenecks and compression (BC)."""
  return dict(
    depth=depth, stage_sizes=(), growth_rate=growth_rate, bottleneck=bc,
    compression=0.5 if bc else 1.0, stem_features=0 if bc else 16, small_images=True,
    input_shape=(32, 32, 3), reference="arXiv:1608.06993 table 2",
  )  # fmt: skip


IMAGENET = dict(input_shape=(224, 224, 3), reference="arXiv:1608.06993 table 1")
WIDE = dict(reference="github.com/liuzhuang13/DenseNet")
VARIANTS = {
  "densenet121": IMAGENET | dict(stage_sizes=(6, 12, 24, 16)),
  "densenet161": IMAGENET
  | dict(stage_sizes=(6, 12, 36, 24), growth_rate=48, reference="arXiv:1608.06993, torchvision"),
  "densenet169": IMAGENET | dict(stage_sizes=(6, 12, 32, 32)),
  "densenet201": IMAGENET | dict(stage_sizes=(6, 12, 48, 32)),
  "densenet264": IMAGENET | dict(stage_sizes=(6, 12, 64, 48)),
  "densenet264_k48": IMAGENET
  | dict(stage_sizes=(6, 12, 64, 48), growth_rate=48, reference="arXiv:1707.06990"),
  "densenet40_k12": cifar(40, 12, bc=False),
  "densenet100_k12": cifar(100, 12, bc=False),
  "densenet100_k24": cifar(100, 24, bc=False),
  "densenet_bc100_k12": cifar(100, 12, bc=True),
  "densenet_bc250_k24": cifar(250, 24, bc=True),
  "densenet_bc190_k40": cifar(190, 40, bc=True),
  # The "wide" networks of the authors' repository.
  "densenet_bc40_k36": cifar(40, 36, bc=True) | WIDE,
  "densenet_bc40_k48": cifar(40, 48, bc=True) | WIDE,
  "densenet_bc40_k60": cifar(40, 60, bc=True) | WIDE,
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(DenseNet)
