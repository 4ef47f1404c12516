"""A GAN from outside the package: two networks, two optimizers, one loop, one checkpoint."""

import io
import pathlib

import jax
import numpy as np
import pytest
from event_files import summaries
from PIL import Image

from cnnjax import build, registry, train
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


@pytest.mark.slow
def test_samples_are_shown_and_both_networks_averaged(tmp_path):
  """On eight devices, at each evaluation; see test_proofs.py for the rest of a run."""
  end, _, _ = train.train(preset(eval_every="3 steps"), tmp_path)
  pictures = pictured(tmp_path)
  tags = "test/samples", "test/ema_samples"
  assert pictures.keys() == {(tag, step) for tag in tags for step in (3, 6)}
  assert_drawn_by(end, pictures)
  assert end.opt_state.keys() == {"main", "critic"}
  for name in ("params", "batch_stats"):
    assert end.averages["ema"][name].keys() == {"generator", "critic"}


@pytest.mark.slow
def test_the_generator_learns_against_the_critic_as_it_is_by_then():
  """By two gradients that are taken one after another, and plain descent; the critic then rests."""
  plain = {"optim.name": "sgd", "optim.momentum": 0.0, "optim.b1": 0.9}
  own = (("critic", {"params": "^critic/", "every": 2, "learning_rate": 0.5}),)
  config = preset(**{"mesh.data": 1, "optim.learning_rate": 0.25, "optimizers": own, **plain})
  program = build.build(config)
  now, model = program.new_state(), program.model
  before = jax.tree.map(np.array, now.variables)
  batch = program.inputs.train.take(program.inputs.train.feed(0), now.step)
  examples = program.context.examples(now, batch, None)
  noise = jax.random.normal(examples.key, (len(examples.images), 16))
  now = program.train_step(now, program.inputs.train.feed(0), 1)
  after = jax.tree.map(np.array, now.variables)

  def applied(variables, *args):
    return model.apply(variables, *args, train=True, mutable=["batch_stats"])

  @jax.jit
  def draw(variables):
    return model.apply(variables, noise, train=True, mutable=["batch_stats"], method="draw")

  @jax.jit
  @jax.grad
  def of_critic(params):
    real, _ = applied({**before, "params": params}, examples.images)
    fake, _ = applied({**before, "params": params}, draw(before)[0])
    return -(jax.nn.log_sigmoid(real) + jax.nn.log_sigmoid(-fake)).mean()

  @jax.jit
  @jax.grad
  def of_generator(params):
    drawn, _ = draw({**before, "params": params})
    return -jax.nn.log_sigmoid(applied({**before, "params": params}, drawn)[0]).mean()

  def moved(params, name, rate, grads):
    descend = lambda p, g: p - rate * g
    return {**params, name: jax.tree.map(descend, params[name], grads[name])}

  by_then = moved(before["params"], "critic", 0.5, of_critic(before["params"]))
  expected = moved(by_then, "generator", 0.25, of_generator(by_then))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, after["params"], expected)

  # Each network sees a batch in training mode: the generator noise, the critic real and then drawn.
  drawn, seen = draw(before)
  for images in (examples.images, drawn):
    _, seen = jax.jit(applied)({**before, **seen}, images)
  jax.tree.map(close, after["batch_stats"], seen["batch_stats"])
  assert all(abs(x).max() > 0 for x in jax.tree.leaves(after["batch_stats"]))

  end = program.train_step(now, program.inputs.train.feed(1), 1).params
  stays = {
    name: [
      np.array_equal(a, b)
      for a, b in zip(*map(jax.tree.leaves, (end[name], after["params"][name])), strict=True)
    ]
    for name in ("critic", "generator")
  }
  assert all(stays["critic"]) and not any(stays["generator"])


@pytest.mark.parametrize(
  "overrides, words",
  [
    (
      {"optimizers": ()},
      "step 'gan' moves the parameters of an optimizer 'critic', and the config has 'main': set",
    ),
    (
      {
        "optimizers": (
          ("critic", {"params": "^critic/"}),
          ("other", {"params": "^gen.*/Dense"}),
        )
      },
      "step 'gan' never moves the parameters of the optimizer 'other': leave it out of optimizers",
    ),
    ({"optimizers": (("critic", {"params": "^judge/"}),)}, "'\\^judge/' matches no parameter"),
    ({"task.noise": 0}, "'task.noise' is 0; it must be above 0"),
  ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(overrides, words):
  with pytest.raises(UserError, match=words):
    config = preset(**overrides)
    build.validate(config)
    build.build(config)
