"""Image files and image arrays on the host: decoding, sizes, crops.

JPEG is decoded by simplejpeg (libjpeg-turbo), all else by Pillow, and OpenCV scales the crops of
training; all three let other threads run meanwhile. EXIF orientation is not applied and alpha is
dropped, as torchvision and TFDS do.
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

from cnnjax.errors import UserError, unknown

# Pillow's names of the formats that are read, and the endings of their files. No others: some of
# those that Pillow knows start programs (EPS) or give what is there of a cut file (JPEG 2000).
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
# What is over these is refused by its header, before there is memory for it or time lost on it.
MAX_PIXELS = 178_956_970  # Pillow's limit, half a GiB of RGB: larger ones are decompression bombs
MAX_BYTES = 2**30  # of a file; half of it is what that many pixels take uncompressed
MAX_SCANS = 500  # of a JPEG; a scan of 16 bytes may take 10 ms, and no program writes over 100
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's, at half of MAX_PIXELS

# The first bytes of a JPEG, a PNG, a GIF and of TIFF in its two orders.
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")

_thread = threading.local()  # with the buffer of `decode(fast=True)`

# How Pillow and OpenCV call them.
INTERPOLATIONS = {
  "nearest": (Image.Resampling.NEAREST, cv2.INTER_NEAREST_EXACT),
  "bilinear": (Image.Resampling.BILINEAR, cv2.INTER_LINEAR),
  "bicubic": (Image.Resampling.BICUBIC, cv2.INTER_CUBIC),
  "lanczos": (Image.Resampling.LANCZOS, cv2.INTER_LANCZOS4),
  "area": (Image.Resampling.BOX, cv2.INTER_AREA),
}

# What simplejpeg says where no pixel is missing: an odd header, bytes left over, a rare subsampling
# of colour. Pillow reads these, as most programs do; it too refuses cut files.
_HARMLESS = (
  "extraneous bytes before marker",
  "JFIF revision",
  "Invalid SOS parameters",
  "Adobe color transform",
  "Could not determine subsampling",
)


class UnreadableImage(ValueError):
  """An image file that cannot be decoded, and why; of a cut one, "truncated" is the first word."""


def read(path: str | os.PathLike) -> bytes:
  """The bytes of an image file.

  Raises:
    UnreadableImage: it is a device or a pipe, which may have no end, or larger than MAX_BYTES.
    OSError: it is not there, or may not be read.
  """
  # Not to wait for the other end of a pipe; of files it changes nothing.
  opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
  with open(opened, "rb", buffering=0) as file:
    found = os.fstat(opened)
    if not stat.S_ISREG(found.st_mode):
      raise UnreadableImage("not a file, but a folder, a device or a pipe")
    if found.st_size > MAX_BYTES:
      raise UnreadableImage(f"{found.st_size:,} bytes are more than {MAX_BYTES:,}")
    return file.read()


def decode(
  data: bytes, channels: int, *, min_size: tuple[int, int] | None = None, fast: bool = False
) -> np.ndarray:
  """The pixels of an image file, of an animated one the first frame.

  Colour becomes grey by ITU-R 601 (of a JPEG: its luma); 16 bits a channel become their upper 8.

  Args:
    data: the whole file.
    channels: 1 or 3.
    min_size: (height, width): a JPEG may come at 1/8 to 4/8 of its size, as long as neither side
      gets smaller than this; that takes 0.7 to 0.85 of the time.
    fast: the subsampled colour of a JPEG is repeated rather than interpolated, and its pixels lie
      in a buffer of this thread, until the next such call: 0.7 of the time, most of it page faults.

  Returns:
    [height, width, channels] uint8.

  Raises:
    UnreadableImage: the file is empty, truncated, damaged, no image, in a format other than
      `FORMATS`, or has over MAX_PIXELS pixels. Part of a picture is never returned; of a damaged
      one all that the format shows: PNG has checksums, the others do not.
  """
  if channels not in (1, 3):
    raise UserError(f"images have 1 or 3 channels, not {channels!r}")
  with _reasons(data):
    if _is_jpeg(data):
      try:
        return _decode_jpeg(data, channels, min_size or (0, 0), fast)
      except ValueError as e:
        if not any(words in str(e) for words in _HARMLESS):
          raise
    with _open(data) as image:
      return _pixels(image, channels)


def image_size(data: bytes) -> tuple[int, int]:
  """(height, width) of an image file, from its header alone. Raises UnreadableImage."""
  with _reasons(data):
    if _is_jpeg(data):
      with contextlib.suppress(ValueError):
        return simplejpeg.decode_jpeg_header(data)[:2]
    with _open(data) as image:
      return image.height, image.width


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
  """Raises for a wrong checksum of a PNG's pixels, at which Pillow does not look.

  Without it, up to 1 of 40 flipped bits gave other pixels. It takes 0.02 of the time of decoding.
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
  """Whatever a decoder raises becomes an UnreadableImage."""
  try:
    yield
  except (UnreadableImage, UserError, MemoryError):
    raise
  except Exception as e:  # OSError, SyntaxError, struct.error, ...: each of the readers its own
    no_header = isinstance(e, UnidentifiedImageError) or str(e) == "cannot load this image"
    reason = f"no image in a known format ({', '.join(FORMATS)})" if no_header else str(e)
    if no_header and (data.startswith(_STARTS) or data[4:8] == b"ftyp"):
      reason = "truncated or damaged in its header"
    elif any(word in reason.lower() for word in ("truncated", "premature end of jpeg")):
      reason = f"truncated: {reason}"
    elif data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data):
      reason = "truncated: a WebP that ends early"  # of which Pillow says less
    raise UnreadableImage(reason or type(e).__name__) from e


def _decode_jpeg(data: bytes, channels: int, min_size: tuple[int, int], fast: bool) -> np.ndarray:
  height, width, *_ = simplejpeg.decode_jpeg_header(data)
  _check_size(height, width)
  # In small files there is no room for many, and of small images they are quick.
  large = len(data) * height * width > 2**36
  if large and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
    raise UnreadableImage(f"{scans:,} scans are more than {MAX_SCANS}")
  buffer = None
  if fast:
    if getattr(_thread, "buffer", np.empty(0)).size < height * width * channels:
      _thread.buffer = np.empty(height * width * channels, np.uint8)
    buffer = _thread.buffer
  # At 5/8 to 7/8 of the size libjpeg is slower than at the whole, hence min_factor.
  return simplejpeg.decode_jpeg(
    data,
    "GRAY" if channels == 1 else "RGB",
    min_height=min_size[0],
    min_width=min_size[1],
    min_factor=2,
    fastupsample=fast,
    buffer=buffer,
  )


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
  image.load()
  if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
    grey = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow would clip; of RGB it does the same
    return np.repeat(grey[..., None], channels, axis=2)
  if image.mode in ("I", "F"):
    raise UnreadableImage("pixels of 32 bits, whose range is not known; save it with 8 or 16 bits")
  image.info.pop("transparency", None)  # dropped anyway, and Pillow warns of some forms of it
  pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
  return pixels.reshape(*pixels.shape[:2], channels)


def random_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """(top, left, height, width) of a random part of an image, arXiv:1409.4842, section 6.

  Drawn as by torchvision's RandomResizedCrop: its area is a share of the image uniform in `scale`,
  width / height log-uniform in `ratio`; after ten that do not fit, the largest in the centre.
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
) -> np.ndarray:
  """A random part of an image, see `random_box`, scaled to [size, size, channels] uint8.

  Args:
    image: a file, decoded with `channels`, or pixels [height, width, channels] uint8.
    size: pixels of a side.
    channels: 1 or 3.
    rng: the box depends on it and on the size of the image alone.
    scale: the share of the image that the part has.
    ratio: its width / height.
    interpolation: one of INTERPOLATIONS.
    out: where it is written, [size, size, channels] uint8: 0.92 of the time of a new array.

  Raises:
    UnreadableImage: as `decode`.
  """
  _check(size, interpolation)
  out = np.empty((size, size, channels), np.uint8) if out is None else out
  height, width = image.shape[:2] if isinstance(image, np.ndarray) else image_size(image)
  top, left, h, w = random_box(height, width, rng, scale, ratio)
  if not isinstance(image, np.ndarray):
    # A smaller decoding takes 0.6 of the time for photos of 2048x1536 and 0.4 for 4096x3072. With
    # just `size` pixels of the box instead of twice as many, crops were off by half as much again.
    part = 2 * size / min(h, w)
    least = math.ceil(height * part), math.ceil(width * part)
    image = decode(image, channels, min_size=least, fast=True)
    y, x = image.shape[0] / height, image.shape[1] / width
    top, h, left, w = round(top * y), round(h * y), round(left * x), round(w * x)
  box = image[top : top + h, left : left + w]
  _scale(box, interpolation, out)
  return out


def _scale(image: np.ndarray, interpolation: str, out: np.ndarray) -> None:
  """`image` scaled to the square `out`, fast; shrunk to half or less, by area.

  Pillow's filters grow as the image shrinks, OpenCV's do not. Crops of 224 of photos of 500x375 are
  1.7 levels from Pillow's on average; three taps before the resize brought that to 0.9, for 1.15 of
  the time of a crop, area to 1.0 for 1.4, Pillow itself takes 1.8.
  """
  method = INTERPOLATIONS[interpolation][1]
  if interpolation != "nearest" and min(image.shape[:2]) >= 2 * len(out):
    method = cv2.INTER_AREA
  # OpenCV writes into what it takes for an array of its own; of one channel it drops the axis.
  target = out if out.shape[2] > 1 else out[..., 0]
  found = cv2.resize(image, out.shape[:2], dst=target, interpolation=method)
  if not np.shares_memory(found, out):
    target[...] = found


def center_crop(
  image: np.ndarray, size: int, ratio: float = 1.0, interpolation: str = "bilinear"
) -> np.ndarray:
  """The crop of evaluation: the short side is scaled to `size / ratio`, then the centre cropped.

  Equal to torchvision's Resize and CenterCrop on Pillow images: antialiased, the long side rounded
  down. With `size` 224, `ratio` 0.875 is the "resize to 256" of the papers.

  Args:
    image: [height, width, channels] uint8, with 1 or 3 channels.
    size: pixels of a side.
    ratio: the share of the short side that the crop has.
    interpolation: one of INTERPOLATIONS.

  Returns:
    [size, size, channels] uint8.

  Raises:
    UnreadableImage: so elongated that scaled it would have over MAX_PIXELS pixels.
  """
  _check(size, interpolation)
  if not 0 < ratio <= 1:
    raise UserError(f"the ratio of a centre crop is above 0 and at most 1, not {ratio!r}")
  height, width, channels = image.shape
  short = round(size / ratio)
  tall, wide = max(short, int(short * height / width)), max(short, int(short * width / height))
  if tall * wide > MAX_PIXELS:
    raise UnreadableImage(
      f"{height}x{width} pixels are too elongated to be scaled to {tall}x{wide}"
    )
  if (tall, wide) != (height, width):
    pixels = Image.fromarray(image[..., 0] if channels == 1 else image)
    pixels = pixels.resize((wide, tall), INTERPOLATIONS[interpolation][0])
    image = np.array(pixels).reshape(tall, wide, channels)
  top, left = round((tall - size) / 2), round((wide - size) / 2)
  return image[top : top + size, left : left + size]


def _check(size: int, interpolation: str) -> None:
  if size < 1:
    raise UserError(f"the size of a crop is 1 or more pixels, not {size!r}")
  if interpolation not in INTERPOLATIONS:
    raise unknown("interpolation", interpolation, INTERPOLATIONS)
