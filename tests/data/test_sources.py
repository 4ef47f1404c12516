"""What holds for every source: carving, normalisation, refusals. And the two that need no file."""

import dataclasses
import io

import fakes
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cnnjax import data
from cnnjax.config import default, override
from cnnjax.data import fields, levels, synthetic
from cnnjax.errors import UserError
from cnnjax.runtime import processes, sharding
from cnnjax.training import passes


def config(source="synthetic", **overrides):
  c = default()
  settings = {
    "source": source,
    "synthetic.image_size": 4,
    "synthetic.train_examples": 103,
    "synthetic.test_examples": 31,
  }
  for key, value in {**settings, **overrides}.items():
    override(c, f"data.{key}", value)
  return c.data


def rows(split):
  """The examples as bytes, label included."""
  return [
    image.tobytes() + bytes([label])
    for image, label in zip(split.images, split.labels, strict=True)
  ]


# Carving


@pytest.mark.parametrize("amount", [0.25, 30, 0.1, 60])
def test_carving_is_disjoint_and_covers(amount):
  whole = data.load(config(), ("train",))["train"]
  splits = data.load(config(validation=amount))
  train, validation = splits["train"], splits["validation"]
  assert isinstance(amount, float) or len(validation) == amount
  assert sorted(rows(train) + rows(validation)) == sorted(rows(whole))
  assert len(set(rows(whole))) == 103, "examples must differ for this test to see anything"
  assert splits["train"].classes == validation.classes == whole.classes


def test_carving_is_the_same_for_every_run():
  first = data.load(config(validation=20))["validation"]
  np.random.seed(12345)  # what a run may have done to the global state
  again = data.load(config(validation=20), ("validation",))["validation"]
  assert rows(first) == rows(again)


@pytest.mark.parametrize("amount", [103, 1000])
def test_a_carving_that_cannot_be_is_refused(amount):
  words = rf"data\.validation {amount} cannot be held out of 103 .*nothing would be left"
  with pytest.raises(UserError, match=words):
    data.load(config(validation=amount))


def test_splits_that_are_not_asked_for_are_not_loaded(monkeypatch):
  asked, load = [], synthetic.load
  monkeypatch.setattr(synthetic, "load", lambda c, split: asked.append(split) or load(c, split))
  assert set(data.load(config(), ("test",))) == {"test"}
  assert asked == ["test"]
  assert data.load(config())["validation"] is None
  assert data.load(config(), ("validation",)) == {"validation": None}


def test_a_named_validation_split_is_loaded_and_nothing_carved():
  splits = data.load(config(validation="test"))
  assert rows(splits["validation"]) == rows(splits["test"])
  assert len(splits["train"]) == 103


# Normalisation


def normalization(c, train):
  return levels.normalization(c, levels.count(c, train))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_levels_are_those_of_every_image(dtype):
  """Also of the last of many, of which some are counted at a time."""
  images, white = np.zeros((3000, 1, 2, 2)), fields.WHITE[dtype]
  images[[1022, 1023, 1024, 2047, 2048, 2999]] = np.random.default_rng(0).random((6, 1, 2, 2))
  images = (images * white).astype(dtype)
  found, scaled = levels.Levels.of(images), images.astype(np.float64) / white
  np.testing.assert_allclose(found.mean, scaled.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(found.std, scaled.std((0, 1, 2)), rtol=1e-6)
  np.testing.assert_array_equal(found.low, images.min((0, 1, 2)))
  np.testing.assert_array_equal(found.high, images.max((0, 1, 2)))


@pytest.mark.parametrize("channels", [1, 3])
def test_normalization_is_that_of_numpy(channels):
  train = data.load(config(**{"synthetic.channels": channels}), ("train",))["train"]
  mean, std = normalization(config(), train)
  scaled = train.images.astype(np.float64) / 255
  np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12)
  images = passes.normalizer(mean, std)(passes.to_float(jnp.asarray(train.images)))
  np.testing.assert_allclose(
    images, (scaled - scaled.mean((0, 1, 2))) / scaled.std((0, 1, 2)), atol=1e-5
  )


def test_the_values_of_the_config_win():
  train = data.load(config(), ("train",))["train"]
  own_mean, own_std = normalization(config(), train)
  given = {"mean": (0.0, 0.5, 1.0), "std": (0.1, 0.2, 0.3)}
  assert normalization(config(**given), train) == tuple(given.values())
  assert normalization(config(mean=given["mean"]), train) == (given["mean"], own_std)
  assert normalization(config(std=given["std"]), train) == (own_mean, given["std"])


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("values", [(0.5,), (0.5, 0.5, 0.5, 0.5)])
def test_a_wrong_number_of_channels_is_refused(key, values):
  train = data.load(config(), ("train",))["train"]
  with pytest.raises(UserError, match=f"data.{key} has {len(values)} values.*have 3 channels"):
    normalization(config(**{key: values}), train)


def test_a_constant_channel_is_not_divided_by_zero_and_is_named():
  images = np.full((5, 2, 2, 2), 51, np.uint8)
  images[0, 0, 0, 1] = 255
  train = data.Split.of(images, np.zeros(5, np.int32), ("a",))
  mean, std = normalization(config(), train)
  assert (mean[0], std[0]) == (0.2, 1.0) and 0 < std[1] < 1
  words = levels.describe(config(), train, levels.count(config(), train))
  assert words == "2 of 256 levels, from 51 to 255; channel 0 has the single value 51"


@pytest.mark.parametrize("given", [{}, {"mean": (0.5,) * 3, "std": (0.5,) * 3}])
@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_images_of_one_colour_are_refused(pipeline, given):
  """All of one channel each; a single pixel that differs is a picture."""
  images = np.broadcast_to(np.array([0, 7, 255], np.uint8), (40, 4, 4, 3)).copy()
  c = config("digits", pipeline=pipeline, **given)
  split = data.Split.of(images, np.arange(40, dtype=np.int32) % 2, ("a", "b"))
  train = data.load(c, ("train",), given={"train": split})["train"]
  blank = "blank: all 40 that were read, of 40, have the single value 0, 7, 255"
  with pytest.raises(UserError, match=f"{blank}.*Multiply values from 0 to 1"):
    levels.count(c, train)
  images[39, 3, 3, 1] = 8
  assert levels.count(c, train).counts[1, 8] == 1


ALPHA, BITS = (
  "drawn in transparency alone",
  "Set data.range, such as 12, for 16-bit files",
)


@pytest.mark.parametrize(
  "image, settings, advice",
  [
    (Image.new("LA", (4, 4), (255, 0)), {"alpha": "white"}, "Set data.alpha=black for pictures"),
    (Image.new("RGBA", (4, 4)), {"alpha": "black"}, "Set data.alpha=white for pictures"),
    (Image.new("RGBA", (4, 4)), {}, "Set data.alpha=white or black for pictures"),
    (Image.fromarray(np.full((4, 4), 100, np.uint16)), {}, BITS),
    (Image.fromarray(np.full((4, 4), 100, np.uint16)), {"range": 16}, "data.range=16 may not fit"),
    (Image.new("L", (4, 4), 255), {}, "data scan PATH"),
  ],
)  # fmt: skip
@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_the_advice_on_blank_files_is_of_what_they_have(image, settings, advice, pipeline, capsys):
  out = io.BytesIO()
  image.save(out, "PNG")
  records = fakes.Records([out.getvalue()] * 6, np.arange(6, dtype=np.int32) % 2)
  split = data.Split(records, ("a", "b"), (None, None, 3))
  c = config("folder", pipeline=pipeline, image_size=4, **settings)
  train = data.load(c, ("train",), given={"train": split})["train"]
  with pytest.raises(UserError) as e:
    levels.count(c, train)
  levels.compare(c, "test", train, (0.3,))
  for said in (str(e.value), capsys.readouterr().err):
    assert "blank: all 6 that were read, of 6, have" in said and advice in said
    assert [text in said for text in (ALPHA, BITS, "data scan PATH", "from 0 to 1")] == [
      "alpha" in advice, advice == BITS, "PATH" in advice or "range" in advice, False
    ]  # fmt: skip


@pytest.mark.parametrize("largest, dark", [(1, True), (15, True), (63, True), (64, False)])
def test_dark_images_are_said_to_be_so(largest, dark):
  images = np.arange(largest + 1, dtype=np.uint8).reshape(1, 1, -1, 1)
  train = data.Split.of(images, np.zeros(1, np.int32), ("a",))
  words = levels.describe(config(), train, levels.count(config(), train))
  assert words.startswith(f"{largest + 1} of 256 levels, from 0 to {largest}")
  assert ("dark, since white is 255. Multiply values" in words) == dark


@pytest.mark.parametrize(
  "low, high, words",
  [
    (0, 9, "dark: their largest value is 9 of 255, and the mean of the training images is 51"),
    (0, 100, None),
    (100, 255, None),
    (140, 149, "bright: their smallest value is 140 of 255, and the mean of the training "
     "images is 128"),
    (128, 128, "blank: all 30 that were read, of 30, have the single value 128, 128, 128"),
  ],
)  # fmt: skip
@pytest.mark.parametrize("pipeline, first", [("resident", True), ("streaming", True),
                                             ("resident", False)])  # fmt: skip
def test_evaluated_images_that_are_unlike_all_that_was_learnt_are_warned_of(
  low, high, words, pipeline, first, capsys, monkeypatch
):
  """By the first process."""
  monkeypatch.setattr(processes, "is_first", lambda: first)
  images = np.random.default_rng(0).integers(low, high + 1, (30, 6, 6, 3), np.uint8)
  split = data.Split.of(images, np.zeros(30, np.int32), ("a",))
  levels.compare(config("folder", pipeline=pipeline, image_size=4), "test", split, (0.3, 0.2, 0.5))
  said = capsys.readouterr().err
  assert f"warning: the test images are {words}" in said if words and first else not said


# The sources


@pytest.mark.parametrize(
  "name, near", [("digit", "digits"), ("synthetik", "synthetic"), ("cifar10", None), ("", None)]
)
def test_an_unknown_source_is_an_error_and_no_fallback(name, near):
  for function in (data.check, data.load):
    with pytest.raises(UserError, match=f"unknown data source {name!r}") as e:
      function(config(name))
    assert near is None or f"Did you mean {near!r}?" in str(e.value)


@pytest.mark.parametrize("source", ["digits", "synthetic"])
@pytest.mark.parametrize("key", ["train", "validation", "test"])
def test_an_unknown_split_is_refused_with_the_nearest(source, key):
  data.check(config(source))
  with pytest.raises(UserError, match=rf"split in data\.{key} 'tset'\. Did you mean 'test'"):
    data.check(config(source, **{key: "tset"}))


@pytest.mark.parametrize("source", ["digits", "synthetic"])
@pytest.mark.parametrize(
  "overrides",
  [{"test": "train"}, {"train": "test"}, {"validation": "train"}, {"validation": "test"}],
)
def test_no_split_serves_twice(source, overrides):
  with pytest.raises(UserError, match="may serve two of train"):
    data.check(config(source, **overrides))


@pytest.mark.smoke
def test_digits():
  splits = data.load(config("digits"))
  train, test = splits["train"], splits["test"]
  assert (train.images.shape, test.images.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
  original = load_digits()
  scans = np.concatenate([train.images, test.images])[..., 0]
  assert scans.dtype == np.uint8 and train.labels.dtype == np.int32
  assert (scans.min(), scans.max(), len(np.unique(scans))) == (0, 255, 17)
  # Scans do repeat in some data sets; counting occurrences shows that each one is used once.
  key = lambda image, label: (*np.round(image.reshape(-1) * (16 / 255)).astype(int), label)
  used = sorted(
    key(*pair)
    for split in (train, test)
    for pair in zip(split.images[..., 0], split.labels, strict=True)
  )
  assert used == sorted(
    (*image.astype(int), label) for image, label in zip(original.data, original.target, strict=True)
  )
  assert not set(rows(train)) & set(rows(test))
  for split in (train, test):
    expected = np.bincount(original.target) * len(split) / 1797
    assert np.abs(np.bincount(split.labels) - expected).max() < 1
  assert train.classes == tuple("0123456789")
  assert rows(test) == rows(data.load(config("digits"))["test"])


def test_digits_are_resized():
  small, large = (
    data.load(config("digits", image_size=size), ("test",))["test"] for size in (None, 16)
  )
  assert large.images.shape == (360, 16, 16, 1)
  np.testing.assert_array_equal(small.labels, large.labels)
  means = large.images.reshape(360, 8, 2, 8, 2).mean((2, 4))
  assert np.corrcoef(means.reshape(-1), small.images.reshape(-1))[0, 1] > 0.95


def test_synthetic_is_deterministic_and_as_configured():
  wanted = {"synthetic.num_classes": 7, "synthetic.channels": 2}
  first, again = (data.load(config(**wanted)) for _ in range(2))
  for name, size in (("train", 103), ("test", 31)):
    assert rows(first[name]) == rows(again[name])
    assert first[name].images.shape == (size, 4, 4, 2) and first[name].images.dtype == np.uint8
    assert set(first[name].labels) == set(range(7)) and len(first[name].classes) == 7
  assert not set(rows(first["train"])) & set(rows(first["test"]))


def test_synthetic_can_be_learnt():
  """The nearest class mean of the training split finds the labels of the test split."""
  splits = data.load(config(**{"synthetic.image_size": 12}))
  flat = {
    name: splits[name].images.reshape(len(splits[name]), -1).astype(float)
    for name in ("train", "test")
  }
  means = np.stack([flat["train"][splits["train"].labels == c].mean(0) for c in range(10)])
  nearest = ((flat["test"][:, None] - means) ** 2).sum(-1).argmin(-1)
  assert (nearest == splits["test"].labels).mean() > 0.8


@pytest.mark.parametrize("validation", [None, 13])
def test_the_data_in_words(validation):
  c = config(validation=validation)
  splits = {name: split for name, split in data.load(c).items() if split}
  text = data.describe(c, splits)
  assert text.startswith("synthetic, 4x4x3, 10 classes: ")
  held = "90 train, 13 validation (held out of train"
  assert (held if validation else "103 train, 31 test") in text
  assert ("no validation split" in text) == (validation is None)


# What is loaded


def test_the_test_split_may_be_held_out_too():
  """It is the same with and without a validation split, and for every seed of a run."""
  whole = data.load(config(), ("train",))["train"]
  alone = data.load(config(test=0.2))
  both = data.load(config(test=0.2, validation=15))
  assert alone["validation"] is None
  assert [len(both[name]) for name in ("train", "validation", "test")] == [67, 15, 21]
  assert rows(alone["test"]) == rows(both["test"]) == rows(data.load(config(test=0.2))["test"])
  parts = [row for split in both.values() for row in rows(split)]
  assert sorted(parts) == sorted(rows(whole))
  assert rows(alone["test"]) != rows(data.load(config(test=0.2, split_seed=1))["test"])
  assert rows(data.load(config(test=0.2, validation=15), ("test",))["test"]) == rows(both["test"])


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_a_long_tail_is_that_of_the_training_split(pipeline):
  """n_c = n_0 / ratio^(c / 9), rounded down; what is evaluated stays as it is."""
  long = data.load(config(long_tail=5, validation=23, pipeline=pipeline))
  plain = data.load(config(validation=23, pipeline=pipeline))
  sizes = np.bincount(long["train"].labels)
  np.testing.assert_array_equal(sizes, [8, 6, 5, 4, 3, 3, 2, 2, 1, 1])
  assert set(rows(long["train"])) < set(rows(plain["train"]))
  for name in ("validation", "test"):
    assert rows(long[name]) == rows(plain[name])


def test_crops_of_training_and_of_evaluation_have_their_sizes():
  sized = config("digits", image_size=6, eval_size=10)
  found = data.load(sized)
  assert found["train"].shape == (6, 6, 1) and found["test"].shape == (10, 10, 1)
  assert data.load(sized, ("train",), evaluating=True)["train"].shape == (10, 10, 1)
  streamed = data.load(config("digits", image_size=6, eval_size=10, pipeline="streaming"))
  assert streamed["train"].shape == streamed["test"].shape == (8, 8, 1)


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"progressive": (4,)}, r"data\.progressive grows to data\.image_size; set it"),
    ({"crop": "random_resized"}, r"data\.crop=random_resized needs .*data\.image_size"),
    (
      {"crop": "random_resized", "image_size": 6, "pipeline": "resident"},
      "is made on the host, while streaming; for a resident split put random_resized_crop",
    ),
    ({"eval_crop": 0.875}, r"data\.eval_crop scales images: set data\.image_size or data\.eval_s"),
    ({"name": "cifar10"}, r"data\.name' is 'cifar10' .*=digits: set data\.source=tfds, or"),
    ({"path": "photos"}, r"data\.path' is 'photos' .*: set data\.source=folder, or"),
  ],
)
def test_keys_that_do_not_go_together(overrides, message):
  with pytest.raises(UserError, match=message):
    data.check(config("digits", **overrides))


@pytest.mark.parametrize("size", [None, 6])
def test_a_streamed_set_is_normalised_by_a_sample_of_it(size, monkeypatch):
  """Evenly spread over it, and scaled as in training; of a small set, by all of it."""
  photos = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), np.uint8)
  photos[:45] //= 4  # the mean of one half is no mean of the whole
  split = data.Split.of(photos, np.arange(90, dtype=np.int32) % 3, ("a", "b", "c"))
  streaming, resident = (
    config("digits", image_size=size, pipeline=p) for p in ("streaming", "auto")
  )
  given = {"train": split}
  stays = data.load(resident, ("train",), given=given)["train"]
  exact = normalization(resident, stays)
  scaled = stays.images / 255
  np.testing.assert_allclose(exact, [scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))], rtol=1e-12)
  streams = data.load(streaming, ("train",), given=given)["train"]
  np.testing.assert_allclose(normalization(streaming, streams), exact, rtol=1e-12)
  monkeypatch.setattr(levels, "SAMPLE", 30)
  files = dataclasses.replace(split, records=fakes.Records(photos, split.labels))
  sample = normalization(streaming, split.take(np.linspace(0, 89, 30).astype(int)))
  np.testing.assert_allclose(normalization(streaming, files), sample, rtol=1e-12)
  np.testing.assert_allclose(sample, exact, rtol=0.05)


def test_normalization_is_of_the_channels_that_are_trained_on():
  """Colour files that are read as grey ones."""
  split = fakes.split_of_files(12)
  grey = {"channels": 1, "image_size": 6, "pipeline": "streaming"}
  mean, std = normalization(config("digits", **grey), split)
  assert len(mean) == len(std) == 1
  given = {"mean": (0.5,), "std": (0.25,)}
  assert normalization(config("digits", **grey, **given), split) == ((0.5,), (0.25,))
  with pytest.raises(UserError, match=r"data\.mean has 3 values, and the images have 1 channels"):
    normalization(config("digits", **grey, mean=(0.5, 0.5, 0.5)), split)


def test_unreadable_images_do_not_count_against_the_sample():
  """They are counted when they are trained on."""
  split = fakes.split_of_files(40, range(0, 40, 2))
  c = config("digits", image_size=6, pipeline="streaming", max_unreadable=0)
  readable = fakes.split_of_files(40).take(np.arange(1, 40, 2))
  assert normalization(c, split) == normalization(c, readable)


def test_several_steps_a_dispatch_need_a_resident_split():
  c = default()
  c.data.pipeline, c.steps_per_dispatch = "streaming", 4
  with pytest.raises(UserError, match="steps_per_dispatch=4 needs"):
    data.open_inputs(c, sharding.make_mesh(1))


def test_inputs_of_a_run_in_words():
  c = default()
  settings = {"data.pipeline": "streaming", "data.validation": 0.1, "batch_size": 100, "epochs": 2}
  for key, value in settings.items():
    override(c, key, value)
  inputs = data.open_inputs(c, sharding.make_mesh(1))
  assert (inputs.length.total, inputs.length.steps_per_epoch, inputs.length.phase) == (24, 12, 24)
  assert inputs.image_shape == (8, 8, 1) and inputs.counts is None
  kept, held = len(inputs.train.split), len(inputs.evaluations["validation"].split)
  assert kept + held == 1437 and abs(held - 144) < 3 * np.sqrt(1437 * 0.1 * 0.9)
  words = f"digits, 8x8x1, 10 classes: {kept:,} train, {held} validation"
  assert inputs.summary["data"].startswith(words)
  most = np.bincount(inputs.train.split.labels).max()
  assert inputs.summary["classes"].startswith(f"{most} of ")
  assert inputs.summary["input"].startswith("streaming by ")
  assert inputs.summary["length"] == "24 steps, 12 an epoch"
