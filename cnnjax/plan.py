"""Plans the training step of a run by XLA's own analysis: trains and downloads nothing."""

import sys

from cnnjax.errors import run
from cnnjax.tools.plan import main

if __name__ == "__main__":
  sys.exit(run(main))
