"""A split: examples in memory or read one by one, and their fields."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import fields, identity, imbalance
from cnnjax.data.fields import Field
from cnnjax.data.images import UnreadableImage
from cnnjax.errors import UserError, listed, number, unknown

# The bytes of a file, or an array [height, width, channels] of a type of `fields`. Where an image
# cannot be read, the reason.
Image = bytes | np.ndarray | UnreadableImage
Label = np.ndarray | int  # a class, or [num_classes] uint8 where an image may have more
# An example of a source by the names of `fields.arrays`: images and masks as of Image (a mask
# [height, width]); only the boxes that exist, unless NAME_valid marks them, or the reason for none.
Example = dict[str, Any]
LABELS = ("label", "multi_label")  # the kinds that give the class of an example
NEAR = 1024  # examples to search for another image with all of the same labels


class Records(Protocol):
  """The interface of examples in a source. Threads read them; worker processes get a copy."""

  labels: np.ndarray  # [n] int32 or [n, num_classes] uint8; reading them may read the whole split
  contents: np.ndarray  # [n] uint64, ids by content, see `identity`; reads all images
  places: np.ndarray  # [n] uint64, ids by location
  large: bool  # hashing takes too long, use `places`
  groups: np.ndarray | None  # [n] uint64, examples of one are not parted; 0: of none

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> Example | tuple[Image, Label]:
    """Returns an example; `(image, label)` is its short form."""

  def name(self, i: int) -> str:
    """Returns a name for people to find an example by: a path, or a place in a data set."""


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Records in memory: `arrays` [n, ...] by the names of `fields.arrays`, among them "image".

  `listed` are the labels of the source, where other examples replaced images that cannot be read.
  """

  arrays: Mapping[str, np.ndarray]
  listed: np.ndarray | None = None
  source: "Split | None" = None  # the split that they were decoded from

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, i: int) -> Example:
    return {name: array[i] for name, array in self.arrays.items()}

  @property
  def images(self) -> np.ndarray:
    return self.arrays["image"]

  @property
  def labels(self) -> np.ndarray:
    return self.arrays["label"]

  def name(self, i: int) -> str:
    return f"image {i}" if self.source is None else self.source.name(i)

  @functools.cached_property
  def contents(self) -> np.ndarray:
    """Fingerprints of the files that they were decoded from, else of their pixels."""
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
  `classes` are those of the labels, the masks or the boxes. `declared` are the fields; None means
  an image of 8 bits and one or more labels.
  """

  records: Records
  classes: tuple[str, ...]
  shape: tuple[int | None, int | None, int]
  indices: np.ndarray | None = None
  note: str = ""  # on where it comes from, for people
  remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)  # on the data, for people
  declared: Mapping[str, Field] | None = None

  @classmethod
  def of(cls, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> "Split":
    """Returns a split of images and labels in memory."""
    label = fields.multi_label(classes) if labels.ndim == 2 else fields.label(classes)
    declared = {"image": fields.image(*images.shape[1:], str(images.dtype)), "label": label}
    return cls.of_fields(Arrays({"image": images, "label": labels}), declared)

  @classmethod
  def of_fields(cls, records: Records, declared: Mapping[str, Field], **rest: Any) -> "Split":
    """Returns a split with the fields `declared`; `rest` is as of the class."""
    having = [field.classes for field in declared.values() if field.classes is not None]
    return cls(records, next(iter(having), ()), declared["image"].shape, **rest, declared=declared)

  @functools.cached_property
  def fields(self) -> dict[str, Field]:
    """The fields of an example by name. Without `declared` this may read a label."""
    if self.declared is not None:
      return dict(self.declared)
    ndim = self.labels.ndim - 1 if self.knows_labels else np.ndim(self[0]["label"])
    label = fields.multi_label(self.classes) if ndim else fields.label(self.classes)
    return {"image": fields.image(*self.shape), "label": label}

  @property
  def has_label(self) -> bool:
    """True if an example has a `label`, of one class or more."""
    return self.declared is None or "label" in fields.of_kind(self.declared, *LABELS)

  @property
  def label(self) -> Field | None:
    """The field of labels, if there is one."""
    return self.fields["label"] if self.has_label else None

  def with_fields(self, *names: str) -> "Split":
    """Returns the split with only some of its fields."""
    return dataclasses.replace(self, declared={name: self.fields[name] for name in names})

  def with_room(self, name: str, most: int) -> "Split":
    """Returns the split with `most` boxes an example in the field `name`."""
    field = dataclasses.replace(self.fields[name], shape=(most, 4))
    return dataclasses.replace(self, declared={**self.fields, name: field})

  def most_boxes(self, name: str) -> int:
    """Returns the most boxes that an example has in the field `name`; reads all examples."""
    count = lambda boxes: 0 if isinstance(boxes, UnreadableImage) else len(boxes)
    read = lambda places: max(count(example[name]) for example in self._some(places))
    return max(identity.in_parts(read, len(self)))

  def __len__(self) -> int:
    return len(self.records) if self.indices is None else len(self.indices)

  def _at(self, i: int) -> int:
    return int(i if self.indices is None else self.indices[i])

  def __getitem__(self, i: int) -> Example:
    return self._named(self.records[self._at(i)])

  def _named(self, example: Example | tuple[Image, Label]) -> Example:
    """Returns the declared fields of an example by name."""
    if isinstance(example, tuple):
      example = {"image": example[0], "label": example[1]}
    if self.declared is None:
      return example
    return {name: example[name] for name in fields.arrays(self.declared) if name in example}

  def _some(self, places: range) -> list[Example]:
    """Reads the examples at `places`, at once if the records can."""
    read = getattr(self.records, "__getitems__", lambda at: [self.records[i] for i in at])
    return [self._named(example) for example in read([self._at(i) for i in places])]

  def name(self, i: int) -> str:
    return self.records.name(self._at(i))

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """The labels, [n] int32, or [n, num_classes] uint8 where an image may have more."""
    return self._chosen(self.records.labels)

  @property
  def knows_labels(self) -> bool:
    """True if `labels` are in memory; else there are none, or they cost reading the split."""
    if isinstance(self.records, Arrays):
      return "label" in self.records.arrays
    return vars(self.records).get("labels") is not None

  @functools.cached_property
  def _labels_read(self) -> dict[int, Label]:
    return {}

  def _label(self, i: int) -> Label:
    """Returns the label of one example; reads no other."""
    if self.knows_labels:
      return self.labels[i]
    if i not in self._labels_read:
      self._labels_read[i] = self[i]["label"]
    return self._labels_read[i]

  def ids(self, by: str) -> np.ndarray:
    """Returns the ids of the examples, [n] uint64, by `identity.CONTENT` or `identity.PLACE`."""
    return self._chosen(self.records.contents if by == identity.CONTENT else self.records.places)

  @property
  def by(self) -> str:
    """The default kind of its ids: by content, unless the split is large."""
    return identity.PLACE if self.records.large else identity.CONTENT

  @property
  def groups(self) -> np.ndarray | None:
    """The group of each example, [n] uint64, 0 for none; None: there are no groups."""
    return None if self.records.groups is None else self._chosen(self.records.groups)

  @property
  def listed(self) -> np.ndarray:
    """The labels of the source, also of unreadable images; the order goes by them."""
    listed = self.records.listed if isinstance(self.records, Arrays) else None
    return self.labels if listed is None else self._chosen(listed)

  def _chosen(self, values: np.ndarray) -> np.ndarray:
    return values if self.indices is None else values[self.indices]

  @property
  def images(self) -> np.ndarray:
    """The images of a split in memory, [n, height, width, channels]."""
    return self._chosen(self._in_memory.images)

  @property
  def arrays(self) -> dict[str, np.ndarray]:
    """The arrays of the fields of a split in memory, [n, ...]."""
    arrays = self._in_memory.arrays
    return {name: self._chosen(arrays[name]) for name in fields.arrays(self.fields)}

  @property
  def _in_memory(self) -> Arrays:
    if not isinstance(self.records, Arrays):
      raise TypeError("these images are read one by one; `decoded` reads them all")
    return self.records

  def take(self, indices: np.ndarray) -> "Split":
    """Returns the split of the examples at `indices`."""
    indices = np.asarray(indices) if self.indices is None else self.indices[indices]
    return dataclasses.replace(self, indices=indices)

  def decoded(
    self,
    crop: Callable[[Example], dict[str, np.ndarray]],
    skipped: "Skipped",
    *,
    replace: bool = False,
  ) -> "Split":
    """Returns the split in memory, each example cropped by `crop`.

    An image that cannot be decoded is left out; a class that loses all of its images is named. With
    `replace` another example takes its place: see `stand_in`.
    """
    if isinstance(self.records, Arrays):
      first = self[0]
      if all(array is first[name] for name, array in crop(first).items() if array.ndim > 1):
        return self

    def read(places: range) -> list[tuple[int, dict[str, np.ndarray]]]:
      examples = []
      for i, example in zip(places, self._some(places), strict=True):
        try:
          examples.append((i, crop(example)))
        except UnreadableImage as e:
          skipped.add(self.name(i), e)
      return examples

    arrays, readable = {}, np.zeros(len(self), bool)
    for examples in identity.in_parts(read, len(self)):
      for i, example in examples:
        for name, array in example.items():
          if name not in arrays:
            arrays[name] = np.empty((len(self), *array.shape), array.dtype)
          arrays[name][i] = array
        readable[i] = True
    if not arrays:
      raise UserError(f"none of the images can be read, such as {next(iter(skipped))}")
    missing, rows = np.flatnonzero(~readable), np.flatnonzero(readable)
    if replace:
      rows = np.arange(len(self))
      for i in missing:
        rows[i] = self.stand_in(i, readable.__getitem__, skipped[self.name(i)])
    note = self.note
    if not len(missing):
      records = Arrays(arrays, source=self)
    else:
      as_listed = self.labels if replace and self.has_label else None
      arrays = {name: array[rows] for name, array in arrays.items()}
      records = Arrays(arrays, as_listed, source=self.take(rows))
      done = f"replaced{' within their class' if self.has_label else ''}" if replace else "left out"
      left_out = f"{len(missing)} that cannot be read {done}"
      note = ", ".join(filter(None, (note, left_out, self.lost(missing))))
    declared = {
      name: dataclasses.replace(field, shape=arrays[name].shape[1:], dtype=str(arrays[name].dtype))
      for name, field in self.fields.items()
    }
    return Split.of_fields(records, declared, note=note, remarks=self.remarks)

  def lost(self, missing: Iterable[int]) -> str:
    """Returns in words the classes whose examples are all `missing`; "" without labels.

    If labels have to be read, it reads those after a missing example until another one of its class
    comes, and all labels only if that takes too long.
    """
    missing = {*map(int, missing)}
    if not missing or not self.has_label:
      return ""
    if not (self.knows_labels or self._may_lose(missing)):
      return ""
    rows = np.delete(np.arange(len(self)), [*missing])
    lost = imbalance.lacking(self.labels, self.labels[rows], self.classes)
    return f"without any of {lost}" if lost else ""

  def _may_lose(self, missing: set[int]) -> bool:
    """Returns whether some class of the missing examples has no other one near them."""
    n, multi_label = len(self), np.ndim(self._label(min(missing))) == 1
    has = lambda i, c: self._label(i)[c] > 0 if multi_label else self._label(i) == c
    near = {}  # a class: the place of a missing example that has it
    for i in missing:
      near |= dict.fromkeys(np.flatnonzero(self._label(i)) if multi_label else [self._label(i)], i)
    reads = min(n, max(NEAR, 10 * len(self.classes)))
    after = lambda i: ((i + k) % n for k in range(1, reads))
    return not all(any(has(at, c) for at in after(i) if at not in missing) for c, i in near.items())

  def stand_in(self, i: int, readable: Callable[[int], bool], reason: str) -> int:
    """Returns the example to train on where example `i` cannot be read: the next of its class.

    Where an image may have more labels, it is the one with the same labels among the next `NEAR`,
    or else the next one; without labels, the next one. "Next" wraps around the end. Reads no more
    than needed. `reason` says why example `i` cannot be read.

    Raises:
      UserError: none of the images of a class can be read.
    """
    n = len(self)

    def find(fits: Callable[[int], bool], number: int = n) -> int | None:
      after = ((i + k) % n for k in range(1, number))
      return next((at for at in after if fits(at) and readable(at)), None)

    place = self._alike(i, find, reason) if self.has_label else find(lambda at: True)
    if place is None:
      raise UserError(f"none of the images can be read, such as {self.name(i)}")
    return place

  def _alike(self, i: int, find: Callable[..., int | None], reason: str) -> int | None:
    """Returns the example that replaces example `i` by its label; arguments as of `stand_in`."""
    wanted, n = self._label(i), len(self)
    multi_label = np.ndim(wanted) == 1
    same = lambda at: np.array_equal(self._label(at), wanted)
    if (place := find(same, min(n, NEAR + 1) if multi_label else n)) is not None:
      return place
    for label in np.flatnonzero(wanted) if multi_label else [wanted]:
      has = lambda at, label=label: self._label(at)[label] > 0
      if not multi_label or find(has) is None:
        raise UserError(
          f"none of the training images of {self.classes[label]!r} can be read, such as "
          f"{self.name(i)}: {reason}; mend or add some, or take the class out of the data"
        )
    return find(lambda at: True)


class Skipped(dict[str, str]):
  """The images that could not be read, with the reason by name; `limit` of them at most."""

  def __init__(self, limit: int):
    self.limit = limit

  def add(self, name: str, reason: Any) -> None:
    """Adds an image; raises UserError once there are more than `limit`."""
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
  """Raises UserError unless each split is "train" or "test", the only ones of the source."""
  chosen = {
    key: config[key] for key in ("train", "validation", "test") if isinstance(config[key], str)
  }
  for key, name in chosen.items():
    if name not in ("train", "test"):
      raise unknown(f"split in data.{key}", name, ("train", "test"))
  if len(set(chosen.values())) < len(chosen):
    raise UserError(
      f"data: {', '.join(f'{k}={v}' for k, v in chosen.items())}: no examples may "
      "serve two of train, validation and test: give each split another name or a share"
    )
