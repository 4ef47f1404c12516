"""Being asked to stop: signals become something that the loop can look at.

Ctrl-C, SIGTERM, SIGHUP (a terminal that is gone; not under nohup, which ignores it), and SIGUSR1
and SIGUSR2, by which schedulers tell of the end before it comes, as SLURM does with
`--signal=USR1@120`. The exit code is 128 + the number of the signal.
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
ASKED = (signal.SIGINT, signal.SIGTERM)  # a second one leaves at once; the others are notices


def heard() -> list[signal.Signals]:
  """Those of `STOPPING` that count in this process: all but a SIGHUP that is ignored."""
  ignored = lambda s: s.name == "SIGHUP" and signal.getsignal(s) == signal.SIG_IGN
  return [s for s in STOPPING if not ignored(s)]


def leave(number: int, _: FrameType | None) -> NoReturn:
  """Ends the process as by `sys.exit`, with 128 + number."""
  raise SystemExit(128 + number)


@contextlib.contextmanager
def leave_by_exception() -> Iterator[None]:
  """For command lines, before training: what is under way is cleaned up on the way out.

  Behind it, where Python cleans up itself, a signal just ends the process: an exception there is
  a traceback from whatever library it meets.
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
  """Signals are noted in the list, to save and leave.

  A second Ctrl-C or SIGTERM leaves at once: of a command line in `leave_by_exception` with
  `os._exit`, also while the main thread is in the compiler, where Python runs no handler; of other
  programs, such as notebooks, as they would have without this.
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
  """In a thread: says what was heard at once, whatever the main thread does, and leaves if asked.

  The kernel's handler writes each signal's number into the pipe `arrived`.
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
