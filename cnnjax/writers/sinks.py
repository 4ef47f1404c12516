"""The interface of sinks, which keep the metrics of a run: a file, TensorBoard, a server."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

PARTIAL = "partial"  # marks a line that was written early, because the run stopped
PLACE = ("step", "epoch", PARTIAL)  # the names in a line beside metrics


class Sink(Protocol):
  """Keeps the lines of a run. Only the first of several processes has sinks."""

  def write(self, line: Mapping[str, float]) -> None:
    """Keeps a line: `PLACE`, and metrics, also NaN, by their names in metrics.jsonl."""

  def close(self, *, finished: bool) -> None:
    """Writes all pending lines; no call follows.

    `finished` says that the run has ended; otherwise it stopped early, and may resume.
    """


@runtime_checkable
class PictureSink(Protocol):
  """A sink that keeps pictures as well; one without this method gets none."""

  def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    """Keeps pictures, uint8 [height, width, 1 or 3] by names like those of metrics."""
