"""Test-time views against slices and kernels written out in numpy, and against torchvision."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax.augment import views
from cnnjax.errors import UserError

IMAGES = np.random.default_rng(0).random((3, 16, 11, 2), dtype=np.float32)
# What weights may differ by that were found from either end: the last bit of a place up to 16.
PLACES = 2 * np.spacing(np.float32(16))


def made(spec, images=IMAGES):
  return np.asarray(jax.jit(views.create(spec))(images))


@pytest.mark.parametrize("spec", [None, "", "scales(1.0)", "scales(1)"])
def test_one_view_is_the_image(spec):
  found = made(spec)
  assert found.shape == (1, *IMAGES.shape)
  np.testing.assert_allclose(found[0], IMAGES, atol=0 if not spec else 1e-6)


def test_flip_is_the_image_and_its_mirror():
  np.testing.assert_array_equal(made("flip"), np.stack([IMAGES, IMAGES[:, :, ::-1]]))


@pytest.mark.parametrize("share, h, w", [(0.875, 14, 10), (0.5, 8, 6), (1.0, 16, 11)])
def test_five_crops_are_corners_and_centre_enlarged(share, h, w):
  bottom, right = 16 - h, 11 - w
  corners = [
    (0, 0),
    (0, right),
    (bottom, 0),
    (bottom, right),
    (round(bottom / 2), round(right / 2)),
  ]
  for view, (top, left) in zip(made(f"five_crop({share})"), corners, strict=True):
    for image, found in zip(IMAGES, view, strict=True):
      crop = image[top : top + h, left : left + w]
      np.testing.assert_allclose(found, cv2.resize(crop, (11, 16)), atol=1e-5)


def test_ten_crops_are_those_of_the_image_and_of_its_mirror():
  five, ten = made("five_crop(0.8)"), made("ten_crop(0.8)")
  np.testing.assert_array_equal(ten[:5], five)
  np.testing.assert_allclose(ten[5:], made("five_crop(0.8)", IMAGES[:, :, ::-1]), atol=PLACES)


def zoomed(images, factor, axis):
  """By a triangle as wide as a pixel of the result or of the image; the border goes on outside."""
  size = images.shape[axis]
  pixels = np.arange(-20 * size, 21 * size)
  weights = []
  for o in range(size):
    place = (o + 0.5 - size / 2) / factor + size / 2  # the centre stays
    weight = np.maximum(0, 1 - np.abs(pixels + 0.5 - place) * min(factor, 1))
    weights.append(np.bincount(np.clip(pixels, 0, size - 1), weight / weight.sum(), size))
  return np.moveaxis(np.tensordot(images, np.array(weights), (axis, 1)), -1, axis)


@pytest.mark.parametrize("factor", [0.4, 0.9, 1.1, 2.5])
def test_scales_zoom_about_the_centre(factor):
  expected = zoomed(zoomed(IMAGES.astype(float), factor, 1), factor, 2)
  np.testing.assert_allclose(made(f"scales({factor})")[0], expected, atol=1e-5)


def test_views_of_views_are_their_product_the_first_slowest():
  found, zooms = made("flip | scales(0.9, 1.0, 1.2)"), made("scales(0.9, 1.0, 1.2)")
  assert found.shape == (6, *IMAGES.shape)
  np.testing.assert_allclose(found, [*zooms, *zooms[:, :, :, ::-1]], atol=PLACES)
  other = made("scales(0.9, 1.0, 1.2) | flip")
  np.testing.assert_allclose(other[::2], zooms, atol=PLACES)
  np.testing.assert_allclose(other[1::2], zooms[:, :, :, ::-1], atol=PLACES)


@pytest.mark.parametrize("spec, n", [("ten_crop(0.9) | scales(0.8, 1.3)", 20), ("flip | flip", 4)])
def test_views_keep_range_shape_and_type_and_commute_with_normalisation(spec, n):
  for images in (IMAGES, np.zeros((2, 4, 4, 1), np.float32), np.ones((1, 7, 5, 3), np.float32)):
    found = made(spec, images)
    assert found.shape == (n, *images.shape) and found.dtype == jnp.float32
    assert found.min() >= images.min() - 1e-6 and found.max() <= images.max() + 1e-6
  np.testing.assert_allclose(made(spec, (IMAGES - 0.4) / 0.2), (made(spec) - 0.4) / 0.2, atol=1e-5)


def test_crops_of_tiny_images_have_a_pixel():
  assert made("five_crop(0.1)", IMAGES[:, :2, :2]).shape == (5, 3, 2, 2, 2)


@pytest.mark.parametrize(
  "spec, message",
  [
    ("flop", "unknown test-time view 'flop'. Did you mean 'flip'?.*ten_crop"),
    ("mixup(0.2)", "unknown test-time view 'mixup'"),
    ("flip(0.5)", r"too many positional arguments; write flip\(\)"),
    ("flip(p=0.5)", "unexpected keyword argument 'p'"),
    ("five_crop", "missing a required argument: 'share'"),
    ("five_crop(1.5)", "five_crop takes the share of each side, .* 0.1 and 1, not 1.5"),
    ("ten_crop(224)", "ten_crop takes the share of each side, .* 0.1 and 1, not 224"),
    ("scales()", "scales takes factors, as scales"),
    ("scales(0)", "scales takes factors, each a number between 0.1 and 10, not 0"),
    ("scales(1, 'a')", "scales takes factors, each a .* not 'a'"),
    ("flip |", "eval_views: cannot read 'flip |'; .* such as 'flip | scales"),
  ],
)
def test_bad_views(spec, message):
  with pytest.raises(UserError, match=message) as e:
    views.create(spec)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["mask", "boxes"])
def test_views_of_data_with_places_are_refused(kind):
  views.check("flip", {"image": "image", "y": "value"})
  views.check(None, {"image": "image", "objects": kind})
  with pytest.raises(
    UserError, match=f"eval_views: 'flip' .* 'objects' of kind {kind} .*leave"
  ) as e:
    views.check("flip", {"image": "image", "objects": kind})
  assert "\n" not in str(e.value)


@pytest.mark.parity
def test_ten_crops_are_torchvisions():
  torch = parity.torch()
  from torchvision.transforms import functional

  images = np.random.default_rng(1).random((2, 32, 24, 3), dtype=np.float32)
  tensors = torch.tensor(images.transpose(0, 3, 1, 2).copy())
  crops = functional.ten_crop(tensors, (28, 21))
  expected = [
    torch.nn.functional.interpolate(crop, (32, 24), mode="bilinear").numpy().transpose(0, 2, 3, 1)
    for crop in crops
  ]
  np.testing.assert_allclose(made("ten_crop(0.875)", images), expected, atol=1e-5)
