"""Every loss against torch, timm, torchvision and formulas; what weights and mixing conserve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from cnnjax import registry, tasks
from cnnjax.augment.mixing import mixup
from cnnjax.config import default
from cnnjax.errors import UserError

N, CLASSES = 23, 6
COUNTS = np.array([50, 20, 10, 3, 1, 7])
WEIGHTS = (1.0, 2.5, 0.5, 3.0, 10.0, 0.25)
OF_LABELS = ("classification", "multi_label")
LOSSES = [
  (name, loss) for name in OF_LABELS for loss in registry.parts("loss", name)
]  # in the order of their classes


def make(name="classification", counts=COUNTS, num_classes=CLASSES, **overrides):
  c = default().task
  c.update(name=name, **overrides)
  tasks.check(c)
  examples = None if counts is None else int(counts.sum())
  return tasks.create(c, num_classes, counts, examples)


@pytest.fixture(scope="module")
def logits():
  return np.random.default_rng(0).normal(0, 3, (N, CLASSES)).astype(np.float32)


@pytest.fixture(scope="module")
def mixed():
  """Mixed targets of one label an image."""
  rng = np.random.default_rng(1)
  one, other = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, (2, N))]
  share = rng.random((N, 1)).astype(np.float32)
  return share * one + (1 - share) * other


@pytest.fixture(scope="module")
def soft():
  """Targets of several labels an image: absent, there, or between."""
  rng = np.random.default_rng(2)
  return rng.choice([0.0, 0.3, 1.0], (N, CLASSES), p=[0.5, 0.2, 0.3]).astype(np.float32)


def value_and_grad(task, logits, targets):
  return jax.value_and_grad(lambda x: task.loss(x, jnp.asarray(targets)).mean())(logits)


def check_torch(task, logits, targets, theirs):
  """Value and gradient of the mean over the batch, beside those of `theirs`(logits)."""
  import torch

  x = torch.tensor(logits, requires_grad=True)
  expected = theirs(x)
  expected.backward()
  ours, gradient = value_and_grad(task, logits, targets)
  np.testing.assert_allclose(ours, expected.detach(), rtol=1e-5)
  np.testing.assert_allclose(gradient, x.grad, rtol=2e-4, atol=1e-7)


# Binary cross-entropy of one label an image


@pytest.mark.parity
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_that_of_timm(logits, smoothing):
  import torch
  from timm.loss import BinaryCrossEntropy

  labels = np.random.default_rng(0).integers(0, CLASSES, N)
  task = make(loss="binary_cross_entropy", label_smoothing=smoothing)
  theirs = BinaryCrossEntropy(smoothing)
  check_torch(task, logits, task.targets(labels), lambda x: theirs(x, torch.tensor(labels)))


@pytest.mark.parity
@pytest.mark.parametrize("smoothing, threshold", [(0.0, None), (0.1, None), (0.0, 0.2), (0.0, 0.5)])
def test_binary_cross_entropy_of_mixed_targets_is_that_of_timm(smoothing, threshold):
  """Which smoothes labels before it mixes them."""
  import torch
  from timm.data.mixup import mixup_target
  from timm.loss import BinaryCrossEntropy

  labels = np.random.default_rng(0).integers(0, CLASSES, N)
  logits = np.random.default_rng(3).normal(0, 3, (N, CLASSES)).astype(np.float32)
  task = make(loss="binary_cross_entropy", label_smoothing=smoothing, target_threshold=threshold)
  theirs = BinaryCrossEntropy(smoothing, target_threshold=threshold)
  target = mixup_target(torch.tensor(labels), CLASSES, 0.7, smoothing)
  one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
  ours = np.float32(0.7) * one_hot + np.float32(0.3) * one_hot[::-1]
  check_torch(task, logits, ours, lambda x: theirs(x, target))


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_weights_in_binary_cross_entropy_are_those_of_the_labels(logits, mixed, threshold):
  """arXiv:1901.05555, section 4.2; of mixed targets the losses of their labels are mixed."""
  x, w = logits.astype(np.float64), np.array(WEIGHTS)
  task = make(loss="binary_cross_entropy", class_weights=WEIGHTS, target_threshold=threshold)
  log_p, log_rest = -np.logaddexp(0, -x), -np.logaddexp(0, x)
  if threshold is None:
    of_label = [  # the loss of an image of class c, [N] each
      -w[c] * (log_p[:, c] + np.delete(log_rest, c, axis=1).sum(1)) / CLASSES
      for c in range(CLASSES)
    ]
    expected = (mixed * np.stack(of_label, 1)).sum(1)
  else:
    there = mixed > threshold
    expected = -(mixed @ w) * np.where(there, log_p, log_rest).mean(1)
  np.testing.assert_allclose(task.loss(logits, mixed), expected, rtol=2e-5)


def test_a_threshold_in_multi_label(logits, soft):
  task = make("multi_label", target_threshold=0.2)
  expected = make("multi_label").loss(logits, (soft > 0.2).astype(np.float32))
  np.testing.assert_array_equal(task.loss(logits, soft), expected)


# Focal


@pytest.mark.parity
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_sigmoid_focal_is_that_of_torchvision(logits, soft, gamma):
  """Soft targets; and its alpha, which weighs positives as w / (1 + w) and w do."""
  import torch
  from torchvision.ops import sigmoid_focal_loss

  smoothed, w = torch.tensor(0.9 * soft + 0.05), torch.tensor(WEIGHTS)
  theirs = lambda x: sigmoid_focal_loss(x, smoothed, alpha=-1, gamma=gamma).mean()
  task = make("multi_label", loss="focal", focal_gamma=gamma, label_smoothing=0.1)
  check_torch(task, logits, soft, theirs)
  hard = (soft > 0.5).astype(np.float32)
  weighed = lambda x, i: (
    (1 + w[i])
    * sigmoid_focal_loss(
      x[:, i], torch.tensor(hard[:, i]), alpha=float(w[i] / (1 + w[i])), gamma=gamma
    )
  )
  theirs = lambda x: torch.stack([weighed(x, i) for i in range(CLASSES)]).mean()
  task = make("multi_label", loss="focal", focal_gamma=gamma, class_weights=WEIGHTS)
  check_torch(task, logits, hard, theirs)


@pytest.mark.parity
@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_softmax_focal_against_torch(logits, mixed, gamma):
  """Equation 4 of arXiv:1708.02002 with a softmax, its gradient through (1 - p)^gamma as well."""
  import torch

  targets = torch.tensor(0.9 * mixed + 0.1 / CLASSES) * torch.tensor(WEIGHTS)

  def theirs(x):
    log_p = torch.log_softmax(x, -1)
    return -(targets * (1 - log_p.exp()) ** gamma * log_p).sum(-1).mean()

  task = make(loss="focal", focal_gamma=gamma, class_weights=WEIGHTS, label_smoothing=0.1)
  check_torch(task, logits, mixed, theirs)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_softmax_focal(logits, mixed, gamma):
  log_p = log_softmax(logits.astype(np.float64), -1)
  expected = -(mixed * (1 - np.exp(log_p)) ** gamma * log_p).sum(-1)
  found = make(loss="focal", focal_gamma=gamma).loss(logits, mixed)
  assert found.shape == (N,) and found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("name", OF_LABELS)
def test_focal_with_gamma_0_is_cross_entropy(logits, mixed, soft, name):
  targets = mixed if name == "classification" else soft
  options = {"class_weights": "effective_number", "label_smoothing": 0.1}
  plain = make(name, **options).loss(logits, targets)
  focal = make(name, loss="focal", focal_gamma=0.0, **options).loss(logits, targets)
  np.testing.assert_allclose(focal, plain, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name, loss", LOSSES)
def test_sure_logits_have_finite_losses_and_gradients(name, loss, gamma):
  """Where probabilities round to 0 and 1; right and wrong ones."""
  options = {"focal_gamma": gamma} if loss == "focal" else {}
  task = make(name, loss=loss, num_classes=3, counts=None, **options)
  logits = np.float32([[200, -200, 0], [-200, 200, 0], [20, -20, -30]])
  targets = np.float32([[1, 0, 0]] * 3)
  value, gradient = value_and_grad(task, logits, targets)
  assert np.isfinite(value) and np.isfinite(gradient).all()


# Logit adjustment


@pytest.mark.parametrize("tau", [1.0, 0.5])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_logit_adjustment_adds_tau_log_prior_in_training_alone(logits, mixed, loss, tau):
  """arXiv:2007.07314, equation 10."""
  task, plain = make(loss=loss, logit_adjustment=tau), make(loss=loss)
  adjusted = logits + tau * np.log(COUNTS / COUNTS.sum()).astype(np.float32)
  np.testing.assert_allclose(task.loss(logits, mixed), plain.loss(adjusted, mixed), rtol=1e-5)
  assert np.abs(task.loss(logits, mixed) - plain.loss(logits, mixed)).max() > 0.1
  np.testing.assert_array_equal(task.eval_loss(logits, mixed), plain.eval_loss(logits, mixed))
  views = [logits, -logits]
  np.testing.assert_array_equal(task.mean_prediction(views), plain.mean_prediction(views))


def test_the_minimiser_of_the_adjusted_loss_ignores_the_prior():
  """Where images say nothing the best logits are the prior; adjusted by it they are equal."""
  task = make(logit_adjustment=1.0)
  gradient = jax.grad(lambda x: task.loss(x, jnp.asarray(COUNTS / COUNTS.sum())))
  np.testing.assert_allclose(gradient(jnp.zeros(CLASSES)), 0, atol=1e-7)
  assert np.abs(gradient(jnp.log(COUNTS / COUNTS.sum()))).max() > 0.1


# Classes without examples, counts

ASKING = [  # for counts
  (name, loss, options)
  for name, loss in LOSSES
  for options in ({"class_weights": "auto"}, {"class_weights": "effective_number"})
] + [("classification", loss, {"logit_adjustment": 1.0}) for loss in ("cross_entropy", "focal")]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name, loss, options", ASKING)
def test_a_class_without_examples_keeps_losses_and_gradients_finite(
  logits, name, loss, options, smoothing
):
  counts = COUNTS * (np.arange(CLASSES) != 2)
  task = make(name, counts, loss=loss, label_smoothing=smoothing, **options)
  targets = np.eye(CLASSES, dtype=np.float32)[np.arange(N) % 2 * 3]
  value, gradient = value_and_grad(task, logits, targets)
  assert np.isfinite(value) and value > 0 and np.isfinite(gradient).all()


def test_the_classes_that_have_examples_are_adjusted_as_without_the_empty_one(logits):
  """But for the one example that it counts for."""
  many = COUNTS * 1000 * (np.arange(CLASSES) != 2)
  found = tasks.weights.log_prior(many)
  kept = np.arange(CLASSES) != 2
  np.testing.assert_allclose(found[kept], np.log(many[kept] / many.sum()), atol=2e-5)
  assert np.isfinite(found[2]) and found[2] < found[kept].min()


@pytest.mark.parametrize(
  "options, needed",
  [
    ({}, False),
    ({"class_weights": WEIGHTS}, False),
    ({"class_weights": "auto"}, True),
    ({"logit_adjustment": 0.5}, True),
  ],
)
def test_counts_are_needed_where_they_are_said_to_be(logits, mixed, options, needed):
  config = default().task
  config.update(options)
  assert tasks.needs_counts(config) == needed
  task = make(counts=None, **options)
  task.eval_loss(logits, mixed)
  if needed:
    with pytest.raises(ValueError, match="needs the number of training examples per class"):
      task.loss(logits, mixed)
  else:
    task.loss(logits, mixed)


# What weights and mixing conserve


@pytest.fixture(scope="module")
def mixup_of():
  """(targets, what Mixup makes of them)."""
  labels = np.random.default_rng(0).integers(0, CLASSES, N)
  targets = make().targets(labels)
  batch = {"image": jnp.zeros((N, 1, 1, 1)), "targets": targets}
  kinds = {"image": "image", "targets": "targets"}
  found = mixup(0.5)(jax.random.key(0), batch, kinds)["targets"]
  assert np.abs(found - targets).max() > 0.2
  return targets, found


@pytest.mark.parametrize("loss", registry.parts("loss", "classification"))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixing_conserves_the_weighted_loss(mixup_of, loss, smoothing):
  """A mixed image has the mixed loss of its labels; so the batch keeps its sum.

  The logits are the same for all images: what differs is the targets.
  """
  targets, found = mixup_of
  task = make(loss=loss, class_weights="auto", label_smoothing=smoothing)
  logits = jnp.tile(jnp.linspace(-3, 2, CLASSES), (N, 1))
  of_class = task.loss(logits[:CLASSES], jnp.eye(CLASSES))
  losses = task.loss(logits, found)
  np.testing.assert_allclose(losses, found @ of_class, rtol=1e-5)
  np.testing.assert_allclose(losses.sum(), task.loss(logits, targets).sum(), rtol=1e-5)


@pytest.mark.parametrize("loss", registry.parts("loss", "classification"))
def test_auto_weights_conserve_the_loss_and_balance_the_classes(loss):
  """Where all images have the same loss, its mean is that without weights, in equal parts."""
  labels = np.repeat(np.arange(CLASSES), COUNTS)
  task, plain = make(loss=loss, class_weights="auto"), make(loss=loss)
  logits = jnp.zeros((len(labels), CLASSES))
  found, unweighted = (t.loss(logits, t.targets(labels)) for t in (task, plain))
  np.testing.assert_allclose(found.mean(), unweighted.mean(), rtol=1e-5)
  parts = np.bincount(labels, np.asarray(found))
  np.testing.assert_allclose(parts, parts[0], rtol=1e-5)


@pytest.mark.parametrize("name, loss", LOSSES)
def test_weights_of_1_change_nothing(logits, mixed, soft, name, loss):
  targets = mixed if name == "classification" else soft
  ones = make(name, loss=loss, class_weights=(1.0,) * CLASSES)
  np.testing.assert_allclose(
    ones.loss(logits, targets), make(name, loss=loss).loss(logits, targets), rtol=1e-6
  )


# Evaluation


@pytest.mark.parametrize("name", OF_LABELS)
def test_the_loss_of_an_evaluation_is_that_of_the_task_whatever_is_trained_by(
  logits, mixed, soft, name
):
  targets = mixed if name == "classification" else soft
  expected = make(name).loss(logits, targets)
  for loss in registry.parts("loss", name):
    task = make(name, loss=loss, class_weights=WEIGHTS, label_smoothing=0.1)
    np.testing.assert_array_equal(task.eval_loss(logits, targets), expected)


def test_views_are_averaged_as_the_probabilities_that_were_trained(logits):
  """With binary cross-entropy, sigmoids; the class is the one of the highest mean."""
  task = make(loss="binary_cross_entropy")
  views = [logits, logits[::-1] * 2, np.float32(5) - logits]
  mean = np.mean([expit(view.astype(np.float64)) for view in views], axis=0)
  found = task.mean_prediction([jnp.asarray(view) for view in views])
  np.testing.assert_allclose(expit(np.asarray(found, np.float64)), mean, rtol=1e-4)
  np.testing.assert_array_equal(found.argmax(-1), mean.argmax(-1))
  assert (found.argmax(-1) != make().mean_prediction(views).argmax(-1)).any()
  assert task.mean_prediction([logits]) is logits


# Distillation


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation(logits, temperature):
  """T^2 KL of what the teacher says, arXiv:1503.02531, section 2."""
  teacher = logits[::-1] * 2
  one, other = (x.astype(np.float64) / temperature for x in (logits, teacher))
  p = softmax(other, -1)
  expected = temperature**2 * (p * (log_softmax(other, -1) - log_softmax(one, -1))).sum(-1)
  found = make().distill_loss(logits, teacher, temperature)
  assert found.shape == (N,) and found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=1e-4)

  p, q = expit(other), expit(one)
  expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
  found = make("multi_label").distill_loss(logits, teacher, temperature)
  assert found.shape == (N,)
  np.testing.assert_allclose(found, temperature**2 * expected.mean(-1), rtol=1e-4)


@pytest.mark.parity
def test_distillation_is_that_of_torch(logits):
  import torch

  teacher, T = torch.tensor(logits[::-1].copy()), 3.0
  x = torch.tensor(logits, requires_grad=True)
  expected = T**2 * torch.nn.functional.kl_div(
    torch.log_softmax(x / T, -1), torch.softmax(teacher / T, -1), reduction="batchmean"
  )
  expected.backward()
  ours, gradient = jax.value_and_grad(lambda x: make().distill_loss(x, logits[::-1], T).mean())(
    logits
  )
  np.testing.assert_allclose(ours, expected.detach(), rtol=1e-5)
  np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", OF_LABELS)
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(logits, name):
  """And the gradient is about as large at any high temperature, which is what T^2 is for."""
  task = make(name)
  loss = lambda x, t: task.distill_loss(x, jnp.asarray(logits), t).mean()
  value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits), 2.0)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(gradient, 0, atol=1e-7)
  norms = [jnp.linalg.norm(jax.grad(loss)(jnp.zeros((N, CLASSES)), t)) for t in (50.0, 100.0)]
  np.testing.assert_allclose(norms[0], norms[1], rtol=0.02)
  sure = jnp.full((1, CLASSES), 1e4).at[0, 0].set(-1e4)
  assert np.isfinite(task.distill_loss(-sure, sure, 1.0)).all()


# What is refused


@pytest.mark.parametrize(
  "config, message",
  [
    ({"loss": "focl"}, "unknown loss of classification: task.loss 'focl'. Did you mean 'focal'"),
    (
      {"name": "multi_label", "loss": "cross_entropy"},
      "unknown loss of multi_label: task.loss 'cross_entropy'.*binary_cross_entropy, focal",
    ),
    (
      {"name": "multi_label", "logit_adjustment": 1.0},
      "logit_adjustment' is 1.0 and has no effect with .*binary_cross_entropy: leave it at 0.0",
    ),
    (
      {"name": "multi_label", "loss": "focal", "logit_adjustment": 1.0},
      "logit_adjustment' is 1.0 and has no effect with task.loss=focal",
    ),
    (
      {"loss": "binary_cross_entropy", "logit_adjustment": 1.0},
      "set task.loss=cross_entropy or focal, or leave it at 0.0",
    ),
    ({"focal_gamma": 1.0}, "focal_gamma' is 1.0 .*: set task.loss=focal, or leave it at 2.0"),
    (
      {"target_threshold": 0.2},
      "target_threshold' is 0.2 .*: set task.loss=binary_cross_entropy, or leave it at None",
    ),
    (
      {"loss": "binary_cross_entropy", "target_threshold": 0.2, "label_smoothing": 0.1},
      "target_threshold=0.2 makes each target 0 or 1, and task.label_smoothing=0.1 neither",
    ),
  ],
)
def test_what_cannot_be_is_refused(config, message):
  with pytest.raises(UserError, match=message):
    make(**config)
