"""Consoles of any kind: pipes whose reader leaves, encodings that lack letters, files in colour."""

import io
import os
import subprocess
import sys

import pytest
import rich.table

from cnnjax import console, errors

# A command that prints more than a pipe holds, by rich or by print, and then ends as it is told.
COMMAND = """
import sys
from cnnjax import console, errors
def main():
  say = console.Console().print if "rich" in sys.argv else print
  for _ in range(20_000):
    say("a line")
  if "fails" in sys.argv:
    raise errors.UserError("a mistake")
  return 0
sys.exit(errors.run(main))
"""


def piped_to_head(*how, **streams):
  """The command after its reader has left."""
  process = subprocess.Popen(
    [sys.executable, "-c", COMMAND, *how], stdout=subprocess.PIPE, text=True, **streams
  )
  process.stdout.readline()
  process.stdout.close()
  return process


@pytest.mark.parametrize("how", ["rich", "print"])
def test_a_command_without_a_reader_ends_in_silence(how):
  with piped_to_head(how, stderr=subprocess.PIPE) as process:
    assert process.stderr.read() == ""
  assert process.returncode == errors.READER_LEFT == 128 + 13


def test_a_command_without_any_reader_keeps_its_exit_code():
  """As of `2>&1 | head`: the error has nowhere to go."""
  with piped_to_head("print", stderr=subprocess.STDOUT) as process:
    process.wait(60)
  assert process.returncode == errors.READER_LEFT
  lost, sent = os.pipe()
  os.close(lost)
  code = "from cnnjax import errors\ndef main(): raise errors.UserError('a')\n"
  code += "import sys; sys.exit(errors.run(main))"
  assert subprocess.run([sys.executable, "-c", code], stdout=sent, stderr=sent).returncode == 2
  os.close(sent)


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


def test_letters_that_an_encoding_lacks_are_escaped():
  code = """
import sys
from cnnjax import console, errors
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
