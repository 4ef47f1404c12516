"""Stages read out, and gradients with respect to them, on a tiny ResNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models

STRIDES = {"stem": 1, "stage1": 1, "stage2": 2}


@pytest.fixture(scope="module", name="net")
def net_fixture(random_variables):
  """A model, its variables, images; parameters away from their initial values."""
  model = models.create(
    "resnet18", 5, stage_sizes=(1, 1), stem_features=4, features=4, small_images=True
  )
  images = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
  return model, random_variables(model, images), images


@functools.cache
def _compiled(model):
  return jax.jit(functools.partial(models.features, model))


def test_maps_of_the_stages(net):
  model, variables, images = net
  maps = _compiled(model)(variables, images)
  assert {name: x.shape for name, x in maps.items()} == {
    "stem": (2, 6, 6, 4), "stage1": (2, 6, 6, 4), "stage2": (2, 3, 3, 8),
  }  # fmt: skip
  # The last one is what the head sees: mean, kernel, bias.
  head = variables["params"]["head"]
  logits = jnp.mean(maps["stage2"], axis=(1, 2)) @ head["kernel"] + head["bias"]
  expected = jax.jit(functools.partial(model.apply, train=False))(variables, images)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_in_the_order_of_the_network(net):
  """Where no jit sorts the keys."""
  model, variables, images = net
  order = []
  jax.eval_shape(lambda v: order.extend(models.features(model, v, images)), variables)
  assert order == [*STRIDES]


def test_feature_info(net):
  info = models.feature_info(net[0], (6, 6, 3))
  assert list(info) == [*STRIDES]
  assert {name: found.stride for name, found in info.items()} == STRIDES
  assert [found.width for found in info.values()] == [4, 4, 8]


def test_models_without_stages_have_none():
  assert models.feature_info(models.create("mlp", 5), (8, 8, 1)) == {}


def test_init_returns_no_features(net):
  model, variables, images = net
  for train in (False, True):
    init = functools.partial(model.init, train=train)
    assert set(jax.eval_shape(init, jax.random.key(0), images)) == {"params", "batch_stats"}
  # And nothing is kept unless asked for.
  _, kept = jax.eval_shape(
    lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]), variables
  )
  assert set(kept) == {"batch_stats"}


@pytest.fixture(scope="module", name="class_score")
def class_score_fixture(net):
  """The sum over the images of the logit of class 3, as a function of perturbations."""
  model, variables, images = net

  def score(perturbations):
    logits = model.apply({**variables, "perturbations": perturbations}, images, train=False)
    return jnp.sum(logits[:, 3])

  return score


def zeros_of(net, *names):
  model, variables, images = net
  maps = jax.eval_shape(functools.partial(models.features, model), variables, images)
  return {name: jnp.zeros(maps[name].shape) for name in names}


def test_gradient_of_the_last_stage_by_hand(net, class_score):
  """Behind it are a mean over 3x3 pixels and the head: each pixel has the same gradient."""
  gradient = jax.jit(jax.grad(class_score))(zeros_of(net, "stage2"))["stage2"]
  expected = net[1]["params"]["head"]["kernel"][:, 3] / 9
  np.testing.assert_allclose(gradient, np.broadcast_to(expected, (2, 3, 3, 8)), rtol=1e-5)


def test_gradient_of_an_inner_stage_by_finite_differences(net, class_score):
  """Of two stages at once. In float64, so that a step of 1e-6 meets no kink of a relu."""
  model, variables, images = net
  direction = {
    name: np.random.default_rng(i).normal(size=x.shape)
    for i, (name, x) in enumerate(zeros_of(net, "stem", "stage1").items())
  }
  with jax.enable_x64(True):
    double = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float64))
    variables, x, direction = double(variables), double(images), double(direction)
    wide = model.clone(dtype=jnp.float64)

    @jax.jit
    def score(perturbations):
      # The features with no pool or head in float32 behind them.
      _, kept = wide.apply(
        {**variables, "perturbations": perturbations}, x, train=False, mutable=["features"]
      )
      return jnp.sum(kept["features"]["stage2"].x ** 2)

    along = lambda size: jax.tree.map(lambda d: size * d, direction)
    numeric = (score(along(1e-6)) - score(along(-1e-6))) / 2e-6
    gradient = jax.jit(jax.grad(score))(along(0.0))
    exact = sum(jnp.vdot(gradient[name], direction[name]) for name in direction)
    assert abs(exact) > 0.1
    np.testing.assert_allclose(numeric, exact, rtol=1e-5)
