"""Files whose images keep all of their bits: data.dtype of uint16 and float32."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from cnnjax.data.images import decode, decode_mask
from cnnjax.data.pixels import Reading, UnreadableImage

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 2**16, (5, 7), np.uint16)
RGB = RNG.integers(0, 2**16, (5, 7, 3), np.uint16)
RGBA = RNG.integers(0, 2**16, (5, 7, 4), np.uint16)


def png(pixels):
  order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(pixels.shape[-1] if pixels.ndim == 3 else 1)
  return cv2.imencode(".png", pixels if order is None else pixels[..., order])[1].tobytes()


def tiff(pixels, **options):
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, "TIFF", **options)
  return out.getvalue()


@pytest.mark.parametrize("dtype, white, atol", [("uint16", 65535, 0), ("float32", 1, 1e-7)])
def test_all_bits_are_kept(dtype, white, atol):
  read = lambda file, channels, **reading: decode(
    file, channels, reading=Reading(**reading), dtype=dtype
  )
  of = lambda share: share * white
  for file, channels, expected in (
    (png(GREY), 1, GREY[..., None] / 65535),
    (tiff(GREY), 1, GREY[..., None] / 65535),
    (png(GREY), 3, np.repeat(GREY[..., None], 3, 2) / 65535),
    (png(RGB), 3, RGB / 65535),
    (png((RGB >> 8).astype(np.uint8)), 3, (RGB >> 8) / 255),
  ):
    found = read(file, channels)
    assert found.dtype == dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, of(expected), atol=max(atol, 0.01 if white > 1 else 0))
  grey = read(png(RGB), 1)[..., 0]
  np.testing.assert_allclose(grey, of(RGB @ [0.299, 0.587, 0.114] / 65535), atol=0.51)


def test_black_and_white_are_what_the_range_says():
  twelve = GREY >> 4
  reading = Reading(limits=(0, 4095))
  found = decode(png(twelve), 1, reading=reading, dtype="uint16")
  np.testing.assert_array_equal(found[..., 0], np.rint(twelve / 4095 * 65535))
  values = RNG.normal(size=(5, 7)).astype(np.float32) * 900
  found = decode(tiff(values), 1, reading=Reading(limits=(-1000, 500)), dtype="float32")
  np.testing.assert_allclose(found[..., 0], (values + 1000) / 1500, atol=1e-6)
  assert found.min() < 0 or found.max() > 1, "values beyond the range stay beyond"
  clipped = decode(tiff(values), 1, reading=Reading(limits=(-1000, 500)), dtype="uint16")
  np.testing.assert_allclose(clipped[..., 0], np.clip(found[..., 0], 0, 1) * 65535, atol=0.51)
  with pytest.raises(UnreadableImage, match="pixels of 32 bits, whose range is not known"):
    decode(tiff(values), 1, dtype="float32")


@pytest.mark.parametrize("alpha, behind", [("drop", None), ("white", 1), ("black", 0)])
def test_what_is_transparent_has_the_colour_behind_it(alpha, behind):
  found = decode(png(RGBA), 3, reading=Reading(alpha=alpha), dtype="float32")
  colour, opaque = RGBA[..., :3] / 65535, RGBA[..., 3:] / 65535
  expected = colour if behind is None else colour * opaque + behind * (1 - opaque)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_turned_file_is_upright():
  exif = Image.Exif()
  exif[0x0112] = 6
  out = io.BytesIO()
  Image.fromarray(GREY).save(out, "PNG", exif=exif)
  found = decode(out.getvalue(), 1, reading=Reading(upright=True), dtype="uint16")
  np.testing.assert_array_equal(found[..., 0], np.rot90(GREY, -1))
  as_stored = decode(out.getvalue(), 1, dtype="uint16")
  np.testing.assert_array_equal(as_stored[..., 0], GREY)


def test_the_values_of_masks():
  classes = RNG.integers(0, 9, (5, 7)).astype(np.uint8)
  palette = Image.fromarray(classes).convert("P")
  palette.putdata(classes.reshape(-1).tolist())
  palette.putpalette([*range(30, 57)] + [0] * (768 - 27))
  out = io.BytesIO()
  palette.save(out, "PNG")
  np.testing.assert_array_equal(decode_mask(out.getvalue()), classes)
  np.testing.assert_array_equal(decode_mask(png(classes)), classes)
  deep = decode_mask(png(GREY))
  assert deep.dtype == np.uint16
  np.testing.assert_array_equal(deep, GREY)
  with pytest.raises(UnreadableImage, match="a mask has the number of a class in each pixel"):
    decode_mask(png((RGB >> 8).astype(np.uint8)))
  with pytest.raises(UnreadableImage, match="truncated"):
    decode_mask(png(classes)[:50])
