"""Helpers of the model tests."""

import collections
import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.models import ops, summary

HERE = pathlib.Path(__file__).parent
QUICK = 2  # variants of a family that are counted in the quick part


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
  """Leaves the counts of most variants to the slow part: they share the code of the first."""
  counted = collections.Counter()
  for item in items:
    if item.path.parent == HERE and getattr(item, "originalname", None) == "test_counts":
      counted[item.path] += 1
      if counted[item.path] > QUICK:
        item.add_marker(pytest.mark.slow)


@functools.cache
def traced(name: str, num_classes: int, input_shape: tuple[int, int, int], **overrides):
  """The shapes of a model's variables, and its `models.Summary`; nothing is computed."""
  model = models.create(name, num_classes, **overrides)
  images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  with ops.plain():  # quicker to trace: rewritten, a depthwise convolution is dozens of operations
    variables = jax.eval_shape(
      functools.partial(model.init, train=False), jax.random.key(0), images
    )
    return variables, summary.count(model, variables, images)


def measure(name: str, num_classes: int, input_shape: tuple[int, int, int], **overrides):
  """(parameters, batch statistics, MACs for one image) of a model."""
  return traced(name, num_classes, input_shape, **overrides)[1]


def check_counts(
  name: str,
  input_shape: tuple[int, int, int],
  parameters: dict[int, int],
  macs: int | None = None,
  statistics: int | None = None,
  **overrides,
):
  """Compares with reference counts: {classes: parameters}, and the rest at the first of them.

  At the others, the last axis of each layer that has one value for each class is another one.
  """
  first, *others = parameters
  variables, counted = traced(name, first, input_shape, **overrides)
  assert counted.parameters == parameters[first]
  assert statistics in (None, counted.statistics)
  assert macs is None or abs(counted.macs - macs) <= 0.005 * macs
  leaves = jax.tree.leaves(variables["params"])
  of_a_class = sum(leaf.size // first for leaf in leaves if leaf.shape[-1:] == (first,))
  for classes in others:
    assert counted.parameters + (classes - first) * of_a_class == parameters[classes]


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
