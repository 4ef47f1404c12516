"""Being asked to stop: Ctrl-C and SIGTERM become something that the loop can look at."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def catch_signals() -> Iterator[list[signal.Signals]]:
  """SIGINT and SIGTERM are noted in the list, to save and leave; a second one leaves at once."""
  caught: list[signal.Signals] = []
  if threading.current_thread() is not threading.main_thread():
    yield caught  # Python delivers signals to the main thread alone
    return

  def note(number: int, _) -> None:
    caught.append(signal.Signals(number))
    text = f"\n{caught[0].name}: saving after this step; once more leaves at once\n"
    os.write(2, text.encode())  # print is not safe where a print was interrupted
    for s, handler in before.items():
      signal.signal(s, handler)

  before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield caught
  finally:
    for s, handler in before.items():
      signal.signal(s, handler)
