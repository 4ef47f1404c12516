"""Durations in steps, epochs and examples."""

import pytest

from cnnjax.config import durations
from cnnjax.errors import UserError


@pytest.mark.parametrize(
  "value, steps",
  [
    ("500 steps", 500),
    ("1 step", 1),
    ("1e3 steps", 1000),
    (" 7steps ", 7),
    (2, 200),
    (2.5, 250),
    ("2.5 epochs", 250),
    ("1 epoch", 100),
    (0, 0),
    (1e-9, 0),
    ("1e6 examples", 15625),
    ("64 examples", 1),
    ("1 example", 0),
    ("1e-2 epochs", 1),
  ],
)
def test_durations_in_steps(value, steps):
  assert durations.in_steps(value, "epochs", steps_per_epoch=100, batch_size=64) == steps


@pytest.mark.parametrize(
  "value",
  [
    "",
    "5",
    "steps",
    "5 weeks",
    "five steps",
    "5 steps more",
    "1.2.3 steps",
    "e steps",
    None,
    (1,),
    "--5 steps",
  ],
)
def test_what_is_not_a_duration(value):
  with pytest.raises(UserError, match=r'^epochs is .*"500 steps", "2.5 epochs" or "1e6 examples"$'):
    durations.parse(value, "epochs")
