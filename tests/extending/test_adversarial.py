"""Adversarial training from outside the package, by a step of its own."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import build, checkpoints, evaluate, models, registry, train, writers
from cnnjax import config as configs
from cnnjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
MODULE = "experiments.extending.adversarial"


@pytest.fixture(scope="module", autouse=True)
def registered(registry_of_file):
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    registry.import_modules([MODULE])
    yield


def preset(name, **overrides):
  config = configs.load(f"{ROOT / 'experiments/extending/adversarial_config.py'}:{name}")
  for key, value in overrides.items():
    configs.override(config, key, value)
  return config


def test_it_is_stopped_and_goes_on_to_the_bit(tiny, tmp_path, stop_at):
  config = tiny(**{"step.name": "fgsm", "imports": (MODULE,), "mesh.data": 8, "epochs": 1})
  whole, _, _ = train.train(config, tmp_path / "whole")
  with stop_at(3):
    train.train(config, tmp_path / "parts")
  assert checkpoints.last_step(tmp_path / "parts") == 3
  parts, _, _ = train.train(config, tmp_path / "parts")
  found = checkpoints.paths(parts)
  for path, x in checkpoints.paths(whole).items():
    assert np.asarray(x).tobytes() == np.asarray(found[path]).tobytes(), path
  _, _, evaluated = evaluate.evaluate_checkpoint(tmp_path / "parts")
  lines = [line for line in writers.read_metrics(tmp_path / "whole") if "test/loss" in line]
  assert evaluated["loss"] == pytest.approx(lines[-1]["test/loss"], rel=1e-5)


@pytest.mark.slow
def test_it_holds_where_plain_training_does_not(tmp_path):
  """On test images that are moved as it was trained, in evaluation."""
  right = {}
  for name in ("plain", "fgsm"):
    config = preset(name, **{"mesh.data": 1})
    now, _, _ = train.train(config, tmp_path / name)
    program = build.build(config)
    split, meta = program.inputs.evaluations["test"].split, program.inputs.meta
    images = np.stack([np.asarray(split.images[i]) for i in range(len(split))]) / 255
    images = jnp.asarray((images - np.array(meta["mean"])) / np.array(meta["std"]), jnp.float32)
    labels = np.asarray(split.labels)
    logits = lambda x: models.forward(program.model, now.variables, x)  # noqa: B023
    loss = lambda x: program.task.loss(logits(x), jax.nn.one_hot(labels, 10)).sum()  # noqa: B023
    moved = images + sys.modules[MODULE].SIZE * jnp.sign(jax.grad(loss)(images))
    right[name] = [float((logits(x).argmax(-1) == labels).mean()) for x in (images, moved)]
  (plain, plain_moved), (fgsm, fgsm_moved) = right["plain"], right["fgsm"]
  assert min(plain, fgsm) > 0.96
  assert fgsm_moved > 0.86 and fgsm_moved > plain_moved + 0.08


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"step.name": "fgms"}, "unknown step 'fgms'. Did you mean 'fgsm'"),
    ({"health.every": 1}, "health.every looks into the standard step"),
  ],
)
def test_what_does_not_fit_is_refused(overrides, words):
  with pytest.raises(UserError, match=words):
    build.validate(preset("fgsm", **overrides))
