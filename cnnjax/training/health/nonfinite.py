"""Finds where NaN or infinity began: computes a step again, and examines every value in it."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import models
from cnnjax.models import ops

LARGEST = "largest"  # the collection
Place = tuple[str, str, int]  # module, input or output, which call of it


@dataclasses.dataclass(frozen=True)
class Value:
  """A value that a step computes, with its magnitude."""

  # images, targets, params, batch_stats, other (variables), input, output, moved, loss, gradient,
  # update
  what: str
  name: str  # of the parameter or the module; "" for the model
  largest: float  # magnitude; infinity if any is infinite, NaN if any is NaN
  dtype: str = "float32"


def trace(
  model: nn.Module,
  loss_fn: Callable[[jax.Array, Any, Any], jax.Array],
  variables: Any,
  images: jax.Array,
  targets: Any,
  key: jax.Array | None = None,
  update_fn: Callable[[Any, Any, Any], Any] | None = None,
  opt_state: Any = None,
  jit: Callable = jax.jit,
) -> str:
  """Returns in words where in a training step NaN or infinity began. Compiles its own program.

  Where an `nn.scan` does not pass on the collection "largest" (variable_axes), it names the module
  of the scan instead of one inside.

  Args:
    loss_fn: (logits, targets, kept) -> the loss, [] or [batch]; `kept` has the collection
      "aux_logits". Multiplied by the scale where the loss is scaled.
    variables: params and the other collections, before the step.
    images: as the model takes them, [batch, height, width, channels].
    targets: what `loss_fn` takes, any tree.
    key: of dropout.
    update_fn: (gradients, opt_state, params) -> updates; takes scaled gradients where the loss is
      scaled. None: looks at the step as far as the gradients.
    opt_state: before the step.
    jit: compiles like the step of the run; takes the arguments of `jax.jit`.
  """
  met: dict[Place, str] = {}  # in the order of the forward pass, with their dtypes
  step = jit(
    _step(model, loss_fn, update_fn, met),
    compiler_options=ops.compiler_options(model, variables["params"]),
  )
  found = jax.device_get(step(variables, images, targets, key, opt_state))
  return explain(_in_order(*found, met))


def _step(model: nn.Module, loss_fn: Callable, update_fn: Callable | None, met: dict) -> Callable:
  """Returns the function from the arguments of `trace` to the largest magnitudes of a step.

  These are the magnitudes of modules that `_look` kept, and a tree for each other kind of `Value`.
  """

  def losses(params: Any, others: Any, images: jax.Array, targets: Any, key: Any) -> Any:
    with nn.intercept_methods(functools.partial(_look, met)):
      variables = {**others, "params": params}
      passed = models.forward_in_training(model, variables, images, key, [LARGEST])
    loss = jnp.mean(loss_fn(passed.outputs, targets, passed.extra))
    moved, moved_other = _split(passed.collections)
    found = {"moved": moved, "moved_other": moved_other, "loss": loss}
    return loss, (passed.extra.get(LARGEST, {}), found)

  def step(variables: Any, images: jax.Array, targets: Any, key: Any, opt_state: Any) -> Any:
    others = {**variables}
    params = others.pop("params")
    gradient, (modules, found) = jax.grad(losses, has_aux=True)(
      params, others, images, targets, key
    )
    batch_stats, other = _split(others)
    found |= {"images": images, "targets": targets, "gradient": gradient}
    found |= {"params": params, "batch_stats": batch_stats, "other": other}
    if update_fn:
      found["update"] = update_fn(gradient, opt_state, params)
    return modules, jax.tree.map(_largest, found)

  return step


def _split(others: Any) -> tuple[Any, Any]:
  """Splits variables into batch statistics and the other collections without parameters."""
  rest = {name: tree for name, tree in others.items() if name != "batch_stats"}
  return others.get("batch_stats", {}), rest


def _look(
  met: dict[Place, str], next_fun: Callable, args: tuple, kwargs: dict, context: Any
) -> Any:
  """Keeps the magnitudes of the input and the output of each module that can store them."""
  module = context.module
  if context.method_name != "__call__":
    return next_fun(*args, **kwargs)

  def keep(what: str, tree: Any) -> None:
    arrays = [x for x in jax.tree.leaves(tree) if _is_float(x)]
    if not arrays:
      return
    call = len(module.get_variable(LARGEST, f"({what})", ()))  # so a second trace adds none
    met.setdefault(("/".join(module.path), what, call), str(arrays[0].dtype))
    module.sow(LARGEST, f"({what})", _largest(jnp.stack(list(map(_largest, arrays)))))

  keep("input", (args, kwargs))
  result = next_fun(*args, **kwargs)
  keep("output", result)
  return result


def _largest(x: jax.Array) -> jax.Array:
  """Returns the largest magnitude, [] float32; NaN if there is one; 0 for a key, not of floats."""
  if not _is_float(x):
    return jnp.zeros(())
  # The barrier keeps x as rounded. XLA may otherwise take its value before the rounding to float16,
  # which was finite (xla_allow_excess_precision, on by default; not seen on CPU).
  x = jax.lax.optimization_barrier(jax.lax.stop_gradient(x))
  largest = jnp.max(jnp.abs(x).astype(jnp.float32), initial=0.0)
  # Of 100,000 values XLA's maximum on CPU leaves NaN out (jax 0.10.2 and 0.12.0); of 1,000 not.
  return jnp.where(jnp.any(jnp.isnan(x)), jnp.nan, largest)


def _is_float(x: Any) -> bool:
  return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


def _in_order(modules: Any, found: dict[str, Any], met: dict[Place, str]) -> list[Value]:
  """Returns all values in the order of computation, gradients in that of backpropagation."""
  places = [name for name, _, _ in met]

  def values(*kinds: str) -> list[Value]:
    return [
      Value(kind, jax.tree_util.keystr(path, simple=True, separator="/"), float(x))
      for kind in kinds
      for path, x in jax.tree.leaves_with_path(found.get(kind, {}))
    ]

  def place(value: Value) -> int:
    layer = value.name.rpartition("/")[0]
    return places.index(layer) if layer in places else 0

  back = [sorted(values(kind), key=place, reverse=True) for kind in ("gradient", "update")]
  return [
    *values("images", "targets", "params", "batch_stats", "other"),
    *_forward(met, modules),
    *values("moved", "moved_other", "loss"),
    *itertools.chain(*back),
  ]


def _forward(met: dict[Place, str], modules: Any) -> Iterator[Value]:
  """Returns the values that `_look` kept, in the order of computation; those of a scan by turn."""
  kept = flax.traverse_util.flatten_dict(modules, sep="/")
  found = []
  for (name, what, call), dtype in met.items():
    calls = kept.get(f"{name}/({what})".lstrip("/"), ())
    if call < len(calls):
      found.append((name, what, calls[call], dtype))
  for (_, shape), group in itertools.groupby(found, lambda f: (f[0].split("/")[0], f[2].shape)):
    group = list(group)
    for turn in itertools.product(*map(range, shape)):
      for name, what, largest, dtype in group:
        yield Value(what, name, float(largest[turn]), dtype)


def explain(values: list[Value]) -> str:
  """Returns in words where the first NaN or infinity among the ordered `values` began."""
  for i, value in enumerate(values):
    if not math.isfinite(value.largest):
      return _sentence(value, values[:i])
  return (
    "computed once more, every value of this step is finite: the cause is how the program is "
    "compiled, or rounding"
  )


def _sentence(value: Value, before: list[Value]) -> str:
  kind, name = _kind(value), value.name or "the model"
  outputs = [v for v in before if v.what == "output"]

  def up_to(what: str, of: str = "") -> str:
    below = f"{of}/".lstrip("/")
    sizes = [v.largest for v in before if v.what == what and f"{v.name}/".startswith(below)]
    return f"up to {max(sizes, default=0):.2g}"

  match value.what:
    case "images":
      return f"{kind} is in the images that the model is given: see the data and the augmentation"
    case "targets":
      return f"{kind} is in what the loss is given: {value.name or 'the targets'}"
    case "params":
      return f"{kind} is in the parameter {name} before this step"
    case "batch_stats":
      return f"{kind} is in the batch statistic {name} before this step"
    case "other":
      return f"{kind} is in the variable {name} before this step"
    case "input":
      behind = f"behind {outputs[-1].name}" if outputs else "before the first module"
      return (
        f"{kind} began between modules, {behind}, in the input of {name} (forward pass); the "
        "outputs of all modules before are finite"
      )
    case "output":
      own = [v.largest for v in before if (v.what, v.name) == ("input", value.name)]
      return (
        f"{kind} began in the output of {name} (forward pass); its inputs (up to "
        f"{(own or [0.0])[-1]:.2g}) and its parameters ({up_to('params', value.name)}) are finite"
      )
    case "moved":
      return f"{kind} began in the new batch statistic {name}; the forward pass is finite"
    case "moved_other":
      return f"{kind} began in the new value of the variable {name}; the forward pass is finite"
    case "loss":
      of = f"up to {outputs[-1].largest:.2g}"
      return f"{kind} began in the loss; the model's outputs ({of}) are finite"
    case "gradient":
      return (
        f"{kind} began in the gradient of {name} (backward pass); the loss ({up_to('loss')}) and "
        "the gradients of the layers behind it are finite"
      )
  return (
    f"{kind} began in the update of {name} (optimizer); its gradient "
    f"({up_to('gradient', value.name)}) is finite"
  )


def _kind(value: Value) -> str:
  if math.isnan(value.largest):
    return "NaN"
  return f"infinity ({value.dtype} ends at {float(jnp.finfo(value.dtype).max):.3g})"
