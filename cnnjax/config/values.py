"""Values of keys: reads them from text, sets them, checks their types and rules."""

import ast
import difflib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from cnnjax.config import durations, keys
from cnnjax.config.keys import flatten
from cnnjax.errors import UserError, unknown


def parse_value(text: str, key: str) -> Any:
  """The value of a key from the command line.

  A Python literal, true/false/none in any case, or the text: also where the key takes text and
  not what the literal is, as a folder named 2024.
  """
  words = {"true": True, "false": False, "none": None, "null": None}
  types = keys.types(key)
  if text.lower() in words:
    value = words[text.lower()]
  else:
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of "\d" in a pattern, since Python 3.12
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
      value = float(text) if text.lower() in ("nan", "inf", "-inf") else text
  is_text = str in types and tuple not in types and key not in keys.DURATIONS
  return text if is_text and not _is_of(value, types) else value


def override(config: ConfigDict, key: str, value: Any) -> None:
  """Sets one dotted key, which must exist; under `model` any, since `validate` asks the model."""
  *parents, leaf = key.split(".")
  flat = flatten(config)
  if key not in flat and parents != ["model"]:
    if any(k.startswith(key + ".") for k in flat):
      raise UserError(
        f"config key {key!r} is a group; set one of its keys, such as "
        f"{next(k for k in flat if k.startswith(key + '.'))!r}"
      )
    raise unknown_key(key, flat)
  types = keys.types(key)
  if tuple in types and isinstance(value, int | float | str) and type(value) not in types:
    value = (value,)
  node = config
  for parent in parents:
    node = node[parent]
  try:
    node[leaf] = value
  except OverflowError:
    raise UserError(f"config key {key!r} has too many digits") from None
  except ValueError as e:  # names in a dict that ConfigDict does not take
    raise UserError(f"config key {key!r} cannot be {str(value)[:80]}: {e}") from None


def unknown_key(key: str, known: Mapping[str, Any]) -> UserError:
  """The error for a key that is not there; a right last part counts, whatever its group."""
  last = {k: k.split(".")[-1] for k in (key, *known)}
  initials = lambda name: "".join(word[0] for word in name.split("_"))  # lr: learning_rate
  near = (
    [k for k in known if last[k] == last[key]]
    or [k for k in known if initials(last[k]) == last[key]]
    or [k for k in known if difflib.get_close_matches(last[key], [last[k]])]
    or difflib.get_close_matches(key, known, cutoff=0.8)
  )
  near = difflib.get_close_matches(key, near, n=1, cutoff=0)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  return UserError(f"unknown config key {key!r}.{hint} All keys: python -m cnnjax.main --help")


def check_values(config: ConfigDict) -> None:
  """As `validate`, of keys, types and values alone: imports nothing, and looks at no files."""
  base, flat = keys.defaults(), flatten(config)
  for key, value in flat.items():
    if key not in base and not key.startswith("model."):
      raise unknown_key(key, base)
    _check_printable(key, value)
  for key in base:
    if key not in flat:
      raise UserError(f"config key {key!r} is missing: start from cnnjax.config.default()")
    _check_type(key, flat[key], keys.types(key))
  _check_values(flat)


def _check_printable(key: str, value: Any) -> None:
  """Errors quote values, and Python writes no number of more than 4,300 digits."""
  try:
    repr(value)
  except (ValueError, RecursionError):
    raise UserError(f"config key {key!r} has too many digits, or too many brackets") from None


def _check_type(key: str, value: Any, types: tuple[type | None, ...]) -> None:
  if not _is_of(value, types):
    names = " or ".join("None" if t is None else t.__name__ for t in types)
    raise UserError(f"config key {key!r} takes {names}, not {value!r}")


def _is_of(value: Any, types: tuple[type | None, ...]) -> bool:
  """Whether a value is of one of the types; an int is a float as well, and a bool is no number."""
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


def _check_values(flat: dict[str, Any]) -> None:
  for key, value in flat.items():
    if not all(abs(number) < 2**63 for number in _numbers(value)):  # nor NaN
      raise UserError(f"config key {key!r} is {value}; it must be finite and below 2**63")
    holds, text = keys.RULES.get(key, (lambda _: True, ""))
    if value is not None and not holds(value):
      raise UserError(f"config key {key!r} is {value!r}; it must be {text}")
    if key in keys.CHOICES and value is not None and value not in keys.CHOICES[key]:
      raise unknown(key, value, keys.CHOICES[key])
    if key in keys.DURATIONS and value is not None:
      amount, _ = durations.parse(value, key)
      if not amount and key not in keys.MAY_BE_0:
        raise UserError(f"config key {key!r} is {value!r}; it must be above 0")
  standard = keys.defaults()
  for key, (switch, wanted) in keys.NEEDS.items():
    on = flat[switch] == wanted if wanted else flat[switch] != standard[switch]
    if not on and flat[key] != standard[key]:
      say = f"{switch}={wanted}" if wanted else switch
      raise UserError(
        f"config key {key!r} is {flat[key]!r} and has no effect without {say}: set that as well, "
        f"or leave it at {standard[key]!r}"
      )
  listed = [("optim.schedule.boundaries", b) for b in flat["optim.schedule.boundaries"]]
  listed += [("optim.schedule.points", point[0]) for point in flat["optim.schedule.points"]]
  for key, duration in listed:
    _check_type(key, duration, keys.DURATION)
    durations.parse(duration, key)


def _numbers(value: Any) -> Iterator[int | float]:
  """The numbers of a value, also of what is nested."""
  if isinstance(value, tuple | list):
    for item in value:
      yield from _numbers(item)
  elif isinstance(value, int | float) and not isinstance(value, bool):
    yield value
