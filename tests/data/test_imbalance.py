"""Counting, long tails and SMOTE; and that everything against imbalance helps rare classes."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cnnjax import build, tasks
from cnnjax.config import default
from cnnjax.data import from_arrays, imbalance, with_given
from cnnjax.data.imbalance import counts, describe, smote
from cnnjax.data.order import epoch_length, epoch_order
from cnnjax.errors import UserError

# Counting


def test_counts():
  labels = np.array([2, 0, 2, 2], np.int32)
  np.testing.assert_array_equal(counts(labels, 4), [1, 0, 3, 0])
  np.testing.assert_array_equal(counts(labels[:0], 4), [0] * 4)
  multi_hot = np.zeros((300, 3), np.uint8)
  multi_hot[:, 1], multi_hot[7, 2] = 1, 1
  np.testing.assert_array_equal(counts(multi_hot, 3), [0, 300, 1])


@pytest.mark.parametrize("label", [-1, 3, 1000])
def test_a_label_out_of_range_is_named(label):
  with pytest.raises(UserError, match=f"label {label} is out of range: 3 classes .* 0 to 2"):
    counts(np.array([0, label, 2]), 3)


@pytest.mark.parametrize(
  "numbers, words",
  [
    ([5, 5, 5], "5 of each class"),
    ([2000, 30, 40], "2,000 of a (largest class) to 30 of b (smallest), imbalance ratio 66.7"),
    ([4, 0, 2], "4 of a (largest class) to 2 of c (smallest), imbalance ratio 2; without "
     "examples: 1 (b)"),
    ([3, 0, 0], "3 of each class; without examples: 2 (b, c)"),
    ([0, 0, 0], "no labels"),
  ],
)  # fmt: skip
def test_describe(numbers, words):
  assert describe(np.array(numbers), ("a", "b", "c")) == words


def test_of_many_empty_classes_three_are_named():
  words = describe(np.eye(1, 9, dtype=int)[0], tuple("abcdefghi"))
  assert words.endswith("without examples: 8 (b, c, d, ...)")


# Long tails


def long_tail(labels, ratio, seed):
  """By numbers that a seed draws."""
  return imbalance.long_tail(labels, ratio, np.random.default_rng(seed).random(len(labels)))


def test_long_tail_has_the_counts_of_cifar10_lt():
  """Those of arXiv:1906.07413's code at ratio 100, and 10,847 in all for CIFAR-100."""
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.repeat(np.arange(10), 5000))
  kept = counts(labels[long_tail(labels, 100, 0)], 10)
  assert kept.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
  assert len(long_tail(np.repeat(np.arange(100), 500), 100, 0)) == 10847


@pytest.mark.parametrize("ratio", [1, 3, 10.0, 49, 200, 1e9])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_long_tail_follows_the_profile(ratio, classes):
  labels = np.repeat(np.arange(classes), 147)
  kept = long_tail(labels, ratio, 3)
  assert (np.diff(kept) > 0).all()
  found = counts(labels[kept], classes)
  profile = 147 * np.exp(-np.log(ratio) * np.linspace(0, 1, classes))
  expected = np.maximum(profile, 1)
  assert (found <= expected + 1e-6).all() and (found > expected - 1 - 1e-6).all()
  assert found[0] == 147 and found[-1] == (max(147 // ratio, 1) if classes > 1 else 147)


def test_long_tail_of_an_imbalanced_set_has_the_ratio_all_the_same():
  """The head gives up what the tail does not have; class 2 has no examples at all."""
  labels = np.repeat(np.arange(5), [1000, 800, 0, 50, 20])
  assert counts(labels[long_tail(labels, 8, 0)], 5).tolist() == [160, 80, 0, 40, 20]
  labels = np.repeat(np.arange(3), [1000, 10, 500])
  assert counts(labels[long_tail(labels, 4, 0)], 3).tolist() == [20, 10, 5]


def test_long_tail_is_chosen_by_the_seed_and_shrinks_with_the_ratio():
  labels = np.random.default_rng(0).integers(0, 5, 1000)
  first = long_tail(labels, 10, 0)
  np.random.seed(1)
  np.testing.assert_array_equal(first, long_tail(labels, 10, 0))
  other = long_tail(labels, 10, 1)
  assert len(other) == len(first) and not np.array_equal(first, other)
  assert set(long_tail(labels, 100, 0)) < set(first)


def test_long_tail_keeps_the_smallest_numbers_so_that_few_move_when_one_comes():
  labels, numbers = np.repeat([0, 1], 50), np.random.default_rng(0).random(101)
  kept = imbalance.long_tail(labels, 5, numbers[:100])
  np.testing.assert_array_equal(kept[50:], 50 + np.sort(np.argsort(numbers[50:100])[:10]))
  more = imbalance.long_tail(np.append(labels, 1), 5, numbers)
  assert len({*more} ^ {*kept}) in (0, 2)


@pytest.mark.parametrize("ratio", [0.5, 0, -3, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_refused(ratio):
  with pytest.raises(UserError, match=r"imbalance ratio of a long tail .* at least 1"):
    long_tail(np.arange(5), ratio, 0)


def test_a_long_tail_of_multi_label_data_is_refused():
  with pytest.raises(UserError, match="long_tail needs one class for each image"):
    long_tail(np.zeros((5, 3), np.uint8), 10, 0)


# SMOTE


@pytest.fixture(scope="module")
def clouds():
  """Two features; classes of 30, 9 and 3, each around its own place."""
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.repeat(np.arange(3, dtype=np.int32), [30, 9, 3]))
  return (rng.normal(size=(42, 2)) + 10 * labels[:, None]).astype(np.float32), labels


def test_smote_puts_new_vectors_between_two_of_their_class(clouds):
  features, labels = clouds
  found, found_labels = smote(features, labels, 0)
  np.testing.assert_array_equal(np.bincount(found_labels), [30, 30, 30])
  np.testing.assert_array_equal(found[:42], features)
  np.testing.assert_array_equal(found_labels[:42], labels)
  assert found.dtype == np.float32 and found_labels.dtype == labels.dtype
  for new, label in zip(found[42:], found_labels[42:], strict=True):
    own = features[labels == label]
    a, b = own[:, None], own[None]
    # On the segment from a to b: the two distances add up to its length.
    detour = np.linalg.norm(new - a, axis=-1) + np.linalg.norm(b - new, axis=-1)
    assert (detour - np.linalg.norm(b - a, axis=-1)).min() < 1e-4


def test_smote_follows_the_seed(clouds):
  first, again, other = (smote(*clouds, seed)[0] for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_smote_leaves_a_balanced_set_alone(clouds):
  features, labels = clouds[0][:6], np.array([0, 1, 2] * 2)
  np.testing.assert_array_equal(smote(features, labels, 0)[0], features)


@pytest.mark.parametrize(
  "labels, k_neighbors, message",
  [
    ([0, 0, 0, 4], 5, "two examples of a class .* class 4 has one"),
    ([0, 0, 0, 0], 5, "SMOTE: .*more than 1 class"),
    ([0, 0, 1, 1], 0, "SMOTE: .*k_neighbors"),
  ],
)
def test_what_smote_cannot_do_is_refused(labels, k_neighbors, message):
  with pytest.raises(UserError, match=message):
    smote(np.zeros((4, 2)), np.array(labels), 0, k_neighbors)


def test_features_that_are_not_finite_are_refused(clouds):
  features = clouds[0].copy()
  features[3] = np.nan
  with pytest.raises(UserError, match=r"SMOTE: .*NaN"):
    smote(features, clouds[1], 0)


def test_without_imbalanced_learn_the_error_names_the_extra(clouds, monkeypatch):
  monkeypatch.setitem(sys.modules, "imblearn.over_sampling", None)
  with pytest.raises(UserError, match=r"pip install -e '\.\[imbalance\]'"):
    smote(*clouds, 0)


# What it is for

CLASSES, SEEDS, STEPS, BATCH = 10, 3, 200, 32
TAIL = slice(6, None)  # the rarest four classes


@pytest.fixture(scope="module")
def digits():
  """(features, labels) to train on, long-tailed at ratio 50, per seed; and to test on."""
  features, labels = load_digits(return_X_y=True)
  features = (features / 16).astype(np.float32)
  train, test = train_test_split(
    np.arange(len(labels)), test_size=0.4, stratify=labels, random_state=0
  )
  tails = [train[long_tail(labels[train], 50, seed)] for seed in range(SEEDS)]
  return [(features[i], labels[i]) for i in tails], (features[test], labels[test])


def fit(data, seed, sampling="uniform", **of_task):
  """A linear classifier after STEPS steps of SGD in an order of this package, by its loss."""
  features, labels = data
  config = default().task
  config.update(of_task)
  tasks.check(config)
  task = tasks.create(config, CLASSES, counts(labels, CLASSES))
  epochs = -(-STEPS * BATCH // epoch_length(labels, sampling=sampling))
  orders = [
    epoch_order(labels, seed=seed, epoch=epoch, sampling=sampling) for epoch in range(epochs)
  ]

  def step(params, batch):
    x, targets = batch
    loss = lambda p: task.loss(x @ p["kernel"] + p["bias"], targets).mean()
    return jax.tree.map(lambda p, g: p - 0.2 * g, params, jax.grad(loss)(params)), None

  order = np.concatenate(orders)[: STEPS * BATCH].reshape(STEPS, BATCH)
  start = {"kernel": jnp.zeros((features.shape[1], CLASSES)), "bias": jnp.zeros(CLASSES)}
  batches = features[order], task.targets(labels[order])
  return jax.lax.scan(step, start, batches)[0]


def tail_recall(digits, resample=None, **options):
  """The mean recall of the rare classes on the test set, over the seeds."""
  trains, (features, labels) = digits
  task = tasks.create(default().task, CLASSES)
  found = []
  for seed, data in enumerate(trains):
    params = fit(resample(*data, seed) if resample else data, seed, **options)
    logits = features @ params["kernel"] + params["bias"]
    sums = task.metrics(logits, task.targets(labels), jnp.ones(len(labels))).mean_class_accuracy
    found.append(np.mean((sums.total / sums.count)[TAIL]))
  return np.mean(found)


@pytest.fixture(scope="module")
def uniform_recall(digits):
  return tail_recall(digits)


HELPS = {
  "oversample": {"sampling": "oversample"},
  "undersample": {"sampling": "undersample"},
  "class_balanced": {"sampling": "class_balanced"},
  "square_root": {"sampling": "square_root"},
  "auto": {"class_weights": "auto"},
  "effective_number": {"class_weights": "effective_number"},
  "list": {"class_weights": (0.3, 0.4, 0.7, 1.0, 1.6, 2.5, 4.0, 6.0, 9.0, 14.0)},
  "binary": {"loss": "binary_cross_entropy", "class_weights": "auto"},
  "focal": {"loss": "focal", "focal_gamma": 5.0},
  "logit_adjustment": {"logit_adjustment": 1.0},
  "smote": {"resample": smote},
}


@pytest.mark.parametrize("options", HELPS.values(), ids=HELPS)
def test_recall_of_rare_classes_rises(digits, uniform_recall, options):
  """Beside the same classifier, steps and seeds without it."""
  found = tail_recall(digits, **options)
  assert found > uniform_recall + 0.1, f"{found:.3f} beside {uniform_recall:.3f}"


@pytest.mark.parametrize(
  "settings, factor",
  [
    ({"data.sampling": "oversample", "task.class_weights": "auto"}, "9"),
    ({"data.sampling": "square_root", "task.class_weights": "auto"}, "3"),
    ({"data.sampling": "class_balanced", "task.class_weights": (1.0, 2.0)}, "2"),
    ({"task.class_weights": "auto", "task.logit_adjustment": 1.0}, "9"),
    ({"data.sampling": "oversample"}, None),
    ({"task.class_weights": "auto"}, None),
  ],
)
def test_what_acts_twice_against_an_imbalance_is_said(tiny, settings, factor):
  """90 images of one class and 10 of another: the weight that the second comes to."""
  labels = np.arange(100) // 90
  images = np.random.default_rng(0).integers(256, size=(100, 8, 8, 1), dtype=np.uint8)
  given = from_arrays((images, labels), (images, labels), classes=("cat", "dog"))
  program = build.build(with_given(tiny(**settings), given), given)
  text = program.summary.get("imbalance")
  if factor is None:
    assert text is None
    return
  assert f"dog (smallest class) has {factor} times the weight of cat (largest)" in text
  drawn = program.inputs.train.order.epoch(0).reshape(-1)
  mass = np.bincount(labels[drawn], minlength=2) * program.task.weights
  if "task.logit_adjustment" not in settings:
    assert mass[1] / mass[0] == pytest.approx(float(factor), rel=0.4)
