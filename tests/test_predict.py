"""Predictions: what evaluation computes, from images as they lie about, in any form and number."""

import csv
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import cnnjax
from cnnjax import data, models, predict, train
from cnnjax.errors import UserError, run

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Folders of photos of several sizes and formats, three classes."""
  root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
  for name, colour in COLOURS.items():
    (root / name).mkdir()
    for i in range(12):
      size = rng.integers(20, 40, 2)
      pixels = np.clip(np.array(colour) + rng.normal(0, 25, (*size, 3)), 0, 255)
      ending = ("png", "jpg", "webp")[i % 3]
      Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.{ending}")
  return root


@pytest.fixture(scope="module")
def trained(tiny, photos, tmp_path_factory):
  """The workdir of a run on them, with an average."""
  workdir = tmp_path_factory.mktemp("run")
  settings = {"data.source": "folder", "data.path": str(photos), "data.image_size": 16}
  settings |= {"data.test": 0.25, "data.validation": 0.25, "average.ema": 0.9, "epochs": 4}
  train.train(tiny(**settings, batch_size=8, augment=None), workdir)
  return workdir


def test_predictions_are_those_of_the_evaluation(trained, photos):
  """Counted by hand over the files that were held out, they give its accuracy."""
  for options in ({}, {"checkpoint": "best"}, {"weights": "ema"}):
    model = cnnjax.load(trained, **options)
    split = data.load(model.trained.config.data, ("test",))["test"]
    files = [split.name(i) for i in range(len(split))]
    found = model.predict(files)
    assert found.names == tuple(files)
    right = [label == name.split("/")[-2] for label, name in zip(found.labels, files, strict=True)]
    metrics = model.evaluate("test")
    assert np.mean(right) == pytest.approx(metrics["accuracy"])
    truth = [found.classes.index(name.split("/")[-2]) for name in files]
    loss = -np.log(found.probabilities[np.arange(len(files)), truth]).mean()
    assert loss == pytest.approx(metrics["loss"], rel=1e-4)


def test_by_hand(trained, photos):
  """The formula: decode, crop, scale, normalise, apply, softmax."""
  model, file = cnnjax.load(trained), photos / "red" / "0.png"
  image = Image.open(file)
  side = min(image.size)
  left, top = ((n - side) // 2 for n in image.size)
  square = image.crop((left, top, left + side, top + side)).resize((16, 16), 2)
  pixels = model.preprocess(file)
  assert np.abs(pixels.astype(int) - np.asarray(square)).max() <= 40  # noise; roundings differ
  mean, std = model.trained.meta["mean"], model.trained.meta["std"]
  x = (pixels[None] / np.float32(255) - np.float32(mean)) / np.float32(std)
  logits = model.model.apply(model.variables, x, train=False)
  np.testing.assert_allclose(
    model.predict(file).probabilities, jax.nn.softmax(logits), rtol=1e-5, atol=1e-6
  )
  stages = model.features(file)
  expected = models.features(model.model, model.variables, x)
  assert stages.keys() == expected.keys()
  for name, stage in stages.items():
    np.testing.assert_allclose(stage, expected[name], rtol=1e-4, atol=1e-5)


def test_every_form_of_an_image_and_every_batch_size_gives_the_same(trained, photos):
  model, files = cnnjax.load(trained), sorted(photos.glob("*/*"))
  whole = model.predict(files)
  assert whole.probabilities.shape == (36, 3)
  for batch_size in (1, 7, 36, 1000):
    found = model.predict(map(str, files), batch_size=batch_size)
    np.testing.assert_allclose(found.probabilities, whole.probabilities, rtol=1e-5, atol=1e-6)
  arrays = np.stack([model.preprocess(file) for file in files])
  found = model.predict(arrays)
  assert found.names[35] == "image 35"
  np.testing.assert_allclose(found.probabilities, whole.probabilities, rtol=1e-5, atol=1e-6)
  one = model.predict(files[3].read_bytes())
  np.testing.assert_allclose(one.probabilities, whole.probabilities[3:4], rtol=1e-5, atol=1e-6)
  (top,) = one.top(2)
  assert top[0][1] >= top[1][1] and top[0][0] == one.labels[0]


def test_views_are_those_of_the_evaluation(trained, photos):
  files = sorted(photos.glob("*/*"))
  plain, both = (cnnjax.load(trained, eval_views=views) for views in (None, "flip"))
  mirrored = np.stack([plain.preprocess(file)[:, ::-1] for file in files])
  expected = (plain.predict(files).probabilities + plain.predict(mirrored).probabilities) / 2
  np.testing.assert_allclose(both.predict(files).probabilities, expected, rtol=1e-5, atol=1e-6)


def test_a_loaded_model_evaluates_without_its_checkpoint(trained, tmp_path):
  run = shutil.copytree(trained, tmp_path / "run")
  plain, mirrored = cnnjax.load(run), cnnjax.load(run, eval_views="flip")
  shutil.rmtree(run / "checkpoints")
  metrics = plain.evaluate()
  assert plain.evaluate(eval_views="flip") == mirrored.evaluate() != metrics == plain.evaluate()


def test_what_cannot_be_read_is_named_and_costs_no_other_image(trained, photos, tmp_path):
  (tmp_path / "cut.png").write_bytes((photos / "red" / "0.png").read_bytes()[:60])
  files = [photos / "red" / "0.png", tmp_path / "cut.png", photos / "blue" / "1.jpg"]
  model, unreadable = cnnjax.load(trained), {}
  found = model.predict(files, unreadable=unreadable)
  assert found.names == (str(files[0]), str(files[2])) and [*unreadable] == [str(files[1])]
  np.testing.assert_allclose(
    found.probabilities, model.predict([files[0], files[2]]).probabilities, rtol=1e-5, atol=1e-6
  )
  with pytest.raises(UserError, match=r"cut\.png cannot be read: truncated"):
    model.predict(files)
  with pytest.raises(UserError, match=r"nowhere\.png cannot be read: No such file"):
    model.predict("nowhere.png")
  with pytest.raises(UserError, match="no image that can be read"):
    model.predict(files[1], unreadable={})
  with pytest.raises(UserError, match="there are no images to predict"):
    model.predict([])
  with pytest.raises(UserError, match="takes paths, the bytes of files, or arrays, and not a int"):
    model.predict(3)
  with pytest.raises(UserError, match=r"uint8 \[height, width, 3\], not float64 \[50, 60\]"):
    model.predict(np.zeros((50, 60)))


def test_a_model_is_shown_in_one_line(trained):
  """Not by its weights, which fill a terminal."""
  shown = repr(cnnjax.load(trained))
  assert re.fullmatch(rf"Predictor\(\w+, 3 classes, 16x16x3, step \d+ of {trained}\)", shown)


@pytest.mark.parametrize(
  "image, message",
  [
    (np.zeros((4, 4, 3), np.float32), r"uint8 \[height, width, 3\], not float32"),
    (np.zeros((4, 4, 1), np.uint8), r"not uint8 \[4, 4, 1\]"),
    (np.zeros((2, 2, 4, 4, 3), np.uint8), r"not uint8 \[2, 2, 4, 4, 3\]"),
  ],
)
def test_arrays_that_do_not_fit(trained, image, message):
  with pytest.raises(UserError, match=message):
    cnnjax.load(trained).predict(image)


def test_what_cannot_be_loaded(trained, tmp_path, tiny):
  with pytest.raises(UserError, match=r"unknown checkpoint 'bset'.*Did you mean 'best'"):
    cnnjax.load(trained, "bset")
  with pytest.raises(UserError, match=r"unknown weights 'emma'.*Did you mean 'ema'"):
    cnnjax.load(trained, weights="emma")
  with pytest.raises(UserError, match="holds no run"):
    cnnjax.load(tmp_path)
  with pytest.raises(UserError, match="unknown config key 'eval_view'"):
    cnnjax.load(trained, eval_view="flip")
  train.train(tiny(seeds=2, epochs=1), tmp_path / "seeds")
  with pytest.raises(UserError, match=r"holds several runs \(seed=0, seed=1\)"):
    cnnjax.load(tmp_path / "seeds")
  with pytest.raises(AttributeError, match="no attribute 'laod'"):
    cnnjax.laod  # noqa: B018


def command(*words):
  return run(lambda: predict.main([str(word) for word in words]))


def test_the_command(trained, photos, tmp_path, capsys):
  folder, file = photos / "green", photos / "red" / "0.png"
  expected = cnnjax.load(trained, "best").predict([file, *sorted(folder.iterdir())])
  capsys.readouterr()
  assert command(trained, file, folder, "--checkpoint=best") == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split("  ")[0] for line in lines] == list(expected.names)
  assert [line.split()[1] for line in lines] == expected.labels
  assert command(trained, file, folder, "--checkpoint=best", "--format=csv", "--top=2") == 0
  rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
  assert [row["class"] for row in rows if row["rank"] == "1"] == expected.labels
  assert float(rows[1]["probability"]) == pytest.approx(expected.top(2)[0][1][1], rel=1e-5)
  (tmp_path / "no.png").write_bytes(b"no image")
  assert command(trained, tmp_path, file, "--checkpoint=best", "--format=json") == 1
  shown = capsys.readouterr()
  (found,) = json.loads(shown.out)
  assert found["image"] == str(file) and found["classes"][0]["class"] == expected.labels[0]
  assert "left out, cannot be read" in shown.err and "no.png" in shown.err


@pytest.mark.parametrize(
  "words, message",
  [
    (["nowhere.png"], "there is no image nowhere.png"),
    ([".", "--format=xml"], "unknown format 'xml'"),
    ([".", "--top=0"], "--top=0: it must be above 0"),
    (["--checkpoint=last"], "required: IMAGE"),
  ],
)
def test_a_mistake_in_the_command(trained, words, message, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert command(trained, *words) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  (tmp_path / "no.png").write_bytes(b"no image")
  if not words[0].startswith("-") and len(words) == 1:
    assert command(trained, "no.png") == 2
    assert "none of 1 image can be read" in capsys.readouterr().err


def test_labels_of_a_model_of_several_classes_are_those_above_a_half():
  probabilities = np.array([[0.9, 0.6, 0.1], [0.2, 0.5, 0.1]], np.float32)
  both = predict.Predictions(
    ("a", "b"), ("cat", "dog", "owl"), {"probabilities": probabilities}, True
  )
  assert both.labels == [["cat", "dog"], []]
  assert both._replace(several=False).labels == ["cat", "dog"]
