"""Finds the mask file of each image, and reads the classes of masks."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import fields, identity, walk
from cnnjax.data.fields import Field
from cnnjax.data.images import UnreadableImage, decode_mask, read
from cnnjax.data.leftovers import Leftovers
from cnnjax.data.tables import Pairs
from cnnjax.errors import UserError

FEW = 16  # masks that are searched for class 1 before all are


@dataclasses.dataclass(frozen=True)
class Masks:
  """The contents of the masks of a folder or list."""

  field: Field
  white: bool  # white pixels, of 255 or 65535, are of class 1; if not, they do not count
  words: str  # on them, for people


def of_files(config: ConfigDict, masks: tuple[str, ...]) -> Masks:
  """Returns the contents of training masks, by `data.classes` and `data.masks_white`.

  Raises:
    UserError: they have fewer than two classes, or too many for white to be one.
  """
  classes = config.classes if isinstance(config.classes, int | None) else tuple(config.classes)
  return _of_files(classes, config.masks_white, masks)


@functools.lru_cache(maxsize=2)
def _of_files(
  classes: tuple[str, ...] | int | None, white: str | None, masks: tuple[str, ...]
) -> Masks:
  """Reads all masks where `classes` is None, or where white may be the second of two classes."""
  number = classes if isinstance(classes, int | None) else len(classes)
  largest, some_white = -1 if number is None else number - 1, False
  undecided = number == 2 and white is None and all(_of_mask(path)[0] < 1 for path in masks[:FEW])
  if number is None or undecided:
    largest, some_white = _values(masks)
  alone = largest == 0 and some_white  # with white, there are two classes; without it one
  is_class = white == "class" or (white is None and alone)
  if number is None:
    classes = 1 + (max(1, largest) if is_class else largest)
  named = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
  if len(named) < 2:
    raise UserError(
      f"the masks have {len(named)} class besides 255, which does not count, and need two or more: "
      "write the number of a class in each pixel, from 0"
      + ("; or set data.masks_white=class if 255 is class 1" if alone else "")
    )
  if is_class and len(named) > 2:
    raise UserError(
      f"data.masks_white=class makes 255 the second class of two, and these masks have "
      f"{len(named)}: leave it at None, or write the number of a class in each pixel"
    )
  called = "" if named[1] == "1" else f", {named[1]!r}"
  words = (
    f"255 is class 1{called}, as the masks are 0 and 255 alone; set data.masks_white=ignore if 255 "
    "does not count"
  )
  dtype = "uint8" if len(named) <= 255 else "uint16"
  field = fields.mask(None, None, named, dtype)
  return Masks(field, is_class, words if alone and white is None else "")


def forget() -> None:
  """Forgets the contents of masks, which may have been written anew."""
  _of_files.cache_clear()


def _values(masks: tuple[str, ...]) -> tuple[int, bool]:
  """Returns the largest class of all masks (-1 if none), and whether one has white."""
  read = lambda places: [_of_mask(masks[i]) for i in places]
  per_mask = [*itertools.chain.from_iterable(identity.in_parts(read, len(masks)))]
  return max(largest for largest, _ in per_mask), any(white for _, white in per_mask)


def _of_mask(path: str) -> tuple[int, bool]:
  """Returns the largest class of a mask file (-1 if none), and whether it has white.

  A file that cannot be read has neither: it is skipped, counted and named with its image.
  """
  try:
    mask = decode_mask(read(path))
  except (UnreadableImage, OSError):
    return -1, False
  counted = mask[mask != np.iinfo(mask.dtype).max]
  return int(counted.max()) if counted.size else -1, counted.size < mask.size


def with_white(path: str, data: bytes) -> np.ndarray | UnreadableImage:
  """Returns a mask of two classes, of which white is class 1; `data` are the bytes of its file.

  Raises:
    UserError: the mask has more classes.
  """
  try:
    mask = decode_mask(data)
  except UnreadableImage as e:
    return e
  white = mask == np.iinfo(mask.dtype).max
  if (largest := mask[~white].max(initial=0)) > 1:
    raise UserError(
      f"{path} has the class {largest}, and 255 is class 1 of two in these masks: write 0 and 255, "
      "or set data.masks_white=ignore"
    )
  return np.where(white, 1, mask).astype(np.uint8)


def images_alone(path: str, pattern: str, root: str, left: Leftovers) -> Pairs:
  """Returns the images at any depth, with no class, without those that are masks of others."""
  files = list(walk.image_files(path, left, os.path.join(os.path.realpath(path), "")))
  masks = {*map(os.path.normpath, of_images(pattern, root, files, there=False).values())}
  images = [file for file in files if os.path.normpath(file) not in masks]
  if not images:
    raise UserError(
      f"{path} has no images beside those that data.masks={pattern!r} takes for masks"
    )
  return [(file, ()) for file in images]


def of_images(
  pattern: str, root: str, files: Sequence[str], *, there: bool = True
) -> dict[str, str]:
  """Returns the file of the mask of each image, by the pattern `data.masks`.

  Raises:
    UserError: the pattern is wrong, or a mask is missing and `there` is true.
  """
  mask_of = {}
  for file in files:
    folder, name = os.path.split(os.path.relpath(file, root))
    try:
      place = pattern.format(folder=folder or ".", name=os.path.splitext(name)[0])
    except (KeyError, IndexError, ValueError, AttributeError) as e:
      raise UserError(
        f"data.masks={pattern!r} is a path below data.path with {{folder}} and {{name}}, those of "
        f"the image, as '{{folder}}/../masks/{{name}}.png': {e}"
      ) from e
    mask_of[file] = os.path.normpath(os.path.join(root, place))
  if there and (missing := [file for file, mask in mask_of.items() if not os.path.isfile(mask)]):
    raise UserError(
      f"{len(missing):,} of {len(files):,} images have no mask: that of {missing[0]} would be "
      f"{mask_of[missing[0]]} by data.masks={pattern!r}"
    )
  return mask_of
