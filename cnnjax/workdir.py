"""The folder of a run: its config, a record of each start, and the rule for going on in it."""

import contextlib
import datetime
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import sys

import jax
from ml_collections import ConfigDict

from cnnjax import __version__, models
from cnnjax import config as configs
from cnnjax.errors import UserError

CONFIG = "config.json"
STARTS = "starts.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def check(folder: pathlib.Path, config: ConfigDict) -> None:
  """Looks whether a run of `config` may start or go on in `folder`; touches nothing.

  Raises:
    UserError: it cannot be written, holds something else than a run, or a run whose config differs
      in more than `MAY_CHANGE`.
  """
  try:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
      raise UserError(f"cannot write to the workdir {folder}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
      raise UserError(f"cannot write to the workdir {folder}: Permission denied in {there}")
    found = (folder / CONFIG).is_file()
    if there == folder and not found and any(folder.iterdir()):
      raise UserError(f"the workdir {str(folder)!r} is not empty and holds no run; choose another")
  except OSError as e:  # a name that is too long, a folder that may not be entered
    raise _unwritable(folder, e) from e
  if found and (changed := configs.differences(load_config(folder), resolve(config))):
    lines = "; ".join(
      f"{key} was {old!r} and is {new!r} now" for key, (old, new) in changed.items()
    )
    raise UserError(
      f"{folder} holds a run with another config: {lines}. Choose another --workdir, "
      f"or set these back. What may change: {', '.join(configs.MAY_CHANGE)}"
    )


def claim(folder: pathlib.Path | None, config: ConfigDict) -> pathlib.Path:
  """Makes `folder` (None: a fresh one under runs/) the place of this run; returns it.

  The resolved config is saved, with every field of the model; the start is recorded with its
  command, versions and devices.

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
  try:
    if folder is None:
      folder = _fresh(config)
    else:
      folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{CONFIG}.new"  # so that a kill leaves the old one or the new one
    written.write_text(configs.to_json(resolve(config)))
    written.replace(folder / CONFIG)
    with (folder / STARTS).open("a") as f:
      f.write(json.dumps(start) + "\n")
  except OSError as e:
    raise _unwritable(folder, e) from e
  return folder


def _fresh(config: ConfigDict) -> pathlib.Path:
  """Makes a folder such as runs/resnet20-digits-20150101-120000, of this run alone."""
  data = config.data.name if config.data.source == "tfds" else config.data.source
  data = data.replace("/", "_").replace(":", "_")
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
    folder = pathlib.Path("runs") / f"{config.model.name}-{data}-{now}{suffix}"
    with contextlib.suppress(FileExistsError):
      folder.mkdir(parents=True)
      return folder


def resolve(config: ConfigDict) -> ConfigDict:
  """The config with every field of its model, so that no default can change under a run."""
  resolved = configs.from_json(configs.to_json(config))
  resolved.model = {"name": config.model.name, **models.fields(config.model.name), **config.model}
  return resolved


def _unwritable(folder: pathlib.Path | None, error: OSError) -> UserError:
  return UserError(f"cannot write to the workdir {folder or 'runs/'}: {error.strerror}")


def load_config(folder: pathlib.Path) -> ConfigDict:
  """The config of the run in `folder`.

  Raises:
    UserError: there is no run, or its config cannot be read.
  """
  file = folder / CONFIG
  if not file.is_file():
    raise UserError(f"{folder} holds no run: there is no {CONFIG} in it")
  try:
    config = configs.from_json(file.read_text())
    models.import_modules(config.imports)
    return resolve(config)
  except UserError:
    raise
  except (ValueError, KeyError, AttributeError, TypeError, OSError) as e:
    raise UserError(f"cannot read {file}: {e}") from e
