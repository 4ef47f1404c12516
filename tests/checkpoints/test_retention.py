"""Which checkpoints stay, by the rule and as Orbax's own policies have it."""

import types

import numpy as np
import pytest
from orbax.checkpoint import checkpoint_managers as policies

from cnnjax import checkpoints
from cnnjax.config import default


@pytest.mark.parametrize(
  "keep, stay",
  [
    ((2, 1, None), {2, 5, 6}),
    ((1, 2, None), {2, 5, 6}),
    ((1, 0, None), {6}),
    ((1, 1, 3), {2, 3, 6}),
    ((-1, 0, None), {1, 2, 3, 4, 5, 6}),
  ],
)
def test_what_stays_is_as_the_config_says(keep, stay):
  scores = {1: 0.5, 2: 0.9, 3: 0.7, 4: None, 5: 0.8, 6: None}
  assert checkpoints.Keep(*keep).choose(scores) == stay


def test_keep_is_that_of_the_config():
  keep = default().keep
  keep.update(last=3, best=4, every="2 epochs")
  found = checkpoints.Keep.of(
    keep, lambda duration, key: {("2 epochs", "keep.every"): 14}[duration, key]
  )
  assert found == checkpoints.Keep(3, 4, 14)


@pytest.mark.parametrize("last", [-1, 1, 2, 3])
@pytest.mark.parametrize("best", [0, 1, 4, 9])
@pytest.mark.parametrize("every", [None, 3])
def test_what_stays_is_what_the_policies_of_orbax_keep(last, best, every):
  rng = np.random.default_rng(0)
  rules = [
    policies.LatestN(None if last == -1 else last),
    policies.BestN(
      get_metric_fn=lambda score: score, n=best, keep_checkpoints_without_metrics=False
    ),
    *([policies.EveryNSteps(every)] if every else []),
  ]
  for _ in range(50):
    steps = np.flatnonzero(rng.random(12) < 0.6).tolist()
    scores = {s: rng.choice([None, 0.1, 0.2, 0.3, -np.inf]) for s in steps}
    infos = [
      types.SimpleNamespace(step=s, metrics=None if v is None else (v, -s), time=None)
      for s, v in scores.items()
    ]
    flags = policies.AnyPreservationPolicy(rules).should_preserve(
      infos, context=policies.PreservationContext()
    )
    stay = {step for step, flag in zip(steps, flags, strict=True) if flag}
    assert checkpoints.Keep(last, best, every).choose(scores) == stay
