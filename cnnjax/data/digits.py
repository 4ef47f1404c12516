"""Gives the handwritten digits that scikit-learn carries: 1,797 scans, 8x8x1, 10 classes.

E. Alpaydin and C. Kaynak, 1998, UCI "Optical Recognition of Handwritten Digits", test part. A
fixed, stratified 20 % is the test split, the same for every seed.
"""

import numpy as np
from ml_collections import ConfigDict
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cnnjax.data.split import Split, check_named_splits


def check(config: ConfigDict) -> None:
  """Raises UserError for splits other than train and test."""
  check_named_splits(config)


def load(config: ConfigDict, split: str) -> Split:
  """Returns the split of that name."""
  digits = load_digits()
  train, test = train_test_split(
    np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0
  )
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # 17 grey levels
  indices = np.sort({"train": train, "test": test}[split])
  return Split.of(
    images[indices],
    digits.target[indices].astype(np.int32),
    tuple("0123456789"),
  )
