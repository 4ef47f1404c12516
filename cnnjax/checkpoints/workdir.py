"""The workdir of a run: its config, a record of each start, and the rule for resuming in it."""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
from ml_collections import ConfigDict

from cnnjax import __version__, models, registry
from cnnjax import config as configs
from cnnjax.checkpoints import lock as locks
from cnnjax.config import saved
from cnnjax.config.keys import before as before_keys
from cnnjax.config.keys import defaults
from cnnjax.errors import UserError
from cnnjax.runtime.paths import PathLike, check_text, to_path

CONFIG = saved.CONFIG
WRITTEN = f"{CONFIG}.new"  # it is written there first, so that a kill leaves the old one or the new
STARTS = "starts.jsonl"
SHOWN = 6  # keys that differ, at most
# Errors of a file that is no config, wherever in it the mistake is.
BROKEN = (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def check(folder: pathlib.Path, config: ConfigDict) -> None:
  """Checks whether a run of `config` may start or resume in `folder`; changes nothing.

  Raises:
    UserError: the folder cannot be written, holds something else than a run, or a run whose config
      differs in keys that may not change.
  """
  check_text(folder)
  try:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
      raise UserError(f"cannot write to the workdir {folder}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
      raise UserError(f"cannot write to the workdir {folder}: Permission denied in {there}")
    found = (folder / CONFIG).is_file()
    ours = (locks.FILE, WRITTEN)  # files that a run leaves if it is killed while it starts
    held = folder.iterdir() if there == folder and not found else ()
    if any(not file.name.startswith(ours) for file in held):
      back = f"put its {CONFIG} back, or " if (folder / STARTS).exists() else ""
      raise UserError(
        f"the workdir {str(folder)!r} is not empty and holds no run; {back}choose another"
      )
  except OSError as e:  # a name that is too long, a folder that may not be entered
    raise _unwritable(folder, e) from e
  if found and (changed := configs.differences(load_config(folder), resolve(config))):
    if "model.name" in changed:  # the fields of another model say nothing more
      changed = {k: v for k, v in changed.items() if k == "model.name" or k[:6] != "model."}
    lines = [f"{key} was {old!r} and is {new!r} now" for key, (old, new) in changed.items()]
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    lines = "; ".join(lines[:SHOWN]) + more
    raise UserError(
      f"{folder} holds a run with another config: {lines}. Choose another --workdir, "
      f"or set these back. What may change: {', '.join(configs.may_change())}"
    )


def as_begun(folder: pathlib.Path, config: ConfigDict) -> tuple[ConfigDict, dict[str, str]]:
  """Returns `config` as the run in `folder` began, and in words which older behaviour it keeps.

  A run that began before a key existed resumes as before, where `config` has the key's default.
  """
  if not os.path.isfile(folder / CONFIG):  # unlike Path.is_file, false for a name that is too long
    return config, {}
  before, standard = configs.flatten(load_config(folder)), defaults()
  now = configs.flatten(config)
  keys = [k for k, (old, *_) in before_keys().items() if before[k] == old != now[k] == standard[k]]
  config = config.copy_and_resolve_references()
  for key in keys:
    configs.override(config, key, before[key])
  words = ", ".join(f"{key}={before[key]}" for key in keys)
  return config, {"kept": f"{words}, as this run began"} if keys else {}


def make(folder: pathlib.Path | None, config: ConfigDict) -> pathlib.Path:
  """Makes `folder` unless it exists, or for None a new one under runs/; returns it.

  Raises:
    UserError: it cannot be made.
  """
  try:
    if folder is None:
      return _fresh(config)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
  except OSError as e:
    raise _unwritable(folder, e) from e


@contextlib.contextmanager
def lock(folder: pathlib.Path, config: ConfigDict) -> Iterator[Callable[[], None]]:
  """Locks an existing `folder`, and claims it for a run of `config`.

  The first process of several does so. Yields a function that raises UserError once the lock is
  lost.

  Raises:
    UserError: another run uses the folder, or did since it was checked.
  """
  with contextlib.ExitStack() as stack:
    held = lambda: None
    if jax.process_index() == 0:
      try:
        held = stack.enter_context(locks.hold(folder)).check
      except OSError as e:
        raise _unwritable(folder, e) from e
      check(folder, config)
      claim(folder, config)
    yield held


def claim(folder: pathlib.Path | None, config: ConfigDict) -> pathlib.Path:
  """Makes `folder` (None: a new one under runs/) the workdir of this run; returns it.

  Saves the resolved config with every field of the model, and records the start with its command,
  versions and devices.

  Raises:
    UserError: it cannot be written.
  """
  start = {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": [pathlib.Path(sys.executable).name, *sys.orig_argv[1:]],
    "versions": {
      "cnnjax": __version__,
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in PACKAGES},
    },
    "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
    "machine": platform.platform(),
    "cpus": os.cpu_count(),
  }
  folder = make(folder, config)
  try:
    written = folder / WRITTEN
    written.write_text(configs.to_json(resolve(config)))
    written.replace(folder / CONFIG)
    with (folder / STARTS).open("a") as f:
      f.write(json.dumps(start) + "\n")
  except OSError as e:
    raise _unwritable(folder, e) from e
  return folder


def _fresh(config: ConfigDict) -> pathlib.Path:
  """Makes a new folder such as runs/resnet20-digits-20150101-120000."""
  data = config.data.name if config.data.source == "tfds" else config.data.source
  data = data.replace("/", "_").replace(":", "_")
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
    folder = pathlib.Path("runs") / f"{config.model.name}-{data}-{now}{suffix}"
    with contextlib.suppress(FileExistsError):
      folder.mkdir(parents=True)
      return folder


def resolve(config: ConfigDict) -> ConfigDict:
  """Returns the config with every field of its model, so that no default can change under a run."""
  resolved = configs.from_json(configs.to_json(config))
  resolved.model = {"name": config.model.name, **models.fields(config.model.name), **config.model}
  return resolved


def _unwritable(folder: pathlib.Path | None, error: OSError) -> UserError:
  return UserError(f"cannot write to the workdir {folder or 'runs/'}: {error.strerror}")


def load_config(folder: PathLike) -> ConfigDict:
  """Reads the config of the run in `folder`, after importing the modules that it names.

  Raises:
    UserError: there is no run, its config cannot be read, or a module is missing.
  """
  folder, file = to_path(folder), saved.file_of_run(folder)
  unreadable = lambda e: UserError(
    f"cannot read {file}: {e}; put a good one back, or choose another folder"
  )
  try:
    text = file.read_text(encoding="utf-8")
    modules = saved.imports(text)
  except BROKEN as e:
    raise unreadable(e) from e
  try:  # first: keys may come with them
    _check_imports(folder, modules)
    registry.import_modules(modules)
  except BROKEN as e:  # mostly the file is good, and names something that is missing here
    raise UserError(f"cannot use {file}: {e}") from e
  try:
    config = configs.from_json(text)
    configs.check_values(config)
  except BROKEN as e:
    raise unreadable(e) from e
  try:
    return resolve(config)
  except BROKEN as e:
    raise UserError(f"cannot use {file}: {e}") from e


def _check_imports(folder: pathlib.Path, modules: Sequence[str]) -> None:
  """Raises UserError for a module inside the workdir: reading a run must not run its code."""
  for name in modules:
    spec = importlib.util.find_spec(name.split(".")[0])
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    if any(folder.resolve() in pathlib.Path(place).resolve().parents for place in places if place):
      raise UserError(
        f"'imports' names {name!r}, which lies in the workdir itself, and reading a run must not "
        "run its code; if it is yours, move it out of there"
      )
