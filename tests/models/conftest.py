"""Helpers of the model tests."""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models


def _equations(jaxpr) -> Iterator:
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
      if _is_jaxpr(value):
        yield from _equations(getattr(value, "jaxpr", value))


def _is_jaxpr(value) -> bool:
  return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _macs(equation) -> int:
  """Multiply-accumulates of one equation, padding included: convolutions and products only."""
  output = math.prod(equation.outvars[0].aval.shape)
  if equation.primitive.name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return output * math.prod(kernel) // out_features
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    return output * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
  return 0


@functools.cache
def measure(name: str, num_classes: int, input_shape: tuple[int, int, int], **overrides):
  """(parameters, batch statistics, MACs for one image) of a model; nothing is computed."""
  model = models.create(name, num_classes, **overrides)
  trace = jax.make_jaxpr(functools.partial(model.init, train=False), return_shape=True)
  jaxpr, variables = trace(jax.random.key(0), jnp.zeros((1, *input_shape)))
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  macs = sum(_macs(equation) for equation in _equations(jaxpr.jaxpr))
  return size(variables["params"]), size(variables.get("batch_stats", {})), macs


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
