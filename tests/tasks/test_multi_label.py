"""Binary cross-entropy against its formula; metrics against scikit-learn's."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score, hamming_loss

from cnnjax import registry, tasks
from cnnjax.config import default
from cnnjax.errors import UserError

N, CLASSES = 41, 6
COUNTS, EXAMPLES = np.array([50, 20, 10, 3, 1, 7]), 60
RATIOS = (EXAMPLES - COUNTS) / COUNTS  # images without a class by those with it


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  labels = (rng.random((N, CLASSES)) < [0.6, 0.3, 0.3, 0.1, 0.1, 0.0]).astype(np.uint8)
  logits = rng.normal(-1, 2, (N, CLASSES)) + 2 * labels
  logits[:, 5] = -3  # a class that is neither there nor predicted
  return logits.astype(np.float32), labels


def make(counts=None, **overrides):
  c = default().task
  c.update(name="multi_label", **overrides)
  tasks.check(c)
  return tasks.create(c, CLASSES, counts, EXAMPLES)


def cross_entropy(logits, targets):
  """[batch, classes], in float64."""
  logits = logits.astype(np.float64)
  return np.logaddexp(0, -logits) * targets + np.logaddexp(0, logits) * (1 - targets)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32])
def test_targets_are_the_labels_as_floats(batch, dtype):
  targets = make().targets(jnp.asarray(batch[1].astype(dtype)))
  assert targets.dtype == jnp.float32
  np.testing.assert_array_equal(targets, batch[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [None, "auto", (1, 2, 3, 4, 5, 0.5)])
def test_loss(batch, weights, smoothing):
  """The mean over the classes; smoothing moves targets toward 0.5; evaluation has neither.

  Weights are of images that have a class, beside those that have it not.
  """
  logits, labels = batch
  task = make(COUNTS, class_weights=weights, label_smoothing=smoothing)
  w = {None: np.ones(CLASSES), "auto": RATIOS}.get(weights, weights)
  for targets in (labels, 0.7 * labels + 0.3 * labels[::-1]):
    smoothed = np.where(smoothing, targets + smoothing * (0.5 - targets), targets)
    losses = task.loss(logits, jnp.asarray(targets, jnp.float32))
    assert losses.shape == (N,) and losses.dtype == jnp.float32
    positive = cross_entropy(logits, np.ones_like(labels)) * smoothed
    negative = cross_entropy(logits, np.zeros_like(labels)) * (1 - smoothed)
    expected = (np.asarray(w) * positive + negative).mean(-1)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    unweighted = cross_entropy(logits, targets).mean(-1)
    found = task.eval_loss(logits, jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(found, unweighted, rtol=2e-5)


@pytest.mark.parametrize("loss", registry.parts("loss", "multi_label"))
def test_auto_weighs_positives_against_negatives(loss):
  """A model that knows nothing of an image then says 0.5, of a class that is rare as well."""
  labels = np.arange(EXAMPLES)[:, None] < COUNTS
  options = {"focal_gamma": 0.0} if loss == "focal" else {}
  for weights, expected in (("auto", 0.5), (None, COUNTS / EXAMPLES)):
    task = make(COUNTS, class_weights=weights, loss=loss, **options)
    bias = jnp.log(expected / (1 - expected)) + jnp.zeros(CLASSES)
    mean = lambda bias, task=task: task.loss(jnp.tile(bias, (EXAMPLES, 1)), labels).mean()
    np.testing.assert_allclose(jax.grad(mean)(bias), 0, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_numbers_of_positives_and_negatives(beta):
  """Sums of beta^i, term by term: arXiv:1901.05555, equation 2. Without examples: 0."""
  counts = np.array([*COUNTS[:4], EXAMPLES, 0])
  effective = lambda n: sum(beta**i for i in range(n))
  found = make(counts, class_weights="effective_number", effective_beta=beta).weights
  expected = [effective(EXAMPLES - n) / effective(n) for n in COUNTS[:4]]
  np.testing.assert_allclose(found, [*expected, 1 / effective(EXAMPLES), 0], rtol=1e-5)
  auto = make(counts, class_weights="auto").weights
  np.testing.assert_allclose(auto, [*RATIOS[:4], 1 / EXAMPLES, 0], rtol=1e-6)


@pytest.mark.parity
def test_weighted_loss_is_that_of_torch(batch):
  import torch

  logits, labels = batch
  task = make(COUNTS, class_weights="auto")
  theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(RATIOS, dtype=torch.float32))
  theirs_logits = torch.tensor(logits, requires_grad=True)
  expected = theirs(theirs_logits, torch.tensor(labels.astype(np.float32)))
  expected.backward()
  ours, gradient = jax.value_and_grad(lambda x: task.loss(x, task.targets(labels)).mean())(logits)
  np.testing.assert_allclose(ours, expected.detach(), rtol=1e-5)
  np.testing.assert_allclose(gradient, theirs_logits.grad, rtol=1e-4, atol=1e-8)


def test_large_logits_do_not_overflow():
  losses = make().loss(jnp.full((1, CLASSES), -1e4), jnp.ones((1, CLASSES)))
  np.testing.assert_allclose(losses, [1e4])


def test_the_mean_prediction_is_that_of_probabilities(batch):
  """Also where all views are sure, and the loss of it is finite."""
  views = [batch[0].astype(np.float64) * scale for scale in (1, -0.5, 2)]
  mean = np.mean([1 / (1 + np.exp(-view)) for view in views], axis=0)
  found = make().mean_prediction([jnp.asarray(view, jnp.float32) for view in views])
  np.testing.assert_allclose(jax.nn.sigmoid(found), mean, rtol=1e-5)
  sure = jnp.array([[40.0, -40, 60, -60, 200, -200]])
  np.testing.assert_allclose(make().mean_prediction([sure, sure]), sure, rtol=1e-5)
  losses = make().eval_loss(make().mean_prediction([sure, sure]), jnp.ones_like(sure))
  np.testing.assert_allclose(losses, make().eval_loss(sure, jnp.ones_like(sure)), rtol=1e-5)
  assert make().mean_prediction([sure]) is sure


def test_metrics_are_those_of_scikit_learn(batch):
  """A class that is neither there nor predicted has no F1 and is left out."""
  logits, labels = batch
  keep = 29
  task, mask = make(), np.arange(N) < keep
  logits = np.where(mask[:, None], logits, np.nan)  # what a padded example holds must not matter
  found = task.metrics(logits, task.targets(labels), jnp.where(mask, 0.25, jnp.nan), mask)
  found = tasks.compute(found)
  true, predicted = labels[:keep], logits[:keep] > 0
  assert set(found) == {"loss", "accuracy", "f1", "f1_macro"} and found["loss"] == 0.25
  macro = f1_score(true, predicted, average="macro", zero_division=np.nan)
  micro = f1_score(true, predicted, average="micro")
  assert abs(macro - micro) > 0.02, "the two must differ for this test to see it"
  np.testing.assert_allclose(found["accuracy"], 1 - hamming_loss(true, predicted), rtol=1e-6)
  np.testing.assert_allclose(found["f1"], micro, rtol=1e-6)
  np.testing.assert_allclose(found["f1_macro"], macro, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_metrics_merge_in_any_order_and_any_batches(batch, size):
  logits, labels = batch
  task = make()
  of = lambda rows: task.metrics(logits[rows], task.targets(labels[rows]), jnp.ones(N)[rows])
  parts = [of(slice(i, i + size)) for i in range(0, N, size)]
  whole = of(slice(None)).compute()
  for ordered in ([task.no_metrics(), *parts], parts[::-1]):
    merged = functools.reduce(lambda a, b: a.merge(b), ordered)
    assert merged.compute() == whole
    assert jax.tree.structure(merged) == jax.tree.structure(task.no_metrics())


def test_jit_can_carry_the_metrics(batch):
  task = make()
  targets = task.targets(batch[1])
  window = jax.jit(lambda w: w.merge(task.metrics(targets, targets, jnp.ones(N))))(
    task.no_metrics()
  )
  kinds = lambda x: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(x)]
  assert kinds(window) == kinds(task.no_metrics())


def test_labels_of_the_other_task_are_refused():
  make().check_labels(True, ("a", "b"))
  with pytest.raises(UserError, match=r"set task\.name=classification$"):
    make().check_labels(False, ("a", "|", "b"))


@pytest.mark.parametrize("cell", ["cat|big", "cat, big", "cat/big", "cat;big", "cat big"])
def test_cells_of_several_labels_with_another_sign_are_shown(cell):
  message = f"or, if {cell!r} stands for several, write 'cat;big' (JSONL: a list)"
  with pytest.raises(UserError, match=re.escape(message)):
    make().check_labels(False, ("a big dog", cell) if "|" in cell else (cell, "dog"))
