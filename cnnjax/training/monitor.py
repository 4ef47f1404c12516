"""Follows the monitored metric: early stopping, and the rate that falls on a plateau."""

from collections.abc import Iterable

import flax.struct
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cnnjax import tasks
from cnnjax.errors import UserError, unknown
from cnnjax.optim import plateau
from cnnjax.tasks.metric import named


@flax.struct.dataclass
class Monitor:
  """Counters over the evaluations of a run, part of its state."""

  best: jax.Array  # [] float32, of the metric
  since_best: jax.Array  # [] int32, evaluations without improvement
  plateau: plateau.Plateau | None  # None: the rate does not fall on a plateau


def check(config: ConfigDict) -> None:
  """Raises UserError if the run lacks the metric or the split to follow. Takes the whole config."""
  tasks.monitored(config)
  for key in ("early_stopping", "optim.plateau"):
    group = config.optim.plateau if key == "optim.plateau" else config.early_stopping
    if group.patience is not None and config.data.validation is None:
      raise UserError(
        f"{key} goes by {config.monitor}, and there is no validation split: set data.validation, "
        "such as 0.1"
      )
  stopping = config.early_stopping
  if stopping.patience is not None and stopping.restore_best and not config.keep.best:
    raise UserError("early_stopping.restore_best needs a checkpoint to restore: set keep.best=1")


def check_metric(metric: str, metrics: Iterable[str], averages: Iterable[str]) -> None:
  """Raises UserError unless evaluation computes `metric`."""
  metrics = tuple(metrics)
  names = [f"validation/{named(w, name)}" for w in ("raw", *averages) for name in metrics]
  if metric not in names:
    raise unknown("metric: monitor", metric, names)


def create(config: ConfigDict) -> Monitor:
  """Returns the counters of a new run. Takes the whole config."""
  better = tasks.monitored(config).better
  worst = jnp.inf if better == "min" else -jnp.inf
  falls = config.optim.plateau.patience is not None
  return Monitor(
    jnp.asarray(worst, jnp.float32),
    jnp.zeros((), jnp.int32),
    plateau.create(config.optim.plateau, better=better) if falls else None,
  )


def update(monitor: Monitor, value: jax.Array, config: ConfigDict) -> Monitor:
  """Returns the counters after an evaluation that found `value`."""
  value, better = jnp.asarray(value, jnp.float32), tasks.monitored(config).better
  gain = value - monitor.best if better == "max" else monitor.best - value
  improved = gain > config.early_stopping.min_delta
  falls = monitor.plateau is not None
  return Monitor(
    jnp.where(improved, value, monitor.best),
    jnp.where(improved, 0, monitor.since_best + 1),
    plateau.update(monitor.plateau, value, better=better) if falls else None,
  )


def describe(config: ConfigDict) -> dict[str, str]:
  """Returns in words how the run follows the monitored metric."""
  found = {}
  if falls := plateau.describe(config.optim.plateau, config.monitor):
    found["plateau"] = f"the rate falls {falls}"
  if (patience := config.early_stopping.patience) is not None:
    evaluations = f"{patience} evaluation{'s' * (patience > 1)}"
    result = "the best" if config.early_stopping.restore_best else "the last"
    found["early stopping"] = (
      f"after {evaluations} without a better {config.monitor}; the result is {result} step"
    )
  return found


def stopped(monitor: Monitor, config: ConfigDict) -> bool:
  """Returns whether `early_stopping.patience` evaluations brought no improvement."""
  patience = config.early_stopping.patience
  return patience is not None and int(monitor.since_best) >= patience
