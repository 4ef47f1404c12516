"""Defines the fields of a batch: each has a name and a kind, which decides its shape and type.

A batch is a dict {name: array [batch, ...]}. The kinds follow the features of TFDS:

    image        [height, width, bands] uint8, uint16 or float32
    label        [] int32: one class
    multi_label  [classes] uint8: 1 for each class that an image has
    mask         [height, width] uint8 or uint16: the class of each pixel; the largest value of the
                 type, 255 or 65535, stands in pixels that do not count
    boxes        [m, 4] float32: ymin, xmin, ymax, xmax in [0, 1] of the image; beside it
                 NAME_label [m] int32 and NAME_valid [m] bool, as an image has up to m boxes
    value        [] or [k] float32: the target of a regression

A field of the kind `targets`, float32 [classes], is made by a task from a label. Mixup and CutMix
mix it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import numpy as np

from cnnjax.errors import UserError, unknown

Kind = Literal["image", "label", "multi_label", "mask", "boxes", "value", "targets"]
Need = Kind | tuple[Kind, ...]  # one kind, or one of a tuple
KINDS: tuple[str, ...] = get_args(Kind)
DTYPES = {
  "image": ("uint8", "uint16", "float32"),
  "label": ("int32",),
  "multi_label": ("uint8",),
  "mask": ("uint8", "uint16"),
  "boxes": ("float32",),
  "value": ("float32",),
  "targets": ("float32",),
}
WITH_CLASSES = ("label", "multi_label", "mask", "boxes")
WHITE = {"uint8": 255, "uint16": 65535, "float32": 1.0}  # of images; black is 0
LEAST_LEFT = 0.1  # of the area of a box; one that has less left of it in the image is dropped
_DIMENSIONS = {
  "image": (3,), "label": (0,), "multi_label": (1,), "mask": (2,), "boxes": (2,), "value": (0, 1),
  "targets": (1,),
}  # fmt: skip
# The mend for a kind that the data lack.
_GIVEN_BY = {
  "label": "put the images into a folder for each class, or give a list with a column label",
  "multi_label": "give a list whose column label may have several, with ';' between them",
  "mask": "set data.masks to where the mask of an image lies, or give a list with a column mask",
  "boxes": "give a list with a column boxes",
  "value": "give a list with a column value",
}


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of one example.

  Args:
    kind: one of KINDS.
    shape: as the kind says; height and width are None where images differ in size, and the number
      of boxes until they are counted.
    dtype: one of DTYPES of the kind.
    classes: the names of the classes, where the kind has classes.

  Raises:
    UserError: the kind is unknown, or takes no such shape or type.
  """

  kind: Kind
  shape: tuple[int | None, ...]
  dtype: str
  classes: tuple[str, ...] | None = None

  def __post_init__(self):
    if self.kind not in KINDS:
      raise UserError(f"a field is one of {', '.join(KINDS)}, not {self.kind!r}")
    if self.dtype not in DTYPES[self.kind]:
      raise UserError(f"a field {self.kind} is {' or '.join(DTYPES[self.kind])}, not {self.dtype}")
    if len(self.shape) not in _DIMENSIONS[self.kind]:
      raise UserError(f"a field {self.kind} has another shape than {list(self.shape)}")

  @property
  def ignore(self) -> int:
    """The value of pixels of a mask that do not count: 255 of uint8, 65535 of uint16."""
    return int(np.iinfo(self.dtype).max)

  def with_size(self, height: int | None, width: int | None) -> "Field":
    """Returns the field for images of another size; itself without height and width."""
    if self.kind not in ("image", "mask"):
      return self
    return dataclasses.replace(self, shape=(height, width, *self.shape[2:]))


Fields = Mapping[str, Field]


def image(height: int | None, width: int | None, bands: int, dtype: str = "uint8") -> Field:
  """Returns a field of images; height and width are None where they differ."""
  return Field("image", (height, width, bands), dtype)


def label(classes: Iterable[str]) -> Field:
  """Returns a field with one class for each example."""
  return Field("label", (), "int32", tuple(classes))


def multi_label(classes: Iterable[str]) -> Field:
  """Returns a field with any number of classes for each example."""
  classes = tuple(classes)
  return Field("multi_label", (len(classes),), "uint8", classes)


def mask(
  height: int | None, width: int | None, classes: Iterable[str], dtype: str = "uint8"
) -> Field:
  """Returns a field with a class for each pixel."""
  return Field("mask", (height, width), dtype, tuple(classes))


def boxes(most: int | None, classes: Iterable[str]) -> Field:
  """Returns a field with up to `most` boxes of classes; None: `data.load` counts them."""
  return Field("boxes", (most, 4), "float32", tuple(classes))


def value(number: int | None = None) -> Field:
  """Returns a field with one number for each example, or with `number` of them."""
  return Field("value", () if number is None else (number,), "float32")


def label_of(name: str) -> str:
  """Returns the name of the array with the class of each box of the field `name`."""
  return f"{name}_label"


def valid_of(name: str) -> str:
  """Returns the name of the array that marks the boxes of the field `name` that exist."""
  return f"{name}_valid"


def arrays(fields: Fields) -> dict[str, tuple[tuple[int | None, ...], str]]:
  """Returns (shape of one example, dtype) of each array of a batch by its name.

  A field is one array, `boxes` three.
  """
  declared = {}
  for name, field in fields.items():
    declared[name] = field.shape, field.dtype
    if field.kind == "boxes":
      declared[label_of(name)] = field.shape[:1], "int32"
      declared[valid_of(name)] = field.shape[:1], "bool"
  return declared


def to_json(fields: Fields) -> dict[str, dict]:
  """Returns fields as JSON."""
  return {name: dataclasses.asdict(field) for name, field in fields.items()}


def from_json(given: Mapping[str, Mapping]) -> dict[str, Field]:
  """Returns the fields that `to_json` gave."""
  as_tuple = lambda value: value if value is None else tuple(value)
  return {
    name: Field(field["kind"], tuple(field["shape"]), field["dtype"], as_tuple(field["classes"]))
    for name, field in given.items()
  }


def nbytes(fields: Fields) -> int:
  """Returns the bytes of the images and masks of an example; all else is small."""
  large = [field for field in fields.values() if field.kind in ("image", "mask")]
  return sum(math.prod(field.shape) * np.dtype(field.dtype).itemsize for field in large)


def kinds(fields: Fields) -> dict[str, Kind]:
  """Returns the kind of each field by its name."""
  return {name: field.kind for name, field in fields.items()}


def of_kind(fields: Fields, *wanted: Kind) -> dict[str, Field]:
  """Returns the fields of one of the kinds `wanted`, in their order."""
  return {name: field for name, field in fields.items() if field.kind in wanted}


def first(fields: Fields, *wanted: Kind) -> Field:
  """Returns the first field of one of the kinds `wanted`; the data must have one."""
  return next(iter(of_kind(fields, *wanted).values()))


def kinds_of(needs: Iterable[Need]) -> set[Kind]:
  """Returns all kinds that `needs` name."""
  return {kind for need in needs for kind in (need if isinstance(need, tuple) else (need,))}


def check_kinds(needs: Iterable[Need], who: str) -> None:
  """Raises UserError if `needs` are not kinds; `who` is as of `check`."""
  if isinstance(needs, str):
    raise UserError(f"{who} must say its NEEDS as a tuple of kinds: ({needs!r},), not {needs!r}")
  for kind in sorted(kinds_of(needs)):
    if kind not in KINDS:
      raise unknown(f"kind of field that {who} needs:", kind, KINDS)


def check(needs: Iterable[Need], fields: Fields, who: str = "the task") -> None:
  """Raises UserError if the data lack a kind that is needed.

  Args:
    needs: kinds; one of those in a tuple is enough.
    fields: of the data.
    who: the part that needs them, in words, such as "task.name=classification".
  """
  existing = {field.kind for field in fields.values()}
  for need in needs:
    choices = need if isinstance(need, tuple) else (need,)
    if existing.isdisjoint(choices):
      have = ", ".join(f"{name} ({field.kind})" for name, field in fields.items())
      given_by = "; ".join(_GIVEN_BY[kind] for kind in choices if kind in _GIVEN_BY)
      raise UserError(
        f"{who} needs a field of the kind {' or '.join(choices)}, and these data have {have}: "
        f"{given_by or 'choose other data'}"
      )
