"""Two networks that learn against each other in one loop, without labels: DCGAN, arXiv:1511.06434.

python -m cnnjax.main --config=experiments/extending/gan_config.py

The critic, any registered model, tells images from drawn ones. Each network has its own optimizer,
rhythm and batch statistics.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from clu import metrics

from cnnjax import Key, register, tasks
from cnnjax.training import stepping
from experiments.extending.dcgan import Generator


class Gan(nn.Module):
  """Both networks; called on images it is the critic."""

  critic: nn.Module
  noise: int

  def setup(self):
    self.generator = Generator(self.critic.dtype)

  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    if self.is_initializing():
      self.draw(jnp.zeros((len(images), self.noise)), train=train)
    return self.critic(images, train=train)

  def draw(self, noise: jax.Array, *, train: bool) -> jax.Array:
    return self.generator(noise, train=train)


@register(
  "task",
  "gan",
  noise=Key(16, "gan: numbers that an image is drawn from", rule=(lambda n: n > 0, "above 0")),
)
@dataclasses.dataclass(frozen=True)
class Drawing(tasks.Task):
  """Outputs are logits of being real, `[batch, 1]`; evaluation asks the critic of real images."""

  STEP: ClassVar = "gan"
  METRICS: ClassVar = (
    tasks.Metric("loss", better="min", form=".4f", headline=True),
    tasks.Metric("taken_for_real", better="max", form=".2%", headline=True),
  )
  collection: ClassVar = metrics.Collection.create(
    loss=metrics.Average.from_output("loss"), taken_for_real=metrics.Average.from_output("real")
  )
  name: str = "gan"

  @classmethod
  def count_outputs(cls, data: Any, config: Any) -> int:
    return 1

  def network(self, backbone: Callable[[int], nn.Module]) -> nn.Module:
    return Gan(backbone(1), self.config.noise)

  def loss(self, outputs: jax.Array, targets: None = None) -> jax.Array:
    return jax.nn.softplus(-outputs)[:, 0]

  def metric_inputs(self, outputs: jax.Array, targets: None) -> dict[str, jax.Array]:
    return {"real": outputs[:, 0] > 0}

  def predictions(self, outputs: jax.Array) -> dict[str, jax.Array]:
    return {"real": jax.nn.sigmoid(outputs)}

  def pictures(self, fitted: tasks.Fitted, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
    noise = jax.random.normal(key, (100, self.config.noise))
    drawn = fitted.model.apply(fitted.variables, noise, train=False, method="draw")
    return {"samples": fitted.to_pixels(drawn)}


@register("step", "gan")
def gan(context: stepping.StepContext) -> stepping.Step:
  """The critic moves, then the generator, against the critic as it is by then."""
  model, loss = context.model, context.task.loss

  def run(method: str, params: Any, others: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    """Returns outputs in training, and the other collections after them."""
    variables, keep = {**others, "params": params}, [*others]
    return model.apply(variables, x, train=True, method=method, mutable=keep)

  def step(state: Any, batch: Any, constants: Any) -> Any:
    examples = context.examples(state, batch, constants)
    noise = jax.random.normal(examples.key, (len(examples.images), model.noise))
    drawn, others = run("draw", state.params, state.others, noise)

    def critic_loss(params: Any) -> Any:
      real, after = run("__call__", params, others, examples.images)
      fake, after = run("__call__", params, after, drawn)
      losses = loss(real) + loss(-fake)
      return losses.mean(), (losses, real, after)

    def generator_loss(params: Any) -> Any:
      drawn, _ = run("draw", params, others, noise)
      return loss(run("__call__", params, others, drawn)[0]).mean()

    of_critic, (losses, real, others) = jax.grad(critic_loss, has_aux=True)(state.params)
    now, first = stepping.descend(context, state, of_critic, only="critic")
    of_generator = jax.grad(generator_loss)(now.params)
    now, second = stepping.descend(context, now, of_generator, only="main")
    grads = {"critic": of_critic["critic"], "generator": of_generator["generator"]}
    variables = {**others, "params": now.params}
    updates, sums = jax.tree.map(jnp.add, first, second), context.task.metrics(real, None, losses)
    result = stepping.StepResult(variables, now.opt_state, grads, updates, sums, losses)
    return stepping.advance(context, state, result)

  return step
