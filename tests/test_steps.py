"""The training step, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from cnnjax import state, steps, tasks
from cnnjax.config import default
from cnnjax.models import layers


class WithAuxiliaryHead(nn.Module):
  """Two linear heads on the mean of an image."""

  @nn.compact
  def __call__(self, x, *, train):
    x = x.mean(axis=(1, 2))
    if train or self.is_initializing():
      layers.auxiliary(self, "aux1", nn.Dense(3, name="aux1_head")(x))
    return nn.Dense(3, name="head")(x)


def test_auxiliary_heads_learn_by_their_weight():
  """arXiv:1409.4842 section 5: loss + 0.3 * the loss of each auxiliary head."""
  config = default()
  config.task.aux_weight = 0.25
  task = tasks.create(config.task, 3)
  rng = np.random.default_rng(0)
  images = rng.integers(256, size=(5, 2, 2, 3), dtype=np.uint8)
  labels = np.array([0, 1, 2, 2, 1])
  model, optimizer = WithAuxiliaryHead(), optax.sgd(1.0)
  variables = model.init(jax.random.key(0), images / 255.0, train=False)
  assert variables.keys() == {"params"}
  before = state.TrainState(
    step=jnp.zeros((), jnp.int32), params=variables["params"], batch_stats={},
    opt_state=optimizer.init(variables["params"]), window=task.no_metrics(),
    bad_step=jnp.asarray(state.NEVER),
  )  # fmt: skip
  step = steps.train_step(
    model, task, optimizer, lambda _, x, y: (x, y), lambda images: images, seed=0
  )
  after = jax.jit(step)(before, {"image": images, "label": labels})

  x = (images / 255.0).mean(axis=(1, 2))
  for head, weight in (("head", 1.0), ("aux1_head", 0.25)):
    params = variables["params"][head]
    logits = x @ params["kernel"] + params["bias"]
    by_logits = weight * (jax.nn.softmax(logits) - np.eye(3)[labels]) / len(labels)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(after.params[head]["kernel"], params["kernel"] - x.T @ by_logits)
    close(after.params[head]["bias"], params["bias"] - by_logits.sum(axis=0))
