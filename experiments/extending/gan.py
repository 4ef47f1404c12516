"""Two networks that learn against each other in one loop: a GAN whose critic names classes too.

python -m cnnjax.main --config=experiments/extending/gan_config.py

The critic says of an image whether it is real, and of which class; the generator draws one of a
class (AC-GAN, arXiv:1610.09585). Each has its own optimizer. Evaluation is that of the classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from cnnjax import register, tasks
from cnnjax.training import stepping

NOISE = 16  # numbers that an image is drawn from


class Generator(nn.Module):
  """Noise and classes to images of 8x8 pixels."""

  @nn.compact
  def __call__(self, noise: jax.Array, classes: jax.Array) -> jax.Array:
    x = nn.relu(nn.Dense(4 * 4 * 32)(jnp.concatenate([noise, classes], axis=-1)))
    x = nn.ConvTranspose(32, (3, 3), strides=(2, 2))(x.reshape(-1, 4, 4, 32))
    return 2 * nn.tanh(nn.Conv(1, (3, 3))(nn.relu(x)))  # normalised pixels lie within


class Critic(nn.Module):
  """Images to the logit of being real, [batch], and those of the classes."""

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    for features, stride in ((32, 1), (64, 2)):
      x = nn.leaky_relu(nn.Conv(features, (3, 3), strides=stride)(x), 0.2)
    x = x.reshape(len(x), -1)
    return nn.Dense(1)(x)[:, 0], nn.Dense(self.num_classes)(x)


@register("model", "gan", input_shape=(8, 8, 1), reference="after arXiv:1610.09585")
class Gan(nn.Module):
  """Both networks; called on images it is the critic, and names their classes."""

  num_classes: int
  dtype: Any = jnp.float32

  def setup(self):
    self.generator, self.critic = Generator(), Critic(self.num_classes)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if self.is_initializing():
      self.generator(jnp.zeros((len(x), NOISE)), jnp.zeros((len(x), self.num_classes)))
    return self.critic(x)[1]


@register("task", "gan")
@dataclasses.dataclass(frozen=True)
class Drawn(tasks.Classification):
  """The classes that the critic names; shows what the generator draws, a class a column."""

  def pictures(self, fitted: tasks.Fitted, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
    classes = jnp.tile(jnp.eye(self.num_classes), (self.num_classes, 1))
    noise = jax.random.normal(key, (len(classes), NOISE))
    params = {"params": fitted.variables["params"]["generator"]}
    return {"samples": fitted.to_pixels(Generator().apply(params, noise, classes))}


@register("step", "gan")
def gan(context: stepping.StepContext) -> stepping.Step:
  """The critic moves, then the generator, against the critic as it is by then."""

  critic = Critic(context.model.num_classes)
  draw = lambda params, *given: Generator().apply({"params": params["generator"]}, *given)

  def judged(params: Any, images: jax.Array, real: float, targets: jax.Array) -> Any:
    """The loss of each image that should pass as real or not, as of its class."""
    logits, classes = critic.apply({"params": params["critic"]}, images)
    passes = optax.sigmoid_binary_cross_entropy(logits, jnp.full(len(logits), real))
    return passes + context.task.loss(classes, targets), classes

  def step(state: Any, batch: Any, constants: Any) -> Any:
    examples = context.examples(state, batch, constants)
    noise = jax.random.normal(examples.key, (len(examples.images), NOISE))

    def critic_loss(params: Any) -> Any:
      drawn = draw(state.params, noise, examples.targets)
      losses, classes = judged(params, examples.images, 1.0, examples.targets)
      losses += judged(params, drawn, 0.0, examples.targets)[0]
      return losses.mean(), (losses, classes)

    def generator_loss(params: Any) -> Any:
      drawn = draw(params, noise, examples.targets)
      return judged(params, drawn, 1.0, examples.targets)[0].mean()

    of_critic, (losses, classes) = jax.grad(critic_loss, has_aux=True)(state.params)
    now, first = stepping.descend(context, state, of_critic, only="critic")
    of_generator = jax.grad(generator_loss)(now.params)
    now, second = stepping.descend(context, now, of_generator, only="main")
    grads = {"critic": of_critic["critic"], "generator": of_generator["generator"]}
    metrics = context.task.metrics(classes, examples.targets, losses)
    updates = jax.tree.map(jnp.add, first, second)
    result = stepping.StepResult(now.variables, now.opt_state, grads, updates, metrics, losses)
    return stepping.advance(context, state, result)

  return step
