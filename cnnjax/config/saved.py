"""Writes a config as JSON into a workdir, reads it, and compares two of them."""

import functools
import json
import operator
import pathlib
from typing import Any

from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.config.keys import before, default, flatten, may_change
from cnnjax.config.values import unknown_key
from cnnjax.errors import UserError
from cnnjax.runtime import strict_json
from cnnjax.runtime.paths import PathLike, to_path

CONFIG = "config.json"  # in the workdir of each run


def file_of_run(workdir: PathLike) -> pathlib.Path:
  """Returns the file that holds the config of the run in `workdir`.

  Raises:
    UserError: there is no run.
  """
  file = to_path(workdir) / CONFIG
  if not file.is_file():
    raise UserError(f"{to_path(workdir)} holds no run: there is no {CONFIG} in it")
  return file


def to_json(config: ConfigDict) -> str:
  """Returns the resolved config as JSON, in the order of its keys.

  Leaves out the keys of outside parts that are not chosen: a run that does not use a part can be
  read without its module.
  """
  values = config.to_dict()
  for name in registry.unread(flatten(values)):
    *groups, leaf = name.split(".")
    del functools.reduce(operator.getitem, groups, values)[leaf]
  return strict_json.dumps(values, indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
  """Returns the config that `to_json` wrote; newer keys get the behaviour from before they existed.

  Raises:
    UserError: it has an unknown key.
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
  """Returns the modules that a saved config imports; `from_json` may need their keys.

  Raises: as `from_json`.
  """
  return tuple(map(str, flatten(json.loads(text)).get("imports", ())))


def _as_tuples(value: Any) -> Any:
  return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Returns {key: (old, new)} of the keys that differ and may not when a run resumes."""
  was, now = (flatten(json.loads(to_json(c))) for c in (old, new))
  free = may_change()
  return {
    key: (was.get(key), now.get(key))
    for key in sorted({*was, *now})
    if was.get(key) != now.get(key) and key not in free
  }
