"""Damaged and odd images, through what the folder source and the pipelines do with them."""

import contextlib
import io
import os
import pathlib
import resource
import struct
import tempfile
import warnings
import zlib

import cv2
import numpy as np
from fuzzing import apart, corrupted, fuzz, one_clear_line
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cnnjax import data
from cnnjax.config import default, override
from cnnjax.data import folder, images
from cnnjax.data.images import UnreadableImage, decode, image_size
from cnnjax.data.pixels import Reading
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.tools import scan

UPRIGHT = Reading(upright=True)
PIXELS = np.random.default_rng(0).integers(0, 256, (13, 18, 3), np.uint8)
PIXELS = np.sort(PIXELS, axis=0)  # gradients, so that files are short and have several structures


def saved(kind, mode="RGB", **options):
  """The bytes of a file of PIXELS."""
  file = io.BytesIO()
  Image.fromarray(PIXELS).convert(mode).save(file, kind, **options)
  return file.getvalue()


def turned(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif.tobytes()


FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - PIXELS)]}
GREY_16 = io.BytesIO()
Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256).save(GREY_16, "PNG")
FILES = {
  "jpeg": saved("JPEG"),
  "jpeg progressive": saved("JPEG", progressive=True),
  "jpeg grey": saved("JPEG", "L"),
  "jpeg cmyk": saved("JPEG", "CMYK"),
  "jpeg restarts": saved("JPEG", restart_marker_blocks=1, subsampling=0),
  **{f"jpeg turned {i}": saved("JPEG", exif=turned(i)) for i in (2, 6)},
  "webp turned": saved("WEBP", exif=turned(7), lossless=True),
  "tiff turned": saved("TIFF", exif=turned(5)),
  "png": saved("PNG"),
  "png 1 bit": saved("PNG", "1"),
  "png palette": saved("PNG", "P"),
  "png grey alpha": saved("PNG", "LA"),
  "png alpha": saved("PNG", "RGBA"),
  "png 16 bits": GREY_16.getvalue(),
  "png 16 bits of colour": cv2.imencode(".png", PIXELS.astype(np.uint16) * 16)[1].tobytes(),
  "png animated": saved("PNG", **FRAMES),
  "gif": saved("GIF", "P"),
  "gif animated": saved("GIF", "P", **FRAMES),
  "bmp": saved("BMP"),
  "bmp palette": saved("BMP", "P"),
  "webp": saved("WEBP"),
  "webp lossless": saved("WEBP", lossless=True),
  "webp animated": saved("WEBP", **FRAMES),
  "tiff": saved("TIFF"),
  "tiff lzw": saved("TIFF", compression="tiff_lzw"),
  "tiff cmyk deflate": saved("TIFF", "CMYK", compression="tiff_adobe_deflate"),
  "ppm": saved("PPM"),
  "avif": saved("AVIF"),
}
OPENED = {name: decode(file, 3) for name, file in FILES.items()}
# Half of what corrupts comes from JPEG and PNG, of which data sets consist.
ANY = st.sampled_from([n for n in FILES if n.startswith(("jpeg", "png"))]) | st.sampled_from(
  sorted(FILES)
)


def refused(call):
  """What it gives, or None where it is refused with a clear reason."""
  try:
    return call()
  except UnreadableImage as e:
    one_clear_line(e)
    assert "\n" not in str(e), e
    return None


def read(example):
  """All ways to read one file agree, and nothing shows through that is not in it."""
  name, file = example
  crops = {
    crop: data.Crops((None, None, 3), crop == "random", (0.08, 1.0), (0.75, 4 / 3), "bilinear", 0.9)
    for crop in ("center", "random")
  }
  pixels = refused(lambda: decode(file, 3))
  size = refused(lambda: image_size(file))
  cropped = [refused(lambda c=c: c.train(file, 8, (0, 1))) for c in crops.values()]
  cropped.append(refused(lambda: crops["center"].evaluate(file, 8)))
  grey = refused(lambda: decode(file, 1))
  if pixels is None:
    assert grey is None and all(crop is None for crop in cropped)
    return "refused"
  assert pixels.dtype == np.uint8 and pixels.shape == (*size, 3) and grey.shape == (*size, 1)
  np.testing.assert_array_equal(decode(file, 3), pixels)
  assert all(crop is None or (crop.shape, crop.dtype) == ((8, 8, 3), np.uint8) for crop in cropped)
  of_a_line = max(size) > images.MAX_PIXELS / 8 / 8  # which no crop of evaluation can be made of
  assert of_a_line or all(crop is not None for crop in cropped)
  fast = []
  for filling in (0, 255):  # what is left of another image where fast decoding writes
    images._thread.buffer = np.full(pixels.size, filling, np.uint8)
    fast.append(decode(file, 3, fast=True).copy())
  np.testing.assert_array_equal(*fast)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    upright = decode(file, 3, reading=UPRIGHT)
  assert upright.shape[:2] == image_size(file, UPRIGHT)
  off = np.abs(upright.astype(int) - by_pillow(file)).max()
  assert name == "jpeg cmyk" or not off, off  # of which simplejpeg converts otherwise
  scaled = refused(lambda: decode(file, 3, reading=Reading(True, "white", (0, 4095))))
  assert scaled is None or (scaled.shape, scaled.dtype) == (upright.shape, np.uint8)
  if name.startswith("png"):  # which alone has checksums
    np.testing.assert_array_equal(pixels, OPENED[name])
  return "same" if np.array_equal(pixels, OPENED[name]) else "read"


def by_pillow(file):
  """The pixels as Pillow's own user has them."""
  image = Image.open(io.BytesIO(file))
  image.load()
  with contextlib.suppress(Exception):  # a broken block of EXIF, which has no say
    image = ImageOps.exif_transpose(image)
  if image.mode.startswith("I;16"):
    return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
  image.info.pop("transparency", None)
  return np.asarray(image.convert("RGB"))


DAMAGED = ANY.flatmap(lambda name: st.tuples(st.just(name), corrupted(FILES[name])))
test_a_damaged_file_is_refused_or_read = fuzz(
  read, DAMAGED, few=30, many=500, ends=["refused", "same"], always=FILES.items()
)


# Headers


def chunk(kind, body):
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(height, width, bits, colour):
  header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
  return (
    b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(52))) + chunk(b"IEND", b"")
  )


def claims(kind, height, width):
  """A small file whose header claims so many pixels."""
  file = bytearray(FILES[kind if kind in FILES else "jpeg"])
  if kind.startswith("jpeg"):
    at = file.index(b"\xff\xc2" if "progressive" in kind else b"\xff\xc0") + 5
    file[at : at + 4] = struct.pack(">HH", height % 2**16, width % 2**16)
  elif kind == "png":
    return png(height, width, 8, 2)
  elif kind == "png 16 bits":
    return png(height, width, 16, 6)
  elif kind == "gif":
    file[6:10] = struct.pack("<HH", width % 2**16, height % 2**16)
  elif kind == "gif frame":
    file = bytearray(FILES["gif"])
    at = file.index(b"\x2c\0\0\0\0") + 5
    file[at : at + 4] = struct.pack("<HH", width % 2**16, height % 2**16)
  elif kind == "bmp":
    file[18:26] = struct.pack("<II", width, height)
  elif kind == "webp lossless":
    at = file.index(b"\x2f", 16) + 1
    file[at : at + 4] = struct.pack("<I", (width - 1) % 2**14 | (height - 1) % 2**14 << 14)
  elif kind == "tiff":
    start = struct.unpack_from("<I", file, 4)[0]
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", file, start)[0], 12):
      tag = struct.unpack_from("<H", file, at)[0]
      if tag in (256, 257):  # width, height
        struct.pack_into("<HII", file, at + 2, 4, 1, width if tag == 256 else height)
  else:
    return b"%s %d %d %d\n" % (b"P6", width, height, 65535 if "16" in kind else 255) + bytes(50)
  return bytes(file)


CLAIMING = (
  "jpeg", "jpeg progressive", "png", "png 16 bits", "gif", "gif frame", "bmp", "webp lossless",
  "tiff", "ppm", "ppm 16 bits",
)  # fmt: skip
SIDE = st.sampled_from([0, 1, 255, 16384, 32768, 65500, 65535, 2**31 - 1]) | st.integers(0, 99)


def headed(example):
  """A file that has not the pixels of its header is refused, and soon."""
  kind, height, width = example
  before = resource.getrusage(resource.RUSAGE_SELF)
  outcome = read_any(claims(kind, height, width))
  after = resource.getrusage(resource.RUSAGE_SELF)
  pixels = height * width
  if pixels > images.MAX_PIXELS:
    assert after.ru_maxrss - before.ru_maxrss < 2**16, "64 MiB"  # in KiB
  return outcome


def read_any(file):
  pixels = refused(lambda: decode(file, 3))
  refused(lambda: image_size(file))
  refused(lambda: images.random_resized_crop(file, 8, 3, np.random.default_rng(0)))
  if pixels is None:
    return "refused"
  assert pixels.shape[:2] == image_size(file) and pixels.size
  refused(lambda: images.center_crop(pixels, 8))
  return "read"


test_headers_that_claim_any_size = fuzz(
  headed,
  st.tuples(st.sampled_from(CLAIMING), SIDE, SIDE),
  few=25,
  many=200,
  ends=["refused"],
)


def refused_bombs():
  """The memory that the largest claims take, in MiB."""
  read_any(FILES["jpeg"])
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for kind in CLAIMING:
    for side in (65500, 16384):
      assert read_any(claims(kind, side, side)) == "refused", kind
  texts = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28)))
  file = png(4, 4, 8, 2)
  read_any(file[:33] + texts + file[33:])
  return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_decompression_bombs_take_no_memory():
  assert apart(refused_bombs) < 32


# Folders


def many_files(example):
  """A folder with damaged files: as many are skipped as cannot be decoded, and the rest is right.

  Both pipelines are looked at, and the order of an epoch, as training takes it.
  """
  damaged, pipeline, limit = example
  with tempfile.TemporaryDirectory() as place:
    files = []
    for i, (name, file) in enumerate(damaged):
      # With any ending: the content counts.
      path = pathlib.Path(place, "test", "ab"[i % 2], f"{i:02}{images.IMAGE_ENDINGS[i]}")
      files.append((path, file))
      files.append((pathlib.Path(place, "train", "ab"[i % 2], f"{i:02}.jpg"), FILES[name]))
    for path, file in files:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(file)
    config = default()
    for key, value in {
      "source": "folder", "path": place, "image_size": 8, "pipeline": pipeline, "threads": 2,
      "max_unreadable": limit, "mean": (0.5,) * 3, "std": (1.0,) * 3,
    }.items():  # fmt: skip
      override(config, f"data.{key}", value)
    return looked_at(config, sorted(path for path, _ in files if path.parts[-3] == "test"))


def looked_at(config, paths):
  crops = data.Crops.of(config.data, (None, None, 3))
  expected = {
    str(path): refused(lambda p=path: crops.evaluate(p.read_bytes(), 8)) for path in paths
  }
  bad = {path for path, pixels in expected.items() if pixels is None}
  skipped, mesh = data.Skipped(config.data.max_unreadable), sharding.make_mesh(1)
  try:
    split = data.load(config.data, ("test",), skipped)["test"]
    found = []
    for batch, mask in data.pipeline(split, config.data, mesh, skipped).once(4):
      rows = np.asarray(mask)
      found += list(np.asarray(batch["image"])[rows])
  except UserError as e:
    one_clear_line(e)
    assert len(bad) > skipped.limit or len(bad) == len(paths), (bad, e)
    return "too many"
  assert {*skipped} == bad and len(bad) <= skipped.limit
  right = [expected[str(path)] for path in paths if str(path) not in bad]
  np.testing.assert_array_equal(found, right)
  return "skipped" if bad else "all read"


test_a_folder_with_damaged_files = fuzz(
  many_files,
  st.tuples(
    st.lists(DAMAGED | ANY.map(lambda n: (n, FILES[n])), min_size=4, max_size=6),
    st.sampled_from(["streaming", "resident"]),
    st.sampled_from([0, 2, 6]),
  ),
  few=8,
  many=100,
  ends=["too many", "skipped"],
)


def special_files():
  """What stands in a folder under an image's name, and is not one, is skipped; nothing waits."""
  with tempfile.TemporaryDirectory() as place:
    place = pathlib.Path(place)
    os.mkfifo(place / "pipe.jpg")
    (place / "nowhere.jpg").symlink_to(place / "nothing")
    (place / "itself.jpg").symlink_to(place / "itself.jpg")
    (place / "endless.jpg").symlink_to("/dev/zero")
    (place / "folder.jpg").mkdir()
    (place / "empty.jpg").touch()
    (place / "text.jpg").symlink_to(__file__)
    with (place / "hole.jpg").open("wb") as file:
      file.truncate(2**40)  # a TiB that takes no place on the disk
    paths = sorted(map(str, place.iterdir()))
    records = folder.Files(tuple(paths), np.zeros(len(paths), np.int32))
    crops = data.Crops((None, None, 3), False, (0.08, 1.0), (0.75, 4 / 3), "bilinear", 1.0)
    assert all(refused(lambda r=r: crops.evaluate(r["image"], 8)) is None for r in records)
    looked = {file.path: file for file in (scan._scan_file(place, p, "", ()) for p in paths)}
    assert all(dict(file.notes).keys() & {"empty", "unreadable"} for file in looked.values())
  return len(paths)


def test_what_is_no_file_is_skipped():
  assert apart(special_files) == 8


def refused_scans():
  """A JPEG of some bytes that would take hours: each scan goes over all of its pixels."""
  file = claims("jpeg progressive", 13000, 13000) + b"\xff\xda\0\x02" * (images.MAX_SCANS + 1)
  try:
    decode(file, 3)
  except UnreadableImage as e:
    return str(e)


def test_a_jpeg_of_too_many_scans_is_refused():
  assert "scans are more than 500" in apart(refused_scans)
