"""unreadable.txt: the images that a run could not read."""

import pathlib
from collections.abc import Callable, Mapping

UNREADABLE = "unreadable.txt"


class Unreadable:
  """Names images that cannot be read, each once, and lists them in the workdir.

  Args:
    folder: the workdir.
    say: prints a line.
  """

  def __init__(self, folder: pathlib.Path, say: Callable[[str], None]):
    self._file, self._say = folder / UNREADABLE, say
    self._named: set[str] = set()

  def name(self, skipped: Mapping[str, str]) -> None:
    """Names the new ones among all images so far that could not be read, with their reasons."""
    if len(skipped) == len(self._named):
      return
    new = {name: reason for name, reason in list(skipped.items()) if name not in self._named}
    for name, reason in new.items():
      self._say(f"skipped, cannot be read: {name}: {reason}")
    self._named |= new.keys()
    # With those from before the run resumed.
    any_name = {"encoding": "utf-8", "errors": "backslashreplace"}
    lines = set(self._file.read_text(**any_name).splitlines()) if self._file.exists() else set()
    lines |= {f"{name}\t{' '.join(reason.split())}" for name, reason in new.items()}
    self._file.write_text("".join(f"{line}\n" for line in sorted(lines)), **any_name)
