"""Runs models: makes fresh variables, evaluates, and runs the forward pass of training.

The variables of a model are collections of arrays: "params", "batch_stats", and any other that its
`init` makes. An optimizer trains "params"; a forward pass in training updates the others. The
collections in READ_OUT are not variables: a pass returns them on request.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.errors import UserError

READ_OUT = ("aux_logits", "features", "intermediates", "moments", "perturbations")
_RESERVED = ("count",)  # beside the collections of an average; see optim/averaging.py


class ForwardPass(NamedTuple):
  """The results of a forward pass in training."""

  outputs: Any  # float32, of a classifier the logits [batch, num_classes]
  collections: dict[str, Any]  # all collections but the parameters, after the pass
  extra: dict[str, Any]  # auxiliary logits, and the collections in `keep`


def init(model: nn.Module, key: jax.Array, images: jax.Array) -> dict[str, Any]:
  """Returns fresh variables; without batch norm "batch_stats" is there and empty.

  Raises:
    UserError: the model makes a collection with a reserved name.
  """
  made = model.init(key, images, train=False)
  variables = {name: tree for name, tree in made.items() if name not in READ_OUT}
  if taken := [name for name in _RESERVED if name in variables]:
    raise UserError(
      f"{type(model).__name__} has a collection {taken[0]!r}, which is a reserved name: rename it"
    )
  return {"params": {}, "batch_stats": {}, **variables}


def forward(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> Any:
  """Returns the outputs in evaluation; float32 whatever dtype the model computes in.

  The outputs of a classifier are logits [batch, num_classes]. A loss or a probability computed in
  bfloat16 would have two digits.

  Args:
    model: any registered one.
    variables: its collections.
    images: `[batch, height, width, channels]`.
  """
  return _in_float32(model.apply(variables, images, train=False))


def forward_in_training(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: jax.Array,
  key: jax.Array | None,
  keep: Sequence[str] = (),
) -> ForwardPass:
  """Runs the model in training mode.

  Every such pass goes through here, so that all of them update the same collections.

  Args:
    model: any registered one.
    variables: its collections; the pass updates all but "params".
    images: `[batch, height, width, channels]`.
    key: the key of dropout.
    keep: names of more collections that the pass writes and returns, such as "moments".
  """
  before = {name: tree for name, tree in variables.items() if name != "params"}
  outputs, found = model.apply(
    variables,
    images,
    train=True,
    rngs=None if key is None else {"dropout": key},
    mutable=[*before, "aux_logits", *keep],
  )
  collections = {name: found.get(name, tree) for name, tree in before.items()}
  extra = {name: tree for name, tree in found.items() if name not in before}
  extra["aux_logits"] = _in_float32(extra.get("aux_logits", {}))
  return ForwardPass(_in_float32(outputs), collections, extra)


def _in_float32(tree: Any) -> Any:
  return jax.tree.map(lambda x: x.astype(jnp.float32), tree)
