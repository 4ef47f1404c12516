"""The resident pipeline: its order, its batches, and exactly-once evaluation."""

import jax
import numpy as np
import pytest

from cnnjax import data, sharding
from cnnjax.data.resident import check_fits
from cnnjax.errors import UserError

SIZE, BATCH = 101, 16  # a prime: every batch size leaves a remainder


@pytest.fixture(scope="module")
def split():
  """Examples whose label is their index, and whose pixels follow from it."""
  labels = np.arange(SIZE, dtype=np.int32)
  images = np.random.default_rng(0).integers(0, 256, (SIZE, 2, 3, 1), dtype=np.uint8)
  images[:, 0, 0, 0] = labels
  return data.Split.of(images, labels, tuple(map(str, labels)))


@pytest.fixture(scope="module", params=[1, 8], ids="devices={}".format)
def resident(request, split):
  return data.Resident(split, sharding.make_mesh(request.param), max_gib=1)


@pytest.fixture(scope="module")
def other(split):
  """On two devices, for comparison with those above."""
  return data.Resident(split, sharding.make_mesh(2), max_gib=1)


def batches(resident, seed, steps, batch_size=BATCH):
  """The batches of `steps`, each taken inside jit, as in training."""
  resident.start(batch_size, seed)
  take = jax.jit(resident.take)
  return [jax.device_get(take(resident.feed(step), step)) for step in steps]


def order(resident, seed, steps, batch_size=BATCH):
  return np.stack([batch["label"] for batch in batches(resident, seed, steps, batch_size)])


@pytest.mark.smoke
def test_the_order_does_not_depend_on_devices_or_on_where_one_starts(resident, other):
  steps = list(range(15))  # into the third epoch
  whole = order(resident, 3, steps)
  np.testing.assert_array_equal(whole, order(other, 3, steps))
  jumps = [13, 2, 7, 2]
  np.testing.assert_array_equal(whole[jumps], order(resident, 3, jumps))


def test_an_epoch_is_a_permutation_that_leaves_out_the_remainder(resident):
  resident.start(BATCH, 0)
  per_epoch = resident.steps_per_epoch
  assert per_epoch == SIZE // BATCH
  epochs = order(resident, 0, range(3 * per_epoch)).reshape(3, per_epoch * BATCH)
  left_out = []
  for epoch in epochs:
    assert len(set(epoch)) == per_epoch * BATCH
    left_out.append(frozenset(range(SIZE)) - set(epoch))
  assert len(set(left_out)) == 3, "every epoch leaves out the same examples"
  assert not any(np.array_equal(a, b) for a, b in [epochs[:2], epochs[1:], epochs[::2]])


def test_seeds_and_epochs_that_add_up_to_the_same_differ(other):
  orders = set()
  for seed in range(4):
    other.start(BATCH, seed)
    for epoch in range(4):
      _, indices = other.feed(epoch * other.steps_per_epoch)
      orders.add(np.asarray(indices).tobytes())
  assert len(orders) == 16


def test_no_position_of_the_order_is_favoured(other):
  """Over 200 seeds the mean index of every slot is that of a uniform draw, within 5 sigma."""
  firsts = []
  for seed in range(200):
    other.start(BATCH, seed)
    _, indices = other.feed(0)
    firsts.append(np.asarray(indices[0]))
  sigma = np.sqrt((SIZE**2 - 1) / 12 / 200)
  assert np.abs(np.mean(firsts, axis=0) - (SIZE - 1) / 2).max() < 5 * sigma


def test_a_batch_holds_the_images_of_its_labels(resident, split):
  for batch in batches(resident, 1, [0, 5, 6]):
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"], split.images[batch["label"]])


def test_a_batch_is_split_over_the_devices(resident):
  resident.start(BATCH, 0)
  batch = jax.jit(resident.take)(resident.feed(0), 0)
  shards = batch["image"].addressable_shards
  assert len(shards) == resident._mesh.size
  assert {shard.data.shape[0] for shard in shards} == {BATCH // len(shards)}


def test_starting_again_forgets_the_order_before(other):
  first = order(other, 0, [0])
  assert not np.array_equal(first, order(other, 1, [0]))
  assert order(other, 1, [0], 8).shape == (1, 8)
  np.testing.assert_array_equal(first, order(other, 0, [0]))


@pytest.mark.smoke
@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_once_gives_every_example_exactly_once_and_in_order(resident, split, batch_size):
  seen, shapes = [], set()
  for batch, mask in resident.once(batch_size):
    shapes.add(batch["image"].shape)
    assert mask.dtype == bool and mask.shape == batch["label"].shape
    assert len(mask.addressable_shards) == resident._mesh.size
    batch, mask = jax.device_get((batch, mask))
    np.testing.assert_array_equal(batch["image"], split.images[batch["label"]])
    seen.extend(batch["label"][mask])
  assert seen == list(range(SIZE))
  assert len(shapes) == 1, "evaluation would compile more than once"
  assert shapes.pop()[0] <= max(SIZE, batch_size) + resident._mesh.size


def test_once_leaves_training_where_it_was(other):
  before = order(other, 5, [3])
  list(other.once(64))
  np.testing.assert_array_equal(before, jax.device_get(other.take(other.feed(3), 3))["label"][None])


@pytest.mark.parametrize("batch_size", [SIZE, SIZE - 1])
def test_the_largest_batches(other, batch_size):
  other.start(batch_size, 0)
  assert other.steps_per_epoch == 1


def test_a_batch_larger_than_the_split_is_refused(other):
  with pytest.raises(UserError, match=r"batch_size 102 is larger than the training split \(101\)"):
    other.start(SIZE + 1, 0)


def test_what_does_not_fit_is_refused(split):
  check_fits((2**15, 16, 64, 32), 1.0)  # 1 GiB to the byte
  with pytest.raises(UserError, match=r"32,769 images take 1\.0 GiB.*max_gib allows 1;"):
    check_fits((2**15 + 1, 16, 64, 32), 1.0)
  with pytest.raises(UserError, match="max_gib"):
    data.Resident(split, sharding.make_mesh(1), max_gib=split.images.nbytes / 2**30 * 0.99)
