"""A split: images that are in memory or read one by one, their labels, and the classes."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import rich.progress
from ml_collections import ConfigDict
from sklearn.model_selection import train_test_split

from cnnjax.data.images import UnreadableImage
from cnnjax.errors import UserError, unknown

Label = np.ndarray | int  # a class, or [num_classes] uint8 where an image may have several


class Records(Protocol):
  """What a source reads its examples from. Threads read it, and worker processes get a copy."""

  labels: np.ndarray  # [n] int32 or [n, num_classes] uint8; reading them may read the whole split

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> tuple[bytes | np.ndarray, Label]:
    """An image, as the bytes of a file or as uint8 [height, width, channels], and its label."""

  def name(self, i: int) -> str:
    """What a person would look for: the path of a file, or the place in a data set."""


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Records in memory: `images` [n, height, width, channels] uint8, `labels` as in `Records`."""

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, i: int) -> tuple[np.ndarray, Label]:
    return self.images[i], self.labels[i]

  def name(self, i: int) -> str:
    return f"image {i}"


@dataclasses.dataclass(frozen=True)
class Split:
  """The `records` at `indices` (None: all), in that order.

  `shape` is (height, width, channels) of the images; height and width are None where they differ.
  """

  records: Records
  classes: tuple[str, ...]
  shape: tuple[int | None, int | None, int]
  indices: np.ndarray | None = None

  @classmethod
  def of(cls, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> "Split":
    """A split of arrays that are in memory."""
    return cls(Arrays(images, labels), classes, images.shape[1:])

  def __len__(self) -> int:
    return len(self.records) if self.indices is None else len(self.indices)

  def _at(self, i: int) -> int:
    return int(i if self.indices is None else self.indices[i])

  def __getitem__(self, i: int) -> tuple[bytes | np.ndarray, Label]:
    return self.records[self._at(i)]

  def name(self, i: int) -> str:
    return self.records.name(self._at(i))

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """[n] int32, or [n, num_classes] uint8 where an image may have several."""
    labels = self.records.labels
    return labels if self.indices is None else labels[self.indices]

  @property
  def images(self) -> np.ndarray:
    """[n, height, width, channels] uint8 of a split that is in memory."""
    if not isinstance(self.records, Arrays):
      raise TypeError("these images are read one by one; `decoded` reads them all")
    images = self.records.images
    return images if self.indices is None else images[self.indices]

  def take(self, indices: np.ndarray) -> "Split":
    """The examples at `indices`."""
    indices = np.asarray(indices) if self.indices is None else self.indices[indices]
    return dataclasses.replace(self, indices=indices)

  def decoded(
    self, image: Callable[[Any], np.ndarray], skipped: "Skipped", *, replace: bool = False
  ) -> "Split":
    """All of it in memory, each image as `image` decodes it.

    One that cannot be decoded is left out; with `replace` the next one that can stands there as
    well, as in the streaming pipeline.
    """
    if isinstance(self.records, Arrays):
      first = self.records.images[0]
      if image(first) is first:
        return self

    def read(i: int) -> tuple[np.ndarray, Label] | None:
      data, label = self[i]
      try:
        return image(data), label
      except UnreadableImage as e:
        skipped.add(self.name(i), e)
        return None

    images, labels, there = None, [None] * len(self), np.zeros(len(self), bool)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
      for i, found in enumerate(_shown(pool.map(read, range(len(self))), len(self))):
        if found:
          images = np.empty((len(self), *found[0].shape), np.uint8) if images is None else images
          (images[i], labels[i]), there[i] = found, True
    if images is None:
      raise UserError(f"none of the images can be read, such as {next(iter(skipped))}")
    rows = np.flatnonzero(there)
    if replace:  # for each, the first from it on that is there, around the end
      rows = rows[np.searchsorted(rows, np.arange(len(self))) % len(rows)]
    labels = np.stack([labels[i] for i in rows])
    if not there.all():
      images = images[rows]
    return Split.of(images, labels.astype(np.uint8 if labels.ndim == 2 else np.int32), self.classes)


class Skipped(dict[str, str]):
  """Images that could not be read, by name, and why: at most `limit` of them."""

  def __init__(self, limit: int):
    self.limit = limit

  def add(self, name: str, reason: Any) -> None:
    """Raises UserError once there are more than `limit`."""
    self[name] = str(reason)
    if len(self) > self.limit:
      raise UserError(
        f"{len(self)} images cannot be read, and data.max_unreadable is {self.limit}: "
        f"{'; '.join(f'{k}: {v}' for k, v in list(self.items())[:3])} ... Look at them with "
        "`python -m cnnjax.data scan PATH`, or raise data.max_unreadable"
      )


def _shown(items: Iterable, total: int) -> Iterable:
  """`items`, with a progress bar on a terminal if there are many."""
  bar = rich.progress.track(items, "reading images", total=total, transient=True)
  return bar if total > 5000 else items


def carve(split: Split, amount: float | int, key: str, seed: int) -> tuple[Split, Split]:
  """(what is kept, what is held out), stratified over the classes; the same for a seed.

  Raises:
    UserError: `amount`, a share or a number, cannot be held out.
  """
  single = split.labels.ndim == 1
  try:
    kept, held = train_test_split(
      np.arange(len(split)),
      test_size=amount,
      stratify=split.labels if single else None,
      random_state=seed,
    )
  except ValueError as e:
    raise UserError(
      f"data.{key} {amount!r} cannot be carved from {len(split)} training "
      f"examples of {len(split.classes)} classes: {e}"
    ) from e
  return split.take(np.sort(kept)), split.take(np.sort(held))


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
