"""Groups images that a hold-out never parts: those of one patient, recording or scene."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from cnnjax.data import identity
from cnnjax.errors import UserError


class Files(Protocol):
  """The part of `files.Files` that groups need."""

  paths: Sequence[str]

  def relative(self, i: int) -> str: ...


def of_files(group: str, files: Files, column: Mapping[str, str] | None) -> tuple[np.ndarray, str]:
  """Returns (the group of each file, [n] uint64, 0 for none; the number of groups in words).

  Args:
    group: a regular expression; its first group in parentheses, or all that it matches, is the
      name of the group that a path below the root belongs to.
    files: of a split.
    column: by path, where `group` is a column of the list.

  Raises:
    UserError: no file is in a group, or `group` is no regular expression.
  """
  if column is not None:
    names = [column[path] for path in files.paths]
    nothing = "the column is empty"
  else:
    paths = [pathlib.PurePath(files.relative(i)).as_posix() for i in range(len(files.paths))]
    try:
      matches = [re.search(group, path) for path in paths]
    except re.error as e:
      raise UserError(f"data.group='{group}' is no regular expression: {e}") from e
    names = [match and (match[1] if match.re.groups else match[0]) for match in matches]
    nothing = f"it matches no path, such as {paths[0]!r}"
  if not any(names):
    raise UserError(
      f"data.group='{group}' finds no groups: {nothing}. Name a column of a list, or give a "
      "regular expression of paths below data.path, such as 'patient[0-9]+'"
    )
  alone = sum(not name for name in names)
  words = f"{len({*filter(None, names)}):,} by '{group}', each on one side of a hold-out"
  words += f"; {alone:,} images are in none" if alone else ""
  ids = [identity.fingerprint(os.fsencode(name)) if name else 0 for name in names]
  return np.array(ids, np.uint64), words
