"""Prints plain text for the commands: on terminals, in files and in pipes."""

from collections.abc import Callable
from typing import Any

import rich.console

from cnnjax.errors import drop, take_any_text

WIDE = 10_000  # columns where there is no terminal: nothing is cut or wrapped


class Console(rich.console.Console):
  """rich's console for plain text: no markup in names, no wrapping in files.

  Args:
    reader_left: called once when nobody reads the output any more, which is then discarded; None:
      raises BrokenPipeError, by which `errors.run` ends the command.
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
    """True if a bar can move: on a terminal, not in a file that FORCE_COLOR colours."""
    return self.is_terminal and self.file.isatty()

  def on_broken_pipe(self) -> None:
    """Discards the output, or raises again; rich calls it where it handles the error."""
    if self._reader_left is None:
      raise
    drop(self.file)
    self._reader_left()
