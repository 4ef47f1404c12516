"""Reports a long wait for batches while it lasts, so that a hang has a name."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from cnnjax import errors

AFTER = 60.0  # seconds until the first report; the next ones come at twice that, and so on


class StallWatch:
  """Watches waits from a thread; ends with its `with` block.

  Args:
    hint: returns the likely reason in words, called for a report.
  """

  def __init__(self, hint: Callable[[], str]):
    self._hint, self._ended = hint, threading.Event()
    self._waiting: tuple[str, float] | None = None  # (the name of the wait, its start)
    self._thread = threading.Thread(target=self._look, name="stall-watch", daemon=True)

  def __enter__(self) -> "StallWatch":
    self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._ended.set()
    self._thread.join()

  @contextlib.contextmanager
  def waiting(self, what: str) -> Iterator[None]:
    """Watches the body, which may take long; `what` waits, such as "step 12"."""
    self._waiting = what, time.monotonic()
    try:
      yield
    finally:
      self._waiting = None

  def _look(self) -> None:
    said, after = None, AFTER
    while not self._ended.wait(min(1.0, AFTER / 4)):
      waiting = self._waiting
      if waiting is None:
        continue
      if waiting != said:
        after = AFTER
      waited = time.monotonic() - waiting[1]
      if waited >= after:
        errors.warn(f"{waiting[0]} has waited {waited:.0f} s for its batch: {self._hint()}")
        said, after = waiting, 2 * after
