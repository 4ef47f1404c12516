"""Reads the values of keys from text, sets them, and checks their types and rules."""

import ast
import difflib
import warnings
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.config import durations
from cnnjax.config.keys import flatten
from cnnjax.errors import UserError


def parse_value(text: str, key: str) -> Any:
  """Returns the value of a key from the text of a command line.

  The value is a Python literal, or true, false or none in any case, or else the text itself. A key
  that takes text but not the type of the literal gets the text too, such as a folder named 2024.
  """
  words = {"true": True, "false": False, "none": None, "null": None}
  known = registry.keys().get(key)
  types = known.takes if known else ()  # else a field of a model, or a mistake
  if text.lower() in words:
    value = words[text.lower()]
  else:
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of "\d" in a pattern, since Python 3.12
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
      value = float(text) if text.lower() in ("nan", "inf", "-inf") else text
  is_text = str in types and tuple not in types and not known.duration
  return text if is_text and not registry.is_of(value, types) else value


def override(config: ConfigDict, key: str, value: Any) -> None:
  """Sets a dotted key, which must exist; any below `model`, which `validate` checks."""
  *parents, leaf = key.split(".")
  flat = flatten(config)
  if key not in flat and parents != ["model"]:
    if any(k.startswith(key + ".") for k in flat):
      raise UserError(
        f"config key {key!r} is a group; set one of its keys, such as "
        f"{next(k for k in flat if k.startswith(key + '.'))!r}"
      )
    raise unknown_key(key, flat)
  known = registry.keys().get(key)
  types = known.takes if known else ()
  if tuple in types and isinstance(value, int | float | str) and type(value) not in types:
    value = (
      tuple(value.split(",")) if known and known.names and isinstance(value, str) else (value,)
    )
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
  """Returns the error for an unknown key, with the nearest one; its last part counts most."""
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
  """Checks keys, types and values, as `build.validate` does; imports nothing and reads no files."""
  known, flat = registry.keys(), flatten(config)
  for name, value in flat.items():
    if name not in known and not name.startswith("model."):
      raise unknown_key(name, known)
    _check_printable(name, value)
  for name, key in known.items():
    if name in flat:
      _check_value(name, key, flat[name])
    elif not registry.came_with(name):
      raise UserError(f"config key {name!r} is missing: start from cnnjax.config.default()")
  for name, value in flat.items():
    if name not in known:  # a field of the model, which checks the rest
      registry.check_finite(name, value)
  _check_needs(flat)
  listed = [("optim.schedule.boundaries", b) for b in flat["optim.schedule.boundaries"]]
  listed += [("optim.schedule.points", point[0]) for point in flat["optim.schedule.points"]]
  for name, duration in listed:
    registry.Key("", "", types=registry.DURATION).check(name, duration)
    durations.parse(duration, name)


def _check_printable(name: str, value: Any) -> None:
  """Raises UserError for a value that errors cannot quote, such as a number of 5,000 digits."""
  try:
    repr(value)
  except (ValueError, RecursionError):
    raise UserError(f"config key {name!r} has too many digits, or too many brackets") from None


def _check_value(name: str, key: registry.Key, value: Any) -> None:
  """Raises UserError for a value of a wrong type, against its rule or choices, or no duration."""
  key.check(name, value)
  if key.duration and value is not None:
    amount, _ = durations.parse(value, name)
    if not amount and not key.may_be_0:
      raise UserError(f"config key {name!r} is {value!r}; it must be above 0")


def _check_needs(flat: dict[str, Any]) -> None:
  """Raises UserError for a key without effect, because the key that it needs is not set."""
  known = registry.keys()
  for name, key in known.items():
    if not key.needs or name not in flat or flat[name] == key.default:
      continue
    switch, _, wanted = key.needs.partition("=")
    if flat[switch] == wanted if wanted else flat[switch] != known[switch].default:
      continue
    raise UserError(
      f"config key {name!r} is {flat[name]!r} and has no effect without {key.needs}: set that as "
      f"well, or leave it at {key.default!r}"
    )
