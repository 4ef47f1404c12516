"""Norms of parameters, gradients and updates: pure functions for the training step.

All in float32. The ratio |update| / |parameters| is the relative speed of a layer.
"""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp


def totals(params: Any, grads: Any, updates: Any) -> dict[str, jax.Array]:
  """Returns "grad_norm", "param_norm" and "update_ratio" over all parameters, [] float32 each."""
  p, g, u = (jnp.sqrt(sum(_squares(tree).values())) for tree in (params, grads, updates))
  return {"grad_norm": g, "param_norm": p, "update_ratio": _ratio(u, p)}


def by_layer(params: Any, grads: Any, updates: Any) -> dict[str, jax.Array]:
  """Returns norms by layer, as "grad_norm/stage1_block1/conv1", "update_ratio/...", [] float32.

  A layer is a module with parameters; a parameter of the model itself has its own name. A layer
  whose parameters are all 0 has ratio 0.
  """
  p, g, u = (
    {layer: jnp.sqrt(x) for layer, x in _squares(tree).items()} for tree in (params, grads, updates)
  )
  return {f"grad_norm/{layer}": norm for layer, norm in g.items()} | {
    f"update_ratio/{layer}": _ratio(u[layer], p[layer]) for layer in p
  }


def _squares(tree: Any) -> dict[str, jax.Array]:
  """Returns the sum of squares of each layer."""
  found: dict[str, jax.Array] = {}
  for path, x in flax.traverse_util.flatten_dict(tree, sep="/").items():
    layer = path.rpartition("/")[0] or path
    square = jnp.sum(jnp.square(x.astype(jnp.float32)))
    found[layer] = found[layer] + square if layer in found else square
  return found


def _ratio(update: jax.Array, param: jax.Array) -> jax.Array:
  return jnp.where(param == 0, 0, update / param)
