"""A GAN from outside the package: two networks, two optimizers, one loop, one checkpoint."""

import io
import pathlib
import sys

import jax
import numpy as np
import pytest
from event_files import summaries
from PIL import Image

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


def pictured(folder):
  """{(tag, step): uint8 [height, width]} of the pictures of a run."""
  found = [(s, value) for s, value in summaries(folder) if value.HasField("image")]
  assert len({(value.tag, s) for s, value in found}) == len(found)
  read = lambda image: np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
  return {(value.tag, s): read(value.image) for s, value in found}


def assert_drawn_by(state, pictures):
  """The samples of the last step are of these weights and their average, on one device as well."""
  alone = build.build(preset(**{"mesh.data": 1})).pictures
  for tag, variables in (("samples", state.variables), ("ema_samples", state.averages["ema"])):
    found = alone.taken(jax.device_get(variables), np.asarray(state.seed), "test")["samples"]
    assert found.shape == (100, 8, 8, 1)
    grid = pictures["test/" + tag, 6]
    assert grid.shape == (89, 89)
    for place, image in enumerate(found):
      top, left = 9 * (place // 10), 9 * (place % 10)
      tile = grid[top : top + 8, left : left + 8].astype(float)
      np.testing.assert_allclose(tile, 255 * image[..., 0], atol=1)
  assert (pictures["test/samples", 6] != pictures["test/ema_samples", 6]).any()


def test_it_is_stopped_and_goes_on_to_the_bit(tmp_path, stop_at):
  """On eight devices; both optimizers are saved, both networks averaged, and samples shown."""
  config = preset(eval_every="3 steps")
  whole, _, _ = train.train(config, tmp_path / "whole")
  with stop_at(4):
    train.train(config, tmp_path / "parts")
  assert checkpoints.last_step(tmp_path / "parts") == 4
  parts, _, _ = train.train(config, tmp_path / "parts")
  pictures, again = pictured(tmp_path / "whole"), pictured(tmp_path / "parts")
  tags = "test/samples", "test/ema_samples"
  assert pictures.keys() == again.keys() == {(tag, step) for tag in tags for step in (3, 6)}
  assert all((picture == again[key]).all() for key, picture in pictures.items())
  assert_drawn_by(whole, pictures)
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
  images, targets = (lambda x: (x.images, x.targets))(program.context.examples(now, batch, None))
  key = program.context.examples(now, batch, None).key
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
      "step 'gan' moves the parameters of an optimizer 'critic', and the config has 'main': set",
    ),
    (
      {"optimizers": (("critic", {"params": "^critic/"}), ("other", {"params": "^gen.*/Conv"}))},
      "step 'gan' never moves the parameters of the optimizer 'other': leave it out of optimizers",
    ),
    ({"optimizers": (("critic", {"params": "^judge/"}),)}, "'\\^judge/' matches no parameter"),
  ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(overrides, words):
  with pytest.raises(UserError, match=words):
    build.build(preset(**overrides))
