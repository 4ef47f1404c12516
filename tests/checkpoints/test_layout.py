"""A workdir of format 2, written by the code of before format 3, is read as that code read it.

fixtures/format_2.tar.gz was left by a signal at step 7 of 10, with its best checkpoint of step 5.
"""

import dataclasses
import hashlib
import pathlib
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import build, checkpoints, evaluate, train
from cnnjax.checkpoints import __main__ as command_line
from cnnjax.checkpoints import layout, trained_on
from cnnjax.checkpoints.workdir import load_config
from cnnjax.training import resuming

# Of the names and bytes of all arrays, as the code that wrote them found them.
DIGESTS = {
  5: "a4a1e5ca3022c6f754a45aa954bee43a1a9f1d15dcb01114c1184c94d3a656c9",
  7: "5892f1a0ca4fc9ac164d6dba614cb906bae33d8cbb98c9209fa508d6b7258c24",
}
# Of the test split, by that code.
LOSSES = {
  ("last", "raw"): 2.295431,
  ("best", "raw"): 2.303741,
  ("last", "ema"): 2.298886,
  ("last", "swa"): 2.309012,
}
SETTINGS = {
  "data.validation": 0.2, "epochs": 2, "checkpoint_every": "4 steps", "average.ema": 0.9,
  "average.swa_start": "3 steps", "optim.plateau.patience": 1, "seed": 5, "keep.last": 1,
}  # fmt: skip


@pytest.fixture
def format_2(tmp_path):
  with tarfile.open(pathlib.Path(__file__).parents[1] / "fixtures" / "format_2.tar.gz") as archive:
    archive.extractall(tmp_path, filter="data")
  return tmp_path / "format_2"


def test_every_array_is_read_to_the_bit_into_its_place(format_2):
  saved = command_line._open(format_2)
  config = load_config(format_2)
  config.mesh.data = 8
  program = build.build(config, before=trained_on.read(format_2))
  for step, digest in DIGESTS.items():
    arrays, found = command_line._arrays(saved, step), hashlib.sha256()
    for path in sorted(arrays):
      found.update(path.encode())
      found.update(arrays[path].tobytes())
    assert found.hexdigest() == digest
    now = resuming.restored(program, saved, str(step))
    placed = checkpoints.paths(layout.items(now))
    assert placed.keys() == arrays.keys() and now.extra == {}
    for path, x in placed.items():
      assert np.array_equal(x, arrays[path]) and x.dtype == arrays[path].dtype, path


@pytest.mark.parametrize("which, weights", LOSSES)
def test_it_is_evaluated_to_the_same_numbers(format_2, which, weights):
  _, examples, metrics = evaluate.evaluate_checkpoint(format_2, "test", which, weights)
  assert examples == 37
  assert metrics["loss"] == pytest.approx(LOSSES[which, weights], abs=2e-5)


def test_it_goes_on_to_where_the_code_that_wrote_it_came(format_2, tiny):
  now, metrics, _ = train.train(tiny(**SETTINGS), format_2)
  assert now.steps_done == 10
  expected = {
    "train/loss": 2.286592, "validation/loss": 2.376985, "test/loss": 2.290852,
    "test/ema_loss": 2.292108, "test/swa_loss": 2.298145,
  }  # fmt: skip
  for name, value in expected.items():
    assert metrics[name] == pytest.approx(value, abs=2e-5), name
  assert checkpoints.newest_format(format_2) == layout.FORMAT == 3


@dataclasses.dataclass(frozen=True)
class Small:
  """Fields of a state of shapes."""

  variables: dict
  averages: dict
  step: jax.ShapeDtypeStruct
  epoch: jax.ShapeDtypeStruct
  extra: dict

  def replace(self, **fields):
    return dataclasses.replace(self, **fields)


def shape(*sizes, dtype=np.float32):
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)


@pytest.mark.parametrize("older", ["epoch", "extra", None])
@pytest.mark.parametrize("kept", ["ema", "ema slow", "slow", ""])
def test_what_an_older_checkpoint_lacks_begins_at_0_or_as_the_weights(older, kept):
  """Of Lookahead the slow weights are the fast ones, in buffers of their own."""
  w = {"params": shape(2)}
  names = {"ema", "slow"} if "ema" in kept else {"slow"} if kept else set()
  abstract = Small(w, dict.fromkeys(names, w), shape(dtype=np.int32), shape(3), {"q": shape(4)})
  training = {"step": 0, "epoch": 0, "extra": 0}
  training.pop(older, None)
  asked, one = [], lambda x: jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), x)

  def read(**items):
    asked.append(items)
    return {name: one(tree) for name, tree in items.items()}

  there = {"training": training, "averages": dict.fromkeys(kept.split()) or None}
  found = layout.restore(abstract, there, read)
  (items,) = asked
  assert items["training"].keys() == training.keys()
  assert {*items.get("averages", {})} == {*kept.split()} & names
  assert ("averages" in items) == bool(kept)
  assert found.averages.keys() == names
  assert found.epoch.tolist() == [0.0 if older == "epoch" else 1.0] * 3
  assert found.extra["q"].tolist() == [0.0 if older == "extra" else 1.0] * 4
  assert found.variables["params"].tolist() == [1, 1] and int(found.step) == 1
  if names and "slow" not in kept:
    slow = found.averages["slow"]["params"]
    assert slow.tolist() == [1, 1] and slow is not found.variables["params"]
    assert slow.unsafe_buffer_pointer() != found.variables["params"].unsafe_buffer_pointer()


def test_a_state_without_averages_has_no_item_of_them():
  of = lambda averages: layout.items(Small({"params": 1}, averages, 2, 3, {}))
  training = {"step": 2, "epoch": 3, "extra": {}}
  assert of({}) == {"variables": {"params": 1}, "training": training}
  both = {"variables": {"params": 1}, "training": training, "averages": {"ema": 4}}
  assert of({"ema": 4}) == both
  assert layout.paths({"a": {"b": 1}, "c": (2, 3)}) == {"a/b": 1, "c/0": 2, "c/1": 3}


def test_older_meta_passes_each_migration_from_its_own_on(monkeypatch):
  steps = tuple(lambda meta, n=n: {"seen": [*meta["seen"], n]} for n in range(3))
  monkeypatch.setattr(layout, "MIGRATIONS", steps)
  found = [layout.migrated({"seen": []}, number)["seen"] for number in range(4)]
  assert found == [[0, 1, 2], [1, 2], [2], []]
