"""What is saved comes back; what does not fit is refused; what is damaged is passed over."""

import builtins
import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import checkpoints, evaluate, models, tasks, train
from cnnjax.checkpoints import __main__ as command_line
from cnnjax.checkpoints import integrity, layout, store, trained_on
from cnnjax.config import default, override, to_json
from cnnjax.data import history, identity
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.training import members, monitor, passes, state

METRIC = "validation/accuracy"


@pytest.fixture(scope="module")
def make():
  """A function from the width of a model to (mesh -> its state)."""

  def build(width=4, devices=1, abstract=False):
    mesh = sharding.make_mesh(devices)
    model = models.create("simple_cnn", 10, conv_features=(width,), dense_features=(8,))
    config, optimizer = default(), optax.adam(1e-3)

    def rest(variables, seed):
      return {
        "opt_state": optimizer.init(variables["params"]),
        "averages": {},
        "monitor": monitor.create(config),
        "loss_scale": None,
        "window": passes.no_metrics(tasks.create(config.task, 10)),
        "epoch": tasks.create(config.task, 10).no_metrics(),
      }

    config.seed = 3
    runs = members.create(config)
    return state.create(model, (8, 8, 1), rest, runs, mesh, config.mesh, abstract=abstract)

  return build


def test_round_trip_is_exact_on_any_mesh(make, tmp_path):
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  before = make()
  saved.save(before, {"mean": [0.5], "std": [0.25]}, {})
  saved.wait()
  assert saved.meta(0) == {"mean": [0.5], "std": [0.25]}
  for devices in (1, 8):
    after = checkpoints.Checkpoints(tmp_path, monitor=METRIC).restore(
      make(devices=devices, abstract=True)
    )
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
      assert np.array_equal(a, b) and len(b.sharding.device_set) == devices
    assert jax.tree.structure(before) == jax.tree.structure(after)


def test_a_checkpoint_without_the_sums_of_an_epoch_is_trained_on(make, tmp_path):
  """As one of format 1: they begin at 0."""
  before = jax.tree.map(lambda x: x + 1, make())
  training = {
    f.name: getattr(before, f.name)
    for f in dataclasses.fields(before)
    if f.name not in ("variables", "averages", "epoch")
  }
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    saved.save_items(1, {"variables": before.variables, "training": training}, {}, {})
    saved.wait()
    after = saved.restore(make(devices=8, abstract=True))
  zeros = jax.tree.map(jnp.zeros_like, before.epoch)
  for a, b in zip(
    jax.tree.leaves(before.replace(epoch=zeros)), jax.tree.leaves(after), strict=True
  ):
    assert np.array_equal(a, b) and len(b.sharding.device_set) == 8


def small(step):
  """What `save_items` takes, of a model with one array."""
  return {"variables": {"params": {"kernel": jnp.arange(6.0) * step}}}


def write(workdir, *saves, last=-1):
  """Saves (step, score or None) in turn."""
  saved = checkpoints.Checkpoints(workdir, monitor=METRIC, keep=checkpoints.Keep(last))
  with contextlib.closing(saved):
    for step, score in saves:
      saved.save_items(step, small(step), {}, {} if score is None else {METRIC: score})


def names(workdir):
  return {p.name for p in (workdir / "checkpoints").iterdir()}


def contents(folder):
  return {
    p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
    for p in folder.rglob("*")
  }


def kernel(saved, step):
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return np.asarray(saved.arrays(step, "variables", here)["params"]["kernel"])


@pytest.mark.smoke
def test_last_and_best_are_kept(tmp_path):
  scores = [(1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, 0.8), (6, None)]
  write(tmp_path, *scores, last=1)
  again = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  assert (again.step("last"), again.step("best")) == (6, 2)
  assert names(tmp_path) == {"2", "6"}


def test_of_equals_the_first_is_the_best(tmp_path):
  """As for early stopping, to which the same again is no improvement."""
  write(tmp_path, (1, 0.5), (2, 0.9), (3, 0.9), (4, 0.1), last=1)
  assert checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True).step("best") == 2
  assert names(tmp_path) == {"2", "4"}


def test_what_is_damaged_is_not_deleted_and_no_measure(tmp_path):
  write(tmp_path, (1, 0.9), (2, 0.5), (3, 0.4))
  flip(tmp_path / "checkpoints/1/metrics/metrics")
  write(tmp_path, (4, 0.1), last=1)
  assert names(tmp_path) == {"1", "2", "4"}


def test_the_lowest_loss_is_the_best(tmp_path):
  config = default()
  config.monitor = "validation/loss"
  saved = checkpoints.Checkpoints.of(tmp_path, config, keep=checkpoints.Keep(1))
  with contextlib.closing(saved):
    for step, loss in [(1, 0.5), (2, 0.1), (3, float("nan")), (4, 0.3)]:
      saved.save_items(step, small(step), {}, {"validation/loss": loss})
  assert saved.steps() == [2, 4]


def test_older_ones_go_when_the_newer_one_is_verified(tmp_path, monkeypatch):
  write(tmp_path, (1, None))
  deleted, real = [], store.ocp.CheckpointManager.delete

  def delete(manager, step):
    deleted.append((step, integrity.is_sealed(tmp_path / "checkpoints" / "2")))
    real(manager, step)

  monkeypatch.setattr(store.ocp.CheckpointManager, "delete", delete)
  write(tmp_path, (2, None), last=1)
  assert deleted == [(1, True)]


def test_a_checkpoint_of_another_model_is_refused(make, tmp_path):
  """And is not taken for a damaged one."""
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  saved.save(make(4), {}, {})
  saved.close()
  with pytest.raises(UserError, match=r"of another model: params/\S+ is \(.*\) in it"):
    checkpoints.Checkpoints(tmp_path, monitor=METRIC).restore(make(5, abstract=True))
  assert names(tmp_path) == {"0"}


def test_a_save_that_was_cut_off_does_not_count(tmp_path):
  """Orbax writes beside and renames: what a kill leaves is not a checkpoint."""
  write(tmp_path, (1, None))
  left = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp-0"
  shutil.copytree(tmp_path / "checkpoints" / "1", left)
  assert checkpoints.Checkpoints(tmp_path, monitor=METRIC).step() == 1


# Damage.
def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


DAMAGE = {
  "flipped": (flip, "has other bytes than were written"),
  "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "bytes instead of"),
  "missing": (pathlib.Path.unlink, "is missing"),
}


@pytest.fixture(scope="module")
def written(make, tmp_path_factory):
  """A workdir with the checkpoints of steps 1 and 2, the second one the best."""
  workdir = tmp_path_factory.mktemp("two")
  now = make()
  with contextlib.closing(checkpoints.Checkpoints(workdir, monitor=METRIC)) as saved:
    for step in (1, 2):
      saved.save(now.replace(step=now.step * 0 + step), {"x": 1}, {METRIC: step / 10})
  return workdir


@pytest.fixture
def two_steps(written, tmp_path):
  """A copy of it."""
  return shutil.copytree(written, tmp_path / "run")


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_any_file_is_named_and_the_older_one_is_taken(two_steps, damage):
  harm, words = DAMAGE[damage]
  folder = two_steps / "checkpoints" / "2"
  files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  assert len(files) > 20
  for path in files:
    name, before = path.relative_to(folder).as_posix(), path.read_bytes()
    if (damage, name) == ("missing", integrity.MANIFEST):
      continue  # as after a kill before it was written
    harm(path)
    for which in checkpoints.WHICH:
      said = []
      saved = checkpoints.Checkpoints(two_steps, monitor=METRIC, read_only=True, say=said.append)
      assert saved.step(which) == 1, name
      assert len(said) == 1 and "step 2 is damaged" in said[0] and "of step 1 is taken" in said[0]
      assert name in said[0] and (words in said[0] or name == integrity.MANIFEST)
    path.write_bytes(before)
  assert saved.problems(2) == [] and names(two_steps) == {"1", "2"}


def test_a_file_too_many_is_damage(two_steps):
  extra = two_steps / "checkpoints" / "2" / "variables" / "d" / "more"
  extra.write_bytes(b"1")
  saved = checkpoints.Checkpoints(two_steps, monitor=METRIC, read_only=True)
  assert saved.problems(2) == ["variables/d/more was added"]
  extra.unlink()
  extra.symlink_to(two_steps)
  assert saved.problems(2) == ["variables/d/more was added"]
  extra.unlink()


def test_a_damaged_one_is_set_aside_and_its_step_can_be_saved_again(make, two_steps):
  flip(next((two_steps / "checkpoints" / "2" / "training" / "d").iterdir()))
  damaged = {p: p.read_bytes() for p in (two_steps / "checkpoints/2").rglob("*") if p.is_file()}
  said = []
  saved = checkpoints.Checkpoints(two_steps, monitor=METRIC, say=said.append)
  now = saved.restore(make(abstract=True))
  assert now.steps_done == 1 == checkpoints.last_step(two_steps)
  assert len(said) == 1 and "set aside as checkpoints/2.damaged" in said[0]
  for path, content in damaged.items():
    there = two_steps / "checkpoints/2.damaged" / path.relative_to(two_steps / "checkpoints/2")
    assert there.read_bytes() == content
  saved.save(now.replace(step=now.step + 1), {}, {METRIC: 0.5})
  saved.close()
  again = checkpoints.Checkpoints(two_steps, monitor=METRIC, say=said.append)
  assert again.restore(make(abstract=True)).steps_done == 2 and again.step("best") == 2
  assert names(two_steps) == {"1", "2", "2.damaged"} and len(said) == 1


@pytest.mark.parametrize("sealed", [True, False])
def test_one_that_cannot_be_restored_is_passed_over(make, two_steps, sealed):
  """Also where its files are those of the manifest; and without one."""
  folder = two_steps / "checkpoints" / "2"
  shutil.rmtree(folder / "training" / "d")
  (folder / integrity.MANIFEST).unlink()
  if sealed:
    integrity.seal(folder)
  reader = checkpoints.Checkpoints(two_steps, monitor=METRIC, read_only=True, say=lambda _: None)
  assert reader.restore(make(abstract=True)).steps_done == 1 and names(two_steps) == {"1", "2"}
  said = []
  saved = checkpoints.Checkpoints(two_steps, monitor=METRIC, say=said.append)
  assert saved.step() == 2  # so far it looks good
  assert saved.restore(make(abstract=True)).steps_done == 1
  assert len(said) == 1 and "step 2 is damaged" in said[0]
  assert names(two_steps) == {"1", "2.damaged"}


def test_where_none_is_good_all_stay_as_they_are(make, two_steps):
  flip(two_steps / "checkpoints/1/meta/metadata")
  shutil.rmtree(two_steps / "checkpoints/2/variables/d")
  for _ in range(2):
    saved = checkpoints.Checkpoints(two_steps, monitor=METRIC)
    with pytest.raises(UserError, match=r"step 2: variables/d/\S+ is missing.*; step 1: meta/meta"):
      saved.any()
  assert names(two_steps) == {"1", "2"}


def test_without_a_manifest_it_is_good_if_it_can_be_restored(make, two_steps, capsys):
  """The process may have been killed between the commit and the manifest."""
  (two_steps / "checkpoints/2" / integrity.MANIFEST).unlink()
  saved = checkpoints.Checkpoints(two_steps, monitor=METRIC, say=pytest.fail)
  assert saved.restore(make(abstract=True)).steps_done == 2


def test_a_name_in_a_manifest_cannot_point_outside(tmp_path):
  outside = tmp_path / "secret"
  outside.write_text("x")
  folder = tmp_path / "step"
  folder.mkdir()
  integrity.seal(folder)
  for name in ("../secret", str(outside)):
    files = {name: [1, "0"]}
    manifest = {"files": files, "sha256": integrity._digest(files)}
    (folder / integrity.MANIFEST).write_text(json.dumps(manifest))
    assert integrity.problems(folder) == [f"manifest.json names {name}, which is outside"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 10**5, '{"files": 1, "sha256": ""}', "\0"])
def test_what_is_no_manifest_is_damage(tmp_path, text):
  (tmp_path / integrity.MANIFEST).write_text(text)
  assert integrity.problems(tmp_path)[0].startswith("manifest.json cannot be read: ")


def test_nothing_is_unpickled(make, two_steps, monkeypatch):
  """Nor run: what is read of a checkpoint is JSON and arrays."""
  fail = lambda *args, **kwargs: pytest.fail("unpickled")
  for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (np, "load")]:
    monkeypatch.setattr(module, name, fail)
  monkeypatch.setattr(builtins, "eval", fail)
  saved = checkpoints.Checkpoints(two_steps, monitor=METRIC, read_only=True)
  assert saved.restore(make(abstract=True)).steps_done == 2


# Replacing.
def test_replacing_is_whole_or_not_there(tmp_path):
  write(tmp_path, (1, None), (2, None))
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  saved.save_items(2, small(7), {}, {}, replace=False)
  saved.wait()
  assert kernel(saved, 2)[1] == 2 and saved.step("best") is None
  saved.save_items(2, small(7), {"new": 1}, {METRIC: 0.5}, replace=True)
  assert saved.step("best") == 2
  saved.close()
  assert names(tmp_path) == {"1", "2"}  # nothing is left of the old one
  again = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  assert kernel(again, 2)[1] == 7 and again.step("best") == 2 and again.meta(2) == {"new": 1}


def test_a_replacement_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
  write(tmp_path, (1, None), (2, None))
  full = lambda *args, **kwargs: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  monkeypatch.setattr(store.ocp.CheckpointManager, "save", full)
  with pytest.raises(UserError, match="the disk is full"):
    saved.save_items(2, small(7), {}, {}, replace=True)
  monkeypatch.undo()
  saved.close()
  again = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  assert again.step() == 2 and kernel(again, 2)[1] == 2


def test_a_kill_while_replacing_leaves_the_old_one(tmp_path):
  write(tmp_path, (1, None), (2, None))
  folder = tmp_path / "checkpoints"
  (folder / "2").rename(folder / "2.replaced")
  assert checkpoints.last_step(tmp_path) == 1
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  assert saved.step() == 2 and names(tmp_path) == {"1", "2"}


# A full disk.
@pytest.mark.parametrize("where", ["commit", "manifest"])
def test_a_full_disk_is_named_and_nothing_older_is_lost(tmp_path, monkeypatch, where):
  write(tmp_path, (1, None))
  full = lambda *args, **kwargs: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC, keep=checkpoints.Keep(1))
  if where == "commit":
    monkeypatch.setattr(saved._store._manager._checkpointer._handler, "finalize", full)
  else:
    monkeypatch.setattr(integrity, "seal", full)
  saved.save_items(2, small(2), {}, {})
  message = (
    "the disk is full: the checkpoint of step 2 could not be saved; the last good one is of step "
    "1; free space and run the same command"
  )
  with pytest.raises(UserError, match=message):
    saved.wait()
  saved.close()
  monkeypatch.undo()
  write(tmp_path, (3, None), last=3)
  assert {"1", "3"} <= names(tmp_path)


def test_what_goes_is_renamed_first(tmp_path, monkeypatch):
  """A kill while its files are deleted leaves nothing that passes for a checkpoint."""
  monkeypatch.setattr(store.shutil, "rmtree", lambda *_, **__: None)
  write(tmp_path, (1, None), (2, None), last=1)
  assert names(tmp_path) == {"2", "deleted"} and (tmp_path / "checkpoints/deleted/1").is_dir()
  monkeypatch.undo()
  write(tmp_path, (3, None), last=1)
  assert names(tmp_path) == {"3"} and not (tmp_path / "checkpoints/deleted").exists()


def test_what_orbax_tells_once_more_hides_nothing(tmp_path, monkeypatch):
  """Closing it raises the error of the save that failed, of any kind."""
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  again = lambda: (_ for _ in ()).throw(ValueError("RESOURCE_EXHAUSTED"))
  monkeypatch.setattr(saved._store._manager, "close", again)
  with pytest.raises(UserError, match="the disk is full"), contextlib.closing(saved):
    raise UserError("the disk is full")


def test_only_reads_that_nobody_waits_for_fail_in_silence(monkeypatch):
  told = []
  monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_value))
  store._hush.__wrapped__()  # what the first store of a process does
  lost = MemoryError("no memory for the image")
  for error in (RuntimeError("Event loop is closed"), lost):
    sys.unraisablehook(types.SimpleNamespace(exc_value=error))
  assert told == [lost]


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 1 MiB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("nothing can be mounted here")
  yield folder
  subprocess.run(["umount", "-l", str(folder)], check=True)


def large(step):
  """128 KiB that cannot be compressed."""
  return {"variables": {"params": {"kernel": jax.random.normal(jax.random.key(step), (2**15,))}}}


@pytest.mark.parametrize("left", [2**12, 2**15, 2**16, 2**17, 2**17 + 2**14])
def test_a_disk_that_fills_up_in_mid_save(small_disk, left):
  """Wherever in the save that is; `left` bytes are free."""
  keep = checkpoints.Keep(1)
  saved = checkpoints.Checkpoints(small_disk, monitor=METRIC, keep=keep)
  saved.save_items(1, large(1), {}, {})
  saved.wait()
  filler = small_disk / "filler"
  filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))
  message = (
    "the disk is full: the checkpoint of step 2 could not be saved; the last good one is of step "
    "1; free space and run the same command"
  )
  with pytest.raises(UserError, match=message):
    saved.save_items(2, large(2), {}, {})
    saved.wait()
  saved.close()
  filler.unlink()
  again = checkpoints.Checkpoints(small_disk, monitor=METRIC, keep=keep, say=pytest.fail)
  before = large(1)["variables"]["params"]["kernel"]
  assert again.problems(1) == [] and np.array_equal(kernel(again, 1), before)
  again.save_items(2, large(2), {}, {}, replace=True)
  again.close()
  assert again.problems(2) == [] and names(small_disk) == {"2"}


# The layout over time.
@pytest.fixture
def format_0(tmp_path):
  """A run that a cnnjax without formats and manifests left at step 7 of 10."""
  with tarfile.open(pathlib.Path(__file__).parents[1] / "fixtures" / "format_0.tar.gz") as archive:
    archive.extractall(tmp_path, filter="data")
  return tmp_path / "format_0"


def test_a_checkpoint_of_before_formats_is_evaluated(format_0):
  """As it was by the code that wrote it."""
  found = {
    (which, weights): evaluate.evaluate_checkpoint(format_0, "test", which, weights)
    for which, weights in [("last", "raw"), ("best", "raw"), ("last", "ema")]
  }
  losses = {key: metrics["loss"] for key, (_, _, metrics) in found.items()}
  assert [step for step, _, _ in found.values()] == [7, 5, 7]
  assert losses["last", "raw"] == pytest.approx(2.291613, abs=2e-5)
  assert losses["best", "raw"] == pytest.approx(2.29188, abs=2e-5)
  assert losses["last", "ema"] == pytest.approx(2.29154, abs=2e-5)


def test_evaluation_passes_over_a_damaged_one_and_changes_nothing(format_0, capsys):
  folder = format_0 / "checkpoints"
  integrity.seal(folder / "7")
  flip(folder / "7" / "training" / "_METADATA")
  before = contents(format_0)
  step, _, _ = evaluate.evaluate_checkpoint(format_0)
  assert step == 5 and contents(format_0) == before
  warning = "warning: the checkpoint of step 7 is damaged: training/_METADATA has other bytes than"
  assert capsys.readouterr().err.startswith(warning)


def test_a_step_by_its_number(format_0):
  step, _, metrics = evaluate.evaluate_checkpoint(format_0, checkpoint="5")
  assert step == 5 and metrics["loss"] == pytest.approx(2.29188, abs=2e-5)
  with pytest.raises(UserError, match=r"unknown step '6'.*Choose from: 5, 7, best, last"):
    evaluate.evaluate_checkpoint(format_0, checkpoint="6")
  integrity.seal(format_0 / "checkpoints" / "5")
  flip(format_0 / "checkpoints" / "5" / "_CHECKPOINT_METADATA")
  with pytest.raises(UserError, match="step 5 is damaged"):
    evaluate.evaluate_checkpoint(format_0, checkpoint="5")


def test_evaluation_looks_again_where_the_run_goes_on_meanwhile(format_0, monkeypatch, capsys):
  """What it was about to read is deleted for a newer one."""
  folder, find = format_0 / "checkpoints", checkpoints.Checkpoints.find

  def then_the_run_saves(self, which):
    step = find(self, which)
    if step == 7:
      (folder / "7").rename(folder / "9")
    return step

  monkeypatch.setattr(checkpoints.Checkpoints, "find", then_the_run_saves)
  step, _, _ = evaluate.evaluate_checkpoint(format_0)
  assert step == 9 and not capsys.readouterr().err


@pytest.mark.slow
def test_a_run_goes_on_from_the_last_good_one_of_before_formats(format_0, tiny, capsys):
  """To where the code that began it came, though a later checkpoint is damaged."""
  folder = format_0 / "checkpoints"
  shutil.copytree(folder / "7", folder / "9")
  integrity.seal(folder / "9")
  flip(next((folder / "9" / "training" / "d").iterdir()))
  overrides = {
    "data.validation": 0.2,
    "epochs": 2,
    "checkpoint_every": "4 steps",
    "average.ema": 0.9,
    "optim.plateau.patience": 1,
    "seed": 5,
  }
  now, metrics, _ = train.train(tiny(**overrides), format_0)
  assert now.steps_done == 10
  assert metrics["train/loss"] == pytest.approx(2.302485, abs=2e-5)
  assert metrics["test/loss"] == pytest.approx(2.291165, abs=2e-5)
  assert metrics["test/ema_loss"] == pytest.approx(2.291201, abs=2e-5)
  lines = capsys.readouterr().err.splitlines()
  (said,) = (line for line in lines if "damaged" in line)
  assert re.match(r"warning: the checkpoint of step 9 is damaged: training/d/\S+ has other", said)
  assert said.endswith("that of step 7 is taken, and it is set aside as checkpoints/9.damaged")
  assert names(format_0) == {"5", "8", "9.damaged", "10"}
  meta = json.loads((folder / "10" / "meta" / "metadata").read_text())
  assert meta["format"] == layout.FORMAT


def test_each_format_has_a_migration():
  assert len(layout.MIGRATIONS) == layout.FORMAT


def test_an_older_format_is_migrated(tmp_path, monkeypatch):
  write(tmp_path, (1, None))
  older = [lambda meta: pytest.fail("it is not of an older format")] * layout.FORMAT
  monkeypatch.setattr(layout, "MIGRATIONS", (*older, lambda meta: {**meta, "added": True}))
  monkeypatch.setattr(layout, "FORMAT", layout.FORMAT + 1)
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  assert saved.meta(1) == {"added": True}


def test_a_newer_format_is_refused_and_not_taken_for_damage(tmp_path, monkeypatch):
  write(tmp_path, (1, None))
  monkeypatch.setattr(layout, "FORMAT", layout.FORMAT + 1)
  write(tmp_path, (2, None))
  monkeypatch.undo()
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  with pytest.raises(UserError, match=r"step 2 .* was written by a newer cnnjax"):
    saved.any()
  assert names(tmp_path) == {"1", "2"}


# The command line.
def call(*words):
  return command_line.main([str(word) for word in words])


def test_the_commands_read_only_and_say_what_there_is(format_0, capsys):
  before = contents(format_0)
  assert call("list", format_0) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "0.142857" in lines[1] and "best" in lines[1] and "unverified" in lines[1]
  assert lines[2].split()[0] == "7" and "last" in lines[2]
  assert call("show", format_0, 5) == 0
  out = capsys.readouterr().out
  assert "1,294 parameters" in out and "params/dense1/kernel" in out and "144x8" in out
  assert call("verify", format_0) == 0
  assert "step 7: can be read (unverified" in capsys.readouterr().out
  assert call("diff", format_0, 5, 7) == 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[-1].endswith("arrays differ: A is step 5, B is step 7")
  assert lines[1].split()[0].startswith("variables/params/")  # the weights come first
  line = next(x for x in lines if "training/step" in x)
  assert line.split() == ["training/step", "2", "0.4"]
  assert call("diff", format_0, 7, "--with", format_0) == 0
  assert contents(format_0) == before


def test_names_are_folded_on_a_narrow_terminal(format_0, capsys, monkeypatch):
  monkeypatch.setattr(command_line.Console, "animated", True)
  monkeypatch.setenv("COLUMNS", "50")
  assert call("diff", format_0, 5, 7) == 1
  *rows, _ = capsys.readouterr().out.splitlines()
  assert "…" not in "".join(rows) and max(map(len, rows)) == 50
  assert "variables/params/dense1/kernel" in "".join(row.split("  ")[0].strip() for row in rows)


def test_a_difference_says_which_batch_statistics_were_not_measured(tmp_path, capsys):
  """They are those of training there: the rows of batch norms differ for that reason too."""
  (tmp_path / "config.json").write_text(to_json(default()))
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    for step, stale in ((1, ["raw", "swa"]), (2, [])):
      saved.save_items(step, small(step), {checkpoints.UNMEASURED: stale}, {})
  words = "was saved before batch statistics of raw, swa were measured"
  for pair, name in (((1, 2), "A"), ((2, 1), "B")):
    assert call("diff", tmp_path, *pair) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("was saved") == 1 and said.endswith(f"{name} {words}")


def test_a_score_that_is_no_number_is_null_on_disk_and_the_worst(tmp_path):
  write(tmp_path, (1, math.nan), (2, 0.1), (3, math.inf), (4, -math.inf))
  refuse = lambda word: pytest.fail(f"{word} is no JSON")
  for step, value in ((1, None), (2, 0.1), (3, None), (4, None)):
    text = (tmp_path / f"checkpoints/{step}/metrics/metrics").read_text()
    assert json.loads(text, parse_constant=refuse) == {METRIC: value}
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  assert [saved.score(step) for step in (1, 2, 3, 4)] == [-math.inf, 0.1, -math.inf, -math.inf]
  assert saved.step("best") == 2


def test_of_equals_the_first_is_listed_as_the_best(tmp_path, capsys):
  (tmp_path / "config.json").write_text(to_json(default()))
  write(tmp_path, (1, 0.5), (2, 0.5))
  assert call("list", tmp_path) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "best" in lines[1] and "last" in lines[2] and "best" not in lines[2]


def test_verify_names_what_is_damaged(format_0, capsys):
  integrity.seal(format_0 / "checkpoints/5")
  integrity.seal(format_0 / "checkpoints/7")
  assert call("verify", format_0) == 0
  flip(format_0 / "checkpoints/5/_CHECKPOINT_METADATA")
  capsys.readouterr()
  assert call("verify", format_0) == 1
  out = capsys.readouterr().out
  assert "step 5: damaged" in out and "step 7: good" in out
  assert "_CHECKPOINT_METADATA has other bytes than were written" in out
  assert call("list", format_0) == 0


def test_verify_reads_what_has_no_manifest(format_0, capsys):
  shutil.rmtree(format_0 / "checkpoints/5/training/d")
  shutil.rmtree(format_0 / "checkpoints/5/training/ocdbt.process_0")
  assert call("verify", format_0) == 1
  assert "step 5: damaged" in capsys.readouterr().out


def test_a_mean_of_checkpoints_can_be_evaluated(format_0, tmp_path, tiny):
  out, nothing = tmp_path / "mean", np.zeros(0, np.uint64)
  trained_on.write(format_0, history.History(identity.CONTENT, True, nothing, nothing, {}))
  before = contents(format_0)
  assert call("average", format_0, "--steps=5,7", f"--out={out}") == 0
  assert contents(format_0) == before
  assert (out / trained_on.FILE).read_bytes() == (format_0 / trained_on.FILE).read_bytes()
  mean, run = (
    checkpoints.Checkpoints(folder, monitor=METRIC, read_only=True) for folder in (out, format_0)
  )
  a, b, found = (
    command_line._arrays(saved, step) for saved, step in [(run, 5), (run, 7), (mean, 7)]
  )
  assert found.keys() == {path for path in a if path.startswith("variables/")}
  for path, x in found.items():
    np.testing.assert_allclose(x, (a[path] + b[path]) / 2, rtol=1e-6, atol=1e-8)
  step, examples, _ = evaluate.evaluate_checkpoint(out, "test")
  assert (step, examples) == (7, 37) and mean.meta(7)["averaged"] == [5, 7]
  with pytest.raises(UserError, match="is there already"):
    call("average", format_0, "--last=2", f"--out={out}")
  config = tiny(**{"data.validation": 0.2, "epochs": 2, "checkpoint_every": "4 steps"})
  for key, value in {"average.ema": 0.9, "optim.plateau.patience": 1, "seed": 5}.items():
    override(config, key, value)
  with pytest.raises(UserError, match="holds weights alone"):
    train.train(config, out)


def test_raw_weights_are_the_slow_ones_of_lookahead(format_0, tmp_path):
  """To be evaluated, and in a mean of several checkpoints."""
  nothing, out = np.zeros(0, np.uint64), tmp_path / "mean"
  trained_on.write(format_0, history.History(identity.CONTENT, True, nothing, nothing, {}))
  shutil.rmtree(format_0 / "checkpoints")
  slow = lambda step: small(10 * step)["variables"]
  with contextlib.closing(checkpoints.Checkpoints(format_0, monitor=METRIC)) as saved:
    for step in (2, 4):
      saved.save_items(step, {**small(step), "averages": {"slow": slow(step)}}, {}, {})
    saved.wait()
    found = saved.restore_variables(4, slow(4))
  assert np.array_equal(found["params"]["kernel"], 40 * np.arange(6.0))
  assert call("average", format_0, "--last=2", f"--out={out}") == 0
  mean = checkpoints.Checkpoints(out, monitor=METRIC, read_only=True)
  assert np.array_equal(kernel(mean, 4), 30 * np.arange(6.0))


@pytest.mark.parametrize(
  "words, match",
  [
    (["show", "3"], "unknown step '3'.*Choose from: 5, 7, best, last"),
    (["diff", "5", "x"], "unknown step 'x'"),
    (["average", "--last=0", "--out=x"], "--last=0"),
    (["average", "--last=9", "--out=x"], "--last=9, and there are 2"),
    (["diff"], "that is step 7 twice"),
    (["average", "--out=x"], "one of the arguments"),
    (["lost"], "invalid choice"),
  ],
)
def test_wrong_words_are_refused(format_0, words, match):
  with pytest.raises(UserError, match=match):
    call(words[0], format_0, *words[1:])


def test_a_folder_without_checkpoints_is_refused(format_0):
  shutil.rmtree(format_0 / "checkpoints")
  with pytest.raises(UserError, match="holds no checkpoint"):
    call("list", format_0)
  assert not (format_0 / "checkpoints").exists()
