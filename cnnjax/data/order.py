"""Orders the examples of an epoch: pure functions of the data and (seed, epoch)."""

import dataclasses
import math

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data.split import Split
from cnnjax.errors import UserError, unknown

UNIFORM = "uniform"
# Ways that bring every class to the size of the largest, or of the smallest.
RESIZE = {"oversample": max, "undersample": min}
# Ways that draw with replacement, a class with probability n_c^q / sum n_j^q: arXiv:1910.09217,
# equation 1.
POWER = {"class_balanced": 0.0, "square_root": 0.5}
SAMPLING = (UNIFORM, *RESIZE, *POWER)


def check(sampling: str) -> None:
  """Raises UserError for a way of sampling that does not exist."""
  if sampling not in SAMPLING:
    raise unknown("sampling: data.sampling", sampling, SAMPLING)


def epoch_order(
  examples: int | np.ndarray, *, seed: int, epoch: int, sampling: str = UNIFORM, repeats: int = 1
) -> np.ndarray:
  """Returns the indices of the examples of one epoch in order, int32 `[epoch_length(...)]`.

  Args:
    examples: their number, or their labels `[n]`, which every sampling but uniform needs.
    seed: of the run.
    epoch: counts from 0.
    sampling: "uniform" has every example once. "oversample" brings every class to the size of
      the largest, by whole copies and a remainder that differs between epochs; "undersample"
      cuts it to the smallest, to another part in each epoch. "class_balanced" draws a class
      uniformly, then an example of it; "square_root" draws the class by the root of its size
      (arXiv:1910.09217, section 3.1). Classes without examples are left out.
    repeats: how often a chosen example comes in a row, augmented differently each time (repeated
      augmentation, arXiv:1901.09335). The epoch keeps its length, so it has `1 / repeats` of the
      examples.

  Raises:
    UserError: `sampling` is unknown, or needs labels of another kind.
  """
  rng = np.random.default_rng((seed, epoch))
  if sampling == UNIFORM:
    order = rng.permutation(_size(examples))
  else:
    order = _draw(rng, _classes(examples, sampling), sampling)
  length = len(order)
  return np.repeat(order[: -(-length // repeats)], repeats)[:length].astype(np.int32)


def shares(counts: np.ndarray, sampling: str) -> np.ndarray:
  """Returns the share of each class in an epoch, float64 `[num_classes]`.

  `counts` are the examples of each class, `[num_classes]`.
  """
  power = {UNIFORM: 1.0, **dict.fromkeys(RESIZE, 0.0), **POWER}[sampling]
  drawn = np.where(counts > 0, np.asarray(counts, np.float64) ** power, 0.0)
  return drawn / drawn.sum()


def epoch_length(examples: int | np.ndarray, *, sampling: str = UNIFORM) -> int:
  """Returns the length of `epoch_order` without drawing it; raises as that does."""
  if sampling in RESIZE:
    sizes = list(map(len, _classes(examples, sampling)))
    return len(sizes) * RESIZE[sampling](sizes)
  if sampling != UNIFORM:
    _classes(examples, sampling)  # raises for labels of the wrong kind, as `epoch_order` would
  return _size(examples)


def _size(examples: int | np.ndarray) -> int:
  return len(examples) if isinstance(examples, np.ndarray) else examples


def _classes(examples: int | np.ndarray, sampling: str) -> list[np.ndarray]:
  """Returns the indices of each class that has examples."""
  check(sampling)
  if not isinstance(examples, np.ndarray) or examples.ndim != 1:
    raise UserError(
      f"data.sampling={sampling} needs one class for each image, which these data do not have; set "
      "data.sampling=uniform, and task.class_weights to weigh classes in the loss"
    )
  _, counts = np.unique(examples, return_counts=True)
  return np.split(np.argsort(examples, kind="stable"), np.cumsum(counts)[:-1])


def _draw(rng: np.random.Generator, classes: list[np.ndarray], sampling: str) -> np.ndarray:
  sizes = np.array(list(map(len, classes)))
  if sampling in RESIZE:  # np.resize repeats or cuts
    size = RESIZE[sampling](sizes)
    return rng.permutation(np.concatenate([np.resize(rng.permutation(c), size) for c in classes]))
  chances = sizes ** POWER[sampling]
  drawn = rng.choice(len(sizes), sizes.sum(), p=chances / chances.sum())
  first = np.cumsum(sizes) - sizes
  return np.concatenate(classes)[first[drawn] + rng.integers(sizes[drawn])]


@dataclasses.dataclass
class Order:
  """The examples in the batch of each step of a run, and the size of their images.

  `examples` are as in `epoch_order`; `sizes` are those of `data.progressive` and then
  `data.image_size`, each for an equal part of `total` steps.
  """

  examples: int | np.ndarray
  batch_size: int
  seed: int
  sampling: str
  repeats: int
  pad: bool  # the last batch of an epoch, with examples from its beginning; else it is dropped
  sizes: tuple[int | None, ...]
  total: int = 1

  @classmethod
  def of(cls, split: Split, config: ConfigDict, batch_size: int, seed: int) -> "Order":
    """Returns the order of a split in a run, by `config.data`; see `for_run`.

    Raises:
      UserError: the split is smaller than a batch, or its labels do not fit the sampling.
    """
    if config.sampling != UNIFORM and not split.has_label:
      raise UserError(
        f"data.sampling={config.sampling} goes by the class of each image, and these data have no "
        "labels: set data.sampling=uniform"
      )
    examples = len(split) if config.sampling == UNIFORM else split.listed
    order = cls(
      examples, batch_size, seed, config.sampling, config.repeats, config.remainder == "pad",
      (*config.progressive, config.image_size),
    )  # fmt: skip
    if config.repeats > batch_size:
      raise UserError(
        f"data.repeats={config.repeats} is above batch_size={batch_size}, so that a batch would be "
        "one image again and again: set it to {batch_size} or below"
      )
    if not order.steps_per_epoch:
      raise UserError(
        f"batch_size {batch_size} is larger than the training split ({order._length})"
      )
    return order

  def for_run(self, total: int) -> "Order":
    """Returns the order of a run of `total` steps."""
    return dataclasses.replace(self, total=total)

  def with_seed(self, seed: int) -> "Order":
    """Returns the order of a run with another seed."""
    return dataclasses.replace(self, seed=seed)

  def __post_init__(self):
    self._length = epoch_length(self.examples, sampling=self.sampling)
    per_epoch = math.ceil if self.pad else math.floor
    self.steps_per_epoch = per_epoch(self._length / self.batch_size)
    self.phase = math.ceil(self.total / len(self.sizes))  # steps of one size
    self._epochs: dict[int, np.ndarray] = {}

  def epoch(self, epoch: int) -> np.ndarray:
    """Returns the examples of an epoch, int32 [steps_per_epoch, batch_size].

    Without `pad` it leaves out the remainder, which differs between epochs.
    """
    epochs = self._epochs
    if epoch not in epochs:
      order = epoch_order(
        self.examples, seed=self.seed, epoch=epoch, sampling=self.sampling, repeats=self.repeats
      )
      order = np.resize(order, (self.steps_per_epoch, self.batch_size))
      # The epoch before stays for threads that are behind; the dict is new, as others read the old.
      before = {e: o for e, o in epochs.items() if e == epoch - 1}
      self._epochs = epochs = {**before, epoch: order}
    return epochs[epoch]

  def at(self, step: int) -> np.ndarray:
    """Returns the examples in the batch of `step`, int32 [batch_size]."""
    return self.epoch(step // self.steps_per_epoch)[step % self.steps_per_epoch]

  def size(self, step: int) -> int | None:
    """Returns the side of the images of `step` in pixels; None: as they are."""
    return self.sizes[min(step // self.phase, len(self.sizes) - 1)]
