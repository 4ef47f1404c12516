"""Puts the images of a picture into one grid."""

import math

import numpy as np

GAP = 1  # pixels between two images
GREY = 128


def of(images: np.ndarray) -> np.ndarray:
  """Returns a grid about as wide as it is high, row by row: uint8 [height, width, channels].

  Square numbers of square images have as many columns as rows: 100 samples, ten of each of ten
  classes in turn, have a column for each class.

  Args:
    images: float [n, height, width, channels]; values are clipped to [0, 1], NaN is black.
  """
  n, height, width, channels = images.shape
  columns = min(n, math.ceil(math.sqrt(n * height / width)))
  rows = math.ceil(n / columns)
  levels = np.rint(np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1) * 255).astype(np.uint8)
  apart = height + GAP, width + GAP
  grid = np.full((rows * apart[0] - GAP, columns * apart[1] - GAP, channels), GREY, np.uint8)
  for i, image in enumerate(levels):
    top, left = i // columns * apart[0], i % columns * apart[1]
    grid[top : top + height, left : left + width] = image
  return grid
