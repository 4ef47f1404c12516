"""A metric that is better when smaller: the share of errors that are made with confidence.

--config.imports=confident_errors --config.task.metrics=confident_errors
--config.monitor=validation/confident_errors
"""

import jax
import jax.numpy as jnp

from cnnjax import Key, register


@register(
  "metric",
  "confident_errors",
  of="classification",
  better="min",
  form=".2%",
  confidence=Key(
    0.9,
    "confident_errors: probability from which an error counts",
    rule=(lambda v: 0 <= v < 1, "at least 0 and below 1"),
  ),
)
def confident_errors(task, logits, targets):
  """Returns the value of each example, `[batch]`; that of a split is their mean."""
  p = jax.nn.softmax(logits)
  wrong = jnp.argmax(logits, -1) != jnp.argmax(targets, -1)
  return (wrong & (p.max(-1) >= task.config.confidence)).astype(jnp.float32)
