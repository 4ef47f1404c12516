"""Masks in files of their own: where that of an image lies, and how many classes they have."""

import functools
import itertools
import os
from collections.abc import Sequence

import numpy as np

from cnnjax import fields
from cnnjax.data import identity, walk
from cnnjax.data.images import UnreadableImage, decode_mask, read
from cnnjax.data.leftovers import Leftovers
from cnnjax.data.tables import Pairs
from cnnjax.errors import UserError
from cnnjax.fields import Field


@functools.lru_cache(maxsize=2)
def field(classes: tuple[str, ...] | int | None, masks: tuple[str, ...]) -> Field:
  """Returns the field of masks with these `classes`; None reads `masks` and counts theirs."""
  if classes is None:
    classes = 1 + max(itertools.chain.from_iterable(identity.in_parts(
      lambda places: [_largest(masks[i]) for i in places], len(masks))))  # fmt: skip
  named = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
  if len(named) < 2:
    raise UserError(
      f"the masks have {len(named)} class besides 255, which does not count, and need two or more: "
      "write the number of a class in each pixel, from 0"
    )
  return fields.mask(None, None, named, "uint8" if len(named) <= 255 else "uint16")


def _largest(path: str) -> int:
  """The largest class in the file of a mask; -1 where there is none, or it cannot be read."""
  try:
    mask = decode_mask(read(path))
  except (UnreadableImage, OSError):  # skipped, counted and named when the image is
    return -1
  counted = mask[mask != np.iinfo(mask.dtype).max]
  return int(counted.max()) if counted.size else -1


def images_alone(path: str, pattern: str, root: str, left: Leftovers) -> Pairs:
  """Returns the images at any depth without those that are masks of others; none has a class."""
  files = list(walk.image_files(path, left, os.path.join(os.path.realpath(path), "")))
  masks = {*map(os.path.normpath, of_images(pattern, root, files, there=False).values())}
  found = [file for file in files if os.path.normpath(file) not in masks]
  if not found:
    raise UserError(
      f"{path} has no images beside those that data.masks={pattern!r} takes for masks"
    )
  return [(file, ()) for file in found]


def of_images(
  pattern: str, root: str, files: Sequence[str], *, there: bool = True
) -> dict[str, str]:
  """Returns the file of the mask of each image, by the pattern `data.masks`.

  Raises:
    UserError: the pattern is wrong, or a mask is missing and `there` is true.
  """
  found = {}
  for file in files:
    folder, name = os.path.split(os.path.relpath(file, root))
    try:
      place = pattern.format(folder=folder or ".", name=os.path.splitext(name)[0])
    except (KeyError, IndexError, ValueError, AttributeError) as e:
      raise UserError(
        f"data.masks={pattern!r} is a path below data.path with {{folder}} and {{name}}, those of "
        f"the image, as '{{folder}}/../masks/{{name}}.png': {e}"
      ) from e
    found[file] = os.path.normpath(os.path.join(root, place))
  if there and (missing := [file for file, mask in found.items() if not os.path.isfile(mask)]):
    raise UserError(
      f"{len(missing):,} of {len(files):,} images have no mask: that of {missing[0]} would be "
      f"{found[missing[0]]} by data.masks={pattern!r}"
    )
  return found
