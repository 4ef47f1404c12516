"""Decoding and cropping on the host, beside Pillow and torchvision."""

import io
import math
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from cnnjax.data import images
from cnnjax.data.images import (
  UnreadableImage,
  center_crop,
  decode,
  image_size,
  random_box,
  random_resized_crop,
)
from cnnjax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "lanczos", "area"]


def photo(height, width, seed=0):
  """Noise with the 1/f spectrum of photos, [height, width, 3] uint8."""
  rng = np.random.default_rng(seed)
  frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
  frequency[0, 0] = 1
  spectrum = np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency**1.3
  noise = np.fft.irfft2(spectrum, (height, width)).transpose(1, 2, 0)
  return np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)


PHOTO = photo(75, 101)


def saved(image, kind, mode=None, **options):
  """The bytes of a file; `image` is an array or a Pillow image."""
  image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
  file = io.BytesIO()
  (image.convert(mode) if mode else image).save(file, kind, **options)
  return file.getvalue()


def by_pillow(data, channels):
  """What `Image.open(file).convert(mode)` gives: the reader of torchvision and timm."""
  mode = {1: "L", 3: "RGB"}[channels]
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert(mode))
  return pixels.reshape(*pixels.shape[:2], channels)


def transparent_palette():
  image = Image.fromarray(PHOTO).convert("P")
  image.info["transparency"] = bytes(range(256))
  return image


FILES = {
  "jpeg": saved(PHOTO, "JPEG"),
  "jpeg progressive": saved(PHOTO, "JPEG", progressive=True),
  "jpeg 444": saved(PHOTO, "JPEG", subsampling=0, quality=95),
  "jpeg restarts": saved(PHOTO, "JPEG", restart_marker_rows=1),
  "jpeg rgb": saved(PHOTO, "JPEG", keep_rgb=True),
  "jpeg grey": saved(PHOTO, "JPEG", "L"),
  "jpeg cmyk": saved(PHOTO, "JPEG", "CMYK"),
  "png": saved(PHOTO, "PNG"),
  "png grey": saved(PHOTO, "PNG", "L"),
  "png 1 bit": saved(PHOTO, "PNG", "1"),
  "png palette": saved(PHOTO, "PNG", "P"),
  "png transparent palette": saved(transparent_palette(), "PNG"),
  "png grey alpha": saved(PHOTO, "PNG", "LA"),
  "png alpha": saved(np.dstack([PHOTO, PHOTO[..., 0]]), "PNG"),
  "webp": saved(PHOTO, "WEBP"),
  "webp lossless": saved(PHOTO, "WEBP", lossless=True),
  "webp alpha": saved(np.dstack([PHOTO, PHOTO[..., 0]]), "WEBP", lossless=True),
  "bmp": saved(PHOTO, "BMP"),
  "bmp palette": saved(PHOTO, "BMP", "P"),
  "gif": saved(PHOTO, "GIF", "P"),
  "gif animated": saved(
    PHOTO, "GIF", "P", save_all=True, append_images=[Image.fromarray(255 - PHOTO)]
  ),
  "tiff": saved(PHOTO, "TIFF"),
  "tiff lzw": saved(PHOTO, "TIFF", compression="tiff_lzw"),
  "tiff cmyk": saved(PHOTO, "TIFF", "CMYK"),
  "ppm": saved(PHOTO, "PPM"),
  "pgm": saved(PHOTO, "PPM", "L"),
  "pgm in words": b"P2 2 2 255 " + b" ".join(b"%d" % v for v in (0, 50, 100, 255)) + b"\n",
  "avif": saved(PHOTO, "AVIF"),
}
each_file = pytest.mark.parametrize("name", FILES)
each_channels = pytest.mark.parametrize("channels", [1, 3])


# Decoding.


@each_channels
@each_file
def test_decoding_is_that_of_pillow(name, channels):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    image = decode(FILES[name], channels)
  expected = by_pillow(FILES[name], channels)
  assert image.shape == expected.shape and image.dtype == np.uint8 and image.flags.writeable
  error = np.abs(image.astype(int) - expected)
  # Both decode by libjpeg-turbo; CMYK and luma are then converted by other integer arithmetic.
  converted = name == "jpeg cmyk" or (channels == 1 and name.startswith("jpeg"))
  assert error.max() <= (3 if converted else 0) and error.mean() < 1.1


@each_file
def test_the_size_is_that_of_the_decoded_image(name):
  assert image_size(FILES[name]) == decode(FILES[name], 3).shape[:2]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF big-endian", "PPM"])
@each_channels
def test_grey_of_16_bits_is_scaled_and_not_clipped(kind, channels):
  ramp = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
  if kind == "PPM":
    data = b"P5 30 20 65535\n" + ramp.astype(">u2").tobytes()
  else:
    pixels = ramp.astype(">u2") if "big" in kind else ramp
    data = saved(Image.frombytes("I;16B" if "big" in kind else "I;16", (30, 20), pixels.tobytes()),
                 kind.split()[0])  # fmt: skip
  image = decode(data, channels)
  assert image.shape == (20, 30, channels)
  np.testing.assert_allclose(image[..., -1], ramp / 257, atol=1)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(dtype):
  with pytest.raises(UnreadableImage, match="32 bits"):
    decode(saved(IMAGE[..., 0].astype(dtype), "TIFF"), 3)


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"pgm in words"}))  # 255, cut, is 25
def test_of_a_cut_file_no_part_is_returned(name):
  """It raises, or no pixel was lost: an end marker, or padding."""
  data, whole = FILES[name], decode(FILES[name], 3)
  cuts = {*range(0, len(data), 1 + len(data) // 80), *range(len(data) - 40, len(data))}
  returned = 0
  for cut in sorted(c for c in cuts if c >= 0):
    try:
      image = decode(data[:cut], 3)
    except UnreadableImage as e:
      assert str(e)
    else:
      np.testing.assert_array_equal(image, whole, err_msg=f"cut at {cut} of {len(data)}")
      returned += 1
  if name.startswith(("jpeg", "webp", "avif")):
    assert not returned
  assert returned < 40 or "animated" in name


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "png", "webp", "bmp", "ppm", "avif"])
def test_a_cut_file_is_called_truncated(name):
  with pytest.raises(UnreadableImage, match=r"^truncated"):
    decode(FILES[name][: len(FILES[name]) * 3 // 4], 3)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("jpeg") and "prog" not in n])
def test_a_jpeg_that_was_cut_and_closed_again_is_refused(name, share):
  """The end marker is there, and rows are missing: lenient decoders fill them with grey."""
  start = FILES[name].rindex(b"\xff\xda")
  data = FILES[name][: start + int((len(FILES[name]) - start) * share)] + b"\xff\xd9"
  assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
  with pytest.raises(UnreadableImage):
    decode(data, 3)


@pytest.mark.parametrize(
  "data, why",
  [
    (b"", "empty"),
    (b"<html>not found</html>", "no image"),
    (np.random.default_rng(0).bytes(5000), "no image"),
    (b"\xff\xd8\xff" + bytes(100), "header"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n", "no image"),
  ],
)
def test_what_is_no_image_is_refused(data, why):
  for read in (lambda: decode(data, 3), lambda: image_size(data)):
    with pytest.raises(UnreadableImage, match=why):
      read()


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch):
  def never(*args, **kwargs):
    raise RuntimeError("decoded")

  jpeg, png = bytearray(FILES["jpeg"]), bytearray(FILES["png"])
  at = jpeg.index(b"\xff\xc0") + 5
  jpeg[at : at + 4] = struct.pack(">HH", 60000, 60000)
  png[16:24] = struct.pack(">II", 60000, 60000)
  png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
  monkeypatch.setattr(simplejpeg, "decode_jpeg", never)
  monkeypatch.setattr(images.pixels, "to_uint8", never)
  for data in (jpeg, png):
    with pytest.raises(UnreadableImage, match="pixels"):
      decode(bytes(data), 3)


def flat_jpeg(samplings, size=32):
  """A mid-grey JPEG with any subsampling: every block is "no change" and "end", one bit each."""
  part = lambda marker, body: b"\xff" + marker + struct.pack(">H", len(body) + 2) + body
  ids = range(1, len(samplings) + 1)
  frame = struct.pack(">BHHB", 8, size, size, len(samplings))
  frame += b"".join(bytes([i, s, 0]) for i, s in zip(ids, samplings, strict=True))
  one_code = bytes([1, *[0] * 15, 0])
  scan = bytes([len(samplings), *(v for i in ids for v in (i, 0)), 0, 63, 0])
  return (
    b"\xff\xd8"
    + part(b"\xdb", bytes([0, *[1] * 64]))
    + part(b"\xc0", frame)
    + part(b"\xc4", b"\x00" + one_code + b"\x10" + one_code)
    + part(b"\xda", scan)
    + bytes(2 * 10 * (size // 8) ** 2 // 8)
    + b"\xff\xd9"
  )


ODD = {
  "rare subsampling": flat_jpeg([0x42, 0x11, 0x11]),
  "extraneous bytes": FILES["jpeg"][:-2] + bytes(9) + b"\xff\x01" + bytes(9) + b"\xff\xd9",
  "JFIF revision": FILES["jpeg"].replace(b"JFIF\0\x01", b"JFIF\0\x07", 1),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_jpeg_whose_pixels_are_all_there_is_read(name):
  with pytest.raises(ValueError):
    simplejpeg.decode_jpeg(ODD[name])
  image = decode(ODD[name], 3)
  np.testing.assert_array_equal(image, by_pillow(ODD[name], 3))
  assert image_size(ODD[name]) == image.shape[:2]
  with pytest.raises(UnreadableImage):
    decode(ODD[name][: len(ODD[name]) // 2], 3)


def test_other_numbers_of_channels_are_refused():
  with pytest.raises(UserError, match="1 or 3 channels, not 4"):
    decode(FILES["png"], 4)


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg grey", "jpeg cmyk"])
@pytest.mark.parametrize("shrink", [2, 8 / 3, 4, 7.9])
def test_a_scaled_decoding_is_the_mean_of_areas_and_not_too_small(name, shrink):
  big = photo(240, 328)
  mode = {"jpeg grey": "L", "jpeg cmyk": "CMYK"}.get(name, "RGB")
  data = saved(big, "JPEG", mode, quality=95, progressive="prog" in name, subsampling=0)
  smallest = math.floor(240 / shrink), math.floor(328 / shrink)
  image = decode(data, 3, min_size=smallest)
  assert image.shape[0] >= smallest[0] and image.shape[1] >= smallest[1]
  assert image.shape[0] <= 240 / 2
  means = cv2.resize(decode(data, 3), image.shape[1::-1], interpolation=cv2.INTER_AREA)
  assert np.abs(image.astype(float) - means).mean() < 2.2


@pytest.mark.parametrize("smallest", [(76, 101), (50, 0), (20, 90), (1000, 1000)])
def test_no_side_gets_smaller_than_asked_for(smallest):
  """And 5/8 to 7/8, which take longer than all of it, are not used."""
  assert decode(FILES["jpeg"], 3, min_size=smallest).shape == PHOTO.shape
  assert decode(FILES["png"], 3, min_size=(1, 1)).shape == PHOTO.shape


def test_fast_decoding_changes_subsampled_colour_alone():
  for name in ("jpeg 444", "jpeg grey", "png"):
    np.testing.assert_array_equal(decode(FILES[name], 3, fast=True), decode(FILES[name], 3))
  np.testing.assert_array_equal(decode(FILES["jpeg"], 1, fast=True), decode(FILES["jpeg"], 1))
  error = np.abs(decode(FILES["jpeg"], 3, fast=True).astype(float) - decode(FILES["jpeg"], 3))
  assert 0 < error.mean() < 4


# Random crops.


class Torch:
  """The draws that torchvision makes, with the methods of a numpy generator."""

  def __init__(self, torch):
    self._torch = torch

  def uniform(self, low, high):
    return self._torch.empty(1).uniform_(low, high).item()

  def integers(self, low, high):
    return self._torch.randint(low, high, (1,)).item()


SIZES = [(375, 500), (500, 375), (32, 32), (7, 300), (300, 7), (1, 1), (2, 3)]


@pytest.mark.parity
@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("scale, ratio", [((0.08, 1), (3 / 4, 4 / 3)), ((0.5, 1), (0.9, 3))])
def test_boxes_are_those_of_torchvision(height, width, scale, ratio):
  import parity

  torch = parity.torch()
  from torchvision.transforms import RandomResizedCrop

  image = torch.empty(3, height, width)
  for seed in range(200):
    torch.manual_seed(seed)
    expected = RandomResizedCrop.get_params(image, list(scale), list(ratio))
    torch.manual_seed(seed)
    assert random_box(height, width, Torch(torch), scale, ratio) == expected


def boxes(height, width, count, **options):
  rng = np.random.default_rng(0)
  return np.array([random_box(height, width, rng, **options) for _ in range(count)])


def test_boxes_have_the_shares_and_ratios_asked_for():
  top, left, h, w = boxes(4000, 4000, 4000, scale=(0.1, 0.4), ratio=(0.5, 2)).T
  assert (top >= 0).all() and (left >= 0).all()
  assert (top + h <= 4000).all() and (left + w <= 4000).all()
  # Uniform on its range: mean and variance to within 5 sigma.
  for values, low, high in [
    (h * w / 4000**2, 0.1, 0.4),
    (np.log(w / h), -math.log(2), math.log(2)),
    (top / (4000 - h), 0, 1),
    (left / (4000 - w), 0, 1),
  ]:
    spread = high - low
    assert values.min() > low - 0.01 and values.max() < high + 0.01
    assert abs(values.mean() - (low + high) / 2) < 5 * spread / math.sqrt(12 * 4000)
    assert abs(values.var() - spread**2 / 12) < 5 * spread**2 / math.sqrt(180 * 4000)


def test_where_no_box_fits_it_is_the_largest_in_the_centre():
  assert random_box(10, 1000, np.random.default_rng(0)) == (0, 493, 10, 13)
  assert random_box(1000, 10, np.random.default_rng(0)) == (493, 0, 13, 10)


@pytest.mark.parametrize("name", [n for n in FILES if min(image_size(FILES[n])) > 2])
@each_channels
def test_a_file_is_cropped_as_its_pixels(name, channels):
  pixels = decode(FILES[name], channels)
  for seed in range(3):
    crops = [
      random_resized_crop(data, 33, channels, np.random.default_rng(seed), (0.3, 1))
      for data in (FILES[name], pixels)
    ]
    assert crops[0].shape == (33, 33, channels) and crops[0].dtype == np.uint8
    assert np.abs(crops[0].astype(float) - crops[1]).mean() < (3 if "jpeg" in name else 1e-9)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@each_channels
def test_crops_are_those_of_pillow_up_to_the_filter(interpolation, channels):
  """Enlarged, where both interpolate, and shrunk to half and less, without aliasing."""
  image = photo(240, 320)[..., :channels]
  resample = getattr(Image.Resampling, {"area": "BOX"}.get(interpolation, interpolation.upper()))
  for size in (30,) if interpolation == "area" else (30, 300):
    ours, theirs, aliased = [], [], []
    for seed in range(8):
      top, left, h, w = random_box(240, 320, np.random.default_rng(seed), (0.3, 1.0))
      box = image[top : top + h, left : left + w]
      pixels = Image.fromarray(box.squeeze() if channels == 1 else box)
      theirs.append(np.asarray(pixels.resize((size, size), resample), float))
      rng, scale = np.random.default_rng(seed), (0.3, 1.0)
      ours.append(
        random_resized_crop(image, size, channels, rng, scale, interpolation=interpolation)
      )
      aliased.append(cv2.resize(box, (size, size)))
    theirs, aliased = (np.reshape(x, np.shape(ours)) for x in (theirs, aliased))
    error = np.abs(np.array(ours) - theirs).mean()
    if interpolation == "nearest":
      assert error == 0
    elif size == 300:
      assert error < 1.6
    else:
      assert error < np.abs(aliased - theirs).mean() / 2


@pytest.mark.parametrize("shrink", [0.8, 1.2, 1.6, 1.9, 2.0, 3.1])
@each_channels
def test_an_antialiased_crop_is_that_of_pillow(shrink, channels):
  """And of the finest stripes no others are made; without the filter they are."""
  size = 40
  side = round(size * shrink)
  whole = {"scale": (1, 1), "ratio": (1, 1)}
  crop = lambda image, **options: random_resized_crop(
    image, size, channels, np.random.default_rng(0), **whole, **options
  )
  stripes = np.zeros((side, side, channels), np.uint8)
  stripes[:, ::2] = 255
  for image in (stripes, photo(side, side)[..., :channels]):
    pixels = Image.fromarray(image.squeeze() if channels == 1 else image)
    theirs = np.asarray(pixels.resize((size, size), Image.Resampling.BILINEAR)).reshape(
      size, size, channels
    )
    # What is enlarged has nothing to be filtered, and is as before.
    expected = theirs if shrink > 1 else crop(image)
    np.testing.assert_array_equal(crop(image, antialias=True), expected)
    assert np.abs(expected.astype(int) - theirs).max() <= 1
  if 1.5 < shrink < 2:
    assert crop(stripes, antialias=True).std() < 12 < 30 < crop(stripes).std()


@pytest.mark.parametrize("shape", [(30, 72), (72, 30)], ids=["wide", "high"])
def test_a_crop_that_shrinks_along_one_side_alone_is_filtered(shape):
  image, ratio = photo(*shape), shape[1] / shape[0]
  options = {"scale": (1, 1), "ratio": (ratio, ratio), "antialias": True}
  found = random_resized_crop(image, 40, 3, np.random.default_rng(0), **options)
  theirs = Image.fromarray(image).resize((40, 40), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(found, np.asarray(theirs))


@pytest.mark.parametrize("scale", [(0.9, 1), (0.3, 0.5)])
def test_the_part_of_a_scaled_decoding_is_the_part_that_was_drawn(scale):
  """Of an image whose colours are its coordinates."""
  y, x = np.mgrid[:803, :1001]
  image = np.dstack([y * 255 / 802, x * 255 / 1000, 0 * x]).astype(np.uint8)
  data = saved(image, "JPEG", quality=100, subsampling=0)
  for seed in range(10):
    top, left, h, w = random_box(803, 1001, np.random.default_rng(seed), scale)
    crop = random_resized_crop(data, 64, 3, np.random.default_rng(seed), scale).astype(float)
    centre = np.array([top + h / 2, left + w / 2]) * 255 / np.array([802, 1000])
    np.testing.assert_allclose(crop.mean((0, 1))[:2], centre, atol=1.5)
    reach = np.array([h, w]) * 63 / 64 * 255 / np.array([802, 1000])
    ends = (
      crop[-1, :, 0].mean() - crop[0, :, 0].mean(),
      crop[:, -1, 1].mean() - crop[:, 0, 1].mean(),
    )
    np.testing.assert_allclose(ends, reach, atol=2.5)


def test_a_crop_is_a_function_of_the_generator():
  crop = lambda seed: random_resized_crop(FILES["jpeg"], 16, 3, np.random.default_rng(seed))
  np.testing.assert_array_equal(crop(1), crop(1))
  assert not np.array_equal(crop(1), crop(2))


@pytest.mark.parametrize(
  "options, why",
  [
    ({"scale": (0, 1)}, "scale of a random crop"),
    ({"scale": (0.5, 0.2)}, "scale of a random crop"),
    ({"scale": (0.5, 1.5)}, "scale of a random crop"),
    ({"ratio": (0, 1)}, "ratio of a random crop"),
    ({"ratio": (2, 1)}, "ratio of a random crop"),
    ({"size": 0}, "1 or more pixels"),
    ({"interpolation": "bilinaer"}, "Did you mean 'bilinear'"),
  ],
)
def test_bad_random_crops_are_refused(options, why):
  settings = {"size": 8, "channels": 3, "rng": np.random.default_rng(0), **options}
  with pytest.raises(UserError, match=why):
    random_resized_crop(IMAGE, **settings)


# Centre crops.


@pytest.mark.parity
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(75, 101, 3), (101, 75, 1), (64, 64, 3), (33, 300, 1)])
@pytest.mark.parametrize("size, ratio", [(32, 0.875), (64, 1.0), (37, 0.9), (120, 0.875)])
def test_centre_crops_are_those_of_torchvision(interpolation, shape, size, ratio):
  import parity

  parity.torch()
  from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

  mode = InterpolationMode({"area": "box"}.get(interpolation, interpolation))
  image = photo(*shape[:2])[..., : shape[2]]
  theirs = Compose([Resize(round(size / ratio), mode), CenterCrop(size)])
  expected = theirs(Image.fromarray(image.squeeze() if shape[2] == 1 else image))
  ours = center_crop(image, size, ratio, interpolation)
  np.testing.assert_array_equal(ours, np.asarray(expected).reshape(size, size, shape[2]))


def test_an_image_of_the_size_is_left_alone():
  image = IMAGE[:, :8]
  np.testing.assert_array_equal(center_crop(image, 8), image)
  np.testing.assert_array_equal(center_crop(IMAGE, 8), IMAGE[:, 2:10])
  np.testing.assert_array_equal(center_crop(image, 4, ratio=0.5), image[2:6, 2:6])


@each_channels
def test_the_area_of_a_centre_crop_is_the_mean_of_blocks(channels):
  image = IMAGE[..., :channels]
  blocks = image.reshape(4, 2, 6, 2, channels).mean((1, 3))[:, 1:5]  # 4x6, the middle 4 columns
  np.testing.assert_allclose(center_crop(image, 4, 1.0, "area"), blocks, atol=1)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (9, 5, 1), (1, 40, 3)])
@pytest.mark.parametrize("size", [3, 7, 32])
def test_any_shape_gives_a_square_of_the_same_colour(shape, size, interpolation):
  image = np.full(shape, 77, np.uint8)
  rng = np.random.default_rng(0)
  for crop in (
    center_crop(image, size, 0.875, interpolation),
    random_resized_crop(image, size, shape[-1], rng, interpolation=interpolation),
  ):
    assert crop.shape == (size, size, shape[-1])
    assert (crop == 77).all()


@pytest.mark.parametrize(
  "options, why",
  [
    ({"ratio": 0}, "above 0 and at most 1"),
    ({"ratio": 1.5}, "above 0 and at most 1"),
    ({"size": -1}, "1 or more pixels"),
    ({"interpolation": "cubic"}, "Did you mean 'bicubic'"),
  ],
)
def test_bad_centre_crops_are_refused(options, why):
  with pytest.raises(UserError, match=why):
    center_crop(IMAGE, **{"size": 8, **options})


def test_a_line_is_not_scaled_to_a_gigabyte():
  with pytest.raises(UnreadableImage, match="elongated"):
    center_crop(np.zeros((1, 20_000, 3), np.uint8), 224)
