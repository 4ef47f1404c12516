"""Nothing that Hypothesis keeps lies in the repository, and no process stays behind."""

import os
import tempfile

os.environ.setdefault(
  "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "cnnjax-hypothesis")
)

import fuzzing
import pytest
from hypothesis.internal.conjecture import providers


@pytest.fixture(scope="module", autouse=True)
def ended():
  yield
  fuzzing.end()


@pytest.fixture(scope="module", autouse=True)
def the_same_inputs():
  """Hypothesis takes constants from our own source: any edit would change the inputs.

  Where a version of it has no such function, they change.
  """
  none = providers._local_constants
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(providers, "_get_local_constants", lambda: none, raising=False)
    yield
