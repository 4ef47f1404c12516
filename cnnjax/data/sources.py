"""Registers the sources of images by name.

A source is a function (config, split) -> the `Split` of a split expression, where `config` is the
group `data`; its `check` raises UserError for wrong names, before anything is downloaded. Built-in
sources are modules of this room with `check` and `load`, imported when they are chosen.
"""

import importlib
from collections.abc import Callable
from types import ModuleType

from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.data.split import Split
from cnnjax.errors import UserError


def module(name: str) -> ModuleType:
  """Returns the module of a built-in source."""
  return importlib.import_module(f"cnnjax.data.{name}")


def _built_in(name: str) -> tuple[Callable, Callable]:
  """Returns (load, check) of a built-in source, which import it when they are called."""
  return (
    lambda config, split: module(name).load(config, split),
    lambda config: module(name).check(config),
  )


FOLDER = (
  "path", "group", "alpha", "orientation", "range", "dtype", "masks", "classes", "masks_white",
  "max_boxes",
)  # fmt: skip
for _name, _uses in {
  "arrays": ("range",),
  "digits": (),
  "synthetic": (),
  "folder": FOLDER,
  "npz": ("npz",),
  "tfds": ("name", "data_dir", "alpha", "orientation", "max_boxes"),
}.items():
  _load, _check = _built_in(_name)
  registry.register("source", _name, uses=_uses, check=_check)(_load)


def check(config: ConfigDict) -> None:
  """Raises UserError for an unknown source, keys of another one, or wrong names."""
  part = registry.part("source", config.source)
  registry.check_idle("source", (config.source,), config)
  if "check" in part.options:
    part.options["check"](config)


def load(config: ConfigDict, split: str) -> Split:
  """Returns the split of a name or an expression."""
  found = registry.part("source", config.source).value(config, split)
  if not isinstance(found, Split):
    raise UserError(
      f"the data source {config.source!r} must return a cnnjax.data.Split, and returned a "
      f"{type(found).__name__}"
    )
  return found
