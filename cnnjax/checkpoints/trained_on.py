"""Keeps in a workdir which examples its run was trained on, so that none is evaluated on later."""

import json
import pathlib

import numpy as np

from cnnjax import checkpoints
from cnnjax.data.history import History
from cnnjax.data.holdout import NOTHING
from cnnjax.errors import UserError
from cnnjax.runtime import strict_json

FILE = "trained_on.json"
OLDER_FORMATS = (0, 1)  # of checkpoints: the runs that have them kept no such file


def read(workdir: pathlib.Path) -> History:
  """Reads the history of a run that has a checkpoint.

  Raises:
    UserError: it is damaged, or missing and the run is not of an older version that kept none.
  """
  file = workdir / FILE
  try:
    found = json.loads(file.read_bytes())
    ids, shared = _ids(found["ids"]), _ids(found["shared"])
    held = {name: _ids(text) for name, text in found["held"].items()}
    return History(found["by"], found["older"], ids, shared, held)
  except FileNotFoundError:
    if checkpoints.newest_format(workdir) in OLDER_FORMATS:
      return History("", True, NOTHING, NOTHING, {})
    raise UserError(
      f"put {file} back: it says which images the run in {workdir} was trained on, and without it "
      "they may be evaluated; or choose another workdir"
    ) from None
  except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
    reason = " ".join(str(e).split())[:200]
    raise UserError(
      f"cannot read {file}: {reason}; put a good one back, or choose another workdir"
    ) from e


def write(workdir: pathlib.Path, history: History) -> None:
  """Writes the history into `workdir`; a kill leaves the old file or the new one."""
  file, new = workdir / FILE, workdir / f"{FILE}.new"
  new.write_text(strict_json.dumps(history.as_json()))
  new.replace(file)


def _ids(text: str) -> np.ndarray:
  return np.frombuffer(bytes.fromhex(text), "<u8").astype(np.uint64)
