"""Damaged data sets of TFDS: the records, and the files that describe them."""

import functools
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import pytest
import tensorflow_datasets
from fuzzing import fuzz, one_clear_line
from hypothesis import strategies as st

from cnnjax import data
from cnnjax.config import default, override
from cnnjax.data import tfds
from cnnjax.errors import UserError

FEATURES = tensorflow_datasets.features
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8)
FILES = [
  "tiny-train.array_record-00000-of-00001", "tiny-test.array_record-00000-of-00001",
  "dataset_info.json", "features.json", "label.labels.txt",
]  # fmt: skip


class Tiny(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
  """As `tests/data/test_tfds.py` writes them; the images are PGM, which needs no encoder."""

  VERSION = tensorflow_datasets.core.Version("1.0.0")
  name = "tiny"

  def _info(self):
    image = FEATURES.Image(shape=(4, 4, 1), encoding_format="png")
    label = FEATURES.ClassLabel(names=("ant", "bee", "cow"))
    features = FEATURES.FeaturesDict({"image": image, "label": label})
    return tensorflow_datasets.core.DatasetInfo(builder=self, description="", features=features)

  def _split_generators(self, _):
    return {"train": self._generate_examples(0, 8), "test": self._generate_examples(8, 12)}

  def _generate_examples(self, start, stop):
    for i in range(start, stop):
      yield i, {"image": b"P5 4 4 255\n" + IMAGES[i].tobytes(), "label": i % 3}


@functools.cache
def prepared():
  """The folder of the data set, whole; it goes with the process."""
  place = tempfile.TemporaryDirectory()
  Tiny(data_dir=place.name, file_format="array_record").download_and_prepare()
  return place


def loaded(folder):
  config = default()
  for key, value in {"source": "tfds", "name": "tiny", "data_dir": str(folder)}.items():
    override(config, f"data.{key}", value)
  data.check(config.data)
  return data.load(config.data, ("train", "test"), data.Skipped(12))


def damaged(example):
  """It is refused by a line that names it, or its examples are what they were."""
  name, damage = example
  with tempfile.TemporaryDirectory() as place:
    shutil.copytree(pathlib.Path(prepared().name, "tiny"), pathlib.Path(place, "tiny"))
    file = pathlib.Path(place, "tiny", "1.0.0", name)
    if damage is None:
      file.unlink()
    else:
      start, taken, put = damage
      text = bytearray(file.read_bytes())
      # Where there is something: array_record fills its files up with zeros.
      places = np.flatnonzero(np.frombuffer(text, np.uint8))
      at = int(places[start % len(places)])
      text[at : at + taken] = put
      file.write_bytes(text)
    try:
      splits = loaded(place)
    except UserError as e:
      one_clear_line(e)
      assert "tiny" in str(e)
      return "refused"
  found = np.concatenate([splits[key].images for key in ("train", "test")])
  labels = np.concatenate([splits[key].labels for key in ("train", "test")])
  order = [int(np.flatnonzero((image == IMAGES).all((1, 2, 3)))[0]) for image in found]
  assert sorted(order) == list(range(12)), "other images, or not all of them"
  assert max(order[:8]) < 8, "the splits are mixed"
  np.testing.assert_array_equal(labels, np.array(order) % 3)
  assert len(splits["train"].classes) == 3
  return "read"


DAMAGE = st.tuples(
  st.integers(0, 10**6), st.sampled_from([0, 1, 1, 8, 10**6]), st.binary(max_size=3)
)
test_damaged_data_sets = fuzz(
  damaged,
  st.tuples(st.sampled_from(FILES), st.none() | DAMAGE | DAMAGE),
  few=12,
  many=100,
  ends=["refused", "read"],
  always=[("dataset_info.json", (2073, 1, b""))],
)


def test_a_data_set_brings_no_code(tmp_path, monkeypatch):
  shutil.copytree(pathlib.Path(prepared().name, "tiny"), tmp_path / "tiny")
  (tmp_path / "brought.py").write_text("raise SystemExit('it was run')")
  monkeypatch.syspath_prepend(tmp_path)
  file = tmp_path / "tiny" / "1.0.0" / "features.json"
  text = file.read_text()
  file.write_text(text.replace("tensorflow_datasets.core.features.image_feature.", "brought."))
  assert file.read_text() != text
  with pytest.raises(UserError, match=r"features.json names 'brought.Image'.*run code"):
    loaded(tmp_path)
  assert "brought" not in sys.modules


@pytest.mark.parametrize("name", ["huggingface:mnist", "kaggle:x/y", "somebody:mnist:1.0.0"])
def test_names_that_download_code_are_refused(name):
  with pytest.raises(UserError, match="would download and run code"):
    tfds._builder(name, None)
