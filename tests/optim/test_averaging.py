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


def test_whose_statistics_are_measured():
  config = default()
  names = ("raw", "ema", "swa", "schedule_free")
  need = lambda: [name for name in names if averaging.needs_measuring(name, config)]
  assert need() == ["swa", "schedule_free"]
  for key, value in ((config.batch_norm, {"precise": True}), (config.optim, {"lookahead": 5})):
    key.update(value)
    assert need() == ["raw", "swa", "schedule_free"]
    key.update({"precise": False} if "precise" in value else {"lookahead": None})


def test_the_averages_in_words():
  found = make(ema=0.9, swa_start=3, swa_every="2 steps").describe()
  assert found == {
    "averages": "exponential moving average, decay 0.9 with warm-up; SWA from step 30, each 2 steps"
  }
  plain = make(ema=0.5, ema_warmup=False).describe()
  assert plain == {"averages": "exponential moving average, decay 0.5"}
  assert make("schedule_free_adamw").describe() == {"averages": "that of schedule-free"}
  assert make("schedule_free_adamw").names == ("schedule_free",)


def test_swa_starts_at_the_last_step_at_the_latest_and_at_the_first_at_the_earliest():
  assert make(swa_start=10).swa_start == 100 and make(swa_start="0 steps").swa_start == 1
  assert make(swa_start=1, swa_every="0 steps").swa_every == 1
  with pytest.raises(UserError, match="is step 101, and the run has 100"):
    make(swa_start="101 steps")
  assert make().swa_start is None


def test_the_slow_weights_are_kept_and_not_named():
  config = default()
  config.optim.lookahead = 5
  averages = averaging.create(config.average, config.optim, 100, lambda *_: 1)
  assert averages.names == () and averages.all_names == ("slow",)
  assert averages.describe()["averages"].startswith("Lookahead's slow weights")
  begun = averages.init(variables(1.0))
  assert begun.keys() == {"slow"} and averages.ready(begun) == ()


def test_other_collections_are_those_of_the_trained_weights():
  """Floats move with the moving average; integers do not, nor does anything with SWA."""
  averages = make(ema=0.75, ema_warmup=False, swa_start="1 steps", swa_every="1 steps")
  of = lambda w, n: {**variables(w, mean=w), "count": {"n": jnp.int32(n), "x": jnp.float32(n)}}
  begun = averages.init(of(1.0, 4))
  assert int(begun["swa"]["count"]) == 0  # the collection of this name is refused before
  averages = make(ema=0.75, ema_warmup=False)
  found = averages.update(averages.init(of(1.0, 4)), of(2.0, 8), jnp.int32(1))["ema"]
  assert int(found["count"]["n"]) == 8 and float(found["count"]["x"]) == 5.0
  averages = make(swa_start="1 steps", swa_every="1 steps")
  other = lambda w, n: {**variables(w, mean=w), "queue": {"x": jnp.float32(n)}}
  found = averages.init(other(1.0, 4))
  for step, w in ((1, 2.0), (2, 6.0)):
    found = averages.update(found, other(w, w), jnp.int32(step))
  assert kernel(found["swa"]) == 4.0 and float(found["swa"]["queue"]["x"]) == 6.0
  assert (
    float(found["swa"]["batch_stats"]["norm"]["mean"]) == 1.0
  )  # measured before it is evaluated
