"""Helpers of the model tests."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.models import ops


@functools.cache
def measure(name: str, num_classes: int, input_shape: tuple[int, int, int], **overrides):
  """(parameters, batch statistics, MACs for one image) of a model; nothing is computed."""
  with ops.plain():  # quicker to trace: rewritten, a depthwise convolution is dozens of operations
    return models.summarize(models.create(name, num_classes, **overrides), input_shape)


def check_counts(
  name: str,
  input_shape: tuple[int, int, int],
  parameters: dict[int, int],
  macs: int | None = None,
  statistics: int | None = None,
  **overrides,
):
  """Compares with reference counts: {classes: parameters}, and the rest at the first of them.

  At the second as well; the others must lie on the line through the two.
  """
  first, *others = parameters
  counted = measure(name, first, input_shape, **overrides)
  assert counted.parameters == parameters[first]
  assert statistics in (None, counted.statistics)
  assert macs is None or abs(counted.macs - macs) <= 0.005 * macs
  for classes in others[:1]:
    model, images = models.create(name, classes, **overrides), jnp.zeros((1, *input_shape))
    init = functools.partial(model.init, train=False)
    with ops.plain():
      params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters[classes]
  for classes in others[1:]:
    slopes = [(parameters[n] - parameters[first]) / (n - first) for n in (others[0], classes)]
    assert slopes[0] == slopes[1]


def random_variables(module, x):
  """Variables for module.apply(variables, x, train=...), drawn in numpy: no compilation."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    if leaf.ndim == 1:  # biases and all of batch norm, away from their initial values
      return jnp.asarray(rng.uniform(0.2, 0.8, leaf.shape), leaf.dtype)
    return jnp.asarray(rng.normal(0, math.prod(leaf.shape[:-1]) ** -0.5, leaf.shape), leaf.dtype)

  init = functools.partial(module.init, train=False)
  return jax.tree.map(draw, jax.eval_shape(init, jax.random.key(0), x))


@pytest.fixture(scope="session", name="measure")
def measure_fixture():
  return measure


@pytest.fixture(scope="session", name="random_variables")
def random_variables_fixture():
  return random_variables


@pytest.fixture(scope="session", name="check_counts")
def check_counts_fixture():
  return check_counts
