"""What a run was trained on is known, and nothing of it is evaluated later."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from cnnjax import build, checkpoints, data, evaluate, train
from cnnjax.checkpoints import trained_on
from cnnjax.config import default
from cnnjax.data import history, holdout, identity
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.training.teacher import Teacher

CLASSES = ("a", "b")


def split_of(*numbers):
  """A picture for each number."""
  images = np.array(numbers, "<u4").view(np.uint8).reshape(-1, 2, 2, 1)
  return data.Split.of(images, np.arange(len(images), dtype=np.int32) % 2, CLASSES)


def of_run(before, train, **others):
  return history.of_run(before, split_of(*train), {k: split_of(*v) for k, v in others.items()})


def test_it_is_written_and_read(tmp_path):
  found, remarks = of_run(None, range(9), test=(7, 20, 21), validation=range(30, 35))
  assert (found.by, found.older, len(found.ids), len(found.shared)) == ("content", False, 9, 1)
  assert remarks == {"overlap": "1 of 3 test images are in the training split as well"}
  assert (np.diff(found.ids) > 0).all()
  trained_on.write(tmp_path, found)
  again = trained_on.read(tmp_path)
  assert {name: len(ids) for name, ids in again.held.items()} == {"test": 3, "validation": 5}
  for field in dataclasses.fields(found):
    np.testing.assert_equal(getattr(again, field.name), getattr(found, field.name))
  assert [f.name for f in tmp_path.iterdir()] == ["trained_on.json"]


def test_a_run_that_goes_on_says_what_changed_and_remembers_all():
  before, remarks = of_run(None, range(10), test=(20, 21))
  assert not remarks
  assert not of_run(before, range(10), test=(20, 21))[1]
  now, remarks = of_run(before, range(3, 15), test=(20, 21))
  assert remarks == {
    "changed": "of 10 images that the run was trained on, 3 are not trained on any more; 5 are new"
  }
  assert len(now.ids) == 15
  assert of_run(before, range(10), test=(21, 22, 23))[1] == {
    "changed": "of 2 test images that the run had, 1 are gone; 2 are new"
  }
  # All of what was trained on, and none of what was tested on, is not the run's own folder.
  assert now.share(split_of(*range(15))) == 0
  assert now.share(split_of(*range(15), 20)) == 0.5
  with pytest.raises(UserError, match=r"^Remove .*: 1 of these 2 images were trained on by"):
    of_run(now, range(3, 15), test=(0, 20))


@pytest.mark.parametrize("held, count", [((9, 10), 1), ((5, 10, 9), 1), ((5, 8, 9), 2)])
def test_what_was_trained_on_is_not_evaluated(held, count):
  """But for the copies that the splits of the source had when it began."""
  before, _ = of_run(None, range(10), test=(5, 20))
  first = next(i for i, number in enumerate(held) if number in (8, 9))
  words = rf"^Remove these.*: {count} of these {len(held)} images were trained.*: image {first}"
  with pytest.raises(UserError, match=words):
    before.check(split_of(*held))
  with pytest.raises(UserError, match=words):
    of_run(before, range(9), validation=held)
  before.check(split_of(5, 30))
  of_run(before, range(6, 10), test=(20,))[0].check(split_of(5, 30))


def test_large_sets_are_compared_by_place():
  @dataclasses.dataclass(frozen=True)
  class Far(data.split.Arrays):
    large = True

    @property
    def places(self):
      return np.arange(len(self), dtype=np.uint64)

    @property
    def contents(self):
      raise AssertionError("read")

  far = lambda *numbers: dataclasses.replace(s := split_of(*numbers), records=Far(s.records.arrays))
  before, _ = history.of_run(None, far(1, 2, 3, 4), {})
  assert before.by == identity.PLACE
  with pytest.raises(UserError, match="2 of these 2"):
    before.check(far(8, 9))


def test_a_teacher_that_knows_the_test_images_is_said(tmp_path):
  trained_on.write(tmp_path, of_run(None, range(10))[0])
  config = default().distill
  config.workdir = str(tmp_path)
  splits = {"validation": split_of(20, 21), "test": split_of(3, 20, 4)}
  inputs = types.SimpleNamespace(
    evaluations={name: types.SimpleNamespace(split=split) for name, split in splits.items()}
  )
  lines = build._taught(config, Teacher(None, None, "net"), inputs)
  assert lines.keys() == {"teacher", "taught test"}
  words = "2 of these 3 images were trained on by the teacher: image 0, image 2: "
  assert lines["taught test"].startswith(words)


@pytest.mark.parametrize(
  "content", ["", "{}", "[1]", '{"by": "content", "older": false, "ids": "0g", "shared": ""}',
              '{"by": "content", "older": false, "ids": "00", "shared": ""}',
              '{"by": "content", "older": false, "ids": "", "shared": ""}',
              '{"by": "content", "older": false, "ids": "", "shared": "", "held": ""}'],
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path, content):
  (tmp_path / "trained_on.json").write_text(content)
  with pytest.raises(UserError, match=r"cannot read .*trained_on\.json: .*choose another workdir"):
    trained_on.read(tmp_path)


@pytest.mark.parametrize("amounts", [(12, 9), (0.2, 9), (0.15, 0.1)])
@pytest.mark.parametrize("older", [False, True])
def test_within_a_run_no_image_changes_sides(older, amounts):
  """Files come and go, the last of their class too, and the numbers ask for others each time."""
  rng, c = np.random.default_rng(0), default().data
  c.update({"source": "arrays", "test": amounts[0], "validation": amounts[1]})
  nothing, there, gone, side = np.zeros(0, np.uint64), {*range(60)}, set(), {}
  before = history.History("", older, nothing, nothing, {})
  for start in range(8):
    images = split_of(*rng.permutation(sorted(there)).tolist()).images
    labels = np.maximum(0, images[..., 0].ravel()[::4].astype(np.int32) % 9 - 4)
    labels = np.where(np.arange(len(labels)) < 5, np.arange(len(labels)), labels)
    splits = data.load(c, given=data.from_arrays((images, labels)), before=before)
    found = {int(i): name for name, split in splits.items() for i in split.ids("content")}
    assert len(found) == len(there)
    assert {i: side.get(i, name) for i, name in found.items()} == found
    side |= found
    others = {name: splits[name] for name in ("test", "validation")}
    before, _ = history.of_run(before, splits["train"], others)
    for name, amount in zip(("test", "validation"), amounts, strict=True):
      assert older or isinstance(amount, float) or len(splits[name]) == amount or start > 1
    left = [*map(int, rng.choice(sorted(there), 12, replace=False))]
    there = there - {*left} | {*range(60 + 20 * start, 80 + 20 * start)} | gone  # which come back
    gone = {*left}


def test_a_record_that_is_gone_is_missed_but_of_older_runs(tmp_path):
  meta = tmp_path / "checkpoints" / "7" / "meta" / "metadata"
  meta.parent.mkdir(parents=True)
  for text in ("{}", '{"format": 1}', "[]", "no JSON"):
    meta.write_text(text)
    assert trained_on.read(tmp_path).older
  meta.write_text('{"format": 2}')
  with pytest.raises(UserError, match=rf"^put {tmp_path}/trained_on\.json back: it says which"):
    trained_on.read(tmp_path)


def test_a_large_set_that_becomes_resident_is_known_by_place(tiny, tmp_path, monkeypatch):
  """It goes on, and what it holds out was not trained on."""
  monkeypatch.setattr(identity, "LARGE", 1000)
  for i in range(40):
    file = tmp_path / "ab"[i % 2] / f"{i}.png"
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(file)
  config = tiny(**{
    "data.source": "folder", "data.path": str(tmp_path), "data.image_size": 8,
    "data.pipeline": "resident", "data.validation": 0.3, "batch_size": 8,
  })  # fmt: skip
  mesh, before, found = sharding.make_mesh(1), None, []
  for _ in range(2):
    inputs = data.open_inputs(config, mesh, before=before)
    before, remarks = inputs.history(before)
    assert before.by == identity.PLACE and "changed" not in remarks
    found.append({k: sorted(b.split.ids(before.by)) for k, b in inputs.evaluations.items()})
  assert found[0] == found[1] and all(found[0].values())
  before.check(data.load(config.data, ("test",), before=before)["test"])


# Through a run


def noise(n, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (n, 8, 8, 1), np.uint8), rng.integers(0, 2, n)


def test_shares_are_held_out_of_arrays_and_stay_so_when_data_come(tiny, tmp_path):
  images, labels = noise(200)
  config = tiny(**{
    "data.source": "arrays", "data.validation": 0.25, "data.test": 0.25, "epochs": 1,
    "augment": None,
  })  # fmt: skip
  some = data.from_arrays((images[:140], labels[:140]))
  _, metrics, _ = train.train(config, tmp_path, some)
  assert {"test/accuracy", "validation/accuracy"} <= metrics.keys()
  assert evaluate.evaluate_checkpoint(tmp_path, "validation", "best", splits=some)[1] > 15
  known = trained_on.read(tmp_path)
  assert not known.older and 40 < len(known.ids) < 110
  more = data.from_arrays((images, labels))
  for name in ("validation", "test"):
    found = data.load(config.data, given=more, before=known)[name]
    assert not np.isin(found.ids(identity.CONTENT), known.ids).any()
    assert evaluate.evaluate_checkpoint(tmp_path, name, splits=more)[1] == len(found)
  whole = data.from_arrays((images, labels), (images, labels))
  with pytest.raises(UserError, match=rf"{len(known.ids)} of these 200 images were trained"):
    evaluate.evaluate_checkpoint(tmp_path, splits=whole, **{"data.test": "test"})


def test_a_run_of_before_keeps_its_split(tiny, tmp_path, capsys, monkeypatch):
  """Where there is a checkpoint and no record: stratified places, as they were drawn then."""
  from sklearn.model_selection import train_test_split

  images, labels = noise(101)
  given = data.from_arrays((images, labels), (images[:7], labels[:7]))
  config = tiny(**{"data.source": "arrays", "data.validation": 0.2, "epochs": 1, "augment": None})
  monkeypatch.setattr(checkpoints.layout, "FORMAT", 1)
  train.train(config, tmp_path, given)
  monkeypatch.undo()
  (tmp_path / "trained_on.json").unlink()
  before = trained_on.read(tmp_path)
  assert before.older
  kept, held = train_test_split(np.arange(101), test_size=0.2, stratify=labels, random_state=0)
  found = data.load(config.data, given=given, before=before)
  np.testing.assert_array_equal(found["train"].images, images[np.sort(kept)])
  np.testing.assert_array_equal(found["validation"].images, images[np.sort(held)])
  assert evaluate.evaluate_checkpoint(tmp_path, "validation", splits=given)[1] == 21
  assert f"warning: the validation split is {holdout.OLDER}" in capsys.readouterr().err
  config.epochs = 2
  train.train(config, tmp_path, given)
  assert holdout.OLDER in capsys.readouterr().out
  after = trained_on.read(tmp_path)
  assert after.older and len(after.ids) == 80
  turned = data.from_arrays((images[::-1], labels[::-1]), (images[:7], labels[:7]))
  now = data.load(config.data, given=turned, before=after)
  for name, split in now.items():
    assert {*split.ids(after.by)} == {*found[name].ids(after.by)}
  assert now["validation"].note == holdout.OLDER


def test_a_long_tail_of_before_stays_too():
  labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], 30))
  rng = np.random.default_rng(3)
  first = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in ((0, 30), (1, 15), (2, 7))]
  tail = data.imbalance.long_tail(labels, 4, holdout.tail_by_place(labels, 3))
  np.testing.assert_array_equal(tail, np.sort(np.concatenate(first)))
