"""Every example counts once: for any batch size, any number of devices, in either pipeline."""

import re
import shutil
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from PIL import Image

from cnnjax import augment, checkpoints, data, evaluate, models, tasks, train, writers
from cnnjax.checkpoints import trained_on
from cnnjax.config import default
from cnnjax.data import folder as folders
from cnnjax.data import holdout
from cnnjax.data.images import center_crop
from cnnjax.errors import Stopped, UserError, run
from cnnjax.optim import averaging
from cnnjax.registry import register
from cnnjax.runtime import sharding
from cnnjax.tasks.metric import Metric
from cnnjax.training import passes, state


@pytest.fixture(scope="module")
def pieces():
  """A model with random statistics, and a split of 101 examples, a prime."""
  config = default()
  config.data.source = "synthetic"
  config.data.synthetic.test_examples, config.data.synthetic.image_size = 101, 8
  split = data.load(config.data, ("test",))["test"]
  model = models.create("resnet20", 10)
  mesh = sharding.make_mesh(1)
  shape = state.abstract_variables(model, split.images.shape[1:], mesh)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: np.abs(rng.normal(0.1, 0.1, x.shape)).astype(np.float32), shape
  )
  task = tasks.create(config.task, 10)
  normalize = passes.normalizer((0.5,) * 3, (0.2,) * 3)
  predicted = passes.predicted_outputs(model, task, normalize, augment.views.create(None))
  step = passes.eval_step(task, predicted)
  return config.data, split, variables, step


def test_same_for_every_batch_size_device_count_and_pipeline(pieces):
  config, split, variables, step = pieces
  results, jitted = {}, jax.jit(step)
  for devices in (1, 8):
    mesh = sharding.make_mesh(devices)
    placed = sharding.put(variables, sharding.replicated(mesh))
    for kind in (data.Resident, data.Streaming):
      more = (data.Skipped(0),) if kind is data.Streaming else ()
      pipeline = kind(split, config, mesh, *more)
      for batch_size in (7, 64, 1000):
        found = tasks.compute(evaluate.evaluate(jitted, placed, pipeline, batch_size))
        results[devices, kind.__name__, batch_size] = found
  # The reference knows no batches: one example at a time, added up in float64.
  losses, correct = [], []
  for image, label in zip(split.images, split.labels, strict=True):
    one = jitted(variables, {"image": image[None], "label": label[None]}, np.ones(1, bool))
    losses.append(float(one.sums.loss.total))
    correct.append(float(one.sums.accuracy.total))
  for key, result in results.items():
    assert result["accuracy"] == float(f"{np.float32(sum(correct) / 101):.7g}"), key
    assert result["loss"] == pytest.approx(np.mean(losses, dtype=np.float64), rel=1e-5), key
  for devices in (1, 8):
    for batch_size in (7, 64, 1000):
      a, b = (results[devices, kind, batch_size] for kind in ("Resident", "Streaming"))
      assert a == b


@pytest.mark.smoke
def test_checkpoint_gives_what_training_reported(tiny, tmp_path):
  config = tiny(**{"data.validation": 21, "epochs": 4})
  _, metrics, _ = train.train(config, tmp_path)
  for batch_size in (7, 1000):
    step, examples, found = evaluate.evaluate_checkpoint(
      tmp_path, "test", eval_batch_size=batch_size
    )
    assert (step, examples) == (20, 37)
    assert found["accuracy"] == metrics["test/accuracy"]
    assert found["loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
  step, examples, found = evaluate.evaluate_checkpoint(tmp_path, "validation", "best")
  assert examples == 21 and found["accuracy"] >= metrics["validation/accuracy"]
  assert evaluate.evaluate_checkpoint(tmp_path, "train")[1] == 80


def test_wrong_input_is_named(tiny, tmp_path):
  with pytest.raises(UserError, match="holds no run"):
    evaluate.evaluate_checkpoint(tmp_path / "nowhere")
  train.train(tiny(epochs=1), tmp_path)
  with pytest.raises(UserError, match="Did you mean 'test'"):
    evaluate.evaluate_checkpoint(tmp_path, "tets")
  with pytest.raises(UserError, match="no validation split"):
    evaluate.evaluate_checkpoint(tmp_path, "validation")
  with pytest.raises(UserError, match=r"holds no best checkpoint.*data.validation"):
    evaluate.evaluate_checkpoint(tmp_path, checkpoint="best")


def test_command_prints_the_result(tiny, tmp_path, capsys):
  _, metrics, _ = train.train(tiny(epochs=1), tmp_path)
  capsys.readouterr()
  assert evaluate.main([f"--workdir={tmp_path}", "--batch_size=10"]) == 0
  assert f"37 examples: accuracy {metrics['test/accuracy']:.2%}" in capsys.readouterr().out


# Views, sizes and crops


@pytest.fixture(scope="module")
def photos():
  """Splits of images of 12x12, of three classes of different size."""
  images = np.random.default_rng(0).integers(0, 256, (101, 12, 12, 1), dtype=np.uint8)
  labels = np.sort(np.arange(101) ** 2 % 3 + np.arange(101) % 2)
  return data.from_arrays((images, labels), (images[::3], labels[::3]))


@pytest.fixture(scope="module")
def fixres(tiny, photos, tmp_path_factory):
  """(workdir, last state, metrics) of a run that trains on 8 pixels and evaluates on 10, twice."""
  config = tiny(**{
    "epochs": 1, "data.source": "arrays", "data.image_size": 8, "data.eval_size": 10,
    "data.eval_crop": 0.9, "eval_views": "flip",
  })  # fmt: skip
  config.model = {"name": "resnet20", "stage_sizes": (1,), "features": 4, "stem_features": 4}
  workdir = tmp_path_factory.mktemp("fixres")
  end, metrics, _ = train.train(config, workdir, photos)
  return workdir, end, metrics


IDENTITY, MIRROR = (lambda images: images), (lambda images: images[:, :, ::-1])


def by_hand(end, photos, images, views, split="test"):
  """(loss, accuracy) of the mean of the probabilities over `views` of uint8 `images`."""
  options = {"stage_sizes": (1,), "features": 4, "stem_features": 4}
  model, labels = models.create("resnet20", 3, **options), photos[split].labels
  trained_on = np.stack([center_crop(image, 8) for image in photos["train"].images]) / 255
  seen = lambda view: (view(images) / 255 - trained_on.mean()) / trained_on.std()
  logits = [model.apply(end.variables, jnp.asarray(seen(v)), train=False) for v in views]
  mean = np.mean([scipy.special.softmax(np.asarray(x, float), axis=-1) for x in logits], axis=0)
  right = mean.argmax(-1) == labels
  return -np.log(mean[np.arange(len(labels)), labels]).mean(), right.mean()


@pytest.mark.smoke
def test_predictions_are_means_of_probabilities_over_views(fixres, photos):
  """In training and of its checkpoint, whose size, crop and views may be others."""
  workdir, end, metrics = fixres
  crops = lambda size, crop: np.stack([center_crop(x, size, crop) for x in photos["test"].images])
  both = by_hand(end, photos, crops(10, 0.9), [IDENTITY, MIRROR])
  assert (metrics["test/loss"], metrics["test/accuracy"]) == pytest.approx(both, rel=1e-5)
  results = {both}
  for size, crop, spec, views in (
    (10, 0.9, None, [IDENTITY]), (10, 0.9, "flip", [IDENTITY, MIRROR]),
    (10, 0.8, None, [IDENTITY]), (14, 1.0, "flip", [IDENTITY, MIRROR]),
    (None, 1.0, None, [IDENTITY]),
  ):  # fmt: skip
    expected = by_hand(end, photos, crops(size or 8, crop), views)
    results.add(expected)
    overrides = {"data.eval_size": size, "data.eval_crop": crop, "eval_views": spec}
    for pipeline in ("resident", "streaming"):
      overrides["data.pipeline"] = pipeline
      _, examples, found = evaluate.evaluate_checkpoint(workdir, splits=photos, **overrides)
      assert examples == 34
      assert (found["loss"], found["accuracy"]) == pytest.approx(expected, rel=1e-5), overrides
  every = np.stack([center_crop(x, 10, 0.9) for x in photos["train"].images])
  _, examples, found = evaluate.evaluate_checkpoint(workdir, "train", splits=photos)
  assert examples == 101  # by the crop of evaluation
  expected = by_hand(end, photos, every, [IDENTITY, MIRROR], "train")
  assert (found["loss"], found["accuracy"]) == pytest.approx(expected, rel=1e-5)
  assert len({loss for loss, _ in results}) == 5, "each must differ for this test to see anything"


@pytest.mark.parametrize(
  "model, sizes, size",
  [
    ({"name": "simple_cnn"}, {"data.eval_size": 10}, "10"),
    ({"name": "simple_cnn"}, {"data.progressive": (4, 6)}, "[46]"),
    ({"name": "mlp"}, {"data.eval_size": 9}, "9"),
    ({"name": "lenet5"}, {"data.image_size": 28, "data.eval_size": 36}, "36"),
  ],
)
def test_a_model_for_one_size_refuses_another(tiny, photos, tmp_path, model, sizes, size):
  config = tiny(**{"data.source": "arrays", "data.image_size": 8, **sizes})
  config.model = model
  message = rf"is made for images of \d+ pixels, and would see some of {size} \(data\.eval_size, da"
  with pytest.raises(UserError, match=message) as e:
    train.train(config, tmp_path / "run", photos)
  assert "\n" not in str(e.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("image_size", [None, 8])
def test_a_checkpoint_for_one_size_refuses_another(tiny, photos, tmp_path, image_size):
  config = tiny(**{"epochs": 1, "data.source": "arrays", "data.image_size": image_size})
  train.train(config, tmp_path, photos)
  message = "would see some of 16 .data.eval_size" + ("" if image_size else "|of another model: ")
  for pipeline in ("resident", "streaming"):
    overrides = {"data.eval_size": 16, "data.pipeline": pipeline}
    with pytest.raises(UserError, match=message) as e:
      evaluate.evaluate_checkpoint(tmp_path, splits=photos, **overrides)
    assert "\n" not in str(e.value)


def test_the_classes_must_be_those_of_the_run(fixres, photos):
  images, labels = photos["test"].images, photos["test"].labels
  other = data.from_arrays((images, labels), (images, labels), classes=("0", "2", "1"))
  with pytest.raises(UserError, match="where it has '1' they have '2'"):
    evaluate.evaluate_checkpoint(fixres[0], splits=other)


@pytest.mark.parametrize(
  "metrics, said",
  [
    ({"loss": 0.5, "loss_ci95": 0.25, "loss/seed=0": 0.4}, " loss 0.5000 ± 0.2500"),
    (
      {"loss/rate=0.01": 0.5, "loss/rate=1": 2},
      "\n  rate=0.01  loss 0.5000\n  rate=1     loss 2.0000",
    ),
  ],
)
def test_runs_of_several_rates_have_a_row_each(monkeypatch, capsys, tmp_path, metrics, said):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "runs/x").mkdir(parents=True)
  (tmp_path / "runs/x/config.json").touch()
  declared = {"loss": Metric("loss", "min", ".4f")}
  found = evaluate.Evaluation("test", 3, 5, metrics, declared)
  monkeypatch.setattr(evaluate, "_evaluated", lambda *_, **__: found)
  evaluate.main(["--workdir=runs/x"])
  words = "runs/x, last checkpoint (step 3), test split, 5 examples:"
  assert capsys.readouterr().out == f"{words}{said}\n"


def test_each_flag_of_the_command_is_taken(fixres, monkeypatch):
  asked = {}

  def noted(workdir, **args):
    asked.update(args, workdir=workdir)
    return evaluate.Evaluation("train", 3, 5, {"accuracy": 0.25}, {})

  monkeypatch.setattr(evaluate, "_evaluated", noted)
  words = "--split=train --checkpoint=best --weights=ema --batch_size=7 --views=flip --size=9 "
  words += f"--data_dir=here --path=there --workdir={fixres[0]}"
  assert evaluate.main(words.split()) == 0
  assert asked.pop("overrides") == {
    "eval_batch_size": 7, "eval_views": "flip",
    "data.eval_size": 9, "data.data_dir": "here", "data.path": "there",
  }  # fmt: skip
  assert asked == {
    "workdir": fixres[0], "split": "train", "checkpoint": "best", "weights": "ema", "splits": None,
    "unreadable": {},
  }  # fmt: skip


# Images that cannot be read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two classes of PNG files; one to train on and two to test on are cut off."""
  root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
  for split, n in (("train", 24), ("test", 9)):
    for i in range(n):
      file = root / split / "ab"[i % 2] / f"{i:02}.png"
      file.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).save(file)
  for file in ("train/a/02.png", "test/b/01.png", "test/a/08.png"):
    (root / file).write_bytes((root / file).read_bytes()[:60])
  return root


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_unreadable_images_are_named_and_not_counted(tiny, folder, tmp_path, pipeline, capsys):
  """In the workdir, of the last evaluation too; and by the command that evaluates."""
  config = tiny(**{
    "data.source": "folder", "data.path": str(folder), "data.image_size": 8,
    "data.pipeline": pipeline, "data.channels": 1, "epochs": 2, "batch_size": 8,
  })  # fmt: skip
  _, metrics, _ = train.train(config, tmp_path)
  lines = (tmp_path / "unreadable.txt").read_text().splitlines()
  assert [line.split("\t")[0] for line in lines] == [
    str(folder / name) for name in ("test/a/08.png", "test/b/01.png", "train/a/02.png")
  ]
  assert all("truncated" in line for line in lines)
  assert capsys.readouterr().out.count("skipped, cannot be read:") == 3
  _, examples, found = evaluate.evaluate_checkpoint(tmp_path)
  assert examples == 7
  assert found["accuracy"] == metrics["test/accuracy"] in [float(f"{i / 7:.7g}") for i in range(8)]
  assert evaluate.evaluate_checkpoint(tmp_path, "train")[1] == 23  # none stands in for another
  assert evaluate.main([f"--workdir={tmp_path}"]) == 0
  printed = capsys.readouterr().out
  assert ", 7 examples:" in printed
  (line,) = [line for line in printed.splitlines() if line.startswith("left out")]
  assert line.startswith("left out: 2 images that cannot be read, such as ") and "truncated" in line
  with pytest.raises(UserError, match=r"2 images cannot be read, and data\.max_unreadable is 1"):
    evaluate.evaluate_checkpoint(tmp_path, **{"data.max_unreadable": 1})
  shutil.copytree(folder, tmp_path / "broken")
  for image in (tmp_path / "broken" / "test").rglob("*.png"):
    image.write_bytes(b"nothing")
  with pytest.raises(UserError, match=r"none of the images .*can be read"):
    evaluate.evaluate_checkpoint(tmp_path, **{"data.path": str(tmp_path / "broken")})


def test_a_metric_may_be_asked_for_after_training(fixres, photos, own_registry):
  """The task is that of the config with what differs."""
  register("metric", "halves", of="classification", better="min")(
    lambda task, logits, targets: jnp.full(len(logits), 0.5)
  )
  own = {"task.metrics": ("halves",), "splits": photos}
  assert evaluate.evaluate_checkpoint(fixres[0], **own)[2]["halves"] == 0.5


@pytest.fixture(scope="module")
def trained(tiny, folder, tmp_path_factory):
  """The workdir of a run on the images of `folder` to train on, of which it holds some out."""
  config = tiny(**{
    "data.source": "folder", "data.path": str(folder / "train"), "data.image_size": 8, "epochs": 1,
    "batch_size": 4, "data.channels": 1,
  })  # fmt: skip
  workdir = tmp_path_factory.mktemp("trained")
  train.train(config, workdir)
  return workdir


@pytest.mark.parametrize("source", ["folder", "arrays"])
def test_all_is_every_split_together(trained, fixres, photos, source):
  workdir, splits = {"folder": (trained, None), "arrays": (fixres[0], photos)}[source]
  of = lambda split, **more: evaluate.evaluate_checkpoint(workdir, split, splits=splits, **more)
  parts = [of(split)[1:] for split in ("train", "test")]
  n = sum(examples for examples, _ in parts)
  for pipeline in ("resident", "streaming"):
    _, examples, found = of("all", **{"data.pipeline": pipeline})
    assert examples == n
    for key in ("accuracy", "loss"):
      mean = sum(examples * metrics[key] for examples, metrics in parts) / n
      assert found[key] == pytest.approx(mean, rel=1e-5)


def test_images_of_another_place_are_all_evaluated(trained, folder, tmp_path, capsys):
  """A list or folder without splits; one class of it that the run has suffices."""
  new = tmp_path / "new"
  (new / "deep" / "b").mkdir(parents=True)
  for i in range(2, 9):
    shutil.copy(folder / "test" / "ab"[i % 2] / f"{i:02}.png", new / "deep" / "b" / f"{i}.png")
  (new / "deep" / "b" / "1.heic").touch()
  (new / "list.csv").write_text(
    "path,label,n\n" + "".join(f"deep/b/{i}.png,b,0\n" for i in range(2, 9))
  )
  results = []
  for path, remark in ((new / "deep", "not read: 1 .heic"), (new / "list.csv", "not used: ")):
    assert evaluate.main([f"--workdir={trained}", f"--path={path}"]) == 0
    printed = capsys.readouterr()
    assert ", all images, 6 examples: accuracy" in printed.out
    assert f"warning: {path} has no splits: all of its images are evaluated" in printed.err
    assert f"warning: {path}: {remark}" in printed.err
    results.append(evaluate.evaluate_checkpoint(trained, "all", **{"data.path": str(path)})[2])
  assert results[0] == results[1]
  (new / "deep" / "c").mkdir()
  shutil.copy(folder / "test" / "b" / "03.png", new / "deep" / "c")
  with pytest.raises(UserError, match=r"not trained on: c\. It knows a, b; rename them, or take"):
    evaluate.evaluate_checkpoint(trained, **{"data.path": str(new / "deep")})


def test_the_folder_of_a_run_may_have_moved(trained, folder, tmp_path, capsys, monkeypatch):
  """What the run held out is evaluated, as before, unless all is asked for."""
  run = shutil.copytree(trained, tmp_path / "run")
  path = shutil.copytree(folder / "train", tmp_path / "moved")
  moved = {"data.path": str(path)}
  assert evaluate.evaluate_checkpoint(run, **moved) == evaluate.evaluate_checkpoint(trained)
  said = capsys.readouterr().err
  assert f"{path} has what this run was trained on: what it held out" in said
  assert "are new" not in said
  assert evaluate.evaluate_checkpoint(run, "all", **moved)[1] == 23  # one is cut off
  assert " of these 23 images were trained on by this run: " in capsys.readouterr().err
  for i in range(9):
    Image.fromarray(np.full((9, 11, 3), 20 * i, np.uint8)).save(path / "a" / f"new{i}.png")
  evaluate.evaluate_checkpoint(run, "test", **moved)
  assert re.search(
    r"test images that the run had, 0 are gone; [1-9] are new", capsys.readouterr().err
  )
  (run / trained_on.FILE).unlink()
  with pytest.raises(UserError, match=r"^put .*run/trained_on\.json back: it says which images"):
    evaluate.evaluate_checkpoint(run, **moved)
  monkeypatch.setattr(checkpoints, "newest_format", lambda workdir: 1)  # of runs that kept none yet
  evaluate.evaluate_checkpoint(run, **moved)
  assert "if they are those that this run was trained on, choose" in capsys.readouterr().err
  for seed in range(5):  # in one of them the file that is cut off
    evaluate.evaluate_checkpoint(run, "test", **moved, **{"data.split_seed": seed})
    assert f"the test split is {data.holdout.OLDER}" in capsys.readouterr().err


def test_statistics_are_measured_on_the_images_of_the_run(trained, folder, monkeypatch):
  """Whatever images are evaluated."""
  asked, meta = [], checkpoints.Checkpoints.meta
  unmeasured = lambda *args: {**meta(*args), checkpoints.UNMEASURED: ["raw"]}
  monkeypatch.setattr(checkpoints.Checkpoints, "meta", unmeasured)
  monkeypatch.setattr(averaging, "needs_measuring", lambda *_: True)
  noted = lambda _, config, *args, **given: asked.append(config.data.path)
  monkeypatch.setattr("cnnjax.trained.measured_variables", noted)
  evaluate.evaluate_checkpoint(trained, "all", **{"data.path": str(folder / "test")})
  assert asked == [str(folder / "train")]


def test_splits_go_by_several_names(trained):
  assert evaluate.evaluate_checkpoint(trained, "eval") == evaluate.evaluate_checkpoint(trained)
  with pytest.raises(UserError, match="no validation split"):
    evaluate.evaluate_checkpoint(trained, "val")


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_too_many_unreadable_images_are_one_line(tiny, folder, tmp_path, pipeline, capsys):
  config = tiny(**{
    "data.source": "folder", "data.path": str(folder), "data.image_size": 8, "batch_size": 8,
    "data.pipeline": pipeline, "data.max_unreadable": 2,
  })  # fmt: skip
  assert run(lambda: train.train(config, tmp_path)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: 3 images cannot be read, and data.max_unreadable is 2: ")


# Class weights


def test_class_weights_act_in_training_alone(tiny, photos, tmp_path):
  """The rate of the first step is 0, so that all runs evaluate the same parameters after it."""
  counts = np.bincount(photos["train"].labels)
  assert len(set(counts)) > 1
  losses = {}
  for weights in (None, "auto", tuple(101 / (len(counts) * counts))):
    config = tiny(**{
      "epochs": "3 steps", "data.source": "arrays", "task.class_weights": weights, "augment": None,
      "log_every": "1 steps", "eval_every": "1 steps",
    })  # fmt: skip
    workdir = tmp_path / str(type(weights))
    train.train(config, workdir, photos)
    lines = {}
    for line in writers.read_metrics(workdir):
      lines = lines | line if line["step"] == 1 else lines
    losses[type(weights)] = lines["train/loss"], lines["test/loss"]
  assert losses[str][0] == losses[tuple][0] != losses[type(None)][0]
  assert losses[str][1] == losses[tuple][1] == losses[type(None)][1]


# The parts of an evaluation, by hand.
class Sums(NamedTuple):
  """What a batch comes to; `merge` puts one behind the other."""

  batches: tuple
  examples: np.ndarray
  collected: dict

  def merge(self, other):
    joined = {k: [*x, *other.collected[k]] for k, x in self.collected.items()}
    return Sums(self.batches + other.batches, self.examples + other.examples, joined)

  def replace(self, collected):
    assert all(type(x) is np.ndarray for x in collected.values())
    return self._replace(collected=collected)


def summed(batches, stop=lambda: None, examples=2, collected=True):
  """The result of `evaluate` over batches whose sums are their own names."""
  pipeline = types.SimpleNamespace(once=lambda size: [(f"{b} of {size}", b) for b in batches])
  found = {"x": jnp.ones(1)} if collected else {}
  step = lambda variables, batch, mask: Sums(
    ((variables, batch, mask),), np.asarray(examples), dict(found)
  )
  return evaluate.evaluate(step, "v", pipeline, 7, stop)


def test_the_batches_of_a_split_are_merged_in_their_order():
  found = summed("abc")
  assert found.batches == tuple(("v", f"{b} of 7", b) for b in "abc")
  assert found.examples == 6 and found.collected == {"x": [1, 1, 1]}
  assert summed("ab", collected=False).collected == {}


def test_an_evaluation_ends_before_the_next_batch():
  asked = []
  with pytest.raises(Stopped):
    summed("abc", lambda: asked.append(0) or len(asked) == 3)
  assert len(asked) == 3
  assert len(summed("abc", lambda: False).batches) == 3


@pytest.mark.parametrize("batches, examples", [("", 2), ("ab", 0), ("ab", [2, 0])])
def test_a_split_of_which_nothing_can_be_read(batches, examples):
  with pytest.raises(UserError, match=r"^none of the images of the split can be read$"):
    summed(batches, examples=examples)


class Before:
  """The record of a run, which notes what it is asked."""

  def __init__(self, known="", changed=""):
    self.known, self.differs, self.asked = known, changed, []

  def overlap(self, images):
    self.asked.append("overlap")
    return self.known

  def check(self, images):
    self.asked.append("check")

  def changed(self, split, images):
    self.asked.append(split)
    return self.differs


@pytest.mark.parametrize(
  "split, asked, said",
  [
    ("all", ["overlap"], ["known"]), ("train", [], []),
    ("test", ["check", "test"], ["changed"]), ("validation", ["check", "validation"], ["changed"]),
  ],
)  # fmt: skip
def test_a_split_is_compared_with_that_of_the_run(capsys, split, asked, said):
  for before, words in ((Before("known", "changed"), said), (Before(), [])):
    for note in ("", f"more; {holdout.OLDER}, and so on"):
      evaluate._compare(before, split, types.SimpleNamespace(note=note))
      more = [f"the {split} split is {note}"] if note else []
      lines = capsys.readouterr().err.splitlines()
      assert lines == [f"warning: {text}" for text in [*words, *more]]
    assert before.asked == [*asked, *asked]


def test_names_of_splits():
  for name in (None, "all", "train", "validation", "test"):
    assert evaluate._named(name) == name
  assert [evaluate._named(name) for name in ("val", "eval")] == ["validation", "test"]
  with pytest.raises(
    UserError, match=r"unknown split 'tst'\. Did you mean 'test'\? Choose from: all"
  ):
    evaluate._named("tst")


@pytest.mark.parametrize(
  "split, overrides, has_splits, by, share, chosen, said",
  [
    (None, (), False, "content", 0.9, "test", None),
    ("train", ("data.path",), False, "content", 0.9, "train", None),
    (None, ("data.path",), True, "content", 0.9, "test", None),
    (None, ("data.path",), False, "content", 0.51, "test",
     "here has what this run was trained on: what it held out is evaluated"),
    (None, ("data.path",), False, "content", 0.5, "all",
     "here has no splits: all of its images are evaluated"),
    (None, ("data.path",), False, "", 0.9, "all",
     "here has no splits: all of its images are evaluated; if they are those that this run was "
     "trained on, choose --split=test"),
    (None, ("data.size",), False, "content", 0.9, "test", None),
  ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["folder", "npz"])
def test_which_split_is_meant(
  monkeypatch, capsys, split, overrides, has_splits, by, share, chosen, said, source
):
  checked = []
  monkeypatch.setattr(data, "has_splits", lambda config: has_splits)
  monkeypatch.setattr(data, "check", checked.append)
  monkeypatch.setattr(folders, "whole", lambda config: "whole")
  config = types.SimpleNamespace(path="here", source=source)
  found = types.SimpleNamespace(config=types.SimpleNamespace(data=config), overrides=overrides)
  before = types.SimpleNamespace(by=by, share=lambda images: {"whole": share}[images])
  assert evaluate._chosen(found, split, before) == chosen
  assert capsys.readouterr().err == (f"warning: {said}\n" if said else "")
  assert checked == [config] * (chosen != "all" or source != "folder")
