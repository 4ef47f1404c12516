"""Images in: a source gives splits as uint8 arrays, a pipeline gives the batch of any step."""

import dataclasses
import importlib

import numpy as np
from ml_collections import ConfigDict
from sklearn.model_selection import train_test_split

from cnnjax.data.resident import Resident
from cnnjax.errors import UserError, unknown

# Each is a module of this package with
#   check(config): raises UserError for names that are wrong, before anything is downloaded;
#   load(config, split): the `Split` of a split expression.
SOURCES = ("digits", "synthetic", "tfds")

__all__ = ["Resident", "Split", "check", "describe", "load", "normalization"]


@dataclasses.dataclass(frozen=True)
class Split:
  """`images` [n, height, width, channels] uint8, `labels` [n] int32, the names of the classes."""

  images: np.ndarray
  labels: np.ndarray
  classes: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, indices: np.ndarray) -> "Split":
    return dataclasses.replace(self, images=self.images[indices], labels=self.labels[indices])


def _source(name: str):
  if name not in SOURCES:
    raise unknown("data source", name, SOURCES)
  return importlib.import_module(f"cnnjax.data.{name}")


def check(config: ConfigDict) -> None:
  """Raises UserError for a source, data set or split that is not there; downloads nothing."""
  source = _source(config.source)
  if config.name and config.source != "tfds":
    raise UserError(
      f"data.name={config.name!r} goes with data.source=tfds, and data.source is {config.source!r}"
    )
  source.check(config)


def check_named_splits(config: ConfigDict) -> None:
  """Raises UserError unless each split is a whole one of a source that has "train" and "test"."""
  chosen = {
    key: config[key] for key in ("train", "validation", "test") if isinstance(config[key], str)
  }
  for key, name in chosen.items():
    if name not in ("train", "test"):
      raise unknown(f"split in data.{key}", name, ("train", "test"))
  if len(set(chosen.values())) < len(chosen):
    raise UserError(
      f"data: {', '.join(f'{k}={v}' for k, v in chosen.items())}: examples that are "
      "trained on cannot be evaluated on, nor the test split be used to choose"
    )


def load(
  config: ConfigDict, splits: tuple[str, ...] = ("train", "validation", "test")
) -> dict[str, Split | None]:
  """The splits asked for; "validation" is None where the config carves none.

  A validation split given as a share or a number is stratified, fixed (the same for every seed,
  so that seeds compare), and taken out of the training split.
  """
  load_split = lambda expression: _source(config.source).load(config, expression)
  found: dict[str, Split | None] = {}
  if "test" in splits:
    found["test"] = load_split(config.test)
  if isinstance(config.validation, str):
    if "validation" in splits:
      found["validation"] = load_split(config.validation)
    if "train" in splits:
      found["train"] = load_split(config.train)
  elif "train" in splits or (config.validation and "validation" in splits):
    train = load_split(config.train)
    found["train"], found["validation"] = (
      _carve(train, config.validation) if config.validation else (train, None)
    )
  return {name: found.get(name) for name in splits}


def _carve(train: Split, amount: float | int) -> tuple[Split, Split]:
  try:
    kept, held = train_test_split(
      np.arange(len(train)), test_size=amount, stratify=train.labels, random_state=0
    )
  except ValueError as e:
    raise UserError(
      f"data.validation {amount!r} cannot be carved from {len(train)} training "
      f"examples of {len(train.classes)} classes: {e}"
    ) from e
  return train.take(np.sort(kept)), train.take(np.sort(held))


def normalization(config: ConfigDict, train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """(mean, std) per channel, of images in [0, 1]: the config's, or those of the training split."""
  mean, std = statistics(train) if None in (config.mean, config.std) else ((), ())
  mean, std = tuple(config.mean or mean), tuple(config.std or std)
  for key, values in (("mean", mean), ("std", std)):
    if len(values) != train.images.shape[-1]:
      raise UserError(
        f"data.{key} has {len(values)} values, and the images have "
        f"{train.images.shape[-1]} channels"
      )
  return mean, std


def describe(config: ConfigDict, splits: dict[str, Split]) -> str:
  """The data in words."""
  name = config.name if config.source == "tfds" else config.source
  height, width, channels = splits["train"].images.shape[1:]
  sizes = ", ".join(f"{len(split):,} {key}" for key, split in splits.items())
  carved = "" if "validation" in splits else " (no validation split: no best checkpoint)"
  return (
    f"{name}, {height}x{width}x{channels}, {len(splits['train'].classes)} classes: {sizes}{carved}"
  )


def statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and deviation per channel, of images in [0, 1]; exact, by counting pixel values."""
  levels = np.arange(256) / 255.0
  mean, std = [], []
  for channel in range(split.images.shape[-1]):
    counts = np.bincount(split.images[..., channel].reshape(-1), minlength=256)
    m = counts @ levels / counts.sum()
    mean.append(float(m))
    std.append(float(np.sqrt(counts @ (levels - m) ** 2 / counts.sum())) or 1.0)
  return tuple(mean), tuple(std)
