"""Every schedule against its formula, at every step of a run."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import build, register, registry
from cnnjax import config as configs
from cnnjax.config import durations
from cnnjax.errors import UserError
from cnnjax.optim import schedules

PEAK, TOTAL, PER_EPOCH, BATCH = 0.4, 200, 20, 50
STEPS = np.arange(TOTAL + 20)  # past the end as well


def make(total=TOTAL, peak=PEAK, **settings):
  c = configs.default().optim.schedule
  c.update(settings)
  schedules.check(c)
  to_steps = functools.partial(durations.in_steps, steps_per_epoch=PER_EPOCH, batch_size=BATCH)
  return schedules.create(c, peak, total, to_steps)


def values(schedule, steps=STEPS):
  return np.asarray(jax.vmap(schedule)(jnp.asarray(steps, jnp.int32)))


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


def one_cycle(t, length, start, peak_at, end):
  top = int(peak_at * length)
  falls = cosine(np.maximum(t - top, 0), length - top, PEAK, end)
  return np.where(t < top, PEAK + start - cosine(t, top, PEAK, start), falls)


# name: (settings, the rate as a function of the steps since the warm-up and its length)
FORMULAS = {
  "constant": ({"name": "constant"}, lambda t, w: np.full(t.shape, PEAK)),
  "step": (
    {"name": "step", "period": 3, "factor": 0.5},
    lambda t, w: PEAK * 0.5 ** ((t + w) // 60),
  ),
  "step of no whole number of steps": (
    {"name": "step", "period": 2.42, "factor": 0.97},  # 48.4 steps
    lambda t, w: PEAK * 0.97 ** np.sum([t + w >= b for b in (48, 97, 145, 194)], axis=0),
  ),
  "step to a floor": (
    {"name": "step", "period": "500 examples", "end_factor": 0.3},
    lambda t, w: PEAK * np.where(t + w < 10, 1, 0.3),
  ),
  "multi step": (
    {"name": "multi_step", "boundaries": (3, "100 steps", "7500 examples"), "factor": 0.2},
    lambda t, w: PEAK * 0.2 ** np.sum([t + w >= b for b in (60, 100, 150)], axis=0),
  ),
  "exponential": (
    {"name": "exponential", "period": 2, "factor": 0.7},
    lambda t, w: PEAK * 0.7 ** (t / 40),
  ),
  "exponential to a floor": (
    {"name": "exponential", "period": "1000 examples", "factor": 0.5, "end_factor": 0.01},
    lambda t, w: PEAK * np.maximum(0.5 ** (t / 20), 0.01),
  ),
  "exponential growth": (
    {"name": "exponential", "period": 10, "factor": 100.0},
    lambda t, w: PEAK * 100 ** (t / 200),
  ),
  "polynomial": (
    {"name": "polynomial", "power": 2.0},
    lambda t, w: PEAK * np.maximum(1 - t / (TOTAL - w), 0) ** 2,
  ),
  "polynomial to a floor": (
    {"name": "polynomial", "power": 0.5, "end_factor": 0.25},
    lambda t, w: PEAK * (0.25 + 0.75 * np.maximum(1 - t / (TOTAL - w), 0) ** 0.5),
  ),
  "linear": ({"name": "linear"}, lambda t, w: PEAK * np.maximum(1 - t / (TOTAL - w), 0)),
  "linear to a floor": (
    {"name": "linear", "end_factor": 0.1},
    lambda t, w: PEAK * (0.1 + 0.9 * np.maximum(1 - t / (TOTAL - w), 0)),
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
  "one cycle": (
    {"name": "one_cycle"},
    lambda t, w: one_cycle(t, TOTAL, 0.04 * PEAK, 0.3, 0.0),
  ),
  "one cycle to a floor": (
    {"name": "one_cycle", "start_factor": 0.5, "peak_at": 0.123, "end_factor": 0.2},
    lambda t, w: one_cycle(t, TOTAL, 0.5 * PEAK, 0.123, 0.2 * PEAK),
  ),
  "trapezoid": (  # the last 40 of 200 steps, whatever the warm-up
    {"name": "trapezoid"},
    lambda t, w: PEAK * np.clip((TOTAL - t - w) / 40, 0, 1),
  ),
  "trapezoid to a floor": (
    {"name": "trapezoid", "cooldown": 0.5, "end_factor": 0.1},
    lambda t, w: PEAK * (0.1 + 0.9 * np.clip((TOTAL - t - w) / 100, 0, 1)),
  ),
  "trapezoid without a fall": (
    {"name": "trapezoid", "cooldown": 0.0},
    lambda t, w: np.full(t.shape, PEAK),
  ),
  "piecewise": (
    {"name": "piecewise", "points": ((2, 1.0), ("100 steps", 0.5), ("7500 examples", 0.0))},
    lambda t, w: PEAK * np.interp(t + w, [40, 100, 150], [1, 0.5, 0]),
  ),
  "piecewise of one point": (
    {"name": "piecewise", "points": ((5, 0.5),)},
    lambda t, w: np.full(t.shape, PEAK / 2),
  ),
}
WARMUPS = [(0, 0), ("8 steps", 8), (1.5, 30), ("50 examples", 1)]


@pytest.mark.smoke
@pytest.mark.parametrize("warmup, length", WARMUPS)
@pytest.mark.parametrize("name", [name for name in FORMULAS if "cycle" not in name])
def test_formula(name, warmup, length):
  settings, formula = FORMULAS[name]
  steps = STEPS[:TOTAL] if settings["name"] in ("step", "warm_restarts") else STEPS
  expected = formula(np.maximum(steps - length, 0), length)
  if length:
    start = 0.1 * PEAK  # of the warm-up
    expected = np.where(steps < length, start + (PEAK - start) * steps / length, expected)
    settings = {**settings, "warmup": warmup, "warmup_factor": 0.1}
  np.testing.assert_allclose(values(make(**settings), steps), expected, rtol=5e-6, atol=5e-7)


@pytest.mark.parametrize("name", [name for name in FORMULAS if "cycle" in name])
def test_one_cycle(name):
  settings, formula = FORMULAS[name]
  np.testing.assert_allclose(values(make(**settings)), formula(STEPS, 0), rtol=5e-6, atol=5e-7)


def each(name):
  """Of the settings, those with a warm-up where there may be one."""
  settings, _ = FORMULAS[name]
  return settings if settings["name"] == "one_cycle" else {"warmup": 1, **settings}


every = pytest.mark.parametrize("name", FORMULAS)


@every
def test_inside_jit_and_one_by_one_it_is_the_same(name):
  schedule = make(**each(name))
  steps = np.array([0, 1, 19, 20, 21, 60, 199])
  np.testing.assert_allclose(values(jax.jit(schedule), steps), values(schedule, steps), atol=1e-6)
  for step in (0, 20, 199):
    np.testing.assert_allclose(float(schedule(step)), values(schedule, [step])[0], atol=1e-6)


@every
def test_it_is_proportional_to_the_peak(name):
  """Which a sweep of learning rates relies on: it multiplies one schedule."""
  once, twice, thrice = (values(make(peak=k * PEAK, **each(name))) for k in (1, 2, 3))
  np.testing.assert_array_equal(twice, 2 * once)
  np.testing.assert_allclose(thrice, 3 * once, rtol=2e-5)


@every
def test_it_stays_between_0_and_the_peak(name):
  rates = values(make(**each(name)))
  assert rates.min() >= 0
  if name != "exponential growth":
    assert rates.max() <= PEAK * (1 + 1e-6)


@every
def test_it_begins_at_0_with_a_warm_up_that_leads_to_the_peak(name):
  """Without a jump, except to schedules that have fallen by then."""
  if each(name)["name"] == "one_cycle":
    return
  rates = values(make(**each(name)), np.arange(22))
  np.testing.assert_allclose(np.diff(rates[:20]), PEAK / 20, rtol=1e-4)
  if name in ("step to a floor", "piecewise of one point"):
    assert rates[20] < rates[19]
  else:
    assert rates[20] == pytest.approx(PEAK, rel=1e-6)


@pytest.mark.parametrize("period", [41, 47, 55, 61, 83, 97])
def test_a_compiled_step_falls_in_time(period):
  """That of optax does not for these periods, since XLA multiplies by 1 / period."""
  schedule = jax.jit(make(total=1000, name="step", period=f"{period} steps", factor=0.5))
  falls = np.arange(period, 1000, period)
  for shift, count in ((-1, 0), (0, 1)):
    rates = [float(schedule(int(step) + shift)) for step in falls]
    np.testing.assert_allclose(rates, PEAK * 0.5 ** (np.arange(len(falls)) + count), rtol=1e-6)


def test_the_step_of_efficientnet():
  """Its TensorFlow code: 0.97 ** floor(epoch / 2.4), after 5 epochs of warm-up to the peak."""
  settings = {"name": "step", "period": 2.4, "factor": 0.97, "warmup": 5}
  rates = values(make(total=350 * PER_EPOCH, **settings), np.arange(350 * PER_EPOCH))
  epoch = np.arange(350 * PER_EPOCH) / PER_EPOCH
  expected = np.where(epoch < 5, epoch / 5, 0.97 ** ((epoch + 1e-9) // 2.4)) * PEAK
  np.testing.assert_allclose(rates, expected, rtol=5e-6)
  assert rates[5 * PER_EPOCH] == pytest.approx(PEAK * 0.97**2)


@pytest.mark.parametrize(
  "settings, step, rates",
  [
    ({"name": "cosine"}, TOTAL, (PEAK * (1 - np.cos(np.pi / TOTAL)) / 2, PEAK / 2)),
    ({"name": "linear"}, TOTAL, (PEAK / TOTAL, PEAK / 2)),
    ({"name": "linear"}, TOTAL // 10, None),  # 0.9 and 0.95 of the peak
    ({"name": "linear"}, TOTAL // 2, (PEAK * 101 / 200, PEAK * 3 / 4)),
    ({"name": "trapezoid"}, TOTAL * 8 // 10, None),  # where its cool-down would begin
    ({"name": "trapezoid"}, TOTAL, (PEAK / 40, PEAK)),
    *[({"name": name, "period": "100 steps"}, TOTAL, None) for name in ("step", "exponential")],
    ({"name": "constant"}, TOTAL, None),
    ({"name": "multi_step", "boundaries": (f"{TOTAL} steps",)}, TOTAL, None),  # it falls there
  ],
)  # fmt: skip
def test_a_rate_that_jumps_where_a_run_gets_twice_as_long(settings, step, rates):
  before, after = make(**settings), make(2 * TOTAL, **settings)
  assert schedules.jump(before, after, step) == (rates and pytest.approx(rates, rel=1e-3))
  assert schedules.jump(before, before, step) is None


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
    make(name="multi_step", warmup="30 steps", boundaries=boundaries)


@pytest.mark.parametrize(
  "points", [((2, 1), (2, 0)), ((4, 1), ("30 steps", 0)), ((1, 1), (1.01, 0))]
)
def test_points_must_rise(points):
  with pytest.raises(UserError, match=r"points .* must rise in time, by a step at least"):
    make(name="piecewise", points=points)


def test_points_must_follow_the_warm_up():
  with pytest.raises(UserError, match=r"points .* begin before the end of the warm-up \(2\)"):
    make(name="piecewise", points=((0, 0.1), (3, 1)), warmup=2)
  make(name="piecewise", points=((2, 0.1), (3, 1)), warmup=2)


def test_a_trapezoid_longer_than_the_run_is_refused():
  text = (
    r"warm-up of 60 steps and a cool-down of 150 \(cooldown=0.75\) are longer than the run of 200"
  )
  with pytest.raises(UserError, match=text):
    make(name="trapezoid", warmup=3, cooldown=0.75)
  rates = values(make(name="trapezoid", warmup=3, cooldown=0.7))  # a triangle
  assert rates.argmax() == 60 and rates[59] < rates[60] > rates[61]


@pytest.mark.parametrize("name", ["step", "exponential"])
def test_a_period_of_less_than_a_step_is_refused(name):
  with pytest.raises(UserError, match=r"period '20 examples' is less than a step"):
    make(name=name, period="20 examples")


def test_too_many_steps_are_refused():
  with pytest.raises(UserError, match=r"'1 step' ends more than 10,000 times.*name=exponential"):
    make(name="step", period="1 step", total=10_002)
  make(name="step", period="1 step", total=10_000)


@pytest.mark.parametrize("name, key", [("multi_step", "boundaries"), ("piecewise", "points")])
def test_a_schedule_that_lacks_its_times(name, key):
  with pytest.raises(
    UserError, match=rf"{name} needs {key}, such as --config.optim.schedule.{key}="
  ):
    make(name=name)


@pytest.mark.parametrize(
  "settings, text",
  [
    ({"name": "one_cycle", "warmup": 5}, "one_cycle climbs by itself.*warmup=0 instead of 5"),
    ({"boundaries": (2, 4)}, r"is \(2, 4\) and has no effect .*=cosine: set .*=multi_step, or"),
    ({"name": "step", "boundaries": (2, 4)}, r"=step: set .*name=multi_step, .* at \(\)$"),
    ({"points": ((0, 1),)}, r"points' is \(\(0, 1\),\) .*name=piecewise, or"),
    ({"factor": 0.2}, "factor' is 0.2 .*=exponential or step or multi_step, or leave it at 0.1$"),
    ({"boundaries": (2,), "period": 3}, r"boundaries' is \(2,\) and"),
    ({"name": "constant", "end_factor": 0.1}, "end_factor' is 0.1 and .*name=constant"),
    ({"name": "trapezoid", "peak_at": 0.1}, "peak_at' is 0.1 and .*=trapezoid: set .*=one_cycle"),
    ({"warmup_factor": 0.1}, "warmup_factor=0.1 is where a warm-up begins, and there is none"),
    ({"warmup": "0 steps", "warmup_factor": 0.1}, "there is none"),
  ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(settings, text):
  with pytest.raises(UserError, match=text):
    make(**settings)


def test_empty_lists_are_no_settings():
  make(name="cosine", boundaries=[], points=[])


@pytest.mark.parametrize(
  "key, value", [("start_factor", 0.0), ("peak_at", 1.0), ("points", ((0, 1.5),)), ("cooldown", 2)]
)
def test_values_out_of_range_are_refused(key, value):
  c = configs.default()
  c.optim.schedule[key] = value
  with pytest.raises(UserError, match=rf"'optim.schedule.{key}' is "):
    build.validate(c)


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
    ({"name": "constant"}, "constant"),
    ({"warmup": 5}, "cosine, warm-up 5 epochs"),
    ({"end_factor": 0.1, "warmup": 1, "warmup_factor": 0.01},
     "cosine to x0.1, warm-up 1 epoch from x0.01"),
    ({"name": "step", "period": 2.4, "factor": 0.97}, "x0.97 every 2.4 epochs"),
    ({"name": "step", "end_factor": 0.01}, "x0.1 every 30 epochs, not below x0.01"),
    ({"name": "multi_step", "boundaries": (1, "80 steps"), "factor": 0.2},
     "x0.2 at 1 epoch, 80 steps"),
    ({"name": "exponential", "period": "9 steps"}, "exponential, x0.1 in 9 steps"),
    ({"name": "polynomial", "power": 2.0}, "polynomial of power 2 to 0"),
    ({"name": "linear", "end_factor": 0.1}, "linear to x0.1"),
    ({"name": "warm_restarts", "peak_decay": 0.5},
     "cosine with warm restarts after 10 epochs, periods x2, peaks x0.5"),
    ({"name": "one_cycle"}, "one cycle from x0.04 up until 0.3 of the run, then down to 0"),
    ({"name": "trapezoid"}, "trapezoid: held, then linear to 0 over the last 0.2 of the run"),
    ({"name": "piecewise", "points": ((0, 0.2), ("7 steps", 1))},
     "lines between x0.2 at 0 epochs, x1 at 7 steps"),
  ],
)  # fmt: skip
def test_in_words(settings, text):
  c = configs.default().optim.schedule
  c.update(settings)
  assert schedules.describe(c, [PEAK]) == f"learning rate 0.4, {text}"


def test_a_schedule_is_registered(own_registry):
  """As CONTRIBUTING says: what makes it, and the keys that it reads."""
  hold = lambda config, peak, length, warmup, to_steps: lambda step: peak * config.power
  register("schedule", "own", uses=("power", "period"))(hold)
  c = configs.default().optim.schedule
  c.update(name="own", power=0.5, period="9 steps", warmup=1)
  schedules.check(c)
  text = "learning rate 0.4, own, power 0.5, period 9 steps, warm-up 1 epoch"
  assert schedules.describe(c, [PEAK]) == text
  assert make(name="own", power=0.5)(3) == PEAK / 2


def test_every_schedule_is_tested():
  assert {settings["name"] for settings, _ in FORMULAS.values()} == registry.parts(
    "schedule"
  ).keys()


@pytest.mark.parametrize(
  "settings, rate, text",
  [
    ({}, 0.1, "learning rate 0.1, cosine"),
    ({"scale_from": 256}, 0.8, "learning rate 0.8 (0.1 for 256, linear, batch 2,048), cosine"),
    ({"scale_from": 128, "scale_rule": "sqrt"}, 0.4,
     "learning rate 0.4 (0.1 for 128, sqrt, batch 2,048), cosine"),
    ({"scale_from": 4096}, 0.05, "learning rate 0.05 (0.1 for 4,096, linear, batch 2,048), cosine"),
  ],
)  # fmt: skip
def test_a_rate_scaled_to_the_batch(settings, rate, text):
  c = configs.default().optim
  c.update(settings)
  assert schedules.scaled_rate(c, 2048) == pytest.approx(rate)
  scaling = schedules.describe_scaling(c, 2048)
  assert schedules.describe(c.schedule, [schedules.scaled_rate(c, 2048)], scaling) == text


def _sequence(torch, optimizer, warmup, start, main):
  """As torchvision's references/classification/train.py chains them."""
  first = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=start, total_iters=warmup)
  return torch.optim.lr_scheduler.SequentialLR(optimizer, [first, main], milestones=[warmup])


WARM = {"warmup": "20 steps", "warmup_factor": 0.01}
OF_TORCH = {  # name: (settings, torch's, given lr_scheduler, the optimizer and torch)
  "StepLR": (
    {"name": "step", "period": "30 steps"},
    lambda lr, o, torch: lr.StepLR(o, 30, 0.1),
  ),
  "MultiStepLR": (
    {"name": "multi_step", "boundaries": ("30 steps", "160 steps"), "factor": 0.2},
    lambda lr, o, torch: lr.MultiStepLR(o, [30, 160], 0.2),
  ),
  "ExponentialLR": (
    {"name": "exponential", "period": "1 step", "factor": 0.98},
    lambda lr, o, torch: lr.ExponentialLR(o, 0.98),
  ),
  "PolynomialLR": (
    {"name": "polynomial", "power": 0.9},
    lambda lr, o, torch: lr.PolynomialLR(o, TOTAL, 0.9),
  ),
  "CosineAnnealingLR": (
    {"name": "cosine", "end_factor": 0.1},
    lambda lr, o, torch: lr.CosineAnnealingLR(o, TOTAL, eta_min=0.1 * PEAK),
  ),
  "CosineAnnealingWarmRestarts": (
    {"name": "warm_restarts", "first_period": "10 steps", "end_factor": 0.1},
    lambda lr, o, torch: lr.CosineAnnealingWarmRestarts(o, 10, 2, eta_min=0.1 * PEAK),
  ),
  # torch's is at its peak at step pct_start * total - 1, and at its end at the last step.
  "OneCycleLR": (
    {"name": "one_cycle", "end_factor": 0.04 / 1e4},
    lambda lr, o, torch: lr.OneCycleLR(
      o, PEAK, TOTAL + 1, pct_start=(0.3 * TOTAL + 1) / (TOTAL + 1), cycle_momentum=False
    ),
  ),
  "LinearLR": (
    {"name": "linear", "end_factor": 0.05},
    lambda lr, o, torch: lr.LinearLR(o, 1.0, 0.05, TOTAL),
  ),
  "constant after a warm-up": (
    {"name": "constant", **WARM},
    lambda lr, o, torch: _sequence(torch, o, 20, 0.01, lr.ConstantLR(o, 1.0)),
  ),
  "cosine after a warm-up": (
    {"name": "cosine", **WARM},
    lambda lr, o, torch: _sequence(torch, o, 20, 0.01, lr.CosineAnnealingLR(o, TOTAL - 20)),
  ),
  "exponential after a warm-up": (
    {"name": "exponential", "period": "30 steps", **WARM},
    lambda lr, o, torch: _sequence(torch, o, 20, 0.01, lr.ExponentialLR(o, 0.1 ** (1 / 30))),
  ),
  # There the 30 steps count from the end of the warm-up.
  "multi-step after a warm-up": (
    {"name": "multi_step", "boundaries": ("50 steps", "80 steps"), **WARM},
    lambda lr, o, torch: _sequence(torch, o, 20, 0.01, lr.MultiStepLR(o, [30, 60], 0.1)),
  ),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", OF_TORCH)
def test_it_is_that_of_torch(name):
  torch = pytest.importorskip("torch")
  settings, theirs = OF_TORCH[name]
  optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
  scheduler, expected = theirs(torch.optim.lr_scheduler, optimizer, torch), []
  for _ in range(TOTAL):
    expected.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
    scheduler.step()
  rates = values(make(**settings), np.arange(TOTAL))
  np.testing.assert_allclose(rates, expected, rtol=2e-5, atol=2e-7)
