"""Draws the learning rate over a run, of one config or of several."""

import sys

from cnnjax.errors import run
from cnnjax.tools.optim import main

if __name__ == "__main__":
  sys.exit(run(main))
