"""Tells the person at the keyboard what is wrong, on any stream; leaves by an exit code."""

import argparse
import difflib
import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TextIO

READER_LEFT = 141  # of the exit: 128 + SIGPIPE, as a shell has it of commands that this signal ends


class UserError(ValueError):
  """Wrong input. The command line prints the message as one line and leaves without a traceback."""

  code = 2  # of the exit


class TransientError(UserError):
  """Something broke that may be whole again: the same command may go on from the last save."""

  code = 75  # EX_TEMPFAIL of sysexits.h: schedulers may start the run once more


class Stopped(Exception):
  """An evaluation, or the measuring before it, was broken off by a signal."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> UserError:
  """Returns the error for a name that is not among `choices`: says the nearest one, then all.

  Of more than 60 choices it lists the ten nearest.
  """
  choices = sorted(str(choice) for choice in choices)
  by_lower = {choice.lower(): choice for choice in choices}
  near = [
    by_lower[match]
    for match in difflib.get_close_matches(str(name).lower(), by_lower, n=10, cutoff=0.4)
  ]
  close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
  hint = f" Did you mean {by_lower[close[0]]!r}?" if close else ""
  if len(choices) > 60:
    choices = [*(near or choices[:10]), f"... ({len(choices)} in all)"]
  return UserError(f"unknown {kind} {name!r}.{hint} Choose from: {', '.join(choices)}")


def listed(names: Sequence[str]) -> str:
  """Returns the first five names, and the number of the others, in words."""
  return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def number(n: int, noun: str) -> str:
  """Returns the number of things in words: "1 image", "2,000 images"."""
  return f"{n:,} {noun}" + ("" if n == 1 else "s")


class ArgumentParser(argparse.ArgumentParser):
  """argparse, whose errors are one line like all others."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message} ({self.prog} --help)")

  def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
    flush()  # the help, which nobody may read any more
    super().exit(status, message)


def warn(text: str) -> None:
  """Prints a warning, one line on stderr; the command goes on."""
  tell(f"warning: {' '.join(text.split())}")


def take_any_text() -> None:
  """Lets stdout and stderr escape what their encoding lacks, instead of raising an error."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
  """Prints a line on stderr, if anybody still reads it."""
  if sys.stderr is None:  # closed by the shell, `2>&-`; print would take stdout
    return
  try:
    print(text, file=sys.stderr, flush=True)
  except BrokenPipeError:
    drop(sys.stderr)


def announce(text: str, say: Callable[[str], None] = tell) -> None:
  """Says at once what begins, where seconds follow in which JAX is imported.

  On stderr, as programs may read the stdout of the command, unless `say` prints elsewhere.
  """
  if "jax" not in sys.modules:
    say(f"{text}: loading JAX")


def say(text: str) -> None:
  """Prints a line on stdout at once; where nobody reads it, a warning says so."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    drop(sys.stdout)
    warn("nobody reads the output; the command goes on")


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
  """Returns whether `stream` is a pipe that nobody reads any more."""
  poll = select.poll()
  poll.register(stream.fileno(), 0)
  return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def run(main: Callable[[], int]) -> int:
  """Runs a command; a UserError becomes one line and its exit code.

  A command whose output nobody reads any more (`| head`) ends in silence, with READER_LEFT.
  """
  take_any_text()
  code = 0
  try:
    code = _run(main)
    return _run(flush) or code
  except BrokenPipeError:
    if sys.stdout is None or not reader_left(sys.stdout):  # it was another pipe
      raise
    drop(sys.stdout)
    return code or READER_LEFT


def _run(main: Callable[[], int]) -> int:
  try:
    return main()
  except UserError as e:
    tell(f"error: {' '.join(str(e).split())}")  # one line, whatever it quotes
    return e.code
  except Exception as e:  # what libraries make of a full disk is of any kind
    if not is_of_full_disk(e):
      raise
    where = f" ({e.filename})" if isinstance(e, OSError) and e.filename else ""
    tell(f"error: the disk is full{where}: free space and run the same command")
    return TransientError.code


def is_of_full_disk(error: BaseException | None) -> bool:
  """Returns whether an error, or its cause, says that a disk is full; some have only words."""
  numbers = (errno.ENOSPC, errno.EDQUOT)
  while error is not None:
    if isinstance(error, OSError) and error.errno in numbers:
      return True
    if any(os.strerror(number) in str(error) for number in numbers):
      return True
    error = error.__cause__ or error.__context__
  return False
