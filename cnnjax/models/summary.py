"""Counts the parameters and multiply-accumulates of a model from its shapes."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.models import ops


class Summary(NamedTuple):
  """The size of a model. MACs are of convolutions and products for one image, with padding."""

  parameters: int
  statistics: int  # moving averages of batch norm
  macs: int


def summarize(model: nn.Module, input_shape: tuple[int, int, int]) -> Summary:
  """Returns the counts for one image of `[height, width, channels]`, without running the model.

  Auxiliary heads count in the parameters but not in the MACs, as they do not run in evaluation.
  """
  images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  with ops.plain():
    init = functools.partial(model.init, train=False)
    return count(model, jax.eval_shape(init, jax.random.key(0), images), images)


def count(model: nn.Module, variables: Any, images: Any) -> Summary:
  """Returns the counts of a model whose variables and image have these shapes."""
  with ops.plain():  # so that every convolution is one
    jaxpr = jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, images)
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  return Summary(
    size(variables["params"]),
    size(variables.get("batch_stats", {})),
    sum(_macs(equation) for equation in _equations(jaxpr.jaxpr)),
  )


def _equations(jaxpr: Any) -> Iterator[Any]:
  for equation in jaxpr.eqns:
    repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
    inner = [
      value
      for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
      if _is_jaxpr(value)
    ]
    if not inner:
      yield equation
    for value in inner:
      yield from list(_equations(getattr(value, "jaxpr", value))) * repeats


def _is_jaxpr(value: Any) -> bool:
  return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _macs(equation: Any) -> int:
  output = math.prod(equation.outvars[0].aval.shape)
  if equation.primitive.name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return output * math.prod(kernel) // out_features
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    return output * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
  return 0
