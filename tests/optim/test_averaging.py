"""Averages of the weights, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.optim import averaging

PER_EPOCH = 10


def make(name="sgd", total=100, **settings):
  config = default()
  config.optim.name = name
  config.average.update(settings)
  to_steps = lambda d, _: int(d.split()[0]) if isinstance(d, str) else d * PER_EPOCH
  return averaging.create(config.average, config.optim, total, to_steps)


def variables(w, mean=0.0):
  return {
    "params": {"head": {"kernel": jnp.asarray(w, jnp.float32)}},
    "batch_stats": {"norm": {"mean": jnp.asarray(mean, jnp.float32)}},
  }


def along(averages, weights):
  """The averages after a run through these weights, one a step."""
  found = averages.init(variables(weights[0]))
  for step, w in enumerate(weights[1:], 1):
    found = averages.update(found, variables(w, mean=step), jnp.int32(step))
  return found


def kernel(average):
  return float(average["params"]["head"]["kernel"])


def test_ema():
  found = along(make(ema=0.9, ema_warmup=False), [1.0, 2.0, 4.0])["ema"]
  assert kernel(found) == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4)
  assert float(found["batch_stats"]["norm"]["mean"]) == pytest.approx(0.9 * 0.1 * 1 + 0.1 * 2)


def test_ema_warms_its_decay_up():
  """min(decay, (1 + n) / (10 + n)) after n updates: tf.train.ExponentialMovingAverage."""
  found = kernel(along(make(ema=0.25), [1.0, 2.0, 4.0, 8.0])["ema"])
  expected = 1.0
  for n, w in ((1, 2.0), (2, 4.0), (3, 8.0)):
    decay = min(0.25, (1 + n) / (10 + n))
    expected = decay * expected + (1 - decay) * w
  assert found == pytest.approx(expected, rel=1e-6)


def test_swa_is_the_plain_mean_of_what_counts():
  averages = make(swa_start="3 steps", swa_every="2 steps")
  weights = np.random.default_rng(0).normal(size=9)
  found = along(averages, weights)
  assert kernel(found["swa"]) == pytest.approx(np.mean(weights[[3, 5, 7]]), rel=1e-6)
  assert int(found["swa"]["count"]) == 3


def test_swa_is_not_there_before_it_starts():
  averages = make(swa_start="3 steps", ema=0.9)
  assert averages.names == ("ema", "swa")
  assert averages.ready(along(averages, [1.0, 2.0, 3.0])) == ("ema",)
  assert averages.ready(along(averages, [1.0, 2.0, 3.0, 4.0])) == ("ema", "swa")


def test_what_does_not_move_stays_to_the_bit():
  averages = make(ema=0.37, ema_warmup=False, swa_start="1 steps", swa_every="1 steps")
  found = along(averages, [0.1] * 20)
  assert {kernel(found[name]) for name in found} == {float(np.float32(0.1))}


def test_nothing_is_kept_by_default():
  averages = make()
  assert averages.names == () and averages.init(variables(1.0)) == {}
  assert averages.describe() == {}


def test_what_cannot_be_is_refused():
  with pytest.raises(UserError, match="swa_start=11 is step 110, and the run has 100"):
    make(swa_start=11)
  with pytest.raises(UserError, match="leave average"):
    make("schedule_free_sgd", ema=0.9)
