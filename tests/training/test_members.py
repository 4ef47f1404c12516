"""What several runs come to, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cnnjax import build
from cnnjax.config import default
from cnnjax.tasks import metric
from cnnjax.tasks.metric import Metric, of_weights
from cnnjax.training import members


def runs(**settings):
  config = default()
  config.update(settings)
  return members.create(config)


def test_of_seeds_the_mean_and_its_interval_are_reported():
  found = runs(seed=3, seeds=3).report([{"loss": 1.0}, {"loss": 2.0}, {"loss": 6.0}])
  low, high = scipy.stats.t.interval(0.95, 2, 3.0, scipy.stats.sem([1.0, 2.0, 6.0]))
  each = {"loss/seed=3": 1.0, "loss/seed=4": 2.0, "loss/seed=5": 6.0}
  assert found == pytest.approx({"loss": 3.0, "loss_ci95": (high - low) / 2, **each})
  assert metric.of_each(found) == {
    "": {"loss": 3.0, "loss_ci95": found["loss_ci95"]},
    "seed=3": {"loss": 1.0}, "seed=4": {"loss": 2.0}, "seed=5": {"loss": 6.0},
  }  # fmt: skip


def test_of_rates_each_is_reported_and_all_have_one_seed():
  sweep = runs(seed=7, rates=(0.05, 0.2))
  assert sweep.report([{"loss": 1.0}, {"loss": 2.0}]) == {
    "loss/rate=0.05": 1.0, "loss/rate=0.2": 2.0,
  }  # fmt: skip
  seeds, factors = sweep.arguments
  np.testing.assert_array_equal(seeds, [7, 7])
  np.testing.assert_allclose(factors, [0.5, 2.0])  # of the default, 0.1


def test_in_words():
  metrics = of_weights([Metric("accuracy", "max", ".2%"), Metric("loss", "min", ".4f")], ["raw"])
  values = {"test/loss": 0.25, "test/accuracy": 0.5, "test/accuracy_ci95": 0.01, "train/loss": 9.0}
  assert metric.in_words(values, metrics, "test/") == "accuracy 50.00% ± 1.00%, loss 0.2500"


@pytest.mark.parametrize("settings", [{"rates": (0.1, 0.2)}, {"seeds": 2}])
def test_the_loss_scale_is_that_of_each_run(tiny, settings):
  """Of seeds also the mean; of rates no number that is of none."""
  program = build.build(tiny(dtype="float16", **settings))
  now = program.new_state()
  now = now.replace(loss_scale=now.loss_scale.replace(scale=jnp.asarray([2.0, 8.0])))
  found = program.training_metrics(now)
  scales = {name: value for name, value in found.items() if name.startswith("loss_scale")}
  if "rates" in settings:
    assert scales == {"loss_scale/rate=0.1": 2.0, "loss_scale/rate=0.2": 8.0}
  else:
    assert scales.pop("loss_scale_ci95") > 0
    assert scales == {"loss_scale": 5.0, "loss_scale/seed=0": 2.0, "loss_scale/seed=1": 8.0}
