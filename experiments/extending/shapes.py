"""A source: images of made-up shapes, with the mask of each.

--config.imports=shapes --config.data.source=shapes
"""

import numpy as np

from cnnjax import register
from cnnjax.data import Arrays, Split, fields
from cnnjax.errors import UserError

EXAMPLES = {"train": 512, "validation": 64, "test": 128}
CLASSES = ("background", "disc", "square", "triangle")
SIZE = 32  # pixels


def check(config):
  """Checks the group `data` of a config before anything is loaded."""
  for key in EXAMPLES:
    if isinstance(config[key], str) and config[key] not in EXAMPLES:
      raise UserError(f"data.{key}={config[key]!r}: shapes has the splits {', '.join(EXAMPLES)}")


def inside(shape, y, x, radius):
  """Returns whether pixels at (y, x) from the centre lie in a shape of CLASSES."""
  if shape == 1:
    return y**2 + x**2 <= radius**2
  if shape == 2:
    return np.maximum(abs(y), abs(x)) <= radius * 0.8
  return (y <= radius * 0.7) & (y >= 2 * abs(x) - radius)


@register("source", "shapes", check=check)
def load(config, split):
  """Returns a split: one to three shapes an image, on noise, in one of eight colours."""
  rng = np.random.default_rng([*EXAMPLES].index(split))
  n = EXAMPLES[split]
  images = rng.normal(110, 30, (n, SIZE, SIZE, 3))
  masks = np.zeros((n, SIZE, SIZE), np.uint8)
  rows, columns = np.mgrid[:SIZE, :SIZE]
  for image, mask in zip(images, masks, strict=True):
    for shape in rng.integers(1, len(CLASSES), rng.integers(1, 4)):
      y, x = rng.uniform(5, SIZE - 5, 2)
      there = inside(shape, rows - y, columns - x, rng.uniform(5, 9))
      mask[there] = shape
      image[there] = rng.choice([20, 235], 3) + rng.normal(0, 15, (there.sum(), 3))
  arrays = {"image": images.clip(0, 255).astype(np.uint8), "mask": masks}
  declared = {"image": fields.image(SIZE, SIZE, 3), "mask": fields.mask(SIZE, SIZE, CLASSES)}
  return Split.of_fields(Arrays(arrays), declared)
