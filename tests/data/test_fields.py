"""The kinds of fields, what they are as arrays, and what a task needs of them."""

import numpy as np
import pytest

from cnnjax.data import fields
from cnnjax.errors import UserError

CLASSES = ("cat", "dog", "owl")
ALL = {
  "image": fields.image(None, 8, 4, "uint16"),
  "label": fields.label(CLASSES),
  "tags": fields.multi_label(CLASSES),
  "mask": fields.mask(None, 8, CLASSES, "uint16"),
  "boxes": fields.boxes(5, CLASSES),
  "value": fields.value(),
  "pose": fields.value(3),
}


def test_the_arrays_of_a_batch():
  assert fields.arrays(ALL) == {
    "image": ((None, 8, 4), "uint16"),
    "label": ((), "int32"),
    "tags": ((3,), "uint8"),
    "mask": ((None, 8), "uint16"),
    "boxes": ((5, 4), "float32"),
    "boxes_label": ((5,), "int32"),
    "boxes_valid": ((5,), "bool"),
    "value": ((), "float32"),
    "pose": ((3,), "float32"),
  }
  assert [*fields.kinds(ALL).values()] == [
    "image", "label", "multi_label", "mask", "boxes", "value", "value",
  ]  # fmt: skip
  assert [*fields.of_kind(ALL, "value", "mask")] == ["mask", "value", "pose"]


def test_what_does_not_count_is_the_largest_value():
  assert ALL["mask"].ignore == 65535 and fields.mask(2, 2, CLASSES).ignore == 255
  assert np.uint16(ALL["mask"].ignore) == np.iinfo(np.uint16).max


def test_another_size():
  assert ALL["image"].with_size(3, 4).shape == (3, 4, 4)
  assert ALL["mask"].with_size(3, 4).shape == (3, 4)
  assert ALL["boxes"].with_size(3, 4) == ALL["boxes"]


@pytest.mark.parametrize(
  "kind, shape, dtype, words",
  [
    ("picture", (2, 2, 3), "uint8", "is one of image, label"),
    ("image", (2, 2, 3), "int64", "is uint8 or uint16 or float32, not int64"),
    ("image", (2, 2), "uint8", r"another shape than \[2, 2\]"),
    ("value", (2, 2), "float32", r"another shape than \[2, 2\]"),
  ],
)
def test_a_field_that_is_none_of_its_kind(kind, shape, dtype, words):
  with pytest.raises(UserError, match=words):
    fields.Field(kind, shape, dtype)


def test_a_task_whose_data_lack_a_kind():
  fields.check(("image", ("label", "multi_label"), "boxes"), ALL)
  few = {name: ALL[name] for name in ("image", "value")}
  with pytest.raises(UserError) as e:
    fields.check(("image", "mask"), few, "task.name=segmentation")
  assert str(e.value) == (
    "task.name=segmentation needs a field of the kind mask, and these data have image (image), "
    "value (value): set data.masks to where the mask of an image lies, or give a list with a "
    "column mask"
  )
  with pytest.raises(UserError, match=r"of the kind label or multi_label, .* for each class"):
    fields.check([("label", "multi_label")], few)
