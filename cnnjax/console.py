"""What commands print to: any encoding, pipes whose reader leaves, terminals and files."""

import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

import rich.console

WIDE = 10_000  # columns where there is no terminal: nothing is cut or wrapped


def take_any_text() -> None:
  """Lets stdout and stderr escape what their encoding lacks, instead of raising an error."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
  """Prints a line on stderr, if anybody still reads it."""
  try:
    print(text, file=sys.stderr, flush=True)
  except BrokenPipeError:
    drop(sys.stderr)


def flush() -> int:
  """Writes what stdout still holds; Python itself would complain on its way out. Returns 0."""
  if sys.stdout is not None:  # closed by the shell, `>&-`
    sys.stdout.flush()
  return 0


def drop(stream: TextIO) -> None:
  """Discards what is written to `stream` from here on, and what it still holds."""
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, stream.fileno())
  os.close(nowhere)


def reader_left(stream: TextIO) -> bool:
  """Whether `stream` is a pipe that nobody reads any more."""
  poll = select.poll()
  poll.register(stream.fileno(), 0)
  return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


class Console(rich.console.Console):
  """rich's console for plain text: names stay as they are, and in a file nothing is wrapped.

  Args:
    reader_left: called once nobody reads what is printed, which is discarded from then on; None:
      the BrokenPipeError is raised, and `errors.run` ends the command.
    **options: those of rich.
  """

  def __init__(self, *, reader_left: Callable[[], None] | None = None, **options: Any):
    take_any_text()
    super().__init__(highlight=False, soft_wrap=True, emoji=False, markup=False, **options)
    self._reader_left = reader_left
    if not self.animated:
      self.width = WIDE

  @property
  def animated(self) -> bool:
    """Whether a bar can move: it is a terminal, and no file that FORCE_COLOR wants in colour."""
    return self.is_terminal and self.file.isatty()

  def on_broken_pipe(self) -> None:
    """Called by rich, where the error is handled."""
    if self._reader_left is None:
      raise
    drop(self.file)
    self._reader_left()
