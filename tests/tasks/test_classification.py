"""The loss against its formula; metrics as sums and counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from cnnjax import tasks
from cnnjax.config import default
from cnnjax.errors import UserError

N, CLASSES = 37, 5
COUNTS = np.array([50, 20, 10, 3, 1])
WEIGHTS = {"auto": "auto", "effective_number": "effective_number", "list": (1, 2.5, 0.5, 3, 10)}
each_weights = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return (
    rng.normal(size=(N, CLASSES)).astype(np.float32) * 3,
    rng.integers(0, CLASSES, N).astype(np.int32),
  )


def make(num_classes=CLASSES, counts=None, **overrides):
  c = default().task
  c.update(overrides)
  tasks.check(c)
  return tasks.create(c, num_classes, counts)


def mixed(labels, ratio=0.7):
  """Targets as Mixup makes them, float32 [n, CLASSES]."""
  eye = np.eye(CLASSES, dtype=np.float32)
  return ratio * eye[labels] + np.float32(1 - ratio) * eye[(labels + 1) % CLASSES]


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


@each_weights
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_multiply_what_each_class_has_in_the_target(batch, weights, smoothing):
  logits, labels = batch
  task = make(counts=COUNTS, class_weights=weights, label_smoothing=smoothing)
  assert np.ptp(task.weights) > 0.1
  targets = (1 - smoothing) * mixed(labels) + smoothing / CLASSES
  expected = -(task.weights * targets * log_softmax(logits)).sum(-1)
  np.testing.assert_allclose(task.loss(logits, mixed(labels)), expected, rtol=2e-5)
  unweighted = -(mixed(labels) * log_softmax(logits)).sum(-1)
  np.testing.assert_allclose(task.eval_loss(logits, mixed(labels)), unweighted, rtol=2e-5)


@pytest.mark.parity
@each_weights
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_loss_of_mixed_targets_is_that_of_torch(batch, weights, smoothing):
  """Its gradient too, and the mean over the batch."""
  import torch

  logits, labels = batch
  task = make(counts=COUNTS, class_weights=weights, label_smoothing=smoothing)
  theirs = torch.nn.CrossEntropyLoss(torch.tensor(task.weights), label_smoothing=smoothing)
  theirs_logits = torch.tensor(logits, requires_grad=True)
  expected = theirs(theirs_logits, torch.tensor(mixed(labels)))
  expected.backward()
  ours, gradient = jax.value_and_grad(lambda x: task.loss(x, mixed(labels)).mean())(logits)
  np.testing.assert_allclose(ours, expected.detach(), rtol=1e-5)
  np.testing.assert_allclose(gradient, theirs_logits.grad, rtol=1e-4, atol=1e-7)


def test_weights_by_name_need_counts_to_train_and_none_to_evaluate(batch):
  logits, labels = batch
  task = make(class_weights="auto")
  targets = task.targets(labels)
  np.testing.assert_array_equal(task.eval_loss(logits, targets), make().eval_loss(logits, targets))
  with pytest.raises(ValueError, match="class_weights='auto' needs the number of training"):
    task.loss(logits, targets)


def test_large_logits_do_not_overflow():
  task = make(label_smoothing=0.1)
  logits = jnp.array([[1e4, 0.0, 0.0, 0.0, -1e4]])
  losses = task.loss(logits, task.targets(jnp.array([0])))
  np.testing.assert_allclose(losses, [0.1 / 5 * (3 * 1e4 + 2e4)], rtol=1e-5)


def test_the_mean_prediction_is_that_of_probabilities(batch):
  """Whatever is added to the logits of a view."""
  logits = batch[0]
  softmax = lambda x: np.exp(log_softmax(x))
  mean = (softmax(logits) + softmax(-2 * logits)) / 2
  found = make().mean_prediction([logits + 100, -2 * logits])
  np.testing.assert_allclose(found, np.log(mean), rtol=1e-4, atol=1e-5)
  assert make().mean_prediction([logits]) is logits


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
  np.testing.assert_array_equal(
    found.mean_class_accuracy.count, np.bincount(labels[:keep], minlength=CLASSES)
  )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("classes", [CLASSES, CLASSES - 2], ids="{} occur".format)
def test_mean_class_accuracy_is_the_mean_recall_of_the_classes_that_occur(batch, classes):
  logits, labels = batch[0], np.minimum(batch[1], classes - 1)
  labels = np.where(np.arange(N) % 2, labels, 0)  # a large class, which is easy
  logits = logits + np.float32([4, 0, 0, 0, 0]) * (labels == 0)[:, None]
  task = make()
  found = task.metrics(logits, task.targets(labels), jnp.ones(N)).compute()
  expected = balanced_accuracy_score(labels, logits.argmax(-1))
  np.testing.assert_allclose(found["mean_class_accuracy"], expected, rtol=1e-6)
  assert abs(expected - found["accuracy"]) > 0.01, "the two must differ for this test to see it"


def test_top5_accuracy_where_there_are_more_than_five_classes():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(200, 12)).astype(np.float32), rng.integers(0, 12, 200)
  task = make(12)
  targets, mask = task.targets(labels), np.arange(200) < 150
  found = task.metrics(logits, targets, jnp.ones(200), mask).compute()
  expected = top_k_accuracy_score(labels[mask], logits[mask], k=5, labels=np.arange(12))
  np.testing.assert_allclose(found["top5_accuracy"], expected, rtol=1e-6)
  assert found["accuracy"] < found["top5_accuracy"] < 1
  logits = np.round(logits) + 0  # ties, no -0: as top_k orders them, and so not below accuracy
  found = task.metrics(logits, targets, jnp.ones(200)).compute()["top5_accuracy"]
  first = jax.lax.top_k(logits, 5)[1]
  np.testing.assert_allclose(found, (first == labels[:, None]).any(-1).mean(), rtol=1e-6)
  assert task.metrics(logits * np.nan, targets, jnp.ones(200)).compute()["top5_accuracy"] == 0
  names = lambda n: set(make(n).no_metrics().compute())
  assert names(6) - names(5) == {"top5_accuracy"} and names(5) == {
    "loss", "accuracy", "mean_class_accuracy",
  }  # fmt: skip


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
      assert merged.compute()["mean_class_accuracy"] == whole.compute()["mean_class_accuracy"]
      assert merged.loss.count == merged.accuracy.count == N
      np.testing.assert_allclose(merged.loss.total, whole.loss.total, rtol=1e-6)


@pytest.mark.parametrize("num_classes", [CLASSES, CLASSES + 1])
def test_metrics_are_arrays_that_jit_can_carry(batch, num_classes):
  labels, task = batch[1], make(num_classes)
  targets = task.targets(labels)
  logits = targets
  add = jax.jit(lambda window: window.merge(task.metrics(logits, targets, jnp.ones(N))))
  window = add(add(task.no_metrics()))
  assert isinstance(window, metrics.Collection) and window.loss.count == 2 * N
  assert jax.tree.structure(window) == jax.tree.structure(task.no_metrics())
  kinds = lambda x: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(x)]
  assert kinds(window) == kinds(task.no_metrics())


def test_values_have_the_digits_of_float32():
  found = make().metrics(
    jnp.eye(CLASSES)[:3], jnp.eye(CLASSES)[jnp.array([0, 1, 1])], jnp.full(3, 0.1)
  )
  values = {"loss": 0.1, "accuracy": 0.6666667, "mean_class_accuracy": 0.75}
  assert tasks.compute(found) == values


def test_unknown_task():
  with pytest.raises(UserError, match=r"unknown task 'classify'. Did you mean 'classification'?"):
    make(name="classify")


def test_labels_of_the_other_task_are_refused():
  make().check_labels(False, ("a", "b"))
  with pytest.raises(UserError, match=r"set task\.name=multi_label"):
    make().check_labels(True, ("a", "b"))
