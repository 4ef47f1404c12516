"""Image arrays on the host, by OpenCV."""

import cv2
import numpy as np


def resize(image: np.ndarray, size: int | None) -> np.ndarray:
  """An image `[height, width, channels]` as a `size` x `size` one; None leaves it as it is.

  The short side is scaled to `size` (area averaging down, bilinear up) and the centre cropped.
  """
  height, width, channels = image.shape
  if size is None or (height, width) == (size, size):
    return image
  scale = size / min(height, width)
  shape = (max(size, round(width * scale)), max(size, round(height * scale)))
  image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
  top, left = (shape[1] - size) // 2, (shape[0] - size) // 2
  return image.reshape(shape[1], shape[0], channels)[top : top + size, left : left + size]
