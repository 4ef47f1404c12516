"""Says what a file of weights holds, converts it, and tries its features on images."""

from cnnjax.errors import run
from cnnjax.tools.transfer import main

if __name__ == "__main__":
  raise SystemExit(run(main))
