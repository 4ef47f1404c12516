"""Adversarial training by a step of its own: images are moved up their loss before they are learnt.

python -m cnnjax.main --config=experiments/extending/adversarial_config.py

The fast gradient sign method, arXiv:1412.6572 section 4, on all examples of a batch.
"""

import jax
import jax.numpy as jnp

from cnnjax import models, register
from cnnjax.training import stepping

SIZE = 0.25  # of the move, in standard deviations of the pixels


def moved(model, task, variables, images, targets, key=None, size=SIZE):
  """Images that were moved by `size` up the loss of the model as it trains."""

  def loss(images: jax.Array) -> jax.Array:
    passed = models.forward_in_training(model, variables, images, key)
    return task.loss(passed.outputs, targets).sum()

  return images + size * jnp.sign(jax.grad(loss)(images))


@register("step", "fgsm")
def fgsm(context: stepping.StepContext) -> stepping.Step:
  """The standard step, on moved images."""

  def step(state, batch, constants):
    examples = context.examples(state, batch, constants)
    given = context.model, context.task, state.variables, examples.images, examples.targets
    examples = examples.replace(images=moved(*given, examples.key))
    return stepping.advance(context, state, stepping.update(context, state, examples))

  return step
