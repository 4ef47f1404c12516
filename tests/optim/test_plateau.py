"""The rate that falls on a plateau: by hand, against optax, and against torch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import build
from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.optim import plateau


def settings(**overrides):
  c = configs.default().optim.plateau
  c.update({"patience": 2, **overrides})
  plateau.check(c)
  return c


def scales(values, better="max", **overrides):
  """The scale after each of the values."""
  state, found = plateau.create(settings(**overrides), better=better), []
  for value in values:
    state = plateau.update(state, value, better=better)
    found.append(float(state.scale))
  return found


NAN, INF = math.nan, math.inf
BY_HAND = [  # (metric, its direction, settings, the scale after each evaluation)
  # Two evaluations in a row may bring nothing, the third lowers the rate, and it counts anew.
  ([1, 1, 1, 1, 1, 1, 1], "max", {}, [1, 1, 1, 0.1, 0.1, 0.1, 0.01]),
  ([1, 1, 1, 2, 2, 2, 2], "max", {}, [1, 1, 1, 1, 1, 1, 0.1]),
  ([1, 1, 1, 2, 2, 2, 2], "min", {}, [1, 1, 1, 0.1, 0.1, 0.1, 0.01]),
  ([3, 2, 1, 0, -1, -2], "min", {"patience": 0}, [1] * 6),
  ([3, 2, 1, 0], "max", {"patience": 0, "factor": 0.5}, [1, 0.5, 0.25, 0.125]),
  # The two evaluations after a fall do not count, even a third that is worse begins from 1.
  ([1, 1, 1, 1, 1, 1], "max", {"patience": 0, "cooldown": 2, "factor": 0.5},
   [1, 0.5, 0.5, 0.5, 0.25, 0.25]),
  # What is best is known all the same: after the 2 of the cool-down, 1.5 is no improvement.
  ([1, 1, 2, 1.5], "max", {"patience": 0, "cooldown": 1, "factor": 0.5}, [1, 0.5, 0.5, 0.25]),
  ([1, 1, 1, 1, 1], "max", {"patience": 0, "factor": 0.1, "min_scale": 0.05},
   [1, 0.1, 0.05, 0.05, 0.05]),
  # Less than min_delta is none, and the best stays, so that slow progress adds up to one.
  ([1, 1.4, 1.8, 2.2], "max", {"patience": 1, "min_delta": 0.5}, [1, 1, 1, 1]),
  ([1, 1.2, 1.4, 1.6], "max", {"patience": 1, "min_delta": 0.5}, [1, 1, 0.1, 0.1]),
  ([1, 1.5, 1.5], "max", {"patience": 0, "min_delta": 0.5}, [1, 0.1, 0.01]),
  ([1, 0.4, 0.0], "min", {"patience": 0, "min_delta": 0.5}, [1, 1, 0.1]),
  ([1, 1], "max", {"patience": 0, "min_delta": 0.0}, [1, 0.1]),
  ([NAN, 1, NAN, NAN, 2], "max", {"patience": 1}, [1, 1, 1, 0.1, 0.1]),
  ([INF, 5, 5], "min", {"patience": 1}, [1, 1, 1]),
]  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("values, better, overrides, expected", BY_HAND)
def test_by_hand(values, better, overrides, expected):
  np.testing.assert_allclose(scales(values, better, **overrides), expected, rtol=1e-6)


def trajectories():
  """Metrics that rise to a plateau, with noise, NaN and worse stretches."""
  for seed in range(6):
    rng = np.random.default_rng(seed)
    values = 1 - np.exp(-np.arange(60) / 10) + rng.normal(size=60) * 0.03
    values[rng.integers(0, 60, 3)] = np.nan
    yield np.round(values, 3)  # ties as well


CASES = [
  {},
  {"patience": 0, "factor": 0.5},
  {"patience": 3, "cooldown": 2, "min_delta": 0.0505, "factor": 0.5},
  {"patience": 1, "cooldown": 5, "min_scale": 0.01},
]


@pytest.mark.parametrize("better", ["max", "min"])
@pytest.mark.parametrize("overrides", CASES)
def test_it_is_that_of_optax_with_a_patience_of_one_more(overrides, better):
  c = settings(**overrides)
  theirs = optax.contrib.reduce_on_plateau(
    c.factor, c.patience + 1, rtol=0.0, atol=c.min_delta, cooldown=c.cooldown, min_scale=c.min_scale
  )
  step = jax.jit(lambda state, value: theirs.update(jnp.float32(1), state, value=value)[1])
  for values in trajectories():
    state = theirs.init(jnp.float32(0))
    for value, ours in zip(values, scales(values, better, **overrides), strict=True):
      state = step(state, -value if better == "max" else value)
      assert ours == pytest.approx(float(state.scale), rel=1e-6)
    assert ours < 1


@pytest.mark.parity
@pytest.mark.parametrize("better", ["max", "min"])
@pytest.mark.parametrize("overrides", CASES)
def test_it_is_that_of_torch(overrides, better):
  torch = pytest.importorskip("torch")
  c = settings(**overrides)
  for values in trajectories():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
      optimizer, better, c.factor, c.patience, c.min_delta, "abs", c.cooldown, c.min_scale, eps=0
    )
    for value, ours in zip(values, scales(values, better, **overrides), strict=True):
      scheduler.step(value)
      assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)


def test_runs_side_by_side_and_compiled():
  """One state for several runs, in one program; the types stay, or each update compiles anew."""
  values = np.stack(list(trajectories()), axis=1)
  start = plateau.create(settings(), better="max")
  compiled = jax.jit(lambda state, value: plateau.update(state, value, better="max"))
  assert jax.eval_shape(compiled, start, 0.5) == jax.eval_shape(lambda: start)
  together = jax.tree.map(lambda x: jnp.broadcast_to(x, values.shape[1:]), start)
  found = []
  for row in values:
    together = jax.vmap(compiled)(together, row)
    found.append(together.scale)
  alone = np.stack([scales(column) for column in values.T], axis=1)
  np.testing.assert_allclose(np.stack(found), alone, rtol=1e-6)


def test_settings_of_a_plateau_that_is_off_are_refused():
  with pytest.raises(UserError, match=r"cooldown=3 does nothing while .*patience is None"):
    settings(patience=None, cooldown=3)
  settings(patience=None)


def test_unknown_direction():
  with pytest.raises(UserError, match=r"unknown direction: better 'low'.*max, min"):
    plateau.create(settings(), better="low")


@pytest.mark.parametrize("key, value", [("patience", -1), ("factor", 1.0), ("min_scale", 2.0)])
def test_values_out_of_range_are_refused(key, value):
  c = configs.default()
  c.optim.plateau[key] = value
  with pytest.raises(UserError, match=rf"'optim.plateau.{key}' is {value}"):
    build.validate(c)


@pytest.mark.parametrize(
  "overrides, text",
  [
    ({"patience": None}, ""),
    ({}, "x0.1 when validation/loss stands still for more than 2 evaluations"),
    (
      {"patience": 1, "factor": 0.5, "min_scale": 0.01},
      "x0.5 when validation/loss stands still for more than 1 evaluation, not below x0.01",
    ),
  ],
)
def test_in_words(overrides, text):
  assert plateau.describe(settings(**overrides), "validation/loss") == text
