"""A config as JSON, in the folder of a run: writes it, reads it, compares two of them."""

import functools
import json
import operator
from typing import Any

from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.config.keys import before, default, flatten, may_change
from cnnjax.config.values import unknown_key
from cnnjax.runtime import strict_json


def to_json(config: ConfigDict) -> str:
  """The resolved config as JSON, in the order of its keys.

  Without the keys of parts from outside that are not chosen: a run that has nothing to do with a
  part can be read where its module is not imported.
  """
  values = config.to_dict()
  for name in registry.unread(flatten(values)):
    *groups, leaf = name.split(".")
    del functools.reduce(operator.getitem, groups, values)[leaf]
  return strict_json.dumps(values, indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
  """The config that `to_json` wrote; keys that are newer than it have what was done before.

  Raises:
    UserError: it has a key that there is not.
    ValueError, AttributeError, TypeError, KeyError, RecursionError: it is not the JSON of a config.
  """
  config = default()
  known, saved = flatten(config), flatten(json.loads(text))
  for key, (value, switch, wanted) in before().items():
    saved |= {key: value} if key not in saved and saved.get(switch) == wanted else {}
  for key, value in saved.items():
    if key not in known and not key.startswith("model."):
      raise unknown_key(key, known)
    node = config
    for parent in key.split(".")[:-1]:
      node = node[parent]
    node[key.split(".")[-1]] = _as_tuples(value)
  return config


def imports(text: str) -> tuple[str, ...]:
  """The modules that a saved config imports, without which `from_json` may lack keys.

  Raises: as `from_json`.
  """
  return tuple(map(str, flatten(json.loads(text)).get("imports", ())))


def _as_tuples(value: Any) -> Any:
  return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """The keys that differ and that a run which goes on may not change, as {key: (old, new)}."""
  was, now = (flatten(json.loads(to_json(c))) for c in (old, new))
  free = may_change()
  return {
    key: (was.get(key), now.get(key))
    for key in sorted({*was, *now})
    if was.get(key) != now.get(key) and key not in free
  }
