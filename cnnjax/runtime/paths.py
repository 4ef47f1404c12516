"""Reads paths as people write them: `~`, names that C++ cannot take, quotes for a shell."""

import argparse
import os
import pathlib
import shlex
import sys

from cnnjax.errors import UserError

PathLike = str | os.PathLike[str]


class NoHome(UserError, argparse.ArgumentTypeError):
  """The error for `~name` where there is no such user; argparse shows its words."""


def to_path(given: PathLike) -> pathlib.Path:
  """Returns the path with the home folder for `~`, which a shell leaves in `--workdir=~/run`.

  Raises:
    NoHome: there is no such user. A folder whose name begins with `~` is given as `./~name`.
  """
  text = os.path.expanduser(given)
  if text.startswith("~"):
    user = text[1:].split(os.sep)[0]
    who = f"user {user!r}" if user else "home folder"
    raise NoHome(f"path {text!r}: there is no {who}; a folder of this name is './{text}'")
  path = pathlib.Path(text)
  return path.absolute() if str(path).startswith("~") else path  # pathlib has dropped the "./"


def check_text(path: pathlib.Path) -> None:
  """Raises UserError for a path that C++ libraries, such as that of checkpoints, cannot take."""
  text = str(path.absolute())
  try:
    text.encode()
    os.fsencode(text)
  except UnicodeEncodeError as e:
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
      why = "is not UTF-8: choose another folder, or rename it"
    else:
      why = f"is not {encoding}, and names of files are {encoding} here: set PYTHONUTF8=1"
    raise UserError(f"the path {shown!r} {why}") from e


def quoted(path: PathLike) -> str:
  """Returns the path quoted for a shell, in commands that people copy."""
  return shlex.quote(os.fspath(path))
