"""What both pipelines promise: the batch of a step is a pure function of (config, seed, step)."""

import jax
import numpy as np
import pytest
from fakes import Lazy, Records, photos, split_of_files

from cnnjax import data
from cnnjax.config import default, override
from cnnjax.data import identity, imbalance
from cnnjax.data.holdout import carve
from cnnjax.data.images import center_crop
from cnnjax.data.order import SAMPLING, epoch_length, epoch_order
from cnnjax.data.resident import check_fits
from cnnjax.errors import UserError
from cnnjax.runtime import processes, sharding

SIZE, BATCH, SEED, TOTAL = 53, 8, 3, 20  # a prime: every batch size leaves a remainder
KINDS = {
  "resident": {"pipeline": "resident"},
  "in parts": {"pipeline": "resident", "shard_resident": True},
  "streaming": {"pipeline": "streaming", "threads": 2},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
both = pytest.mark.parametrize("kind", ["resident", "streaming"])


def settings(kind, **overrides):
  """`config.data` of a pipeline of that kind."""
  config = default()
  for key, value in {"source": "arrays", **KINDS.get(kind, {}), **overrides}.items():
    override(config, f"data.{key}", value)
  return config.data


def opened(kind, given, devices=1, *, seed=SEED, batch_size=BATCH, name="train", **overrides):
  """(pipeline, what it skipped) of a split of `given`."""
  c = settings(kind, **overrides)
  skipped = data.Skipped(c.max_unreadable)
  split = data.load(c, (name,), skipped, given)[name]
  order = data.Order.of(split, c, batch_size, seed).for_run(TOTAL) if name == "train" else None
  return data.pipeline(split, c, sharding.make_mesh(devices), skipped, order), skipped


def batches(pipeline, steps):
  """The batches of `steps`, each taken inside jit, as in training."""
  take = jax.jit(pipeline.take)
  found = [jax.device_get(take(pipeline.feed(step), step)) for step in steps]
  pipeline.close()
  return found


def same(a, b):
  for x, y in zip(a, b, strict=True):
    for key in ("image", "label"):
      assert x[key].dtype == y[key].dtype
      np.testing.assert_array_equal(x[key], y[key])


@pytest.fixture(scope="module")
def arrays():
  """Small images, no two alike, of five classes."""
  images = np.random.default_rng(0).integers(0, 256, (SIZE, 3, 4, 1), dtype=np.uint8)
  labels = np.arange(SIZE) % 5
  return data.from_arrays((images, labels), (images[::-1], labels[::-1]))


@pytest.fixture(scope="module")
def files():
  """PNG files of different sizes."""
  return {"train": split_of_files(SIZE), "test": split_of_files(19)}


def crops(size, n=SIZE):
  """What those files look like."""
  return np.stack([center_crop(photo, size) for photo in photos(n)])


# Training


@pytest.mark.smoke
@each_kind
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_batch_is_that_part_of_the_permutation_of_its_epoch(kind, devices, arrays):
  """NumPy's, of (seed, epoch); started anywhere, in any order, over any number of devices."""
  images, labels = arrays["train"].images, arrays["train"].labels
  epochs = [np.random.default_rng((SEED, epoch)).permutation(SIZE) for epoch in range(4)]
  steps = [0, 1, 2, 5, 6, 7, 13, 2, 19, 19, 12]
  rows = [epochs[s // 6][s % 6 * BATCH : (s % 6 + 1) * BATCH] for s in steps]
  pipeline, _ = opened(kind, arrays, devices)
  assert pipeline.order.steps_per_epoch == 6
  same(batches(pipeline, steps), [{"image": images[r], "label": labels[r]} for r in rows])


@each_kind
def test_a_batch_is_split_over_the_devices(kind, arrays):
  pipeline, _ = opened(kind, arrays, devices=8)
  batch = jax.jit(pipeline.take)(pipeline.feed(0), 0)
  pipeline.close()
  for array in batch.values():
    assert len(array.sharding.device_set) == 8
    assert {shard.data.shape[0] for shard in array.addressable_shards} == {BATCH // 8}


@each_kind
def test_seeds_differ(kind, arrays):
  first, second = (batches(opened(kind, arrays, seed=seed)[0], [0]) for seed in (0, 1))
  assert not np.array_equal(first[0]["image"], second[0]["image"])


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("remainder, repeats, tail", [("drop", 3, None), ("pad", 1, 4)])
def test_the_pipelines_agree_in_every_order(sampling, remainder, repeats, tail, files):
  """Over two epochs and into the third; and with what the order and the crop are defined by."""
  asked = {
    "sampling": sampling, "remainder": remainder, "repeats": repeats, "long_tail": tail,
    "image_size": 6, "validation": 10,
  }  # fmt: skip
  train, _ = carve(files["train"], 10, "validation", 0, identity.CONTENT)
  numbers = identity.drawn(train.ids(identity.CONTENT), "long_tail", 0)
  train = train.take(imbalance.long_tail(train.labels, tail, numbers)) if tail else train
  length = epoch_length(train.labels, sampling=sampling)
  per_epoch = length // BATCH + bool(remainder == "pad" and length % BATCH)
  steps = range(min(2 * per_epoch + 1, TOTAL))
  expected = []
  for step in steps:
    epoch, place = divmod(step, per_epoch)
    order = epoch_order(train.labels, seed=SEED, epoch=epoch, sampling=sampling, repeats=repeats)
    rows = np.resize(order, per_epoch * BATCH)[place * BATCH : (place + 1) * BATCH]
    expected.append({"image": crops(6)[train.indices[rows]], "label": train.labels[rows]})
  for kind in ("resident", "streaming"):
    same(batches(opened(kind, files, 2, **asked)[0], steps), expected)


@both
def test_images_grow_in_equal_parts_of_the_run(kind, files):
  pipeline, _ = opened(kind, files, image_size=9, progressive=(4, 6))
  assert [pipeline.order.size(step) for step in range(TOTAL)] == [4] * 7 + [6] * 7 + [9] * 6
  plain, _ = opened(kind, files, image_size=9)
  for step, batch, large in zip(
    range(TOTAL), batches(pipeline, range(TOTAL)), batches(plain, range(TOTAL)), strict=True
  ):
    size = pipeline.order.size(step)
    assert batch["image"].shape == (BATCH, size, size, 3) and batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["label"], large["label"])
    wanted = crops(size)[pipeline.order.at(step)]
    if kind == "resident":  # made smaller from 9 pixels
      resized = jax.image.resize(large["image"].astype("f4"), wanted.shape, "bilinear")
      wanted = np.round(resized).astype(np.uint8)
    np.testing.assert_array_equal(wanted, batch["image"])


@pytest.mark.parametrize("kind", ["resident", "streaming"])
def test_labels_may_be_several(kind):
  labels = np.random.default_rng(0).integers(0, 2, (SIZE, 4), dtype=np.uint8)
  given = {"train": split_of_files(SIZE, labels=labels)}
  pipeline, _ = opened(kind, given, 2, image_size=6)
  batch, _, later = batches(pipeline, [0, 1, 9])
  for step, found in ((0, batch), (9, later)):
    assert found["label"].dtype == np.uint8
    np.testing.assert_array_equal(found["label"], labels[pipeline.order.at(step)])


@both
@pytest.mark.parametrize("batch_size", [SIZE, SIZE - 1])
def test_the_largest_batches(kind, arrays, batch_size):
  pipeline, _ = opened(kind, arrays, batch_size=batch_size)
  assert pipeline.order.steps_per_epoch == 1
  assert batches(pipeline, [0, 3])[1]["label"].shape == (batch_size,)


@both
def test_a_batch_larger_than_the_split_is_refused(kind, arrays):
  with pytest.raises(UserError, match=r"batch_size 54 is larger than the training split \(53\)"):
    opened(kind, arrays, batch_size=SIZE + 1)


# Evaluation


@pytest.mark.smoke
@each_kind
@pytest.mark.parametrize("devices", [1, 8])
def test_once_gives_every_example_exactly_once_and_in_order(kind, devices, arrays):
  pipeline, _ = opened(kind, arrays, devices, name="test")
  for batch_size in (1, 7, 32, 1000):
    images, labels, shapes = [], [], set()
    for batch, mask in pipeline.once(batch_size):
      shapes.add(batch["image"].shape)
      assert mask.dtype == bool and mask.shape == batch["label"].shape
      assert len(mask.sharding.device_set) == devices
      batch, mask = jax.device_get((batch, mask))
      images.append(batch["image"][mask])
      labels.append(batch["label"][mask])
    np.testing.assert_array_equal(np.concatenate(images), arrays["test"].images)
    np.testing.assert_array_equal(np.concatenate(labels), arrays["test"].labels)
    assert len(shapes) == 1, "evaluation would compile more than once"
    assert shapes.pop()[0] <= min(SIZE, batch_size) + devices


@each_kind
def test_once_leaves_training_where_it_was(kind, arrays):
  undisturbed = batches(opened(kind, arrays)[0], range(8))
  pipeline, _ = opened(kind, arrays)
  take, found = jax.jit(pipeline.take), []
  for step in range(8):
    found.append(jax.device_get(take(pipeline.feed(step), step)))
    if step % 3 == 0:
      assert len(list(pipeline.once(16))) == 4
      next(iter(pipeline.once(16)))  # one that is not finished
  pipeline.close()
  same(found, undisturbed)


@both
def test_what_is_evaluated_is_cropped_as_the_config_says(kind, files):
  pipeline, _ = opened(kind, files, name="test", image_size=6, eval_size=8, eval_crop=0.8)
  batch, _ = next(iter(pipeline.once(19)))
  expected = np.stack([center_crop(photo, 8, 0.8) for photo in photos(19)])
  np.testing.assert_array_equal(batch["image"], expected)


# Images that cannot be read

BROKEN = (3, 4, 5, 20, 52)  # some in a row, and the last


@pytest.fixture(scope="module")
def damaged():
  return {"train": split_of_files(SIZE, BROKEN), "test": split_of_files(SIZE, BROKEN)}


@pytest.mark.parametrize("sampling", ["uniform", "oversample", "class_balanced"])
def test_training_takes_the_next_of_the_class_that_can_be_read(sampling, damaged):
  """In both pipelines, around the end; the order is that of the set as it was."""
  stands = np.arange(SIZE)
  stands[[3, 4, 5, 20, 52]] = 8, 9, 10, 25, 2
  labels = damaged["train"].labels
  for kind in ("resident", "streaming"):
    pipeline, skipped = opened(kind, damaged, 2, image_size=6, sampling=sampling)
    per_epoch = epoch_length(labels, sampling=sampling) // BATCH
    found = batches(pipeline, range(TOTAL))
    for step, batch in enumerate(found):
      epoch, place = divmod(step, per_epoch)
      order = epoch_order(labels, seed=SEED, epoch=epoch, sampling=sampling)
      rows = stands[order[place * BATCH : (place + 1) * BATCH]]
      np.testing.assert_array_equal(batch["image"], crops(6)[rows], kind)
      np.testing.assert_array_equal(batch["label"], labels[rows], kind)
    assert skipped.keys() == {f"file {i}" for i in BROKEN}
    assert all("truncated" in reason for reason in skipped.values())


@both
@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_leaves_out_what_cannot_be_read(kind, devices, damaged):
  kept = np.setdiff1d(np.arange(SIZE), BROKEN)
  pipeline, skipped = opened(kind, damaged, devices, name="test", image_size=6)
  for batch_size in (7, 1000):
    found = [
      (batch["image"][mask], batch["label"][mask])
      for batch, mask in jax.device_get(list(pipeline.once(batch_size)))
    ]
    images, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    np.testing.assert_array_equal(images, crops(6)[kept])
    np.testing.assert_array_equal(labels, kept % 5)
  assert skipped.keys() == {f"file {i}" for i in BROKEN}


@both
@pytest.mark.parametrize("name", ["train", "test"])
def test_more_unreadable_images_than_allowed_are_one_line(kind, name, damaged):
  with pytest.raises(UserError) as e:
    pipeline, _ = opened(kind, damaged, name=name, image_size=6, max_unreadable=2)
    batches(pipeline, range(TOTAL)) if name == "train" else list(pipeline.once(8))
  text = str(e.value)
  assert text.startswith("3 images cannot be read, and data.max_unreadable is 2: file ")
  assert "truncated" in text and "data scan" in text and "\n" not in text


def test_a_reason_is_said_once_with_the_first_names():
  skipped = data.Skipped(10)
  with pytest.raises(UserError) as e:
    for i in range(11):
      skipped.add(f"{i}.tif", "pixels of 32 bits" if i else "truncated")
  assert (
    "data.max_unreadable is 10: 0.tif: truncated; 1.tif, 2.tif, 3.tif, 4.tif, 5.tif and 5 more: "
    "pixels of 32 bits. Look at them"
  ) in str(e.value)


@both
@pytest.mark.parametrize("name", ["train", "test"])
def test_as_many_as_allowed_are_skipped(kind, name, damaged):
  pipeline, skipped = opened(kind, damaged, name=name, image_size=6, max_unreadable=5)
  batches(pipeline, range(TOTAL)) if name == "train" else list(pipeline.once(8))
  assert len(skipped) == 5


def several_labels(broken):
  """A split of 12 files with several labels each; a class of its own has the last."""
  labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]] * 4, np.uint8)
  labels[11] = 0, 0, 1
  return {"train": split_of_files(12, broken, labels=labels)}


@both
def test_of_several_labels_the_same_are_taken_and_else_any(kind):
  given = several_labels([2, 5])
  given["train"].records.labels[8] = 1, 0, 0  # so that 2 and 5 have labels that no other has
  pipeline, _ = opened(kind, given, image_size=6, batch_size=12)
  stands = np.arange(12)
  stands[[2, 5]] = 3, 6
  rows = stands[np.random.default_rng((SEED, 0)).permutation(12)]
  (batch,) = batches(pipeline, [0])
  np.testing.assert_array_equal(batch["image"], crops(6, 12)[rows])
  np.testing.assert_array_equal(batch["label"], given["train"].labels[rows])
  pipeline, _ = opened(kind, several_labels([2, 5]), image_size=6, batch_size=12)
  stands[[2, 5]] = 8, 8
  rows = stands[np.random.default_rng((SEED, 0)).permutation(12)]
  np.testing.assert_array_equal(batches(pipeline, [0])[0]["image"], crops(6, 12)[rows])


@pytest.mark.parametrize("several", [False, True])
def test_a_stand_in_is_found_without_reading_all(several, monkeypatch):
  """Labels that stand in the records are read one by one, and the choice is the same."""
  monkeypatch.setattr(data.split, "NEAR", 6)
  labels = np.arange(1000, dtype=np.int32) % 5
  if several:
    labels = np.eye(5, dtype=np.uint8)[labels]
    labels[20, 2] = 1  # as no other one
  lazy, known = (
    data.Split(kind([None] * 1000, labels), tuple("abcde"), (4, 4, 3)) for kind in (Lazy, Records)
  )
  readable = lambda at: at not in (10, 15, 20, 999)
  for i, found in ((10, 25 if not several else 11), (20, 25 if not several else 21), (999, 4)):
    assert known.stand_in(i, readable, "") == lazy.stand_in(i, readable, "") == found
  assert len(lazy.records.read) <= 30 and not lazy.knows_labels
  part = known.take(np.array([5, 3, 8, 10]))
  assert part.stand_in(0, lambda at: True, "") == 3, "by the labels of its own examples"


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
  "missing, words, reads",
  [
    ([], "", 0),
    ([10, 15, 20], "", 21),  # the next of the class is five further
    ([7], "without any of e", 1000),
    ([7, 10], "without any of e", 1000),
    ([500, 502], "without any of f", 1000),
  ],
)
def test_classes_that_are_lost_are_found_without_reading_all(
  several, missing, words, reads, monkeypatch
):
  """Unless one may be lost: of classes 0 to 3 there are many, of 4 and 5 one and two."""
  monkeypatch.setattr(data.split, "NEAR", 6)
  labels = np.arange(1000, dtype=np.int32) % 5
  labels[labels == 4] = 0
  labels[7], labels[[500, 502]] = 4, 5
  if several:
    labels = np.eye(6, dtype=np.uint8)[labels]
    labels[502, 1] = 1
  lazy, known = (
    data.Split(kind([None] * 1000, labels), tuple("abcdef"), (4, 4, 3)) for kind in (Lazy, Records)
  )
  assert known.lost(missing) == lazy.lost(missing) == words
  assert (len({*lazy.records.read}) <= reads) and lazy.knows_labels == (reads == 1000)


@both
@pytest.mark.parametrize("several", [False, True])
def test_a_class_that_loses_all_its_images_ends_the_run(kind, several):
  given = several_labels([11]) if several else {"train": split_of_files(23, range(2, 23, 5))}
  with pytest.raises(UserError, match=r"none of the training images of '2' can be read.*cated: "):
    batches(opened(kind, given, image_size=6)[0], range(4))


def test_what_was_replaced_or_lost_is_said(damaged, capsys, monkeypatch):
  split = opened("resident", damaged, image_size=6)[0].split
  assert split.note == "5 that cannot be read replaced within their class"
  gone = {"test": split_of_files(8, [1, 6], 5)}
  split = opened("resident", gone, image_size=6, name="test")[0].split
  assert split.note == "2 that cannot be read left out, without any of 1" and len(split) == 6
  pipeline, _ = opened("streaming", gone, image_size=6, name="test")
  for _ in range(2):
    assert sum(int(mask.sum()) for _, mask in pipeline.once(4)) == 6
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("warning: images that cannot be read") and line.endswith("any of 1")
  monkeypatch.setattr(processes, "is_first", lambda: False)
  list(opened("streaming", gone, image_size=6, name="test")[0].once(4))
  assert not capsys.readouterr().err, "the first process speaks"


@both
def test_where_no_image_can_be_read(kind):
  given = {"train": split_of_files(8, range(8))}
  with pytest.raises(UserError, match=r"none of the (training images of '\d'|images) can be read"):
    batches(opened(kind, given, image_size=6)[0], [0])


class Refusing(Records):
  """A source that has something to say."""

  def __getitem__(self, i):
    if i == 11:
      raise UserError("labels of the split are not public (they are -1); choose another one")
    return super().__getitem__(i)


@both
@pytest.mark.parametrize("name", ["train", "test"])
def test_what_a_source_says_is_what_the_user_reads(kind, name):
  records = Refusing(photos(SIZE), np.arange(SIZE) % 5)
  given = {name: data.Split(records, tuple("abcde"), (None, None, 3))}
  with pytest.raises(UserError) as e:
    pipeline, _ = opened(kind, given, name=name, image_size=6)
    batches(pipeline, range(TOTAL)) if name == "train" else list(pipeline.once(8))
  assert str(e.value) == "labels of the split are not public (they are -1); choose another one"


@both
def test_channels_that_only_files_can_change(kind, arrays):
  with pytest.raises(UserError, match=r"data\.channels=3, and these images have 1: leave it"):
    batches(opened(kind, arrays, channels=3)[0], [0])


# Which pipeline


@pytest.mark.parametrize(
  "overrides, streams",
  [
    ({}, False),
    ({"max_gib": 53 * 36 * 3 / 2**30}, False),
    ({"max_gib": 53 * 36 * 3 / 2**30 * 0.99}, True),
    ({"crop": "random_resized"}, True),
    ({"pipeline": "streaming"}, True),
    ({"pipeline": "resident"}, False),
  ],
)
@pytest.mark.parametrize("source", ["files", "arrays"])
def test_a_set_that_fits_stays_on_the_device(source, overrides, streams, files):
  given = files
  if source == "arrays":
    images = np.random.default_rng(0).integers(0, 256, (SIZE, 9, 9, 3), dtype=np.uint8)
    given = data.from_arrays((images, np.arange(SIZE) % 5))
  pipeline, _ = opened("auto", given, image_size=6, **overrides)
  assert isinstance(pipeline, data.Streaming if streams else data.Resident)
  (batch,) = batches(pipeline, [0])
  assert batch["image"].shape == (BATCH, 6, 6, 3)
  assert pipeline.describe().startswith("streaming by" if streams else "resident")


def test_what_does_not_fit_is_refused(arrays):
  check_fits((2**15, 16, 64, 32), 1.0)  # 1 GiB to the byte
  with pytest.raises(UserError, match=r"32,769 images take 1\.0 GiB.*max_gib allows 1;"):
    check_fits((2**15 + 1, 16, 64, 32), 1.0)
  with pytest.raises(UserError, match=r"data\.pipeline=streaming"):
    opened("resident", arrays, max_gib=53 * 12 / 2**30 * 0.99)
