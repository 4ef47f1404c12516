"""How long a run is, in steps."""

import pytest

from cnnjax import data
from cnnjax.errors import UserError


def order(sizes=(None,)):
  return data.Order(103, 8, 0, "uniform", 1, False, sizes)  # 12 batches, 7 examples left over


@pytest.mark.parametrize(
  "epochs, sizes, total, phase",
  [
    (3, (None,), 36, 36),
    ("25 steps", (4, 6, 8), 25, 9),  # 9 + 9 + 7
    ("1 example", (None,), 1, 1),  # an eighth of a step
    ("200 examples", (4, 8), 25, 13),
  ],
)
def test_the_length_of_a_run(epochs, sizes, total, phase):
  length = data.Length.of(order(sizes), epochs)
  assert (length.total, length.steps_per_epoch, length.phase) == (total, 12, phase)
  assert length.to_steps("16 examples", "x") == 2 and length.to_steps(0.5, "x") == 6
  assert length.describe() == f"{total:,} steps, 12 an epoch"


def test_no_duration():
  with pytest.raises(UserError, match=r"^epochs is 'long'; a duration is"):
    data.Length.of(order(), "long")
  with pytest.raises(UserError, match=r"^save_every is -1; a duration must be finite"):
    data.Length.of(order(), 1).to_steps(-1, "save_every")
