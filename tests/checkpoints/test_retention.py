"""Which checkpoints stay, by the rule and as Orbax's own policies have it."""

import types

import numpy as np
import pytest
from orbax.checkpoint import checkpoint_managers as policies

from cnnjax import checkpoints
from cnnjax.checkpoints import retention
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


def test_two_of_the_last_and_the_best_are_kept_if_nothing_is_said():
  assert checkpoints.Keep() == retention.STANDARD == checkpoints.Keep(2, 1, None)
  config = default().keep
  assert checkpoints.Keep.of(config, lambda *_: 7) == checkpoints.Keep(2, 1, None)
  config.every = "1 steps"
  assert checkpoints.Keep.of(config, lambda *_: 0).every == 1  # a part of a step is one


class Files:
  """What `Scores` reads: the metrics of each step, or an error; a folder without a manifest."""

  def __init__(self, folder, found):
    self.folder, self.found, self.read = folder, found, []

  def place(self, step):
    return self.folder

  def metrics(self, step):
    self.read.append(step)
    if isinstance(self.found[step], Exception):
      raise self.found[step]
    return self.found[step]


@pytest.mark.parametrize("better, sign", [("max", 1), ("min", -1)])
def test_scores_of_what_was_and_was_not_measured(tmp_path, better, sign):
  found = {1: {"m": 0.5}, 2: {"other": 1.0}, 3: None, 4: KeyError("lost"), 5: {"m": None}, 6: {}}
  store = Files(tmp_path, found)
  scores = retention.Scores(store, "m", better)
  inf = float("inf")
  expected = {1: sign * 0.5, 2: None, 3: None, 4: inf, 5: -inf, 6: None}
  for _ in range(2):  # each is read once
    assert {step: scores.of(step) for step in found} == expected
  assert store.read == [*found]
  scores.forget(1)
  scores.forget(7)
  assert scores.of(1) == sign * 0.5 and store.read == [*found, 1]
  assert scores.to_save({"other": 1.0}) is None
  assert scores.to_save({"m": 0.0, "other": 1.0}) == {"m": 0.0}
  assert scores.to_save({"m": inf}) == {"m": None}
  scores.note(8, {"m": 0.25})
  assert scores.of(8) == sign * 0.25 and 8 not in store.read
