"""Waiting for batches: said in words while it lasts, so that a hang has a name."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from cnnjax import errors

AFTER = 60.0  # seconds of waiting until something is said; then at twice that, and so on


class Watch:
  """Looks on from a thread while someone waits; it ends with the `with` block that it is used in.

  Args:
    hint: what is known of the reason, asked for when there is something to say.
  """

  def __init__(self, hint: Callable[[], str]):
    self._hint, self._ended = hint, threading.Event()
    self._waiting: tuple[str, float] | None = None  # for what, since when
    self._thread = threading.Thread(target=self._look, name="stall-watch", daemon=True)

  def __enter__(self) -> "Watch":
    self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._ended.set()
    self._thread.join()

  @contextlib.contextmanager
  def waiting(self, what: str) -> Iterator[None]:
    """Around what may take long; `what` waits, such as "step 12"."""
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
