"""Makes splits of arrays: `train.train(config, splits=data.from_arrays((images, labels)))`."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from cnnjax.data import fields
from cnnjax.data.fields import Field, Kind
from cnnjax.data.names import same
from cnnjax.data.split import Arrays, Split
from cnnjax.errors import UserError, listed


def check(config: ConfigDict) -> None:
  """Raises UserError for splits by other names than their own."""
  for key in ("train", "validation", "test"):
    if isinstance(config[key], str) and config[key] != key:
      raise UserError(
        f"data.{key} of arrays must be {key!r}, a share or a number, not {config[key]!r}"
      )


def load(config: ConfigDict, split: str) -> Split:
  """Raises UserError: arrays come from Python."""
  raise UserError(
    "data.source is 'arrays', which only Python can give: "
    "train.train(config, splits=data.from_arrays(...)), and for evaluation "
    "evaluate_checkpoint(workdir, splits=...)"
  )


Given = Sequence | Mapping[str, np.ndarray]  # a pair (images, labels), or fields by name


def from_arrays(
  train: Given,
  test: Given | None = None,
  validation: Given | None = None,
  classes: Sequence[str] | None = None,
  kinds: Mapping[str, Kind] | None = None,
) -> dict[str, Split]:
  """Returns splits of arrays, for `train.train` and `evaluate_checkpoint`.

  Args:
    train: a pair (images, labels), or a dict of fields, as {"image": ..., "mask": ...}, of n
      examples. By kind:
      image `[n, height, width, bands]` or `[n, height, width]` uint8, uint16 or float32; black is
        0 and white 255, 65535 or 1, unless `data.range` is set;
      label `[n]` integers from 0; or `[n, num_classes]` of 0 and 1 where an image may have several;
      mask `[n, height, width]` integers from 0; pixels of 255 (uint16: 65535) do not count;
      boxes `[n, m, 4]` float, ymin, xmin, ymax, xmax in [0, 1], with `boxes_label` `[n, m]` (none:
        all are of class 0) and `boxes_valid` `[n, m]` (none: those of an area above 0 are there);
      value `[n]` or `[n, k]` numbers.
    test: likewise; None: `config.data.test` is a share or a number to hold out of `train`.
    validation: likewise, or None.
    classes: their names; None: the numbers up to the largest one in `train`.
    kinds: the kinds of fields by name, where the name is not that of a kind; only one is "image".

  Raises:
    UserError: arrays that do not fit each other, or values out of range.
  """
  given = {"train": train, "validation": validation, "test": test}
  checked = {
    key: _check_fields(key, split, kinds or {}) for key, split in given.items() if split is not None
  }
  number, needed = _classes(checked["train"])
  classes = tuple(map(str, range(number) if classes is None else classes))
  counts = collections.Counter(map(same, classes))
  if twice := [name for name in classes if counts[same(name)] > 1]:
    raise UserError(f"classes: one name stands for two classes: {listed([*map(repr, twice)])}")
  if len(classes) < 2 and needed:
    raise UserError("train has only one class, and a classifier needs two or more")
  _check_white(checked["train"])
  for key, by_name in checked.items():
    _compare(key, by_name, checked["train"], classes)
  return {
    key: Split.of_fields(
      Arrays({name: array for field in by_name.values() for name, array in field.arrays.items()}),
      {name: field.field(classes) for name, field in by_name.items()},
    )
    for key, by_name in checked.items()
  }


@dataclasses.dataclass(frozen=True)
class _Checked:
  """A field of some examples with its checked arrays by name, the main one first."""

  kind: Kind
  arrays: dict[str, np.ndarray]

  @property
  def main(self) -> np.ndarray:
    return next(iter(self.arrays.values()))

  @property
  def largest(self) -> int:
    """The largest class; -1 if there is none."""
    classes = self.main
    if self.kind == "boxes":
      _, labels, valid = self.arrays.values()
      classes = labels[valid]
    elif self.kind == "mask":
      classes = classes[classes != np.iinfo(classes.dtype).max]
    return int(classes.max(initial=0)) if classes.size else -1

  def field(self, classes: tuple[str, ...]) -> Field:
    """Returns the field of one example."""
    having = classes if self.kind in fields.WITH_CLASSES else None
    return Field(self.kind, self.main.shape[1:], str(self.main.dtype), having)


def _check_fields(key: str, given: Given, kinds: Mapping[str, Kind]) -> dict[str, _Checked]:
  """Returns the checked fields of a split by name."""
  if not isinstance(given, Mapping):
    if not isinstance(given, tuple | list) or len(given) != 2:
      raise UserError(f"{key} must be a pair (images, labels), or a dict of fields")
    given = {"image": given[0], "label": given[1]}
  if "image" not in given:
    raise UserError(f"{key} has no 'image', and has {listed([*map(repr, given)])}")
  beside = {part(name) for name in given for part in (fields.label_of, fields.valid_of)}
  has_length = lambda values: isinstance(values, list | tuple) or np.ndim(values)
  others = [values for name, values in given.items() if name != "image" and has_length(values)]
  images = _images(key, given["image"], len(others[0]) if others else len(given["image"]))
  checked = {"image": _Checked("image", {"image": images})}
  for name, values in given.items():
    kind = kinds.get(name, name)
    if name == "image" or (name in beside and name not in kinds):
      continue
    if kind not in _CHECKS:
      raise UserError(
        f"{key}: the field {name!r} has no kind: give kinds={{{name!r}: KIND}}, one of "
        f"{', '.join(_CHECKS)}"
      )
    try:
      array = np.asarray(values)
    except ValueError as e:  # lists of different shapes
      raise UserError(f"{key}: all of {name} must have one shape: {e}") from e
    if array.ndim == 0 or len(array) != len(images):
      what = "labels" if name == "label" else name
      raise UserError(f"{key}: {len(images)} images and {what} of shape {list(array.shape)}")
    checked[name] = _CHECKS[kind](key, name, array, given)
    if checked[name].kind == "mask" and checked[name].main.shape != images.shape[:3]:
      raise UserError(
        f"{key}: {name} of shape {list(checked[name].main.shape)} is not [n, height, width] of "
        f"images of shape {list(images.shape)}"
      )
  return checked


def _classes(checked: dict[str, _Checked]) -> tuple[int, bool]:
  """Returns (the number of classes of some fields, whether labels must have two or more)."""
  columns = [field.main.shape[1] for field in checked.values() if field.kind == "multi_label"]
  numbered = [field for field in checked.values() if field.kind in ("label", "mask", "boxes")]
  single = any(field.kind == "label" for field in numbered)
  return max(columns + [field.largest + 1 for field in numbered], default=0), single


def _check_white(train: dict[str, _Checked]) -> None:
  """Raises UserError for masks of 0 and of white alone, which does not count."""
  for name, field in train.items():
    white = np.iinfo(field.main.dtype).max if field.kind == "mask" else None
    if field.kind == "mask" and field.largest == 0 and (field.main == white).any():
      raise UserError(
        f"train: {name} has only 0 and {white}, and {white} does not count, so that there is one "
        f"class: give ({name} == {white}).astype('uint8'), if {white} is class 1"
      )


def _compare(
  key: str, checked: dict[str, _Checked], train: dict[str, _Checked], classes: tuple[str, ...]
) -> None:
  """Raises UserError unless the fields of a split fit those of the training split."""
  image, trained = checked["image"].main, train["image"].main
  if image.shape[1:] != trained.shape[1:]:
    raise UserError(
      f"{key}: images of {image.shape[1:]}, and those of train are {trained.shape[1:]}"
    )
  if image.dtype != trained.dtype:
    raise UserError(f"{key}: images are {image.dtype}, and those of train are {trained.dtype}")
  if checked.keys() != train.keys():
    raise UserError(f"{key} has {listed([*checked])}, and train has {listed([*train])}")
  for name, field in checked.items():
    multi_label = train[name].kind == "multi_label"
    if (field.kind == "multi_label") != multi_label:
      raise UserError(
        f"{key}: {_plural(name)} are {'classes' if multi_label else 'zeros and ones'}, unlike train"
      )
    if field.kind in ("boxes", "value") and field.main.shape[1:] != train[name].main.shape[1:]:
      raise UserError(f"{key}: an example of {name} has another shape than in train")
    if multi_label and field.main.shape[1] != len(classes):
      raise UserError(
        f"{key}: {_plural(name)} have {field.main.shape[1]} columns for {len(classes)} classes"
      )
    if field.kind in ("label", "mask", "boxes") and field.largest >= len(classes):
      raise UserError(f"{key}: {name} {field.largest} is out of range for {len(classes)} classes")


def _plural(name: str) -> str:
  return "labels" if name == "label" else name


def _images(key: str, given: np.ndarray, examples: int) -> np.ndarray:
  """Checks images; returns them as `[n, height, width, bands]`."""
  try:
    images = np.asarray(given)
  except ValueError as e:  # lists of different shapes
    raise UserError(f"{key}: all images must have one size: {e}") from e
  images = images[..., None] if images.ndim == 3 else images
  if str(images.dtype) not in fields.DTYPES["image"] or images.ndim != 4 or 0 in images.shape[1:]:
    raise UserError(
      f"{key}: images must be uint8, uint16 or float32 [n, height, width, bands], not "
      f"{images.dtype} {list(images.shape)}{_conversion(images)}"
    )
  if order := _transposition(images.shape, examples):
    raise UserError(
      f"{key}: images of shape {list(images.shape)} have their axes in another order; give "
      f"images.transpose{order}, which is [n, height, width, bands]"
    )
  if images.dtype == np.float32 and not np.isfinite(images).all():
    raise UserError(f"{key}: images are float32, and some values are infinite or NaN")
  if not len(images):
    raise UserError(f"{key} has no images")
  return images


def _labels(key: str, name: str, array: np.ndarray, given: Mapping) -> _Checked:
  """Checks labels: a class per image, or zeros and ones for each class."""
  what = _plural(name)
  if array.ndim not in (1, 2):
    raise UserError(f"{key}: {len(array)} images and {what} of shape {list(array.shape)}")
  multi_label = array.ndim == 2
  if not (np.isin(array, (0, 1)).all() if multi_label else np.issubdtype(array.dtype, np.integer)):
    raise UserError(f"{key}: {what} must be integers, or zeros and ones [n, num_classes]")
  _check_range(key, name, array, 2**31)
  if multi_label:
    return _Checked("multi_label", {name: array.astype(np.uint8)})
  return _Checked("label", {name: array.astype(np.int32)})


def _check_range(key: str, name: str, array: np.ndarray, end: int) -> None:
  if array.size and (array.min() < 0 or array.max() >= end):
    wrong = array.min() if array.min() < 0 else array.max()
    raise UserError(f"{key}: {name} {wrong} is out of range; classes count from 0")


def _masks(key: str, name: str, array: np.ndarray, given: Mapping) -> _Checked:
  """Checks masks, a class per pixel."""
  array = array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array
  if array.ndim != 3 or array.dtype.kind not in "iub":
    raise UserError(
      f"{key}: {name} must be integers [n, height, width], the class of each pixel, not "
      f"{array.dtype} {list(array.shape)}"
    )
  if str(array.dtype) not in fields.DTYPES["mask"]:
    _check_range(key, name, array, 2**16)
    array = array.astype(np.uint8 if array.max(initial=0) < 2**8 else np.uint16)
  return _Checked("mask", {name: array})


def _boxes(key: str, name: str, array: np.ndarray, given: Mapping) -> _Checked:
  """Checks boxes, with the label of each and which of them exist."""
  if array.ndim != 3 or array.shape[2] != 4 or array.dtype.kind not in "fiu":
    raise UserError(
      f"{key}: {name} must be [n, m, 4], ymin, xmin, ymax, xmax in [0, 1], not {list(array.shape)}"
    )
  beside = {}
  for part, default in (
    (fields.label_of, np.zeros(array.shape[:2], np.int32)),
    (fields.valid_of, (array[..., 2:] > array[..., :2]).all(-1)),
  ):
    beside[part(name)] = np.asarray(given.get(part(name), default))
    if beside[part(name)].shape != array.shape[:2]:
      raise UserError(
        f"{key}: {part(name)} of shape {list(beside[part(name)].shape)} is not [n, m] of {name}"
      )
  labels, valid = beside.values()
  _check_range(key, fields.label_of(name), labels, 2**31)
  existing = array[valid.astype(bool)]
  if not ((existing >= 0) & (existing <= 1)).all() or not (existing[:, 2:] > existing[:, :2]).all():
    raise UserError(
      f"{key}: {name} must be ymin, xmin, ymax, xmax from 0 to 1, shares of the height and width, "
      "the larger ones last; divide pixels by the size of the image"
    )
  arrays = (array.astype(np.float32), labels.astype(np.int32), valid.astype(bool))
  return _Checked("boxes", dict(zip((name, *beside), arrays, strict=True)))


def _values(key: str, name: str, array: np.ndarray, given: Mapping) -> _Checked:
  """Checks the numbers that a regression learns."""
  if array.ndim not in (1, 2) or array.dtype.kind not in "fiub":
    raise UserError(
      f"{key}: {name} must be numbers [n] or [n, k], not {array.dtype} {list(array.shape)}"
    )
  if not np.isfinite(array).all():
    raise UserError(f"{key}: {name} has values that are infinite or NaN")
  return _Checked("value", {name: array.astype(np.float32)})


_CHECKS = {
  "label": _labels,
  "multi_label": _labels,
  "mask": _masks,
  "boxes": _boxes,
  "value": _values,
}


def in_range(split: Split, limits: tuple[float, float] | None) -> Split:
  """Maps the `limits` of a split in memory to the black and white of its type.

  float32 values beyond the limits stay beyond 0 and 1.

  Raises:
    UserError: float32 images beyond 0 and 1 without limits, or uint8 images with limits.
  """
  if not isinstance(split.records, Arrays):
    return split
  images = split.records.images
  if limits is None:
    if images.dtype == np.float32 and (images.min() < 0 or images.max() > 1):
      raise UserError(
        f"the images are float32 from {images.min():.4g} to {images.max():.4g}; set data.range to "
        "the values that are black and white, such as (0, 4095)"
      )
    return split
  low, high = limits
  if images.dtype == np.uint8:
    raise UserError("data.range has no effect on images of 8 bits: leave it at None")
  scaled = (images - np.float32(low)) / np.float32(high - low)
  if images.dtype == np.uint16:
    scaled = np.rint(np.clip(scaled, 0, 1) * np.float32(65535)).astype(np.uint16)
  records = Arrays({**split.records.arrays, "image": scaled}, source=split)
  return dataclasses.replace(split, records=records)


def _conversion(images: np.ndarray) -> str:
  """Returns in words how to convert other numbers to uint8."""
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
  of_bits = 2 ** int(high).bit_length() - 1  # the same for train and test
  return f"; they go up to {high:g}: give (images / {of_bits} * 255).round().astype('uint8')"


def _transposition(shape: tuple[int, ...], examples: int) -> tuple[int, ...] | None:
  """Returns the order of axes that turns an array into images; None if it is right already.

  It takes no image to be at most 4 pixels high with more than 4 channels, or to have as many
  channels as it is wide and more than it is high.
  """
  n, first, middle, last = shape
  if last == examples != n:  # the examples come last, as in the .mat files of SVHN
    return 3, 0, 1, 2
  return (0, 2, 3, 1) if first <= 4 < last or first < middle == last > 4 else None
