"""A model that has more collections of variables than parameters and batch statistics."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import checkpoints, evaluate, models, train, writers
from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.training import health, state

MOMENTUM = 0.75


class Remembering(nn.Module):
  """Takes from its features the moving mean of those that it was trained on, and counts passes."""

  num_classes: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x, *, train):
    x = layers.conv(4, 3, padding=1, dtype=self.dtype, train=train, name="conv")(x)
    x = layers.batch_norm(dtype=self.dtype, train=train, name="norm")(x)
    x = nn.relu(x).mean(axis=(1, 2)).astype(jnp.float32)
    mean = self.variable("running", "mean", lambda: jnp.zeros(x.shape[-1]))
    passes = self.variable("running", "passes", lambda: jnp.zeros((), jnp.int32))
    self.sow("intermediates", "pooled", x)
    if train:
      mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * jax.lax.stop_gradient(x).mean(0)
      passes.value = passes.value + 1
    return nn.Dense(self.num_classes, name="head")(x - mean.value)


@pytest.fixture(autouse=True)
def registered(own_registry):
  models.register("remembering")(Remembering)


def leaves(now):
  return {path: np.asarray(x) for path, x in checkpoints.paths(now).items()}


ONE_PROGRAM = {"mesh.data": 8, "seeds": 2, "average.ema": 0.9}
IN_PARTS = {
  "mesh.data": 4, "mesh.fsdp": 2, "mesh.fsdp_min_size": 4, "accumulate": 2,
  "batch_norm.accumulated": "matched", "average.swa_start": "2 steps", "average.swa_every": 1,
  "data.validation": 0.2,
}  # fmt: skip
LOOKAHEAD = {"optim.lookahead": 2, "optim.sam_rho": 0.05, "health.every": "3 steps"}


@pytest.mark.parametrize(
  "overrides",
  [
    pytest.param(ONE_PROGRAM, id="seeds, 8 devices"),
    pytest.param(IN_PARTS, id="in parts", marks=pytest.mark.slow),
    pytest.param(LOOKAHEAD, id="lookahead", marks=pytest.mark.slow),
  ],
)
def test_it_is_trained_saved_resumed_to_the_bit_and_evaluated(tiny, tmp_path, stop_at, overrides):
  config = tiny(**{"epochs": 2, "batch_size": 32, **overrides})
  config.model = {"name": "remembering"}
  end, _, _ = train.train(config, tmp_path / "whole")
  with stop_at(3):
    _, _, stopped_by = train.train(config, tmp_path / "parts")
  assert stopped_by == signal.SIGTERM and checkpoints.last_step(tmp_path / "parts") == 3

  resumed, _, _ = train.train(config, tmp_path / "parts")
  whole, parts = leaves(end), leaves(resumed)
  assert whole.keys() == parts.keys()
  for path, x in whole.items():
    assert x.tobytes() == parts[path].tobytes(), path

  passes = end.steps_done * config.accumulate
  assert (whole["variables/running/passes"] == passes).all()
  assert (whole["variables/running/mean"] != 0).any()
  if "average.ema" in overrides:  # floats are averaged, integers are not
    assert (whole["averages/ema/running/passes"] == passes).all()
    assert (whole["averages/ema/running/mean"] != whole["variables/running/mean"]).any()
  else:  # neither averaged nor measured: those of the weights that are trained
    (name,) = end.averages
    for key in ("mean", "passes"):
      assert np.array_equal(
        whole[f"averages/{name}/running/{key}"], whole[f"variables/running/{key}"]
      )
  lines = [line for line in writers.read_metrics(tmp_path / "parts") if "test/loss" in line]
  _, _, found = evaluate.evaluate_checkpoint(tmp_path / "parts")
  assert found["loss"] == pytest.approx(lines[-1]["test/loss"], rel=1e-5)


def test_a_pass_moves_them_and_keeps_what_is_asked_for():
  model = Remembering(3)
  images = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 4, 1)), jnp.float32)
  variables = models.init(model, jax.random.key(0), images)
  assert variables.keys() == {"params", "batch_stats", "running"}
  passed = models.forward_in_training(model, variables, images, None, ["intermediates"])
  (pooled,) = passed.extra["intermediates"]["pooled"]
  np.testing.assert_allclose(
    passed.collections["running"]["mean"], (1 - MOMENTUM) * np.mean(pooled, axis=0), rtol=1e-6
  )
  assert passed.collections["running"]["passes"] == 1 and passed.collections.keys() == {
    "batch_stats",
    "running",
  }
  still = models.forward(model, variables, images)
  assert still.shape == (6, 3) and variables["running"]["passes"] == 0


def test_nan_in_a_collection_is_named():
  model = Remembering(3)
  images = jnp.ones((6, 4, 4, 1))
  variables = models.init(model, jax.random.key(0), images)
  variables["running"]["mean"] = jnp.full(4, jnp.nan)
  text = health.trace(model, lambda logits, *_: logits.mean(), variables, images, jnp.zeros(()))
  assert text == "NaN is in the variable running/mean before this step"


class Growing(nn.Module):
  """Sows while it is initialised, and so has what grows with each pass."""

  name_of_collection: str = "seen"

  @nn.compact
  def __call__(self, x, *, train):
    x = x.mean(axis=(1, 2))
    self.sow(self.name_of_collection, "mean", x)
    return nn.Dense(3)(x)


def test_a_collection_that_does_not_keep_its_shape_is_refused():
  mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
  with pytest.raises(UserError, match=r"Growing.*collection 'seen'.*is_initializing"):
    state.abstract_variables(Growing(), (4, 4, 1), mesh)


def test_a_collection_named_as_what_an_average_counts_is_refused():
  images = jnp.ones((1, 4, 4, 1))
  with pytest.raises(UserError, match="'count'"):
    models.init(Growing("count"), jax.random.key(0), images)
