"""Reads splits from a .npz file, or the .npy files of a folder: `data.source=npz data.npz=FILE`.

Images and labels of a split are named `train_images` and `train_labels`, or `x_train` and
`y_train`; in the training split `images` and `labels` will do. Other fields have their names of
`arrays.from_arrays` after the split, `train_mask`, or in the training split alone, `mask`; so have
`boxes`, `boxes_label`, `boxes_valid`, `value` and `multi_label`, and `train_image` and `label` are
known as well. Only images have to be there. The other splits are `test` and `validation` (or
`val`), with the same fields as the training split. `classes` are the names of the classes.
`arrays.from_arrays` says what each array holds, and checks it. Arrays of other names are not read.
"""

import contextlib
import functools
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import fields
from cnnjax.data.arrays import from_arrays
from cnnjax.data.split import Split
from cnnjax.errors import UserError, listed
from cnnjax.runtime.paths import to_path

SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
BOXES = ("boxes", fields.label_of("boxes"), fields.valid_of("boxes"))
OTHERS = ("mask", *BOXES, "value", "multi_label")  # beside image and label

Names = dict[str, str]  # the name of an array by that of its field


def _forms(split: str) -> list[Names]:
  """Returns the ways to name the arrays of a split, the preferred ones first."""
  forms = []
  for name in SPLITS[split]:
    others = {other: f"{name}_{other}" for other in OTHERS}
    forms.append({"image": f"{name}_images", "label": f"{name}_labels", **others})
    forms.append({"image": f"x_{name}", "label": f"y_{name}", **others})
    forms.append({"image": f"{name}_image", "label": f"{name}_label", **others})
  if split == "train":
    others = {other: other for other in OTHERS}
    forms.append({"image": "images", "label": "labels", **others})
    forms.append({"image": "image", "label": "label", **others})
  return forms


def _array_names(place: pathlib.Path) -> list[str]:
  """Returns the names of the arrays; reads none of them."""
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


def _present(split: str, names: set[str]) -> list[Names]:
  """Returns the arrays of a split for each form whose images are among `names`, labelled first."""
  present = []
  for form in _forms(split):
    if form["image"] in names:
      having = {field: name for field, name in form.items() if name in names}
      if "boxes" not in having:
        having = {field: name for field, name in having.items() if field not in BOXES}
      present.append(having)
  return sorted(present, key=lambda having: "label" not in having)


def _names_by_split(place: pathlib.Path) -> dict[str, Names]:
  """Returns the arrays of each split by field; splits without a field of train are left out.

  Raises:
    UserError: there is no training split.
  """
  names = {*_array_names(place)}
  train = _present("train", names)
  if not train:
    images = [form["image"] for form in _forms("train")]
    raise UserError(
      f"data.npz={str(place)!r} has no training images: name the array {', '.join(images[:-1])} or "
      f"{images[-1]}; it has {listed(sorted(names)) or 'none'}"
    )
  by_split = {"train": train[0]}
  for split in SPLITS.keys() - {"train"}:
    whole = [having for having in _present(split, names) if having.keys() >= train[0].keys()]
    if whole:
      by_split[split] = {field: whole[0][field] for field in train[0]}
  return by_split


def check(config: ConfigDict) -> None:
  """Raises UserError unless `data.npz` has the splits of `config`; reads no array."""
  if not config.npz:
    raise UserError("data.source=npz needs a file: data.npz=FILE.npz")
  place = to_path(config.npz)
  by_split = _names_by_split(place)
  for key in SPLITS:
    if not isinstance(config[key], str):
      continue
    if config[key] != key:
      raise UserError(
        f"data.{key} of npz must be {key!r}, a share or a number, not {config[key]!r}"
      )
    if key not in by_split:
      names = {*_array_names(place)}
      # The form of which most arrays are there already.
      form = max(_forms(key), key=lambda form: len({*form.values()} & names))
      lacking = [form[field] for field in by_split["train"] if form[field] not in names]
      raise UserError(
        f"data.npz={str(place)!r} has no {key} split: add {' and '.join(lacking)}, or hold out a "
        f"share of train, as data.{key}=0.2"
      )


def load(config: ConfigDict, split: str) -> Split:
  """Returns a split of `data.npz`; reads all splits at once, and keeps them for the next call."""
  place = to_path(config.npz)
  files = [place, *sorted(place.glob("*.npy"))] if place.is_dir() else [place]
  return _splits(place, tuple(os.stat(file).st_mtime_ns for file in files))[split]


@functools.lru_cache(maxsize=1)
def _splits(place: pathlib.Path, _: tuple[int, ...]) -> dict[str, Split]:
  """Returns all splits at `place`; the times of its files are part of the cache's key."""
  names = _names_by_split(place)
  given = _read(place, names)
  splits = {
    split: {field: given[name] for field, name in having.items()} for split, having in names.items()
  }
  for arrays in splits.values():
    labels = arrays.get("label")
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:  # a column, as in MedMNIST
      arrays["label"] = labels[:, 0]
  try:
    return from_arrays(**splits, classes=_classes(given))
  except UserError as e:
    split = str(e).split()[0].rstrip(":")  # errors of `from_arrays` begin with their split
    of = f" (its arrays: {', '.join(names[split].values())})" if split in names else ""
    raise UserError(f"data.npz={str(place)!r}: {e}{of}") from e


def _classes(given: Mapping[str, np.ndarray]) -> list[str] | None:
  """Returns the names of the classes, if they are there."""
  if "classes" not in given:
    return None
  classes = given["classes"]
  if classes.ndim != 1:
    raise UserError(f"classes must be one name per class, [classes], not {list(classes.shape)}")
  return [
    name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
    for name in classes.tolist()
  ]


def _read(place: pathlib.Path, names: dict[str, Names]) -> dict[str, np.ndarray]:
  """Returns the arrays of all splits, and `classes`, by their names at `place`.

  Raises:
    UserError: the file or one of the arrays cannot be read.
  """
  wanted = {name for having in names.values() for name in having.values()}
  wanted |= {"classes"} & {*_array_names(place)}
  loaded, what = {}, ""
  try:
    with contextlib.nullcontext() if place.is_dir() else np.load(place) as arrays:
      for name in sorted(wanted):
        what = f" array {name!r}"
        loaded[name] = np.load(place / f"{name}.npy") if arrays is None else arrays[name]
    return loaded
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
    raise UserError(f"data.npz={str(place)!r}:{what} cannot be read: {e}") from e
