"""Crops the images of a run by `config.data`, for both pipelines."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import fields, images
from cnnjax.data.pixels import Reading, UnreadableImage
from cnnjax.data.split import Image
from cnnjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Window:
  """The part of an image that a crop shows, in pixels of the stored image.

  Pixel (0, 0) reaches from 0 to 1. `of` is the height and width of the image.
  """

  top: float
  left: float
  height: float
  width: float
  of: tuple[int, int]

  @property
  def whole(self) -> bool:
    """True if it is the whole image."""
    return (self.top, self.left, self.height, self.width) == (0, 0, *self.of)

  def boxes(self, boxes: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the boxes [m, 4] within the part, and which of the `valid` ones exist there.

    Boxes are clipped at its border, and dropped if less than `fields.LEAST_LEFT` is left.
    """
    start, length = np.array([self.top, self.left] * 2), np.array([self.height, self.width] * 2)
    moved = (boxes * np.array(self.of * 2) - start) / length
    clipped = np.clip(moved, 0, 1)
    area = lambda x: np.prod(x[:, 2:] - x[:, :2], axis=1)
    valid = valid & (area(clipped) > 0) & (area(clipped) >= fields.LEAST_LEFT * area(moved))
    return np.where(valid[:, None], clipped, 0).astype(np.float32), valid


@dataclasses.dataclass(frozen=True)
class Crops:
  """Turns the bytes of a file, or pixels, into [height, width, channels] of a type.

  `stored` is the shape of the stored images; height and width are None where they differ. A `size`
  of None keeps the size of an image.
  """

  stored: tuple[int | None, int | None, int]
  random: bool
  scale: tuple[float, float]
  ratio: tuple[float, float]
  interpolation: str
  eval_crop: float
  antialias: bool = False
  reading: Reading = images.AS_STORED
  dtype: str = "uint8"

  @classmethod
  def of(
    cls, config: ConfigDict, stored: tuple[int | None, int | None, int], dtype: str = "uint8"
  ) -> "Crops":
    """Returns the crops of `config.data`, for images of a `dtype`."""
    return cls(
      (*stored[:2], config.channels or stored[2]),
      config.crop == "random_resized",
      tuple(config.crop_scale),
      tuple(config.crop_ratio),
      config.interpolation,
      config.eval_crop,
      config.antialias,
      _reading(config),
      dtype,
    )

  def shape(self, size: int | None) -> tuple[int, int, int]:
    """Returns the shape of an image cropped to `size`."""
    if size is None and None in self.stored:
      raise UserError("the images differ in size; set data.image_size, such as 224")
    return self.stored if size is None else (size, size, self.stored[2])

  def train(
    self,
    data: Image,
    size: int | None,
    seed: tuple[int, ...],
    out: np.ndarray | None = None,
  ) -> np.ndarray:
    """Returns a training crop; `crop="random_resized"` differs with `seed`.

    It may write the crop into `out`, and then returns that.
    """
    if not self.random:
      return self.whole(data, size)
    return images.random_resized_crop(
      # Files of 8 bits are cropped as decoded.
      data if isinstance(data, bytes) and self.dtype == "uint8" else self._pixels(data),
      size,
      self.stored[2],
      np.random.default_rng(seed),
      self.scale,
      self.ratio,
      self.interpolation,
      out,
      antialias=self.antialias,
      reading=self.reading,
    )

  def whole(self, data: Image, size: int | None) -> np.ndarray:
    """Returns the largest square in the centre."""
    return self._center(data, size, 1.0)

  def evaluate(self, data: Image, size: int | None) -> np.ndarray:
    """Returns an evaluation crop."""
    return self._center(data, size, self.eval_crop)

  def size(self, data: Image) -> tuple[int, int]:
    """Returns (height, width) of an image before it is cropped."""
    return images.image_size(data, self.reading) if isinstance(data, bytes) else data.shape[:2]

  def train_window(self, of: tuple[int, int], size: int | None, seed: tuple[int, ...]) -> Window:
    """Returns the part that `train` shows of an image of the height and width `of`."""
    if not self.random:
      return self.whole_window(of, size)
    box = images.random_box(*of, np.random.default_rng(seed), self.scale, self.ratio)
    return Window(*box, of)

  def whole_window(self, of: tuple[int, int], size: int | None) -> Window:
    """Returns the part that `whole` shows."""
    return self._center_window(of, size, 1.0)

  def evaluate_window(self, of: tuple[int, int], size: int | None) -> Window:
    """Returns the part that `evaluate` shows."""
    return self._center_window(of, size, self.eval_crop)

  def _center_window(self, of: tuple[int, int], size: int | None, ratio: float) -> Window:
    if size is None or (ratio == 1 and of == (size, size)):
      return Window(0, 0, *of, of)
    scaled, corner = images.center_box(*of, size, ratio)
    (y, x), (top, left) = (o / s for o, s in zip(of, scaled, strict=True)), corner
    return Window(top * y, left * x, size * y, size * x, of)

  def _center(self, data: Image, size: int | None, ratio: float) -> np.ndarray:
    image = self._pixels(data)
    if size is None or (ratio == 1 and image.shape[:2] == (size, size)):
      return image
    return images.center_crop(image, size, ratio, self.interpolation)

  def _pixels(self, data: Image) -> np.ndarray:
    if isinstance(data, UnreadableImage):
      raise data
    if isinstance(data, bytes):
      return images.decode(data, self.stored[2], reading=self.reading, dtype=self.dtype)
    if data.shape[2] != self.stored[2]:
      raise UserError(
        f"data.channels={self.stored[2]}, and these images have {data.shape[2]}: leave it at None, "
        "as only files are converted"
      )
    return data


def _reading(config: ConfigDict) -> Reading:
  """Returns the `Reading` of the files of a run."""
  upright = (
    config.source == "folder" if config.orientation is None else config.orientation == "apply"
  )
  return Reading(upright, config.alpha, limits(config))


def limits(config: ConfigDict) -> tuple[float, float] | None:
  """Returns the values of black and white by `data.range`; None: those of the type."""
  if isinstance(config.range, int):
    return 0, 2**config.range - 1
  return config.range and tuple(config.range)
