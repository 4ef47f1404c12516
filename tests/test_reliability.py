"""The experiment of that name, shorter: a run killed in every way ends as the one left alone."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "experiments" / "reliability" / "run.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_every_way(tmp_path):
  words = "--kills=10", "--epochs=250", "--seed=1", f"--out={tmp_path}"
  found = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
  assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
  result = json.loads((tmp_path / "results.json").read_text())
  assert result["differences"] == [] and sum(w["times"] for w in result["ways"].values()) == 10
  assert len(result["ways"]) >= 6  # the full disk needs a mount
