"""Learning rates as functions of the step, from optax."""

from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from cnnjax import durations
from cnnjax.errors import UserError, unknown

ToSteps = Callable[[float | int | str, str], int]  # (duration, its key) -> steps


def _constant(config, peak, length, warmup, to_steps):
  return optax.constant_schedule(peak)


def _step(config, peak, length, warmup, to_steps):
  key = "optim.schedule.boundaries"
  boundaries = [to_steps(b, key) - warmup for b in config.boundaries]
  if sorted(set(boundaries)) != boundaries or (boundaries and boundaries[0] <= 0):
    raise UserError(f"{key} {tuple(config.boundaries)!r} must rise, and come after the warm-up")
  return optax.piecewise_constant_schedule(peak, dict.fromkeys(boundaries, config.factor))


def _cosine(config, peak, length, warmup, to_steps):
  return optax.cosine_decay_schedule(peak, length, alpha=config.end_factor)


def _warm_restarts(config, peak, length, warmup, to_steps):
  """SGDR (arXiv:1608.03983, equation 5): periods that grow, peaks that may fall."""
  first = max(1, to_steps(config.first_period, "optim.schedule.first_period"))
  cycles, starts, start, floor = [], [], 0, config.end_factor * peak
  while start < length:
    if len(cycles) == 1000:
      raise UserError(
        f"optim.schedule: a first period of {config.first_period!r} restarts more "
        "than 1,000 times in this run"
      )
    height = max(floor, peak * config.peak_decay ** len(cycles))
    period = round(first * config.multiplier ** len(cycles))
    cycles.append(
      optax.cosine_decay_schedule(height, period, alpha=floor / height if height else 1.0)
    )
    start += period
    starts.append(start)
  return optax.join_schedules(cycles, starts[:-1])


SCHEDULES = {
  "constant": _constant,
  "step": _step,
  "cosine": _cosine,
  "warm_restarts": _warm_restarts,
}


def check(config: ConfigDict) -> None:
  """Raises UserError for an unknown schedule, or one that lacks what it needs."""
  if config.name not in SCHEDULES:
    raise unknown("schedule", config.name, SCHEDULES)
  if config.name == "step" and not config.boundaries:
    raise UserError(
      "optim.schedule: a step schedule needs boundaries, such as "
      "--config.optim.schedule.boundaries='(80, 120)'"
    )


def create(config: ConfigDict, peak: float, total_steps: int, to_steps: ToSteps) -> optax.Schedule:
  """The schedule of `config.optim.schedule` over `total_steps`, in steps since the start.

  Warm-up is linear from 0; the schedule behind it fills what is left of the run.

  Raises:
    UserError: the warm-up is as long as the run, or boundaries do not rise.
  """
  warmup = to_steps(config.warmup, "optim.schedule.warmup")
  if warmup >= total_steps:
    raise UserError(
      f"optim.schedule.warmup {config.warmup!r} is {warmup} steps, and the whole "
      f"run is {total_steps}; shorten it (0: none) or train longer"
    )
  schedule = SCHEDULES[config.name](config, peak, total_steps - warmup, warmup, to_steps)
  if not warmup:
    return schedule
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), schedule], [warmup])


def describe(config: ConfigDict, peak: float) -> str:
  """The schedule in words."""
  at = ", ".join(map(durations.text, config.boundaries))
  text = {
    "constant": "constant",
    "step": f"x{config.factor:g} at {at}",
    "cosine": "cosine",
    "warm_restarts": f"cosine with warm restarts after {durations.text(config.first_period)}, "
    f"periods x{config.multiplier:g}, peaks x{config.peak_decay:g}",
  }[config.name]
  warmup = f", warm-up {durations.text(config.warmup)}" if config.warmup else ""
  return f"learning rate {peak:g}, {text}{warmup}"
