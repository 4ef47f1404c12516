"""Convolutional networks in JAX: every classic CNN, one trainer, honest results."""

import importlib
import sys
from typing import Any

__version__ = "0.1.0"
_LATE = {  # so that `import cnnjax` waits for nothing
  "load": "cnnjax.predict",
  "Key": "cnnjax.registry",
  "register": "cnnjax.registry",
}
# Commands that cannot look at their words before JAX is imported, mostly since Python imports the
# room of a command first. The others call `errors.announce` themselves.
_IMPORT_JAX = {
  f"cnnjax.{name}" for name in ("checkpoints", "data", "models", "optim", "plan", "transfer")
}


def __getattr__(name: str) -> Any:
  """Returns a public name, whose module is imported when it is asked for."""
  if name in _LATE:
    return getattr(importlib.import_module(_LATE[name]), name)
  raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def _started() -> str:
  """Returns the command that `python -m` is about to start, "" if none."""
  if sys.argv[:1] != ["-m"]:  # so it is until Python has found the command's file
    return ""
  return sys.orig_argv[-len(sys.argv)].removeprefix("-m")


if _started() in _IMPORT_JAX:
  from cnnjax import errors  # late: `import cnnjax` waits for nothing

  errors.announce(_started())
