"""Adversarial training by a step of its own: images are moved up their loss before they are learnt.

python -m cnnjax.main --config=experiments/extending/adversarial_config.py

The fast gradient sign method, arXiv:1412.6572 section 4, on all examples of a batch.
"""

import jax
import jax.numpy as jnp

from cnnjax import Key, models, register
from cnnjax.training import stepping


def moved(model, task, variables, images, targets, size, key):
  """Returns images moved by `size` up the loss of the model as it trains."""

  def loss(images: jax.Array) -> jax.Array:
    passed = models.forward_in_training(model, variables, images, key)
    return task.loss(passed.outputs, targets).sum()

  return images + size * jnp.sign(jax.grad(loss)(images))


@register(
  "step",
  "fgsm",
  size=Key(
    0.25,
    "fgsm: of the move, in standard deviations of the pixels",
    rule=(lambda size: size > 0, "above 0"),
  ),
)
def fgsm(context: stepping.StepContext) -> stepping.Step:
  """Returns the standard step, on moved images."""

  def step(state, batch, constants):
    examples = context.examples(state, batch, constants)
    given = context.model, context.task, state.variables, examples.images, examples.targets
    images = moved(*given, context.config.step.size, examples.key)
    result = stepping.update(context, state, examples.replace(images=images))
    return stepping.advance(context, state, result)

  return step
