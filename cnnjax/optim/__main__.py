"""Draws the learning rate over a run, for one or more configs."""

import sys

from cnnjax.errors import run
from cnnjax.tools.optim import main

if __name__ == "__main__":
  sys.exit(run(main))
