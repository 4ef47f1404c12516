"""A GAN from outside the package: two networks, two optimizers, one loop, one checkpoint."""

import pathlib
import sys

import jax
import numpy as np
import pytest

from cnnjax import build, checkpoints, evaluate, registry, train, writers
from cnnjax import config as configs
from cnnjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
MODULE = "experiments.extending.gan"


@pytest.fixture(scope="module", autouse=True)
def registered(registry_of_file):
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    registry.import_modules([MODULE])
    yield


def preset(**overrides):
  config = configs.load(str(ROOT / "experiments/extending/gan_config.py"))
  settings = {"mesh.data": 8, "epochs": "6 steps", "batch_size": 32, "average.ema": 0.9}
  for key, value in {**settings, **overrides}.items():
    configs.override(config, key, value)
  return config


def test_it_is_stopped_and_goes_on_to_the_bit(tmp_path, stop_at):
  """On eight devices; both optimizers are saved, and both networks averaged."""
  whole, _, _ = train.train(preset(), tmp_path / "whole")
  with stop_at(4):
    train.train(preset(), tmp_path / "parts")
  assert checkpoints.last_step(tmp_path / "parts") == 4
  parts, _, _ = train.train(preset(), tmp_path / "parts")
  leaves = lambda now: checkpoints.paths(now)
  for path, x in leaves(whole).items():
    assert np.asarray(x).tobytes() == np.asarray(leaves(parts)[path]).tobytes(), path
  assert whole.opt_state.keys() == {"main", "critic"} and whole.steps_done == 6
  assert whole.averages["ema"]["params"].keys() == {"generator", "critic"}
  _, _, found = evaluate.evaluate_checkpoint(tmp_path / "parts")
  lines = [line for line in writers.read_metrics(tmp_path / "whole") if "test/loss" in line]
  assert found["loss"] == pytest.approx(lines[-1]["test/loss"], rel=1e-5)


def test_the_generator_learns_against_the_critic_as_it_is_by_then():
  """By two gradients that are taken one after another, and plain descent."""
  plain = {"optim.name": "sgd", "optim.momentum": 0.0, "optim.b1": 0.9, "augment": None}
  own = (("critic", {"params": "^critic/", "name": "sgd", "learning_rate": 0.5}),)
  config = preset(**{"mesh.data": 1, "optim.learning_rate": 0.25, "optimizers": own, **plain})
  program = build.build(config)
  now = program.new_state()
  before = jax.tree.map(np.array, now.params)
  batch = program.inputs.train.take(program.inputs.train.feed(0), now.step)
  images, targets = (lambda x: (x.images, x.targets))(program.parts.examples(now, batch, None))
  key = program.parts.examples(now, batch, None).key
  module = sys.modules[MODULE]
  noise = jax.random.normal(key, (len(images), module.NOISE))
  after = program.train_step(now, program.inputs.train.feed(0), 1).params

  def judged(params, x, real):
    logits, classes = module.Critic(10).apply({"params": params["critic"]}, x)
    sign = 1 if real else -1
    of_class = -(targets * jax.nn.log_softmax(classes)).sum(-1)
    return (of_class - jax.nn.log_sigmoid(sign * logits)).mean()

  draw = lambda params: module.Generator().apply({"params": params["generator"]}, noise, targets)
  first = jax.grad(lambda p: judged(p, images, True) + judged(p, draw(before), False))(before)
  critic = jax.tree.map(lambda p, g: p - 0.5 * g, before["critic"], first["critic"])
  by_then = {**before, "critic": critic}
  second = jax.grad(lambda p: judged(p, draw(p), True))(by_then)
  generator = jax.tree.map(lambda p, g: p - 0.25 * g, before["generator"], second["generator"])
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, after, {"critic": critic, "generator": generator})


@pytest.mark.parametrize(
  "overrides, words",
  [
    (
      {"optimizers": ()},
      "step 'gan' moves the parameters of an optimizer 'critic', and",
    ),
    ({"optimizers": (("critic", {"params": "^judge/"}),)}, "'\\^judge/' matches no parameter"),
  ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(overrides, words):
  with pytest.raises(UserError, match=words):
    build.build(preset(**overrides))
