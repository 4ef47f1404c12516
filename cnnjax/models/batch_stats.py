"""Controls batch norm from outside the models: frozen, ghost batches, measured statistics.

`batch_norm_mode` intercepts the calls of nn.BatchNorm in any model, so models need no code for it.

Moments are trees like the collection batch_stats, but each module has the leaves "mean" and
"mean_square", the float32 means over a batch of each channel of its input and of its square, and
"momentum". Blocks in a scan add a leading axis of blocks to all of them.
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


def batch_norm_mode(
  frozen: Frozen | None = None, ghost: int | None = None
) -> contextlib.AbstractContextManager:
  """Changes how nn.BatchNorm runs when `model.apply` is called in training inside this context.

  - Where `frozen(path)` is true, a module normalises by its running statistics, as in evaluation,
    and does not update them.
  - With `ghost`, groups of this many consecutive examples are normalised by their own statistics
    (arXiv:1705.08741 section 4.1). The running statistics are updated once per batch, by the mean
    over the groups (the paper's algorithm 1 updates them once per group).
  - If the collection "moments" is mutable, each module that is not frozen writes the moments of its
    batch into it; with `ghost` too, they are those of the whole batch. `scan_blocks` passes them
    on.

  Other modules run unchanged, and so do all modules in initialisation and evaluation. The context
  acts while a program is traced: enter it inside the jitted function.

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
  # The same sums as in nn.BatchNorm, so that XLA computes them only once.
  x = x.astype(jnp.float32)
  axes = tuple(range(x.ndim - 1))
  return x.mean(axes), jax.lax.square(x).mean(axes)


def _variance(mean: jax.Array, mean_square: jax.Array) -> jax.Array:
  return jnp.maximum(0.0, mean_square - jax.lax.square(mean))  # below 0 only by rounding


def _normalized(module: nn.BatchNorm, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
  """Normalises x by the given statistics, with the same operations as nn.BatchNorm."""
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
    module.put_variable("batch_stats", name, _moving_average(old, value.mean(0), module.momentum))
  y = jax.vmap(lambda *group: _normalized(module, *group))(groups, mean, var)
  return y.reshape(x.shape)


def _moving_average(old: jax.Array, new: jax.Array, momentum: Any) -> jax.Array:
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
  """Returns mean and variance over batches of equal size, taken as one population.

  Used by precise batch norm (arXiv:2105.07576 section 3; as in fvcore's update_bn_stats, the inputs
  of each module were normalised by their own batch) and by the last pass of SWA (arXiv:1803.05407
  section 3.2).

  `moments` is a list of trees, or one tree whose leaves have a leading axis of batches. Frozen
  modules have no moments: they keep the statistics of `batch_stats`, and are left out if it is
  None.
  """
  moments = _mean_over_batches(moments)
  return _with(
    batch_stats or {},
    lambda _, m: {"mean": m["mean"], "var": _variance(m["mean"], m["mean_square"])},
    moments,
  )


def updated(batch_stats: Tree, moments: Tree | Sequence[Tree]) -> Tree:
  """Returns the running statistics after one update by the pooled moments, as by one large batch.

  `moments` are as in `pooled`, or of one batch. Frozen modules have none and keep their statistics.
  """

  def update(old: Tree, m: Tree) -> Tree:
    if m["mean"].ndim > old["mean"].ndim:
      m = jax.tree.map(lambda x: x.mean(0), m)
    momentum = m["momentum"][..., None]
    var = _variance(m["mean"], m["mean_square"])
    return {
      "mean": _moving_average(old["mean"], m["mean"], momentum),
      "var": _moving_average(old["var"], var, momentum),
    }

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
  """Returns {path: {name of a variable: value}} for each module that has variables of its own."""
  modules: dict[tuple[str, ...], dict[str, Any]] = {}
  for (*path, name), value in flatten_dict(tree).items():
    modules.setdefault(tuple(path), {})[name] = value
  return modules


def frozen_modules(params: Tree, batch_stats: Tree, frozen: Tree) -> Frozen:
  """Returns the function `frozen` for `batch_norm_mode`.

  A batch norm is frozen if all its parameters are; one without parameters follows the nearest
  module around it that has some.

  Args:
    params: the parameters, or their shapes.
    batch_stats: the statistics, or their shapes.
    frozen: a tree like `params`, true where a parameter is frozen; see `optim.masks.frozen`.
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
