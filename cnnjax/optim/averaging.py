"""Averages of the weights along a run, evaluated beside the weights themselves.

- ema: exponential moving average, also of batch statistics and other collections of floats, as in
  TensorFlow and timm.
- swa: the mean of the weights from a step on, arXiv:1803.05407. Its batch statistics are measured
  before an evaluation (section 3.2 there).
- schedule_free: the weights that schedule-free optimizers evaluate (arXiv:2405.15682, x of equation
  5). Their batch statistics are measured too, as the authors ask.
- slow: Lookahead's slow weights (arXiv:1907.08610), evaluated instead of the fast ones that are
  trained, as in the paper and optax: "raw" names them. Their statistics are measured.

Other collections (integers; all collections, where only weights are averaged) are those of the
trained weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cnnjax import optim
from cnnjax.errors import UserError

Averages = dict[str, dict[str, Any]]  # name: {collection: tree}, of swa "count" too
SLOW = "slow"


def needs_measuring(weights: str, config: ConfigDict) -> bool:
  """Returns whether an evaluation of these weights needs measured batch statistics.

  Takes the whole config.
  """
  if weights == "raw":
    return config.batch_norm.precise or config.optim.lookahead is not None
  return weights in ("swa", "schedule_free")


@dataclasses.dataclass(frozen=True)
class Averaging:
  """The averages that a run keeps; see `create`."""

  optimizer: ConfigDict
  ema: float | None  # decay
  warmup: bool  # of the decay
  swa_start: int | None  # steps
  swa_every: int

  @property
  def names(self) -> tuple[str, ...]:
    """The names of the averages that are evaluated beside the raw weights, in order."""
    free = self.optimizer.name.startswith("schedule_free")
    kept = {"ema": self.ema is not None, "swa": self.swa_start is not None, "schedule_free": free}
    return tuple(name for name, there in kept.items() if there)

  @property
  def all_names(self) -> tuple[str, ...]:
    """The names of all averages in the state."""
    return (*self.names, *([SLOW] if self.optimizer.lookahead is not None else []))

  def init(self, variables: dict[str, Any]) -> Averages:
    """Returns the averages of a run that begins with `variables`."""
    copied = lambda: jax.tree.map(jnp.copy, variables)  # donated buffers must not be shared
    count = {"swa": {"count": jnp.zeros((), jnp.int32)}}
    return {name: {**copied(), **count.get(name, {})} for name in self.all_names}

  def update(self, averages: Averages, variables: dict[str, Any], step: jax.Array) -> Averages:
    """Returns the averages after `step` steps, which led to `variables`.

    A frozen parameter does not move by a bit in any average.
    """
    updated = dict(averages)

    def toward(old: Any, new: Any, share: Any) -> Any:
      move = lambda a, b: a + share * (b - a) if jnp.issubdtype(a.dtype, jnp.floating) else b
      return jax.tree.map(move, old, new)

    if self.ema is not None:
      # "num_updates" of tf.train.ExponentialMovingAverage
      decay = jnp.minimum(self.ema, (1 + step) / (10 + step)) if self.warmup else self.ema
      updated["ema"] = toward(averages["ema"], variables, 1 - decay)
    if self.swa_start is not None:
      since = step - self.swa_start
      counts = (since >= 0) & (since % self.swa_every == 0)
      count = averages["swa"]["count"] + counts
      share = jnp.where(counts, 1 / jnp.maximum(count, 1), 0.0)
      # Of the first the share is 1; a sum would round.
      params = jax.tree.map(
        lambda mean, new: jnp.where(share == 1, new, mean + share * (new - mean)),
        averages["swa"]["params"],
        variables["params"],
      )
      mean = {"params": params, "count": count}
      updated["swa"] = {**averages["swa"], **_unmeasured(variables), **mean}
    return updated

  def ready(self, averages: Averages) -> tuple[str, ...]:
    """Returns the averages that have begun."""
    return tuple(
      name for name in self.names if name != "swa" or averages["swa"]["count"].reshape(-1)[0] > 0
    )

  def with_optimizer_averages(
    self, averages: Averages, opt_state: Any, variables: dict[str, Any]
  ) -> Averages:
    """Returns the averages with those that follow from the optimizer's state, at its step."""
    updated = dict(averages)
    for name in averages.keys() & {"schedule_free", SLOW}:
      average = optim.averaged(self.optimizer, opt_state, variables["params"])
      average = jax.tree.map(jnp.copy, {**_unmeasured(variables), "params": average})
      updated[name] = {**averages[name], **average}
    return updated

  def describe(self) -> dict[str, str]:
    """Returns the averages in words."""
    text = {
      "ema": f"exponential moving average, decay {self.ema}{' with warm-up' * self.warmup}",
      "swa": f"SWA from step {self.swa_start}, each {self.swa_every} steps",
      "schedule_free": "that of schedule-free",
      SLOW: "Lookahead's slow weights, which are evaluated instead of the fast ones",
    }
    names = [text[name] for name in self.all_names]
    return {"averages": "; ".join(names)} if names else {}


def _unmeasured(variables: dict[str, Any]) -> dict[str, Any]:
  """Returns the collections that are neither averaged with the weights nor measured for them."""
  return {k: tree for k, tree in variables.items() if k not in ("params", "batch_stats")}


def create(
  config: ConfigDict, optimizer: ConfigDict, total: int, to_steps: Callable[[Any, str], int]
) -> Averaging:
  """Returns the averages of `config.average` for a run of `total` steps with `config.optim`.

  Raises:
    UserError: SWA would begin after the run, or an average goes with schedule-free.
  """
  start = None
  if config.swa_start is not None:
    start = max(1, to_steps(config.swa_start, "average.swa_start"))
    if start > total:
      raise UserError(
        f"average.swa_start={config.swa_start!r} is step {start:,}, and the run has {total:,}: "
        "let it start earlier, or train longer"
      )
  every = max(1, to_steps(config.swa_every, "average.swa_every"))
  averaging = Averaging(optimizer, config.ema, config.ema_warmup, start, every)
  if "schedule_free" in averaging.names and len(averaging.names) > 1:
    raise UserError(
      f"optim.name={optimizer.name} evaluates an average of its own: leave average.ema and "
      "average.swa_start at None"
    )
  return averaging
