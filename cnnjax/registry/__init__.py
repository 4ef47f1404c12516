"""Registers every part that a config can name, and every key that it can set.

A part is a task, loss, head, metric, source, augmentation, optimizer, schedule, step or model. It
brings its own config keys, from cnnjax or from a module of yours:

    from cnnjax import Key, register

    @register("loss", "poly1", of="classification", epsilon=Key(1.0, "of the first term"))
    def poly1(task, logits, targets): ...

`--config.imports=my_module --config.task.loss=poly1 --config.task.epsilon=2` trains with it. The
key is checked, shown by `--help`, saved, resumed and compared like any other, and refused when
another loss is chosen. Nothing here imports JAX: the keys of built-in parts are in the keys.py of
their rooms, which runs without the room. key.py defines a key.

This room imports no other, but for a part the room of its kind, by name.
"""

import importlib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from cnnjax.errors import UserError, unknown
from cnnjax.registry.key import (
  ABOVE_0,
  ABOVE_0_TO_1,
  ANY,
  AT_LEAST_0,
  AT_LEAST_1,
  DURATION,
  FROM_0_TO_1,
  INSIDE_0_TO_1,
  SEED,
  SHARE,
  Key,
  Rule,
  check_finite,
  is_number,
  is_of,
)

__all__ = [
  "ABOVE_0", "ABOVE_0_TO_1", "ANY", "AT_LEAST_0", "AT_LEAST_1", "DURATION", "FROM_0_TO_1",
  "INSIDE_0_TO_1", "OF", "PART_KINDS", "ROOMS", "SEED", "SHARE", "Key", "Part", "PartKind", "Rule",
  "add", "came_with", "check_finite", "check_idle", "check_used", "declare", "import_modules",
  "is_number", "is_of", "keys", "keys_of", "owned", "part", "parts", "register", "starts", "unread",
]  # fmt: skip

# Rooms that have a keys.py, in the order of --help.
ROOMS = ("training", "transfer", "data", "tasks", "optim")


class PartKind(NamedTuple):
  """A kind of parts."""

  group: str  # of the config, where the keys of its parts stand; "": they have none
  switch: str  # the key that names the part
  options: tuple[str, ...] = ()  # that `register` takes beside keys
  required: tuple[tuple[str, str], ...] = ()  # of the options, each with an example
  resets: bool = False  # another choice on the command line sets the keys of the parts back
  by: str = ""  # "module:function" that registers in its own way
  room: str = ""  # the module whose import registers the parts of the house
  noun: str = ""  # its name in errors, if another one
  check: str = ""  # "module:function" of (kind, name, value, options), for parts from outside


OF = ("of", "of='classification', the task that it belongs to")
PART_KINDS: Mapping[str, PartKind] = MappingProxyType(
  {
    "model": PartKind("", "model.name", by="cnnjax.models.registry:register"),
    "source": PartKind(
      "data", "data.source", ("check",), noun="data source", room="cnnjax.data.sources"
    ),
    "augmentation": PartKind("", "augment", room="cnnjax.augment"),
    "task": PartKind("task", "task.name", room="cnnjax.tasks", check="cnnjax.tasks:check_part"),
    "loss": PartKind("task", "task.loss", ("of",), (OF,), resets=True, room="cnnjax.tasks"),
    "head": PartKind("task", "task.head", ("of",), (OF,), resets=True, room="cnnjax.tasks"),
    "metric": PartKind(
      "task",
      "task.metrics",
      ("of", "better", "form"),
      (OF, ("better", "better='min' or better='max'")),
      room="cnnjax.tasks",
      check="cnnjax.tasks:check_part",
    ),
    "optimizer": PartKind(
      "optim",
      "optim.name",
      ("decay", "why", "details", "ratio", "momentum_of_steps", "decays_inside"),
      resets=True,
      room="cnnjax.optim.optimizers",
    ),
    "step": PartKind("step", "step.name", ("extra",), resets=True, room="cnnjax.training.stepping"),
    "schedule": PartKind(
      "optim.schedule",
      "optim.schedule.name",
      ("describe",),
      resets=True,
      room="cnnjax.optim.schedules",
    ),
  }
)


class Part(NamedTuple):
  """A registered part."""

  value: Any  # the decorated object
  options: Mapping[str, Any]
  keys: tuple[str, ...]  # that it reads, of those that only some parts of its kind read
  module: str  # the one that registered it

  def words(self, config: Mapping[str, Any]) -> list[str]:
    """Returns its keys with their values in words; `config` is the group of its kind."""
    texts = []
    for key in self.keys:
      name, value = key.replace("_", " "), config[key]
      if not isinstance(value, bool):
        texts.append(f"{name} {value:g}" if is_number(value) else f"{name} {value}")
      elif value:
        texts.append(name.capitalize())
    return texts


_KEYS: dict[str, Key] = {}  # by their names with dots
_KIND_OF: dict[str, str] = {}  # a key that only some parts read: their kind
_OWNERS: dict[str, tuple[str, str]] = {}  # a key that came with a part: its words, its module
_STARTS: dict[str, str] = {}  # the first key of those that stand together: their heading
_PARTS: dict[tuple[str, str, str], Part] = {}  # by kind, task, name
_BROUGHT: dict[str, set[tuple[str, str, str]]] = {}  # a module: the parts that came with it
_READ: set[str] = set()  # the rooms whose keys are in


def _read_rooms() -> None:
  """Runs the keys.py of each room without the room, which may import JAX."""
  for room in ROOMS:
    if room not in _READ:
      _READ.add(room)
      file = pathlib.Path(__file__).parents[1] / room / "keys.py"
      spec = importlib.util.spec_from_file_location(f"cnnjax.{room}.keys", file)
      spec.loader.exec_module(importlib.util.module_from_spec(spec))


def declare(group: str, heading: str = "", /, *, kind: str = "", **keys: Key) -> None:
  """Adds keys to a group of the config; they stand together in --help, in this order.

  Args:
    group: such as "optim.schedule"; "" for the top.
    heading: their subject, for --help.
    kind: of parts, if only those parts read a key that say so by `register(..., uses=...)`.
    **keys: by their names in the group.

  Raises:
    UserError: a key exists already.
  """
  dotted = _dotted(group, keys, "house")
  _KEYS.update(dotted)
  _STARTS[next(iter(dotted))] = heading
  if kind:
    _KIND_OF.update(dict.fromkeys(dotted, kind))


def _dotted(group: str, keys: Mapping[str, Key], what: str) -> dict[str, Key]:
  """Returns the keys by dotted name; UserError if one exists or its default is wrong."""
  dotted = {f"{group}.{leaf}" if group else leaf: key for leaf, key in keys.items()}
  for name, key in dotted.items():
    if name in _KEYS or any(other.startswith(f"{name}.") for other in _KEYS):
      raise UserError(
        f"the {what} declares the config key {name!r}, which exists already: choose another name, "
        f"or read that one by uses=({name.rpartition('.')[2]!r},)"
      )
    key.check(name, key.default)
  return dotted


def register(kind: str, name: str, /, *, uses: Iterable[str] = (), **given: Any) -> Callable:
  """Returns a decorator that registers a part of a kind under a name.

  Args:
    kind: one of PART_KINDS.
    name: by which a config chooses it.
    uses: keys of its group that exist already and that it reads as well.
    **given: its own keys, each a `Key`, and options of the kind: see PART_KINDS. Of a model the
      defaults of its fields, see `models.register`.

  Raises:
    UserError: the name or a key is taken, or an option is unknown, missing or wrong.
  """
  if kind not in PART_KINDS:
    raise unknown("kind of part", kind, PART_KINDS)
  row, what, module = PART_KINDS[kind], f"{kind} {name!r}", sys._getframe(1).f_globals["__name__"]
  if row.by:
    return _imported(row.by)(name, **given)
  keys = {leaf: key for leaf, key in given.items() if isinstance(key, Key)}
  options = {option: value for option, value in given.items() if option not in keys}
  if foreign := options.keys() - {*row.options}:
    raise unknown(f"option of the {what}", min(foreign), [*row.options, "uses", "KEY=Key(...)"])
  for option, example in row.required:
    if option not in options:
      raise UserError(f"the {what} is registered without {option!r}: give {example}")
  if keys and not row.group:
    raise UserError(f"the {what} takes arguments, not keys such as {next(iter(keys))!r}")
  _read_rooms()
  if not module.startswith("cnnjax."):  # so that a name of the house is known to be taken
    importlib.import_module(row.room)
  for leaf in uses:
    if f"{row.group}.{leaf}" not in _KEYS:
      raise unknown(f"key that the {what} uses:", f"{row.group}.{leaf}", _KEYS)

  def decorator(value: Any) -> Any:
    dotted = _dotted(row.group, keys, what)
    stored = {option: value for option, value in options.items() if option != "of"}
    if row.check and not module.startswith("cnnjax."):
      _imported(row.check)(kind, name, value, stored)
    add(kind, name, Part(value, stored, (*uses, *keys), module), of=options.get("of", ""))
    if keys:
      declare(row.group, f"{what} of {module}", kind=kind, **keys)
      _OWNERS.update(dict.fromkeys(dotted, (what, module)))
    return value

  return decorator


def _imported(place: str) -> Callable:
  """Returns the function at "module:function"."""
  module, _, function = place.partition(":")
  return getattr(importlib.import_module(module), function)


def add(kind: str, name: str, part: Part, *, of: str = "") -> None:
  """Adds a part; UserError if its name is taken."""
  if (taken := _PARTS.get((kind, of, name))) is not None:
    raise UserError(
      f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} named {name!r} is already registered, by "
      f"{taken.module}; choose another name"
    )
  _PARTS[kind, of, name] = part


def parts(kind: str, of: str = "") -> dict[str, Part]:
  """Returns the parts of a kind by name; losses and metrics those of the task `of`."""
  return {name: part for (k, o, name), part in _PARTS.items() if (k, o) == (kind, of)}


def part(kind: str, name: Any, of: str = "") -> Part:
  """Returns the part of that name; UserError if there is none."""
  by_name = parts(kind, of)
  if not isinstance(name, str) or name not in by_name:
    row = PART_KINDS[kind]
    raise unknown(f"{kind} of {of}: {row.switch}" if of else row.noun or kind, name, by_name)
  return by_name[name]


def owned(kind: str) -> list[tuple[str, str]]:
  """Returns the task and the name of each part of a kind that belongs to a task."""
  return [(of, name) for k, of, name in _PARTS if k == kind]


def keys() -> Mapping[str, Key]:
  """Returns every key by its dotted name."""
  _read_rooms()
  return MappingProxyType(_KEYS)


def keys_of(kind: str) -> list[str]:
  """Returns the dotted names of the keys that only some parts of a kind read."""
  return [name for name in keys() if _KIND_OF.get(name) == kind]


def came_with(name: str) -> str:
  """Returns the part that a key came with, as "loss 'poly1' of my_module"; "" for our own keys."""
  return " of ".join(_OWNERS[name]) if name in _OWNERS else ""


def unread(flat: Mapping[str, Any]) -> list[str]:
  """Returns the keys of outside parts that no part chosen in a config reads.

  `flat` is the config by dotted names.
  """
  names = []
  for name in flat.keys() & _OWNERS.keys():
    kind, leaf = _KIND_OF[name], name.rpartition(".")[2]
    chosen = flat.get(PART_KINDS[kind].switch)
    chosen = chosen if isinstance(chosen, tuple | list) else (chosen,)
    readers = [part for (k, _, n), part in _PARTS.items() if k == kind and n in chosen]
    if not any(leaf in part.keys for part in readers) and flat[name] == _KEYS[name].default:
      names.append(name)
  return names


def starts() -> Mapping[str, str]:
  """Returns the headings of --help by the first key below each."""
  return MappingProxyType(_STARTS)


def check_idle(kind: str, chosen: Iterable[str], config: Mapping[str, Any], of: str = "") -> None:
  """Raises UserError for a key that no chosen part reads, unless it is at its default.

  `config` is the group of the kind.
  """
  row, by_name, chosen = PART_KINDS[kind], parts(kind, of), tuple(chosen)
  read = {leaf for part in chosen if part in by_name for leaf in by_name[part].keys}
  for name in keys_of(kind):
    key, leaf = _KEYS[name], name.rpartition(".")[2]
    if leaf in read or leaf not in config:
      continue
    if (value := config[leaf]) == key.default or value in key.idle:
      continue
    named = " and ".join(map(str, chosen)) or "()"
    readers = " or ".join(part for part, other in by_name.items() if leaf in other.keys)
    raise UserError(
      f"config key {name!r} is {value!r} and has no effect with {row.switch}={named}: "
      + (f"set {row.switch}={readers}, or leave it" if readers else "leave it")
      + f" at {key.default!r}"
    )


def import_modules(modules: Iterable[str]) -> None:
  """Imports modules of a fork or another package, which register their parts.

  Raises:
    UserError: a module cannot be imported; the parts that it has registered are removed.
  """
  for name in modules:
    before = {*_PARTS}
    try:
      fresh = name not in sys.modules
      importlib.import_module(name)
      if fresh:
        new = {*_PARTS} - before  # rooms of the house too, if it is the first to import them
        _BROUGHT[name] = {key for key in new if not _PARTS[key].module.startswith("cnnjax.")}
    except Exception as e:
      _forget_failed()
      if isinstance(e, UserError):
        raise
      hint = (
        "; it is named without .py, and must be on the Python path (PYTHONPATH, or the folder that "
        "the command runs in)"
      )
      raise UserError(
        f"cannot import {name!r} (config key 'imports'): {type(e).__name__}: {e}"
        f"{hint if isinstance(e, ModuleNotFoundError) else ''}"
      ) from e


def _forget_failed() -> None:
  """Removes the parts and keys of modules that Python could not import to their end."""
  for name, (_, module) in list(_OWNERS.items()):
    if module not in sys.modules:
      for table in (_KEYS, _KIND_OF, _OWNERS, _STARTS):
        table.pop(name, None)
  for key, part in list(_PARTS.items()):
    if part.module not in sys.modules:
      del _PARTS[key]


def _texts(value: Any) -> Iterator[str]:
  """Yields the texts in a value, also nested ones; numbers may be too long to write."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, tuple | list | Mapping):
    for item in value.values() if isinstance(value, Mapping) else value:
      yield from _texts(item)


def check_used(modules: Iterable[str], values: Iterable[Any]) -> None:
  """Raises UserError for a module of which a config's `values` name no part."""
  text = " ".join(_texts(tuple(values)))
  for module in modules:
    inside = lambda part, module=module: f"{part.module}.".startswith(f"{module}.")
    registered = {key for key, part in _PARTS.items() if inside(part)} | _BROUGHT.get(module, set())
    registered = sorted((kind, name) for kind, _, name in registered)
    if not registered and module in _BROUGHT:
      raise UserError(f"'imports' names {module!r}, which registers nothing: leave it out")
    if registered and not any(re.search(rf"\b{re.escape(name)}\b", text) for _, name in registered):
      kind, name = registered[0]
      raise UserError(
        f"'imports' names {module!r}, and the config chooses nothing that it registers "
        f"({', '.join(' '.join(pair) for pair in registered)}): set "
        f"{PART_KINDS[kind].switch}={name}, or leave it out"
      )
