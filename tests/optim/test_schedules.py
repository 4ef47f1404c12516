"""Every schedule against its formula, at every step of a run."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import config as configs
from cnnjax import durations
from cnnjax.errors import UserError
from cnnjax.optim import schedules

PEAK, TOTAL, PER_EPOCH, BATCH = 0.4, 200, 20, 50
STEPS = np.arange(TOTAL + 20)  # past the end as well


def make(total=TOTAL, **settings):
  c = configs.default().optim.schedule
  c.update(settings)
  schedules.check(c)
  to_steps = functools.partial(durations.in_steps, steps_per_epoch=PER_EPOCH, batch_size=BATCH)
  return schedules.create(c, PEAK, total, to_steps)


def values(schedule, steps=STEPS):
  return np.broadcast_to(schedule(jnp.asarray(steps, jnp.int32)), np.shape(steps))


def cosine(t, length, high, low=0.0):
  return low + (high - low) * (1 + np.cos(np.pi * np.minimum(t, length) / length)) / 2


def restarts(t, first, multiplier, decay, low):
  """SGDR, equation 5 of arXiv:1608.03983, one step after the other."""
  rates, period, start, cycle = [], first, 0, 0
  for step in t:
    while step >= start + period:
      start, cycle = start + period, cycle + 1
      period = round(first * multiplier**cycle)
    high = max(low, PEAK * decay**cycle)
    rates.append(low + (high - low) * (1 + math.cos(math.pi * (step - start) / period)) / 2)
  return np.array(rates)


# name: (settings, the rate as a function of the steps since the warm-up and its length)
FORMULAS = {
  "constant": ({"name": "constant"}, lambda t, w: np.full(t.shape, PEAK)),
  "step": (
    {"name": "step", "boundaries": (3, "100 steps", "7500 examples"), "factor": 0.2},
    lambda t, w: PEAK * 0.2 ** np.sum([t + w >= b for b in (60, 100, 150)], axis=0),
  ),
  "cosine": ({"name": "cosine"}, lambda t, w: cosine(t, TOTAL - w, PEAK)),
  "cosine to a floor": (
    {"name": "cosine", "end_factor": 0.25},
    lambda t, w: cosine(t, TOTAL - w, PEAK, PEAK / 4),
  ),
  "warm restarts": (
    {"name": "warm_restarts", "first_period": "30 steps"},
    lambda t, w: restarts(t, 30, 2, 1, 0),
  ),
  "equal periods": (
    {"name": "warm_restarts", "first_period": 1, "multiplier": 1.0},
    lambda t, w: restarts(t, 20, 1, 1, 0),
  ),
  "falling peaks": (
    {
      "name": "warm_restarts",
      "first_period": "500 examples",
      "multiplier": 1.5,
      "peak_decay": 0.7,
      "end_factor": 0.1,
    },
    lambda t, w: restarts(t, 10, 1.5, 0.7, PEAK / 10),
  ),
  "peaks below the floor": (
    {
      "name": "warm_restarts",
      "first_period": 1,
      "multiplier": 1.0,
      "peak_decay": 0.5,
      "end_factor": 0.3,
    },
    lambda t, w: restarts(t, 20, 1, 0.5, PEAK * 0.3),
  ),
  "slow growth": (
    {"name": "warm_restarts", "first_period": "1 steps", "multiplier": 1.3},
    lambda t, w: restarts(t, 1, 1.3, 1, 0),
  ),
}


@pytest.mark.smoke
@pytest.mark.parametrize("warmup, length", [(0, 0), ("8 steps", 8), (1.5, 30), ("50 examples", 1)])
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name, warmup, length):
  settings, formula = FORMULAS[name]
  steps = STEPS[:TOTAL] if settings["name"] == "warm_restarts" else STEPS
  expected = formula(np.maximum(steps - length, 0), length)
  if length:
    expected = np.where(steps < length, PEAK * steps / length, expected)
  np.testing.assert_allclose(values(make(warmup=warmup, **settings), steps), expected, atol=2e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_inside_jit_and_one_by_one_it_is_the_same(name):
  schedule = make(warmup=1, **FORMULAS[name][0])
  steps = np.array([0, 1, 19, 20, 21, 60, 199])
  jitted = jax.jit(schedule)(jnp.asarray(steps, jnp.int32))
  np.testing.assert_allclose(
    np.broadcast_to(jitted, steps.shape), values(schedule, steps), atol=1e-6
  )
  for step in (0, 20, 199):
    np.testing.assert_allclose(float(schedule(step)), values(schedule, [step])[0], atol=1e-6)


def test_the_last_step_of_a_cosine_is_just_above_its_end():
  rates = values(make(name="cosine"))
  assert 0 < rates[TOTAL - 1] < 1e-4 * PEAK
  assert rates[TOTAL] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("warmup, steps", [("200 steps", 200), (10, 200), (12.5, 250)])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup, steps):
  with pytest.raises(UserError, match=rf"warmup {warmup!r} is {steps} steps.*whole run is 200"):
    make(warmup=warmup)
  make(total=steps + 1, warmup=warmup)


@pytest.mark.parametrize("boundaries", [(4, 2), (2, 2), ("40 steps", 2), (0, 2), (1, 3), (1.5, 3)])
def test_boundaries_must_rise_and_follow_the_warm_up(boundaries):
  with pytest.raises(UserError, match=r"boundaries .* must rise, and come after the warm-up"):
    make(name="step", warmup="30 steps", boundaries=boundaries)


def test_a_step_schedule_needs_boundaries():
  with pytest.raises(UserError, match="needs boundaries"):
    make(name="step")


def test_too_many_restarts_are_refused():
  with pytest.raises(UserError, match=r"first period of '1 steps' restarts more than 1,000 times"):
    make(total=1002, name="warm_restarts", first_period="1 steps", multiplier=1.0)


def test_peaks_that_vanish_are_no_error():
  rates = values(
    make(total=900, name="warm_restarts", first_period="2 steps", multiplier=1.0, peak_decay=0.1),
    [0, 1, 2, 898],
  )
  np.testing.assert_allclose(rates, [PEAK, PEAK / 2, PEAK / 10, 0], atol=1e-7)


def test_unknown_schedule():
  with pytest.raises(UserError, match=r"unknown schedule 'cosin'. Did you mean 'cosine'?"):
    make(name="cosin")


@pytest.mark.parametrize(
  "settings, text",
  [
    ({"name": "constant"}, "learning rate 0.4, constant"),
    ({"warmup": 5}, "learning rate 0.4, cosine, warm-up 5 epochs"),
    (
      {"name": "step", "boundaries": (1, "80 steps"), "factor": 0.2},
      "learning rate 0.4, x0.2 at 1 epoch, 80 steps",
    ),
    (
      {"name": "warm_restarts", "peak_decay": 0.5},
      "learning rate 0.4, cosine with warm restarts after 10 epochs, periods x2, peaks x0.5",
    ),
  ],
)
def test_in_words(settings, text):
  c = configs.default().optim.schedule
  c.update(settings)
  assert schedules.describe(c, PEAK) == text
