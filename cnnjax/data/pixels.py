"""Turns the pixels of an open image file into arrays: depth, transparency, orientation."""

import contextlib
import dataclasses
import io
import warnings

import cv2
import numpy as np
from PIL import ExifTags, Image

_WHITE_IS_ZERO, _SIGNED = 0, 2  # values of the tags PhotometricInterpretation and SampleFormat
warnings.filterwarnings("ignore", "Corrupt EXIF data", module="PIL")
_UNKNOWN_RANGE = (
  "pixels of 32 bits, whose range is not known; set data.range to the values that are black and "
  "white, such as (0, 1), or save it with 8 or 16 bits"
)
_UNDONE = {6: 8, 8: 6}  # the orientation that turns back; each other one undoes itself


class UnreadableImage(ValueError):
  """The reason why an image file cannot be decoded; "truncated..." for an incomplete file."""


@dataclasses.dataclass(frozen=True)
class Reading:
  """The rules for reading the pixels of a file: `data.orientation`, `data.alpha`, `data.range`.

  `upright` turns and mirrors as EXIF says. `alpha` is "drop", or the background of transparent
  pixels, "white" or "black". `limits` are the values that become 0 and 255 in files with more than
  8 bits a channel; None reads their upper 8 bits.
  """

  upright: bool = False
  alpha: str = "drop"
  limits: tuple[float, float] | None = None


def to_uint8(image: Image.Image, data: bytes, channels: int, reading: Reading) -> np.ndarray:
  """Returns the pixels of a file, [height, width, channels] uint8.

  Args:
    image: Pillow's image of `data`, not loaded yet.
    data: the whole file.
    channels: 1 or 3.
    reading: the rules.

  Raises:
    UnreadableImage: the meaning of the pixels is not known.
  """
  if image.format == "TIFF":  # Pillow turns it as it is loaded
    turn = 1 if reading.upright else orientation(image)
    turn = _UNDONE.get(turn, turn)
  composed = _composed(_of_8_bits(image, data, reading.limits), reading.alpha)
  if image.format != "TIFF":
    turn = orientation(image) if reading.upright else 1
  pixels = np.array(composed.convert("L" if channels == 1 else "RGB"))
  return oriented(pixels.reshape(*pixels.shape[:2], channels), turn)


def to_deep(
  image: Image.Image, data: bytes, channels: int, reading: Reading, dtype: str
) -> np.ndarray:
  """Returns the pixels of a file, [height, width, channels] uint16 or float32; see `to_uint8`.

  Keeps all bits: white is 65535 in uint16 and 1 in float32. With limits, these are black and white;
  values beyond them are below 0 and above 1 in float32.

  Args:
    image: as of `to_uint8`, as are `data`, `channels` and `reading`.
    dtype: uint16 or float32.
  """
  tiff, tile = image.format == "TIFF", str(image.tile)
  if tiff:  # which Pillow turns as it is loaded, as in `to_uint8`
    turn = 1 if reading.upright else orientation(image)
    turn = _UNDONE.get(turn, turn)
  values = deep_values(image, data)
  if values is None:
    with Image.open(io.BytesIO(data)) as again:
      return of_bytes(to_uint8(again, data, channels, reading), dtype)
  if not tiff:
    turn = orientation(image) if reading.upright else 1
  pixels = _unit(image, values, tile, reading.limits)
  if pixels.ndim == 3 and pixels.shape[2] == 4:
    colour, opaque = pixels[..., :3], values[..., 3:] / 65535
    behind = {"white": 1.0, "black": 0.0}.get(reading.alpha)
    pixels = colour if behind is None else colour * opaque + behind * (1 - opaque)
  if pixels.ndim == 3 and channels == 1:
    pixels = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
  pixels = pixels[..., None] if pixels.ndim == 2 else pixels
  pixels = np.broadcast_to(pixels, (*pixels.shape[:2], channels))
  if dtype == "uint16":
    pixels = np.rint(np.clip(pixels, 0, 1) * 65535)
  return oriented(pixels.astype(dtype), turn)


def of_bytes(pixels: np.ndarray, dtype: str) -> np.ndarray:
  """Returns pixels of 8 bits in another type of images, with the same black and white."""
  if dtype == "uint16":
    return pixels.astype(np.uint16) * np.uint16(257)
  return pixels.astype(np.float32) / np.float32(255) if dtype == "float32" else pixels


def _unit(
  image: Image.Image, values: np.ndarray, tile: str, limits: tuple[float, float] | None
) -> np.ndarray:
  """Returns the values of `deep_values` as float64, black at 0 and white at 1."""
  if not np.isfinite(values).all():
    raise UnreadableImage("pixels that are infinite or NaN")
  if limits is None:
    deep = image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I")
    if image.mode.startswith(("I", "F")) and not deep:
      raise UnreadableImage(_UNKNOWN_RANGE)
    limits = (0, 4095 if "I;12" in tile else 65535)
  scaled = (values.astype(np.float64) - limits[0]) / (limits[1] - limits[0])
  tags = getattr(image, "tag_v2", {})
  if values.ndim == 2 and tags.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO:
    scaled = 1 - scaled
  return scaled


def orientation(image: Image.Image) -> int:
  """Returns the orientation in EXIF, from 1 (upright) to 8; loads the image if it is a PNG."""
  with contextlib.suppress(Exception):  # of a broken block
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if turn in range(1, 9) else 1
  return 1


def oriented(pixels: np.ndarray, turn: int) -> np.ndarray:
  """Mirrors and turns `pixels` [height, width, channels] as an orientation of EXIF says."""
  if turn == 1:
    return pixels
  if turn >= 5:
    pixels = pixels.swapaxes(0, 1)
  down, right = (-1 if turn in turned else 1 for turned in ((3, 4, 7, 8), (2, 3, 6, 7)))
  return np.ascontiguousarray(pixels[::down, ::right])


def deep_values(image: Image.Image, data: bytes) -> np.ndarray | None:
  """Loads an image and returns the values in its file if they have more than 8 bits, else None.

  [height, width], or of colour [height, width, channels], as RGB or RGBA.

  Raises:
    UnreadableImage: no library reads them unchanged.
  """
  args, is_ppm = [tile.args for tile in image.tile], image.format == "PPM"
  raw = str(args).replace("BGR;16", "")  # BGR;16 has 5, 6 and 5 bits
  maximum = args[0][1] if is_ppm and isinstance(args[0], tuple) and len(args[0]) == 2 else None
  image.load()  # raises for a missing part, which OpenCV does not notice
  if is_ppm and image.mode == "I":  # Pillow has spread the values up to the maximum over 16 bits
    return np.rint(np.asarray(image) * ((maximum or 65535) / 65535))
  if image.mode.startswith(("I", "F")):
    return np.asarray(image)
  if ";16" not in raw and (maximum or 0) <= 255:
    return None
  # Pillow has reduced colour to 8 bits.
  values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
  if values is None or values.dtype != np.uint16:
    raise UnreadableImage("16 bits a channel in a form that data.range cannot read; save it as PNG")
  return values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]


def _of_8_bits(image: Image.Image, data: bytes, limits: tuple[float, float] | None) -> Image.Image:
  """Returns the image, loaded, with 8 bits a channel and its transparency."""
  tags, tile = getattr(image, "tag_v2", {}), str(image.tile)
  if image.mode == "L" and tags.get(ExifTags.Base.SampleFormat) == (_SIGNED,):
    raise UnreadableImage("signed pixels of 8 bits; save it unsigned")
  if limits is None:
    values = _upper_bits(image, tile)
  elif (values := deep_values(image, data)) is not None:
    values = _scaled(values, limits)
  if values is None:
    return image
  # Pillow does not look at the tag for these.
  if values.ndim == 2 and tags.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO:
    values = 255 - values
  converted = Image.fromarray(values)
  if (key := image.info.get("transparency")) is not None and values.ndim == 2:
    converted.putalpha(Image.fromarray(np.uint8(255) * (np.asarray(image) != key)))
  return converted


def _upper_bits(image: Image.Image, tile: str) -> np.ndarray | None:
  """Returns the upper 8 bits of grey; None for images that Pillow has in 8 bits already."""
  image.load()
  if not image.mode.startswith(("I", "F")):
    return None
  if image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I"):
    return (np.asarray(image) >> (4 if "I;12" in tile else 8)).astype(np.uint8)
  raise UnreadableImage(_UNKNOWN_RANGE)


def _scaled(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
  """Returns `values` as uint8: `limits` become 0 and 255, and so do values beyond them."""
  if not np.isfinite(values).all():
    raise UnreadableImage("pixels that are infinite or NaN")
  low, high = limits
  scaled = np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
  if values.shape[2:] == (4,):
    scaled[..., 3] = values[..., 3] / 257  # transparency has all of its 16 bits
  return np.round(scaled).astype(np.uint8)


def _composed(image: Image.Image, alpha: str) -> Image.Image:
  """Returns the image on a background of the colour `alpha`; for "drop" without transparency."""
  if alpha == "drop" or not image.has_transparency_data:
    image.info.pop("transparency", None)  # Pillow warns of some forms of it
    return image
  image = image.convert("RGBA")
  return Image.alpha_composite(Image.new("RGBA", image.size, alpha), image)
