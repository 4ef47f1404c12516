"""Composes operations: one after another, with a probability, or one drawn from a list."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.augment import checks
from cnnjax.augment.operation import Batch, Kinds, Operation
from cnnjax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
  """Applies `operations` in order, each with its own key: the key folded with its place."""

  operations: Sequence[Callable]

  def __call__(self, key: jax.Array, batch: Batch, kinds: Kinds) -> Batch:
    for i, operation in enumerate(self.operations):
      batch = operation(jax.random.fold_in(key, i), batch, kinds)
    return batch

  def check(self, kinds: Kinds, channels: Mapping[str, int]) -> None:
    """Checks each operation, see `Operation.check`."""
    for operation in self.operations:
      operation.check(kinds, channels)


@dataclasses.dataclass(frozen=True, eq=False)
class Sometimes:
  """Applies `operation` to each example with probability `p`, to all of its fields or none."""

  operation: Callable
  p: float

  def __call__(self, key: jax.Array, batch: Batch, kinds: Kinds) -> Batch:
    chosen_key, key = jax.random.split(key)
    examples = next(len(batch[name]) for name in kinds)
    chosen = jax.random.bernoulli(chosen_key, float(self.p), (examples,))

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
      return new if new is old else jnp.where(chosen.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    changed = self.operation(key, batch, kinds)
    return {name: pick(changed[name], old) for name, old in batch.items()}

  def check(self, kinds: Kinds, channels: Mapping[str, int]) -> None:
    """Checks the operation, see `Operation.check`."""
    self.operation.check(kinds, channels)


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """Applies one of `operations` to the whole batch, by its share, or none for the last share."""

  operations: Sequence[Callable]
  shares: Sequence[float]  # one more than there are operations

  def __call__(self, key: jax.Array, batch: Batch, kinds: Kinds) -> Batch:
    which_key, key = jax.random.split(key)
    possible = np.flatnonzero(self.shares)
    which = jax.random.categorical(which_key, np.log(self.shares[possible]))
    branches = [
      *(lambda key, batch, do=do: do(key, batch, kinds) for do in self.operations),
      lambda key, batch: batch,
    ]
    return jax.lax.switch(which, [branches[i] for i in possible], key, batch)

  def check(self, kinds: Kinds, channels: Mapping[str, int]) -> None:
    """Checks each operation, see `Operation.check`."""
    for operation in self.operations:
      operation.check(kinds, channels)


def named(name: str, make: Callable) -> Callable:
  """Wraps `make` so that its operation knows its name in a config.

  Raises:
    UserError: raised by the wrapper, if `make` returns no operation.
  """

  @functools.wraps(make)
  def made(*args, **kwargs):
    operation = make(*args, **kwargs)
    if isinstance(operation, Chain | Sometimes | Choice):
      return operation
    if not isinstance(operation, Operation):
      raise UserError(
        f"augment: {name} has to return an Operation, such as augment.of_values makes, not a "
        f"{type(operation).__name__}"
      )
    return dataclasses.replace(operation, name=name)

  return made


def with_probability(name: str, make: Callable) -> Callable:
  """Wraps `make` so that it takes a keyword `p`, unless it has one: see `Sometimes`."""
  signature = inspect.signature(make)
  if "p" in signature.parameters:
    return make
  p = inspect.Parameter("p", inspect.Parameter.KEYWORD_ONLY, default=1.0, annotation=float)

  @functools.wraps(make)
  def made(*args, p=1.0, **kwargs):
    checks.number(name, "p", p, 0, 1)
    operation = make(*args, **kwargs)
    return operation if p == 1 else Sometimes(operation, p)

  made.__signature__ = signature.replace(parameters=[*signature.parameters.values(), p])
  return made


def choice(
  *operations: Callable, weights: tuple[float, ...] | None = None, p: float = 1.0
) -> Choice:
  """Applies one of `operations`, drawn for each batch, to the whole batch; computes only that one.

  `weights` are relative, and equal if None; with probability 1 - `p` none is applied.
  `choice(mixup(0.8), cutmix(1.0))` is the switch of timm's `Mixup`.
  """
  checks.number("choice", "p", p, 0, 1)
  n = len(operations)
  if not n:
    raise UserError(
      "augment: choice takes operations to choose from, as choice(mixup(0.8), cutmix(1.0))"
    )
  weights = (1,) * n if weights is None else weights
  if not isinstance(weights, tuple | list) or len(weights) != n:
    raise UserError(f"augment: choice takes as many weights as operations, {n}, not {weights!r}")
  for weight in weights:
    checks.number("choice", "weights, each", weight, 0)
  if not sum(weights):
    raise UserError("augment: choice takes weights of which at least one is above 0")
  shares = np.array([*(p * w / sum(weights) for w in weights), 1 - p], np.float32)
  return Choice(operations, shares)
