"""What follows the monitored metric, by hand."""

import pytest

from cnnjax import register, tasks
from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.optim import plateau
from cnnjax.tasks.metric import Metric
from cnnjax.training import monitor


def config(metric="validation/accuracy", patience=2, **stopping):
  c = default()
  c.monitor = metric
  c.data.validation = 0.1
  c.early_stopping.update(patience=patience, **stopping)
  return c


def stops_after(c, values):
  """How many evaluations a run makes that finds these."""
  now = monitor.create(c)
  for n, value in enumerate(values, 1):
    now = monitor.update(now, value, c)
    if monitor.stopped(now, c):
      return n
  return None


@pytest.mark.parametrize(
  "c, values, n",
  [
    (config(), [0.1, 0.2, 0.2, 0.1, 0.3], 4),  # as good as the best is not better
    (config(), [0.1, 0.2, 0.1, 0.3, 0.1, 0.1], 6),
    (config("validation/loss"), [3, 2, 1, 1.5, 0.5, 0.6, 0.7], 7),
    (config("validation/ema_loss"), [3, 2, 2, 2], 4),
    (config(patience=1), [0.1, 0.1], 2),
    (config(min_delta=0.05), [0.1, 0.12, 0.14, 0.16], 3),  # none is 0.05 above the first in time
    (config(min_delta=0.05), [0.1, 0.16, 0.22, 0.28], None),
    (config(), [float("nan"), float("nan"), 0.5], 2),  # NaN is no improvement
    (config(patience=None), [0.5] * 50, None),
  ],
)
def test_patience(c, values, n):
  assert stops_after(c, values) == n


@pytest.mark.parametrize("average", ["", "ema_", "schedule_free_"])
@pytest.mark.parametrize(
  "name, better", [("lossless", "max"), ("perplexity", "min"), ("own_loss", "max")]
)
def test_a_metric_says_which_way_is_better(own_registry, name, better, average):
  """Not its name: early stopping, the plateau and the best checkpoint all ask it."""
  task = type("Own", (tasks.Classification,), {"METRICS": (Metric(name, better),)})
  register("task", "own")(task)
  c = config(f"validation/{average}{name}", patience=1)
  c.task.name, c.optim.plateau.patience = "own", 0
  rising = [0.1, 0.2, 0.3]
  good, bad = (rising, rising[::-1]) if better == "max" else (rising[::-1], rising)
  assert stops_after(c, good) is None and stops_after(c, bad) == 2
  for values, scale in ((good, 1.0), (bad, 0.01)):
    now = monitor.create(c)
    for value in values:
      now = monitor.update(now, value, c)
    assert float(now.plateau.scale) == pytest.approx(scale)


def test_a_metric_without_a_direction_cannot_be_monitored(own_registry):
  register("task", "own")(type("Own", (tasks.Classification,), {"METRICS": ()}))
  c = config("validation/own_loss")
  c.task.name = "own"
  with pytest.raises(UserError, match=r"'validation/own_loss'.*in METRICS of Own"):
    monitor.check(c)


def test_every_metric_that_is_measured_is_declared():
  for task, classes in ((tasks.Classification, 10), (tasks.MultiLabel, 3), (tasks.Regression, 1)):
    measured = {*task(num_outputs=classes).collection.__annotations__}
    assert measured == {metric.name for metric in task.METRICS}


def test_a_split_to_go_by_is_asked_for():
  c = config()
  monitor.check(c)
  c.data.validation = None
  with pytest.raises(UserError, match=r"early_stopping goes by .* set data.validation"):
    monitor.check(c)
  c.early_stopping.patience = None
  monitor.check(c)


def test_the_metric_must_be_one_that_is_measured():
  monitor.check_metric("validation/ema_accuracy", ["loss", "accuracy"], ["ema"])
  with pytest.raises(UserError, match="Did you mean 'validation/accuracy'"):
    monitor.check_metric("validation/ema_accuracy", ["loss", "accuracy"], [])


def test_in_words():
  assert monitor.describe(default()) == {}
  assert monitor.describe(config())["early stopping"] == (
    "after 2 evaluations without a better validation/accuracy; the result is the best step"
  )


def test_what_is_restored_at_the_end_has_to_be_kept():
  c = config()
  c.keep.best = 0
  with pytest.raises(UserError, match=r"set keep\.best=1"):
    monitor.check(c)
  c.early_stopping.restore_best = False
  monitor.check(c)


def test_the_plateau_is_followed_where_it_is_asked_for():
  c = config(patience=None)
  assert monitor.create(c).plateau is None and monitor.describe(c) == {}
  c.optim.plateau.patience = 1
  assert monitor.describe(c) == {
    "plateau": f"the rate falls {plateau.describe(c.optim.plateau, c.monitor)}"
  }
  assert monitor.create(c).plateau is not None
  monitor.check(c)
  c.data.validation = None
  with pytest.raises(UserError, match=r"^optim.plateau goes by validation/accuracy, and there"):
    monitor.check(c)


def test_one_evaluation_and_the_last_step():
  said = monitor.describe(config(patience=1, restore_best=False))["early stopping"]
  assert said == (
    "after 1 evaluation without a better validation/accuracy; the result is the last step"
  )


def test_the_counters_of_a_run():
  for metric, worst, values in (
    ("validation/accuracy", "-inf", [0.5, 0.25]),
    ("validation/loss", "inf", [0.5, 0.75]),
  ):
    c = config(metric)
    now = monitor.create(c)
    assert float(now.best) == float(worst) and int(now.since_best) == 0
    for value in values:
      now = monitor.update(now, value, c)
    assert float(now.best) == 0.5 and int(now.since_best) == 1
    assert not monitor.stopped(now, c)
  c.early_stopping.patience = None
  assert not monitor.stopped(now.replace(since_best=now.since_best + 99), c)


def test_a_metric_of_an_average_that_is_not_kept_is_named():
  with pytest.raises(
    UserError,
    match=r"unknown metric: monitor 'validation/x'\. Did you .* Choose from: "
    r"validation/a, validation/b, validation/ema_a, validation/ema_b",
  ):
    monitor.check_metric("validation/x", iter(["a", "b"]), ["ema"])
