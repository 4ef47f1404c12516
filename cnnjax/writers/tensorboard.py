"""TensorBoard events. The only import of tensorboardX."""

import pathlib
import sys
import time
from collections.abc import Mapping

from cnnjax.writers.groups import grouped
from cnnjax.writers.sinks import PLACE

# Where torch is installed, tensorboardX imports it, for writers that are not used here: seconds at
# start-up, and a second framework in the process. None in its place says that there is none.
_hidden = sys.modules.setdefault("torch", None) is None
from tensorboardX import event_file_writer  # noqa: E402
from tensorboardX.proto import event_pb2  # noqa: E402

if _hidden:
  del sys.modules["torch"]

FLUSH_EVERY = 10.0  # seconds until TensorBoard sees what was written


class TensorBoard:
  """Writes events of the steps from `start` on; those of before have files of their own.

  It writes in the calling thread: the thread of tensorboardX.SummaryWriter dies of a full disk, and
  then whoever writes waits for ever (2.6.5).
  """

  def __init__(self, folder: pathlib.Path, start: int):
    # The suffix: a file of the same second may be there.
    self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{start}")
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # hides what was done in vain
    self._file.write_event(event_pb2.Event(step=start, session_log=log, wall_time=time.time()))
    self._flushed = time.monotonic()

  def write(self, line: Mapping[str, float]) -> None:
    event = event_pb2.Event(step=line["step"], wall_time=time.time())
    for name, value in line.items():  # summary.scalar would change the "=" in names of runs
      if name not in PLACE:
        event.summary.value.add(tag=grouped(name), simple_value=value)
    self._file.write_event(event)
    if time.monotonic() - self._flushed > FLUSH_EVERY:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    self._file.close()
