"""Counts dead units: channels that a ReLU holds at zero for every example of a batch."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import models

DEAD = "dead"  # the collection


def dead_units(
  model: nn.Module, variables: Any, images: jax.Array, key: jax.Array | None = None
) -> dict[str, jax.Array]:
  """Returns the share of dead input channels of each convolution and dense layer in training mode.

  These are "dead/stage1_block1/conv2" and so on, and "dead_relu", the mean over the layers that
  count, [] float32 each. A channel is dead if it is 0 at all pixels of all `images`, [batch,
  height, width, channels] as the model takes them. A layer counts if it follows a ReLU: its input
  is nowhere negative and somewhere 0. The value of other layers, and of `dead_relu` without any, is
  NaN (see `counted`). The layer that takes the images is left out, and so is the inside of an
  `nn.scan` that does not pass on the collection "dead" (variable_axes). Pure; `key` is of dropout.
  """
  met: list[tuple[str, ...]] = []  # paths in the order of the forward pass

  def look(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    layer = context.module
    if isinstance(layer, nn.Conv | nn.Dense) and context.method_name == "__call__":
      met.append(layer.path)
      if layer.path != met[0]:
        layer.sow(DEAD, "input", _share_dead(*args, *kwargs.values()))
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(look):
    passed = models.forward_in_training(model, variables, images, key, [DEAD])
  sown = flax.traverse_util.flatten_dict(passed.extra.get(DEAD, {}))
  # Several values: of a layer that is called several times, or of each turn of a scan.
  shares = {f"dead/{'/'.join(path[:-1])}": _mean(values) for path, values in sown.items()}
  return shares | {"dead_relu": _mean(list(shares.values()))}


def counted(shares: Mapping[str, jax.Array]) -> dict[str, float]:
  """Returns the shares of `dead_units` as numbers, without layers that do not count."""
  found = {name: float(share) for name, share in jax.device_get(dict(shares)).items()}
  return {name: share for name, share in found.items() if not math.isnan(share)}


def _share_dead(x: jax.Array) -> jax.Array:
  dead = jnp.all(x == 0, axis=tuple(range(x.ndim - 1)))
  behind_relu = jnp.all(x >= 0) & jnp.any(x == 0)
  return jnp.where(behind_relu, jnp.mean(dead), jnp.nan)


def _mean(shares: Any) -> jax.Array:
  return jnp.nanmean(jnp.asarray(shares, jnp.float32))
