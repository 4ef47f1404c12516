"""Dynamic loss scaling for float16: arXiv:1710.03740, section 3.2.

flax.training.dynamic_scale has no upper bound: it grows to infinity where gradients are small.
"""

import flax.struct
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

FACTOR = 2.0  # between two scales: a power of two rounds nothing
MINIMUM = 1.0


@flax.struct.dataclass
class LossScale:
  """The factor of the loss before gradients are taken, and the steps since it changed."""

  scale: jax.Array  # [] float32
  finite_steps: jax.Array  # [] int32, since the scale was changed
  growth_steps: int = flax.struct.field(pytree_node=False)
  maximum: float = flax.struct.field(pytree_node=False)

  def adjust(self, finite: jax.Array) -> "LossScale":
    """Returns the scale after a step.

    It is halved if gradients were not finite, and doubled after `growth_steps` steps that were.
    """
    grows = finite & (self.finite_steps + 1 >= self.growth_steps)
    scale = jnp.where(
      grows, self.scale * FACTOR, jnp.where(finite, self.scale, self.scale / FACTOR)
    )
    return self.replace(
      scale=jnp.clip(scale, MINIMUM, self.maximum),
      finite_steps=jnp.where(finite & ~grows, self.finite_steps + 1, 0),
    )


def create(config: ConfigDict, dtype: str) -> LossScale | None:
  """Returns the scale that `config.loss_scale` begins with; None for a dtype that needs none."""
  if dtype != "float16":
    return None
  scale = jnp.asarray(min(config.initial, config.maximum), jnp.float32)
  return LossScale(scale, jnp.zeros((), jnp.int32), config.growth_steps, config.maximum)
