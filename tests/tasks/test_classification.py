"""The loss against its formula; metrics as sums and counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics

from cnnjax import tasks
from cnnjax.config import default
from cnnjax.errors import UserError

N, CLASSES = 37, 5


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return (
    rng.normal(size=(N, CLASSES)).astype(np.float32) * 3,
    rng.integers(0, CLASSES, N).astype(np.int32),
  )


def make(**overrides):
  c = default().task
  c.update(overrides)
  tasks.check(c)
  return tasks.create(c, CLASSES)


def log_softmax(logits):
  logits = logits.astype(np.float64)
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_loss_with_label_smoothing(batch, smoothing):
  """(1 - e) of the label and e / K of each class, its own too: arXiv:1512.00567, section 7."""
  logits, labels = batch
  task = make(label_smoothing=smoothing)
  log_p = log_softmax(logits)
  own = log_p[np.arange(N), labels]
  losses = task.loss(logits, task.targets(labels))
  assert losses.shape == (N,) and losses.dtype == jnp.float32
  np.testing.assert_allclose(losses, -(1 - smoothing) * own - smoothing * log_p.mean(-1), rtol=2e-5)
  np.testing.assert_allclose(task.eval_loss(logits, task.targets(labels)), -own, rtol=2e-5)


def test_targets_are_one_hot(batch):
  targets = make().targets(batch[1])
  assert targets.dtype == jnp.float32
  np.testing.assert_array_equal(targets, np.eye(CLASSES)[batch[1]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_targets(batch, smoothing):
  """Cross-entropy is linear in the targets; accuracy counts the heavier class."""
  logits, labels = batch
  task = make(label_smoothing=smoothing)
  first, second = task.targets(labels), task.targets((labels + 1) % CLASSES)
  mixed = 0.7 * first + 0.3 * second
  losses = task.loss(logits, mixed)
  np.testing.assert_allclose(
    losses, 0.7 * task.loss(logits, first) + 0.3 * task.loss(logits, second), rtol=1e-5
  )
  np.testing.assert_allclose(
    task.metrics(logits, mixed, losses).compute()["accuracy"],
    (logits.argmax(-1) == labels).mean(),
    rtol=1e-6,
  )


def test_large_logits_do_not_overflow():
  task = make(label_smoothing=0.1)
  logits = jnp.array([[1e4, 0.0, 0.0, 0.0, -1e4]])
  losses = task.loss(logits, task.targets(jnp.array([0])))
  np.testing.assert_allclose(losses, [0.1 / 5 * (3 * 1e4 + 2e4)], rtol=1e-5)


def test_metrics_are_sums_and_counts_of_what_the_mask_keeps(batch):
  logits, labels = batch
  task, keep = make(), 23
  logits, mask = logits.copy(), np.arange(N) < keep
  logits[keep:] = np.nan  # what a padded example holds must not matter
  targets = task.targets(labels)
  found = task.metrics(logits, targets, task.eval_loss(logits, targets), mask)
  losses = -log_softmax(logits[:keep])[np.arange(keep), labels[:keep]]
  assert found.loss.count == found.accuracy.count == keep
  np.testing.assert_allclose(found.loss.total, losses.sum(), rtol=1e-5)
  assert found.accuracy.total == (logits[:keep].argmax(-1) == labels[:keep]).sum()
  np.testing.assert_allclose(found.compute()["loss"], losses.mean(), rtol=1e-5)


def test_without_a_mask_every_example_counts(batch):
  logits, labels = batch
  found = make().metrics(logits, make().targets(labels), jnp.ones(N))
  assert found.loss.count == N and found.compute()["loss"] == 1


@pytest.mark.smoke
@pytest.mark.parametrize("size", [1, 7, 36, 37])
def test_metrics_merge_in_any_order_and_any_batches(batch, size):
  """Not a mean of means: the last batch is smaller, and counts less."""
  logits, labels = batch
  task = make()
  targets = task.targets(labels)
  losses = task.eval_loss(logits, targets)
  parts = [
    task.metrics(logits[i : i + size], targets[i : i + size], losses[i : i + size])
    for i in range(0, N, size)
  ]
  whole = task.metrics(logits, targets, losses)
  for ordered in (parts, parts[::-1]):
    for start in (ordered, [task.no_metrics(), *ordered]):
      merged = functools.reduce(lambda a, b: a.merge(b), start)
      assert merged.accuracy.total == whole.accuracy.total
      assert merged.loss.count == merged.accuracy.count == N
      np.testing.assert_allclose(merged.loss.total, whole.loss.total, rtol=1e-6)


def test_metrics_are_arrays_that_jit_can_carry(batch):
  logits, labels = batch
  task = make()
  targets = task.targets(labels)
  add = jax.jit(lambda window: window.merge(task.metrics(logits, targets, jnp.ones(N))))
  window = add(add(task.no_metrics()))
  assert isinstance(window, metrics.Collection) and window.loss.count == 2 * N
  assert jax.tree.structure(window) == jax.tree.structure(task.no_metrics())
  assert [x.dtype for x in jax.tree.leaves(window)] == [
    x.dtype for x in jax.tree.leaves(task.no_metrics())
  ]


def test_values_have_the_digits_of_float32():
  found = make().metrics(
    jnp.eye(CLASSES)[:3], jnp.eye(CLASSES)[jnp.array([0, 1, 1])], jnp.full(3, 0.1)
  )
  assert tasks.compute(found) == {"loss": 0.1, "accuracy": 0.6666667}


def test_unknown_task():
  with pytest.raises(UserError, match=r"unknown task 'classify'. Did you mean 'classification'?"):
    make(name="classify")
