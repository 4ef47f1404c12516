"""A config key: its default, its meaning, the values that it takes, and rules for them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from cnnjax.errors import UserError, unknown

Rule = tuple[Callable[[Any], bool], str]  # a condition on a value, and its words: "above 0"
ANY = (bool, int, float, str, tuple, None)
DURATION = (int, float, str)


@dataclasses.dataclass(frozen=True)
class Key:
  """A config key: its default, its meaning, and the values that it takes.

  Args:
    default: its value unless set. A default of None means that it may be None.
    comment: its meaning, one line of --help.
    types: of its values; None stands for None. By default the type of `default`, or any type if
      that is None. A float takes an int as well.
    rule: a condition on values other than None, and its words: `(lambda v: v > 0, "above 0")`.
    choices: the values that it takes.
    duration: it is a duration, as 3 (epochs) or "500 steps".
    may_be_0: a duration that may be 0.
    names: it is a tuple of names, which may be written "one,other".
    needs: the key without which this one has no effect, "optim.lookahead", or that key with its
      value, "dtype=float16".
    idle: values without effect, beside the default.
    may_change: a run that resumes may change it: it changes no arithmetic, or only the run's end.
    before: the behaviour of runs from before the key existed, if it differs from the default: the
      value, the key that it acts with, and the value of that.
  """

  default: Any
  comment: str
  types: Any = ()
  rule: Rule | None = None
  choices: tuple[str, ...] = ()
  duration: bool = False
  may_be_0: bool = False
  names: bool = False
  needs: str = ""
  idle: tuple[Any, ...] = ()
  may_change: bool = False
  before: tuple[Any, str, str] | None = None

  @property
  def takes(self) -> tuple[type | None, ...]:
    """The types of its values, with None if it may be None."""
    types = self.types if isinstance(self.types, tuple) else (self.types,)
    if self.duration:
      types = DURATION
    if self.default is None:
      return (*types, None) if types else ANY
    return types or (type(self.default),)

  def check(self, name: str, value: Any) -> None:
    """Raises UserError unless the key takes `value`; `name` is its dotted name."""
    if not is_of(value, self.takes):
      names = " or ".join("None" if t is None else t.__name__ for t in self.takes)
      raise UserError(f"config key {name!r} takes {names}, not {value!r}")
    if value is None:
      return
    check_finite(name, value)
    if self.rule and not self.rule[0](value):
      raise UserError(f"config key {name!r} is {value!r}; it must be {self.rule[1]}")
    if self.choices and value not in self.choices:
      raise unknown(name, value, self.choices)


def is_of(value: Any, types: tuple[type | None, ...]) -> bool:
  """Returns whether a value has one of the types; an int is a float too, a bool is no number."""
  return any(
    value is None
    if t is None
    else isinstance(value, int | float) and not isinstance(value, bool)
    if t is float
    else isinstance(value, tuple | list)
    if t is tuple
    else isinstance(value, t) and not (t is int and isinstance(value, bool))
    for t in types
  )


def check_finite(name: str, value: Any) -> None:
  """Raises UserError for a number that is not finite or beyond 64 bits, also in a tuple."""
  if not all(abs(number) < 2**63 for number in _numbers(value)):  # nor NaN
    raise UserError(f"config key {name!r} is {value}; it must be finite and below 2**63")


def _numbers(value: Any) -> Iterator[int | float]:
  """Yields the numbers in a value, also nested ones."""
  if isinstance(value, tuple | list):
    for item in value:
      yield from _numbers(item)
  elif isinstance(value, int | float) and not isinstance(value, bool):
    yield value


def is_number(value: Any) -> bool:
  """Returns whether a value is an int or a float: no NaN, and nothing beyond a float's range."""
  return type(value) in (int, float) and abs(value) < 2**63


ABOVE_0: Rule = (lambda v: v > 0, "above 0")
AT_LEAST_0: Rule = (lambda v: v >= 0, "at least 0")
AT_LEAST_1: Rule = (lambda v: v >= 1, "at least 1")
SHARE: Rule = (lambda v: 0 <= v < 1, "at least 0 and below 1")
ABOVE_0_TO_1: Rule = (lambda v: 0 < v <= 1, "above 0 and at most 1")
INSIDE_0_TO_1: Rule = (lambda v: 0 < v < 1, "between 0 and 1")
FROM_0_TO_1: Rule = (lambda v: 0 <= v <= 1, "between 0 and 1")
SEED: Rule = (lambda v: 0 <= v < 2**32, "at least 0 and below 2**32")  # as jax.random.key takes
