"""Resizing on the host."""

import numpy as np
import pytest

from cnnjax.data.images import resize

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("image, size", [(IMAGE, None), (IMAGE[:, :8], 8)])
def test_what_has_the_size_is_left_alone(image, size):
  assert resize(image, size) is image


@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_is_the_mean_of_blocks_and_keeps_the_centre(channels):
  image = IMAGE[..., :channels]
  blocks = image.reshape(4, 2, 6, 2, channels).mean((1, 3))[:, 1:5]  # 4x6, the middle 4 columns
  resized = resize(image, 4)
  assert resized.shape == (4, 4, channels) and resized.dtype == np.uint8
  np.testing.assert_allclose(resized, blocks, atol=0.51)


def test_a_tall_image_keeps_its_centre():
  image = IMAGE.transpose(1, 0, 2)
  np.testing.assert_array_equal(resize(image, 8), image[2:10])


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (9, 5, 1)])
@pytest.mark.parametrize("size", [3, 7, 32])
def test_any_shape_gives_a_square_of_the_same_colour(shape, size):
  resized = resize(np.full(shape, 77, np.uint8), size)
  assert resized.shape == (size, size, shape[-1])
  assert (resized == 77).all()
