"""Decodes, scales and crops images on the host.

simplejpeg (libjpeg-turbo) decodes JPEG, Pillow other formats, and OpenCV scales training crops; all
three let other threads run meanwhile. Colour profiles and gamma are not applied; a `Reading`
decides orientation, transparency and depth.
"""

import contextlib
import io
import math
import os
import stat
import threading
import warnings
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from cnnjax.data import pixels
from cnnjax.data.pixels import Reading, UnreadableImage
from cnnjax.errors import UserError, unknown

# Pillow's names of the supported formats, and the endings of their files. Other formats of Pillow
# start programs (EPS) or return a part of a truncated file (JPEG 2000).
FORMATS = {
  "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
  "PNG": (".png",),
  "WEBP": (".webp",),
  "BMP": (".bmp", ".dib"),
  "GIF": (".gif",),
  "TIFF": (".tif", ".tiff"),
  "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
  "AVIF": (".avif",),
}
IMAGE_ENDINGS = tuple(sorted({ending for endings in FORMATS.values() for ending in endings}))
# Files over these limits are refused by their header, before they cost memory or time. The figures
# behind them are in experiments/benchmarks/input/README.md.
MAX_PIXELS = 178_956_970  # Pillow's limit, half a GiB of RGB: larger ones are decompression bombs
MAX_BYTES = 2**30  # of a file, twice the size of that many pixels uncompressed
MAX_SCANS = 500  # of a JPEG: few bytes of a file may make many, and each takes time
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's, at half of MAX_PIXELS

# The first bytes of a JPEG, a PNG, a GIF and of TIFF in its two orders.
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")

AS_STORED = Reading()
_thread = threading.local()  # with the buffer of `decode(fast=True)`

# The methods of Pillow and OpenCV by our names.
INTERPOLATIONS = {
  "nearest": (Image.Resampling.NEAREST, cv2.INTER_NEAREST_EXACT),
  "bilinear": (Image.Resampling.BILINEAR, cv2.INTER_LINEAR),
  "bicubic": (Image.Resampling.BICUBIC, cv2.INTER_CUBIC),
  "lanczos": (Image.Resampling.LANCZOS, cv2.INTER_LANCZOS4),
  "area": (Image.Resampling.BOX, cv2.INTER_AREA),
}

# Errors of simplejpeg where no pixel is missing: an odd header, bytes left over, a rare subsampling
# of colour. Pillow reads these files, as most programs do, and refuses truncated ones too.
_HARMLESS = (
  "extraneous bytes before marker",
  "JFIF revision",
  "Invalid SOS parameters",
  "Adobe color transform",
  "Could not determine subsampling",
)


def read(path: str | os.PathLike) -> bytes:
  """Reads the bytes of an image file.

  Raises:
    UnreadableImage: it is a device or a pipe, which may have no end, or larger than MAX_BYTES.
    OSError: it is missing, or may not be read.
  """
  # O_NONBLOCK: no wait for the other end of a pipe; it changes nothing for files.
  opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
  with open(opened, "rb", buffering=0) as file:
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode):
      raise UnreadableImage("not a file, but a folder, a device or a pipe")
    if status.st_size > MAX_BYTES:
      raise UnreadableImage(f"{status.st_size:,} bytes are more than {MAX_BYTES:,}")
    return file.read()


def decode(
  data: bytes,
  channels: int,
  *,
  reading: Reading = AS_STORED,
  min_size: tuple[int, int] | None = None,
  fast: bool = False,
  dtype: str = "uint8",
) -> np.ndarray:
  """Decodes the pixels of an image file, or of the first frame of an animated one.

  Colour becomes grey by ITU-R 601, which is the luma of a JPEG.

  Args:
    data: the whole file.
    channels: 1 or 3.
    reading: the rules for orientation, transparency and more than 8 bits.
    min_size: (height, width): a JPEG may be decoded at 1/8 to 4/8 of its size, which is faster, if
      neither side gets smaller than this.
    fast: repeats the subsampled colour of a JPEG instead of interpolating it, and puts the pixels
      into a buffer of this thread, until the next such call.
    dtype: of the pixels, one of `fields.WHITE`, which has its white.

  Returns:
    [height, width, channels] of `dtype`.

  Raises:
    UnreadableImage: the file is empty, truncated, damaged, no image, in a format other than
      `FORMATS`, or has over MAX_PIXELS pixels. A part of a picture is never returned. Damage is
      noticed as far as the format shows it: PNG has checksums, the others do not.
  """
  if channels not in (1, 3):
    raise UserError(f"images have 1 or 3 channels, not {channels!r}")
  with _reasons(data):
    if _is_jpeg(data):
      try:
        turn = _orientation_of_jpeg(data) if reading.upright else 1
        min_size = (min_size or (0, 0))[:: -1 if turn >= 5 else 1]
        decoded = pixels.oriented(_decode_jpeg(data, channels, min_size, fast), turn)
        return pixels.of_bytes(decoded, dtype)
      except ValueError as e:
        if not any(words in str(e) for words in _HARMLESS):
          raise
    with _open(data) as image:
      if dtype != "uint8":
        return pixels.to_deep(image, data, channels, reading, dtype)
      return pixels.to_uint8(image, data, channels, reading)


def decode_mask(data: bytes) -> np.ndarray:
  """Decodes the values of a mask's file: the indices of a palette, or else grey.

  Returns:
    [height, width] uint8, or uint16 of a file with more than 8 bits.

  Raises:
    UnreadableImage: as of `decode`; or the mask has colours, or more than 16 bits.
  """
  with _reasons(data), _open(data) as image:
    image.load()
    if image.mode in ("1", "L", "P"):
      return np.array(image, np.uint8)
    values = np.asarray(image)
    if image.mode.startswith("I") and 0 <= values.min() <= values.max() < 2**16:
      return values.astype(np.uint16)
    raise UnreadableImage(
      f"a mask has the number of a class in each pixel, and this one is {image.mode}: save it as a "
      "PNG in grey or with a palette"
    )


def image_size(data: bytes, reading: Reading = AS_STORED) -> tuple[int, int]:
  """Returns (height, width) of an image file from its header. Raises UnreadableImage."""
  with _reasons(data):
    if _is_jpeg(data):
      with contextlib.suppress(ValueError):
        turn = _orientation_of_jpeg(data) if reading.upright else 1
        return simplejpeg.decode_jpeg_header(data)[:2][:: -1 if turn >= 5 else 1]
    with _open(data) as image:
      # For a TIFF Pillow gives the size after turning.
      turned = pixels.orientation(image) >= 5 and reading.upright != (image.format == "TIFF")
      return (image.width, image.height) if turned else (image.height, image.width)


def _orientation_of_jpeg(data: bytes) -> int:
  """Returns `pixels.orientation` of a JPEG, quickly if it has no EXIF."""
  at = 2
  while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b""):
    if data[at + 1] == 0xE1:  # a segment of EXIF or XMP
      with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return pixels.orientation(image)
    at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
  return 1


def _is_jpeg(data: bytes) -> bool:
  return data.startswith(_STARTS[0])


def _open(data: bytes) -> Image.Image:
  if not data:
    raise UnreadableImage("the file is empty")
  _check_png(data)
  image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
  _check_size(image.height, image.width)  # a program may have set Pillow's own limit to None
  return image


def _check_size(height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise UnreadableImage(f"{height}x{width} pixels are more than {MAX_PIXELS:,}")


def _check_png(data: bytes) -> None:
  """Raises for a wrong checksum of a PNG's pixels, which Pillow does not check.

  Flipped bits would give other pixels: experiments/benchmarks/input/README.md.
  """
  at, view = 8, memoryview(data)
  while data.startswith(_STARTS[1]) and at + 12 <= len(data):
    end = at + 8 + int.from_bytes(data[at : at + 4], "big")
    kind, checksum = data[at + 4 : at + 8], data[end : end + 4]
    if kind == b"IDAT":
      if len(checksum) < 4:
        raise UnreadableImage("truncated: image file is truncated within its pixels")
      if zlib.crc32(view[at + 4 : end]) != int.from_bytes(checksum, "big"):
        raise UnreadableImage("damaged: its pixels do not have the checksum in the file")
    at = end + 4


@contextlib.contextmanager
def _reasons(data: bytes) -> Iterator[None]:
  """Turns all errors of decoders inside into UnreadableImage."""
  try:
    yield
  except (UnreadableImage, UserError, MemoryError):
    raise
  except Exception as e:  # OSError, SyntaxError, struct.error, ...: each reader raises its own
    no_header = isinstance(e, UnidentifiedImageError) or str(e) == "cannot load this image"
    reason = f"no image in a known format ({', '.join(FORMATS)})" if no_header else str(e)
    if no_header and data.startswith(_STARTS[-2:]):
      reason = "damaged in its header, or a TIFF of a kind that is not read; save it as PNG"
    elif no_header and (data.startswith(_STARTS) or data[4:8] == b"ftyp"):
      reason = "truncated or damaged in its header"
    elif any(word in reason.lower() for word in ("truncated", "premature end of jpeg")):
      reason = f"truncated: {reason}"
    elif data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data):
      reason = "truncated: a WebP that ends early"  # Pillow says less
    raise UnreadableImage(reason or type(e).__name__) from e


def _decode_jpeg(data: bytes, channels: int, min_size: tuple[int, int], fast: bool) -> np.ndarray:
  height, width, *_ = simplejpeg.decode_jpeg_header(data)
  _check_size(height, width)
  # Small files have no room for many scans, and scans of small images are quick.
  large = len(data) * height * width > 2**36
  if large and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
    raise UnreadableImage(f"{scans:,} scans are more than {MAX_SCANS}")
  buffer = None
  if fast:
    if getattr(_thread, "buffer", np.empty(0)).size < height * width * channels:
      _thread.buffer = np.empty(height * width * channels, np.uint8)
    buffer = _thread.buffer
  # min_factor, as libjpeg is slower at 5/8 to 7/8 of the size than at the whole.
  return simplejpeg.decode_jpeg(
    data,
    "GRAY" if channels == 1 else "RGB",
    min_height=min_size[0],
    min_width=min_size[1],
    min_factor=2,
    fastupsample=fast,
    buffer=buffer,
  )


def random_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """Draws (top, left, height, width) of a random part of an image, arXiv:1409.4842, section 6.

  As in torchvision's RandomResizedCrop, its area is a share of the image, uniform in `scale`, and
  width / height is log-uniform in `ratio`; after ten draws that do not fit, the part is the largest
  one in the centre.
  """
  if not 0 < scale[0] <= scale[1] <= 1:
    raise UserError(f"the scale of a random crop is two shares, as (0.08, 1.0), not {scale!r}")
  if not 0 < ratio[0] <= ratio[1]:
    raise UserError(f"the ratio of a random crop is two ratios, as (3 / 4, 4 / 3), not {ratio!r}")
  logs = math.log(ratio[0]), math.log(ratio[1])
  for _ in range(10):
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(*logs))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
  w, h = width, height
  if width / height < ratio[0]:
    h = max(1, round(width / ratio[0]))
  elif width / height > ratio[1]:
    w = max(1, round(height * ratio[1]))
  return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(
  image: bytes | np.ndarray,
  size: int,
  channels: int,
  rng: np.random.Generator,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  interpolation: str = "bilinear",
  out: np.ndarray | None = None,
  *,
  antialias: bool = False,
  reading: Reading = AS_STORED,
) -> np.ndarray:
  """Scales a random part of an image, see `random_box`, to [size, size, channels].

  Args:
    image: a file, decoded as uint8 with `channels`, or pixels [height, width, channels] of a type
      of `fields`, which the result has as well.
    size: pixels of a side.
    channels: of the image; 1 or 3 for a file.
    rng: draws the box, which also depends on the size of the image.
    scale: bounds of the share of the image.
    ratio: bounds of width / height.
    interpolation: one of INTERPOLATIONS.
    out: the array to write to, [size, size, channels].
    antialias: filters a part that shrinks as `center_crop` does, not by OpenCV.
    reading: of a file, see `decode`.

  Raises:
    UnreadableImage: as `decode`.
  """
  _check(size, interpolation)
  if out is None:
    dtype = image.dtype if isinstance(image, np.ndarray) else np.uint8
    out = np.empty((size, size, channels), dtype)
  if not isinstance(image, np.ndarray) and not _is_jpeg(image):
    image = decode(image, channels, reading=reading)
  height, width = image.shape[:2] if isinstance(image, np.ndarray) else image_size(image, reading)
  top, left, h, w = random_box(height, width, rng, scale, ratio)
  if not isinstance(image, np.ndarray):
    # Decoded smaller, which saves time, but with twice as many pixels in the box as the crop has,
    # which keeps it close to the whole decoding: experiments/benchmarks/input/README.md.
    part = 2 * size / min(h, w)
    least = math.ceil(height * part), math.ceil(width * part)
    image = decode(image, channels, reading=reading, min_size=least, fast=True)
    y, x = image.shape[0] / height, image.shape[1] / width
    top, h, left, w = round(top * y), round(h * y), round(left * x), round(w * x)
  box = image[top : top + h, left : left + w]
  _scale(box, interpolation, out, antialias)
  return out


def _scale(image: np.ndarray, interpolation: str, out: np.ndarray, antialias: bool) -> None:
  """Scales `image` to the square `out`; without `antialias` fast, by area to half or less.

  Pillow's filters grow as the image shrinks, OpenCV's do not. The cost and the gain are in
  experiments/benchmarks/input/README.md.
  """
  if antialias and max(image.shape[:2]) > len(out):
    out[...] = _by_pillow(image, out.shape[:2], interpolation)
    return
  method = INTERPOLATIONS[interpolation][1]
  if interpolation != "nearest" and min(image.shape[:2]) >= 2 * len(out):
    method = cv2.INTER_AREA
  if out.shape[2] > 4:  # more channels than all of OpenCV's methods take
    for start in range(0, out.shape[2], 4):
      part = np.ascontiguousarray(image[..., start : start + 4])
      scaled = cv2.resize(part, out.shape[:2], interpolation=method)
      out[..., start : start + 4] = scaled.reshape(*out.shape[:2], -1)
    return
  # OpenCV may return another array than `out`, and drops the axis of a single channel.
  target = out if out.shape[2] > 1 else out[..., 0]
  scaled = cv2.resize(image, out.shape[:2], dst=target, interpolation=method)
  if not np.shares_memory(scaled, out):
    target[...] = scaled


def center_crop(
  image: np.ndarray, size: int, ratio: float = 1.0, interpolation: str = "bilinear"
) -> np.ndarray:
  """Scales the short side of an image to `size / ratio` and crops the centre, for evaluation.

  Equals torchvision's Resize and CenterCrop on Pillow images: antialiased, the long side rounded
  down. With `size` 224, `ratio` 0.875 is the "resize to 256" of the papers.

  Args:
    image: [height, width, channels] of a type of `fields`.
    size: pixels of a side.
    ratio: the side of the crop over the short side.
    interpolation: one of INTERPOLATIONS.

  Returns:
    [size, size, channels] of the same type.

  Raises:
    UnreadableImage: an image so elongated that, scaled, it would have over MAX_PIXELS pixels.
  """
  _check(size, interpolation)
  if not 0 < ratio <= 1:
    raise UserError(f"the ratio of a centre crop is above 0 and at most 1, not {ratio!r}")
  (tall, wide), (top, left) = center_box(*image.shape[:2], size, ratio)
  if (tall, wide) != image.shape[:2]:
    image = _by_pillow(image, (tall, wide), interpolation)
  return image[top : top + size, left : left + size]


def center_box(
  height: int, width: int, size: int, ratio: float
) -> tuple[tuple[int, int], tuple[int, int]]:
  """Returns ((height, width) of the scaled image, (top, left) of the crop) of `center_crop`.

  Raises UnreadableImage as that does.
  """
  short = round(size / ratio)
  tall, wide = max(short, int(short * height / width)), max(short, int(short * width / height))
  if tall * wide > MAX_PIXELS:
    raise UnreadableImage(
      f"{height}x{width} pixels are too elongated to be scaled to {tall}x{wide}"
    )
  return (tall, wide), (round((tall - size) / 2), round((wide - size) / 2))


def _by_pillow(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
  """Scales `image` to `size`, (height, width), antialiased."""
  method, channels = INTERPOLATIONS[interpolation][0], image.shape[2]
  if image.dtype == np.uint8 and channels in (1, 3):
    out = Image.fromarray(image[..., 0] if channels == 1 else image).resize(size[::-1], method)
    return np.array(out).reshape(*size, channels)
  out = np.empty((*size, channels), image.dtype)
  for channel in range(channels):  # Pillow scales 16 bits, and many channels, only as float32
    band = np.ascontiguousarray(image[..., channel])
    band = band if image.dtype == np.uint8 else band.astype(np.float32)
    scaled = np.asarray(Image.fromarray(band).resize(size[::-1], method))
    if image.dtype == np.uint16:
      scaled = np.clip(np.rint(scaled), 0, 65535)
    out[..., channel] = scaled
  return out


def _check(size: int, interpolation: str) -> None:
  if size < 1:
    raise UserError(f"the size of a crop is 1 or more pixels, not {size!r}")
  if interpolation not in INTERPOLATIONS:
    raise unknown("interpolation", interpolation, INTERPOLATIONS)
