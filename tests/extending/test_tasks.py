"""Tasks from outside the package: segmentation, SimCLR, BYOL, mean teacher; see test_proofs.py."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score
from sklearn.neighbors import KNeighborsClassifier

import cnnjax
from cnnjax import build, data, evaluate, predict, registry, tasks, train
from cnnjax import config as configs
from cnnjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
MODULES = [f"experiments.extending.{name}" for name in ("shapes", "segmentation", "simclr", "byol")]


@pytest.fixture(scope="module", autouse=True)
def registered(registry_of_file):
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    registry.import_modules(MODULES)
    yield


def preset(name, **overrides):
  file, _, one = name.partition(":")
  config = configs.load(str(ROOT / f"experiments/extending/{file}_config.py") + (one and f":{one}"))
  settings = {
    "mesh.data": 1, "epochs": "4 steps", "batch_size": 16, "optim.schedule.warmup": "1 steps",
    "data.validation": None,
  }  # fmt: skip
  if file == "segmentation":
    settings["model"] = {"name": "simple_cnn", "conv_features": (4, 4)}
  else:
    settings["model"] = {"name": "simple_cnn", "conv_features": (4,), "dense_features": (8,)}
  config.model = settings.pop("model")
  for key, value in {**settings, **overrides}.items():
    configs.override(config, key, value)
  return config


def task_of(name, outputs, **keys):
  config = preset(name).task
  config.update(**keys)
  return tasks.create(config, outputs)


def test_segmentation_is_measured_as_scikit_learn_does():
  """Over batches, without pixels that do not count and examples that are padding."""
  rng = np.random.default_rng(0)
  task = task_of("segmentation", 4)
  logits = rng.normal(0, 1, (9, 6, 5, 4)).astype(np.float32)
  masks = rng.integers(0, 4, (9, 6, 5)).astype(np.uint8)
  masks[rng.random(masks.shape) < 0.2] = 255
  logits += 2 * np.eye(4)[np.minimum(masks, 3)]
  total = task.no_metrics()
  for rows in (slice(0, 4), slice(4, 9)):
    x, y = jnp.asarray(logits[rows]), jnp.asarray(masks[rows])
    mask = jnp.arange(len(x)) < 4
    total = total.merge(task.metrics(x, y, task.loss(x, y), mask))
  kept, true = masks[:8] != 255, masks[:8]
  found, predicted = tasks.compute(total), logits[:8].argmax(-1)
  expected = jaccard_score(true[kept], predicted[kept], average="macro")
  assert found["miou"] == pytest.approx(expected, rel=1e-6)
  per_image = [(p == t)[k].mean() for p, t, k in zip(predicted, true, kept, strict=True)]
  assert found["pixel_accuracy"] == pytest.approx(np.mean(per_image), rel=1e-6)
  log_p = np.asarray(jax.nn.log_softmax(logits[:8]))
  picked = np.take_along_axis(log_p, np.minimum(true, 3)[..., None].astype(int), -1)[..., 0]
  losses = [-p[k].mean() for p, k in zip(picked, kept, strict=True)]
  assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_mask_and_its_image_move_together():
  """Each pixel's colour still says its class, and what comes in from outside does not count."""
  config = preset("segmentation", augment="flip | rotate(30) | random_resized_crop((0.4, 0.8))")
  masks = np.zeros((32, 16, 16), np.uint8)
  masks[:, 4:12, 2:8] = 1
  images = np.where(masks[..., None] == 1, 240, 10).astype(np.uint8)
  part = {"image": images, "mask": masks}
  given = data.from_arrays(part, part)
  program = build.build(data.with_given(config, given), given)
  now, constants = program.new_state(), None
  batch = program.inputs.train.take(program.inputs.train.feed(0), now.step)
  examples = program.context.examples(now, batch, constants)
  bright = np.asarray(examples.images[..., 0])
  mask = np.asarray(examples.targets)
  middle = (bright.min() + bright.max()) / 2
  for x, m in zip(bright, mask, strict=True):
    # Away from edges, where bilinear and nearest differ.
    sure = (abs(x - middle) > 0.45 * (bright.max() - bright.min())) & (m != 255)
    assert sure.mean() > 0.4 and ((x > middle) == (m == 1))[sure].mean() > 0.98
  assert not (mask == masks[: len(mask)]).all()


def test_nt_xent_is_its_formula():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(5, 2, 7))
  found = task_of("simclr", 7, temperature=0.3).loss({"embedding": jnp.asarray(z)}, None)
  flat = z.reshape(10, 7)
  cos = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  losses = []
  for i in range(10):
    others = [np.exp(cos(flat[i], flat[k]) / 0.3) for k in range(10) if k != i]
    losses.append(-np.log(np.exp(cos(flat[i], flat[i ^ 1]) / 0.3) / sum(others)))
  np.testing.assert_allclose(found, np.reshape(losses, (5, 2)).mean(-1), rtol=1e-4)


def test_the_two_views_of_a_step_differ_and_its_seed_makes_them():
  program = build.build(preset("simclr"))
  now = program.new_state()
  batch = program.inputs.train.take(program.inputs.train.feed(0), now.step)
  images = np.asarray(program.context.examples(now, batch, None).images)
  assert images.shape[:2] == (16, 2) and images.shape[2:] == (8, 8, 1)
  assert all(abs(one - other).max() > 0.05 for one, other in images)
  again = np.asarray(program.context.examples(now, batch, None).images)
  np.testing.assert_array_equal(images, again)
  distance = lambda a, b: ((a - b) ** 2).mean((-3, -2, -1))
  own, other = (
    distance(images[:, 0], images[:, 1]),
    distance(images[:, 0], np.roll(images[:, 1], 1, 0)),
  )
  assert own.mean() < other.mean()  # they are of one image


def test_neighbours_are_those_of_scikit_learn_without_the_image_itself():
  rng = np.random.default_rng(0)
  label = rng.integers(0, 3, 60)
  features = rng.normal(0, 1, (60, 4)) + 2 * np.eye(4)[label]
  found = task_of("simclr", 7).split_metrics({"features": features, "label": label})
  right = 0
  for i in range(60):
    others = np.arange(60) != i
    model = KNeighborsClassifier(5, metric="cosine").fit(features[others], label[others])
    right += model.predict(features[i : i + 1])[0] == label[i]
  assert found["knn"] == pytest.approx(right / 60)
  assert task_of("simclr", 7).split_metrics({}) == {}


def test_the_spread_is_0_of_a_collapse_and_1_of_a_sphere():
  rng = np.random.default_rng(0)
  task = task_of("simclr", 16)
  spread = lambda z, mask: task.eval_metrics(
    {"embedding": jnp.asarray(z, jnp.float32)}, None, jnp.asarray(mask)
  ).compute()["spread"]
  of_sphere = rng.normal(size=(4000, 16))
  assert spread(of_sphere, np.ones(4000, bool)) == pytest.approx(1, abs=0.02)
  one = np.tile(rng.normal(size=16), (64, 1)) * rng.uniform(1, 9, (64, 1))
  assert spread(one, np.ones(64, bool)) < 1e-2
  padded = np.concatenate([one, of_sphere])
  assert spread(padded, np.arange(4064) < 64) < 1e-2


def test_byol_learns_toward_the_average_of_its_own_run():
  """The loss of a step by hand: the teacher is the average, and takes the other view."""
  program = build.build(preset("byol"))
  now = program.new_state()
  now = program.train_step(now, program.inputs.train.feed(0), 1)
  average = now.averages["ema"]
  batch = program.inputs.train.take(program.inputs.train.feed(1), now.step)
  examples = program.context.examples(now, batch, None)
  apply = lambda variables, x: program.model.apply(
    {k: variables[k] for k in ("params", "batch_stats")}, x, train=False
  )
  flat = np.asarray(examples.images).reshape(32, 8, 8, 1)
  for k, leaf in apply(average, flat).items():
    np.testing.assert_allclose(
      np.asarray(examples.teacher_outputs[k]).reshape(leaf.shape), leaf, rtol=2e-4, atol=1e-5
    )
  outputs = jax.tree.map(lambda x: x.reshape(16, 2, -1), apply(now.variables, flat))
  unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)
  p, z = unit(outputs["prediction"]), unit(examples.teacher_outputs["embedding"])
  expected = (4 - 2 * (p[:, 0] * z[:, 1]).sum(-1) - 2 * (p[:, 1] * z[:, 0]).sum(-1)) / 2
  found = program.losses(outputs, examples, {})
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet20", "densenet40_k12", "mobilenetv2_100"])
def test_a_head_takes_any_backbone(backbone):
  """Traced alone: the class of each pixel, and the backbone under its own name."""
  config = preset("segmentation")
  config.model = {"name": backbone}
  model = tasks.network(task_of("segmentation", 4), config)
  run = lambda key: model.init_with_output(key, jnp.zeros((2, 32, 32, 3)), train=False)
  outputs, variables = jax.eval_shape(run, jax.random.key(0))
  assert outputs.shape == (2, 32, 32, 4)
  assert {"backbone", "smooth", "classes"} <= {*variables["params"]}


@pytest.mark.parametrize("name", ["segmentation", "simclr"])
def test_a_model_without_feature_maps_takes_no_head(name):
  @cnnjax.register("model", f"plain_for_{name}")
  class Plain(nn.Module):
    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
      return nn.Dense(self.num_classes)(x.mean((1, 2)))

  config = preset(name)
  config.model = {"name": f"plain_for_{name}"}
  with pytest.raises(UserError, match=f"plain_for_{name} cannot take the head.*derive Plain from"):
    tasks.network(task_of(name, 4), config)


def test_masks_are_predicted_and_not_printed(tmp_path, capsys):
  train.train(preset("segmentation"), tmp_path / "run")
  model = cnnjax.load(tmp_path / "run")
  images = np.zeros((2, 32, 32, 3), np.uint8)
  assert model.predict(images).values["mask"].shape == (2, 32, 32)
  Image.fromarray(images[0]).save(tmp_path / "a.png")
  with pytest.raises(UserError, match=r"are arrays \(mask \[32, 32\]\): read them in Python"):
    predict.main([str(tmp_path / "run"), str(tmp_path / "a.png")])
  run = tmp_path / "run"
  for mirrored in (
    lambda: cnnjax.load(run, eval_views="flip"),
    lambda: model.evaluate(eval_views="flip"),
    lambda: evaluate.evaluate_checkpoint(run, eval_views="flip"),
    lambda: evaluate.main([f"--workdir={run}", "--views=flip"]),
  ):
    with pytest.raises(UserError, match="moves the image, and predictions for the field 'mask'"):
      mirrored()


@pytest.mark.parametrize(
  "name, overrides, words",
  [
    ("segmentation", {"augment": "mixup(0.2)"}, "mixup.*mask"),
    ("segmentation", {"eval_views": "flip"}, "eval_views: 'flip' moves the image"),
    ("segmentation", {"task.head": "top"}, "head of segmentation: task.head 'top'.*top_down"),
    ("segmentation", {"data.source": "digits"}, "segmentation needs a field of the kind mask"),
    ("simclr", {"monitor": "validation/loss"}, "Choose from: validation/knn, validation/spread"),
    ("simclr", {"data.source": "shapes"}, "monitor 'validation/knn'.*validation/spread"),
    ("simclr", {"accumulate": 2}, "simclr compares all its examples: set accumulate=1"),
    ("simclr", {"task.temperature": 0.0}, "'task.temperature' is 0.0; it must be above 0"),
    ("simclr", {"health.trace": True}, "health.trace needs one view per image"),
    (
      "byol",
      {"distill.teacher": None},
      "set distill.teacher=ema, distill.weight=1 and average.ema",
    ),
    ("byol", {"distill.weight": 0.5}, "byol learns only from the moving average of its own run"),
    ("byol", {"average.ema": None}, "set average.ema"),
    ("byol:mean_teacher", {"average.ema": None}, "set average.ema"),
    ("byol:mean_teacher", {"distill.weight": 1.5}, "'distill.weight' is 1.5; it must be"),
  ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(name, overrides, words):
  with pytest.raises(UserError, match=words):
    config = preset(name, **overrides)
    build.validate(config)
    build.build(config)
