"""Layers that the families share; padding, momentum and epsilon are always explicit."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import ops
from cnnjax.models.ops import avg_pool as avg_pool
from cnnjax.models.ops import max_pool as max_pool

ACTIVATIONS = {
  "relu": nn.relu,
  "relu6": nn.relu6,
  "silu": nn.silu,  # swish
  "hard_swish": nn.hard_swish,
  "leaky_relu": functools.partial(nn.leaky_relu, negative_slope=0.01),
  "sigmoid": nn.sigmoid,
  "tanh": nn.tanh,
  "gelu": functools.partial(nn.gelu, approximate=False),  # exact (erf), as in torch and the paper
}

Activation = Literal[tuple(ACTIVATIONS)]
Norm = Literal["batch", "group", "layer"]  # what `norm` takes
Pool = Literal["avg", "max", "avg+max", "gem"]  # what `global_pool` takes
Drop = float | jax.Array | None  # a rate of `drop_path`; an array in a scan; None is 0
DropPathMode = Literal["linear", "constant"]  # over depth: what `drop_path_mode` takes
DropoutKind = Literal["element", "channel"]  # what `dropout_kind` takes
Padding = int | str | Sequence[tuple[int, int]]  # each side as in torch, "SAME", "VALID", or pairs

# arXiv:1502.01852 section 2.2, backward case: normal of variance 2 / (kernel area * features), not
# truncated. As in torchvision and fb.resnet.torch.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform in +-1 / sqrt(fan_in), as in torch.nn.Linear.
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def make_divisible(value: float, divisor: int = 8) -> int:
  """Rounds a width to the nearest multiple of `divisor`, at least `divisor`.

  Takes the next multiple if that is below 90 % of `value`: the rule of MobileNet
  (arXiv:1801.04381, the authors' code) and of networks that scale widths like it.
  """
  rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
  return rounded if rounded >= 0.9 * value else rounded + divisor


def check_images(x: jax.Array, *, smallest: int = 1) -> None:
  """Raises UserError unless x is float [batch, height, width, channels] of at least this size."""
  if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
    raise UserError(
      f"a model takes normalised float images [batch, height, width, channels], got {x.dtype} "
      f"[{', '.join(map(str, x.shape))}]"
    )
  if min(x.shape[1:3]) < smallest:
    raise UserError(
      f"the smallest image that this model takes is {smallest}x{smallest}, got "
      f"{x.shape[1]}x{x.shape[2]}; enlarge the images (--config.data.image_size={smallest})"
    )


def _check_inputs(
  layer: nn.Module, x: jax.Array, what: str, *, groups: int = 1, hint: str = ""
) -> None:
  """Raises UserError unless the last axis of x fits the layer's kernel, if it has one yet."""
  if layer.has_variable("params", "kernel"):
    taken = layer.get_variable("params", "kernel").shape[-2] * groups
    if x.shape[-1] != taken:
      path = "/".join(layer.path)
      raise UserError(f"{path} was made for {taken} {what}, its input has {x.shape[-1]}{hint}")


class Conv(nn.Conv):
  """nn.Conv with a clear error where the channels of its input do not fit its kernel."""

  def __call__(self, x: jax.Array) -> jax.Array:
    _check_inputs(self, x, "channels", groups=self.feature_group_count)
    return super().__call__(x)


def identity(x: jax.Array) -> jax.Array:
  """Returns x."""
  return x


def conv(
  features: int,
  kernel_size: int | tuple[int, int],
  *,
  padding: Padding,
  dtype: Any,
  train: bool,
  strides: int = 1,
  groups: int = 1,
  use_bias: bool = False,
  kernel_init: nn.initializers.Initializer = he_normal_fan_out,
  bias_init: nn.initializers.Initializer = nn.initializers.zeros,
  transform: Callable[[jax.Array], jax.Array] = identity,
  name: str | None = None,
) -> nn.Module:
  """Returns a 2-D convolution.

  `padding` is an int for each side as in torch, "SAME" as in TensorFlow, "VALID", or pairs.
  `transform` is applied to the kernel before use, such as `standardized`.
  """
  kernel_size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size

  def convolve(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
    return ops.convolve(x, transform(kernel), *args, train=train, **options)

  return Conv(
    features=features,
    kernel_size=kernel_size,
    strides=(strides, strides),
    padding=padding,
    feature_group_count=groups,
    use_bias=use_bias,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dtype=dtype,
    param_dtype=jnp.float32,
    conv_general_dilated=convolve,
    name=name,
  )


def batch_norm(
  *,
  dtype: Any,
  train: bool,
  momentum: float = 0.9,
  epsilon: float = 1e-5,
  use_scale: bool = True,
  scale_init: nn.initializers.Initializer = nn.initializers.ones,
  name: str | None = None,
) -> nn.Module:
  """Returns batch normalisation (arXiv:1502.03167) with statistics in float32.

  `momentum` is the weight of the old running average, so 0.9 here is momentum=0.1 in torch. The
  running variance is biased; torch keeps the unbiased variance, n / (n - 1) times as large.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=momentum,
    epsilon=epsilon,
    dtype=dtype,
    param_dtype=jnp.float32,
    use_scale=use_scale,
    scale_init=scale_init,
    name=name,
  )


def norm(
  kind: Norm = "batch",
  *,
  dtype: Any,
  train: bool,
  momentum: float = 0.9,
  epsilon: float = 1e-5,
  use_scale: bool = True,
  scale_init: nn.initializers.Initializer = nn.initializers.ones,
  name: str | None = None,
) -> Callable[[jax.Array], jax.Array]:
  """Returns a normalisation with a bias and (`use_scale`) a scale per channel, in float32.

  "batch": see `batch_norm`. "group": arXiv:1803.08494, 32 groups, or the largest divisor of 32 that
  divides the channels. "layer": over the channels of each pixel, as in ConvNeXt (arXiv:2201.03545).
  """
  options = dict(
    epsilon=epsilon, dtype=dtype, use_scale=use_scale, scale_init=scale_init, name=name
  )
  if kind == "batch":
    return batch_norm(momentum=momentum, train=train, **options)
  if kind == "layer":
    return nn.LayerNorm(param_dtype=jnp.float32, **options)
  return lambda x: nn.GroupNorm(
    num_groups=math.gcd(32, x.shape[-1]), param_dtype=jnp.float32, **options
  )(x)


def no_norm(**_: Any) -> Callable[[jax.Array], jax.Array]:
  """Returns the identity, for networks without normalisation."""
  return identity


def local_response_norm(
  x: jax.Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> jax.Array:
  """Returns x / (k + alpha * s)^beta, s the sum of the squares of `size` neighbouring channels.

  Formula and constants of Krizhevsky et al. 2012, section 3.3. Caffe and torch take the mean
  instead of the sum, so their alpha is `size` times ours.
  x is [batch, height, width, channels] and keeps its shape.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  squares = jnp.pad(wide**2, ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),))
  total = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
  return (wide / (k + alpha * total) ** beta).astype(x.dtype)


class ConvNormAct(nn.Module):
  """Convolution, normalisation, activation: the unit of most of these networks.

  `conv` and `norm` are partials of the functions above with the settings of the whole network:
  dtype, initialiser, kind, momentum, epsilon.

  [batch, height, width, any] to [batch, height / strides, width / strides, features], rounded up,
  if the kernel is odd and `padding` None; `width` scales the features.
  """

  features: int
  kernel_size: int | tuple[int, int]
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]
  strides: int = 1
  groups: int = 1
  padding: Padding | None = None  # None: (kernel_size - 1) // 2 on each side
  act: str | None = "relu"  # of ACTIVATIONS
  width: float = 1.0  # times the features: rounded, and at least 8

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    padding = half(self.kernel_size) if self.padding is None else self.padding
    features = self.features
    if self.width != 1:
      features = max(8, round(self.width * features))
    x = self.conv(
      features, self.kernel_size, strides=self.strides, groups=self.groups,
      padding=padding, train=train, name="conv",
    )(x)  # fmt: skip
    x = self.norm(train=train, name="norm")(x)
    return ACTIVATIONS[self.act](x) if self.act else x


def half(kernel_size: int | tuple[int, int]) -> list[tuple[int, int]]:
  """Returns the padding that keeps the size at stride 1: (k - 1) // 2 on each side, k odd."""
  sizes = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
  return [((k - 1) // 2, (k - 1) // 2) for k in sizes]


class Dense(nn.Dense):
  """nn.Dense with a clear error where its input does not fit its kernel."""

  def __call__(self, x: jax.Array) -> jax.Array:
    hint = ": are the images of another size, or have they other channels?"
    _check_inputs(self, x, "features", hint=hint)
    return super().__call__(x)


def dense(
  features: int,
  *,
  dtype: Any,
  kernel_init: nn.initializers.Initializer = torch_linear,
  bias_init: nn.initializers.Initializer = nn.initializers.zeros,
  name: str | None = None,
) -> nn.Module:
  """Returns a dense layer with a bias; by default its kernel is drawn as in torch.nn.Linear."""
  return Dense(
    features=features,
    dot_general=lambda x, kernel, *_, **__: ops.product(x, kernel),
    kernel_init=kernel_init,
    bias_init=bias_init,
    dtype=dtype,
    param_dtype=jnp.float32,
    name=name,
  )


def head(
  num_classes: int, *, kernel_init: nn.initializers.Initializer = torch_linear
) -> Callable[[jax.Array], jax.Array]:
  """Returns the last layer, named `head`, in float32; with 0 classes it only casts its input."""
  if num_classes == 0:
    return lambda x: x.astype(jnp.float32)
  return dense(num_classes, dtype=jnp.float32, kernel_init=kernel_init, name="head")


def head_init(
  published: nn.initializers.Initializer, num_classes: int
) -> nn.initializers.Initializer:
  """Returns the paper's initialiser of the last layer for 1000 classes or more, as in ImageNet.

  With fewer classes it returns `torch_linear`: published initialisers with large values, or with
  values that grow as the classes get fewer, start far above the loss of guessing.
  """
  return published if num_classes >= 1000 else torch_linear


def global_pool(x: jax.Array, kind: Pool = "avg") -> jax.Array:
  """Pools [batch, height, width, channels] to [batch, channels] float32, in a compact method.

  "avg+max" is the mean of both, called "avgmax" in timm. "gem" (arXiv:1711.02512) is the mean of
  p-th powers to the power 1 / p, with one trainable p (`gem/p`) that starts at 3; values below 1e-6
  count as 1e-6.
  """
  x = x.astype(jnp.float32)
  if kind == "avg":
    return jnp.mean(x, axis=(1, 2))
  if kind == "max":
    return jnp.max(x, axis=(1, 2))
  if kind == "avg+max":
    return (jnp.mean(x, axis=(1, 2)) + jnp.max(x, axis=(1, 2))) / 2
  return GeM(name="gem")(x)


class GeM(nn.Module):
  """See `global_pool`."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    p = self.param("p", nn.initializers.constant(3.0), (1,), jnp.float32)
    return jnp.mean(jnp.maximum(x, 1e-6) ** p, axis=(1, 2)) ** (1 / p)


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
  """Pools averages to size x size pixels from any size, as AdaptiveAvgPool2d in torch.

  Window i is the pixels from floor(i n / size) to ceil((i + 1) n / size): windows overlap where n
  is not a multiple, and repeat pixels where there are fewer than `size`.
  [batch, height, width, channels] to [batch, size, size, channels].
  """
  for axis in (1, 2):
    n = x.shape[axis]
    if n != size:
      windows = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
      x = jnp.stack(
        [jax.lax.slice_in_dim(x, *window, axis=axis).mean(axis) for window in windows], axis
      )
  return x


@flax.struct.dataclass
class Feature:
  """The output of a stage: a map [batch, height, width, channels], and its stride in pixels."""

  x: jax.Array
  stride: int = flax.struct.field(pytree_node=False)


def feature(module: nn.Module, name: str, x: jax.Array, *, stride: int) -> jax.Array:
  """Marks x as the output of a stage, for `models.features`; returns x.

  Costs nothing unless the map is read. If there is a perturbation of the same name, adds it to x,
  for gradients with respect to the stage (Grad-CAM).
  """
  if module.has_variable("perturbations", name):
    x = x + module.get_variable("perturbations", name).astype(x.dtype)
  _keep(module, "features", name, Feature(x, stride))
  return x


def stages_of(depth: int) -> dict[int, str]:
  """Returns the names of stages by their last block, from 1; a stage is a quarter of the depth.

  For 12 blocks it is {3: "stage1", 6: "stage2", 9: "stage3", 12: "stage4"}. With fewer than 4
  blocks each is a stage.
  """
  stages = min(4, depth)
  return {depth * stage // stages: f"stage{stage}" for stage in range(1, stages + 1)}


def auxiliary(module: nn.Module, name: str, logits: jax.Array) -> None:
  """Passes the logits of an auxiliary head to the training step, which adds their loss."""
  _keep(module, "aux_logits", name, logits)


def _keep(module: nn.Module, collection: str, name: str, value: Any) -> None:
  # Not in initialisation, where `init` would return it with the variables. Not by `sow`, which
  # refuses the name of a submodule.
  if module.is_mutable_collection(collection) and not module.is_initializing():
    module.put_variable(collection, name, value)


def run_block(block: nn.Module, x: jax.Array, *, remat: bool, **options: Any) -> jax.Array:
  """Runs block(x, **options); with `remat` the backward pass recomputes its activations.

  That is jax.checkpoint (arXiv:1604.06174): the same outputs and gradients in less memory and more
  time. On CPU before jax 0.12 XLA merges the two computations again, which saves nothing.
  """
  if not remat:
    return block(x, **options)
  return nn.remat(lambda block, x: block(x, **options))(block, x)


def scan_blocks(
  block: nn.Module, x: jax.Array, *, train: bool, remat: bool, drop_path: Sequence[float]
) -> jax.Array:
  """Runs equal blocks, one per rate of `drop_path`, in a loop over stacked parameters.

  Compile time does not grow with the number of blocks. On CPU convolutions in a loop are slow.
  """

  def step(block: nn.Module, x: jax.Array, rate: jax.Array) -> tuple[jax.Array, None]:
    return run_block(block, x, train=train, remat=remat, drop_path=rate), None

  loop = nn.scan(
    step,
    # The last three are collections of batch_stats.py and training/health.
    variable_axes=dict.fromkeys(("params", "batch_stats", "moments", "dead", "largest"), 0),
    split_rngs={"params": True, "dropout": True},
    length=len(drop_path),
  )
  rates = jnp.asarray(drop_path, jnp.float32) if any(drop_path) and train else None
  return loop(block, x, rates)[0]


def flatten(x: jax.Array) -> jax.Array:
  """Flattens [batch, ...] to [batch, features]; UserError if no pixel is left."""
  if x.size == 0:
    raise UserError("the input is too small for this model: the layers before leave no pixel")
  return x.reshape(x.shape[0], -1)


def dropout(x: jax.Array, rate: float, *, train: bool, kind: DropoutKind = "element") -> jax.Array:
  """Applies dropout with inverse scaling, rng collection "dropout", in a compact method.

  `kind` says whether single values or whole channels are dropped; see `spatial_dropout`.
  """
  axes = tuple(range(1, x.ndim - 1)) if kind == "channel" else ()
  return nn.Dropout(rate=rate, broadcast_dims=axes, deterministic=not train)(x)


def spatial_dropout(x: jax.Array, rate: float, *, train: bool) -> jax.Array:
  """Drops whole channels of each example (arXiv:1411.4280 section 3.2).

  Neighbouring pixels are alike, so dropping single ones has little effect. Kept channels are scaled
  by 1 / (1 - rate). x is [batch, height, width, channels] and keeps its shape.
  """
  return dropout(x, rate, train=train, kind="channel")


def drop_block(x: jax.Array, rate: float, block_size: int, *, train: bool) -> jax.Array:
  """Drops squares of block_size x block_size pixels: DropBlock (arXiv:1810.12890 algorithm 1).

  Each channel of each example draws its own squares, which works better than sharing them (section
  3). Squares lie wholly inside the map; in maps smaller than `block_size` they have the map's
  shorter side. `rate` is 1 - keep_prob, the share that is dropped if no squares overlap; as some
  do, a little less is dropped. Kept values are divided by the share that is kept in the whole
  batch. The paper lets `rate` grow linearly from 0 during training; a model does not know the step,
  so here it is constant. Rng collection "dropout"; call it in a compact method.
  x is [batch, height, width, channels] and keeps its shape.
  """
  return DropBlock(rate, block_size)(x, train=train)


class DropBlock(nn.Module):
  """See `drop_block`."""

  rate: float
  block_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if not train or self.rate == 0:
      return x
    batch, height, width, channels = x.shape
    size = min(self.block_size, height, width)
    rows, columns = height - size + 1, width - size + 1  # places for the first pixel of a square
    gamma = self.rate * height * width / (size**2 * rows * columns)
    first = jax.random.bernoulli(self.make_rng("dropout"), gamma, (batch, rows, columns, channels))
    # A pixel is dropped if a square begins at most size - 1 before it.
    dropped = max_pool(first.astype(jnp.float32), size, strides=1, padding=size - 1)
    kept = dropped == 0
    scale = x.size / jnp.maximum(1, jnp.count_nonzero(kept)).astype(jnp.float32)
    return jnp.where(kept, x * scale, 0).astype(x.dtype)


def drop_block_rates(rate: float, stages: int) -> list[float]:
  """Returns the rate of each stage: `rate` in the last, a quarter of it in the one before.

  The authors' code (github.com/tensorflow/tpu, models/official/resnet) has these rates in groups 3
  and 4 of a ResNet; the maps of group 3 have 4 times the pixels.
  """
  return [0.0] * (stages - 2) + [rate / 4, rate][-stages:]


def drop_path_rates(
  rate: float, depth: int, mode: DropPathMode, *, first: int = 1, divisor: int | None = None
) -> list[float]:
  """Returns the rates of stochastic depth of `depth` blocks (arXiv:1603.09382 section 3).

  "constant": all blocks have `rate`, which the paper calls uniform. "linear": block i, from 0, has
  rate * (first + i) / divisor: by default the first block has rate / depth, as in the paper
  (equation 4), and with `first` 0 it has 0. The last block has `rate`, unless `divisor` is set.
  """
  if mode == "constant":
    return [rate] * depth
  divisor = divisor or max(1, first + depth - 1)
  return [rate * (first + i) / divisor for i in range(depth)]


def drop_path(x: jax.Array, rate: Drop, *, train: bool) -> jax.Array:
  """Drops all of x for each example with probability `rate`: stochastic depth, arXiv:1603.09382.

  Kept examples are scaled by 1 / (1 - rate), so that evaluation is the identity (the paper scales
  at test time instead). Rng collection "dropout". Call it on a residual branch, in a compact
  method.
  x is [batch, ...], such as [batch, height, width, channels], and keeps its shape.
  """
  return DropPath()(x, rate, train=train)


class DropPath(nn.Module):
  """See `drop_path`. The rate may be an array, for blocks in a scan; None is 0."""

  @nn.compact
  def __call__(self, x: jax.Array, rate: Drop, *, train: bool) -> jax.Array:
    if not train or rate is None or (isinstance(rate, float) and rate == 0):
      return x
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def standardized(kernel: jax.Array, *, epsilon: float = 1e-8) -> jax.Array:
  """Standardises the weights of each output to mean 0 and variance 1 (arXiv:1903.10520)."""
  dtype, kernel = kernel.dtype, kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
  centred = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
  variance = jnp.mean(centred**2, axis=(0, 1, 2), keepdims=True)
  return (centred * jax.lax.rsqrt(variance + epsilon)).astype(dtype)


def option_a_shortcut(x: jax.Array, features: int, *, strides: int) -> jax.Array:
  """Returns the shortcut without parameters (arXiv:1512.03385 section 3.3, option A).

  Takes every `strides`-th pixel, and adds zeros for the missing channels, half in front and half
  behind. The place of the zeros only renames channels; this one fits the published weights of
  github.com/akamaster/pytorch_resnet_cifar10.

  [batch, height, width, channels] to [batch, height / strides, width / strides, features], rounded
  up.
  """
  missing = features - x.shape[-1]
  if missing < 0:
    raise UserError(f"an option A shortcut cannot take {x.shape[-1]} channels to {features}; use B")
  front = missing // 2
  x = x[:, ::strides, ::strides, :]
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (front, missing - front)))
