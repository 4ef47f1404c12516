"""Made-up images for tests and benchmarks: a fixed pattern per class under noise."""

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import Split, check_named_splits
from cnnjax.errors import UserError

SPLITS = ("train", "test")


def check(config: ConfigDict) -> None:
  check_named_splits(config)
  if config.image_size:
    raise UserError("synthetic images are made in their size: set data.synthetic.image_size")


def load(config: ConfigDict, split: str) -> Split:
  c = config.synthetic
  shape = (c.image_size, c.image_size, c.channels)
  patterns = np.random.default_rng(0).integers(0, 256, (c.num_classes, *shape))
  rng = np.random.default_rng(1 + SPLITS.index(split))
  n = {"train": c.train_examples, "test": c.test_examples}[split]
  labels = np.arange(n, dtype=np.int32) % c.num_classes
  noise = rng.integers(0, 256, (n, *shape))
  return Split(
    ((patterns[labels] + 3 * noise) // 4).astype(np.uint8),
    labels,
    tuple(str(i) for i in range(c.num_classes)),
  )
