"""Joins optimizers into one; each has its own parameters, settings and rhythm.

`config.optimizers` names those beside `config.optim`, each with a pattern of its parameters and
with the settings that differ from `config.optim`:

    config.optimizers = (
      ("critic", {"params": "^critic/", "every": 2, "learning_rate": 2e-4, "schedule.warmup": 0}),
    )

`config.optim` trains all other parameters. Another `name` or `schedule.name` sets the keys of the
one in `config.optim` back, as on the command line.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cnnjax.config import override, set_back
from cnnjax.errors import UserError
from cnnjax.optim import masks

MAIN = "main"  # that of `config.optim`
# Settings that act on more than a step, or need another gradient.
ALONE = ("sam_rho", "lookahead", "plateau.patience")


class Settings(NamedTuple):
  """The settings of one of `config.optimizers`."""

  pattern: str  # of the paths of its parameters
  every: int  # it moves in every so many steps, from step 0 on
  config: ConfigDict  # the whole config of the run, with its own group `optim`


def settings(config: ConfigDict) -> dict[str, Settings]:
  """Reads `config.optimizers`, by name. Takes the whole config.

  Raises:
    UserError: an entry has another form, or a setting is unknown; does not check values.
  """
  by_name: dict[str, Settings] = {}
  for entry in config.optimizers:
    if not (isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[1], Mapping)):
      raise UserError(
        f"optimizers takes pairs of a name and settings, not {entry!r}: such as "
        '("critic", {"params": "^critic/", "learning_rate": 2e-4})'
      )
    name, given = entry[0], dict(entry[1])
    if not re.fullmatch(r"[A-Za-z]\w*", str(name)) or name in {MAIN, *by_name}:
      raise UserError(f"optimizers: {name!r} is no name, or is taken; choose another one")
    pattern, every = given.pop("params", None), given.pop("every", 1)
    if not isinstance(pattern, str):
      raise UserError(f'optimizers: {name} does not say which parameters are its own: "params"')
    if type(every) is not int or every < 1:
      raise UserError(f"optimizers: every of {name} is {every!r}; it is a number of steps above 0")
    masks.compile_pattern(pattern, f"optimizers: params of {name}")
    merged = config.copy_and_resolve_references()
    set_back(merged, {f"optim.{key}": value for key, value in given.items()})
    for key, value in given.items():
      override(merged, f"optim.{key}", value)
    by_name[name] = Settings(pattern, every, merged)
  return by_name


def check(config: ConfigDict, check_optimizer: Callable[[ConfigDict], None]) -> None:
  """Raises UserError for wrong entries; `check_optimizer` checks a config with each of them."""
  by_name = settings(config)
  for name, entry in by_name.items():
    try:
      check_optimizer(entry.config)
    except UserError as e:
      raise UserError(f"optimizers: {name}: {e}") from e
  configs = {MAIN: config} | {name: entry.config for name, entry in by_name.items()}
  for name, merged in configs.items():
    optim = merged.optim
    given = {key: optim[key] for key in ALONE[:2]} | {ALONE[2]: optim.plateau.patience}
    taken = [key for key, value in given.items() if value is not None]
    taken += ["name=" + optim.name] if optim.name.startswith("schedule_free") else []
    if by_name and taken:
      where = "" if name == MAIN else f" (of {name})"
      raise UserError(f"optim.{taken[0]}{where} goes with one optimizer: leave optimizers at ()")


def shares(settings: Mapping[str, Settings], params: Any) -> dict[str, Any]:
  """Returns the parameters of each optimizer by name, as a tree of true and false.

  Raises:
    UserError: a pattern matches no parameter, two claim one, or `config.optim` has none left.
  """
  masks_by_name = {
    name: masks.by_path(params, entry.pattern, f"optimizers: params of {name}")
    for name, entry in settings.items()
  }
  by_name = {name: masks.paths(mask) for name, mask in masks_by_name.items()}
  for path in masks.paths(params):
    claim = [name for name, flags in by_name.items() if flags[path]]
    if len(claim) > 1:
      raise UserError(
        f"optimizers: {' and '.join(claim)} both claim the parameter {path}: narrow the params of "
        "all but one"
      )
  rest = jax.tree.map(lambda *flags: not any(flags), *masks_by_name.values())
  if not any(jax.tree.leaves(rest)):
    raise UserError(
      f"optimizers: {' and '.join(masks_by_name)} {'takes' if len(masks_by_name) == 1 else 'take'} "
      "all parameters, and none is left for optim: leave one of them out, and give its settings to "
      "optim"
    )
  return {MAIN: rest, **masks_by_name}


def share_of(mask: Any, tree: Any) -> Any:
  """Returns the parameters of an optimizer, with a MaskedNode for each one that is not its own."""
  return masks.trained(tree, jax.tree.map(lambda own: not own, mask))


def join(
  optimizers: Mapping[str, optax.GradientTransformationExtraArgs],
  masks_by_name: Mapping[str, Any],
  every: Mapping[str, int],
) -> optax.GradientTransformationExtraArgs:
  """Joins optimizers into one, whose state is {name: state}.

  Its `update` takes the argument `only`, the name of the optimizer that moves its parameters; the
  states and parameters of the others stay, as do those of one that is not due in a step.

  Args:
    optimizers: by name, each made for `share_of` the parameters.
    masks_by_name: from `shares`.
    every: the steps from one move to the next, by name; 1 if missing.
  """

  def init(params: Any) -> dict[str, Any]:
    return {
      name: optimizer.init(share_of(masks_by_name[name], params))
      for name, optimizer in optimizers.items()
    }

  def update(
    grads: Any, state: dict[str, Any], params: Any, *, only: str | None = None, **extra: Any
  ) -> tuple[Any, dict[str, Any]]:
    if only is not None and only not in optimizers:
      raise UserError(f"there is no optimizer {only!r}; choose from {', '.join(optimizers)}")
    updates, after = jax.tree.map(jnp.zeros_like, params), dict(state)
    for name in optimizers if only is None else (only,):
      mask = masks_by_name[name]
      moves, moved = optimizers[name].update(
        share_of(mask, grads), state[name], share_of(mask, params), **extra
      )
      if (rhythm := every.get(name, 1)) > 1:
        due = extra["step"] % rhythm == 0
        moved = jax.tree.map(lambda new, old: jnp.where(due, new, old), moved, state[name])  # noqa: B023
        moves = jax.tree.map(lambda move: jnp.where(due, move, 0), moves)  # noqa: B023
      leaves = iter(jax.tree.leaves(moves))
      updates = jax.tree.map(lambda mine, x: next(leaves) if mine else x, mask, updates)  # noqa: B023
      after[name] = moved
    return updates, after

  return optax.GradientTransformationExtraArgs(init, update)
