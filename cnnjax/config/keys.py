"""The base config: the keys of all rooms at their defaults, and those that a run may change.

A key is declared beside the part that reads it: those of a run in training/keys.py, those of
optimizers in optim/keys.py, and so on; `registry.Key` says what a declaration holds.
"""

import functools
import operator
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cnnjax import registry


def default() -> ConfigDict:
  """Returns a config with every key at its default; it takes no other keys.

  Durations are epochs, as a number that may be a fraction, or a string: "500 steps",
  "2.5 epochs", "1e6 examples".
  """
  config = ConfigDict(type_safe=False)
  for name, value in defaults().items():
    *groups, leaf = name.split(".")
    group = config
    for inner in groups:
      if inner not in group:
        group[inner] = ConfigDict(type_safe=False)
      group = group[inner]
    group[leaf] = value
  config.lock()
  config.model.unlock()
  return config


def defaults() -> dict[str, Any]:
  """Returns the default of every key by its dotted name."""
  return {name: key.default for name, key in registry.keys().items()}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns the leaves of a nested config by their dotted names."""
  flat = {}
  for key, value in config.items():
    nested = isinstance(value, Mapping | ConfigDict) and len(value)
    nested = nested and all(isinstance(name, str) for name in value)  # else it is a value
    flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
  return flat


def complete(config: ConfigDict) -> None:
  """Adds the keys of parts that were registered after `config` was made, at their defaults."""
  existing = flatten(config)
  for name, key in registry.keys().items():
    if registry.came_with(name) and name not in existing:
      *groups, leaf = name.split(".")
      group = functools.reduce(operator.getitem, groups, config)
      with group.unlocked():
        group[leaf] = key.default


def may_change() -> list[str]:
  """Returns the keys that a run may change when it resumes: they change no earlier step."""
  return [name for name, key in registry.keys().items() if key.may_change]


def before() -> dict[str, tuple[Any, str, str]]:
  """Returns the behaviour of runs from before a key existed: see `Key.before`."""
  return {name: key.before for name, key in registry.keys().items() if key.before}
