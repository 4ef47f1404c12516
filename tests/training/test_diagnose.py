"""What is watched of a run, and what is said of one that diverged."""

import math
import types

import numpy as np
import pytest

from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.training import diagnose, health, members, state


def program(*, loss="cross_entropy", teacher=None, total=1000, **settings):
  """What `diagnose` asks of one."""
  config = default()
  config.update(settings)
  return types.SimpleNamespace(
    config=config,
    inputs=types.SimpleNamespace(length=types.SimpleNamespace(total=total)),
    task=types.SimpleNamespace(loss_name=loss, num_classes=8),
    teacher=teacher,
    members=members.create(config),
  )


def test_a_run_is_watched_by_its_length_its_metric_and_what_guessing_gives():
  found = diagnose.watch(program(monitor="validation/loss"))
  assert (found._total, found._monitor, found._sign) == (1000, "validation/loss", -1)
  assert found._guessing == pytest.approx(math.log(8))
  assert diagnose.watch(program())._sign == 1
  plain = default().task
  plain.class_weights = "auto"
  for other in ({"loss": "focal"}, {"teacher": object()}, {"task": plain}):
    assert diagnose.watch(program(**other))._guessing is None
  assert diagnose.watch(program(health={"warnings": False})) is None


def test_each_of_several_runs_is_watched():
  found = diagnose.watch(program(seeds=2))
  assert isinstance(found, health.Watches) and {*found._watches} == {"seed=0", "seed=1"}
  line = {"step": 5, "dead_relu/seed=0": 0.1, "dead_relu/seed=1": 0.9}
  (text,) = found.see(line)
  assert text.startswith("90% of the ReLUs are dead") and text.endswith(" (seed=1)")


NEVER = int(state.NEVER)


@pytest.mark.parametrize(
  "steps, rates, last, words",
  [
    (NEVER, (), 3, None),
    (1234, (), 1000, "infinite in step 1,235; checkpoint: the last good one is of step 1,000. Try"),
    (0, (), None, "infinite in step 1; checkpoint: there is none yet. Try a lower"),
    ([NEVER, 4], (), 0, "infinite in step 5; checkpoint: the last good one is of step 0. "),
    ([NEVER, 4], (0.1, 1), 3, None),
    ([7, 4], (0.1, 1), 3, "infinite in step 5;"),
    ([NEVER, NEVER], (0.1, 1), 3, None),
  ],
)
def test_divergence_is_said_with_its_first_step_and_the_last_checkpoint(steps, rates, last, words):
  now = types.SimpleNamespace(bad_step=np.asarray(steps))
  saved = types.SimpleNamespace(step=lambda: last)
  of = program(rates=rates)
  if words is None:
    diagnose.check_finite(of, now, saved)
    return
  with pytest.raises(UserError) as error:
    diagnose.check_finite(of, now, saved)
  assert words in str(error.value)
  assert str(error.value).endswith("health.trace=True names the layer where it begins")
