"""Learning rates as functions of the step, from optax.

A warm-up, which is a line to the peak, comes before each. Schedules with given times (step,
multi_step, piecewise) count from the start of the run, warm-up included, as Goyal et al. do
(arXiv:1706.02677, section 5.1: 30, 60 and 80 epochs after a start with 5 of warm-up), TensorFlow's
EfficientNet and timm; the warm-up covers their beginning. Curves (linear, polynomial, exponential,
cosine, warm_restarts) begin where the warm-up ends, and fill the rest of the run. torchvision's
recipes chain the two by SequentialLR, so their times of step and multi_step count from the end of
the warm-up: add the warm-up to boundaries that come from there.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.config import durations, keys
from cnnjax.errors import UserError
from cnnjax.registry import register

ToSteps = Callable[[float | int | str, str], int]  # (duration, its key) -> steps
_MOST_DROPS, _MOST_RESTARTS = 10_000, 1000

# A schedule takes `config.optim.schedule`, the peak, the steps after the warm-up, those of the
# warm-up, and `to_steps`; it counts from the end of the warm-up.


def _lowest(config: ConfigDict) -> str:
  return f" to x{config.end_factor:g}" if config.end_factor else " to 0"


def _floor(config: ConfigDict) -> str:
  return f", not below x{config.end_factor:g}" if config.end_factor else ""


@register("schedule", "constant")
def _constant(config, peak, length, warmup, to_steps):
  return optax.constant_schedule(peak)


@register("schedule", "linear", uses=("end_factor",), describe=lambda c: f"linear{_lowest(c)}")
def _linear(config, peak, length, warmup, to_steps):
  return optax.linear_schedule(peak, config.end_factor * peak, length)


@register(
  "schedule",
  "polynomial",
  uses=("power", "end_factor"),
  describe=lambda c: f"polynomial of power {c.power:g}{_lowest(c)}",
)
def _polynomial(config, peak, length, warmup, to_steps):
  return optax.polynomial_schedule(peak, config.end_factor * peak, config.power, length)


@register(
  "schedule",
  "cosine",
  uses=("end_factor",),
  describe=lambda c: "cosine" + (_lowest(c) if c.end_factor else ""),
)
def _cosine(config, peak, length, warmup, to_steps):
  return optax.cosine_decay_schedule(peak, length, alpha=config.end_factor)


@register(
  "schedule",
  "exponential",
  uses=("factor", "period", "end_factor"),
  describe=lambda c: f"exponential, x{c.factor:g} in {durations.text(c.period)}{_floor(c)}",
)
def _exponential(config, peak, length, warmup, to_steps):
  """Multiplies by `factor` per period, evenly over its steps."""
  period = _period(config, to_steps)
  floor = config.end_factor * peak if config.factor < 1 else None  # a growing rate has no floor
  return optax.exponential_decay(peak, period, config.factor, end_value=floor)


@register(
  "schedule",
  "step",
  uses=("factor", "period", "end_factor"),
  describe=lambda c: f"x{c.factor:g} every {durations.text(c.period)}{_floor(c)}",
)
def _step(config, peak, length, warmup, to_steps):
  """Multiplies by `factor` after each period; 2.4 epochs of 14 steps end at 34, 67, 101, ..."""
  _period(config, to_steps)
  (amount, unit), drops = durations.parse(config.period, "optim.schedule.period"), []
  while not drops or drops[-1] < length + warmup:
    if len(drops) == _MOST_DROPS:
      raise UserError(
        f"optim.schedule: a period of {config.period!r} ends more than {_MOST_DROPS:,} times in "
        "this run; a rate that falls so often is optim.schedule.name=exponential"
      )
    multiple = f"{amount * (len(drops) + 1)!r} {unit}"  # each rounded by itself: nothing adds up
    drops.append(to_steps(multiple, "optim.schedule.period"))
  return _staircase(peak, config.factor, drops, warmup, config.end_factor)


@register(
  "schedule",
  "multi_step",
  uses=("boundaries", "factor"),
  describe=lambda c: f"x{c.factor:g} at {', '.join(map(durations.text, c.boundaries))}",
)
def _multi_step(config, peak, length, warmup, to_steps):
  key = "optim.schedule.boundaries"
  drops = [to_steps(boundary, key) for boundary in config.boundaries]
  if sorted(set(drops)) != drops or drops[0] <= warmup:
    raise UserError(f"{key} {tuple(config.boundaries)!r} must rise, and come after the warm-up")
  return _staircase(peak, config.factor, drops, warmup)


def _staircase(peak, factor, drops, warmup, end_factor=0.0):
  """Multiplies by `factor` at each of the steps `drops`, by a table.

  A compiled optax.exponential_decay(staircase=True) falls a step late for every eighth period (41,
  47, 55, 61, ... steps: XLA multiplies by the reciprocal), and optax.piecewise_constant_schedule
  compiles slowly with hundreds of boundaries.
  """
  rates = np.maximum(peak * factor ** np.arange(len(drops) + 1.0), end_factor * peak)
  return lambda step: jnp.asarray(rates, jnp.float32)[
    jnp.searchsorted(jnp.asarray(drops), step + warmup, side="right")
  ]


@register(
  "schedule",
  "warm_restarts",
  uses=("first_period", "multiplier", "peak_decay", "end_factor"),
  describe=lambda c: (
    f"cosine with warm restarts after {durations.text(c.first_period)}, periods "
    f"x{c.multiplier:g}, peaks x{c.peak_decay:g}{_floor(c)}"
  ),
)
def _warm_restarts(config, peak, length, warmup, to_steps):
  """Restarts cosines (SGDR, arXiv:1608.03983, equation 5) of growing periods and falling peaks."""
  first = max(1, to_steps(config.first_period, "optim.schedule.first_period"))
  cycles, starts, start, floor = [], [], 0, config.end_factor * peak
  while start < length:
    if len(cycles) == _MOST_RESTARTS:
      raise UserError(
        f"optim.schedule: a first period of {config.first_period!r} restarts more "
        f"than {_MOST_RESTARTS:,} times in this run"
      )
    height = max(floor, peak * config.peak_decay ** len(cycles))
    period = round(first * config.multiplier ** len(cycles))
    cycles.append(
      optax.cosine_decay_schedule(height, period, alpha=floor / height if height else 1.0)
    )
    start += period
    starts.append(start)
  return optax.join_schedules(cycles, starts[:-1])


@register(
  "schedule",
  "one_cycle",
  uses=("start_factor", "peak_at", "end_factor"),
  describe=lambda c: (
    f"one cycle from x{c.start_factor:g} up until {c.peak_at:.3g} of the run, then down{_lowest(c)}"
  ),
)
def _one_cycle(config, peak, length, warmup, to_steps):
  """Rises and falls by half cosines: arXiv:1708.07120 in the form of fast.ai and torch."""
  start, end = config.start_factor, config.end_factor
  return optax.cosine_onecycle_schedule(
    length, peak, config.peak_at, 1 / start, start / end if end else math.inf
  )


@register(
  "schedule",
  "trapezoid",
  uses=("cooldown", "end_factor"),
  describe=lambda c: (
    f"trapezoid: held, then linear{_lowest(c)} over the last {c.cooldown:.3g} of the run"
  ),
)
def _trapezoid(config, peak, length, warmup, to_steps):
  """Holds the peak, then cools down linearly (arXiv:2405.18392, or warmup-stable-decay)."""
  cooldown = round(config.cooldown * (length + warmup))
  if cooldown > length:
    raise UserError(
      f"optim.schedule: a warm-up of {warmup:,} steps and a cool-down of {cooldown:,} "
      f"(cooldown={config.cooldown:g}) are longer than the run of {length + warmup:,}; shorten one"
    )
  end = config.end_factor * peak
  return optax.linear_schedule(peak, end, cooldown, transition_begin=length - cooldown)


@register(
  "schedule",
  "piecewise",
  uses=("points",),
  describe=lambda c: (
    "lines between "
    + ", ".join(f"x{share:g} at {durations.text(time)}" for time, share in c.points)
  ),
)
def _piecewise(config, peak, length, warmup, to_steps):
  """Draws straight lines between points; is constant before the first and after the last."""
  key = "optim.schedule.points"
  places = [to_steps(duration, key) for duration, _ in config.points]
  if sorted(set(places)) != places:
    raise UserError(f"{key} {tuple(config.points)!r} must rise in time, by a step at least")
  if warmup and places[0] < warmup:
    raise UserError(
      f"{key} {tuple(config.points)!r} begin before the end of the warm-up ({config.warmup!r}); "
      "let them begin there, or leave out optim.schedule.warmup and give its line by two points"
    )
  rates = [share * peak for _, share in config.points]
  return lambda step: jnp.interp(step + warmup, jnp.asarray(places), jnp.asarray(rates))


def _period(config: ConfigDict, to_steps: ToSteps) -> int:
  if not (period := to_steps(config.period, "optim.schedule.period")):
    raise UserError(f"optim.schedule.period {config.period!r} is less than a step")
  return period


def check(config: ConfigDict) -> None:
  """Raises UserError for an unknown schedule, one that lacks a key, or keys that it ignores."""
  registry.part("schedule", config.name)
  for name, key, example in (
    ("multi_step", "boundaries", "(80, 120)"),
    ("piecewise", "points", "((0, 0.1), (5, 1.0), (30, 0.0))"),
  ):
    if config.name == name and not config[key]:
      raise UserError(
        f"optim.schedule: {name} needs {key}, such as --config.optim.schedule.{key}='{example}'"
      )
  warmup, _ = durations.parse(config.warmup, "optim.schedule.warmup")
  if warmup and config.name == "one_cycle":
    raise UserError(
      "optim.schedule: one_cycle climbs by itself, until peak_at; set optim.schedule.warmup=0 "
      f"instead of {config.warmup!r}, or take cosine after the warm-up"
    )
  standard = keys.default().optim.schedule
  if not warmup and config.warmup_factor != standard.warmup_factor:
    raise UserError(
      f"optim.schedule.warmup_factor={config.warmup_factor!r} is where a warm-up begins, and "
      "there is none; set optim.schedule.warmup as well"
    )
  registry.check_idle("schedule", (config.name,), config)


def create(config: ConfigDict, peak: float, total_steps: int, to_steps: ToSteps) -> optax.Schedule:
  """Returns the schedule of `config.optim.schedule` over `total_steps`, in steps since the start.

  It is proportional to `peak`. It ends at `total_steps`, one step after the last one taken (torch's
  OneCycleLR ends at the last one itself).

  Raises:
    UserError: the warm-up is as long as the run, or the times of the schedule do not increase.
  """
  warmup = to_steps(config.warmup, "optim.schedule.warmup")
  if warmup >= total_steps:
    raise UserError(
      f"optim.schedule.warmup {config.warmup!r} is {warmup} steps, and the whole "
      f"run is {total_steps}; shorten it (0: none) or train longer"
    )
  make = registry.part("schedule", config.name).value
  schedule = make(config, peak, total_steps - warmup, warmup, to_steps)
  if not warmup:
    return schedule
  climb = optax.linear_schedule(config.warmup_factor * peak, peak, warmup)
  return optax.join_schedules([climb, schedule], [warmup])


def jump(before: optax.Schedule, after: optax.Schedule, step: int) -> tuple[float, float] | None:
  """Returns the rates of the last and the next step of a run that resumes with another length.

  None if they differ by less than a tenth: the schedule does not depend on the length, or not yet,
  as a trapezoid before its cool-down.

  Args:
    before: the schedule of the earlier length.
    after: the schedule of the new length.
    step: the number of steps done.
  """
  last, expected, following = float(before(step - 1)), float(before(step)), float(after(step))
  if abs(following - expected) <= 0.1 * max(following, expected):
    return None
  return last, following


def scaled_rate(config: ConfigDict, batch_size: int) -> float:
  """Returns the peak rate of `config.optim` for `batch_size` examples per step, on all devices.

  With `scale_from` the learning rate is meant for batches of that size, and grows in proportion
  (arXiv:1706.02677, section 2.1), or with the square root (arXiv:1404.5997, section 5).
  """
  if config.scale_from is None:
    return config.learning_rate
  ratio = batch_size / config.scale_from
  return config.learning_rate * {"linear": ratio, "sqrt": math.sqrt(ratio)}[config.scale_rule]


def describe_scaling(config: ConfigDict, batch_size: int) -> str:
  """Returns in words how the peak was scaled, for `describe`; "" if it was not."""
  if config.scale_from is None:
    return ""
  return (
    f" ({config.learning_rate:g} for {config.scale_from:,}, {config.scale_rule}, "
    f"batch {batch_size:,})"
  )


def describe(config: ConfigDict, peaks: Sequence[float], scaling: str = "") -> str:
  """Returns the schedule in words, for all `peaks`; `scaling` is of `describe_scaling`."""
  part = registry.part("schedule", config.name)
  if "describe" in part.options:
    text = part.options["describe"](config)
  else:
    text = ", ".join([config.name, *part.words(config)])
  if durations.parse(config.warmup, "optim.schedule.warmup")[0]:
    start = f" from x{config.warmup_factor:g}" if config.warmup_factor else ""
    text += f", warm-up {durations.text(config.warmup)}{start}"
  return f"learning rate {' | '.join(f'{peak:g}' for peak in peaks)}{scaling}, {text}"
