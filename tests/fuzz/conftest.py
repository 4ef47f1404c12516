"""Nothing that Hypothesis keeps lies in the repository, and no process stays behind."""

import os
import tempfile

os.environ.setdefault(
  "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "cnnjax-hypothesis")
)

import fuzzing
import pytest


@pytest.fixture(scope="module", autouse=True)
def ended():
  yield
  fuzzing.end()
