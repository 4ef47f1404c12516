"""What happens to a config before a run: load, override, check. Its keys are in keys.py.

A config file is Python with `get_config(preset)`; it starts from `default()` and changes what
differs. Values from the command line come on top, and `validate` looks at the whole once, before
anything is downloaded or compiled.
"""

import ast
import contextlib
import difflib
import importlib.util
import inspect
import json
import os
import pathlib
import re
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cnnjax.config import durations, keys
from cnnjax.config.keys import MAY_CHANGE, default, flatten
from cnnjax.errors import UserError, unknown
from cnnjax.runtime import strict_json
from cnnjax.runtime.paths import PathLike, to_path


def split_argument(argument: str) -> tuple[str, str]:
  """(FILE, PRESET) of `FILE` or `FILE:PRESET`, where the path may have colons of its own."""
  colons = [at for at, letter in enumerate(argument) if letter == ":"]
  for at in (*colons, len(argument)):
    if os.path.isfile(to_path(argument[:at])):  # unlike Path.is_file, also for too long a name
      return argument[:at], argument[at + 1 :]
  path, suffix, preset = argument.rpartition(".py:")
  return (path + ".py", preset) if suffix else (argument, "")


def load(argument: PathLike) -> ConfigDict:
  """The config of `FILE` or `FILE:PRESET`. Config files are Python, and they are run.

  As in a script, what they import is looked for beside them first; of several configs each has the
  modules beside itself.
  """
  path, preset = split_argument(os.fspath(argument))
  file = to_path(path)
  if not os.path.isfile(file):
    choices = [
      str(p) for folder in {file.parent, pathlib.Path("configs")} for p in folder.glob("*.py")
    ]
    raise (
      unknown("config file", path, choices)
      if choices
      else UserError(
        f"no config file {path!r}: there is no such file, and no *.py in {str(file.parent)!r}"
      )
    )
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


# By folder: what its configs have imported from there.
_beside: dict[pathlib.Path, dict[str, types.ModuleType]] = {}


@contextlib.contextmanager
def _importing_beside(file: pathlib.Path) -> Iterator[None]:
  """Lets a config import the modules of its own folder, and none of another config's folder."""
  folder = file.resolve().parent
  others = {k: v for place, found in _beside.items() if place != folder for k, v in found.items()}
  for name in others:
    sys.modules.pop(name, None)
  own = _beside.setdefault(folder, {})
  sys.modules.update(own)
  before = {*sys.modules}
  sys.path.insert(0, str(folder))
  importlib.invalidate_caches()
  try:
    yield
  finally:
    sys.path.remove(str(folder))
    new = {*sys.modules} - before
    packages = {name for name in new if "." not in name and _lies_in(folder, sys.modules[name])}
    own |= {name: sys.modules[name] for name in new if name.split(".")[0] in packages}
    sys.modules.update({name: module for name, module in others.items() if name not in own})


def _lies_in(folder: pathlib.Path, module: types.ModuleType) -> bool:
  """Whether a module is a file of `folder`, or a package there."""
  spec = module.__spec__
  places = (spec.submodule_search_locations or [spec.origin]) if spec else []
  return any(pathlib.Path(place).resolve().parent == folder for place in places if place)


def _line(error: Exception, file: pathlib.Path) -> str:
  """The line of a config file that an error comes from."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(file.absolute())
  ]
  if isinstance(error, SyntaxError) and error.filename == str(file.absolute()):
    lines.append(error.lineno)
  return f", line {lines[-1]}" if lines else ""


def _reason(error: Exception) -> str:
  """An error in words; a key that the locked base config does not have, as `unknown_key` has it."""
  while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps a KeyError
    error = error.args[0]
  text = str(error.args[0]) if error.args else ""
  if match := re.match(r"(?:Key \"|')(\w+)(?:\" does not exist|'\nDid you mean)", text):
    return str(unknown_key(match[1], keys.defaults()))
  return f"{type(error).__name__}: {text}"


def pick(
  preset: str, presets: Mapping[str, Callable[[ConfigDict], None]], config: ConfigDict
) -> ConfigDict:
  """`config` after the preset of that name has changed it."""
  if preset not in presets:
    raise unknown("preset", preset, presets)
  presets[preset](config)
  return config


def from_arguments(argument: str | None, words: Sequence[str], flags: Sequence[str]) -> ConfigDict:
  """The config of `load(argument)` after the overrides among the `words` of a command line.

  `flags` are what else the command takes, for its errors.
  """
  given: dict[str, str] = {}
  rest = iter(words)
  for word in rest:
    flag, equals, value = word.partition("=")
    if not flag.startswith("--config."):
      if (key := flag.removeprefix("--")) != flag and key in keys.defaults():
        raise UserError(f"{flag} is a config key: --config.{key}=VALUE")
      raise unknown("argument", flag, ["--config", "--config.KEY=VALUE", "--help", *flags])
    if not equals and ((value := next(rest, None)) is None or value.startswith("--")):
      raise UserError(f"{flag} needs a value: {flag}=VALUE")
    if flag in given:
      raise UserError(f"{flag} is given twice")
    given[flag] = value
  if not argument:
    raise UserError("which config? --config=FILE[:PRESET], such as --config=configs/resnet.py")
  config = load(argument)
  values = {flag.removeprefix("--config."): value for flag, value in given.items()}
  values = {key: parse_value(value, key) for key, value in values.items()}
  for key, value in values.items():
    if key in keys.OF_A_CHOICE and value != flatten(config)[key]:
      standard = keys.defaults()
      for idle in keys.OF_A_CHOICE[key]:
        override(config, idle, standard[idle])
  for key, value in values.items():
    override(config, key, value)
  return config


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
