"""Where the warnings of a run begin and end, to the last value that does not count."""

import math

import pytest

from cnnjax.training import health

MONITOR = "validation/accuracy"


def said(name, values, *, steps=None, total=10**6, before=(), better="max", **options):
  """The places of the values of one metric at which a warning begins."""
  watch = health.Watch(total, MONITOR, better, **options)
  for line in before:
    watch.see(line)
  steps = steps or range(2, 2 + len(values))
  return [
    i
    for i, (step, x) in enumerate(zip(steps, values, strict=True))
    if watch.see({"step": step, name: x})
  ]


@pytest.mark.parametrize(
  "losses, at, guessing",
  [
    ([1.0, 0.25, 1.0], [], None),  # as high as the first is not above it
    ([1.0, 0.25, 1.01], [2], None),
    ([0.5, 1.0, 1.01], [2], None),  # twice its best
    ([2.0, 0.5, 2.5, 1.5, 2.5, 1.49, 2.5], [2, 6], None),  # ends below 0.75 of what began it
    ([0.1, 2.0, 2.01], [2], 2.0),  # the first counts as guessing at least
    ([9.0, 2.0, 4.0, 4.1], [3], 2.0),  # and as twice that at most
    ([3.0, 0.5, 3.0, 3.1], [3], 2.0),
    ([1.0, math.inf], [1], None),
    ([1.0, math.nan], [1], None),
    ([math.nan], [0], None),
  ],
)
def test_divergence(losses, at, guessing):
  assert said("train/loss", losses, guessing=guessing) == at


@pytest.mark.parametrize(
  "norms, at",
  [
    ([1, 1, 1, 1, 1000], []),  # four are none that is usual
    ([1, 1, 1, 1, 1, 100], []),
    ([1, 1, 1, 1, 1, 101], [5]),
    ([500, 1, 1, 1, 1, 1, 500, 501], [7]),  # not above the first
    ([*[1] * 12, 101, 101, 50, 101, 49, 101], [12, 17]),  # until it is below half of that
    ([1, 1, 1, 1, math.nan, 1000], []),
    ([math.inf, 1, 1, 1, 1, 1, 101], [6]),
    ([*[3] * 50, *[1] * 51, 101], [101]),  # of the last 100 half are 1
    ([*[3] * 51, *[1] * 50, 101, 301], [102]),
  ],
)
def test_explosion(norms, at):
  assert said("grad_norm", norms) == at


@pytest.mark.parametrize("name", ["dead_relu", "data_wait"])
def test_shares(name):
  assert said(name, [0.5, 0.51, 0.6, 0.4, 0.6, 0.39, 0.6]) == [1, 6]


def test_the_first_step_always_waits():
  assert said("data_wait", [0.9, 0.9], steps=[1, 2]) == [1]


def test_the_loss_scale():
  assert said("loss_scale", [4.0, 1.01, 1.0, 0.5, 0.25, 2.0, 1.0]) == [2, 6]
  assert said("loss_scale", [1.0, 1.0, 0.5]) == [2]


FALLING = [{"step": 2, "train/loss": 1.0, "learning_rate": 1.0}]


@pytest.mark.parametrize(
  "total, losses, steps, at",
  [
    (300, [1.0] * 5, [90, 95, 99, 101, 102], [4]),  # 100 steps after step 2
    (300, [1.0] * 5, [90, 95, 99, 100, 101], []),
    (300, [1.0] * 4, [90, 100, 110, 120], []),  # fewer than five lines
    (300, [0.991, 1.0, 1.0, 1.0, 1.0], [90, 95, 99, 100, 102], [4]),  # noise
    (300, [0.99, 1.0, 1.0, 1.0, 1.0], [90, 95, 99, 100, 102], [4]),
    (300, [0.989, 1.0, 1.0, 1.0, 1.0, 1.0], [90, 95, 99, 100, 102, 189], []),
    (300, [0.989, 1.0, 1.0, 1.0, 1.0, 1.0], [90, 95, 99, 100, 102, 190], [5]),
    (
      300,
      [1.0] * 6 + [0.9] + [1.0] * 5,
      [90, 95, 99, 101, 102, 103, 110, *range(206, 211)],
      [4, 11],
    ),
  ],
)
def test_a_loss_that_stands_still(total, losses, steps, at):
  assert said("train/loss", losses, steps=steps, total=total, before=FALLING) == at


@pytest.mark.parametrize(
  "rate, first, at", [(0.5, 1.0, [4]), (0.49, 1.0, []), (1.0, 50.1, []), (1.0, 49.9, [4])]
)
def test_a_run_settles_below_half_of_its_rate_or_where_it_is_solved(rate, first, at):
  """Solved: below 0.02 of the first loss."""
  before = [
    {"step": 2, "train/loss": first, "learning_rate": 1.0},
    {"step": 3, "train/loss": 1.0, "learning_rate": rate},
  ]
  steps = [90, 95, 99, 101, 103]
  assert said("train/loss", [1.0] * 5, steps=steps, total=300, before=before) == at


def test_a_rate_that_rises_begins_anew_and_one_that_stays_does_not():
  for rate, at in ((1.0, [4]), (1.01, [])):
    before = [*FALLING, {"step": 50, "learning_rate": rate}]
    steps = [90, 95, 99, 101, 103]
    assert said("train/loss", [1.0] * 5, steps=steps, total=300, before=before) == at


@pytest.mark.parametrize("better, values", [("max", [0.5, 0.5, 0.51]), ("min", [0.5, 0.5, 0.49])])
def test_a_metric_that_gets_better_ends_an_episode(better, values):
  """And counts from there; evaluations count, and lines of training do not."""
  watch = health.Watch(30, MONITOR, better)
  found = []
  for step in range(1, 31):
    value = values[0] if step < 20 else values[2]
    found += [step] * bool(watch.see({"step": step, MONITOR: value}))
    found += [-step] * bool(watch.see({"step": step, "train/loss": 1.0}))
  assert found == [12, 30]


def test_each_run_has_its_own_watch():
  made = health.Watches(("seed=0", "seed=1"), lambda: health.Watch(100, MONITOR, "max"))
  line = {"step": 7, "dead_relu/seed=0": 0.6, "dead_relu/seed=1": 0.2, "dead_relu": 0.9}
  (text,) = made.see(line)
  assert text.startswith("60% of the ReLUs are dead") and text.endswith("activation (seed=0)")
