"""Tools for data: prepare a TFDS data set, scan images, show what is trained on."""

import importlib
import sys

from cnnjax.errors import run

if __name__ == "__main__":
  sys.exit(run(importlib.import_module("cnnjax.tools.data").main))
