"""Makes images for tests and benchmarks: a fixed pattern per class under noise."""

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data.resident import check_fits
from cnnjax.data.split import Split, check_named_splits
from cnnjax.errors import UserError

SPLITS = ("train", "test")


def check(config: ConfigDict) -> None:
  """Raises UserError for other splits than train and test, and for `data.image_size`."""
  check_named_splits(config)
  if config.image_size:
    raise UserError(
      f"data.image_size={config.image_size} has no effect on synthetic images: set "
      "data.synthetic.image_size"
    )


def load(config: ConfigDict, split: str) -> Split:
  """Returns the split of that name, by `data.synthetic`."""
  c = config.synthetic
  shape = (c.image_size, c.image_size, c.channels)
  patterns = np.random.default_rng(0).integers(0, 256, (c.num_classes, *shape), np.uint8)
  rng = np.random.default_rng(1 + SPLITS.index(split))
  n = {"train": c.train_examples, "test": c.test_examples}[split]
  check_fits((n, *shape), config.max_gib)
  labels = np.arange(n, dtype=np.int32) % c.num_classes
  noise = rng.integers(0, 256, (n, *shape), np.uint8)
  return Split.of(
    patterns[labels] // 4 + noise // 4 * 3,
    labels,
    tuple(str(i) for i in range(c.num_classes)),
  )
