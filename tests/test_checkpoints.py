"""What is saved comes back, and what does not fit is refused."""

import shutil

import jax
import numpy as np
import optax
import pytest

from cnnjax import checkpoints, models, sharding, state, tasks
from cnnjax.config import default
from cnnjax.errors import UserError


@pytest.fixture(scope="module")
def make():
  """A function from the width of a model to (mesh -> its state)."""

  def build(width=4, devices=1, abstract=False):
    mesh = sharding.make_mesh(devices)
    model = models.create("simple_cnn", 10, conv_features=(width,), dense_features=(8,))
    window = tasks.create(default().task, 10).no_metrics()
    return state.create(model, optax.adam(1e-3), window, (8, 8, 1), 3, mesh, abstract=abstract)

  return build


def test_round_trip_is_exact_on_any_mesh(make, tmp_path):
  saved = checkpoints.Checkpoints(tmp_path)
  before = make()
  saved.save(before, {"mean": [0.5], "std": [0.25]}, {})
  saved.wait()
  assert saved.meta(0) == {"mean": [0.5], "std": [0.25]}
  for devices in (1, 8):
    after = checkpoints.Checkpoints(tmp_path).restore(make(devices=devices, abstract=True))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
      assert np.array_equal(a, b) and len(b.sharding.device_set) == devices
    assert jax.tree.structure(before) == jax.tree.structure(after)


@pytest.mark.smoke
def test_last_and_best_are_kept(make, tmp_path):
  saved = checkpoints.Checkpoints(tmp_path)
  now = make()
  for step, score in [(1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, 0.8), (6, None)]:
    metrics = {} if score is None else {checkpoints.METRIC: score}
    saved.save(now.replace(step=now.step * 0 + step), {}, metrics)
  saved.close()
  again = checkpoints.Checkpoints(tmp_path, read_only=True)
  assert (again.step("last"), again.step("best")) == (6, 2)
  kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
  assert kept == {2, 6}


def test_a_checkpoint_of_another_model_is_refused(make, tmp_path):
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(make(4), {}, {})
  saved.close()
  with pytest.raises(UserError, match=r"of another model: params/\S+ is \(.*\) in it"):
    checkpoints.Checkpoints(tmp_path).restore(make(5, abstract=True))


def test_a_damaged_checkpoint_is_refused_in_words(make, tmp_path):
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(make(), {}, {})
  saved.close()
  for part in (tmp_path / "checkpoints" / "0" / "training").iterdir():
    shutil.rmtree(part) if part.is_dir() else part.unlink()
  with pytest.raises(UserError, match="cannot read the checkpoint of step 0"):
    checkpoints.Checkpoints(tmp_path).restore(make(abstract=True))


def test_a_truncated_checkpoint_is_refused_in_words(make, tmp_path):
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(make(), {}, {})
  saved.close()
  for part in (tmp_path / "checkpoints" / "0" / "variables").rglob("*"):
    if part.is_file() and part.stat().st_size > 10 and part.parent.name == "d":
      part.write_bytes(part.read_bytes()[:10])
  with pytest.raises(UserError, match="cannot read the checkpoint of step 0"):
    checkpoints.Checkpoints(tmp_path).restore(make(abstract=True))


def test_a_save_that_was_cut_off_does_not_count(make, tmp_path):
  """Orbax writes beside and renames: what a kill leaves is not a checkpoint."""
  saved = checkpoints.Checkpoints(tmp_path)
  now = make()
  saved.save(now, {}, {})
  saved.close()
  left = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp-0"
  shutil.copytree(tmp_path / "checkpoints" / "0", left)
  assert checkpoints.Checkpoints(tmp_path).step() == 0
