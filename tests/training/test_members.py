"""What several runs come to, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cnnjax import build, tasks
from cnnjax.config import default, override
from cnnjax.errors import UserError
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


def refuse(words, **settings):
  config = default()
  for key, value in settings.items():
    override(config, key, value)
  with pytest.raises(UserError, match=words):
    members.check(config)


def test_sweeps_that_make_no_sense_are_refused():
  refuse("^seeds and rates are both given", seeds=2, rates=(0.1, 0.2))
  refuse(
    r"^rates gives a rate twice: rate=0.1, rate=0.1; leave one out$", rates=(0.1, 0.1000000001)
  )
  refuse("^mesh.fsdp does not go with several runs", rates=(0.1, 0.2), **{"mesh.fsdp": -1})
  refuse("^health.trace does not go with several runs", rates=(0.1,), **{"health.trace": True})
  alone = default()
  alone.optim.noise = 0.1
  members.check(alone)  # one run may


def test_one_run_has_no_axis():
  one, two = runs(seed=3), runs(seed=3, seeds=2)
  assert (one.seeds, one.names, one.several) == ((3,), (), False)
  assert [x.shape for x in one.arguments] == [(), ()] and int(one.arguments[0]) == 3
  assert float(one.arguments[1]) == 1.0
  assert (two.seeds, two.names) == ((3, 4), ("seed=3", "seed=4")) and two.several
  assert [x.tolist() for x in two.arguments] == [[3, 4], [1.0, 1.0]]
  assert two.arguments[0].dtype == jnp.uint32
  tree = {"a": jnp.arange(3)}
  assert one.stacked(tree) is tree and one.first(tree) is tree and one.shapes(tree) is tree
  stacked = two.stacked(tree)
  assert stacked["a"].tolist() == [[0, 1, 2]] * 2
  assert two.first({"a": jnp.array([[5, 6], [7, 8]])})["a"].tolist() == [5, 6]
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shape = jax.ShapeDtypeStruct((3,), jnp.int32, sharding=where)
  found = two.shapes({"a": shape})["a"]
  assert (found.shape, found.dtype, found.sharding) == ((2, 3), jnp.int32, where)


@pytest.mark.parametrize("turns, how", [(True, "in turns"), (False, "as one program")])
def test_the_runs_and_how_they_are_trained_are_said(monkeypatch, turns, how):
  assert members.in_turns()
  monkeypatch.setattr(members, "in_turns", lambda: turns)
  assert runs(seeds=2).describe() == {"runs": f"seed=0, seed=1, {how}"}
  assert runs().describe() == {}


@pytest.mark.parametrize("turns", [True, False])
def test_a_function_of_one_run_becomes_one_of_all(monkeypatch, turns):
  """Over trees, with arguments that all share, and axes that follow from an argument."""
  monkeypatch.setattr(members, "in_turns", lambda: turns)
  two = runs(seeds=2)
  run = lambda own, shared, feed: {"sum": own["x"].sum() + shared["y"], "feed": feed["z"] * 1}
  axes_of = lambda feed: {"z": 0 if feed["z"].ndim else None}
  jitted = two.jit(run, (0, None, axes_of))
  own, shared = {"x": jnp.array([[1.0, 2.0], [3.0, 4.0]])}, {"y": jnp.float32(10)}
  found = jitted(own, shared, {"z": jnp.array([5.0, 6.0])})
  assert found["sum"].tolist() == [13.0, 17.0] and found["feed"].tolist() == [5.0, 6.0]
  assert jitted(own, shared, {"z": jnp.float32(7)})["feed"].tolist() == [7.0, 7.0]
  assert two.jit(lambda a, b: a + b)(jnp.arange(2), jnp.arange(2)).tolist() == [0, 2]
  assert runs().jit(lambda a: a + 1)(jnp.arange(2)).tolist() == [1, 2]


def test_metrics_of_one_run_and_of_each(monkeypatch):
  monkeypatch.setattr(tasks, "compute", lambda one: {"loss": float(one["loss"])})
  more = lambda one: {"map": float(one["loss"]) * 2}
  assert runs().compute({"loss": jnp.float32(3)}, more) == {"loss": 3.0, "map": 6.0}
  assert runs().compute({"loss": jnp.float32(3)}) == {"loss": 3.0}
  both = {"loss": jnp.array([1.0, 4.0])}
  assert runs(rates=(0.1, 0.2)).compute(both, more) == {
    "loss/rate=0.1": 1.0, "loss/rate=0.2": 4.0, "map/rate=0.1": 2.0, "map/rate=0.2": 8.0
  }  # fmt: skip
  fetched = []
  monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or tree)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert runs().compute({"loss": jnp.float32(3)}) == {"loss": 3.0} and len(fetched) == 1


def test_each_run_has_one_value():
  with pytest.raises(ValueError, match="zip"):
    runs(seeds=2).report([{"loss": 1.0}] * 3)
