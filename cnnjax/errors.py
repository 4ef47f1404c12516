"""What the person at the keyboard is told when something they gave is wrong."""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class UserError(ValueError):
  """Wrong input. The command line prints the message as one line and leaves without a traceback."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> UserError:
  """The error for a name that is not among `choices`: the nearest right name, then all of them.

  Of more than 60 choices, the ten nearest.
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


class ArgumentParser(argparse.ArgumentParser):
  """argparse, whose errors are one line like all others."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message} ({self.prog} --help)")


def run(main: Callable[[], int]) -> int:
  """Runs a command; what the user got wrong becomes one line and exit code 2."""
  try:
    return main()
  except UserError as e:
    print("error:", " ".join(str(e).split()), file=sys.stderr)  # one line, whatever it quotes
    return 2
