"""Layers that the families share. Padding, momentum and epsilon are explicit everywhere."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError

ACTIVATIONS = {
  "relu": nn.relu,
  "leaky_relu": functools.partial(nn.leaky_relu, negative_slope=0.01),
  "sigmoid": nn.sigmoid,
  "tanh": nn.tanh,
  "gelu": functools.partial(nn.gelu, approximate=False),  # exact (erf), as in torch and the paper
}

# arXiv:1502.01852 section 2.2, backward case: normal of variance 2 / (kernel area * features), not
# truncated. As in torchvision and fb.resnet.torch.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform in +-1 / sqrt(fan_in), what torch.nn.Linear draws.
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def convolve(
  x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, *, train: bool, **options
) -> jax.Array:
  """`jax.lax.conv_general_dilated` of `[batch, height, width, channels]`, quicker on CPU.

  Values are the same. What it does there, on two cores:
  - XLA fuses what stands before a convolution into the transposes that its weight gradient needs,
    and computes it again for each; a barrier keeps them apart: training step of a ResNet-20, batch
    64, 372 to 327 ms on jax 0.12, and no change on 0.10.
  - A kernel that is larger than the image takes a slow path; as a product of shifted copies, 3x3
    with 64 features on 2x2 pixels, batch 64, forward and backward: 22.6 to 1.6 ms on jax 0.10, 14.9
    to 1.8 on 0.12. Larger images are quicker as convolutions.
  """
  on_cpu = jax.default_backend() == "cpu"
  if on_cpu and train:
    x = jax.lax.optimization_barrier(x)
  smaller = any(n < k for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True))
  if on_cpu and smaller and x.shape[-1] == kernel.shape[2]:  # the latter: one group
    return _convolve_by_product(x, kernel, strides, padding)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _convolve_by_product(
  x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any
) -> jax.Array:
  height, width, _, features = kernel.shape
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], (height, width), strides, padding)
  copies = _shifted(jnp.pad(x, ((0, 0), *padding, (0, 0))), (height, width), strides)
  return jnp.concatenate(copies, axis=-1) @ kernel.reshape(-1, features)


def _shifted(x: jax.Array, window: Sequence[int], strides: Sequence[int]) -> list[jax.Array]:
  """For each place in a window, the pixels that stand there, over all windows."""
  rows, columns = ((n - w) // s + 1 for n, w, s in zip(x.shape[1:3], window, strides, strict=True))
  if rows < 1 or columns < 1:  # no window fits
    return [x[:, :0, :0]] * (window[0] * window[1])
  return [
    x[:, i : i + (rows - 1) * strides[0] + 1 : strides[0],
      j : j + (columns - 1) * strides[1] + 1 : strides[1]]
    for i in range(window[0]) for j in range(window[1])
  ]  # fmt: skip


def conv(
  features: int,
  kernel_size: int | tuple[int, int],
  *,
  padding: int | str | Sequence[tuple[int, int]],
  dtype: Any,
  train: bool,
  strides: int = 1,
  groups: int = 1,
  use_bias: bool = False,
  kernel_init: nn.initializers.Initializer = he_normal_fan_out,
  name: str | None = None,
) -> nn.Module:
  """A 2-D convolution. `padding`: an int for each side as in torch, "SAME", "VALID", or pairs."""
  kernel_size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
  return nn.Conv(
    features=features,
    kernel_size=kernel_size,
    strides=(strides, strides),
    padding=padding,
    feature_group_count=groups,
    use_bias=use_bias,
    kernel_init=kernel_init,
    dtype=dtype,
    param_dtype=jnp.float32,
    conv_general_dilated=functools.partial(convolve, train=train),
    name=name,
  )


def batch_norm(
  *,
  dtype: Any,
  train: bool,
  momentum: float = 0.9,
  epsilon: float = 1e-5,
  scale_init: nn.initializers.Initializer = nn.initializers.ones,
  name: str | None = None,
) -> nn.Module:
  """Batch normalisation (arXiv:1502.03167), statistics in float32.

  `momentum` is the weight of the old running average, so 0.9 here is momentum=0.1 in torch. The
  running variance is the biased one; torch keeps the unbiased one, n / (n - 1) times as large.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=momentum,
    epsilon=epsilon,
    dtype=dtype,
    param_dtype=jnp.float32,
    scale_init=scale_init,
    name=name,
  )


def dense(
  features: int,
  *,
  dtype: Any,
  kernel_init: nn.initializers.Initializer = torch_linear,
  name: str | None = None,
) -> nn.Module:
  """A fully connected layer with bias. Kernel as torch.nn.Linear draws it; bias zero."""
  return nn.Dense(
    features=features,
    kernel_init=kernel_init,
    bias_init=nn.initializers.zeros,
    dtype=dtype,
    param_dtype=jnp.float32,
    name=name,
  )


def head(num_classes: int) -> nn.Module:
  """The last layer, named `head`. It computes in float32, so the logits are float32."""
  return dense(num_classes, dtype=jnp.float32, name="head")


def max_pool(x: jax.Array, window: int, *, strides: int, padding: int) -> jax.Array:
  """Max pooling over square windows; the padding is -inf.

  On CPU a maximum of shifted copies: 2x2 on 24x24 with 64 features, batch 64, forward and backward,
  62 to 2.1 ms (jax 0.10). Values are the same; pixels that tie then share the gradient, of which
  the first takes all on GPU and TPU, as in torch.
  """
  pads = ((padding, padding), (padding, padding))
  if jax.default_backend() == "cpu":
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    return functools.reduce(jnp.maximum, _shifted(x, (window, window), (strides, strides)))
  return nn.max_pool(x, window_shape=(window, window), strides=(strides, strides), padding=pads)


def avg_pool(x: jax.Array, window: int, *, strides: int, padding: int) -> jax.Array:
  """Average pooling over square windows; padded pixels count as zeros, as in torch."""
  return nn.avg_pool(
    x,
    window_shape=(window, window),
    strides=(strides, strides),
    padding=((padding, padding), (padding, padding)),
    count_include_pad=True,
  )


def global_avg_pool(x: jax.Array) -> jax.Array:
  """[batch, height, width, channels] to [batch, channels], float32."""
  return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def flatten(x: jax.Array) -> jax.Array:
  """[batch, ...] to [batch, features]. UserError when the layers before left no pixel."""
  if x.size == 0:
    raise UserError("the input is too small for this model: the layers before leave no pixel of it")
  return x.reshape(x.shape[0], -1)


def dropout(x: jax.Array, rate: float, *, train: bool) -> jax.Array:
  """Dropout with inverse scaling, rng collection "dropout". Call it inside a compact method."""
  return nn.Dropout(rate=rate, deterministic=not train)(x)


def drop_path(x: jax.Array, rate: float, *, train: bool) -> jax.Array:
  """Stochastic depth (arXiv:1603.09382): drops the whole of x for each example with chance `rate`.

  What survives is scaled by 1 / (1 - rate), so that evaluation is the identity (the paper scales at
  test time instead). Rng collection "dropout". Call it on a residual branch, in a compact method.
  """
  every_axis_but_batch = tuple(range(1, x.ndim))
  return nn.Dropout(rate=rate, broadcast_dims=every_axis_but_batch, deterministic=not train)(x)


def option_a_shortcut(x: jax.Array, features: int, *, strides: int) -> jax.Array:
  """Parameter-free shortcut (arXiv:1512.03385 section 3.3, option A).

  Every `strides`-th pixel, and zeros for the channels that are missing: half of them in front, half
  behind. Where the zeros go only renames channels; this order is that of
  github.com/akamaster/pytorch_resnet_cifar10, whose published weights then fit.
  """
  missing = features - x.shape[-1]
  if missing < 0:
    raise UserError(f"an option A shortcut cannot take {x.shape[-1]} channels to {features}; use B")
  front = missing // 2
  x = x[:, ::strides, ::strides, :]
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (front, missing - front)))
