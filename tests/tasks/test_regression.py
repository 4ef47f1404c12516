"""Losses of regression against their formulas, metrics against scikit-learn's, a whole run."""

import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

import cnnjax
from cnnjax import build, data, evaluate, predict, tasks, train
from cnnjax.config import default
from cnnjax.errors import UserError

MEAN, STD = 300.0, 40.0
N = 53


def make(outputs=2, **overrides):
  c = default().task
  c.update(name="regression", **overrides)
  tasks.check(c)
  return tasks.create(c, outputs)


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  values = rng.normal(MEAN, [STD, 3 * STD], (N, 2)).astype(np.float32)
  return values, (values + rng.normal(0, 20, values.shape)).astype(np.float32)


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_losses_are_their_formulas(delta):
  error = np.linspace(-4, 4, 18).reshape(9, 2)
  outputs, targets = jnp.asarray(error + 1, jnp.float32), jnp.ones((9, 2))
  size = abs(error)
  huber = np.where(size <= delta, error**2 / 2, delta * (size - delta / 2))
  for name, expected in {"mse": error**2, "mae": size, "huber": huber}.items():
    options = {"huber_delta": delta} if name == "huber" else {}
    found = make(loss=name, **options).loss(outputs, targets)
    np.testing.assert_allclose(found, expected.mean(-1), rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 4])
def test_metrics_are_scikit_learns_in_units_of_the_values(batch, parts):
  """In one batch or several, of unequal sizes; what is masked counts nowhere."""
  values, predicted = batch
  task = make(value_mean=MEAN, value_std=STD)
  standard = lambda x: jnp.asarray((x - MEAN) / STD)
  total = task.no_metrics()
  for at in np.array_split(np.arange(N), np.cumsum([30, 15, 5])[: parts - 1]):
    noise = jnp.full((3, 2), 1e6)
    outputs = jnp.concatenate([standard(predicted[at]), noise])
    targets = jnp.concatenate([task.targets(jnp.asarray(values[at])), -noise])
    mask = jnp.arange(len(outputs)) < len(at)
    total = total.merge(task.metrics(outputs, targets, task.loss(outputs, targets), mask))
  found = tasks.compute(total)
  assert found["rmse"] == pytest.approx(
    reference.mean_squared_error(values, predicted) ** 0.5, rel=1e-4
  )
  assert found["mae"] == pytest.approx(reference.mean_absolute_error(values, predicted), rel=1e-4)
  assert found["r2"] == pytest.approx(reference.r2_score(values, predicted), rel=1e-4)
  assert found["loss"] == pytest.approx(((values - predicted) ** 2).mean() / STD**2, rel=1e-4)


def test_r2_holds_far_from_0():
  """Where the sums of squares about 0 have no digit left of those about the mean."""
  rng = np.random.default_rng(1)
  values = rng.normal(0, 1, (200, 1)).astype(np.float32)
  predicted = values + rng.normal(0, 0.5, values.shape).astype(np.float32)
  shift = np.float32(4096)
  task, total = make(1), make(1).no_metrics()
  for rows in np.array_split(np.arange(200), 7):
    a, b = jnp.asarray(predicted[rows] + shift), jnp.asarray(values[rows] + shift)
    total = total.merge(task.metrics(a, b, task.loss(a, b)))
  assert total.compute()["r2"] == pytest.approx(reference.r2_score(values, predicted), abs=2e-3)


def splits(shape=()):
  """Images as bright as their value says."""
  rng = np.random.default_rng(0)
  values = rng.uniform(200, 400, (96, *shape)).astype(np.float32)
  bright = (values.reshape(96, -1)[:, :1, None, None] - 200) / 200 * 200
  images = (bright + rng.uniform(0, 55, (96, 8, 8, 1))).astype(np.uint8)
  part = lambda rows: {"image": images[rows], "value": values[rows]}
  return data.from_arrays(part(slice(64)), part(slice(64, None)))


def config(tiny, **overrides):
  settings = {
    "task.name": "regression", "task.value_mean": 300.0, "task.value_std": 58.0,
    "monitor": "validation/rmse", "epochs": 30, "augment": "flip", "data.validation": 0.1,
    "optim.name": "adam", "optim.learning_rate": 1e-2, "optim.weight_decay": 0.0,
  }  # fmt: skip
  return tiny(**{**settings, **overrides})


@pytest.mark.parametrize("shape", [pytest.param((), marks=pytest.mark.slow), (2,)])
def test_a_run_learns_values_and_predicts_them(tiny, tmp_path, shape, capsys):
  given = splits(shape)
  _, found, _ = train.train(config(tiny), tmp_path, given)
  capsys.readouterr()
  measured = evaluate.evaluate_checkpoint(tmp_path, splits=given)[2]
  assert measured["rmse"] == pytest.approx(found["test/rmse"], rel=1e-5)
  if not shape:
    assert measured["rmse"] < 15 and measured["r2"] > 0.9
  model = cnnjax.load(tmp_path, splits=given)
  test = given["test"].arrays
  found = model.predict(test["image"])
  values = found.values["values"]
  errors = values - test["value"].reshape(len(values), -1)
  assert np.sqrt((errors**2).mean()) == pytest.approx(measured["rmse"], rel=1e-4)
  with pytest.raises(UserError, match="predicts no classes of images: its predictions are values"):
    _ = found.labels
  Image.fromarray(test["image"][0, ..., 0]).save(tmp_path / "a.png")
  assert predict.main([str(tmp_path), str(tmp_path / "a.png"), "--format=csv"]) == 0
  rows = [*csv.reader(io.StringIO(capsys.readouterr().out))]
  names = [f"values_{i}" for i in range(2)] if shape else ["values"]
  assert rows[0] == ["image", *names]
  np.testing.assert_allclose([float(x) for x in rows[1][1:]], values[0], rtol=1e-5)


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"monitor": "validation/accuracy"}, "validation/rmse"),
    ({"task.label_smoothing": 0.1}, "'task.label_smoothing' is 0.1 and has no effect"),
    ({"task.loss": "cross_entropy"}, "loss of regression: task.loss.*cross_entropy.*mse"),
    ({"task.value_std": 0.0}, "'task.value_std' is 0.0; it must be above 0"),
    ({"task.huber_delta": 2.0}, "'task.huber_delta' is 2.0 and has no effect with task.loss=mse"),
    ({"augment": "mixup(0.2)"}, "mixup.*value"),
    ({"distill.teacher": "ema", "average.ema": 0.9}, "regression has no loss toward a teacher"),
    ({"task.head": "top"}, "unknown head of regression: task.head 'top'"),
  ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(tiny, overrides, words):
  with pytest.raises(UserError, match=words):
    c = config(tiny, **overrides)
    build.validate(data.with_given(c, splits()))
    build.build(data.with_given(c, splits()), splits())


def test_data_without_values_are_refused(tiny):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
  given = data.from_arrays((images[:32], np.arange(32) % 4), (images[32:], np.arange(8) % 4))
  with pytest.raises(UserError, match="regression needs a field of the kind value"):
    build.build(data.with_given(config(tiny), given), given)


def test_metrics_have_the_shapes_of_no_examples():
  task = make(3)
  outputs, targets = jnp.zeros((4, 3)), jnp.ones((4, 3))
  found = task.no_metrics().merge(task.metrics(outputs, targets, task.loss(outputs, targets)))
  kinds = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
  assert kinds(found) == kinds(task.no_metrics())
