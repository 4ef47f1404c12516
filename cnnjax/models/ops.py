"""Convolutions and pools as functions of arrays, in the form that the platform runs fastest.

Values and gradients equal those of XLA's own operations up to rounding. `without` switches choices
of the rewriting off; experiments/benchmarks/train_step/README.md has the figures of each choice.
"""

import contextlib
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax.errors import unknown

# The rewritings and compiler options on CPU; `without` switches some of them off.
CHOICES = (
  "barrier", "dot", "depthwise", "grouped", "product", "pool", "order", "library", "vectors",
)  # fmt: skip
_left_out: frozenset[str] = frozenset()


@contextlib.contextmanager
def without(*choices: str) -> Iterator[None]:
  """Switches these CHOICES off in programs traced inside: XLA then decides.

  Raises:
    UserError: there is no such choice.
  """
  global _left_out
  for choice in choices:
    if choice not in CHOICES:
      raise unknown("choice", choice, CHOICES)
  before, _left_out = _left_out, _left_out | frozenset(choices)
  try:
    yield
  finally:
    _left_out = before


def plain() -> contextlib.AbstractContextManager[None]:
  """Uses XLA's own operations, on every platform, in programs traced inside."""
  return without(*CHOICES)


def _rewrites(choice: str) -> bool:
  return choice not in _left_out and jax.default_backend() == "cpu"


def compiler_options(model: nn.Module, params: Any) -> dict[str, Any]:
  """Returns the compiler options of a program that trains `model`; `params` may be shapes.

  - order: runs operations in an order that needs little memory. Only for networks with depthwise
    convolutions, whose shifted products are then kept a few at a time; others get slower. Not for
    models that recompute, or whose backbone does: XLA would recompute early, which saves nothing.
  - library: computes sums and matrix products with YNNPACK.
  - vectors: uses the full vector width of the processor; by default LLVM uses half of AVX-512.
  """
  options: dict[str, Any] = {}
  kernels = [p.shape for p in jax.tree.leaves(params) if p.ndim == 4]
  depthwise = [k for k in kernels if k[0] * k[1] > 1 and k[2] == 1 < k[3]]
  # A single such kernel is more likely the stem of a network for grey images.
  if len(depthwise) > 1 and _rewrites("order") and not _recomputes(model):
    options["xla_cpu_scheduler_type"] = "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
  if _rewrites("library"):
    kinds = "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    options["xla_cpu_experimental_ynn_fusion_type"] = kinds
  if _rewrites("vectors"):
    options["xla_cpu_prefer_vector_width"] = 512
  return options


def _recomputes(model: nn.Module) -> bool:
  """Returns whether a model, or a module inside it, has a true `remat` or `memory_efficient`.

  It looks at modules in fields and at those made in `setup`, without running the model. Modules
  made in `__call__` are not found.
  """
  found = []

  def look(module: nn.Module) -> None:
    # Asking for an attribute that a module lacks makes Flax run its setup.
    found.extend(bool(getattr(module, name, False)) for name in ("remat", "memory_efficient"))
    fields = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    for value in jax.tree.leaves(fields, is_leaf=lambda value: isinstance(value, nn.Module)):
      if isinstance(value, nn.Module):
        look(value)

  jax.eval_shape(lambda: model.init(jax.random.key(0), method=look))
  return any(found)


def convolve(
  x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, *, train: bool, **options
) -> jax.Array:
  """Computes `jax.lax.conv_general_dilated` of `[batch, height, width, channels]`, faster on CPU.

  Values are the same. On CPU the shapes decide which form is used:
  - barrier: in training, for all of them. XLA fuses the operations before a convolution into the
    transposes of its weight gradient, and computes them once more for each; a barrier prevents it.
  - dot: a 1x1 convolution is a matrix product.
  - depthwise: a depthwise convolution is a sum of shifted products; XLA computes its own gradient
    with the FLOPs of a dense one.
  - grouped: a grouped convolution is one matrix product per group.
  - product: a convolution whose kernel is larger than the image is a product of shifted copies,
    because XLA's own path is slow. On larger images XLA's convolution is faster.
  """
  if train and _rewrites("barrier"):
    x = jax.lax.optimization_barrier(x)
  window, groups = kernel.shape[:2], x.shape[-1] // kernel.shape[2]
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
  if window == (1, 1) and groups == 1 and not np.any(padding) and _rewrites("dot"):
    return product(x[:, :: strides[0], :: strides[1]], kernel[0, 0])
  if groups == x.shape[-1] == kernel.shape[-1] and groups > 1 and _rewrites("depthwise"):
    return _depthwise(x, kernel, strides, padding)
  if groups > 1 and _rewrites("grouped"):
    return _grouped(x, kernel, strides, padding)
  smaller = any(n < k for n, k in zip(x.shape[1:3], window, strict=True))
  if smaller and groups == 1 and _rewrites("product"):
    return _by_product(x, kernel, strides, padding)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _copies(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> list:
  """Returns the pixels that each weight of the kernel meets, [batch, height, width, channels]."""
  return _shifted(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel.shape[:2], strides)


def _depthwise(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> jax.Array:
  weights = kernel.reshape(-1, kernel.shape[-1])
  products = (w * c for w, c in zip(weights, _copies(x, kernel, strides, padding), strict=True))
  return functools.reduce(jnp.add, products)


def _grouped(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> jax.Array:
  inputs, features = kernel.shape[2:]
  groups = x.shape[-1] // inputs
  copies = _copies(x, kernel, strides, padding)
  seen = jnp.concatenate([c.reshape(-1, groups, inputs) for c in copies], axis=-1)
  seen = jax.lax.optimization_barrier(seen.transpose(1, 0, 2))  # [groups, pixels, weights]
  weights = kernel.reshape(-1, groups, features // groups).transpose(1, 0, 2)
  return jnp.matmul(seen, weights).transpose(1, 0, 2).reshape(*copies[0].shape[:3], features)


def _by_product(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> jax.Array:
  copies = _copies(x, kernel, strides, padding)
  return product(jnp.concatenate(copies, axis=-1), kernel.reshape(-1, kernel.shape[-1]))


def product(x: jax.Array, weights: jax.Array) -> jax.Array:
  """Returns x @ weights, computed as a product of matrices.

  Otherwise XLA transposes all of x in memory for the gradient of the weights; the figures are in
  experiments/benchmarks/train_step/README.md.
  """
  *pixels, inputs = x.shape
  return (x.reshape(math.prod(pixels), inputs) @ weights).reshape(*pixels, weights.shape[-1])


def _shifted(x: jax.Array, window: Sequence[int], strides: Sequence[int]) -> list[jax.Array]:
  """Returns, for each place in a window, the pixels there in all windows."""
  rows, columns = ((n - w) // s + 1 for n, w, s in zip(x.shape[1:3], window, strides, strict=True))
  if rows < 1 or columns < 1:  # no window fits
    return [x[:, :0, :0]] * (window[0] * window[1])
  return [
    x[:, i : i + (rows - 1) * strides[0] + 1 : strides[0],
      j : j + (columns - 1) * strides[1] + 1 : strides[1]]
    for i in range(window[0]) for j in range(window[1])
  ]  # fmt: skip


def max_pool(
  x: jax.Array, window: int, *, strides: int, padding: int | str = 0, ceil: bool = False
) -> jax.Array:
  """Computes max pooling over square windows, padded with -inf.

  Of equal pixels the first gets the gradient. On each axis of [batch, height, width, channels] n
  pixels become (n + 2 * padding - window) // strides + 1; "VALID" is padding 0, and "SAME" gives
  n / strides, rounded up. `ceil` adds a last window over the edge, as ceil_mode in torch.
  """
  pads = _pool_pads(x.shape[1:3], window, strides, padding, ceil)
  if _rewrites("pool"):
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    return _over_windows(_maximum, padded, window, strides)
  return nn.max_pool(x, window_shape=(window, window), strides=(strides, strides), padding=pads)


def avg_pool(
  x: jax.Array,
  window: int,
  *,
  strides: int,
  padding: int | str = 0,
  ceil: bool = False,
  count_padding: bool = True,
) -> jax.Array:
  """Computes average pooling over square windows.

  Sizes are as in `max_pool`. `count_padding` counts padded pixels as zeros, as torch does by
  default; without it the mean is over the pixels inside the image, as in TensorFlow. `ceil` is as
  in `max_pool`, and needs `count_padding` false.
  """
  pads = _pool_pads(x.shape[1:3], window, strides, padding, ceil)
  if _rewrites("pool"):
    total = lambda a: _over_windows(
      operator.add, jnp.pad(a, ((0, 0), *pads, (0, 0))), window, strides
    )
    there = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return total(x) / (window**2 if count_padding else total(there))
  pooled = nn.avg_pool(
    x,
    window_shape=(window, window),
    strides=(strides, strides),
    padding=pads,
    count_include_pad=count_padding,
  )
  return pooled.astype(x.dtype)  # linen returns float32 where it divides by counts


def _over_windows(combine: Callable, x: jax.Array, window: int, strides: int) -> jax.Array:
  """Combines shifted copies along rows, then columns: 2 n copies for a window of n * n pixels."""
  for size, step in (((1, window), (1, strides)), ((window, 1), (strides, 1))):
    x = functools.reduce(combine, _shifted(x, size, step))
  return x


@jax.custom_jvp
def _maximum(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the maximum; in a tie `a` gets the whole gradient.

  JAX's own rule compares both with the maximum. XLA may compute a pixel twice with different
  rounding, and then neither equals it: the gradient is lost, as in the stem of Inception-v3 on jax
  0.10.
  """
  return jnp.maximum(a, b)


@_maximum.defjvp
def _maximum_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
  (a, b), (da, db) = primals, tangents
  return jnp.maximum(a, b), jnp.where(b > a, db, da)


def _pool_pads(
  size: Sequence[int], window: int, strides: int, padding: int | str, ceil: bool
) -> tuple[tuple[int, int], ...]:
  if isinstance(padding, str):
    return tuple(jax.lax.padtype_to_pads(size, (window, window), (strides, strides), padding))
  pads = []
  for n in size:
    over = (n + 2 * padding - window) % strides
    # As in torch, a window that would start in the right padding is left out.
    starts = n + padding > (n + 2 * padding - window) - over + strides
    pads.append((padding, padding + (strides - over if ceil and over and starts else 0)))
  return tuple(pads)
