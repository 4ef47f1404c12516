"""Convolutional networks in JAX: every classic CNN, one trainer, honest results."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
  """`cnnjax.load`, see `cnnjax.predict.load`; late, so that `import cnnjax` waits for no JAX."""
  if name == "load":
    from cnnjax.predict import load

    return load
  raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")
