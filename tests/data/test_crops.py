"""How `config.data` becomes the crops of training and of evaluation."""

import io

import numpy as np
import pytest
from fakes import photos, png
from PIL import Image

from cnnjax import data
from cnnjax.config import default, override
from cnnjax.data.images import UnreadableImage, random_resized_crop
from cnnjax.errors import UserError

PHOTO = photos(1)[0]


def crops(stored=(None, None, 3), **overrides):
  config = default()
  for key, value in overrides.items():
    override(config, f"data.{key}", value)
  return data.Crops.of(config.data, stored)


def by_pillow(image, size, short):
  """The short side scaled to `short`, then `size` x `size` in the centre."""
  height, width, _ = image.shape
  scale = short / min(height, width)
  pixels = Image.fromarray(image).resize(
    (int(width * scale), int(height * scale)), Image.Resampling.BILINEAR
  )
  left, top = round((pixels.width - size) / 2), round((pixels.height - size) / 2)
  return np.asarray(pixels.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(
  "stored, channels, size, shape",
  [
    ((None, None, 3), None, 8, (8, 8, 3)),
    ((None, None, 3), 1, 8, (8, 8, 1)),
    ((20, 30, 1), None, 8, (8, 8, 1)),
    ((20, 30, 1), None, None, (20, 30, 1)),
  ],
)
def test_the_shape_of_a_crop(stored, channels, size, shape):
  assert crops(stored, channels=channels).shape(size) == shape


@pytest.mark.parametrize("stored", [(None, None, 3), (None, 20, 3)])
def test_images_that_differ_need_a_size(stored):
  with pytest.raises(UserError, match=r"differ in size; set data\.image_size, such as 224"):
    crops(stored).shape(None)


@pytest.mark.parametrize("size", [5, 9, 20])
def test_files_and_pixels_are_cropped_alike(size):
  """PNG keeps every pixel; the largest square in the centre is what Pillow makes of it."""
  both = crops()
  for data_ in (PHOTO, png(PHOTO)):
    for crop in (
      both.whole(data_, size),
      both.train(data_, size, (0,)),
      both.evaluate(data_, size),
    ):
      assert crop.dtype == np.uint8
      np.testing.assert_array_equal(crop, by_pillow(PHOTO, size, size))


def test_the_crop_of_evaluation_is_a_share_of_the_short_side():
  """As 224 of 256: arXiv:1512.03385, section 3.4 and torchvision's weights."""
  photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
  evaluated = crops(eval_crop=0.875)
  np.testing.assert_array_equal(evaluated.evaluate(photo, 28), by_pillow(photo, 28, 32))
  np.testing.assert_array_equal(evaluated.whole(photo, 28), by_pillow(photo, 28, 28))
  fits = photo[:28, :28]  # it has the size already, and is enlarged like any other
  np.testing.assert_array_equal(evaluated.evaluate(fits, 28), by_pillow(fits, 28, 32))


@pytest.mark.parametrize("scale, ratio", [((0.2, 0.4), (1.0, 1.0)), ((0.5, 1.0), (0.5, 2.0))])
def test_the_config_reaches_the_random_crop(scale, ratio):
  given = {"crop": "random_resized", "crop_scale": scale, "crop_ratio": ratio}
  for name in ("nearest", "bilinear"):
    ours = crops(interpolation=name, **given)
    for seed in ((0, 1, 2), (0, 1, 3), (7, 0, 0)):
      rng = np.random.default_rng(seed)
      expected = random_resized_crop(PHOTO, 6, 3, rng, scale, ratio, name)
      for data_ in (PHOTO, png(PHOTO)):
        np.testing.assert_array_equal(ours.train(data_, 6, seed), expected)
      np.testing.assert_array_equal(ours.train(PHOTO, 6, seed), ours.train(PHOTO, 6, seed))


def test_random_crops_are_for_training_alone():
  random = crops(crop="random_resized")
  assert len({random.train(PHOTO, 6, (0, step)).tobytes() for step in range(20)}) > 15
  np.testing.assert_array_equal(random.whole(PHOTO, 6), by_pillow(PHOTO, 6, 6))
  np.testing.assert_array_equal(random.evaluate(PHOTO, 6), by_pillow(PHOTO, 6, 6))


@pytest.mark.parametrize("kind", ["whole", "evaluate"])
def test_an_image_that_is_right_is_not_copied(kind):
  square = PHOTO[:8, :8]
  for size in (8, None):
    assert getattr(crops(square.shape), kind)(square, size) is square


def test_files_become_grey_or_coloured():
  grey = photos(1, channels=1)[0]
  colour = crops(channels=3).whole(png(grey), None)
  np.testing.assert_array_equal(colour, np.repeat(grey, 3, axis=2))
  expected = np.asarray(Image.fromarray(PHOTO).convert("L"))[..., None]
  np.testing.assert_array_equal(crops(channels=1).whole(png(PHOTO), None), expected)


@pytest.mark.parametrize("kind", ["center", "random_resized"])
def test_pixels_keep_their_channels(kind):
  with pytest.raises(UserError, match=r"data\.channels=1, and these images have 3: leave it"):
    crops(PHOTO.shape, channels=1, crop=kind).train(PHOTO, 6, (0,))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("settings", [{}, {"crop": "random_resized", "crop_scale": (0.2, 0.9)},
                                      {"crop": "random_resized", "antialias": True}])  # fmt: skip
def test_each_band_is_cropped_as_if_it_were_alone(settings, channels, dtype):
  """Of any type, and of any number of bands; of 8 bits beside it, but for what those round."""
  photo = np.random.default_rng(0).integers(0, 256, (30, 41, channels), np.uint8)
  scale = {"uint8": 1, "uint16": 257, "float32": np.float32(1 / 255)}[dtype]
  image = (photo * np.float64(scale)).astype(dtype)
  assert crops(image.shape).whole(image, None) is image
  for name in ("nearest", "bilinear", "bicubic", "lanczos", "area"):
    ours = crops(image.shape, interpolation=name, **settings)
    crop = lambda x, ours=ours: ours.train(x, 9, (1, 2, 3)) if settings else ours.evaluate(x, 9)
    found = crop(image)
    assert found.shape == (9, 9, channels) and found.dtype == dtype
    inside = np.clip(found / scale, 0, 255)
    for band in range(channels):
      alone = crops((30, 41, 1), interpolation=name, **settings)
      alone = alone.train(photo[..., [band]], 9, (1, 2, 3)) if settings else alone.evaluate(
        photo[..., [band]], 9)  # fmt: skip
      atol = 0 if dtype == "uint8" else 2  # Pillow rounds 8 bits after each of its two passes
      np.testing.assert_allclose(inside[..., band], alone[..., 0], atol=atol)


@pytest.mark.parametrize("kind", ["center", "random_resized"])
def test_what_is_no_image_is_said(kind):
  with pytest.raises(UnreadableImage, match="truncated"):
    crops(crop=kind).train(png(PHOTO)[:50], 6, (0,))


@pytest.mark.parametrize(
  "overrides, upright",
  [
    ({"source": "folder"}, True),
    ({"source": "tfds"}, False),
    ({"source": "folder", "orientation": "ignore"}, False),
    ({"source": "tfds", "orientation": "apply"}, True),
  ],
)
def test_photos_of_a_folder_are_turned_and_published_ones_only_if_asked(overrides, upright):
  exif = Image.Exif()
  exif[0x0112] = 6
  file = io.BytesIO()
  Image.fromarray(PHOTO).save(file, "PNG", exif=exif)
  expected = np.rot90(PHOTO, -1) if upright else PHOTO  # a quarter turn to the right
  for crop in ("center", "random_resized"):
    found = crops(crop=crop, **overrides)
    np.testing.assert_array_equal(found.evaluate(file.getvalue(), None), expected)
  whole = crops(crop="random_resized", crop_scale=(1, 1), crop_ratio=(0.01, 100), **overrides)
  assert whole.train(file.getvalue(), 8, (0,)).shape == (8, 8, 3)


@pytest.mark.parametrize("value, white", [(12, 4095), ((0, 4095), 4095), (10, 1023), (None, 65535)])
def test_a_range_is_a_number_of_bits_or_two_values(value, white):
  grey = np.arange(0, 1024, 8, dtype=np.uint16).reshape(8, 16)
  file = io.BytesIO()
  Image.fromarray(grey).save(file, "PNG")
  image = crops(source="folder", range=value).evaluate(file.getvalue(), None)
  np.testing.assert_allclose(image[..., 0], grey * (255 / white), atol=1)


def test_alpha_is_a_choice():
  file = io.BytesIO()
  Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(file, "PNG")
  for alpha, colour in {"drop": (10, 20, 30), "white": (255,) * 3, "black": (0,) * 3}.items():
    image = crops(source="folder", alpha=alpha).evaluate(file.getvalue(), None)
    np.testing.assert_array_equal(image, np.broadcast_to(colour, (4, 4, 3)))


def test_antialias_reaches_the_crops_of_training():
  stripes = np.zeros((13, 13, 3), np.uint8)
  stripes[:, ::2] = 255
  options = {"crop": "random_resized", "crop_scale": (1, 1), "crop_ratio": (1, 1)}
  found = crops(antialias=True, **options).train(stripes, 8, (0,))
  np.testing.assert_array_equal(found, by_pillow(stripes, 8, 8))
  assert crops(**options).train(stripes, 8, (0,)).std() > 1.5 * found.std()


@pytest.mark.parametrize(
  "key, value, sources",
  [
    ("orientation", "apply", "folder or tfds"),
    ("alpha", "white", "folder or tfds"),
    ("range", 12, "arrays or folder"),
  ],
)
def test_keys_of_files_are_refused_of_other_sources(key, value, sources):
  config = default()
  override(config, f"data.{key}", value)
  with pytest.raises(
    UserError, match=rf"data\.{key}' is {value!r} .*: set data\.source={sources}, or"
  ):
    data.check(config.data)
