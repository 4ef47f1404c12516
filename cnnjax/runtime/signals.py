"""Collects signals that ask a run to stop in a list that the loop looks at.

These are Ctrl-C, SIGTERM, SIGHUP (the terminal is gone; ignored under nohup), and SIGUSR1 and
SIGUSR2, by which schedulers announce the end of a job, as SLURM does with `--signal=USR1@120`. The
exit code is 128 + the number of the signal.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

# Those that this system has, in the order of `kill -l`.
STOPPING = tuple(
  signal.Signals[name]
  for name in ("SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGTERM")
  if hasattr(signal, name)
)
ASKED = (signal.SIGINT, signal.SIGTERM)  # a second one leaves at once; the rest are notices


def heard() -> list[signal.Signals]:
  """Returns the signals of `STOPPING` without a SIGHUP that this process ignores."""
  ignored = lambda s: s.name == "SIGHUP" and signal.getsignal(s) == signal.SIG_IGN
  return [s for s in STOPPING if not ignored(s)]


def leave(number: int, _: FrameType | None) -> NoReturn:
  """Leaves the process by `sys.exit` with the code 128 + `number`."""
  raise SystemExit(128 + number)


@contextlib.contextmanager
def leave_by_exception() -> Iterator[None]:
  """Raises SystemExit for signals in the body, so that a command cleans up on its way out.

  After it, while Python shuts down, a signal ends the process at once: an exception there would be
  a traceback of whatever library it met.
  """
  for s in heard():
    if s != signal.SIGINT:  # which raises KeyboardInterrupt
      signal.signal(s, leave)
  try:
    yield
  finally:
    for s in heard():
      signal.signal(s, signal.SIG_DFL)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[signal.Signals]]:
  """Yields a list to which the signals that come are added, so that the loop saves and leaves.

  A second Ctrl-C or SIGTERM leaves at once. A command inside `leave_by_exception` does so by
  `os._exit`, also while the main thread compiles, where Python runs no handler; other programs,
  such as notebooks, leave as they would without this.
  """
  caught: list[signal.Signals] = []
  if threading.current_thread() is not threading.main_thread():
    yield caught  # Python delivers signals to the main thread alone
    return

  def note(number: int, _: FrameType | None) -> None:
    caught.append(signal.Signals(number))
    if number in ASKED and not command_line:
      for s in ASKED:
        signal.signal(s, before[s])

  numbers = heard()
  command_line = signal.getsignal(signal.SIGTERM) is leave
  arrived, sent = os.pipe()
  os.set_blocking(sent, False)  # as set_wakeup_fd wants it
  before = {s: signal.signal(s, note) or signal.SIG_DFL for s in numbers}
  wakeup = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
  thread = threading.Thread(target=_answer, args=(arrived, numbers, command_line), daemon=True)
  thread.start()
  try:
    yield caught
  finally:
    signal.set_wakeup_fd(wakeup)
    for s, handler in before.items():
      signal.signal(s, handler)
    os.close(sent)
    thread.join()
    os.close(arrived)


def _answer(arrived: int, numbers: list[signal.Signals], command_line: bool) -> None:
  """Answers each signal at once from a thread while the main thread works; leaves if asked to.

  The handler writes the number of each signal into the pipe `arrived`.
  """
  asked = 0
  while number := os.read(arrived, 1):
    if (number := number[0]) not in numbers:
      continue
    asked += number in ASKED
    if asked == 2 and command_line:
      if sys.stdout is not None and sys.stdout.isatty():
        with contextlib.suppress(OSError):  # a terminal that is gone
          os.write(1, b"\x1b[?25h")  # the cursor, which a progress bar hides
      _say("stopped at once; the last checkpoint, if there is one, is whole")
      os._exit(128 + number)
    if asked < 2:
      more = "; once more leaves at once" if number in ASKED else ""
      _say(f"{signal.Signals(number).name}: saving after this step{more}")


def _say(text: str) -> None:
  with contextlib.suppress(OSError):  # nobody reads it any more
    os.write(2, f"\n{text}\n".encode())  # print is not safe where a print was interrupted
