"""Heads on the pooled features of any backbone, in place of its own last layer.

The last layer of each begins at 0, so that the first loss is that of guessing; `init.from` leaves
them as they are.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.registry import register

TASKS = ("classification", "multi_label", "regression")


class Perceptron(nn.Module):
  """Dense layers with ReLU and dropout between the pooled features and the outputs."""

  backbone: nn.Module
  num_outputs: int
  hidden: Sequence[int]
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Float [batch, height, width, channels] to float32 [batch, num_outputs]."""
    x = self.backbone(x, train=train)
    for number, width in enumerate(self.hidden, 1):
      x = nn.relu(nn.Dense(width, name=f"hidden{number}")(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros, name="head")(x)


class Cosine(nn.Module):
  """Scaled cosines between the pooled features and a vector for each output: arXiv:1904.04232.

  Section 3.1 there. The scale is trained, and begins at `scale`; vectors are drawn, since at 0
  they would have no direction.
  """

  backbone: nn.Module
  num_outputs: int
  scale: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Float [batch, height, width, channels] to float32 [batch, num_outputs]."""
    x = self.backbone(x, train=train)
    shape = (x.shape[-1], self.num_outputs)
    kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
    scale = self.param("scale", nn.initializers.constant(self.scale), (), jnp.float32)
    unit = lambda v, axis: v / jnp.maximum(jnp.linalg.norm(v, axis=axis, keepdims=True), 1e-6)
    return scale * unit(x, -1) @ unit(kernel, 0)


def perceptron(task: Any, backbone: nn.Module) -> nn.Module:
  """Returns the head "mlp" on a backbone."""
  c = task.config
  return Perceptron(backbone, task.num_outputs, tuple(c.head_hidden), c.head_dropout)


def cosine(task: Any, backbone: nn.Module) -> nn.Module:
  """Returns the head "cosine" on a backbone."""
  return Cosine(backbone, task.num_outputs, task.config.head_scale)


for _task in TASKS:
  register("head", "mlp", of=_task, uses=("head_hidden", "head_dropout"))(perceptron)
register("head", "cosine", of="classification", uses=("head_scale",))(cosine)
