"""Adversarial training from outside the package, by a step of its own."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import build, evaluate, models, registry, tasks, train
from cnnjax import config as configs
from cnnjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
MODULE = "experiments.extending.adversarial"


@pytest.fixture(scope="module", autouse=True)
def registered(registry_of_file):
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    registry.import_modules([MODULE, "experiments.extending.run"])
    yield


def preset(name, **overrides):
  config = configs.load(f"{ROOT / 'experiments/extending/adversarial_config.py'}:{name}")
  for key, value in overrides.items():
    configs.override(config, key, value)
  return config


def test_images_move_by_the_size_up_their_loss():
  """Toward which the loss rises is told by small differences of one pixel at a time."""
  model = models.create("mlp", 3, features=(8,), dropout=0.0)
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(2, 2, 2, 1)), jnp.float32)
  targets = jax.nn.one_hot(jnp.array([0, 2]), 3)
  variables = model.init(jax.random.key(0), images, train=False)
  task = tasks.create(preset("fgsm").task, 3)
  moved = sys.modules[MODULE].moved(model, task, variables, images, targets, 0.1, None)
  loss = lambda x: task.loss(model.apply(variables, x, train=False), targets).sum()
  small = 1e-2 * np.eye(4).reshape(4, 2, 2, 1)
  for image in range(2):
    at = lambda x: images.at[image].add(x)  # noqa: B023
    rises = np.array([loss(at(x)) - loss(at(-x)) for x in small]).reshape(2, 2, 1)
    np.testing.assert_allclose(moved[image] - images[image], 0.1 * np.sign(rises), atol=1e-6)


@pytest.mark.slow
def test_it_holds_where_plain_training_does_not(tmp_path):
  """On test images that are moved as it was trained, in evaluation."""
  right = {}
  for name in ("plain", "fgsm"):
    train.train(preset(name, **{"mesh.data": 1}), tmp_path / name)
    accuracy = evaluate.evaluate_checkpoint(tmp_path / name)[2]["accuracy"]
    moved = sys.modules["experiments.extending.run"].on_moved_images(tmp_path / name)
    right[name] = accuracy, moved["moved_accuracy"]
  (plain, plain_moved), (fgsm, fgsm_moved) = right["plain"], right["fgsm"]
  assert min(plain, fgsm) > 0.96
  assert fgsm_moved > 0.86 and fgsm_moved > plain_moved + 0.08


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"step.name": "fgms"}, "unknown step 'fgms'. Did you mean 'fgsm'"),
    ({"health.every": 1}, "health.every looks into the standard step"),
    ({"step.size": 0.0}, "'step.size' is 0.0; it must be above 0"),
    ({"step.name": "standard", "step.size": 0.5}, "'step.size' is 0.5 and has no effect"),
  ],
)
def test_what_does_not_fit_is_refused(overrides, words):
  with pytest.raises(UserError, match=words):
    build.validate(preset("fgsm", **overrides))
