"""Made-up images for tests and benchmarks: a fixed pattern per class under noise."""

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import Split
from cnnjax.errors import unknown

SPLITS = ("train", "test")


def check(config: ConfigDict) -> None:
  for key in ("train", "validation", "test"):
    expression = config[key]
    if isinstance(expression, str) and expression not in SPLITS:
      raise unknown(f"split in data.{key}", expression, SPLITS)


def load(config: ConfigDict, split: str) -> Split:
  c = config.synthetic
  shape = (c.image_size, c.image_size, c.channels)
  patterns = np.random.default_rng(0).integers(0, 256, (c.num_classes, *shape))
  rng = np.random.default_rng(1 + SPLITS.index(split))
  n = {"train": c.train_examples, "test": c.test_examples}[split]
  labels = np.arange(n, dtype=np.int32) % c.num_classes
  noise = rng.integers(0, 256, (n, *shape))
  return Split(((patterns[labels] + 3 * noise) // 4).astype(np.uint8), labels,
               tuple(str(i) for i in range(c.num_classes)))
