"""Draws the learning rate over a run, of one config or of several."""

import importlib
import sys

from cnnjax.errors import run

if __name__ == "__main__":
  sys.exit(run(importlib.import_module("cnnjax.tools.optim").main))
