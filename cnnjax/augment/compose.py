"""Operations made of operations: one after another, with a probability, or one of several."""

import functools
import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.augment import checks
from cnnjax.errors import UserError


def chain(operations: Sequence[Callable]) -> Callable:
  """All of `operations` in order, each with a key of its own: the key folded with its place."""

  def apply(key: jax.Array, images: jax.Array, targets: jax.Array):
    for i, operation in enumerate(operations):
      images, targets = operation(jax.random.fold_in(key, i), images, targets)
    return images, targets

  return apply


def sometimes(operation: Callable, p: float) -> Callable:
  """`operation` on each example with probability `p`, drawn for each on its own."""

  def apply(key: jax.Array, images: jax.Array, targets: jax.Array):
    chosen_key, key = jax.random.split(key)
    chosen = jax.random.bernoulli(chosen_key, float(p), images.shape[:1])

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
      return new if new is old else jnp.where(chosen.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    new_images, new_targets = operation(key, images, targets)
    return pick(new_images, images), pick(new_targets, targets)

  return apply


def with_probability(name: str, make: Callable) -> Callable:
  """`make`, which then takes a keyword `p` as well, unless it has one: see `sometimes`."""
  signature = inspect.signature(make)
  if "p" in signature.parameters:
    return make
  p = inspect.Parameter("p", inspect.Parameter.KEYWORD_ONLY, default=1.0, annotation=float)

  @functools.wraps(make)
  def made(*args, p=1.0, **kwargs):
    checks.number(name, "p", p, 0, 1)
    operation = make(*args, **kwargs)
    return operation if p == 1 else sometimes(operation, p)

  made.__signature__ = signature.replace(parameters=[*signature.parameters.values(), p])
  return made


def choice(
  *operations: Callable, weights: tuple[float, ...] | None = None, p: float = 1.0
) -> Callable:
  """One of `operations` for the whole batch, drawn anew for each; only that one is computed.

  With `weights` (relative; equal if None) one is likelier than another, and with probability
  1 - `p` nothing is done. `choice(mixup(0.8), cutmix(1.0))` is the switch of timm's `Mixup`.
  """
  checks.number("choice", "p", p, 0, 1)
  n = len(operations)
  if not n:
    raise UserError(
      "augment: choice takes operations to choose from, as choice(mixup(0.8), cutmix(1.0))"
    )
  weights = (1,) * n if weights is None else weights
  if not isinstance(weights, tuple | list) or len(weights) != n:
    raise UserError(f"augment: choice takes weights, one for each of {n}, not {weights!r}")
  for weight in weights:
    checks.number("choice", "weights, each", weight, 0)
  if not sum(weights):
    raise UserError("augment: choice takes weights of which at least one is above 0")
  shares = np.array([*(p * w / sum(weights) for w in weights), 1 - p], np.float32)
  branches = [*operations, lambda key, images, targets: (images, targets)]
  possible = np.flatnonzero(shares)

  def apply(key: jax.Array, images: jax.Array, targets: jax.Array):
    which_key, key = jax.random.split(key)
    which = jax.random.categorical(which_key, np.log(shares[possible]))
    return jax.lax.switch(which, [branches[i] for i in possible], key, images, targets)

  return apply
