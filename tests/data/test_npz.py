"""The source npz: names of arrays, splits, and files that are wrong."""

import numpy as np
import pytest

from cnnjax import build, data
from cnnjax.config import default
from cnnjax.data import npz
from cnnjax.errors import UserError

rng = np.random.default_rng(0)
IMAGES, MORE = (
  rng.integers(0, 256, (24, 6, 5, 3), np.uint8),
  rng.integers(0, 256, (9, 6, 5, 3), np.uint8),
)
LABELS, OTHER = np.arange(24) % 3, np.arange(9) % 3


def settings(path, **values):
  config = default()
  config.data.update(source="npz", npz=str(path), **values)
  return config


def loaded(path, **values):
  config = settings(path, **values)
  build.validate(config)
  return data.load(config.data)


def saved(place, arrays, folder):
  """The path of a file of these arrays, or of a `folder` of one file each."""
  if not folder:
    np.savez_compressed(place / "a.npz", **arrays)
    return place / "a.npz"
  for name, array in arrays.items():
    np.save(place / f"{name}.npy", array)
  return place


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize(
  "names",
  [
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("images", "labels", "test_images", "test_labels"),
  ],
)
def test_the_arrays_are_those_of_the_file(tmp_path, names, folder):
  arrays = dict(zip(names, (IMAGES, LABELS[:, None], MORE, OTHER), strict=True))
  splits = loaded(saved(tmp_path, arrays, folder))
  np.testing.assert_array_equal(splits["train"].images, IMAGES)
  np.testing.assert_array_equal(splits["train"].labels, LABELS)
  np.testing.assert_array_equal(splits["test"].images, MORE)
  assert splits["test"].classes == ("0", "1", "2") and splits["validation"] is None


def test_val_classes_shares_and_a_file_that_changes(tmp_path):
  file = tmp_path / "a.npz"
  np.savez(
    file, images=IMAGES, labels=LABELS, val_images=MORE, val_labels=OTHER, classes=["a", "b", "c"]
  )
  splits = loaded(file, validation="validation", test=0.25)
  np.testing.assert_array_equal(splits["validation"].labels, OTHER)
  assert splits["train"].classes == ("a", "b", "c")
  assert len(splits["train"]) + len(splits["test"]) == 24 > len(splits["train"]) > 12
  np.savez(file, images=IMAGES[::-1], labels=LABELS)
  again = npz.load(settings(file).data, "train").images
  np.testing.assert_array_equal(again, IMAGES[::-1])


def test_a_run_on_it(tmp_path, tiny):
  np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS, test_images=MORE, test_labels=OTHER)
  own = {"data.source": "npz", "data.npz": str(tmp_path / "a.npz"), "batch_size": 8, "epochs": 1}
  config = tiny(**own)
  build.validate(config)
  assert "a.npz, 6x5x3, 3 classes: 24 train, 9 test" in build.build(config).summary["data"]


BOXES = np.tile(np.float32([[0.1, 0.2, 0.5, 0.6], [0, 0, 0, 0]]), (24, 1, 1))
FIELDS = {
  "mask": rng.integers(0, 3, (24, 6, 5), np.uint8),
  "boxes": BOXES,
  "boxes_label": np.tile([2, 0], (24, 1)),
  "boxes_valid": np.tile([True, False], (24, 1)),
  "value": rng.normal(size=(24, 2)),
  "multi_label": rng.integers(0, 2, (24, 3)),
}


def named(form, images, given):
  """The arrays of a split by the names of `form`, such as train_ or nothing."""
  return {f"{form}{name}": array for name, array in {images: IMAGES, **given}.items()}


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("form, images", [("train_", "images"), ("", "images"), ("", "image")])
@pytest.mark.parametrize(
  "kinds",
  [(), ("mask",), ("boxes",), ("boxes", "boxes_label", "boxes_valid"), ("value",), tuple(FIELDS)],
)
def test_fields_of_every_kind_are_those_of_arrays(tmp_path, folder, form, images, kinds):
  """And no label has to be there."""
  given = {name: FIELDS[name] for name in kinds}
  wanted = data.from_arrays({"image": IMAGES, **given}, test={"image": IMAGES, **given})
  arrays = named(form, images, given) | named("test_", "image", given) | {"ids": np.arange(24)}
  splits = loaded(saved(tmp_path, arrays, folder))
  for split, of_arrays in wanted.items():
    assert splits[split].fields == of_arrays.fields and splits[split].classes == of_arrays.classes
    assert splits[split].arrays.keys() == of_arrays.arrays.keys()
    for name, array in of_arrays.arrays.items():
      np.testing.assert_array_equal(splits[split].arrays[name], array)


def test_images_of_x_train_have_fields_too_and_classes_may_be_bytes(tmp_path):
  arrays = {"x_train": IMAGES, "y_train": LABELS, "train_value": LABELS, "train_images": MORE}
  np.savez(tmp_path / "a.npz", **arrays, classes=np.array([b"a", b"b", b"c"]))
  train = loaded(tmp_path / "a.npz", test=3)["train"]
  assert train.fields.keys() == {"image", "label", "value"} and train.classes == ("a", "b", "c")
  assert len(train) == 21  # of the images that have labels
  np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS, boxes_label=FIELDS["boxes_label"])
  assert loaded(tmp_path / "a.npz", test=3)["train"].fields.keys() == {"image", "label"}


def test_a_run_on_values_without_labels(tmp_path, tiny):
  np.savez(tmp_path / "a.npz", images=IMAGES, value=LABELS / 2)
  own = {"data.source": "npz", "data.npz": str(tmp_path / "a.npz"), "data.test": 4, "batch_size": 4}
  config = tiny(**own, **{"task.name": "regression", "monitor": "validation/rmse", "epochs": 1})
  build.validate(config)
  assert "a.npz, 6x5x3, with value: 20 train, 4 test" in build.build(config).summary["data"]


@pytest.mark.parametrize(
  "arrays, values, words",
  [
    (None, {}, "there is no such file or folder"),
    (b"no zip", {}, "is not a .npz file.*numpy.savez"),
    (
      {"pixels": IMAGES},
      {},
      "no training images: name the array train_images, .*images or image; it has pixels",
    ),
    (
      {"images": IMAGES, "labels": LABELS},
      {},
      "no test split: add test_images and test_labels, or",
    ),
    ({"images": IMAGES, "labels": LABELS}, {"train": "all"}, "data.train of npz must be 'train'"),
    (
      {"images": IMAGES / 255, "labels": LABELS},
      {"test": 3},
      r"images must be uint8.*\(images \* 255\)",
    ),
    ({"images": IMAGES, "labels": LABELS[:5]}, {"test": 3}, "a.npz'.*24 images and labels of"),
    (
      {"images": IMAGES, "labels": np.array([{}] * 24)},
      {"test": 3},
      "array 'labels' cannot be read: Object arrays",
    ),
    (
      {"images": IMAGES, "mask": FIELDS["mask"][:, :5]},
      {"test": 3},
      r"a.npz'.*train: mask of shape .* is not .* \(its arrays: images, mask\)$",
    ),
    (
      {"x_train": IMAGES, "train_boxes": 9 * BOXES},
      {"test": 3},
      r"a.npz'.*boxes must be ymin, .*size of the image \(its arrays: x_train, train_boxes\)$",
    ),
    (
      {"train_images": IMAGES, "train_value": np.full(24, np.nan)},
      {"test": 3},
      r"train: value has values that are infinite or NaN \(its arrays: .*train_value\)$",
    ),
    (
      {**named("", "images", FIELDS), "test_images": MORE, "test_mask": MORE[..., 0]},
      {},
      "no test split: add test_boxes and test_boxes_label and .*test_multi_label, or hold out",
    ),
    (
      named("", "images", {"boxes": BOXES, "boxes_label": FIELDS["boxes_label"]})
      | named("test_", "images", {"boxes": BOXES}),
      {},
      "no test split: add test_boxes_label, or hold out",
    ),
    (
      {"images": IMAGES, "mask": FIELDS["mask"], "classes": "a"},
      {"test": 3},
      "classes must be one name",
    ),
  ],
)
def test_a_file_that_is_wrong(tmp_path, arrays, values, words):
  file = tmp_path / "a.npz"
  if isinstance(arrays, bytes):
    file.write_bytes(arrays)
  elif arrays:
    np.savez(file, **arrays)
  with pytest.raises(UserError, match=words):
    loaded(file, **values)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_and_no_file(tmp_path, save):
  file = tmp_path / "a.npz"
  save(file, images=IMAGES, labels=LABELS)
  whole = file.read_bytes()
  file.write_bytes(whole[:100] + bytes(500) + whole[600:])
  with pytest.raises(UserError, match="cannot be read"):
    loaded(file, test=3)
  config = default()
  config.data.source = "npz"
  with pytest.raises(UserError, match=r"data\.source=npz needs a file: data\.npz=FILE\.npz"):
    build.validate(config)
  config.data.update(source="digits", npz="a.npz")
  with pytest.raises(UserError, match=r"'data.npz' is 'a.npz' .* set data.source=npz, or leave"):
    build.validate(config)
