"""What the person at the keyboard is told when something they gave is wrong."""

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(ValueError):
  """Wrong input. The command line prints the message as one line and leaves without a traceback."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> UserError:
  """The error for a name that is not among `choices`: the nearest right name, then all of them."""
  choices = sorted(str(choice) for choice in choices)
  near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.4)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  shown = ", ".join(choices[:40]) + (f", ... ({len(choices)} in all)" if len(choices) > 40 else "")
  return UserError(f"unknown {kind} {name!r}.{hint} Choose from: {shown}")


def run(main: Callable[[], int]) -> int:
  """Runs a command; what the user got wrong becomes one line and exit code 2."""
  try:
    return main()
  except UserError as e:
    print("error:", " ".join(str(e).split()), file=sys.stderr)  # one line, whatever it quotes
    return 2
