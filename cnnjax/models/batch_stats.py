"""Controls batch norm from outside the models: frozen, ghost batches, measured statistics.

No model knows of it: `treated` intercepts the calls of nn.BatchNorm in any model.
Moments are trees like the collection batch_stats whose leaves are {"mean", "mean_square"}, the
float32 means over a batch of each channel of a module's input and of its square, and "momentum".
For blocks in a scan all have a leading axis of blocks.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from cnnjax.errors import UserError

Tree = Mapping[str, Any]  # nested; variables of modules
Frozen = Callable[[str], bool]  # of the path of a module, such as "stage1_block1/norm1"


def treated(
  frozen: Frozen | None = None, ghost: int | None = None
) -> contextlib.AbstractContextManager:
  """Changes the nn.BatchNorm modules that `model.apply` calls in training inside this context.

  - `frozen(path)` true: as in evaluation, by the running statistics, which do not move.
  - `ghost`: normalises consecutive groups of so many examples by their own statistics
    (arXiv:1705.08741 section 4.1); the running ones move towards the mean over the groups, one step
    per batch (the paper's algorithm 1 takes one per group).
  - "moments" among the mutable collections: each module that is not frozen leaves the moments of
    its batch there, of the whole batch also with `ghost`. `scan_blocks` passes them on.

  All other modules, and all in initialisation and evaluation, run unchanged. The context acts while
  a program is traced: enter it inside the function that is jitted.

  Raises:
    UserError: `ghost` does not divide the batch.
  """

  def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> jax.Array:
    module = context.module
    if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__":
      return call(*args, **kwargs)
    if module.is_initializing() or _evaluates(module, *args, **kwargs):
      return call(*args, **kwargs)
    x = args[0] if args else kwargs["x"]
    if frozen is not None and frozen("/".join(module.path)):
      mean, var = (module.get_variable("batch_stats", name) for name in ("mean", "var"))
      return _normalized(module, x, mean, var)
    if module.is_mutable_collection("moments"):
      mean, mean_square = _moments(x)
      momentum = jnp.float32(module.momentum)
      for name, value in dict(mean=mean, mean_square=mean_square, momentum=momentum).items():
        module.put_variable("moments", name, value)
    return call(*args, **kwargs) if ghost is None else _by_groups(module, x, ghost)

  return nn.intercept_methods(intercept)


def _evaluates(
  module: nn.BatchNorm, x: Any = None, use_running_average: bool | None = None, *, mask: Any = None
) -> bool:
  return nn.merge_param("use_running_average", module.use_running_average, use_running_average)


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  # The sums of nn.BatchNorm, so that XLA computes them once for both.
  x = x.astype(jnp.float32)
  axes = tuple(range(x.ndim - 1))
  return x.mean(axes), jax.lax.square(x).mean(axes)


def _variance(mean: jax.Array, mean_square: jax.Array) -> jax.Array:
  return jnp.maximum(0.0, mean_square - jax.lax.square(mean))  # below 0 only by rounding


def _normalized(module: nn.BatchNorm, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
  """Normalises by given statistics, operation by operation as nn.BatchNorm does."""
  multiplier = jax.lax.rsqrt(var + module.epsilon)
  args = [x]
  if module.use_scale:
    args.append(module.get_variable("params", "scale"))
    multiplier *= args[-1]
  y = (x - mean) * multiplier
  if module.use_bias:
    args.append(module.get_variable("params", "bias"))
    y += args[-1]
  return y.astype(nn.dtypes.canonicalize_dtype(*args, dtype=module.dtype))


def _by_groups(module: nn.BatchNorm, x: jax.Array, ghost: int) -> jax.Array:
  check_ghost(ghost, x.shape[0])
  groups = x.reshape(-1, ghost, *x.shape[1:])
  mean, mean_square = jax.vmap(_moments)(groups)  # [groups, channels]
  var = _variance(mean, mean_square)
  for name, value in dict(mean=mean, var=var).items():
    old = module.get_variable("batch_stats", name)
    module.put_variable("batch_stats", name, _moved(old, value.mean(0), module.momentum))
  y = jax.vmap(lambda *group: _normalized(module, *group))(groups, mean, var)
  return y.reshape(x.shape)


def _moved(old: jax.Array, new: jax.Array, momentum: Any) -> jax.Array:
  return momentum * old + (1 - momentum) * new


def check_ghost(ghost: int, batch: int) -> None:
  """Raises UserError unless groups of `ghost` examples fill the (micro-)batch."""
  if ghost < 1 or batch % ghost:
    sizes = [n for n in range(1, batch + 1) if batch % n == 0]
    below, above = [n for n in sizes if n < ghost][-1:], [n for n in sizes if n > ghost][:1]
    raise UserError(
      f"batch_norm.ghost={ghost} does not divide the {batch} examples of a (micro-)batch; the "
      f"nearest that do: {' and '.join(map(str, below + above))}"
    )


def pooled(moments: Tree | Sequence[Tree], batch_stats: Tree | None = None) -> Tree:
  """Returns the statistics of equal batches as one population: mean and variance.

  For precise batch norm (arXiv:2105.07576 section 3; fvcore's update_bn_stats too lets each module
  see a batch normalised by the batch) and the last pass of SWA (arXiv:1803.05407 section 3.2).

  `moments`: a list of trees, or one whose leaves have an axis of batches in front. Modules without
  moments (frozen) keep those of `batch_stats`, and are left out if it is None.
  """
  moments = _mean_over_batches(moments)
  return _with(
    batch_stats or {},
    lambda _, m: {"mean": m["mean"], "var": _variance(m["mean"], m["mean_square"])},
    moments,
  )


def moved(batch_stats: Tree, moments: Tree | Sequence[Tree]) -> Tree:
  """Returns running statistics after one update by the pooled moments, as by one large batch.

  `moments` as in `pooled`, or of one batch. Modules without them (frozen) stay as they are.
  """

  def update(old: Tree, m: Tree) -> Tree:
    if m["mean"].ndim > old["mean"].ndim:
      m = jax.tree.map(lambda x: x.mean(0), m)
    momentum = m["momentum"][..., None]
    var = _variance(m["mean"], m["mean_square"])
    return {
      "mean": _moved(old["mean"], m["mean"], momentum), "var": _moved(old["var"], var, momentum)
    }  # fmt: skip

  if not isinstance(moments, Mapping):
    moments = _mean_over_batches(moments)
  return _with(batch_stats, update, moments)


def _mean_over_batches(moments: Tree | Sequence[Tree]) -> Tree:
  if not isinstance(moments, Mapping):
    moments = jax.tree.map(lambda *batches: jnp.stack(batches), *moments)
  return jax.tree.map(lambda x: x.mean(0), moments)


def _with(batch_stats: Tree, update: Callable[[Tree, Tree], Tree], moments: Tree) -> Tree:
  """Returns `batch_stats` with `update(old, moments)` for each module that has moments."""
  old, new = _by_module(batch_stats), _by_module(moments)
  return unflatten_dict(
    {path: values for path, values in old.items()}
    | {path: update(old.get(path, {}), values) for path, values in new.items()}
  )


def _by_module(tree: Tree) -> dict[tuple[str, ...], dict[str, Any]]:
  """Returns {path: {name of a variable: value}} of the modules that own a variable."""
  modules: dict[tuple[str, ...], dict[str, Any]] = {}
  for (*path, name), value in flatten_dict(tree).items():
    modules.setdefault(tuple(path), {})[name] = value
  return modules


def frozen_modules(params: Tree, batch_stats: Tree, frozen: Tree) -> Frozen:
  """Returns the function `frozen` of `treated`: a batch norm is frozen if all its parameters are.

  One without parameters goes by the nearest module around it that has some. `frozen` is true or
  false for each of `params` (`optim.masks.frozen`); the trees may be of shapes.
  """
  flags = flatten_dict(jax.tree.map(lambda _, flag: bool(flag), params, frozen))

  def all_frozen(path: tuple[str, ...]) -> bool:
    own = [flag for name, flag in flags.items() if name[: len(path)] == path]
    return all(own) if own or not path else all_frozen(path[:-1])

  paths = {"/".join(path) for path in _by_module(batch_stats) if flags and all_frozen(path)}
  return paths.__contains__


def modules(batch_stats: Tree) -> list[str]:
  """Returns the paths of the modules that keep statistics."""
  return ["/".join(path) for path in _by_module(batch_stats)]
