"""Arrays from Python: what is taken, what is refused, and a run on them."""

import numpy as np
import pytest

import cnnjax
from cnnjax import data, evaluate, main, train
from cnnjax.config import default, override
from cnnjax.errors import UserError, run
from cnnjax.runtime import sharding

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(60) % 3
SEVERAL = np.eye(3, dtype=int)[LABELS]


def test_arrays_become_splits():
  splits = data.from_arrays(
    (IMAGES, LABELS), (IMAGES[:9], LABELS[:9]), (IMAGES[9:12], LABELS[9:12])
  )
  assert list(splits) == ["train", "validation", "test"]
  assert [len(split) for split in splits.values()] == [60, 3, 9]
  train_split = splits["train"]
  assert train_split.images is IMAGES, "images are not copied"
  np.testing.assert_array_equal(train_split.labels, LABELS)
  assert train_split.labels.dtype == np.int32 and train_split.shape == (8, 8, 1)
  assert all(split.classes == ("0", "1", "2") for split in splits.values())
  assert list(data.from_arrays((IMAGES, LABELS))) == ["train"]


def test_forms_that_are_taken():
  grey = data.from_arrays((IMAGES[..., 0], LABELS.astype(np.int8)))["train"]
  np.testing.assert_array_equal(grey.images, IMAGES)
  named = data.from_arrays((IMAGES, LABELS.tolist()), classes=["a", "b", "c", "d"])["train"]
  assert named.classes == tuple("abcd") and named.labels.dtype == np.int32
  for several in (SEVERAL, SEVERAL.astype(bool), SEVERAL.astype(float)):
    split = data.from_arrays((IMAGES, several))["train"]
    assert split.labels.dtype == np.uint8 and len(split.classes) == 3
    np.testing.assert_array_equal(split.labels, SEVERAL)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      {"train": (IMAGES / 255, LABELS)},
      r"uint8, uint16 or float32 .*, not float64 .*\(images \* 255\)\.round\(\)",
    ),
    (
      {"train": (IMAGES > 9, LABELS)},
      r"not bool .* \(images \* 255\)\.round\(\)\.astype\('uint8'\)",
    ),
    (
      {"train": (IMAGES.astype(int), LABELS)},
      r"not int64 .* give images\.round\(\)\.astype\('uint8'",
    ),
    ({"train": (IMAGES.astype("u4") * 257, LABELS)}, r"uint32 .* give \(images / 65535 \* 255\)"),
    ({"train": (IMAGES * 16.0, LABELS)}, r"float64 .* give \(images / 4095 \* 255\)"),
    ({"train": (IMAGES * np.float32(np.inf), LABELS)}, "are float32, and some values are infinite"),
    (
      {"test": (IMAGES.astype("u2"), LABELS)},
      "test: images are uint16, and those of train are uin",
    ),
    ({"train": (IMAGES * np.nan, LABELS)}, "float64 .* and not all of them are finite"),
    ({"train": (IMAGES / 127 - 1, LABELS)}, r"from -1 to 1\.007\d*: scale them to 0 to 255"),
    ({"train": (IMAGES[0, ..., 0], LABELS)}, r"train: images must be uint8.*, not uint8 \[8, 8\]"),
    ({"train": (IMAGES, LABELS[:-1])}, r"train: 60 images and labels of shape \[59\]"),
    ({"train": (IMAGES[:0], LABELS[:0])}, "train has no images"),
    ({"train": (IMAGES, LABELS[:, None, None])}, r"train: 60 images and labels of .*\[60, 1, 1\]"),
    ({"train": (IMAGES, LABELS - 1)}, "train: label -1 is out of range; classes count from 0"),
    ({"train": (IMAGES, LABELS / 2)}, "train: labels must be integers, or zeros and ones"),
    ({"train": (IMAGES, LABELS.astype(str))}, "train: labels must be integers"),
    ({"train": (IMAGES, SEVERAL * 2)}, r"labels must be integers, or zeros and ones \[n, num"),
    ({"train": (IMAGES, LABELS), "classes": "ab"}, "train: label 2 is out of range for 2 classes"),
    ({"train": (IMAGES, SEVERAL), "classes": "abcd"}, "train: labels have 3 columns for 4 classes"),
    ({"classes": ["a", "b", "a"]}, "classes: one name stands for two classes: 'a', 'a'$"),
    ({"classes": ["caf\u00e9", "b", "cafe\u0301"]}, "classes: one name stands for two classes"),
    ({"test": (IMAGES, LABELS + 1)}, "test: label 3 is out of range for 3 classes"),
    ({"test": (IMAGES[:, :7], LABELS)}, r"test: images of \(7, 8, 1\), and those of train are"),
    ({"test": (np.repeat(IMAGES, 3, 3), LABELS)}, r"test: images of \(8, 8, 3\), and those of"),
    (
      {"test": (IMAGES, SEVERAL)},
      "test: labels are zeros and ones, unlike train",
    ),
    (
      {"train": (IMAGES, SEVERAL), "test": (IMAGES, LABELS)},
      "test: labels are classes, unlike train",
    ),
    ({"train": IMAGES}, r"train must be a pair \(images, labels\)"),
    ({"test": LABELS}, r"test must be a pair \(images, labels\)"),
    ({"train": (IMAGES, LABELS, LABELS)}, r"train must be a pair \(images, labels\)"),
    (
      {"train": ([IMAGES[0], IMAGES[0, :5]], [0, 1])},
      "train: all images must have one size: ",
    ),
    ({"train": (IMAGES, LABELS * 0)}, "train has only one class"),
  ],
)
def test_bad_arrays_are_one_line(arguments, message):
  with pytest.raises(UserError, match=message) as e:
    data.from_arrays(**{"train": (IMAGES, LABELS), **arguments})
  assert "\n" not in str(e.value)


FIELDS = {
  "image": IMAGES[:3],
  "mask": np.zeros((3, 8, 8), np.uint8),
  "boxes": np.tile(np.float32([0, 0, 0.5, 1]), (3, 2, 1)),
  "value": np.float32([0, 1, 2]),
}


@pytest.mark.parametrize(
  "split, change, message",
  [
    ("train", {"image": None}, "train has no 'image', and has 'mask', 'boxes', 'value'"),
    ("train", {"depth": np.zeros(3)}, "field 'depth' has no kind: give kinds={'depth': KIND"),
    ("train", {"value": [[1], [2, 3], [4]]}, "train: all of value must have one shape: "),
    ("train", {"value": np.zeros(2)}, r"train: 3 images and value of shape \[2\]"),
    ("train", {"value": 1.0}, r"train: 3 images and value of shape \[\]"),
    ("train", {"value": np.zeros((3, 1, 1))}, r"must be numbers \[n\] or \[n, k\], not float64 "),
    ("train", {"value": np.array(["a", "b", "c"])}, "train: value must be numbers"),
    ("train", {"value": np.array([0, np.inf, 1])}, "value has values that are infinite or NaN"),
    ("train", {"mask": np.zeros((3, 8, 8))}, r"must be integers \[n, height, width\], the class"),
    ("train", {"mask": np.zeros((3, 8), int)}, "mask must be integers"),
    (
      "train",
      {"mask": np.uint8([0, 0, 255]).reshape(3, 1, 1) * np.ones((8, 8), np.uint8)},
      r"mask has only 0 and 255, .* give \(mask == 255\).astype\('uint8'\), if 255 is class 1",
    ),
    ("train", {"mask": np.full((3, 8, 8), -1)}, "mask -1 is out of range; classes count from 0"),
    ("train", {"mask": np.full((3, 8, 8), 2**16)}, "mask 65536 is out of range"),
    ("train", {"mask": np.zeros((3, 8, 7), int)}, r"mask of shape \[3, 8, 7\] is not \[n, height"),
    ("train", {"boxes": np.zeros((3, 4))}, r"boxes must be \[n, m, 4\], ymin, xmin, ymax, xmax in"),
    ("train", {"boxes": np.zeros((3, 2, 5))}, r"boxes must be \[n, m, 4\]"),
    ("train", {"boxes_label": np.zeros((3, 3), int)}, r"boxes_label of shape \[3, 3\] is not"),
    ("train", {"boxes_label": np.full((3, 2), -1)}, "boxes_label -1 is out of range"),
    ("train", {"boxes": FIELDS["boxes"] * 8}, "boxes must be ymin, xmin, ymax, xmax from 0 to 1, "),
    ("train", {"boxes": FIELDS["boxes"] - 0.1}, "boxes must be ymin, xmin, ymax, xmax from 0 to 1"),
    (
      "train",
      {"boxes": FIELDS["boxes"][..., ::-1], "boxes_valid": np.ones((3, 2), bool)},
      "boxes must be ymin, xmin, ymax, xmax from 0 to 1, shares of the height and width, the",
    ),
    (
      "train",
      {"boxes": FIELDS["boxes"] * [1, 1, 0, 1], "boxes_valid": np.ones((3, 2), bool)},
      "boxes must be ymin, xmin, ymax, xmax from 0 to 1",
    ),
    ("test", {"value": None}, "test has image, mask, boxes, and train has image, mask, boxes, v"),
    ("test", {"value": np.zeros((3, 2))}, "test: an example of value has another shape than in tr"),
    ("test", {"boxes": FIELDS["boxes"][:, :1]}, "test: an example of boxes has another shape"),
    ("test", {"mask": np.full((3, 8, 8), 1)}, "test: mask 1 is out of range for 1 classes"),
    ("test", {"boxes_label": np.ones((3, 2), int)}, "test: boxes 1 is out of range for 1 classes"),
  ],
)  # fmt: skip
def test_bad_fields_are_one_line(split, change, message):
  data.from_arrays(FIELDS, FIELDS)
  changed = {name: array for name, array in {**FIELDS, **change}.items() if array is not None}
  with pytest.raises(UserError, match=message) as e:
    data.from_arrays(**{"train": FIELDS, "test": FIELDS, split: changed})
  assert "\n" not in str(e.value)


def test_boxes_without_a_height_or_a_width_are_not_there():
  boxes = FIELDS["boxes"].copy()
  boxes[0, 1, 2], boxes[1, 0, 3] = 0, 0
  split = data.from_arrays({**FIELDS, "boxes": boxes})["train"]
  expected = [[True, False], [False, True], [True, True]]
  np.testing.assert_array_equal(split.arrays["boxes_valid"], expected)


@pytest.mark.parametrize(
  "shape, order",
  [
    ((60, 3, 32, 32), (0, 2, 3, 1)),
    ((60, 1, 28, 28), (0, 2, 3, 1)),
    ((60, 4, 8, 5), (0, 2, 3, 1)),
    ((32, 32, 3, 60), (3, 0, 1, 2)),
    ((60, 3, 32, 3), None),  # strips, and more channels than colours have
    ((60, 32, 3, 3), None),
    ((60, 1, 32, 1), None),
    ((60, 8, 8, 13), None),
    ((60, 5, 5, 60), None),
  ],
)
def test_axes_in_another_order_are_refused_with_the_transposition(shape, order):
  images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  if order is None:
    assert data.from_arrays((images, LABELS))["train"].shape == shape[1:]
    return
  with pytest.raises(UserError, match=r"give images\.transpose\(" + ", ".join(map(str, order))):
    data.from_arrays((images, LABELS))
  given = data.from_arrays((images.transpose(order), LABELS))
  assert given["train"].shape == tuple(np.array(shape)[list(order)][1:])


@pytest.mark.parametrize("key", ["train", "validation", "test"])
def test_names_of_splits(key):
  config = default()
  config.data.source = "arrays"
  override(config, f"data.{key}", "train[:50%]")
  with pytest.raises(UserError, match=rf"data\.{key} of arrays must be '{key}', a share or a num"):
    data.check(config.data)


# Runs


@pytest.fixture(scope="module")
def splits():
  return data.from_arrays((IMAGES, LABELS), (IMAGES[:20], LABELS[:20]))


@pytest.fixture(scope="module")
def settings(tiny):
  """Of a run that is over in a second, without a source."""

  def make(**overrides):
    return tiny(
      **{
        "epochs": 1,
        "augment": None,
        "data.source": "digits",
        "optim.schedule.warmup": 0,
        **overrides,
      }
    )

  return make


@pytest.fixture(scope="module")
def trained(settings, splits, tmp_path_factory):
  """(workdir, metrics) of a run on arrays."""
  workdir = tmp_path_factory.mktemp("arrays") / "run"
  _, metrics, _ = train.train(settings(), workdir, splits)
  return workdir, metrics


@pytest.mark.smoke
def test_a_run_on_arrays_is_evaluated_and_goes_on(settings, splits, trained, capsys):
  workdir, metrics = trained
  step, examples, found = evaluate.evaluate_checkpoint(workdir, splits=splits)
  assert (step, examples, found["accuracy"]) == (3, 20, metrics["test/accuracy"])
  assert evaluate.evaluate_checkpoint(workdir, "train", splits=splits)[1] == 60
  end, _, _ = train.train(settings(epochs=2), workdir, splits)
  assert int(end.step) == 6 and "going on from step 3" in capsys.readouterr().out


def test_without_the_arrays_a_run_says_what_to_do(settings, trained, tmp_path, capsys):
  """From the command line, to go on and to evaluate."""
  workdir, _ = trained
  config = tmp_path / "config.py"
  config.write_text(
    "import pathlib\nfrom cnnjax import config\n"
    f"def get_config():\n  return config.from_json(pathlib.Path({str(workdir)!r}, 'config.json')"
    ".read_text())\n"
  )
  for command, argv in (
    (main.main, [f"--config={config}", f"--workdir={workdir}", "--config.epochs=5"]),
    (evaluate.main, [f"--workdir={workdir}"]),
  ):
    assert run(lambda command=command, argv=argv: command(argv)) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert "which only Python can give" in line and "splits=data.from_arrays" in line


def test_splits_that_were_not_given(settings, splits, trained):
  workdir, _ = trained
  only = data.from_arrays((IMAGES, LABELS))
  with pytest.raises(UserError, match=r"no test split: give one, or hold out .* data\.test=0\.2"):
    train.train(settings(), workdir.parent / "none", only)
  assert not (workdir.parent / "none").exists()
  with pytest.raises(UserError, match="'test' is not among the arrays given: train"):
    evaluate.evaluate_checkpoint(workdir, "test", splits=only)
  with pytest.raises(UserError, match="no validation split"):
    evaluate.evaluate_checkpoint(workdir, "validation", splits=splits)


def test_a_validation_split_that_is_given_is_used(settings):
  thirds = [(IMAGES[i * 20 :][:20], LABELS[i * 20 :][:20]) for i in range(3)]
  three = data.from_arrays(*thirds)
  config = data.with_given(settings(batch_size=8), three)
  inputs = data.open_inputs(config, sharding.make_mesh(1), three)
  assert list(inputs.evaluations) == ["validation", "test"] and inputs.length.steps_per_epoch == 2
  for name, (images, _) in zip(("test", "validation"), thirds[1:], strict=True):
    np.testing.assert_array_equal(inputs.evaluations[name].split.images, images)


@pytest.mark.parametrize("key", ["validation", "test"])
def test_a_split_that_is_given_is_not_held_out_as_well(settings, key):
  three = data.from_arrays(*[(IMAGES[i * 20 :][:20], LABELS[i * 20 :][:20]) for i in range(3)])
  with pytest.raises(UserError, match=f"a {key} split is given too"):
    data.with_given(settings(**{f"data.{key}": 0.5}), three)


def test_other_arrays_than_those_of_the_run_are_refused(trained):
  """A model of three classes on five."""
  workdir, _ = trained
  other = data.from_arrays((IMAGES, np.arange(60) % 5), (IMAGES, np.arange(60) % 5))
  with pytest.raises(UserError):
    evaluate.evaluate_checkpoint(workdir, splits=other)


@pytest.mark.parametrize(
  "name, labels, message",
  [
    ("classification", SEVERAL, "may have several: set task.name=multi_label"),
    ("multi_label", LABELS, "an image has one: set task.name=classification"),
  ],
)
@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_labels_that_do_not_fit_the_task(settings, tmp_path, pipeline, name, labels, message):
  wrong = data.from_arrays((IMAGES, labels), (IMAGES, labels))
  config = settings(**{"task.name": name, "data.pipeline": pipeline})
  with pytest.raises(UserError, match=message) as e:
    train.train(config, tmp_path / "run", wrong)
  assert "\n" not in str(e.value) and not (tmp_path / "run").exists()


def test_several_labels_are_learnt(settings, tmp_path):
  several = data.from_arrays((IMAGES, SEVERAL), (IMAGES, SEVERAL))
  _, metrics, _ = train.train(settings(**{"task.name": "multi_label"}), tmp_path, several)
  assert {"test/f1", "test/f1_macro"} <= metrics.keys()
  found = evaluate.evaluate_checkpoint(tmp_path, splits=several)
  assert found[1] == 60 and found[2]["f1"] == metrics["test/f1"]
  predictions = cnnjax.load(tmp_path, splits=several).predict(list(IMAGES[:3]))
  above = [{str(i) for i in np.flatnonzero(p > 0.5)} for p in predictions.probabilities]
  assert [{*labels} for labels in predictions.labels] == above


def test_a_run_knows_its_classes_in_any_spelling_but_in_their_order():
  data.check_classes(("caf\u00e9", "1.0"), ("cafe\u0301", "1"))
  with pytest.raises(
    UserError, match=r"the same 2 classes in another order: where it has '1' they"
  ):
    data.check_classes(("1", "-1"), ("-1", "1"))


@pytest.mark.parametrize(
  "found, words",
  [
    ("abcd", "these data also have 'c', 'd'"),
    ("a", "these data lack 'b'"),
    ("ac", "these data lack 'b' and also have 'c'"),
  ],
)
def test_classes_that_came_or_went_are_named(found, words):
  with pytest.raises(UserError) as e:
    data.check_classes(("a", "b"), tuple(found))
  assert f"other classes (2) than these data have ({len(found)}): {words}: give the data" in str(
    e.value
  )
