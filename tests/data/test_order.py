"""The order of an epoch: which examples it has, how often, and that it is a pure function."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from cnnjax.data.order import SAMPLING, Order, epoch_length, epoch_order
from cnnjax.errors import UserError

SIZES = (97, 40, 0, 13, 5)  # class 2 has no examples
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5, dtype=np.int32), SIZES))
N = len(LABELS)
PRESENT = [0, 1, 3, 4]
each_sampling = pytest.mark.parametrize("sampling", SAMPLING)


def order(epoch=0, seed=0, labels=LABELS, **options):
  return epoch_order(labels, seed=seed, epoch=epoch, **options)


def times(indices):
  """How often each example is in an order."""
  return np.bincount(indices, minlength=N)


@pytest.mark.parametrize("examples", [N, LABELS], ids=["number", "labels"])
def test_uniform_is_the_permutation_of_earlier_versions(examples):
  """Runs that go on keep their order."""
  for seed, epoch in ((0, 0), (3, 0), (3, 7)):
    expected = np.random.default_rng((seed, epoch)).permutation(N)
    np.testing.assert_array_equal(order(epoch, seed, examples), expected)
  assert epoch_length(examples) == N


@each_sampling
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_length_of_every_epoch_is_known_before(sampling, repeats):
  length = epoch_length(LABELS, sampling=sampling)
  assert length == {"oversample": 4 * 97, "undersample": 4 * 5}.get(sampling, N)
  for epoch in range(3):
    found = order(epoch, sampling=sampling, repeats=repeats)
    assert found.shape == (length,) and found.dtype == np.int32


@each_sampling
def test_a_pure_function_of_seed_and_epoch(sampling):
  found = {
    (seed, epoch): order(epoch, seed, sampling=sampling).tobytes()
    for seed in range(3)
    for epoch in range(3)
  }
  assert len(set(found.values())) == 9
  np.random.seed(1)  # what a run may have done to the global state
  for (seed, epoch), expected in reversed(found.items()):
    assert order(epoch, seed, sampling=sampling).tobytes() == expected


def test_the_same_in_another_process():
  script = f"""
import hashlib, numpy as np
from cnnjax.data.order import SAMPLING, epoch_order
labels = np.array({LABELS.tolist()})
orders = [epoch_order(labels, seed=5, epoch=2, sampling=s, repeats=2) for s in SAMPLING]
print(hashlib.sha256(np.concatenate(orders)).hexdigest())
"""
  there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
  orders = [order(2, 5, sampling=s, repeats=2) for s in SAMPLING]
  assert there.stdout.strip() == hashlib.sha256(np.concatenate(orders)).hexdigest()


@each_sampling
def test_an_order_is_shuffled(sampling):
  """Classes do not stand in blocks: neighbours are of one class no more often than by chance."""
  labels = LABELS[np.concatenate([order(e, sampling=sampling) for e in range(20)])]
  share = np.bincount(labels) / len(labels)
  chance = (share**2).sum()
  sigma = np.sqrt(chance * (1 - chance) / len(labels))
  assert abs((labels[1:] == labels[:-1]).mean() - chance) < 6 * sigma + 20 / len(labels)


def test_oversampling_has_whole_copies_and_a_remainder_that_differs():
  remainders = set()
  for epoch in range(3):
    found = times(order(epoch, sampling="oversample"))
    for c in PRESENT:
      of_class = found[np.equal(LABELS, c)]
      assert of_class.sum() == 97
      assert set(of_class) <= {97 // SIZES[c], 97 // SIZES[c] + 1}
    remainders.add(found.tobytes())
  assert len(remainders) == 3


def test_undersampling_takes_another_part_of_each_class():
  epochs = [times(order(epoch, sampling="undersample")) for epoch in range(120)]
  for found in epochs:
    assert found.max() == 1
    np.testing.assert_array_equal(np.bincount(LABELS[found > 0], minlength=5), [5, 5, 0, 5, 5])
  total = np.sum(epochs, axis=0)
  assert total.min() > 0, "an example is never seen"
  assert (total[LABELS == 4] == 120).all(), "the smallest class is always whole"
  chance = 5 / 97
  assert np.abs(total[LABELS == 0] - 120 * chance).max() < 5 * np.sqrt(120 * chance)


@pytest.mark.parametrize("sampling, power", [("class_balanced", 0), ("square_root", 0.5)])
def test_draws_have_the_probability_of_their_class(sampling, power):
  """arXiv:1910.09217, eq. 1; and within a class each example has the same, all within 5 sigma."""
  epochs = 400
  drawn = np.concatenate([order(epoch, sampling=sampling) for epoch in range(epochs)])
  sizes = np.array([SIZES[c] for c in PRESENT], float)
  chances = sizes**power / (sizes**power).sum()
  for c, size, chance in zip(PRESENT, sizes, chances, strict=True):
    per_example = np.bincount(drawn, minlength=N)[np.equal(LABELS, c)]
    for found, p in ((per_example.sum(), chance), *((x, chance / size) for x in per_example)):
      assert abs(found - len(drawn) * p) < 5 * np.sqrt(len(drawn) * p)
  assert not (LABELS[drawn] == 2).any()


@each_sampling
@pytest.mark.parametrize("repeats", [2, 3, 1000])
def test_repeats_stand_in_a_row(sampling, repeats):
  """The first 1/k of the order without them, each k times."""
  found, once = order(sampling=sampling, repeats=repeats), order(sampling=sampling)
  np.testing.assert_array_equal(found, [once[i // repeats] for i in range(len(once))])


def test_repeats_see_every_example_in_the_end():
  seen = np.concatenate([order(epoch, repeats=3) for epoch in range(40)])
  assert (times(seen) > 0).all()


@pytest.mark.parametrize("sampling", [s for s in SAMPLING if s != "uniform"])
@pytest.mark.parametrize("examples", [N, np.zeros((N, 5), np.uint8)], ids=["number", "multi-hot"])
def test_balancing_needs_one_class_an_image(sampling, examples):
  for function in (lambda: epoch_length(examples, sampling=sampling),
                   lambda: order(labels=examples, sampling=sampling)):  # fmt: skip
    with pytest.raises(UserError, match=f"data.sampling={sampling} needs one class for each image"):
      function()


def test_multi_label_sets_can_be_shuffled():
  labels = np.zeros((N, 5), np.uint8)
  np.testing.assert_array_equal(order(labels=labels), order())
  assert epoch_length(labels) == N


def test_an_unknown_sampling_is_refused():
  for function in (lambda: epoch_length(LABELS, sampling="balanced"),
                   lambda: order(sampling="balanced")):  # fmt: skip
    with pytest.raises(UserError, match=r"'balanced'\. Did you mean 'class_balanced'\?"):
      function()


# The batches of a run


def run(**changes):
  settings = {"examples": LABELS, "batch_size": 16, "seed": 0, "sampling": "uniform",
              "repeats": 1, "pad": False, "sizes": (None,)}  # fmt: skip
  return Order(**{**settings, **changes})


@each_sampling
@pytest.mark.parametrize("pad", [False, True])
def test_the_batches_of_an_epoch_are_its_order(sampling, pad):
  """The remainder is dropped, or filled up from the beginning of the same epoch."""
  batches = run(sampling=sampling, pad=pad, repeats=2)
  steps, length = batches.steps_per_epoch, epoch_length(LABELS, sampling=sampling)
  assert steps == length // 16 + pad * bool(length % 16)
  for epoch in (0, 3, 1):
    found = np.concatenate([batches.at(epoch * steps + i) for i in range(steps)])
    whole = order(epoch, sampling=sampling, repeats=2)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.concatenate([whole, whole])[: steps * 16])


def test_the_sizes_of_images_share_the_run():
  grown = run(sizes=(8, 16, 24)).for_run(total=10)
  assert [grown.size(step) for step in range(10)] == [8] * 4 + [16] * 4 + [24] * 2
  assert run().for_run(total=10).size(9) is None
