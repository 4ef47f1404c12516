"""A split: images that are in memory or read one by one, their labels, and the classes."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import identity, imbalance
from cnnjax.data.images import UnreadableImage
from cnnjax.errors import UserError, listed, number, unknown

# The bytes of a file, uint8 [height, width, channels], or why there is neither.
Image = bytes | np.ndarray | UnreadableImage
Label = np.ndarray | int  # a class, or [num_classes] uint8 where an image may have several
NEAR = 1024  # examples among which another image with the same several labels is looked for


class Records(Protocol):
  """What a source reads its examples from. Threads read it, and worker processes get a copy."""

  labels: np.ndarray  # [n] int32 or [n, num_classes] uint8; reading them may read the whole split
  contents: np.ndarray  # [n] uint64, what examples are known by: see `identity`; reads them all
  places: np.ndarray  # [n] uint64, ids by location
  large: bool  # hashing takes too long, use `places`
  groups: np.ndarray | None  # [n] uint64, examples of one are not parted; 0: of none

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> tuple[Image, Label]:
    """An image and its label."""

  def name(self, i: int) -> str:
    """What a person would look for: the path of a file, or the place in a data set."""


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Records in memory: `images` [n, height, width, channels] uint8, `labels` as in `Records`.

  `listed` are the labels before others took the place of images that cannot be read, if they did.
  """

  images: np.ndarray
  labels: np.ndarray
  listed: np.ndarray | None = None
  source: "Split | None" = None  # what they were decoded from

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, i: int) -> tuple[np.ndarray, Label]:
    return self.images[i], self.labels[i]

  def name(self, i: int) -> str:
    return f"image {i}" if self.source is None else self.source.name(i)

  @functools.cached_property
  def contents(self) -> np.ndarray:
    """Those of the files that they were decoded from, else of their pixels."""
    if self.source is not None:
      return self.source.ids(identity.CONTENT)
    return identity.fingerprints(lambda at: [self.images[i].tobytes() for i in at], len(self))

  @property
  def large(self) -> bool:
    return self.source is not None and self.source.records.large

  @property
  def places(self) -> np.ndarray:
    return self.contents if self.source is None else self.source.ids(identity.PLACE)

  @property
  def groups(self) -> np.ndarray | None:
    return self.source and self.source.groups


@dataclasses.dataclass(frozen=True)
class Split:
  """The `records` at `indices` (None: all), in that order.

  `shape` is (height, width, channels) of the images; height and width are None where they differ.
  """

  records: Records
  classes: tuple[str, ...]
  shape: tuple[int | None, int | None, int]
  indices: np.ndarray | None = None
  note: str = ""  # where it comes from, for people, if that does not go without saying
  remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)  # on the data, for people

  @classmethod
  def of(cls, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> "Split":
    """A split of arrays that are in memory."""
    return cls(Arrays(images, labels), classes, images.shape[1:])

  def __len__(self) -> int:
    return len(self.records) if self.indices is None else len(self.indices)

  def _at(self, i: int) -> int:
    return int(i if self.indices is None else self.indices[i])

  def __getitem__(self, i: int) -> tuple[Image, Label]:
    return self.records[self._at(i)]

  def _some(self, places: range) -> list[tuple[Image, Label]]:
    """The examples at `places`: records that can read several at once do so."""
    several = getattr(self.records, "__getitems__", lambda at: [self.records[i] for i in at])
    return several([self._at(i) for i in places])

  def name(self, i: int) -> str:
    return self.records.name(self._at(i))

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """[n] int32, or [n, num_classes] uint8 where an image may have several."""
    return self._chosen(self.records.labels)

  @property
  def knows_labels(self) -> bool:
    """Whether `labels` are in memory: else the whole split is read for them."""
    return "labels" in vars(self.records)

  @functools.cached_property
  def _labels_read(self) -> dict[int, Label]:
    return {}

  def _label(self, i: int) -> Label:
    """The label of one example; reads no other."""
    if self.knows_labels:
      return self.labels[i]
    if i not in self._labels_read:
      self._labels_read[i] = self[i][1]
    return self._labels_read[i]

  def ids(self, by: str) -> np.ndarray:
    """[n] uint64: what each example is known by, `identity.CONTENT` or `identity.PLACE`."""
    return self._chosen(self.records.contents if by == identity.CONTENT else self.records.places)

  @property
  def by(self) -> str:
    """What its examples are known by, where a run does not say it."""
    return identity.PLACE if self.records.large else identity.CONTENT

  @property
  def groups(self) -> np.ndarray | None:
    """[n] uint64 of the group that each example belongs to, 0: none; None: there are no groups."""
    return None if self.records.groups is None else self._chosen(self.records.groups)

  @property
  def listed(self) -> np.ndarray:
    """`labels` as the source has them, whichever images can be read: what orders go by."""
    listed = self.records.listed if isinstance(self.records, Arrays) else None
    return self.labels if listed is None else self._chosen(listed)

  def _chosen(self, values: np.ndarray) -> np.ndarray:
    return values if self.indices is None else values[self.indices]

  @property
  def images(self) -> np.ndarray:
    """[n, height, width, channels] uint8 of a split that is in memory."""
    if not isinstance(self.records, Arrays):
      raise TypeError("these images are read one by one; `decoded` reads them all")
    return self._chosen(self.records.images)

  def take(self, indices: np.ndarray) -> "Split":
    """The examples at `indices`."""
    indices = np.asarray(indices) if self.indices is None else self.indices[indices]
    return dataclasses.replace(self, indices=indices)

  def decoded(
    self, image: Callable[[Any], np.ndarray], skipped: "Skipped", *, replace: bool = False
  ) -> "Split":
    """All of it in memory, each image as `image` decodes it.

    One that cannot be decoded is left out, and its class named if that loses all of its images;
    with `replace` another one stands there as well: see `stand_in`.
    """
    if isinstance(self.records, Arrays):
      first = self.records.images[0]
      if image(first) is first:
        return self

    def read(places: range) -> list[tuple[int, np.ndarray, Label]]:
      found = []
      for i, (data, label) in zip(places, self._some(places), strict=True):
        try:
          found.append((i, image(data), label))
        except UnreadableImage as e:
          skipped.add(self.name(i), e)
      return found

    images, labels, there = None, [None] * len(self), np.zeros(len(self), bool)
    for found in identity.in_parts(read, len(self)):
      for i, pixels, label in found:
        images = np.empty((len(self), *pixels.shape), np.uint8) if images is None else images
        images[i], labels[i], there[i] = pixels, label, True
    if images is None:
      raise UserError(f"none of the images can be read, such as {next(iter(skipped))}")
    missing, rows = np.flatnonzero(~there), np.flatnonzero(there)
    if replace:
      rows = np.arange(len(self))
      rows[missing] = [self.stand_in(i, there.__getitem__, skipped[self.name(i)]) for i in missing]
    labels = np.stack([labels[i] for i in rows])
    labels = labels.astype(np.uint8 if labels.ndim == 2 else np.int32)
    note = self.note
    if not len(missing):
      records = Arrays(images, labels, source=self)
    else:
      as_listed = self.labels if replace else None
      records = Arrays(images[rows], labels, as_listed, source=self.take(rows))
      done = "replaced within their class" if replace else "left out"
      left_out = f"{len(missing)} that cannot be read {done}"
      note = ", ".join(filter(None, (note, left_out, self.lost(missing))))
    return Split(records, self.classes, images.shape[1:], note=note, remarks=self.remarks)

  def lost(self, missing: Iterable[int]) -> str:
    """The classes whose examples are all among the `missing` ones, in words.

    Where labels have to be read, those after a missing example are, until there is another one of
    its class; all of them only if that takes too long.
    """
    missing = {*map(int, missing)}
    if not missing or not (self.knows_labels or self._may_lose(missing)):
      return ""
    rows = np.delete(np.arange(len(self)), [*missing])
    lost = imbalance.lacking(self.labels, self.labels[rows], self.classes)
    return f"without any of {lost}" if lost else ""

  def _may_lose(self, missing: set[int]) -> bool:
    """Whether no other example of some class of the missing ones is found near them."""
    n, several = len(self), np.ndim(self._label(min(missing))) == 1
    has = lambda i, c: self._label(i)[c] > 0 if several else self._label(i) == c
    near = {}  # a class: the place of a missing example that has it
    for i in missing:
      near |= dict.fromkeys(np.flatnonzero(self._label(i)) if several else [self._label(i)], i)
    reads = min(n, max(NEAR, 10 * len(self.classes)))
    after = lambda i: ((i + k) % n for k in range(1, reads))
    return not all(any(has(at, c) for at in after(i) if at not in missing) for c, i in near.items())

  def stand_in(self, i: int, readable: Callable[[int], bool], reason: str) -> int:
    """Returns the example to train on where example `i` cannot be read: the next of its class.

    Where an image may have several labels, the one with the same labels among the next `NEAR`, or
    if there is none, the next of all. "Next" goes around the end. No more is read than needed.
    `reason`: why example `i` cannot be read.

    Raises:
      UserError: none of the images of a class can be read.
    """
    own, n = self._label(i), len(self)
    several = np.ndim(own) == 1

    def find(fits: Callable[[int], bool], number: int = n) -> int | None:
      after = ((i + k) % n for k in range(1, number))
      return next((at for at in after if fits(at) and readable(at)), None)

    same = lambda at: np.array_equal(self._label(at), own)
    found = find(same, min(n, NEAR + 1) if several else n)
    if found is None:
      for label in np.flatnonzero(own) if several else [own]:
        has = lambda at, label=label: self._label(at)[label] > 0
        if not several or find(has) is None:
          raise UserError(
            f"none of the training images of {self.classes[label]!r} can be read, such as "
            f"{self.name(i)}: {reason}; mend or add some, or take the class out of the data"
          )
      found = find(lambda at: True)
    if found is None:
      raise UserError(f"none of the images can be read, such as {self.name(i)}")
    return found


class Skipped(dict[str, str]):
  """Images that could not be read, by name, and why: at most `limit` of them."""

  def __init__(self, limit: int):
    self.limit = limit

  def add(self, name: str, reason: Any) -> None:
    """Raises UserError once there are more than `limit`."""
    self[name] = str(reason)
    if len(self) > self.limit:
      by_reason = collections.defaultdict(list)
      for image, why in self.items():
        by_reason[why].append(image)
      reasons = [f"{listed(images)}: {why}" for why, images in by_reason.items()]
      raise UserError(
        f"{number(len(self), 'image')} cannot be read, and data.max_unreadable is {self.limit}: "
        f"{'; '.join(reasons[:3])}{'; ...' if len(reasons) > 3 else '.'} Look at them with "
        "`python -m cnnjax.data scan PATH`, or raise data.max_unreadable"
      )


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
