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
  if folder:
    for name, array in arrays.items():
      np.save(tmp_path / f"{name}.npy", array)
  else:
    np.savez_compressed(tmp_path / "a.npz", **arrays)
  splits = loaded(tmp_path if folder else tmp_path / "a.npz")
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


@pytest.mark.parametrize(
  "arrays, values, words",
  [
    (None, {}, "there is no such file or folder"),
    (b"no zip", {}, "is not a .npz file.*numpy.savez"),
    (
      {"pixels": IMAGES},
      {},
      "no training images: name the arrays .*images and labels; it has pixels",
    ),
    (
      {"images": IMAGES, "labels": LABELS},
      {},
      "no test split: add test_images and test_labels, or",
    ),
    ({"images": IMAGES, "labels": LABELS}, {"train": "all"}, "data.train of npz is 'train'"),
    (
      {"images": IMAGES / 255, "labels": LABELS},
      {"test": 3},
      r"images are uint8.*\(images \* 255\)",
    ),
    ({"images": IMAGES, "labels": LABELS[:5]}, {"test": 3}, "a.npz'.*24 images and labels of"),
    (
      {"images": IMAGES, "labels": np.array([{}] * 24)},
      {"test": 3},
      "cannot be read: Object arrays",
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


def test_a_cut_file_and_no_file(tmp_path):
  file = tmp_path / "a.npz"
  np.savez(file, images=IMAGES, labels=LABELS)
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
