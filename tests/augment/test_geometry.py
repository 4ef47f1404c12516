"""Flip and pad-and-crop against every image that they may give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.augment import geometry

KEY = jax.random.key(0)
TARGETS = jnp.ones((4, 2)) / 2


def distinct(batch, height, width, channels=1):
  """Images whose pixels are all different, and none of them zero."""
  n = height * width * channels
  image = (np.arange(1, n + 1) / n).reshape(height, width, channels)
  scale = np.linspace(0.5, 1, batch)[:, None, None, None]
  return (image * scale).astype(np.float32)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_flip_mirrors_so_many(p):
  images = distinct(4000, 2, 3)
  flipped, targets = geometry.flip(p)(KEY, images, TARGETS)
  same = (flipped == images).all((1, 2, 3))
  mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
  assert (same ^ mirrored).all(), "an image is neither as it was nor mirrored"
  sigma = np.sqrt(p * (1 - p) / len(images))
  assert abs(mirrored.mean() - p) <= 5 * sigma
  assert flipped.dtype == jnp.float32 and targets is TARGETS


@pytest.mark.smoke
@pytest.mark.parametrize("pixels, shape", [(1, (3, 4, 2)), (2, (4, 3, 1))])
def test_pad_crop_takes_every_crop_equally_often(pixels, shape):
  """Each image on its own: all (2 pixels + 1)^2 corners, rows and columns independent."""
  n = 5000
  images = distinct(n, *shape)
  cropped, targets = jax.jit(geometry.pad_crop(pixels))(KEY, images, jnp.ones((n, 2)))
  padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
  side, (height, width, _) = 2 * pixels + 1, shape
  counts = np.zeros((side, side), int)
  found = np.zeros(n, int)
  for row in range(side):
    for column in range(side):
      crop = padded[:, row : row + height, column : column + width]
      equal = (np.asarray(cropped) == crop).all((1, 2, 3))
      counts[row, column], found = equal.sum(), found + equal
  assert (found == 1).all(), "an image is not exactly one of its crops"
  share = 1 / side**2
  assert np.abs(counts - n * share).max() < 5 * np.sqrt(n * share * (1 - share))
  assert cropped.dtype == jnp.float32 and (targets == 1).all()


@pytest.mark.parametrize("operation", [geometry.flip(0), geometry.pad_crop(0)])
def test_zero_strength_is_the_identity(operation):
  images = distinct(4, 3, 3, 3)
  changed, targets = operation(KEY, images, TARGETS)
  np.testing.assert_array_equal(changed, images)
  assert targets is TARGETS


@pytest.mark.parametrize("operation", [geometry.flip(), geometry.pad_crop(2)])
def test_keys_decide(operation):
  images = distinct(64, 4, 4)
  first, again, other = (operation(jax.random.key(seed), images, TARGETS)[0] for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
