"""Checks the arguments of augmentations, before anything compiles."""

from collections.abc import Iterable
from typing import Any

from cnnjax.errors import UserError, unknown


def _is_number(value: Any, integer: bool) -> bool:
  return isinstance(value, int if integer else int | float) and not isinstance(value, bool)


def number(
  operation: str,
  what: str,
  value: Any,
  low: float,
  high: float | None = None,
  integer: bool = False,
) -> None:
  """Raises UserError unless `value` is a finite number, or an integer, from `low` to `high`.

  `what` is the argument in words; of one value of many, "weights, each".
  """
  limit = 1e9 if high is None else high
  if not (_is_number(value, integer) and low <= value <= limit):
    kind = "an integer" if integer else "a number"
    allowed = f"of at least {low}" if high is None else f"between {low} and {high}"
    comma = "" if what.endswith("each") else ","  # "factors, each a number"
    raise UserError(f"augment: {operation} takes {what}{comma} {kind} {allowed}, not {value!r}")


def interval(
  operation: str, what: str, value: Any, low: float, high: float | None = None
) -> tuple[float, float]:
  """Returns `value` as (lowest, highest), both from `low` to `high`; else raises UserError."""
  limit = 1e9 if high is None else high
  if not (
    isinstance(value, tuple | list)
    and len(value) == 2
    and all(_is_number(v, integer=False) for v in value)
    and low <= value[0] <= value[1] <= limit
  ):
    allowed = f"at least {low}" if high is None else f"between {low} and {high}"
    raise UserError(
      f"augment: {operation} takes {what}, two numbers (lowest, highest) {allowed}, not {value!r}"
    )
  return float(value[0]), float(value[1])


def pair(
  operation: str, what: str, value: Any, high: float, other: Any = None
) -> tuple[float, float]:
  """Returns `value` as (along x, along y), each from 0 to `high`.

  A single number is for x, and y gets `other`, or with None the number too.
  """
  if _is_number(value, integer=False):
    value = (value, value if other is None else other)
  if not (isinstance(value, tuple | list) and len(value) == 2):
    raise UserError(
      f"augment: {operation} takes {what}, a number or two, (along x, along y), not {value!r}"
    )
  for v in value:
    number(operation, what, v, 0, high)
  return float(value[0]), float(value[1])


def one_of(kind: str, name: Any, choices: Iterable[str]) -> None:
  """Raises UserError unless `name` is one of `choices`."""
  if name not in tuple(choices):
    raise unknown(kind, name, choices)
