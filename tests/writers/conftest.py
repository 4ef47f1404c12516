"""A console whose output can be read."""

import io

import pytest

from cnnjax.runtime import console as consoles


@pytest.fixture
def console(monkeypatch):
  """A function that makes what Writers take for the console; its `file` has what was shown."""
  real = consoles.Console

  def make_console(terminal):
    file = io.StringIO()
    file.isatty = lambda: terminal
    console = real(file=file, force_terminal=terminal, width=120)
    monkeypatch.setattr(consoles, "Console", lambda **_: console)
    return console

  return make_console
