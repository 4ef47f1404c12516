"""Convolutional networks in JAX: every classic CNN, one trainer, honest results."""

import importlib
from typing import Any

__version__ = "0.1.0"
_LATE = {  # so that `import cnnjax` waits for nothing
  "load": "cnnjax.predict",
  "Key": "cnnjax.registry",
  "register": "cnnjax.registry",
}


def __getattr__(name: str) -> Any:
  """Returns a public name, whose module is imported when it is asked for."""
  if name in _LATE:
    return getattr(importlib.import_module(_LATE[name]), name)
  raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")
