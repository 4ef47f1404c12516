"""Counts class imbalance, makes long tails, and oversamples features by SMOTE."""

import math

import numpy as np

from cnnjax.errors import UserError, listed


def counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
  """Counts the examples of each class, int64 `[num_classes]`.

  Args:
    labels: `[n]` ints, or multi-hot `[n, num_classes]`, where an example counts in each of its
      classes.
    num_classes: of the data.

  Raises:
    UserError: a label is out of range.
  """
  if labels.ndim == 2:
    return labels.astype(bool).sum(0)
  if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
    wrong = labels.min() if labels.min() < 0 else labels.max()
    raise UserError(
      f"label {wrong} is out of range: {num_classes} classes are numbered 0 to {num_classes - 1}"
    )
  return np.bincount(labels, minlength=num_classes)


def lacking(every: np.ndarray, some: np.ndarray, classes: tuple[str, ...]) -> str:
  """Returns in words the classes that the labels `every` have and `some` lack; "" if none."""
  present, left = (counts(labels, len(classes)) > 0 for labels in (every, some))
  return listed([classes[c] for c in np.flatnonzero(present & ~left)])


def describe(counts: np.ndarray, classes: tuple[str, ...]) -> str:
  """Returns in words the largest and the smallest class, their ratio, and the empty classes."""
  present = np.flatnonzero(counts)
  if not len(present):
    return "no labels"
  low, high = present[counts[present].argmin()], counts.argmax()
  words = (
    f"{counts[high]:,} of each class"
    if counts[low] == counts[high]
    else f"{counts[high]:,} of {classes[high]} (largest class) to {counts[low]:,} of "
    f"{classes[low]} (smallest), imbalance ratio {counts[high] / counts[low]:.3g}"
  )
  empty = [name for name, count in zip(classes, counts, strict=True) if not count]
  names = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
  return words + (f"; without examples: {len(empty)} ({names})" if empty else "")


def long_tail(labels: np.ndarray, ratio: float, numbers: np.ndarray) -> np.ndarray:
  """Returns the sorted indices of a long-tailed part of a data set: arXiv:1901.05555, section 5.1.

  Class c of C keeps n_c = n_0 / ratio^(c / (C - 1)) examples, rounded down, at least one: those
  with the smallest `numbers`, of which each example has one. A higher ratio keeps a part of the
  examples that a lower one keeps. n_0 is the size of class 0, or less if a class has fewer than its
  n_c; classes without examples are passed over.

  Raises:
    UserError: `ratio` is below 1, or `labels` are not one class an image, `[n]`.
  """
  if not 1 <= ratio < math.inf:
    raise UserError(
      f"the imbalance ratio of a long tail is {ratio!r}; it must be at least 1, the size of the "
      "first class by that of the last, such as 100"
    )
  if labels.ndim != 1:
    raise UserError(
      "data.long_tail needs one class for each image, and in these data an image may have more: "
      "leave it at None"
    )
  order = np.argsort(numbers, kind="stable")
  members = [order[labels[order] == c] for c in np.unique(labels)]
  shrink = ratio ** (np.arange(len(members)) / max(len(members) - 1, 1))
  head = np.floor(np.min(np.array(list(map(len, members))) * shrink))
  sizes = np.maximum(head // shrink, 1).astype(int)
  kept = [indices[:size] for indices, size in zip(members, sizes, strict=True)]
  return np.sort(np.concatenate(kept))


def smote(
  features: np.ndarray, labels: np.ndarray, seed: int, k_neighbors: int = 5
) -> tuple[np.ndarray, np.ndarray]:
  """Brings every class to the size of the largest by synthetic feature vectors: arXiv:1106.1813.

  Each lies between a vector of the class and one of its nearest neighbours in it.

  Args:
    features: `[n, features]` float.
    labels: `[n]` int.
    seed: at least 0 and below 2**32.
    k_neighbors: the number of neighbours; where the smallest class has fewer, all that it has.

  Returns:
    (features, labels), those given first, then the synthetic ones.

  Raises:
    UserError: a class has a single example, or there is only one class, or a feature is not
      finite, or imbalanced-learn is not installed.
  """
  try:
    from imblearn.over_sampling import SMOTE  # late: of an extra, and seconds to import
  except ImportError as e:
    raise UserError("SMOTE needs imbalanced-learn: pip install -e '.[imbalance]'") from e
  classes, sizes = np.unique(labels, return_counts=True)
  if sizes.min() < 2:
    raise UserError(
      f"SMOTE needs two examples of a class to put others between, and class "
      f"{classes[sizes.argmin()]} has one"
    )
  sampler = SMOTE(random_state=seed, k_neighbors=min(k_neighbors, int(sizes.min()) - 1))
  try:
    return sampler.fit_resample(features, labels)
  except ValueError as e:  # a single class, NaN, features that are not a matrix, k_neighbors of 0
    raise UserError(f"SMOTE: {e}") from e
