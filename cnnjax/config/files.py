"""Finds and runs config files, and applies the values of a command line."""

import contextlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.config.keys import complete, default, flatten
from cnnjax.config.values import override, parse_value, unknown_key
from cnnjax.errors import UserError, unknown
from cnnjax.runtime.paths import PathLike, to_path

FOLDER = "configs"  # of a clone, and of the package that a wheel installs


def split_argument(argument: str) -> tuple[str, str]:
  """Splits `FILE` or `FILE:PRESET` into (FILE, PRESET); the path may have colons of its own."""
  colons = [at for at, letter in enumerate(argument) if letter == ":"]
  for at in (*colons, len(argument)):
    if os.path.isfile(to_path(argument[:at])):  # Path.is_file raises for too long a name
      return argument[:at], argument[at + 1 :]
  path, suffix, preset = argument.rpartition(".py:")
  return (path + ".py", preset) if suffix else (argument, "")


def load(argument: PathLike) -> ConfigDict:
  """Returns the config of `FILE` or `FILE:PRESET`. Runs the file, which is Python.

  As in a script, imports are looked for beside the file first; each config gets the modules beside
  itself. `configs/NAME.py` is found from any folder: if the working directory has
  none, it is the one that came with cnnjax.

  Raises:
    UserError: there is no such file, it fails, or it has no such preset.
  """
  path, preset = split_argument(os.fspath(argument))
  file = _found(path)
  name = "cnnjax_config" + re.sub(r"\W", "_", str(file.absolute()))
  spec = importlib.util.spec_from_file_location(name, file)
  if spec is None:
    raise UserError(f"the config file {path!r} is not a Python file (*.py)")
  module = importlib.util.module_from_spec(spec)
  try:
    with _importing_beside(file):
      sys.modules[name] = module  # dataclasses look their annotations up there
      spec.loader.exec_module(module)
      if preset and not inspect.signature(module.get_config).parameters:
        raise UserError(f"{path} has no presets; leave out {':' + preset!r}")
      config = module.get_config(preset) if preset else module.get_config()
  except UserError:
    raise
  except Exception as e:
    raise UserError(f"in {path}{_line(e, file)}: {_reason(e)}") from e
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"get_config in {path} gives {config!r}, not a config: it starts from cnnjax.config.default()"
    )
  return config


def presets() -> pathlib.Path:
  """Returns the folder of the config files that came with cnnjax, of a wheel or of a clone."""
  package = pathlib.Path(__file__).parents[1]
  in_wheel, in_clone = package / FOLDER, package.parent / FOLDER
  # Folders beside an installed package belong to other packages.
  return in_clone if (package.parent / "pyproject.toml").is_file() else in_wheel


def _found(path: str) -> pathlib.Path:
  """Returns the config file at `path`, else the one of that name that came with cnnjax.

  Raises:
    UserError: both are missing.
  """
  file = to_path(path)
  if os.path.isfile(file):  # unlike Path.is_file, also for too long a name
    return file
  if file.parent == pathlib.Path(FOLDER) and os.path.isfile(shipped := presets() / file.name):
    return shipped
  choices = [str(f) for folder in {file.parent, pathlib.Path(FOLDER)} for f in folder.glob("*.py")]
  if presets() not in (file.parent.absolute(), pathlib.Path(FOLDER).absolute()):
    choices += [f"{FOLDER}/{f.name}" for f in presets().glob("*.py")]
  raise unknown("config file", path, choices)


# The modules that configs have imported from their folder, by folder.
_beside: dict[pathlib.Path, dict[str, types.ModuleType]] = {}


@contextlib.contextmanager
def _importing_beside(file: pathlib.Path) -> Iterator[None]:
  """Lets a config import the modules of its own folder, and none of another config's folder."""
  folder = file.resolve().parent
  elsewhere = [modules for place, modules in _beside.items() if place != folder]
  others = {name: module for modules in elsewhere for name, module in modules.items()}
  for name in others:
    sys.modules.pop(name, None)
  beside = _beside.setdefault(folder, {})
  sys.modules.update(beside)
  before = {*sys.modules}
  sys.path.insert(0, str(folder))
  importlib.invalidate_caches()
  try:
    yield
  finally:
    sys.path.remove(str(folder))
    new = {*sys.modules} - before
    packages = {name for name in new if "." not in name and _lies_in(folder, sys.modules[name])}
    beside |= {name: sys.modules[name] for name in new if name.split(".")[0] in packages}
    sys.modules.update({name: module for name, module in others.items() if name not in beside})


def _lies_in(folder: pathlib.Path, module: types.ModuleType) -> bool:
  """Returns whether a module is a file of `folder`, or a package there."""
  spec = module.__spec__
  places = (spec.submodule_search_locations or [spec.origin]) if spec else []
  return any(pathlib.Path(place).resolve().parent == folder for place in places if place)


def _line(error: Exception, file: pathlib.Path) -> str:
  """Returns in words the line of a config file that an error comes from."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(file.absolute())
  ]
  if isinstance(error, SyntaxError) and error.filename == str(file.absolute()):
    lines.append(error.lineno)
  return f", line {lines[-1]}" if lines else ""


def _reason(error: Exception) -> str:
  """Returns an error in words; for a key that the base config lacks, those of `unknown_key`."""
  while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps a KeyError
    error = error.args[0]
  text = str(error.args[0]) if error.args else ""
  if match := re.match(r"(?:Key \"|')(\w+)(?:\" does not exist|'\nDid you mean)", text):
    return str(unknown_key(match[1], registry.keys()))
  return f"{type(error).__name__}: {text}"


def pick(
  preset: str, presets: Mapping[str, Callable[[ConfigDict], None]], config: ConfigDict
) -> ConfigDict:
  """Applies the preset of that name to `config`, and returns it."""
  if preset not in presets:
    raise unknown("preset", preset, presets)
  presets[preset](config)
  return config


def from_arguments(argument: str | None, words: Sequence[str], flags: Sequence[str]) -> ConfigDict:
  """Returns the config of `load(argument)` with the overrides among the `words` of a command line.

  Modules in `imports` are imported before the overrides are read, which may name their keys.
  `flags` are the other flags of the command, for its errors.
  """
  texts = _overrides(words, flags)
  if not argument:
    raise UserError("give a config: --config=FILE[:PRESET], such as --config=configs/resnet.py")
  config = load(argument)
  if "imports" in texts:
    override(config, "imports", parse_value(texts.pop("imports"), "imports"))
  import_parts(config)
  values = {key: parse_value(value, key) for key, value in texts.items()}
  set_back(config, values)
  for key, value in values.items():
    override(config, key, value)
  chosen = [value for key, value in flatten(config).items() if key != "imports"]
  registry.check_used(config.imports, chosen)
  return config


def _overrides(words: Sequence[str], flags: Sequence[str]) -> dict[str, str]:
  """Returns the overrides of a command line as text by key."""
  given: dict[str, str] = {}
  rest = iter(words)
  for word in rest:
    flag, equals, value = word.partition("=")
    if not flag.startswith("--config."):
      if (key := flag.removeprefix("--")) != flag and registry.keys().get(key):
        raise UserError(f"{flag} is a config key: --config.{key}=VALUE")
      raise unknown("argument", flag, ["--config", "--config.KEY=VALUE", "--help", *flags])
    if not equals and ((value := next(rest, None)) is None or value.startswith("--")):
      raise UserError(f"{flag} needs a value: {flag}=VALUE")
    key = flag.removeprefix("--config.")
    if key in given:
      raise UserError(f"{flag} is given twice")
    given[key] = value
  return given


def import_parts(config: ConfigDict) -> None:
  """Imports the modules in `config.imports`, and adds the keys of their parts."""
  registry.keys()["imports"].check("imports", config.imports)
  registry.import_modules(config.imports)
  complete(config)


def set_back(config: ConfigDict, values: Mapping[str, Any]) -> None:
  """Resets the keys that were set for a part, if `values`, by dotted names, choose another."""
  flat, known = flatten(config), registry.keys()
  for kind, row in registry.PART_KINDS.items():
    if row.resets and row.switch in values and values[row.switch] != flat[row.switch]:
      for name in registry.keys_of(kind):
        override(config, name, known[name].default)


def keys_help(words: Sequence[str]) -> str:
  """Returns the config keys for --help, with those of modules that `words` import."""
  for word in words:
    flag, _, value = word.partition("=")
    if flag == "--config.imports":
      config = default()
      override(config, "imports", parse_value(value, "imports"))
      import_parts(config)
  lines, before = [], ""
  for name, key in registry.keys().items():
    group, heading = name.rpartition(".")[0], registry.starts().get(name)
    if heading or (heading is not None and group != before):
      lines.append("")
    if heading:
      lines.append(f"--config.{group}.*  # {heading}")
    quoted = isinstance(key.default, str) and f'"{key.default}"'
    lines.append(f"--config.{name} = {quoted or repr(key.default)}  # {key.comment}")
    before = group
  return "\n".join(lines)
