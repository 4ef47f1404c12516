"""Paths as people give them."""

import os
import pathlib
import shlex

PathLike = str | os.PathLike[str]


def to_path(given: PathLike) -> pathlib.Path:
  """The path, with the home folder for `~`, which a shell leaves alone in `--workdir=~/run`."""
  return pathlib.Path(os.path.expanduser(given))


def quoted(path: PathLike) -> str:
  """The path as a shell takes it, for commands that are printed to be copied."""
  return shlex.quote(os.fspath(path))
