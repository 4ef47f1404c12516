"""How the images of a run are cropped, as `config.data` says, in both pipelines."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import images
from cnnjax.data.pixels import Reading, UnreadableImage
from cnnjax.data.split import Image
from cnnjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Crops:
  """From the bytes of a file or from pixels to [height, width, channels] uint8.

  `stored` is the shape of the images as they are, without height and width where they differ. A
  `size` of None leaves an image as it is.
  """

  stored: tuple[int | None, int | None, int]
  random: bool
  scale: tuple[float, float]
  ratio: tuple[float, float]
  interpolation: str
  eval_crop: float
  antialias: bool = False
  reading: Reading = images.AS_STORED

  @classmethod
  def of(cls, config: ConfigDict, stored: tuple[int | None, int | None, int]) -> "Crops":
    """The crops that `config.data` asks for."""
    return cls(
      (*stored[:2], config.channels or stored[2]),
      config.crop == "random_resized",
      tuple(config.crop_scale),
      tuple(config.crop_ratio),
      config.interpolation,
      config.eval_crop,
      config.antialias,
      _reading(config),
    )

  def shape(self, size: int | None) -> tuple[int, int, int]:
    """The shape of an image that is cropped to `size`."""
    if size is None and None in self.stored:
      raise UserError("the images differ in size; set data.image_size, such as 224")
    if size is not None and self.stored[2] not in (1, 3):
      raise UserError(
        f"images of {self.stored[2]} channels are taken as they are: data.image_size and "
        "data.eval_size scale those of 1 or 3"
      )
    return self.stored if size is None else (size, size, self.stored[2])

  def train(
    self,
    data: Image,
    size: int | None,
    seed: tuple[int, ...],
    out: np.ndarray | None = None,
  ) -> np.ndarray:
    """The crop that is trained on; of `crop="random_resized"` another one for each `seed`.

    It may be written into `out`, and is `out` then.
    """
    if not self.random:
      return self.whole(data, size)
    return images.random_resized_crop(
      data if isinstance(data, bytes) else self._pixels(data),  # files are cropped as decoded
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
    """The largest square in the centre."""
    return self._center(data, size, 1.0)

  def evaluate(self, data: Image, size: int | None) -> np.ndarray:
    """The crop that is evaluated on."""
    return self._center(data, size, self.eval_crop)

  def _center(self, data: Image, size: int | None, ratio: float) -> np.ndarray:
    image = self._pixels(data)
    if size is None or (ratio == 1 and image.shape[:2] == (size, size)):
      return image
    return images.center_crop(image, size, ratio, self.interpolation)

  def _pixels(self, data: Image) -> np.ndarray:
    if isinstance(data, UnreadableImage):
      raise data
    if isinstance(data, bytes):
      return images.decode(data, self.stored[2], reading=self.reading)
    if data.shape[2] != self.stored[2]:
      raise UserError(
        f"data.channels is {self.stored[2]}, and these images have {data.shape[2]}: files alone "
        "are converted"
      )
    return data


def _reading(config: ConfigDict) -> Reading:
  """How the files of a run are read."""
  upright = (
    config.source == "folder" if config.orientation is None else config.orientation == "apply"
  )
  limits = (0, 2**config.range - 1) if isinstance(config.range, int) else config.range
  return Reading(upright, config.alpha, limits and tuple(limits))
