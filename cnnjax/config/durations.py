"""Reads durations: a number of epochs, or "500 steps", "2.5 epochs", "1e6 examples"."""

import math
import re

from cnnjax.errors import UserError


def parse(value: float | int | str, key: str) -> tuple[float, str]:
  """Returns (amount, unit) of a duration; the unit is steps, epochs or examples."""
  try:
    if isinstance(value, str):
      match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(step|epoch|example)s?\s*", value)
      amount, unit = float(match[1]), match[2] + "s"
    else:
      amount, unit = float(value), "epochs"
  except (TypeError, ValueError, OverflowError):
    raise UserError(
      f'{key} is {value!r}; a duration is a number of epochs, "500 steps", '
      '"2.5 epochs" or "1e6 examples"'
    ) from None
  if not (math.isfinite(amount) and amount >= 0):
    raise UserError(f"{key} is {value!r}; a duration must be finite and not negative")
  return amount, unit


def text(value: float | int | str) -> str:
  """Returns a duration in words."""
  return value if isinstance(value, str) else f"{value:g} epoch{'s' if value != 1 else ''}"


def in_steps(value: float | int | str, key: str, steps_per_epoch: int, batch_size: int) -> int:
  """Returns a duration in whole steps, rounded to the nearest."""
  amount, unit = parse(value, key)
  per_unit = {"steps": 1, "epochs": steps_per_epoch, "examples": 1 / batch_size}[unit]
  steps = amount * per_unit
  if not steps < 2**31 - 1:  # steps are int32
    raise UserError(f"{key} {value!r} is more than 2**31 steps")
  return round(steps)
