"""Tools for data: prepare a TFDS data set, scan images, show training batches."""

import importlib
import sys

from cnnjax.errors import run

if __name__ == "__main__":
  sys.exit(run(importlib.import_module("cnnjax.tools.data").main))
