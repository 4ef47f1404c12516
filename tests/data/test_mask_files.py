"""Masks of black and white files: which class white is, what a run says of it, what is refused."""

import pathlib

import numpy as np
import pytest
from folders import config, put, some
from PIL import Image

from cnnjax import data
from cnnjax.data import fields, folder
from cnnjax.errors import UserError
from cnnjax.runtime import sharding

pytestmark = pytest.mark.usefixtures("here")

N = 6
# Whether a pixel is of the object, by image: all, none, or some.
SHAPES = np.random.default_rng(0).random((N, 4, 4)) < np.array([1, 0, 0.5, 0.5, 0.2, 0.8]).reshape(
  N, 1, 1
)


def written(values, dtype=np.uint8):
  """Images a/i.png and their masks m/i.png: `values[i]`."""
  put(*some("a", N))
  pathlib.Path("m").mkdir(exist_ok=True)
  for i, mask in enumerate(values):
    Image.fromarray(np.asarray(mask).astype(dtype)).save(f"m/{i}.png")


def settings(**overrides):
  return config("a", masks="../m/{name}.png", **{"test": 2, **overrides})


def masks_of(c):
  """The masks of all splits by the place of their image."""
  data.check(c)
  found = {}
  images = {np.asarray(Image.open(name)).tobytes(): i for i, name in enumerate(some("a", N))}
  for split in filter(None, data.load(c).values()):
    for batch, there in data.pipeline(split, c, sharding.make_mesh(1), data.Skipped(0)).once(2):
      for row in np.flatnonzero(there):
        image = np.asarray(batch["image"][row])
        found[images[image.tobytes()]] = np.asarray(batch["mask"][row])
  return np.stack([found[i] for i in range(N)])


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
@pytest.mark.parametrize("white, dtype", [(255, np.uint8), (65535, np.uint16)])
@pytest.mark.parametrize("classes", [None, 2, ("sky", "bird")])
def test_white_is_a_class_where_all_else_is_black(pipeline, white, dtype, classes):
  written(SHAPES * white, dtype)
  c = settings(pipeline=pipeline, classes=classes)
  np.testing.assert_array_equal(masks_of(c), SHAPES)
  split = folder.load(c, "train")
  assert split.fields["mask"] == fields.mask(None, None, classes if classes not in (None, 2)
                                                  else ("0", "1"))  # fmt: skip
  called = ", 'bird'" if isinstance(classes, tuple) else ""
  assert split.remarks["masks"] == (
    f"255 is class 1{called}, as the masks are 0 and 255 alone; set data.masks_white=ignore if 255 "
    "does not count"
  )


def test_white_does_not_count_where_there_are_two_classes_without_it():
  """Also where two classes are named, and a few masks lack the second."""
  values = SHAPES * np.uint8(1)
  values[:3] = np.where(values[:3], 255, 0)
  written(values)
  for classes in (None, 2):
    c = settings(classes=classes)
    np.testing.assert_array_equal(masks_of(c), values)
    assert "masks" not in folder.load(c, "train").remarks


def test_the_key_says_what_white_is():
  written(SHAPES * 255)
  c = settings(classes=2, masks_white="ignore")
  np.testing.assert_array_equal(masks_of(c), SHAPES * 255)
  values = np.where(SHAPES, 255, 0)
  values[0] = 1  # of a file of one bit
  written(values)
  c = settings(masks_white="class")
  np.testing.assert_array_equal(masks_of(c), SHAPES)
  assert "masks" not in folder.load(c, "train").remarks


@pytest.mark.parametrize(
  "values, overrides, words",
  [
    (SHAPES * 255, {"masks_white": "ignore"}, "the masks have 1 class besides 255, which does not "
     "count, and need two or more: .*; or set data.masks_white=class if 255 is class 1"),
    (SHAPES * 0, {}, "the masks have 1 class besides 255, which does not count, .*, from 0$"),
    (SHAPES * 0 + 255, {}, "the masks have 0 class besides 255"),
    (SHAPES * 2, {"masks_white": "class"}, "data.masks_white=class makes 255 the second class of "
     "two, and these masks have 3: leave it at None"),
    (SHAPES * 2, {"masks_white": "class", "classes": 2}, r"m/\d.png has the class 2, and 255 is "
     "class 1 of two in these masks: write 0 and 255, or set data.masks_white=ignore"),
  ],
)  # fmt: skip
def test_masks_of_too_few_or_too_many_classes(values, overrides, words):
  written(values)
  with pytest.raises(UserError, match=words):
    masks_of(settings(**overrides))


def test_the_key_without_masks():
  put(*some("a/x"), *some("a/y"))
  with pytest.raises(UserError, match=r"^data\.masks_white=class has no effect: a has no masks"):
    data.load(config("a", masks_white="class"))
