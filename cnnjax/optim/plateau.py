"""Lowers the learning rate when the monitored metric stands still, as torch's ReduceLROnPlateau.

Pure functions of a few arrays, checkpointed with the run, with one update per evaluation.
optax.contrib.reduce_on_plateau counts in the same way with a patience of one more, but follows the
loss of each step, knows only metrics that fall, and refuses a min_delta of 0.
"""

import flax.struct
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cnnjax.config import keys
from cnnjax.errors import UserError, unknown


@flax.struct.dataclass
class Plateau:
  """The state between evaluations; arrays `[]`, or `[runs]` of several runs."""

  best: jax.Array  # float32, infinitely bad before the first evaluation
  since_best: jax.Array  # int32, evaluations in a row without improvement, as far as they count
  cooldown_left: jax.Array  # int32, evaluations that will not count
  scale: jax.Array  # float32, factor of the learning rate
  # Those of `config.optim.plateau`.
  patience: int = flax.struct.field(pytree_node=False)
  factor: float = flax.struct.field(pytree_node=False)
  min_delta: float = flax.struct.field(pytree_node=False)
  cooldown: int = flax.struct.field(pytree_node=False)
  min_scale: float = flax.struct.field(pytree_node=False)


def check(config: ConfigDict) -> None:
  """Raises UserError for settings of a plateau that is off."""
  standard = keys.default().optim.plateau
  if config.patience is None and (idle := [k for k in standard if config[k] != standard[k]]):
    raise UserError(
      f"optim.plateau.{idle[0]}={config[idle[0]]!r} does nothing while optim.plateau.patience is "
      "None; set it to a number of evaluations, such as 5"
    )


def create(config: ConfigDict, *, better: str) -> Plateau:
  """Returns the state before the first evaluation, by `config.optim.plateau`."""
  worst = -_sign(better) * jnp.inf
  zero = jnp.zeros((), jnp.int32)
  return Plateau(jnp.float32(worst), zero, zero, jnp.ones((), jnp.float32), **config)


def update(state: Plateau, value: jax.typing.ArrayLike, *, better: str) -> Plateau:
  """Returns the state after an evaluation that gave `value`, `[]` or `[runs]`.

  A value improves if it is more than `min_delta` above ("max") or below ("min") the best so far;
  NaN never does. After `patience` evaluations in a row without improvement, the next one multiplies
  `scale` by `factor`, down to `min_scale`; then `cooldown` evaluations do not count.
  """
  sign, value = _sign(better), jnp.asarray(value, jnp.float32)
  improved = sign * value > sign * state.best + state.min_delta
  cooling = state.cooldown_left > 0
  since_best = jnp.where(improved | cooling, 0, state.since_best + 1)
  falls = since_best > state.patience
  fallen = jnp.maximum(state.scale * state.factor, state.min_scale)
  return state.replace(
    best=jnp.where(improved, value, state.best),
    since_best=jnp.where(falls, 0, since_best),
    cooldown_left=jnp.where(falls, state.cooldown, state.cooldown_left - cooling),
    scale=jnp.where(falls, fallen, state.scale),
  )


def _sign(better: str) -> int:
  if better not in ("max", "min"):
    raise unknown("direction: better", better, ("max", "min"))
  return 1 if better == "max" else -1


def describe(config: ConfigDict, metric: str) -> str:
  """Returns the plateau of the monitored metric in words; nothing if it is off."""
  if config.patience is None:
    return ""
  plural = "" if config.patience == 1 else "s"
  text = f"x{config.factor:g} when {metric} stands still for more than {config.patience} evaluation"
  return text + plural + (f", not below x{config.min_scale:g}" if config.min_scale else "")
