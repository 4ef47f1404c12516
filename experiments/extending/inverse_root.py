"""A schedule: the inverse square root, which knows nothing of the end of the run.

Zhai et al., Scaling Vision Transformers, arXiv:2106.04560, section 3.5, without the cool-down.
"""

import jax.numpy as jnp

from cnnjax import Key, register
from cnnjax.errors import UserError

KEY = "optim.schedule.timescale"


@register(
  "schedule",
  "inverse_root",
  timescale=Key(1, "inverse_root: half of the peak after 3 of it; a duration", duration=True),
)
def inverse_root(config, peak, length, warmup, to_steps):
  """peak / sqrt(1 + t / timescale), with t the steps since the end of the warm-up."""
  if not (timescale := to_steps(config.timescale, KEY)):
    raise UserError(f"{KEY} {config.timescale!r} is less than a step")
  return lambda step: peak / jnp.sqrt(1 + step / timescale)
