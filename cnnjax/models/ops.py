"""Convolutions and pools as functions of arrays, written as the platform runs them fastest.

Values and gradients are those of XLA's own operations, to rounding; `without` switches
some of the rewriting off, and experiments/benchmarks/train_step shows each choice with and without.
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

# What is rewritten, and asked of the compiler, on CPU; `without` leaves some of it out.
CHOICES = (
  "barrier", "dot", "depthwise", "grouped", "product", "pool", "order", "library", "vectors",
)  # fmt: skip
_left_out: frozenset[str] = frozenset()


@contextlib.contextmanager
def without(*choices: str) -> Iterator[None]:
  """While it lasts, what is traced leaves these CHOICES to XLA.

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
  """While it lasts, what is traced uses XLA's own operations on every platform."""
  return without(*CHOICES)


def _rewrites(choice: str) -> bool:
  return choice not in _left_out and jax.default_backend() == "cpu"


def compiler_options(model: nn.Module, params: Any) -> dict[str, Any]:
  """What `jax.jit` is to tell XLA about a program that trains `model`, with `params` of any shapes.

  - order: operations run in an order that needs little memory. Only for depthwise convolutions,
    whose shifted products it keeps few of at a time. MobileNet-v2, batch 16, 96x96: 248 to 197 ms
    on jax 0.12, temporary memory 445 to 169 MB; ResNet-20, batch 128: 344 to 358 ms. And not for a
    model that recomputes, itself or a backbone inside it: in that order XLA does so early, and
    nothing is saved (DenseNet-BC of 40 layers, batch 64: 275 MB without it, 632 with, 793 if not
    memory-efficient).
  - library: sums and matrix products by YNNPACK. ResNet-20, batch 128: 427 to 353 ms.
  - vectors: as wide as the processor has them; LLVM takes half of AVX-512 by itself. ResNet-20,
    batch 128: 0.99 of the time, DenseNet-121 0.99.
  """
  options: dict[str, Any] = {}
  kernels = [p.shape for p in jax.tree.leaves(params) if p.ndim == 4]
  depthwise = [k for k in kernels if k[0] * k[1] > 1 and k[2] == 1 < k[3]]
  # One kernel alone is more likely the stem of a network for grey images.
  if len(depthwise) > 1 and _rewrites("order") and not _recomputes(model):
    options["xla_cpu_scheduler_type"] = "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
  if _rewrites("library"):
    kinds = "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    options["xla_cpu_experimental_ynn_fusion_type"] = kinds
  if _rewrites("vectors"):
    options["xla_cpu_prefer_vector_width"] = 512
  return options


def _recomputes(model: nn.Module) -> bool:
  """Whether a model has a true `remat` or `memory_efficient`, or a module inside it has.

  Looks at the modules that it is given as fields and those that it makes in `setup`, without
  running it; those that it makes on the way, in `__call__`, are not seen.
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
  """`jax.lax.conv_general_dilated` of `[batch, height, width, channels]`, quicker on CPU.

  Values are the same. What it does there, by the shapes:
  - barrier: XLA fuses what stands before a convolution into the transposes that its weight gradient
    needs, and computes it again for each; a barrier keeps them apart. Training step of a ResNet-20,
    batch 64: 372 to 327 ms on jax 0.12, no change on 0.10.
  - dot: a 1x1 convolution is a matrix product. ResNet-50, batch 16, 96x96: 879 to 610 ms on 0.12.
  - depthwise: a sum of shifted products; XLA expands its own gradient to dense FLOPs.
    MobileNet-v2, batch 16, 96x96, with the dot: 915 to 239 ms.
  - grouped: a product for each group. ResNeXt-50: 21 to under 5 s.
  - product: a kernel that is larger than the image, which takes a slow path otherwise, as a product
    of shifted copies. 3x3 with 64 features on 2x2 pixels, batch 64, forward and backward: 22.6 to
    1.6 ms on 0.10, 14.9 to 1.8 on 0.12. Larger images are quicker as convolutions.
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
  """What each weight of the kernel sees, [batch, height, width, channels] each."""
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
  """x @ weights, as matrices: else XLA transposes all of x in memory for the weights' gradient.

  ResNet-50, batch 16, 96x96: 0.80 of the time of a step; DenseNet-121 0.86 (jax 0.12).
  """
  *pixels, inputs = x.shape
  return (x.reshape(math.prod(pixels), inputs) @ weights).reshape(*pixels, weights.shape[-1])


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


def max_pool(
  x: jax.Array, window: int, *, strides: int, padding: int | str = 0, ceil: bool = False
) -> jax.Array:
  """Max pooling over square windows; the padding is -inf. Of pixels that tie the first counts.

  [batch, height, width, channels] to the same with (n + 2 * padding - window) // strides + 1 pixels
  for n, on each axis; "VALID" is padding 0, and "SAME" gives n / strides, rounded up.
  `ceil`: a last window that hangs over the edge counts as well, as ceil_mode in torch.
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
  """Average pooling over square windows.

  [batch, height, width, channels] to the sizes of `max_pool`.
  `count_padding`: padded pixels count as zeros, as in torch by default; else the mean is that of
  the pixels that are there, as in TensorFlow. `ceil` as in `max_pool`, with `count_padding` false.
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
  return pooled.astype(x.dtype)  # which linen leaves for float32 where it divides by counts


def _over_windows(combine: Callable, x: jax.Array, window: int, strides: int) -> jax.Array:
  """Along rows, then columns, shifted copies are combined: 2 n of them, where a window has n * n.

  On CPU, batch 16, forward and backward, jax 0.12: max 3x3 on 48x48 with 64 features 44 to 3 ms,
  average 3x3 on 12x12 with 256 features 5.3 to 1.9 ms.
  """
  for size, step in (((1, window), (1, strides)), ((window, 1), (strides, 1))):
    x = functools.reduce(combine, _shifted(x, size, step))
  return x


@jax.custom_jvp
def _maximum(a: jax.Array, b: jax.Array) -> jax.Array:
  """Of a tie, `a` takes the whole gradient.

  JAX's own rule asks which of the two equals the maximum. XLA may compute a pixel twice, rounded in
  two ways, and then neither does: Inception-v3 on jax 0.10 lost a sixth of its stem's gradient so.
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
    # As in torch, a window that would start in the padding on the right is left out.
    starts = n + padding > (n + 2 * padding - window) - over + strides
    pads.append((padding, padding + (strides - over if ceil and over and starts else 0)))
  return tuple(pads)
