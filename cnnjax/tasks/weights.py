"""Computes class weights: the factor of each class in the training loss.

If an image has one class, classes are weighed against each other; if it may have more, the images
with a class are weighed against those without it.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from cnnjax.errors import UserError, unknown

Weights = str | Sequence[float] | None  # a name of BY_NAME, a number per class, or none


def auto(counts: np.ndarray, beta: float) -> np.ndarray:
  """Returns n / (classes * n_c), scikit-learn's "balanced", which has mean 1 over examples."""
  return counts.sum() / (len(counts) * counts)


def effective_number(counts: np.ndarray, beta: float) -> np.ndarray:
  """Returns the inverse of the effective number (1 - beta^n_c) / (1 - beta): arXiv:1901.05555.

  Equation 2 there, normalised to mean 1 over the classes, as in its section 4.
  """
  inverse = (1 - beta) / (1 - beta**counts)
  return inverse / inverse.mean()


BY_NAME: dict[str, Callable] = {"auto": auto, "effective_number": effective_number}


def check(weights: Weights, num_classes: int | None = None) -> None:
  """Raises UserError for an unknown name, or a list that is not one number above 0 per class."""
  if weights is None:
    return
  if isinstance(weights, str):
    if weights not in BY_NAME:
      raise unknown("class weights: task.class_weights", weights, BY_NAME)
    return
  for weight in weights:
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not (number and 0 < weight < math.inf):
      raise UserError(f"task.class_weights takes numbers above 0, one per class, not {weight!r}")
  if num_classes is not None and len(weights) != num_classes:
    raise UserError(
      f"task.class_weights has {len(weights)} numbers, and the data have {num_classes} classes"
    )


def of_classes(
  weights: Weights, num_classes: int, counts: np.ndarray | None, beta: float
) -> np.ndarray:
  """Returns the weight of each class, `[num_classes]` float32.

  A named weight is 0 for a class without training examples: it has no loss to weigh, and label
  smoothing must not teach it with a weight without bound.

  Raises:
    ValueError: a name needs `counts`, `[num_classes]`, and there are none.
  """
  if weights is None or not isinstance(weights, str):
    return np.asarray(np.ones(num_classes) if weights is None else weights, np.float32)
  counts = _given(counts, f"class_weights={weights!r}")
  found, present = np.zeros(num_classes, np.float32), counts > 0
  found[present] = BY_NAME[weights](counts[present], beta)
  return found


def of_positives(
  weights: Weights,
  num_classes: int,
  counts: np.ndarray | None,
  examples: int | None,
  beta: float,
) -> np.ndarray:
  """Returns the weight of an image with a class beside one without it, `[num_classes]` float32.

  "auto" is negatives by positives, so that both weigh the same, as pos_weight in the documentation
  of torch.nn.BCEWithLogitsLoss; "effective_number" is the ratio of their effective numbers, at most
  1 / (1 - beta). A list is taken as it is. A class of all images counts as if one lacked it.

  Raises:
    ValueError: a name needs `counts`, `[num_classes]`, or `examples`, and there are none.
  """
  if not isinstance(weights, str):
    return of_classes(weights, num_classes, counts, beta)
  counts = _given(counts, f"class_weights={weights!r}")
  found, present = np.zeros(num_classes, np.float32), counts > 0
  positives = counts[present]
  negatives = np.maximum(_given(examples, f"class_weights={weights!r}") - positives, 1)
  if weights == "effective_number":
    positives, negatives = 1 - beta**positives, 1 - beta**negatives
  found[present] = negatives / positives
  return found


def log_prior(counts: np.ndarray | None) -> np.ndarray:
  """Returns the logarithm of the share of each class, `[num_classes]` float32.

  A class without training examples counts as if it had one: the logarithm stays finite.

  Raises:
    ValueError: there are no `counts`, `[num_classes]`.
  """
  counts = np.maximum(_given(counts, "logit_adjustment"), 1)
  return np.log(counts / counts.sum()).astype(np.float32)


def _given(counts: np.ndarray | int | None, what: str) -> np.ndarray:
  if counts is None:
    raise ValueError(f"{what} needs the number of training examples per class")
  return np.asarray(counts, np.float64)
