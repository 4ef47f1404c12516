"""The interface of whatever keeps the metrics of a run: a file, TensorBoard, a server."""

from collections.abc import Mapping
from typing import Protocol

PARTIAL = "partial"  # marks a line that was written before it was due, as the run ended
PLACE = ("step", "epoch", PARTIAL)  # what a line has beside metrics


class Sink(Protocol):
  """Keeps the lines of a run. Only the first of several processes has sinks."""

  def write(self, line: Mapping[str, float]) -> None:
    """Keeps a line: `PLACE`, and metrics by their names in metrics.jsonl; NaN may be among them."""

  def close(self, *, finished: bool) -> None:
    """Writes what is not written yet. Nothing is called afterwards.

    `finished`: the run is at its end; otherwise it broke off, and may go on.
    """
