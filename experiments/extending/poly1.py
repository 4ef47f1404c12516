"""A loss with its own key: poly-1, cross-entropy with another first coefficient.

Leng et al., PolyLoss, arXiv:2204.12511, equation 6: -log p + epsilon (1 - p).
"""

import jax
import jax.numpy as jnp
import optax

from cnnjax import Key, register


@register(
  "loss",
  "poly1",
  of="classification",
  epsilon=Key(
    1.0, "of the term 1 - p; arXiv:2204.12511, table 1", rule=(lambda v: v >= -1, "at least -1")
  ),
)
def poly1(task, logits, targets):
  """Returns the loss of each example, `[batch]`; `targets` `[batch, num_classes]` may be mixed."""
  p = jnp.sum(targets * jax.nn.softmax(logits), axis=-1)
  return optax.softmax_cross_entropy(logits, targets) + task.config.epsilon * (1 - p)
