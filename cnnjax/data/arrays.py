"""Arrays from Python: `train.train(config, splits=data.from_arrays((images, labels)))`."""

import collections
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data.names import same
from cnnjax.data.split import Split
from cnnjax.errors import UserError, listed


def check(config: ConfigDict) -> None:
  for key in ("train", "validation", "test"):
    if isinstance(config[key], str) and config[key] != key:
      raise UserError(f"data.{key} of arrays is {key!r}, a share or a number, not {config[key]!r}")


def load(config: ConfigDict, split: str) -> Split:
  raise UserError(
    "data.source is 'arrays', which Python alone can give: "
    "train.train(config, splits=data.from_arrays(...)), and for evaluation "
    "evaluate_checkpoint(workdir, splits=...)"
  )


def from_arrays(
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray] | None = None,
  validation: tuple[np.ndarray, np.ndarray] | None = None,
  classes: Sequence[str] | None = None,
) -> dict[str, Split]:
  """Splits of (images, labels) pairs, for `train.train` and `evaluate_checkpoint`.

  Args:
    train: images `[n, height, width, channels]` or `[n, height, width]` uint8, and labels: `[n]`
      integers from 0, or `[n, num_classes]` of 0 and 1 where an image may have several.
    test: likewise; None: `config.data.test` is a share or a number to hold out of `train`.
    validation: likewise, or None.
    classes: their names; None: the numbers up to the largest label in `train`.

  Raises:
    UserError: arrays that do not fit each other, or labels that are out of range.
  """
  given = {"train": train, "validation": validation, "test": test}
  arrays = {key: _checked(key, pair) for key, pair in given.items() if pair is not None}
  images, labels = arrays["train"]
  shape, several = images.shape[1:], labels.ndim == 2
  number = labels.shape[1] if several else int(labels.max()) + 1
  classes = tuple(map(str, range(number) if classes is None else classes))
  counts = collections.Counter(map(same, classes))
  if twice := [name for name in classes if counts[same(name)] > 1]:
    raise UserError(f"classes: one name stands for two classes: {listed([*map(repr, twice)])}")
  if len(classes) < 2 and not several:
    raise UserError("train: one class only; at least two are needed to tell apart")
  for key, (images, labels) in arrays.items():
    if images.shape[1:] != shape:
      raise UserError(f"{key}: images of {images.shape[1:]}, and those of train are {shape}")
    if (labels.ndim == 2) != several:
      raise UserError(
        f"{key}: labels are {'classes' if several else 'zeros and ones'}, unlike train"
      )
    if several and labels.shape[1] != len(classes):
      raise UserError(f"{key}: labels have {labels.shape[1]} columns for {len(classes)} classes")
    if not several and labels.max() >= len(classes):
      raise UserError(f"{key}: label {labels.max()} is out of range for {len(classes)} classes")
  return {key: Split.of(*pair, classes) for key, pair in arrays.items()}


def _checked(key: str, pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  if not isinstance(pair, tuple | list) or len(pair) != 2:
    raise UserError(f"{key} is a pair (images, labels)")
  try:
    images, labels = map(np.asarray, pair)
  except ValueError as e:  # lists of several shapes
    raise UserError(f"{key}: images have one size, and labels one length: {e}") from e
  images = images[..., None] if images.ndim == 3 else images
  if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
    raise UserError(
      f"{key}: images are uint8 [n, height, width, channels], not {images.dtype} "
      f"{list(images.shape)}{_conversion(images)}"
    )
  if order := _transposition(images.shape, len(labels)):
    raise UserError(
      f"{key}: images of shape {list(images.shape)} have their axes in another order; give "
      f"images.transpose{order}, which is [n, height, width, channels]"
    )
  if not len(images) or labels.ndim not in (1, 2) or len(labels) != len(images):
    raise UserError(f"{key}: {len(images)} images and labels of shape {list(labels.shape)}")
  several = labels.ndim == 2
  if not (np.isin(labels, (0, 1)).all() if several else np.issubdtype(labels.dtype, np.integer)):
    raise UserError(f"{key}: labels are integers, or zeros and ones [n, num_classes]")
  if labels.min() < 0 or labels.max() >= 2**31:
    wrong = labels.min() if labels.min() < 0 else labels.max()
    raise UserError(f"{key}: label {wrong} is out of range; classes count from 0")
  return images, labels.astype(np.uint8 if several else np.int32)


def _conversion(images: np.ndarray) -> str:
  """How to make uint8 of other numbers, in words."""
  if not images.size or images.dtype.kind not in "biuf" or images.dtype == np.uint8:
    return ""
  low, high = images.min(), images.max()
  if low < 0:
    return f"; they are from {low:g} to {high:g}: scale them to 0 to 255, as they were before"
  if high <= 1:  # of integers and booleans too
    return "; give (images * 255).round().astype('uint8')"
  if high <= 255:
    return "; give images.round().astype('uint8')"
  if not np.isfinite(high):
    return ", and not all of them are finite"
  of_bits = 2 ** int(high).bit_length() - 1  # of train and test the same
  return f"; they go up to {high:g}: give (images / {of_bits} * 255).round().astype('uint8')"


def _transposition(shape: tuple[int, ...], examples: int) -> tuple[int, ...] | None:
  """The order of axes that makes images of an array with another order; None: it has this one.

  No image is up to 4 pixels high and has more than 4 channels.
  """
  n, first, _, last = shape
  if last == examples != n:  # the examples come last, as in the .mat files of SVHN
    return 3, 0, 1, 2
  return (0, 2, 3, 1) if first <= 4 < last else None
