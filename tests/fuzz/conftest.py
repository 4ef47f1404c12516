"""Nothing that Hypothesis keeps lies in the repository."""

import os
import tempfile

os.environ.setdefault(
  "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "cnnjax-hypothesis")
)
