"""Tools for data: prepare a TFDS data set, scan images, show training batches."""

import sys

from cnnjax.errors import run
from cnnjax.tools.data import main

if __name__ == "__main__":
  sys.exit(run(main))
