"""Every kind of field through both pipelines, beside plain NumPy."""

import jax
import numpy as np
import pytest
from fakes import Records, photos, png

from cnnjax import data
from cnnjax.config import default, override
from cnnjax.data import fields
from cnnjax.errors import UserError
from cnnjax.runtime import sharding

N, BATCH, SEED, TOTAL, CLASSES = 29, 8, 3, 9, ("sky", "road", "tree", "car")
KINDS = {
  "resident": {"pipeline": "resident"},
  "in parts": {"pipeline": "resident", "shard_resident": True},
  "streaming": {"pipeline": "streaming", "threads": 2},
  "by workers": {"pipeline": "streaming", "threads": 1, "workers": 1},
}
RANDOM = {"image_size": 7, "crop": "random_resized", "crop_scale": (0.1, 0.6)}
each_kind = pytest.mark.parametrize("kind", KINDS)
both = pytest.mark.parametrize("kind", ["resident", "streaming"])


def settings(kind, **overrides):
  config = default()
  for key, value in {"source": "arrays", **KINDS[kind], **overrides}.items():
    override(config, f"data.{key}", value)
  return config.data


def opened(kind, given, devices=1, *, name="train", **overrides):
  c = settings(kind, **overrides)
  skipped = data.Skipped(c.max_unreadable)
  split = data.load(c, (name,), skipped, given)[name]
  order = data.Order.of(split, c, BATCH, SEED).for_run(TOTAL) if name == "train" else None
  return data.pipeline(split, c, sharding.make_mesh(devices), skipped, order)


def batches(pipeline, steps):
  take = jax.jit(pipeline.take)
  found = [jax.device_get(take(pipeline.feed(step), step)) for step in steps]
  pipeline.close()
  return found


def order(steps):
  """What stands in the batches of some steps, by NumPy alone."""
  per_epoch = N // BATCH
  rows = lambda epoch: np.random.default_rng((SEED, epoch)).permutation(N)[: per_epoch * BATCH]
  return [rows(step // per_epoch).reshape(-1, BATCH)[step % per_epoch] for step in steps]


def arrays(dtype="uint8", bands=3, size=(6, 9), n=N):
  """An example of every kind in memory, no two alike."""
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (n, *size, bands))
  image = {"uint8": image, "uint16": image * 257, "float32": image / 255}[dtype].astype(dtype)
  corners = np.sort(rng.uniform(0, 1, (n, 5, 2, 2)), axis=2).astype(np.float32)
  mask = rng.integers(0, 4, (n, *size), np.uint8)
  mask[rng.random(mask.shape) < 0.1] = 255
  return {
    "image": image,
    "label": rng.integers(0, 4, n),
    "mask": mask,
    "boxes": corners.reshape(n, 5, 4),
    "boxes_label": rng.integers(0, 4, (n, 5), np.int32),
    "boxes_valid": rng.random((n, 5)) < 0.7,
    "value": rng.normal(size=n).astype(np.float32),
    "pose": rng.normal(size=(n, 3)),
  }


def split_of(given):
  return data.from_arrays(given, classes=CLASSES, kinds={"pose": "value"})


TYPES = {
  "label": "int32", "mask": "uint8", "boxes": "float32", "boxes_label": "int32",
  "boxes_valid": "bool", "value": "float32", "pose": "float32",
}  # fmt: skip


@each_kind
@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_every_kind_comes_as_it_was_given(kind, devices):
  """At any step, from anywhere in the run, in its own type."""
  given = arrays()
  steps = [5, 0, 8] if kind == "by workers" else [0, 1, 2, 5, 3, 8, 1]
  found = batches(opened(kind, split_of(given), devices), steps)
  for batch, rows in zip(found, order(steps), strict=True):
    assert batch.keys() == given.keys()
    for name, array in batch.items():
      assert array.dtype == TYPES.get(name, "uint8"), name
      np.testing.assert_array_equal(array, given[name][rows].astype(array.dtype), err_msg=name)


@both
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 13])
def test_images_of_any_type_and_number_of_bands(kind, dtype, bands):
  given = arrays(dtype, bands)
  for name in ("train", "test"):
    splits = data.from_arrays(given, given, classes=CLASSES, kinds={"pose": "value"})
    pipeline = opened(kind, splits, name=name)
    if name == "train":
      (batch,), (rows,) = batches(pipeline, [4]), order([4])
      np.testing.assert_array_equal(batch["image"], given["image"][rows])
      assert batch["image"].dtype == dtype
      continue
    rows = [(jax.device_get(batch), np.asarray(there)) for batch, there in pipeline.once(BATCH)]
    for key in given:
      once = np.concatenate([batch[key][there] for batch, there in rows])
      np.testing.assert_array_equal(once, given[key].astype(once.dtype), err_msg=key)


@both
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_shapes_of_a_step_are_those_that_come(kind, dtype):
  pipeline = opened(kind, split_of(arrays(dtype)), image_size=5)
  take = lambda feed: pipeline.take(feed, 2)
  said = jax.eval_shape(take, pipeline.shapes(2))
  (batch,) = batches(pipeline, [2])
  assert {k: (x.shape, x.dtype) for k, x in said.items()} == {
    k: (x.shape, x.dtype) for k, x in batch.items()
  }


def coded(n=N):
  """Files of different sizes whose mask, and whose boxes, can be seen in the image itself.

  The first channel has 20 times the class of the pixel; the box is where the second one is 255.
  """
  images, masks, boxes = [], [], []
  rng = np.random.default_rng(1)
  for photo in photos(n, seed=2):
    height, width, _ = photo.shape
    mask = rng.integers(0, 4, (height, width)).astype(np.uint8)
    top, left = rng.integers(0, height - 3), rng.integers(0, width - 3)
    bottom, right = rng.integers(top + 2, height + 1), rng.integers(left + 2, width + 1)
    photo[..., 0], photo[..., 1] = mask * 20, 0
    photo[top:bottom, left:right, 1] = 255
    images.append(photo)
    masks.append(mask)
    sizes = np.array([height, width, height, width])
    boxes.append((np.array([[top, left, bottom, right]]) / sizes).astype(np.float32))
  return images, masks, boxes


class Dicts(Records):
  """Records of images with a mask and boxes, as dicts."""

  def __init__(self, images, masks, boxes):
    super().__init__(images, np.arange(len(images)))
    self.masks, self.boxes = masks, boxes

  def __getitem__(self, i):
    image, _ = super().__getitem__(i)
    boxes, kind = self.boxes[i], np.full(len(self.boxes[i]), 2)
    return {"image": image, "mask": self.masks[i], "boxes": boxes, "boxes_label": kind}


def split_of_files(n=N):
  images, masks, boxes = coded(n)
  as_files = [png(mask[..., None]) for mask in masks]
  declared = {
    "image": fields.image(None, None, 3),
    "mask": fields.mask(None, None, CLASSES),
    "boxes": fields.boxes(3, CLASSES),
  }
  records = Dicts([png(image) for image in images], as_files, boxes)
  return data.Split.of_fields(records, declared)


@pytest.mark.parametrize(
  "kind, name, overrides",
  [
    ("streaming", "train", {"interpolation": "nearest", **RANDOM}),
    ("by workers", "train", {"interpolation": "nearest", **RANDOM}),
    ("streaming", "train", {"image_size": 7}),
    ("resident", "train", {"image_size": 7}),
    ("streaming", "test", {"image_size": 7, "eval_crop": 0.8}),
    ("resident", "test", {"image_size": 7, "eval_crop": 0.8}),
    ("resident", "test", {"image_size": 7, "eval_size": 11}),
    ("streaming", "test", {"image_size": 7, "eval_size": 23}),
  ],
)
def test_mask_and_boxes_follow_the_image(kind, name, overrides):
  """The mask is in the picture: a nearest crop of the image has it, whatever the crop was."""
  pipeline = opened(kind, {name: split_of_files()}, name=name, interpolation="nearest",
                    **{k: v for k, v in overrides.items() if k != "interpolation"})  # fmt: skip
  if name == "train":
    found = [(batch, np.ones(BATCH, bool)) for batch in batches(pipeline, range(4))]
  else:
    found = [jax.device_get(pair) for pair in pipeline.once(BATCH)]
  size, seen, dropped = overrides.get("eval_size", 7), 0, 0
  for batch, there in found:
    for row in np.flatnonzero(there):
      image, mask = batch["image"][row], batch["mask"][row]
      assert mask.shape == (size, size) and mask.dtype == np.uint8
      np.testing.assert_array_equal(mask * 20, image[..., 0])
      inside = image[..., 1] == 255
      valid = batch["boxes_valid"][row]
      assert not valid[1:].any() and not batch["boxes"][row, 1:].any()
      if not valid[0]:
        assert not batch["boxes"][row, 0].any()
        dropped += 1
        continue
      seen += 1
      # The pixels whose centre is in the box are those that show it.
      low, high = batch["boxes"][row, 0, :2] * size, batch["boxes"][row, 0, 2:] * size
      centres = np.arange(size) + 0.5
      rows, columns = ((low[i] < centres) & (centres < high[i]) for i in (0, 1))
      # But for a centre that lies on the border.
      clear = [
        (np.abs(centres - low[i]) > 1e-4) & (np.abs(centres - high[i]) > 1e-4) for i in (0, 1)
      ]
      seen_in = lambda x, clear=clear: x[np.ix_(*clear)]
      np.testing.assert_array_equal(seen_in(inside), seen_in(rows[:, None] & columns))
      assert batch["boxes_label"][row, 0] == 2
  assert seen > 15 and (dropped > 0 or "crop" not in overrides)


@pytest.mark.parametrize(
  "box, crop, left",
  [
    ((0, 0, 1, 1), (0, 0, 5, 5), (0, 0, 1, 1)),  # 10x10 pixels, of which the crop shows a quarter
    ((0, 0, 0.5, 0.5), (4, 4, 5, 5), None),  # 1 of 25 pixels is left
    ((0, 0, 0.5, 0.5), (3, 3, 5, 5), (0, 0, 0.4, 0.4)),  # 4 of 25
    ((0.6, 0.6, 0.7, 0.7), (0, 0, 5, 5), None),
    ((0.2, 0.3, 0.4, 0.5), (1, 1, 4, 8), (0.25, 0.25, 0.75, 0.5)),
  ],
)
def test_a_box_of_which_too_little_is_left_is_dropped(box, crop, left):
  window = data.crops.Window(*crop, (10, 10))
  boxes, valid = window.boxes(np.array([box, box], np.float32), np.array([True, False]))
  assert valid.tolist() == [left is not None, False]
  np.testing.assert_allclose(boxes, [left or (0,) * 4, (0,) * 4], atol=1e-6)


def test_images_grow_with_their_masks():
  """`data.progressive` of a resident set scales on the device."""
  given = arrays(size=(8, 8))
  pipeline = opened("resident", split_of(given), image_size=8, progressive=(4,))
  early, late = batches(pipeline, [0, 8])
  first, last = order([0, 8])
  assert early["image"].shape == (BATCH, 4, 4, 3) and early["mask"].dtype == np.uint8
  np.testing.assert_array_equal(early["mask"], given["mask"][first][:, 1::2, 1::2])
  np.testing.assert_array_equal(early["boxes"], given["boxes"][first])
  np.testing.assert_array_equal(late["mask"], given["mask"][last])


# What does not fit


@both
def test_a_mask_of_another_size_is_skipped_and_named(kind):
  split = split_of_files()
  split.records.masks[4] = png(np.zeros((3, 5, 1), np.uint8))
  c = settings(kind, image_size=7)
  skipped = data.Skipped(1)
  test = data.load(c, ("test",), skipped, {"test": split})["test"]
  pipeline = data.pipeline(test, c, sharding.make_mesh(1), skipped)
  assert sum(int(there.sum()) for _, there in pipeline.once(BATCH)) == N - 1
  (reason,) = skipped.values()
  assert reason.startswith("its mask has 3x5 pixels, and the image ")


@both
@pytest.mark.parametrize(
  "change, words",
  [
    (lambda r: r.masks.__setitem__(4, png(np.full((*r.images[4], 1), 9, np.uint8))),
     r"a mask has the class 9, and there are 4 classes, from 0: name them all in data.classes"),
    (lambda r: r.boxes.__setitem__(4, np.zeros((7, 4), np.float32)),
     "an image has 7 boxes, and the field 'boxes' has room for 3: let its"),
  ],
)  # fmt: skip
def test_values_that_no_batch_has_end_the_run(kind, change, words):
  split = split_of_files()
  shapes = [image.shape[:2] for image in coded()[0]]
  records = split.records
  files, records.images = records.images, shapes
  change(records)
  records.images = files
  with pytest.raises(UserError, match=words):
    list(opened(kind, {"test": split}, name="test", image_size=7).once(BATCH))


# Data without labels


@both
def test_data_without_labels_need_none(kind):
  given = {"image": arrays()["image"]}
  splits = data.from_arrays(given)
  (batch,), (rows,) = batches(opened(kind, splits), [4]), order([4])
  assert [*batch] == ["image"]
  np.testing.assert_array_equal(batch["image"], given["image"][rows])
  c = settings(kind, test=0.3)
  held = data.load(c, given=splits)
  assert len(held["train"]) + len(held["test"]) == N and 2 < len(held["test"]) < 15
  labelled = data.from_arrays((given["image"], np.arange(N) % 2))
  same = data.load(c, given=labelled)["test"]
  np.testing.assert_array_equal(held["test"].ids("content"), same.ids("content"))


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"sampling": "class_balanced"}, "data.sampling=class_balanced goes by the class of each"),
    ({"long_tail": 10.0}, "data.long_tail=10 goes by the class of each image, and"),
  ],
)  # fmt: skip
def test_what_goes_by_labels_is_refused_without(overrides, words):
  splits = data.from_arrays({"image": arrays()["image"]})
  with pytest.raises(UserError, match=words):
    opened("resident", splits, **overrides)


@both
def test_a_file_without_a_label_that_cannot_be_read_is_replaced_by_the_next(kind):
  files = [png(photo) for photo in photos(N)]
  files[3] = files[3][:40]
  records = Records(files, np.zeros(N))
  split = data.Split.of_fields(records, {"image": fields.image(None, None, 3)})
  found = batches(opened(kind, {"train": split}, image_size=6), range(3))
  rows = np.concatenate(order(range(3)))
  stands = np.where(rows == 3, 4, rows)
  expected = [data.images.center_crop(photo, 6) for photo in photos(N)]
  shown = np.concatenate([batch["image"] for batch in found])
  np.testing.assert_array_equal(shown, np.stack(expected)[stands])


def test_what_a_task_needs_is_compared_with_what_the_data_have():
  given = split_of(arrays())
  split = data.load(settings("resident"), ("train",), given=given, needs=("image", "mask"))["train"]
  assert [*split.fields] == ["image", "label", "mask"]
  with pytest.raises(UserError, match=r"^task.name=x needs a field of the kind mask, and these"):
    few = data.from_arrays({"image": arrays()["image"]})
    data.load(settings("resident"), ("train",), given=few, needs=("mask",), who="task.name=x")
