"""The bounds of arguments belong to them, and nothing beyond does."""

import math

import pytest

from cnnjax.augment import checks
from cnnjax.errors import UserError

BIG = 1e9  # where no bound is given


@pytest.mark.parametrize(
  "good, bad, high, integer",
  [
    ((1, 2.5, 4), (0.999, 4.001, -2, math.nan, math.inf, "2", None, True), 4, False),
    ((1, BIG), (0, 2 * BIG, math.inf), None, False),
    ((1, 4), (0, 5, 2.0, True), 4, True),
  ],
)
def test_a_number_is_between_its_bounds(good, bad, high, integer):
  for value in good:
    checks.number("noise", "a level", value, 1, high, integer=integer)
  kind = "an integer" if integer else "a number"
  words = "of at least 1" if high is None else "between 1 and 4"
  for value in bad:
    with pytest.raises(UserError, match=f"^augment: noise takes a level, {kind} {words}, not "):
      checks.number("noise", "a level", value, 1, high, integer=integer)


@pytest.mark.parametrize("high", [4, None])
def test_an_interval_is_in_order_and_between_its_bounds(high):
  top = high or BIG
  for value in ((1, top), [2, 2], (1.5, 3)):
    found = checks.interval("zoom", "scale", value, 1, high)
    assert found == tuple(value) and all(isinstance(x, float) for x in found)
  beyond = [(0.99, 2), (2, top * 1.01), (3, 2)]
  wrong = [2, (2,), (1, 2, 3), (1, "2"), (True, 2), (1, math.nan), None]
  words = "at least 1" if high is None else "between 1 and 4"
  for value in beyond + wrong:
    with pytest.raises(UserError, match=f"two numbers .lowest, highest. {words}, not "):
      checks.interval("zoom", "scale", value, 1, high)


def test_a_pair_is_along_x_and_along_y():
  pair = lambda value, other=None: checks.pair("shift", "a share", value, 1, other)
  assert pair(0.5) == (0.5, 0.5) and pair(0.5, 0) == (0.5, 0.0) and pair([0, 1], 0.5) == (0.0, 1.0)
  for value in (1.01, -0.01, (0.5, 1.01), (-0.01, 0)):
    with pytest.raises(UserError, match="takes a share, a number between 0 and 1, not"):
      pair(value)
  for value in ((0.5,), (0, 0, 0), "a", None, True):
    with pytest.raises(UserError, match=r"a number or two, .along x, along y., not"):
      pair(value)


def test_a_name_is_one_of_the_choices():
  checks.one_of("mode of mixup", "pair", ("batch", "pair"))
  with pytest.raises(UserError, match=r"unknown mode of mixup 'pairs'. Did you mean 'pair'"):
    checks.one_of("mode of mixup", "pairs", ("batch", "pair"))
