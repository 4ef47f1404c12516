"""Crops whole examples to one size: image, mask and boxes alike."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import fields, images
from cnnjax.data.crops import Crops, Window
from cnnjax.data.fields import Field
from cnnjax.data.images import UnreadableImage
from cnnjax.data.split import Example
from cnnjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Examples:
  """Turns the examples of a source into arrays, by the `crops` of a run."""

  crops: Crops
  fields: Mapping[str, Field]

  @classmethod
  def of(cls, config: ConfigDict, declared: Mapping[str, Field]) -> "Examples":
    """Returns the examples of `config.data`, for a split with the fields `declared`."""
    image = declared["image"]
    return cls(Crops.of(config, image.shape, image.dtype), declared)

  def arrays(self, size: int | None) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns (shape, dtype) of each array of an example with an image of `size`, by name."""
    return fields.arrays(self.cropped(size))

  def cropped(self, size: int | None) -> dict[str, Field]:
    """Returns the fields of an example with an image of `size`."""
    height, width, _ = shape = self.crops.shape(size)
    sized = {name: field.with_size(height, width) for name, field in self.fields.items()}
    return {**sized, "image": dataclasses.replace(sized["image"], shape=shape)}

  def train(
    self, example: Example, size: int | None, seed: tuple[int, ...], out: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """Returns a training example. `seed` and `out` are as of `Crops.train`."""
    crop = lambda crops, data, out=None: crops.train(data, size, seed, out)
    return self._all(example, crop, lambda of: self.crops.train_window(of, size, seed), out)

  def whole(self, example: Example, size: int | None) -> dict[str, np.ndarray]:
    """Returns an example with the largest square in the centre."""
    crop = lambda crops, data, out=None: crops.whole(data, size)
    return self._all(example, crop, lambda of: self.crops.whole_window(of, size))

  def evaluate(self, example: Example, size: int | None) -> dict[str, np.ndarray]:
    """Returns an evaluation example."""
    crop = lambda crops, data, out=None: crops.evaluate(data, size)
    return self._all(example, crop, lambda of: self.crops.evaluate_window(of, size))

  def _all(
    self,
    example: Example,
    crop: Callable[..., np.ndarray],
    window: Callable[[tuple[int, int]], Window],
    out: np.ndarray | None = None,
  ) -> dict[str, np.ndarray]:
    """Returns the arrays of an example; `crop` cuts out the `window` of an image."""
    arrays = {"image": crop(self.crops, example["image"], out)}
    for name, field in self.fields.items():
      if field.kind == "mask":
        mask = _mask(example[name], field, self.crops.size(example["image"]))
        bands = mask[..., None]
        cropped = crop(self._masks, bands)  # the same part, as image and mask have one size
        arrays[name] = mask if cropped is bands else cropped[..., 0]
      elif field.kind == "boxes":
        arrays |= _boxes(name, example, field, window(self.crops.size(example["image"])))
      elif name != "image":
        arrays[name] = np.asarray(example[name], field.dtype)
    return arrays

  @functools.cached_property
  def _masks(self) -> Crops:
    stored = (*self.crops.stored[:2], 1)
    return dataclasses.replace(self.crops, stored=stored, interpolation="nearest")


def _mask(
  data: bytes | np.ndarray | UnreadableImage, field: Field, size: tuple[int, int]
) -> np.ndarray:
  """Returns a mask of its field's type; `size` is the height and width of its image."""
  if isinstance(data, UnreadableImage):
    raise data
  mask = images.decode_mask(data) if isinstance(data, bytes) else data
  if mask.shape != size:
    raise UnreadableImage(
      f"its mask has {'x'.join(map(str, mask.shape))} pixels, and the image "
      f"{'x'.join(map(str, size))}"
    )
  if mask is data and str(mask.dtype) == field.dtype:  # checked when it was given
    return mask
  ignore = np.iinfo(mask.dtype).max
  counted = mask[mask != ignore]
  if len(counted) and counted.max() >= len(field.classes):
    raise UserError(
      f"a mask has the class {counted.max()}, and there are {len(field.classes)} classes, from 0: "
      f"name them all in data.classes, or write {ignore} where a pixel does not count"
    )
  if str(mask.dtype) == field.dtype:
    return mask
  return np.where(mask == ignore, field.ignore, mask).astype(field.dtype)


def _boxes(name: str, example: Example, field: Field, window: Window) -> dict[str, np.ndarray]:
  """Returns the boxes that `window` shows, as the three arrays of a field."""
  if isinstance(example[name], UnreadableImage):
    raise example[name]
  boxes, labels = (np.asarray(example[key]) for key in (name, fields.label_of(name)))
  valid = example.get(fields.valid_of(name), np.ones(len(boxes), bool))
  (most, _), number = field.shape, len(boxes)
  if number > most:
    raise UserError(
      f"an image has {number} boxes, and the field {name!r} has room for {most}: let its source "
      f"declare more, or set data.max_boxes={number} or above"
    )
  if not window.whole:
    boxes, valid = window.boxes(boxes.reshape(-1, 4), valid)
  arrays = {name: boxes, fields.label_of(name): labels, fields.valid_of(name): valid}
  wanted = fields.arrays({name: field})
  return {key: _padded(array, most, wanted[key][1]) for key, array in arrays.items()}


def _padded(array: np.ndarray, most: int, dtype: str) -> np.ndarray:
  """Pads `array` with zeros to `most` rows."""
  if len(array) == most and str(array.dtype) == dtype:
    return array
  padded = np.zeros((most, *array.shape[1:]), dtype)
  padded[: len(array)] = array
  return padded
