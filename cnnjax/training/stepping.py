"""One step of training: its pieces, the standard step, and how to register another.

A kind of step is a function that takes the `StepContext` of a run and returns the pure function
(state, batch, constants) -> state. The standard one makes three calls, which another one may
replace or reorder:

    examples = context.examples(state, batch, constants)  # augmented, normalised, with targets
    result = update(context, state, examples)  # the gradient, and what the optimizer does
    return advance(context, state, result)  # averages, sums, checks, the next step
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.errors import UserError
from cnnjax.optim import joined
from cnnjax.training import health, passes
from cnnjax.training.loss_scale import MINIMUM
from cnnjax.training.state import TrainState

STANDARD = "standard"


@dataclasses.dataclass(frozen=True)
class StepContext:
  """The pieces of a run that a step needs."""

  config: ConfigDict
  model: nn.Module
  task: Any
  gradients: Callable  # what `passes.gradients` returns
  optimizer: Any  # what `optim.create` returns
  prepare: Callable  # what `passes.preparer` returns
  averaging: Any  # what `optim.averaging.create` returns
  steps_per_epoch: int  # after these, the sums of an epoch begin anew
  own_teacher: Callable | None = None  # averages -> the variables of the teacher, if it is one

  def examples(self, state: TrainState, batch: passes.Batch, constants: Any) -> passes.Examples:
    """Returns the examples of the step of `state`."""
    if self.own_teacher is not None:
      constants = self.own_teacher(state.averages)
    return self.prepare(state.seed, state.step, batch, constants)


class StepResult(NamedTuple):
  """The results of a step, before the state takes them."""

  variables: dict[str, Any]  # all collections, after the step
  opt_state: Any
  grads: Any  # a tree like the parameters
  updates: Any  # another, the differences that were added
  metrics: Any  # sums, of the kind of `context.task.no_metrics()`
  losses: jax.Array  # [batch]
  extra: dict[str, Any] | None = None  # None: it stays


def update(context: StepContext, state: TrainState, examples: passes.Examples) -> StepResult:
  """Returns the results of a step of gradient descent from `state`."""
  scale = 1.0 if state.loss_scale is None else state.loss_scale.scale

  def grads_at(params: Any) -> tuple[Any, passes.TrainingPass]:
    grads, result = context.gradients(params, state.others, examples, scale)
    return (grads if state.loss_scale is None else optax.tree.scale(1 / scale, grads)), result

  grads, result = grads_at(state.params)
  updates, opt_state = context.optimizer.update(
    grads,
    state.opt_state,
    state.params,
    rate_scale=state.rate_scale,
    step=state.step,  # the optimizer's own count stands still where float16 leaves a step out
    grad_fn=lambda params, _: grads_at(params)[0],
  )
  variables = {**result.collections, "params": optax.apply_updates(state.params, updates)}
  metrics = context.task.metrics(result.outputs, examples.targets, result.losses)
  return StepResult(variables, opt_state, grads, updates, metrics, result.losses)


def descend(
  context: StepContext, state: TrainState, grads: Any, only: str | None = None
) -> tuple[TrainState, Any]:
  """Returns the state with the parameters moved by the optimizers, and the updates.

  For steps that take gradients of their own. Counts no step: `advance` does so once, at the end.

  Args:
    context: of the step.
    state: the one whose parameters move.
    grads: a tree like the parameters.
    only: the name of the one optimizer to use, of `config.optimizers` or "main"; None: all.
  """
  which = {} if only is None else {"only": only}
  beside = [name for name, _ in context.config.optimizers]
  if which and (not beside or only not in (joined.MAIN, *beside)):
    raise UserError(
      f"step {context.config.step.name!r} moves the parameters of an optimizer {only!r}, and the "
      f"config has {', '.join(map(repr, (joined.MAIN, *beside)))}: set "
      f'optimizers=(("{only}", {{"params": PATTERN}}),)'
    )
  updates, opt_state = context.optimizer.update(
    grads,
    state.opt_state,
    state.params,
    rate_scale=state.rate_scale,
    step=state.step,
    grad_fn=lambda *_: grads,
    **which,
  )
  variables = {**state.variables, "params": optax.apply_updates(state.params, updates)}
  return state.replace(variables=variables, opt_state=opt_state), updates


def advance(context: StepContext, state: TrainState, result: StepResult) -> TrainState:
  """Returns the state after a step: with its averages and sums, one step on.

  Notes a step that is not finite. Leaves it out where a lower loss scale may mend it.
  """
  begins = state.step % context.steps_per_epoch == 0
  state = state.replace(epoch=jax.tree.map(lambda x: jnp.where(begins, 0, x), state.epoch))
  totals = health.totals(state.params, result.grads, result.updates)
  norms = passes.Norms.single_from_model_output(**totals)
  others = {name: tree for name, tree in result.variables.items() if name != "params"}
  found = {
    "variables": result.variables,
    "opt_state": result.opt_state,
    "averages": context.averaging.update(state.averages, result.variables, state.step + 1),
    "window": state.window.merge(passes.Window(result.metrics, norms)),
    "epoch": state.epoch.merge(result.metrics),
    "extra": state.extra if result.extra is None else result.extra,
  }
  loss_finite = jnp.isfinite(result.losses.mean())
  finite = loss_finite & _all_finite((totals, others))
  bad = ~finite
  if state.loss_scale is not None:
    # The scale is there for gradients that overflow: such a step is left out.
    before = {name: getattr(state, name) for name in found}
    found = jax.tree.map(lambda new, old: jnp.where(finite, new, old), found, before)
    found["loss_scale"] = state.loss_scale.adjust(finite)
    bad &= ~loss_finite | (state.loss_scale.scale <= MINIMUM)
  return state.replace(
    step=state.step + 1,
    bad_step=jnp.where(bad, jnp.minimum(state.bad_step, state.step), state.bad_step),
    **found,
  )


def _all_finite(tree: Any) -> jax.Array:
  floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.stack([jnp.isfinite(x).all() for x in floats]).all()


def noting(optimizer: Any, moved: set[str | None]) -> Any:
  """Returns an optimizer that adds the `only` of each update to `moved`; None: all moved."""

  def update(*args: Any, only: str | None = None, **rest: Any) -> Any:
    moved.add(only)
    return optimizer.update(*args, **({} if only is None else {"only": only}), **rest)

  return optax.GradientTransformationExtraArgs(optimizer.init, update)


# The door.
Step = Callable[[TrainState, passes.Batch, Any], TrainState]
Extra = Callable[[StepContext, dict[str, Any], jax.Array], dict[str, Any]]


# Decorator that registers a function from `StepContext` to a step under a name. Its option `extra`
# makes the `state.extra` of a new run, {name: tree}, which the step carries along. It is saved,
# resumed and placed on the devices like the rest of the state, but not averaged: a network to
# average belongs into the model.
register = functools.partial(registry.register, "step")


@register(STANDARD)
def standard(context: StepContext) -> Step:
  """Gradient descent on the loss of the task."""

  def step(state: TrainState, batch: passes.Batch, constants: Any) -> TrainState:
    examples = context.examples(state, batch, constants)
    return advance(context, state, update(context, state, examples))

  return step


def check(config: ConfigDict) -> None:
  """Raises UserError for an unknown step, and for keys that need the standard one."""
  name = config.step.name
  make = registry.part("step", name).value
  if not _takes(make, 1):
    raise UserError(
      f"step {name!r} must be a function of a StepContext that returns the step, (state, batch, "
      f"constants) -> state, and takes {inspect.signature(make)}"
    )
  registry.check_idle("step", (name,), config.step)
  needed = registry.part("task", config.task.name).value.STEP
  if needed not in (None, name):
    raise UserError(f"task.name={config.task.name} needs step.name={needed}, not {name}")
  if name != STANDARD and (config.health.every is not None or config.health.trace):
    key = "health.every" if config.health.every is not None else "health.trace"
    raise UserError(
      f"{key} looks into the standard step, and step.name is {name!r}: leave {key} out"
    )


def create(context: StepContext) -> Step:
  """Returns the step of `config.step`."""
  return registry.part("step", context.config.step.name).value(context)


def extra(context: StepContext, variables: dict[str, Any], seed: jax.Array) -> dict[str, Any]:
  """Returns the extra state of a new run, which its step carries along."""
  make: Extra | None = registry.part("step", context.config.step.name).options.get("extra")
  key = jax.random.fold_in(jax.random.key(seed), jnp.iinfo(jnp.int32).max)  # of no step
  return make(context, variables, key) if make else {}


def check_step(name: str, step: Step, state: Any, batch: Any, constants: Any) -> None:
  """Raises UserError unless a step returns a state like the one it took, one step on.

  It is traced, on shapes, and not compiled.

  Args:
    name: of its kind.
    step: (state, batch, constants) -> state.
    state: a TrainState of shapes, as are `batch` and `constants`.
  """
  if not _takes(step, 3):
    what = f"one of {inspect.signature(step)}" if callable(step) else f"a {type(step).__name__}"
    raise UserError(
      f"step {name!r} must make a function (state, batch, constants) -> state, and made {what}"
    )
  traced, after = jax.make_jaxpr(step, return_shape=True)(state, batch, constants)
  if not isinstance(after, TrainState):
    raise UserError(f"step {name!r} returns a {type(after).__name__}, and must return the state")
  before, now = _described(state), _described(after)
  for path in sorted({*before, *now}):
    if before.get(path) != now.get(path):
      raise UserError(
        f"step {name!r} must return a state like the one it takes: {path} is "
        f"{before.get(path, 'not there')} before, and {now.get(path, 'not there')} after"
      )
  for field in dataclasses.fields(state):
    if jax.tree.structure(getattr(state, field.name)) != jax.tree.structure(
      getattr(after, field.name)
    ):
      raise UserError(
        f"step {name!r} must return a state like the one it takes: {field.name} is built of other "
        "containers, such as a FrozenDict instead of a dict"
      )
  place = list(_described(state, empty=False)).index("step")  # leaves of the state come first
  if traced.jaxpr.outvars[place] is traced.jaxpr.invars[place]:
    raise UserError(
      f"step {name!r} does not count: let it end by `advance`, or return step=state.step + 1"
    )
  if (found := _counted(traced, place, begin=7)) not in (None, 8):
    raise UserError(
      f"step {name!r} counts from 7 to {found}: let it call `advance` once, or return "
      "step=state.step + 1"
    )


def _takes(step: Any, number: int) -> bool:
  """Returns whether `step` can be called with so many arguments."""
  try:
    inspect.signature(step).bind(*[None] * number)
  except (TypeError, ValueError):
    return False
  return True


def _described(tree: Any, *, empty: bool = True) -> dict[str, str]:
  """Returns shape and type of each array by its path; with `empty`, empty dicts and tuples too."""
  is_leaf = (lambda x: isinstance(x, dict | tuple) and not x) if empty else None
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else f"an empty {type(x).__name__}"
    )
    for path, x in leaves
  }


def _counted(traced: ClosedJaxpr, place: int, begin: int) -> int | None:
  """Returns the step after `begin`, where it follows from that alone; else None.

  `traced` is a step of which the input and the output at `place` are `state.step`.
  """
  wanted = [i == place for i in range(len(traced.jaxpr.outvars))]
  alone, used = partial_eval.dce_jaxpr(traced.jaxpr, wanted)
  if any(used[:place]) or any(used[place + 1 :]):
    return None
  given = [jnp.int32(begin)] if used[place] else []
  return int(jaxpr_as_fun(ClosedJaxpr(alone, traced.consts))(*given)[0])
