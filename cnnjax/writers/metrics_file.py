"""Writes and reads metrics.jsonl: one line of JSON for each line of metrics."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping

from cnnjax.runtime import strict_json
from cnnjax.runtime.paths import PathLike, to_path

METRICS = "metrics.jsonl"
BEFORE = f"{METRICS}.before"  # of a run whose checkpoints are gone


class MetricsFile:
  """Appends lines to metrics.jsonl, each in the file at once.

  Args:
    folder: the workdir.
    kept: the first lines of the file to keep. Later ones are dropped: they are of steps that were
      lost with their process, and will be taken again.
  """

  def __init__(self, folder: pathlib.Path, kept: Iterable[Mapping[str, float]]):
    whole = folder / f"{METRICS}.new"  # so that a kill here loses no line
    whole.write_text("".join(strict_json.dumps(line) + "\n" for line in kept))
    whole.replace(folder / METRICS)
    self._file = (folder / METRICS).open("a", buffering=1)

  def write(self, line: Mapping[str, float]) -> None:
    self._file.write(strict_json.dumps(line) + "\n")

  def close(self, *, finished: bool) -> None:
    self._file.close()


def read_metrics(folder: PathLike, name: str = METRICS) -> list[dict[str, float]]:
  """Reads the lines of a run's metrics.jsonl, up to the first that is incomplete or damaged.

  NaN and infinity are null in the file, and NaN here.
  """
  file = to_path(folder) / name
  lines = file.read_bytes().split(b"\n") if file.is_file() else []
  found = []
  for line in lines:
    try:
      metrics = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, too many digits
      break
    if not isinstance(metrics, dict) or not isinstance(metrics.get("step"), int):
      break
    found.append({name: math.nan if v is None else v for name, v in metrics.items()})
  return found


def set_aside(folder: pathlib.Path) -> int:
  """Renames the metrics of a run without checkpoints to `BEFORE`, and keeps the longest such file.

  Returns the last step of the newest one, 0 if there is none.
  """
  lines = read_metrics(folder)
  reached = lines[-1]["step"] if lines else 0
  if reached > max((line["step"] for line in read_metrics(folder, BEFORE)), default=0):
    (folder / METRICS).replace(folder / BEFORE)
  return reached
