"""Groups of metrics."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax import models
from cnnjax.training import health, passes
from cnnjax.writers.groups import grouped


@pytest.mark.parametrize(
  "name, group",
  [
    ("train/loss", None),
    ("validation/ema_accuracy/rate=0.1", None),
    ("test/accuracy_ci95", None),
    ("learning_rate", "optim"),
    ("learning_rate_critic/seed=0", "optim"),
    ("learning_rate/rate=0.1", "optim"),
    ("grad_norm", "optim"),
    ("grad_norm/seed=0", "optim"),
    ("grad_norm_ci95", "optim"),
    ("loss_scale", "optim"),
    ("images_per_second", "speed"),
    ("data_wait", "speed"),
    ("grad_norm/stage1_block1/conv1", "health"),
    ("update_ratio/head", "health"),
    ("dead/conv1", "health"),
    ("dead_relu", "health"),
    ("restored_step", "run"),
    ("name of a user's own", "run"),
  ],
)
def test_groups(name, group):
  assert grouped(name) == (f"{group}/{name}" if group else name)


def test_norms_and_dead_units_have_groups():
  """As the step and the look at layers name them."""
  assert {grouped(name) for name in passes.NORMS} == {f"optim/{name}" for name in passes.NORMS}
  model = models.create("lenet5", num_classes=2)
  images = jnp.ones((2, 28, 28, 1))
  variables = model.init(jax.random.key(0), images, train=False)
  params = variables["params"]
  names = {**health.by_layer(params, params, params), **health.dead_units(model, variables, images)}
  assert len(names) > 10
  assert {grouped(name) for name in names} == {f"health/{name}" for name in names}
