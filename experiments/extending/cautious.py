"""An optimizer: AdamW that takes no step against the gradient.

Liang et al., Cautious Optimizers, arXiv:2411.16085, algorithm 1. It reads keys that exist (`uses`)
and one of its own. Weight decay, schedule, clipping and the others come around it by themselves.
"""

import jax
import optax

from cnnjax import Key, register


@register(
  "optimizer",
  "cautious_adamw",
  uses=("b1", "b2", "eps"),
  decay=("decoupled",),
  why="it is AdamW",
  caution=Key(
    1.0,
    "share of the steps against the gradient that is left out",
    rule=(lambda v: 0 <= v <= 1, "between 0 and 1"),
  ),
)
def cautious_adamw(config, params, depths):
  """(config.optim, parameters or shapes, depths of their groups) -> the direction of a step."""
  adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)

  def update(gradients, state, params=None):
    steps, state = adam.update(gradients, state, params)

    def keep(step, gradient):
      agrees = (step * gradient > 0).astype(step.dtype)
      kept = 1 - config.caution * (1 - agrees)
      return step * kept * kept.size / (kept.sum() + 1)

    return jax.tree.map(keep, steps, gradients), state

  return optax.GradientTransformation(adam.init, update)
