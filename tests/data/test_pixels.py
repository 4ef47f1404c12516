"""Depth, transparency and orientation of files, beside values that were written by hand."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from cnnjax.data.images import UnreadableImage, decode, image_size, random_resized_crop
from cnnjax.data.pixels import Reading

UPRIGHT = Reading(upright=True)
COLOURS = np.random.default_rng(0).integers(0, 256, (10, 16, 3), dtype=np.uint8)
GREY = np.arange(64, dtype=np.uint16).reshape(4, 16)


def saved(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def tiff(pixels, bits, order="<", white_is_zero=False, sample_format=1):
  """An uncompressed grey TIFF, tag by tag: TIFF 6.0, sections 2 and 3."""
  height, width = pixels.shape
  if bits < 8:  # rows end at a byte
    digits = (pixels[..., None] >> np.arange(bits)[::-1] & 1).reshape(height, -1)
    body = np.packbits(digits.astype(np.uint8), axis=1).tobytes()
  elif bits == 12:
    digits = (pixels[..., None] >> np.arange(12)[::-1] & 1).reshape(height, -1)
    body = np.packbits(digits.astype(np.uint8), axis=1).tobytes()
  else:
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
  tags = [
    (256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1),
    (273, 8), (277, 1), (278, height), (279, len(body)), (339, sample_format),
  ]  # fmt: skip
  start = 8 + len(body)
  found = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", start) + body
  found += struct.pack(f"{order}H", len(tags))
  found += b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, v, 0) for tag, v in tags)
  return found + bytes(4)


def png_of_16_bits(pixels, colour):
  """A PNG of 16 bits a channel; `colour` 0 is grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
  part = lambda kind, body: (
    struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
  )
  height, width = pixels.shape[:2]
  rows = pixels.astype(">u2").reshape(height, -1)
  body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
  header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", body) + part(b"IEND", b"")


def netpbm(kind, pixels, maximum):
  height, width = pixels.shape[:2]
  dtype = ">u2" if maximum > 255 else "u1"
  text = b" ".join(b"%d" % v for v in pixels.ravel())
  body = text if kind == b"P2" else pixels.astype(dtype).tobytes()
  return b"%s %d %d %d\n" % (kind, width, height, maximum) + body


# Depth


FLOATS = np.linspace(-0.25, 1.25, 64, dtype=np.float32).reshape(4, 16)
# (the file, the share of white that each pixel is, the limits that it takes)
DEPTHS = {
  "1 bit": (tiff(GREY % 2, 1), GREY % 2, None),
  "1 bit, white is zero": (tiff(GREY % 2, 1, white_is_zero=True), 1 - GREY % 2, None),
  "4 bits": (tiff(GREY % 16, 4), GREY % 16 / 15, None),
  "4 bits, white is zero": (tiff(GREY % 16, 4, white_is_zero=True), 1 - GREY % 16 / 15, None),
  "8 bits, white is zero": (
    tiff((GREY * 4).astype("u1"), 8, white_is_zero=True), 1 - GREY * 4 / 255, None
  ),
  "12 bits": (tiff(GREY * 65, 12), GREY * 65 / 4095, None),
  "12 bits, range": (tiff(GREY * 60, 12), GREY * 60 / 3780, (0, 3780)),
  "16 bits": (tiff(GREY * 1040, 16), GREY * 1040 / 65535, None),
  "16 bits, big-endian": (tiff(GREY * 1040, 16, ">"), GREY * 1040 / 65535, None),
  "16 bits, white is zero": (
    tiff(GREY * 1040, 16, white_is_zero=True), 1 - GREY * 1040 / 65535, None
  ),
  "16 bits, white is zero, range": (tiff(GREY, 16, white_is_zero=True), 1 - GREY / 63, (0, 63)),
  "16 bits signed, range": (
    tiff(GREY.astype("i2") - 32, 16, sample_format=2), GREY / 64, (-32, 32)
  ),
  "32 bits, range": (tiff(GREY.astype("u4") * 10**6, 32), GREY / 64, (0, 64e6)),
  "float, range": (tiff(FLOATS, 32, sample_format=3), FLOATS, (0, 1)),
  "float, big-endian, range": (tiff(FLOATS, 32, ">", sample_format=3), FLOATS, (0, 1)),
  "PNG, range": (png_of_16_bits(GREY, 0), GREY / 64, (0, 64)),
  "PNG, range above 0": (png_of_16_bits(GREY, 0), (GREY - 16.0) / 32, (16, 48)),
  "PGM up to 100": (netpbm(b"P5", GREY, 100), GREY / 100, None),
  "PGM up to 1000": (netpbm(b"P5", GREY * 15, 1000), GREY * 15 / 1000, None),
  "PGM up to 4095, range": (netpbm(b"P5", GREY, 4095), GREY / 63, (0, 63)),
  "PGM in words, range": (netpbm(b"P2", GREY, 4095), GREY / 63, (0, 63)),
  "PGM up to 65535, range": (netpbm(b"P5", GREY, 65535), GREY / 63, (0, 63)),
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_is_read_as_it_was_written(name, channels):
  file, white, limits = DEPTHS[name]
  image = decode(file, channels, reading=Reading(limits=limits))
  assert image.shape == (4, 16, channels) and image_size(file) == (4, 16)
  expected = np.clip(np.asarray(white, float), 0, 1) * 255
  # The upper 8 bits are rounded down, a range to the nearest.
  off = image[..., -1] - expected
  assert (np.abs(off).max() <= 0.5 + 1e-6) if limits else (off.min() > -1 and off.max() < 1)


@pytest.mark.parametrize(
  "file",
  [
    png_of_16_bits(np.stack([GREY, GREY[::-1], GREY // 2], -1), 2),
    netpbm(b"P6", np.stack([GREY, GREY[::-1], GREY // 2], -1), 4095),
    cv2.imencode(".tiff", np.stack([GREY // 2, GREY[::-1], GREY], -1))[1].tobytes(),
  ],
  ids=["PNG", "PPM", "TIFF"],
)
def test_colour_of_16_bits_has_a_range_too(file):
  expected = np.stack([GREY, GREY[::-1], GREY // 2], -1) * 255 / 63
  image = decode(file, 3, reading=Reading(limits=(0, 63)))
  np.testing.assert_allclose(image, expected, atol=0.5 + 1e-6)
  assert decode(file, 3).max() <= 4, "of all that it might have"


def test_a_range_leaves_files_of_8_bits_alone():
  for kind in ("PNG", "BMP", "JPEG", "TIFF"):
    file = saved(Image.fromarray(COLOURS), kind)
    found = decode(file, 3, reading=Reading(limits=(0, 4095)))
    np.testing.assert_array_equal(found, decode(file, 3))


@pytest.mark.parametrize(
  "file, limits, why",
  [
    (tiff(FLOATS, 32, sample_format=3), None, r"32 bits.* set data\.range .*\(0, 1\)"),
    (tiff(GREY.astype("u4"), 32), None, r"32 bits.* set data\.range"),
    (tiff(GREY.astype("i2"), 16, sample_format=2), None, r"32 bits.* set data\.range"),
    (tiff(FLOATS * np.nan, 32, sample_format=3), (0, 1), "infinite or NaN"),
    (tiff(GREY.astype("i1"), 8, sample_format=2), None, "signed pixels of 8 bits"),
    (tiff(FLOATS.astype("f8"), 64, sample_format=3), (0, 1), "a TIFF of a kind that is not read"),
    (tiff(GREY, 16, ">", white_is_zero=True), None, "a TIFF of a kind that is not read"),
    (png_of_16_bits(GREY, 0)[:-40], (0, 63), "truncated"),
    (png_of_16_bits(np.stack([GREY] * 3, -1), 2)[:-40], (0, 63), "truncated"),
    (netpbm(b"P5", GREY, 4095)[:-9], (0, 63), "truncated|not enough"),
  ],
)
def test_what_nobody_can_know_is_refused_in_words(file, limits, why):
  with pytest.raises(UnreadableImage, match=why):
    decode(file, 3, reading=Reading(limits=limits))


# Transparency


ALPHA = np.repeat(np.array([0, 51, 255, 128], np.uint8), 40).reshape(10, 16)


def with_transparency():
  """(file, colours [10, 16, 3], opacity from 0 to 1) of each way to have it."""
  grey = COLOURS[..., 0]
  rgba, la = Image.fromarray(np.dstack([COLOURS, ALPHA])), Image.fromarray(grey)
  la.putalpha(Image.fromarray(ALPHA))
  palette = Image.fromarray((grey // 32).astype(np.uint8), "L").convert("P")
  table = np.random.default_rng(1).integers(0, 256, (8, 3))
  palette.putpalette(table.ravel().tolist())
  opacity = np.arange(8) * 36
  key = Image.fromarray(grey // 128 * 200)
  deep = np.dstack([GREY * 1000, GREY[::-1] * 1024])
  return {
    "PNG": (saved(rgba, "PNG"), COLOURS, ALPHA / 255),
    "WebP": (saved(rgba, "WEBP", lossless=True, exact=True), COLOURS, ALPHA / 255),
    "TIFF": (saved(rgba, "TIFF"), COLOURS, ALPHA / 255),
    "grey": (saved(la, "PNG"), grey[..., None], ALPHA / 255),
    "palette": (
      saved(palette, "PNG", transparency=bytes(opacity.tolist())),
      table[grey // 32], opacity[grey // 32] / 255,
    ),
    "GIF": (saved(palette, "GIF", transparency=3), table[grey // 32], grey // 32 != 3),
    "one grey": (
      saved(key, "PNG", transparency=200), (grey // 128 * 200)[..., None], grey // 128 != 1
    ),
    "one grey of 16 bits": (
      saved(Image.fromarray(GREY * 1000), "PNG", transparency=5000),
      GREY[..., None] * 1000 / 257, GREY != 5,
    ),
    "grey of 16 bits": (png_of_16_bits(deep, 4), deep[..., :1] / 257, deep[..., 1] / 65535),
  }  # fmt: skip


TRANSPARENT = with_transparency()


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("alpha, behind", [("white", 255), ("black", 0)])
def test_what_is_transparent_shows_the_colour_behind_it(name, alpha, behind):
  file, colours, opacity = TRANSPARENT[name]
  opacity = np.asarray(opacity, float)[..., None]
  expected = np.broadcast_to(colours * opacity + behind * (1 - opacity), (*opacity.shape[:2], 3))
  image = decode(file, 3, reading=Reading(alpha=alpha))
  np.testing.assert_allclose(image, expected, atol=2 if "16" in name else 1)
  dropped = np.broadcast_to(colours, (*opacity.shape[:2], 3))
  np.testing.assert_allclose(decode(file, 3), dropped, atol=1 if "16" in name else 0)


def test_a_range_leaves_transparency_alone():
  file = png_of_16_bits(np.dstack([GREY, GREY, GREY, GREY * 0 + 13107]), 6)  # a fifth
  image = decode(file, 3, reading=Reading(alpha="white", limits=(0, 63)))
  np.testing.assert_allclose(image[..., 0], GREY * 255 / 63 * 0.2 + 255 * 0.8, atol=1)


def test_an_icon_drawn_in_alpha_alone_is_seen():
  shape = np.zeros((9, 9), np.uint8)
  shape[2:5, 3:8] = 255
  file = saved(Image.fromarray(np.dstack([np.zeros((9, 9, 3), np.uint8), shape])), "PNG")
  np.testing.assert_array_equal(
    decode(file, 1, reading=Reading(alpha="white"))[..., 0], 255 - shape
  )
  assert not decode(file, 1).any() and not decode(file, 1, reading=Reading(alpha="black")).any()


# Orientation


# Where the first row and the first column of the file are seen: EXIF 2.3, section 4.6.4.
PLACES = {
  1: lambda row, column, height, width: (row, column),
  2: lambda row, column, height, width: (row, width - 1 - column),
  3: lambda row, column, height, width: (height - 1 - row, width - 1 - column),
  4: lambda row, column, height, width: (height - 1 - row, column),
  5: lambda row, column, height, width: (column, row),
  6: lambda row, column, height, width: (column, height - 1 - row),
  7: lambda row, column, height, width: (width - 1 - column, height - 1 - row),
  8: lambda row, column, height, width: (width - 1 - column, row),
}


def seen(stored, orientation):
  height, width, channels = stored.shape
  shape = (width, height) if orientation >= 5 else (height, width)
  found = np.zeros((*shape, channels), np.uint8)
  row, column = np.indices((height, width))
  found[PLACES[orientation](row, column, height, width)] = stored
  return found


def turned(kind, orientation, **options):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return saved(Image.fromarray(COLOURS), kind, exif=exif, **options)


KINDS = {
  "JPEG": {},
  "JPEG with a profile": {"icc_profile": bytes(3000)},
  "PNG": {},
  "WEBP": {"lossless": True},
  "TIFF": {},
  "TIFF compressed": {"compression": "tiff_lzw"},
  "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("orientation", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_orientation_is_applied_where_asked_and_ignored_elsewhere(kind, orientation):
  """By one rule for all formats, mirrored ones too."""
  file = turned(kind.split()[0], orientation, **KINDS[kind])
  stored = decode(turned(kind.split()[0], 1, **KINDS[kind]), 3)
  if kind[:4] not in ("JPEG", "AVIF"):
    np.testing.assert_array_equal(stored, COLOURS)
  np.testing.assert_array_equal(decode(file, 3), stored)
  assert image_size(file) == (10, 16)
  expected = seen(stored, orientation)
  image = decode(file, 3, reading=UPRIGHT)
  np.testing.assert_array_equal(image, expected)
  assert image_size(file, UPRIGHT) == image.shape[:2] and image.flags.c_contiguous


@pytest.mark.parametrize("orientation", [6, 7])
def test_a_crop_is_of_the_picture_as_it_is_seen(orientation):
  """Also where a JPEG is decoded at a part of its size."""
  y, x = np.mgrid[:200, :600]
  image = np.dstack([y * 255 / 199, x * 255 / 599, 0 * x]).astype(np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {"exif": exif, "quality": 100, "subsampling": 0}
  file = saved(Image.fromarray(image), "JPEG", **options)
  for seed in range(3):
    crops = [
      random_resized_crop(data, 24, 3, np.random.default_rng(seed), reading=UPRIGHT).astype(float)
      for data in (file, seen(image, orientation))
    ]
    np.testing.assert_allclose(*crops, atol=3)


def test_a_broken_block_of_exif_says_nothing():
  file = bytearray(turned("JPEG", 6))
  at = file.index(b"Exif\0\0") + 6
  for damage in (b"XX", b"II*\0\xff\xff\xff\xff"):
    broken = bytes(file[:at] + damage + file[at + len(damage) :])
    np.testing.assert_array_equal(decode(broken, 3, reading=UPRIGHT), decode(bytes(file), 3))
