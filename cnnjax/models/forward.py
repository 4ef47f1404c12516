"""The ways into a model: fresh variables, a pass in evaluation, a pass in training.

The variables of a model are collections of arrays: "params", "batch_stats", and any other that its
`init` makes. An optimizer trains "params"; a pass in training moves the others. The collections in
READ_OUT are no variables: a pass hands them to whoever asks for them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.errors import UserError

READ_OUT = ("aux_logits", "features", "intermediates", "moments", "perturbations")
_RESERVED = ("count",)  # beside the collections of an average; see optim/averaging.py


class Passed(NamedTuple):
  """What a forward pass in training gives."""

  logits: jax.Array  # [batch, num_classes] float32
  moved: dict[str, Any]  # all collections but the parameters, after the pass
  kept: dict[str, Any]  # auxiliary logits, and the collections that were asked for


def init(model: nn.Module, key: jax.Array, images: jax.Array) -> dict[str, Any]:
  """Returns fresh variables; "batch_stats" is there without batch norm as well, and empty.

  Raises:
    UserError: the model makes a collection whose name has another meaning.
  """
  made = model.init(key, images, train=False)
  variables = {name: tree for name, tree in made.items() if name not in READ_OUT}
  if taken := [name for name in _RESERVED if name in variables]:
    raise UserError(
      f"{type(model).__name__} has a collection {taken[0]!r}, and this name is taken: rename it"
    )
  return {"params": {}, "batch_stats": {}, **variables}


def forward(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
  """Returns the logits in evaluation, [batch, num_classes] float32, whatever it computes in.

  A loss or a probability of bfloat16 logits would have two digits.

  Args:
    model: any registered one.
    variables: its collections.
    images: `[batch, height, width, channels]`.
  """
  return model.apply(variables, images, train=False).astype(jnp.float32)


def forward_in_training(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: jax.Array,
  key: jax.Array | None,
  keep: Sequence[str] = (),
) -> Passed:
  """Runs the model in training mode. Every such pass goes through here: all move the same.

  Args:
    model: any registered one.
    variables: its collections, of which all but "params" may move.
    images: `[batch, height, width, channels]`.
    key: of dropout.
    keep: names of more collections that the pass writes, such as "moments".
  """
  before = {name: tree for name, tree in variables.items() if name != "params"}
  logits, found = model.apply(
    variables,
    images,
    train=True,
    rngs=None if key is None else {"dropout": key},
    mutable=[*before, "aux_logits", *keep],
  )
  moved = {name: found.get(name, tree) for name, tree in before.items()}
  kept = {name: tree for name, tree in found.items() if name not in before}
  in_float32 = jax.tree.map(lambda x: x.astype(jnp.float32), kept.get("aux_logits", {}))
  return Passed(logits.astype(jnp.float32), moved, {**kept, "aux_logits": in_float32})
