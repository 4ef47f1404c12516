"""TFDS: small data sets, really written as array_record, without TensorFlow or the network."""

import io
import json
import pickle
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from cnnjax import data
from cnnjax.config import default
from cnnjax.data import identity, tfds
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.tools import data as command

FEATURES = tensorflow_datasets.features
CLASSES = ("ant", "bee", "cow")


def image_feature(shape, dtype=np.uint8):
  return FEATURES.Image(shape=shape, dtype=dtype, encoding_format="png")


def write(folder, name, splits, features, version="1.0.0"):
  """Prepares a data set of those examples; `image` is encoded here, as TFDS needs TensorFlow to."""

  class Small(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tensorflow_datasets.core.Version(version)

    def _info(self):
      return tensorflow_datasets.core.DatasetInfo(
        builder=self, description=name, features=FEATURES.FeaturesDict(features)
      )

    def _split_generators(self, _):
      return {split: self._generate_examples(examples) for split, examples in splits.items()}

    def _generate_examples(self, examples):
      for i, example in enumerate(examples):
        if "image" in example:
          pixels = example["image"]
          pixels = pixels[..., ::-1] if pixels.shape[-1] == 3 else pixels  # BGR
          example = {**example, "image": cv2.imencode(".png", pixels)[1].tobytes()}
        yield i, example

  Small.name = name
  Small(data_dir=folder, file_format="array_record").download_and_prepare()


def make_examples(n, shapes, seed, dtype=np.uint8, label=None, key="label"):
  rng = np.random.default_rng(seed)
  return [
    {
      "image": rng.integers(0, np.iinfo(dtype).max, shapes[i % len(shapes)], dtype=dtype),
      key: i % 3 if label is None else label,
    }
    for i in range(n)
  ]


def make_several(n, seed):
  """No label, one or two, by turns."""
  rows = ([], [0], [1, 2], [2, 2])
  return [
    {**example, "labels": rows[i % 4]}
    for i, example in enumerate(make_examples(n, RGB, seed, key="labels"))
  ]


RGB, GREY, VARIED = [(4, 4, 3)], [(4, 4, 1)], [(4, 6, 3), (6, 4, 3), (5, 5, 3)]
EXAMPLES = {
  "train": make_examples(20, RGB, 1),
  "test": make_examples(7, RGB, 2),
  "hidden": make_examples(4, RGB, 3, label=-1),
  "partly": make_examples(40, RGB, 9) + make_examples(20, RGB, 10, label=-1),
}
SEVERAL = {"train": make_several(12, 11), "test": make_several(5, 12)}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("tensorflow_datasets")
  label = FEATURES.ClassLabel(names=CLASSES)
  rgb = {"image": image_feature((4, 4, 3)), "label": label}
  write(path, "tiny", {"train": EXAMPLES["test"], "test": EXAMPLES["train"]}, rgb)
  write(path, "tiny", EXAMPLES, rgb, version="1.2.0")
  write(
    path,
    "grey",
    {"train": make_examples(5, GREY, 4), "test": make_examples(3, GREY, 5)},
    {"image": image_feature((4, 4, 1)), "label": label},
  )
  write(
    path,
    "varied",
    {"train": make_examples(6, VARIED, 6), "test": make_examples(3, VARIED, 7)},
    {"image": image_feature((None, None, 3)), "label": label},
  )
  write(
    path,
    "deep",
    {"train": make_examples(6, GREY, 8, np.uint16)},
    {"image": image_feature((4, 4, 1), np.uint16), "label": label},
  )
  several = FEATURES.Sequence(label)
  write(path, "several", SEVERAL, {"image": image_feature((4, 4, 3)), "labels": several})
  both = make_examples(6, RGB, 13)
  write(
    path,
    "both",
    {"train": [{**e, "labels": [1]} for e in both]},
    {"image": image_feature((4, 4, 3)), "labels": several, "label": label},
  )
  write(
    path,
    "alpha",
    {split: make_examples(3, [(4, 4, 4)], seed) for split, seed in (("train", 14), ("test", 15))},
    {"image": image_feature((4, 4, 4)), "label": label},
  )
  write(
    path, "prose", {"train": [{"text": "a", "label": 0}]}, {"text": FEATURES.Text(), "label": label}
  )
  return path


@pytest.fixture
def config(folder):
  def make(**overrides):
    c = default().data
    c.update({"source": "tfds", "name": "tiny", "data_dir": str(folder), **overrides})
    return c

  return make


def same(split, examples):
  np.testing.assert_array_equal(split.images, np.stack([e["image"] for e in examples]))
  np.testing.assert_array_equal(split.labels, [e["label"] for e in examples])
  assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
  assert split.classes == CLASSES


@pytest.fixture(scope="session")
def written(folder):
  """The examples as TFDS orders them on disk: it shuffles when it writes."""
  found = {}
  for split, examples in EXAMPLES.items():
    source = tensorflow_datasets.builder("tiny", data_dir=folder, try_gcs=False).as_data_source(
      split=split
    )
    by_bytes = {e["image"].tobytes(): e for e in examples}
    found[split] = [by_bytes[record["image"].tobytes()] for record in source]
    assert len({id(e) for e in found[split]}) == len(examples)
  return found


# Reading


@pytest.mark.smoke
def test_every_example_is_read_as_written(config, written):
  data.check(config())
  splits = data.load(config())
  same(splits["train"], written["train"])
  same(splits["test"], written["test"])


@pytest.mark.parametrize(
  "expression, start, stop",
  [
    ("train[:50%]", 0, 10),
    ("train[50%:]", 10, 20),
    ("train[3:11]", 3, 11),
    ("train[-4:]", 16, 20),
    ("train[95%:]", 19, 20),
  ],
)
def test_split_expressions(config, written, expression, start, stop):
  c = config(train=expression)
  data.check(c)
  same(data.load(c)["train"], written["train"][start:stop])


def test_splits_add_up(config, written):
  c = config(train="train[:5]+test[2:]", test="train[5:]", validation="test[:2]")
  data.check(c)
  splits = data.load(c)
  same(splits["train"], written["train"][:5] + written["test"][2:])
  same(splits["validation"], written["test"][:2])


def test_a_validation_split_is_carved(config):
  splits = data.load(config(validation=5))
  assert (len(splits["train"]), len(splits["validation"]), len(splits["test"])) == (15, 5, 7)


@pytest.mark.parametrize("name, size", [("tiny", 20), ("tiny:1.2.0", 20), ("tiny:1.0.0", 7)])
def test_versions(config, name, size):
  assert len(data.load(config(name=name), ("train",))["train"]) == size


def test_grey_images_keep_one_channel(config):
  splits = data.load(config(name="grey"))
  assert splits["train"].images.shape == (5, 4, 4, 1)
  assert data.load(config(name="grey", image_size=9))["test"].images.shape == (3, 9, 9, 1)


@pytest.mark.parametrize("name, size", [("tiny", 2), ("tiny", 8), ("varied", 4), ("varied", 5)])
def test_images_are_resized(config, name, size):
  split = data.load(config(name=name, image_size=size), ("train",))["train"]
  assert split.images.shape[1:] == (size, size, 3)
  assert len({image.tobytes() for image in split.images}) == len(split)


def test_images_that_differ_in_size_need_a_size(config):
  with pytest.raises(UserError, match=r"images of varied differ in size; set data.image_size"):
    data.check(config(name="varied"))


@pytest.mark.parametrize(
  "stored, channels, found", [("alpha", 3, 3), ("alpha", 1, 1), ("grey", 3, 3)]
)
def test_images_are_converted_to_channels_that_are_asked_for(config, stored, channels, found):
  c = config(name=stored, channels=channels)
  data.check(c)
  assert data.load(c)["train"].images.shape[1:] == (4, 4, found)


@pytest.mark.parametrize("chunk", [4096, 3])
def test_records_stay_encoded_until_they_are_read(config, written, monkeypatch, chunk):
  """What is streamed: threads read it, and worker processes get a copy."""
  monkeypatch.setattr(tfds, "CHUNK", chunk)
  split = data.load(config(pipeline="streaming"), ("train",))["train"]
  assert len(split) == 20 and split.shape == (4, 4, 3) and split.classes == CLASSES
  split = pickle.loads(pickle.dumps(split))
  for i, example in enumerate(written["train"]):
    image, label = (split[i][name] for name in ("image", "label"))
    assert isinstance(image, bytes) and image.startswith(b"\x89PNG")
    decoded = np.array(Image.open(io.BytesIO(image)))
    np.testing.assert_array_equal(decoded, example["image"])
    assert label == example["label"] == split.labels[i] and np.ndim(label) == 0
  assert split.labels.dtype == np.int32
  assert split.name(3) == "tiny, train, record 3"


# Several labels an image


def by_image(images, labels):
  return {image.tobytes(): tuple(label) for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_labels_are_ones_among_zeros(config, name):
  c = config(name="several")
  data.check(c)
  split = data.load(c)[name]
  assert split.classes == CLASSES and split.labels.dtype == np.uint8
  assert by_image(split.images, split.labels) == {
    e["image"].tobytes(): tuple(int(k in e["labels"]) for k in range(3)) for e in SEVERAL[name]
  }
  streamed = data.load(config(name="several", pipeline="streaming"))[name]
  assert streamed.labels.dtype == np.uint8
  np.testing.assert_array_equal(streamed.labels, split.labels)
  np.testing.assert_array_equal([streamed[i]["label"] for i in range(len(streamed))], split.labels)


def test_a_part_of_several_labels_is_held_out(config):
  splits = data.load(config(name="several", validation=3))
  whole = data.load(config(name="several"))["train"]
  assert (len(splits["train"]), len(splits["validation"])) == (9, 3)
  parts = by_image(splits["train"].images, splits["train"].labels)
  parts |= by_image(splits["validation"].images, splits["validation"].labels)
  assert parts == by_image(whole.images, whole.labels)


@pytest.mark.parametrize("by", ["content", "place"])
def test_records_are_known_in_any_expression(config, written, by):
  """By the bytes of their images, or by the file and the place in it."""
  expressions = ["train", "train[:30%]", "train[30%:]", "test"]
  whole, first, rest, other = (
    data.load(config(train=e, test="partly"), ("train",))["train"].ids(by) for e in expressions
  )
  assert len(np.unique(whole)) == 20 and not {*whole} & {*other}
  np.testing.assert_array_equal(np.concatenate([first, rest]), whole)
  if by == "content":
    files = [cv2.imencode(".png", e["image"][..., ::-1])[1].tobytes() for e in written["train"]]
    np.testing.assert_array_equal(whole, [identity.fingerprint(file) for file in files])


def test_one_label_an_image_comes_before_several(config):
  split = data.load(config(name="both", test=3), ("train",))["train"]
  assert split.labels.ndim == 1


# Refusals


@pytest.mark.parametrize(
  "overrides",
  [
    {"test": "train"},
    {"test": "train[:1]"},
    {"train": "train+test"},
    {"train": "train[:11]", "test": "train[10:]"},
    {"train": "train[5:]", "test": "train[:6]"},
    {"train": "train[2:5]+train[10:]", "test": "train[5:11]"},
  ],
)
def test_training_examples_are_not_evaluated_on(config, overrides):
  with pytest.raises(UserError, match=r"data\.test .* shares examples with data\.train"):
    data.check(config(**overrides))


def test_nor_is_chosen_by_them_or_by_what_is_reported(config):
  with pytest.raises(UserError, match=r"data\.validation 'train\[:5\]' shares examples"):
    data.check(config(validation="train[:5]"))
  with pytest.raises(UserError, match=r"data\.test 'test' shares examples with data\.validation"):
    data.check(config(validation="test[:2]"))


@pytest.mark.parametrize(
  "overrides",
  [
    {"train": "train[:10]", "test": "train[10:]"},
    {"train": "train[50%:]", "test": "train[:50%]"},
    {"train": "train[:5]+train[10:]", "test": "train[5:10]"},
  ],
)
def test_parts_that_touch_do_not_overlap(config, overrides):
  data.check(config(**overrides))


@pytest.mark.parametrize("key", ["train", "validation", "test"])
@pytest.mark.parametrize(
  "expression, message",
  [
    ("tset", r"has no 'tset'\. Did you mean 'test'\?"),
    ("trian[:10]", "Did you mean 'train'"),
    ("test[:", "cannot read the split"),
    ("test[:200%]", "cannot read the split"),
    ("test[50:60]", "cannot read the split"),
    ("test[0:0]", "is empty"),
  ],
)
def test_splits_that_are_not_there(config, key, expression, message):
  with pytest.raises(UserError, match=message) as e:
    data.check(config(**{key: expression}))
  assert f"data.{key}" in str(e.value)


@pytest.mark.parametrize(
  "name, message",
  [
    ("tny", "unknown TFDS data set 'tny'. Did you mean 'tiny'?"),
    ("cifar1", "unknown TFDS data set 'cifar1'. Did you mean 'cifar10'?"),
    ("tiny:9.0.0", "not the version or config of 'tiny:9.0.0'"),
    ("mnist:9.9.9", "cannot be loaded at version 9.9.9"),
    ("!!", "TFDS cannot use data.name='!!'"),
    (None, "data.source=tfds needs data.name"),
    ("", "data.source=tfds needs data.name"),
  ],
)
def test_data_sets_that_are_not_there(config, name, message):
  with pytest.raises(UserError) as e:
    data.check(config(name=name))
  assert message in str(e.value)


def test_a_data_set_without_images_is_refused(config):
  with pytest.raises(UserError, match="prose has no images: it has"):
    data.check(config(name="prose"))


def test_images_of_four_channels_need_a_number(config):
  with pytest.raises(UserError, match=r"images of alpha have 4 channels; set data\.channels"):
    data.check(config(name="alpha"))


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_pixels_of_16_bits_are_kept(config, pipeline):
  c = config(name="deep", test=1, pipeline=pipeline)
  data.check(c)
  splits = data.load(c)
  found = set()
  for name in ("train", "test"):
    for batch, there in data.pipeline(splits[name], c, sharding.make_mesh(1), data.Skipped(0)).once(
      2
    ):
      assert batch["image"].dtype == np.uint16
      found |= {np.asarray(image).tobytes() for image in batch["image"][np.asarray(there)]}
  expected = make_examples(6, GREY, 8, np.uint16)
  assert found == {example["image"].tobytes() for example in expected}


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_masks_and_values_come_by_the_features(config, folder, pipeline):
  """Without a label, which nobody asks for."""
  rng = np.random.default_rng(0)
  masks = rng.integers(0, 3, (6, 4, 4), np.uint8)
  ages = rng.normal(size=6).astype(np.float32)
  examples = [
    {
      "image": example["image"],
      "segments": cv2.imencode(".png", mask)[1].tobytes(),
      "age": age,
      "id": 7,
    }
    for example, mask, age in zip(make_examples(6, RGB, 16), masks, ages, strict=True)
  ]
  if not (folder / "segments").exists():
    features = {
      "image": image_feature((4, 4, 3)),
      "segments": FEATURES.LabeledImage(labels=list(CLASSES), shape=(4, 4, 1)),
      "age": np.float32,
      "id": np.int64,
    }
    write(folder, "segments", {"train": examples}, features)
  c = config(name="segments", test=2, pipeline=pipeline)
  data.check(c)
  splits = data.load(c)
  assert [*splits["train"].fields] == ["image", "mask", "value"]
  assert splits["train"].classes == splits["train"].fields["mask"].classes == CLASSES
  by_image = {e["image"].tobytes(): i for i, e in enumerate(examples)}
  for name, n in (("train", 4), ("test", 2)):
    (batch, _), = data.pipeline(
      splits[name], c, sharding.make_mesh(1), data.Skipped(0)
    ).once(n)  # fmt: skip
    rows = [by_image[np.asarray(image).tobytes()] for image in batch["image"]]
    assert len({*rows}) == n
    np.testing.assert_array_equal(batch["mask"], masks[rows])
    np.testing.assert_array_equal(batch["value"], ages[rows])


# Boxes


BOXES = (  # of 6 images by turns, with their classes
  [((0.25, 0.5, 1.0, 0.75), 2)],
  [],
  [((0.0, 0.0, 0.5, 0.5), 0), ((0.5, 0.25, 0.5, 1.0), 1), ((0.125, 0.0, 1.0, 1.0), 2)],
)


def with_boxes(seed, change=lambda box: box):
  """Images with boxes as of VOC and COCO; one of them has no area."""
  as_box = lambda sides: FEATURES.BBox(*change(sides))
  return [
    {
      "image": example["image"],
      "objects": [
        {"bbox": as_box(sides), "label": label, "is_truncated": False} for sides, label in boxes
      ],
    }
    for example, boxes in zip(make_examples(6, RGB, seed), BOXES * 2, strict=True)
  ]


def objects(label=True, **of_box):
  """The features of these examples."""
  named = {"label": FEATURES.ClassLabel(names=CLASSES)} if label else {"label": np.int64}
  one = {"is_truncated": np.bool_, **named, "bbox": FEATURES.BBoxFeature(**of_box)}
  return {"image": image_feature((4, 4, 3)), "objects": FEATURES.Sequence(one)}


@pytest.fixture(scope="session")
def boxed(folder):
  """Data sets with boxes."""
  write(folder, "boxed", {"train": with_boxes(21), "test": with_boxes(22)[:2]}, objects())
  write(folder, "alone", {"train": with_boxes(23)}, objects(label=False))
  turned = [{**e, "objects": e["objects"][:1]} for e in with_boxes(24)]
  write(folder, "turned", {"train": turned}, objects(bbox_format="REL_XYXY"))
  wide = with_boxes(25, lambda box: [side * 3 for side in box])
  write(folder, "wide", {"train": wide}, objects(bbox_format=None))


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_boxes_come_by_the_features(config, boxed, pipeline):
  """With room for the most that an image of the run has, and those alone that have an area."""
  c = config(name="boxed", pipeline=pipeline)
  data.check(c)
  splits = data.load(c)
  for name, seed, n in (("train", 21, 6), ("test", 22, 2)):
    split = splits[name]
    assert [*split.fields] == ["image", "boxes"] and split.fields["boxes"].classes == CLASSES
    pipe = data.pipeline(split, c, sharding.make_mesh(1), data.Skipped(0))
    ((batch, _),) = pipe.once(n)
    batch = {key: np.asarray(array) for key, array in batch.items()}
    assert batch["boxes"].shape == (n, 2, 4)
    by_image = {e["image"].tobytes(): i for i, e in enumerate(with_boxes(seed)[:n])}
    places = [by_image[image.tobytes()] for image in batch["image"]]
    assert sorted(places) == [*range(n)]
    for row, place in enumerate(places):
      valid = batch["boxes_valid"][row]
      found = zip(batch["boxes"][row][valid], batch["boxes_label"][row][valid], strict=True)
      expected = [box for i, box in enumerate(BOXES[place % 3]) if i != 1]
      assert [(tuple(map(float, box)), int(label)) for box, label in found] == expected


def test_boxes_are_counted_only_where_they_are_needed(config, boxed, monkeypatch):
  counted = []
  monkeypatch.setattr(data.Split, "most_boxes", lambda self, name: counted.append(len(self)) or 4)
  assert "boxes" not in data.load(config(name="boxed"), needs=("image",))["train"].fields
  c = config(name="boxed", max_boxes=5)
  data.check(c)
  assert data.load(c)["train"].fields["boxes"].shape == (5, 4) and not counted
  splits = data.load(config(name="boxed"), needs=("image", "boxes"))
  assert splits["test"].fields["boxes"].shape == (4, 4) and sorted(counted) == [2, 6]
  with pytest.raises(UserError, match=r"^data\.max_boxes=5 has no effect: tiny has no boxes"):
    data.check(config(max_boxes=5))


def test_boxes_without_a_class_are_all_of_one(config, boxed):
  split = data.load(config(name="alone"), ("train",))["train"]
  assert split.fields["boxes"].classes == ("0",) and not split.arrays["boxes_label"].any()
  assert split.arrays["boxes_valid"].sum() == 6


def test_boxes_in_another_order_are_none(config, boxed):
  split = data.load(config(name="turned"), ("train",))["train"]
  assert [*split.fields] == ["image"]


def test_images_whose_boxes_are_no_shares_are_skipped_and_named(config, boxed):
  """Where a task needs boxes; else they are images as all others."""
  c, skipped = config(name="wide", pipeline="resident"), data.Skipped(9)
  assert len(data.load(c, ("train",), skipped, needs=("image",))["train"]) == 6 and not skipped
  split = data.load(c, ("train",), skipped, evaluating=True)["train"]
  assert len(split) == 2 and not split.arrays["boxes_valid"].any() and len(skipped) == 4
  assert "its box [0.75, 1.5, 3.0, 2.25] is not ymin, xmin, ymax, xmax from 0 to 1" in str(skipped)


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_hidden_labels_are_refused(config, pipeline):
  """As the split is opened, though a streamed test split is not read until the end of a run."""
  c = config(test="hidden", pipeline=pipeline)
  with pytest.raises(UserError, match="labels of the split 'hidden' of tiny are not public"):
    data.load(c)


def test_labels_that_are_hidden_in_part_are_refused_when_they_are_read(config, monkeypatch):
  monkeypatch.setattr(tfds, "CHUNK", 7)
  with pytest.raises(UserError, match="labels of the split 'partly' of tiny are not public"):
    data.load(config(test="partly", pipeline="resident"))
  with pytest.raises(UserError, match="labels of the split 'partly' of tiny are not public"):
    _ = data.load(config(test="partly", pipeline="streaming"))["test"].labels


def test_what_does_not_fit_is_not_decoded(config, monkeypatch):
  monkeypatch.setattr("cnnjax.data.images.decode", lambda *_: pytest.fail("decoded"))
  little = {"max_gib": 20 * 48 / 2**30 * 0.9}
  with pytest.raises(UserError, match=r"20 images take .*max_gib"):
    data.load(config(pipeline="resident", **little), ("train",))
  streamed = data.load(config(**little), ("train",))["train"]
  assert isinstance(streamed.records, tfds.Records) and len(streamed) == 20


def test_a_data_set_in_another_file_format_is_refused(config, folder, tmp_path):
  """TensorFlow users have these: TFDS writes tfrecord if nobody says otherwise."""
  shutil.copytree(folder / "tiny" / "1.2.0", tmp_path / "tiny" / "1.2.0")
  info = tmp_path / "tiny" / "1.2.0" / "dataset_info.json"
  info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
  for function in (data.check, data.load):
    with pytest.raises(UserError, match=r"tfrecord.*array_record.*prepare tiny --data_dir=DIR"):
      function(config(data_dir=str(tmp_path)))


# Preparing


def test_without_tensorflow_the_error_says_how_to_prepare(config, folder, monkeypatch):
  monkeypatch.setattr(tfds, "_has_tensorflow", lambda: False)
  with pytest.raises(UserError) as e:
    data.check(config(name="mnist"))
  message = str(e.value)
  assert f"not in {folder}/mnist/3.0.1" in message and "\n" not in message
  assert f"python -m cnnjax.data prepare mnist --data_dir={folder}" in message
  with pytest.raises(UserError, match=r"pip install -e '.\[prepare\]'"):
    tfds.prepare("mnist", str(folder))


def test_other_versions_on_disk_are_named(config, tmp_path, monkeypatch):
  monkeypatch.setattr(tfds, "_has_tensorflow", lambda: False)
  (tmp_path / "mnist" / "1.0.0").mkdir(parents=True)
  with pytest.raises(UserError, match=r"versions there: 1\.0\.0"):
    data.check(config(name="mnist", data_dir=str(tmp_path)))


def test_with_tensorflow_it_is_prepared_in_another_process(config, folder, monkeypatch):
  monkeypatch.setattr(tfds, "_has_tensorflow", lambda: True)
  data.check(config(name="mnist"))  # its splits are not known yet
  commands = []

  def fail(arguments, check):
    commands.append(arguments[1:])
    return subprocess.CompletedProcess(arguments, 1)

  monkeypatch.setattr(tfds.subprocess, "run", fail)
  with pytest.raises(UserError, match="mnist could not be prepared"):
    data.load(config(name="mnist"))
  assert commands == [["-m", "cnnjax.data", "prepare", "mnist", "--data_dir", str(folder)]]


def test_a_host_that_cannot_be_reached_is_named_at_once(folder, monkeypatch):
  monkeypatch.setattr(tfds, "_has_tensorflow", lambda: True)

  def unreachable(*_):
    raise OSError("no network")

  monkeypatch.setattr(tfds.socket, "getaddrinfo", unreachable)
  with pytest.raises(UserError, match=r"cannot reach .*, where mnist is downloaded from"):
    tfds.prepare("mnist", str(folder))


def test_the_command_says_where_a_prepared_data_set_lies(folder, capsys):
  assert command.main(["prepare", "tiny", "--data_dir", str(folder)]) == 0
  assert capsys.readouterr().out == f"{folder}/tiny/1.2.0\n"


def test_reading_does_not_import_tensorflow(folder, tmp_path):
  """Even where it is installed: here a stand-in that cannot be imported unnoticed."""
  (tmp_path / "tensorflow").mkdir()
  (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('imported TensorFlow')")
  script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from cnnjax import data
from cnnjax.config import default
c = default().data
c.update(source="tfds", name="tiny", data_dir={str(folder)!r}, image_size=6)
data.check(c)
print(len(data.load(c)["train"]), "tensorflow" in sys.modules)
"""
  result = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=False
  )
  assert (result.returncode, result.stdout) == (0, "20 False\n"), result.stderr
