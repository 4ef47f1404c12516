"""Arrays of a .npz file, or of the .npy files of a folder: `data.source=npz data.npz=FILE`.

The arrays of a split are named `train_images` and `train_labels`, or `x_train` and `y_train`;
`images` and `labels` alone are the training split. Other splits are `test` and `validation` (or
`val`). `classes` are the names of the classes, if they are there. What the arrays hold is as of
`arrays.from_arrays`.
"""

import functools
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data.arrays import from_arrays
from cnnjax.data.split import Split
from cnnjax.errors import UserError, listed
from cnnjax.runtime.paths import to_path

SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
FORMS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))


def _names(split: str) -> list[tuple[str, str]]:
  """What images and labels of a split may be called."""
  found = [(x.format(name), y.format(name)) for name in SPLITS[split] for x, y in FORMS]
  return [*found, ("images", "labels")] if split == "train" else found


def _there(place: pathlib.Path) -> list[str]:
  """The names of the arrays; reads none of them."""
  if place.is_dir():
    return sorted(file.stem for file in place.glob("*.npy"))
  if not place.is_file():
    raise UserError(f"data.npz={str(place)!r}: there is no such file or folder")
  try:
    with zipfile.ZipFile(place) as file:
      return [name.removesuffix(".npy") for name in file.namelist()]
  except (OSError, zipfile.BadZipFile) as e:
    raise UserError(
      f"data.npz={str(place)!r} is not a .npz file ({e}): write one by numpy.savez, or give a "
      "folder of .npy files"
    ) from e


def _found(place: pathlib.Path) -> dict[str, tuple[str, str]]:
  """The names of images and labels of each split that is there.

  Raises:
    UserError: there is no training split.
  """
  names = {*_there(place)}
  pairs = {split: [pair for pair in _names(split) if {*pair} <= names] for split in SPLITS}
  if not pairs["train"]:
    raise UserError(
      f"data.npz={str(place)!r} has no training images: name the arrays "
      f"{' or '.join(' and '.join(pair) for pair in _names('train'))}; it has "
      f"{listed(sorted(names)) or 'none'}"
    )
  return {split: found[0] for split, found in pairs.items() if found}


def check(config: ConfigDict) -> None:
  if not config.npz:
    raise UserError("data.source=npz needs a file: data.npz=FILE.npz")
  place = to_path(config.npz)
  found = _found(place)
  for key in SPLITS:
    if not isinstance(config[key], str):
      continue
    if config[key] != key:
      raise UserError(f"data.{key} of npz is {key!r}, a share or a number, not {config[key]!r}")
    if key not in found:
      raise UserError(
        f"data.npz={str(place)!r} has no {key} split: add {' and '.join(_names(key)[0])}, or hold "
        f"out a share of train, as data.{key}=0.2"
      )


def load(config: ConfigDict, split: str) -> Split:
  place = to_path(config.npz)
  files = [place, *sorted(place.glob("*.npy"))] if place.is_dir() else [place]
  return _splits(place, tuple(os.stat(file).st_mtime_ns for file in files))[split]


@functools.lru_cache(maxsize=1)
def _splits(place: pathlib.Path, _: tuple[int, ...]) -> dict[str, Split]:
  """All of the splits at `place`, where files have these times."""
  try:
    if place.is_dir():
      arrays = {name: np.load(place / f"{name}.npy") for name in _there(place)}
      return _checked(place, arrays)
    with np.load(place) as arrays:
      return _checked(place, arrays)
  except UserError as e:
    raise UserError(f"data.npz={str(place)!r}: {e}") from e
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:  # pickled objects, a cut file
    raise UserError(f"data.npz={str(place)!r} cannot be read: {e}") from e


def _checked(place: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Split]:
  pairs = {split: (arrays[x], arrays[y]) for split, (x, y) in _found(place).items()}
  for split, (images, labels) in pairs.items():
    if labels.ndim == 2 and labels.shape[1] == 1:  # a column, as in MedMNIST
      pairs[split] = images, labels[:, 0]
  return from_arrays(**pairs, classes=arrays.get("classes"))
