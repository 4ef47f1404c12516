"""A config as JSON, in the folder of a run: writes it, reads it, compares two of them."""

import json
from typing import Any

from ml_collections import ConfigDict

from cnnjax.config import keys
from cnnjax.config.keys import MAY_CHANGE, default, flatten
from cnnjax.config.values import unknown_key
from cnnjax.runtime import strict_json


def to_json(config: ConfigDict) -> str:
  """The resolved config as JSON, in the order of its keys."""
  return strict_json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
  """The config that `to_json` wrote; keys that are newer than it have what was done before.

  Raises:
    UserError: it has a key that there is not.
    ValueError, AttributeError, TypeError, KeyError, RecursionError: it is not the JSON of a config.
  """
  config = default()
  known, saved = flatten(config), flatten(json.loads(text))
  for key, (value, switch, wanted) in keys.BEFORE.items():
    saved |= {key: value} if key not in saved and saved.get(switch) == wanted else {}
  for key, value in saved.items():
    if key not in known and not key.startswith("model."):
      raise unknown_key(key, known)
    node = config
    for parent in key.split(".")[:-1]:
      node = node[parent]
    node[key.split(".")[-1]] = _as_tuples(value)
  return config


def _as_tuples(value: Any) -> Any:
  return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """The keys that differ and that a run which goes on may not change, as {key: (old, new)}."""
  before, after = (flatten(json.loads(to_json(c))) for c in (old, new))
  return {
    key: (before.get(key), after.get(key))
    for key in sorted({*before, *after})
    if before.get(key) != after.get(key) and key not in MAY_CHANGE
  }
