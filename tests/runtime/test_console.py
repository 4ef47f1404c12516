"""Consoles of any kind: pipes whose reader leaves, encodings that lack letters, files in colour."""

import io
import os
import shlex
import subprocess
import sys

import pytest
import rich.table

from cnnjax import errors
from cnnjax.runtime import console

COMMAND = """
import sys
from cnnjax import errors
from cnnjax.runtime import console
def main():
  if "help" in sys.argv:
    errors.ArgumentParser(description="What it does.").parse_args(["--help"])
  say = console.Console().print if "rich" in sys.argv else print
  say("a line")
  if "wrong" in sys.argv:
    raise errors.UserError("a mistake")
  return 0
sys.exit(errors.run(main))
"""


def unread(*how, unbuffered="", both=False):
  """The command, whose stdout, or both streams, nobody reads: (exit code, what is on stderr)."""
  read, sent = os.pipe()
  os.close(read)
  done = subprocess.run(
    [sys.executable, "-c", COMMAND, *how],
    stdout=sent,
    stderr=sent if both else subprocess.PIPE,
    env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    text=True,
  )
  os.close(sent)
  return done.returncode, done.stderr


@pytest.mark.parametrize("how", ["rich", "print", "help"])
def test_a_command_without_a_reader_ends_in_silence(how):
  assert errors.READER_LEFT == 128 + 13
  assert unread(how) == (errors.READER_LEFT, "")


def test_a_command_without_a_reader_and_without_a_buffer():
  assert unread("print", unbuffered="1") == (errors.READER_LEFT, "")


def test_a_mistake_keeps_its_exit_code():
  """Also where nobody is left to be told, as of `2>&1 | head`."""
  assert unread("print", "wrong") == (2, "error: a mistake\n")
  assert unread("print", "wrong", both=True)[0] == 2


def test_a_command_without_stdout(capfd):
  command = shlex.join([sys.executable, "-c", COMMAND, "rich"])
  assert subprocess.run(f"{command} >&-", shell=True).returncode == 0
  assert capfd.readouterr() == ("", "")


def test_what_is_wrong_goes_nowhere_but_to_stderr(capfd):
  """Not to stdout, where somebody expects results, if the shell has closed stderr."""
  command = shlex.join([sys.executable, "-c", COMMAND, "print", "wrong"])
  printed = subprocess.run([sys.executable, "-c", COMMAND, "print"], stdout=subprocess.PIPE).stdout
  assert subprocess.run(f"{command} 2>&-", shell=True).returncode == 2
  assert capfd.readouterr() == (printed.decode(), "")


def test_another_pipe_that_breaks_is_no_reader_that_left(monkeypatch):
  read, sent = os.pipe()

  def main():
    raise BrokenPipeError

  with os.fdopen(sent, "w") as stdout:
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(BrokenPipeError):
      errors.run(main)
    os.close(read)
    assert errors.run(main) == errors.READER_LEFT
    monkeypatch.setattr(sys, "stdout", None)  # closed by the shell
    with pytest.raises(BrokenPipeError):
      errors.run(main)


def test_letters_that_an_encoding_lacks_are_escaped():
  code = """
import sys
from cnnjax import errors
from cnnjax.runtime import console
def main():
  print("print \\u72ac")
  console.Console().print("rich \\u72ac [b]:fire: \\udcff")
  raise errors.UserError("\\u72ac is no \\xe9")
sys.exit(errors.run(main))
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "PYTHONIOENCODING": "ascii"},
    capture_output=True,
    text=True,
  )
  assert done.stdout == "print \\u72ac\nrich \\u72ac [b]:fire: \\udcff\n"
  assert (done.returncode, done.stderr) == (2, "error: \\u72ac is no \\xe9\n")


def test_colour_in_a_file_is_no_animation(monkeypatch):
  monkeypatch.setenv("FORCE_COLOR", "1")
  shown = console.Console(file=io.StringIO())
  assert shown.is_terminal and not shown.animated


@pytest.mark.parametrize("terminal", [False, True])
def test_tables_are_whole(terminal, monkeypatch):
  """In a file nothing is cut or wrapped, whatever COLUMNS says."""
  monkeypatch.setenv("COLUMNS", "40")
  monkeypatch.setenv("TERM", "xterm")
  file = io.StringIO()
  file.isatty = lambda: terminal
  table = rich.table.Table("name", "number", box=None)
  table.add_row("a/long/path/" * 10, "1")
  shown = console.Console(file=file)
  shown.print(table)
  assert (shown.width == 40) == terminal
  assert ("a/long/path/" * 10 in file.getvalue()) == (not terminal)
