"""The way into a model for whoever reads its logits: they come out in float32."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def forward(model: nn.Module, variables: Any, images: jax.Array, **options: Any) -> Any:
  """Runs `model.apply`; logits and those of auxiliary heads are float32, whatever it computes in.

  A loss or a probability of bfloat16 logits would have two digits.

  Args:
    model: any registered one.
    variables: its collections.
    images: `[batch, height, width, channels]`.
    **options: of `model.apply`: train, rngs, mutable.

  Returns:
    Logits `[batch, num_classes]`; with `mutable`, (logits, the collections that it names).
  """
  found = model.apply(variables, images, **options)
  if "mutable" not in options:
    return found.astype(jnp.float32)
  logits, updated = found
  if "aux_logits" in updated:
    in_float32 = jax.tree.map(lambda x: x.astype(jnp.float32), updated["aux_logits"])
    updated = {**updated, "aux_logits": in_float32}
  return logits.astype(jnp.float32), updated
