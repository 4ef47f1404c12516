"""An augmentation: gamma correction by a random exponent, each example on its own.

It has arguments in place of keys: `--config.augment="flip | gamma(0.7, 1.4)"`.
"""

import jax
import jax.numpy as jnp

from cnnjax import register
from cnnjax.augment import of_values
from cnnjax.errors import UserError


@register("augmentation", "gamma")
def gamma(low: float = 0.7, high: float = 1.4):
  """x ** g of images in [0, 1], with log g uniform between log `low` and log `high`."""
  if not 0 < low <= high:
    raise UserError(f"augment: gamma takes exponents above 0, in order, not {low!r}, {high!r}")

  def draw(key, shape):
    batch = shape[0]
    return jnp.exp(
      jax.random.uniform(key, (batch, 1, 1, 1), minval=jnp.log(low), maxval=jnp.log(high))
    )

  return of_values(draw, lambda images, exponent: images**exponent)
