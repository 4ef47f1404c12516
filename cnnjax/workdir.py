"""The folder of a run: its config, a record of each start, and the rule for going on in it."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

import jax
from ml_collections import ConfigDict

from cnnjax import __version__
from cnnjax import config as configs
from cnnjax.errors import UserError

CONFIG = "config.json"
STARTS = "starts.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def fresh(config: ConfigDict, root: pathlib.Path = pathlib.Path("runs")) -> pathlib.Path:
  """A name for a new run, such as runs/resnet20-digits-20150101-120000."""
  data = config.data.name if config.data.source == "tfds" else config.data.source
  data = data.replace("/", "_").replace(":", "_")
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  name = f"{config.model.name}-{data}-{now}"
  taken = len(list(root.glob(f"{name}*")))
  return root / (f"{name}-{taken + 1}" if taken else name)


def claim(folder: pathlib.Path, config: ConfigDict) -> None:
  """Makes `folder` the place of this run, or refuses; records the start.

  Raises:
    UserError: it cannot be written, holds something else than a run, or a run whose config differs
      in more than `MAY_CHANGE`.
  """
  try:
    found = (folder / CONFIG).is_file()
    foreign = (
      not found and folder.is_dir() and not (folder / STARTS).is_file() and any(folder.iterdir())
    )
  except OSError as e:  # a name that is too long, a folder that may not be entered
    raise _unwritable(folder, e) from e
  if foreign:
    raise UserError(f"the workdir {str(folder)!r} is not empty and holds no run; choose another")
  if found and (changed := configs.differences(load_config(folder), config)):
    lines = "; ".join(
      f"{key} was {old!r} and is {new!r} now" for key, (old, new) in changed.items()
    )
    raise UserError(
      f"{folder} holds a run with another config: {lines}. Choose another --workdir, "
      f"or set these back. What may change: {', '.join(configs.MAY_CHANGE)}"
    )
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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / STARTS).open("a") as f:
      f.write(json.dumps(start) + "\n")
  except OSError as e:
    raise _unwritable(folder, e) from e


def save_config(folder: pathlib.Path, config: ConfigDict) -> None:
  """Writes the resolved config, whole or not at all: from here on the run is bound to it."""
  written = folder / f"{CONFIG}.new"
  written.write_text(configs.to_json(config))
  written.replace(folder / CONFIG)


def _unwritable(folder: pathlib.Path, error: OSError) -> UserError:
  return UserError(f"cannot write to the workdir {folder}: {error.strerror}")


def load_config(folder: pathlib.Path) -> ConfigDict:
  """The config of the run in `folder`.

  Raises:
    UserError: there is no run, or its config cannot be read.
  """
  file = folder / CONFIG
  if not file.is_file():
    raise UserError(f"{folder} holds no run: there is no {CONFIG} in it")
  try:
    return configs.from_json(file.read_text())
  except (ValueError, KeyError, AttributeError, TypeError, OSError) as e:
    raise UserError(f"cannot read {file}: {e}") from e
