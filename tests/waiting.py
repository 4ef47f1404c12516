"""For tests of runs in processes of their own."""

import time

import pytest

from cnnjax import writers


def wait_for(process, workdir, step, seconds=60):
  """Returns when metrics.jsonl holds a line of `step` or later."""
  for _ in range(20 * seconds):
    lines = writers.read_metrics(workdir)
    if lines and lines[-1]["step"] >= step:
      return
    if process.poll() is not None:
      pytest.fail(f"ended early:\n{process.stdout.read()}")
    time.sleep(0.05)
  pytest.fail(f"did not get there in {seconds} seconds")
