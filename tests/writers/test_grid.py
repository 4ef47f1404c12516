"""The grid of the images of a picture."""

import numpy as np
import pytest

from cnnjax.writers import grid


@pytest.mark.parametrize(
  "n, height, width, rows, columns",
  [(1, 4, 4, 1, 1), (4, 4, 4, 2, 2), (5, 4, 4, 2, 3), (100, 8, 8, 10, 10), (16, 4, 12, 6, 3),
   (3, 20, 2, 1, 3), (2, 2, 20, 2, 1)],
)  # fmt: skip
def test_it_is_about_as_wide_as_high_and_reads_like_a_text(n, height, width, rows, columns):
  images = np.broadcast_to(np.linspace(0, 0.4, n)[:, None, None, None], (n, height, width, 3))
  found = grid.of(images)
  assert found.dtype == np.uint8
  assert found.shape == (rows * (height + 1) - 1, columns * (width + 1) - 1, 3)
  for i, image in enumerate(images):
    row, column = divmod(i, columns)
    top, left = row * (height + 1), column * (width + 1)
    tile = found[top : top + height, left : left + width].astype(float)
    np.testing.assert_allclose(tile, 255 * image, atol=0.5)
    found[top : top + height, left : left + width] = grid.GREY
  assert (found == grid.GREY).all()  # between them, and where there is none


def test_levels_are_rounded_and_clipped():
  values = np.array([-1, 0, 0.4 / 255, 0.6 / 255, 1, 3, np.nan, np.inf], np.float32)
  found = grid.of(values.reshape(1, 1, -1, 1))
  assert found.squeeze().tolist() == [0, 0, 0, 1, 255, 255, 0, 255]
