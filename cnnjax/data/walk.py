"""Walks through a folder of images: its splits, its classes, the image files at any depth."""

import os
from collections.abc import Iterator, Mapping

from cnnjax.data.images import IMAGE_ENDINGS
from cnnjax.data.leftovers import Leftovers, is_litter
from cnnjax.data.names import split_of
from cnnjax.errors import UserError, listed


def split_folders(path: str) -> dict[str, str]:
  """Returns the folders of the splits in `path` by name; {} where its folders are classes.

  If only one of many folders has the name of a split, it is a class (trains beside buses, valid
  beside invalid), unless the split is one to train on and has classes of its own.
  """
  folders = subfolders(path)
  splits = {name: folder for name, folder in folders.items() if split_of(name)}
  if len(splits) == 1 < len(folders):
    ((name, folder),) = splits.items()
    if split_of(name) != "train" or len(subfolders(folder)) < 2:
      return {}
  return splits


def beside(path: str, splits: Mapping[str, str]) -> dict[str, str]:
  """Returns remarks on folders beside the splits, and on classes with the name of a split."""
  folders = subfolders(path)
  if splits:
    odd = [name for name in folders if name not in splits]
    return {"not used": f"folders beside the splits: {listed(odd)}"} if odd else {}
  odd = [name for name in folders if split_of(name)]
  return {"labels": f"the folder {odd[0]!r} is a class, as are those beside it"} if odd else {}


def subfolders(path: str) -> dict[str, str]:
  """Returns the folders in a folder by name, without hidden ones."""
  return {entry.name: entry.path for entry, is_folder in entries(path) if is_folder}


def image_files(folder: str, left: Leftovers, *real: str) -> Iterator[str]:
  """Yields the image files at any depth; counts other files in `left`.

  `real` are the places of the folders that led here, so that a link to one of them is not followed.
  """
  for entry, is_folder in entries(folder, left):
    if is_folder:
      place = os.path.join(real[-1], entry.name)
      place = os.path.join(os.path.realpath(entry.path) if entry.is_symlink() else place, "")
      if not any(above.startswith(place) for above in real):  # a link to where it lies
        yield from image_files(entry.path, left, *real, place)
    elif is_image(entry.name):
      yield entry.path
    else:
      left.add_file(entry.name)


def loose(path: str) -> Leftovers:
  """Counts the files directly in a folder, which are not read: their images are in no class."""
  left = Leftovers()
  for entry, is_folder in entries(path, left):
    if not is_folder and is_image(entry.name):
      left.outside.append(printable(entry.path))
    elif not is_folder:
      left.add_file(entry.name)
  return left


def entries(path: str, left: Leftovers | None = None) -> list[tuple[os.DirEntry, bool]]:
  """Returns the pairs (entry, whether it is a folder), in the same order on every machine.

  Leaves out hidden entries and litter of other programs, and counts them in `left`.
  """
  try:
    with os.scandir(path) as there:
      found = [(e, e.is_dir()) for e in there]
  except OSError as e:
    raise UserError(f"{e.filename} cannot be read: {e.strerror}") from e
  kept = []
  for entry, is_folder in sorted(found, key=lambda pair: pair[0].name):
    if not (entry.name.startswith(".") or is_litter(entry.name)):
      kept.append((entry, is_folder))
    elif left is not None:
      left.pass_over(entry.name, is_folder=is_folder)
  return kept


def is_image(name: str) -> bool:
  """Returns whether a file name has the ending of an image."""
  return name.lower().endswith(IMAGE_ENDINGS)


def printable(name: str) -> str:
  """Returns a file name as text, with escapes where it cannot be decoded."""
  return os.fsencode(name).decode(errors="backslashreplace")
