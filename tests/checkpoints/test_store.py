"""Files of checkpoints that are not as they were written, and what is said of each."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import checkpoints
from cnnjax.checkpoints import integrity, store
from cnnjax.errors import UserError
from cnnjax.runtime import processes

METRIC = "validation/accuracy"


def save(folder, *steps, **options):
  """The checkpoints of these steps, each with one array."""
  with contextlib.closing(checkpoints.Checkpoints(folder, monitor=METRIC, **options)) as saved:
    for step in steps:
      saved.save_items(step, {"variables": {"params": {"w": jnp.arange(3.0)}}}, {}, {})
  return checkpoints.Checkpoints(folder, monitor=METRIC, read_only=True)


def unseal(folder, step):
  """What a kill leaves before the manifest is written; returns the folder of the checkpoint."""
  place = folder / "checkpoints" / str(step)
  (place / "manifest.json").unlink()
  return place


@pytest.mark.parametrize(
  "text, words",
  [
    ("[1]", "it is not what was written"),
    ('{"format": "3"}', "it is not what was written"),
    ('{"format": true}', "it is not what was written"),
    ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
  ],
)
def test_meta_that_is_no_meta_is_damage(tmp_path, text, words):
  save(tmp_path, 1)
  (unseal(tmp_path, 1) / "meta" / "metadata").write_text(text)
  reader = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  assert reader.problems(1) == [f"meta/metadata cannot be read: {words}"]
  with pytest.raises(UserError) as error:
    reader.meta(1)
  assert str(error.value) == f"cannot read the checkpoint of step 1 in {reader._folder}: {words}"


def test_meta_of_before_formats_has_no_number(tmp_path):
  reader = save(tmp_path, 1)
  (tmp_path / "checkpoints/1/meta/metadata").write_text('{"mean": [0.5]}')
  assert reader.meta(1) == {"mean": [0.5]}
  assert checkpoints.newest_format(tmp_path) == 0


def test_the_newest_format_is_that_of_what_can_be_read(tmp_path):
  assert checkpoints.newest_format(tmp_path) == 0
  for step, text in ((1, '{"format": 2}'), (2, '{"format": 1}'), (3, "[7]"), (4, "{"), (5, "{}")):
    file = tmp_path / "checkpoints" / str(step) / store.META
    file.parent.mkdir(parents=True)
    file.write_text(text)
  assert checkpoints.newest_format(tmp_path) == 2


def test_an_item_without_its_metadata_is_not_taken_for_one_that_was_never_saved(tmp_path):
  save(tmp_path, 1)
  (unseal(tmp_path, 1) / "variables" / "_METADATA").unlink()
  reader = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  with pytest.raises(store.Unreadable, match=r"cannot read the checkpoint of step 1 in .*: \S"):
    reader.shapes(1)


def test_a_checkpoint_without_parameters_is_damaged(tmp_path):
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    saved.save_items(1, {"training": {"step": jnp.int32(1)}}, {}, {})
    saved.wait()
    with pytest.raises(UserError, match=r"cannot read .* of step 1 in .*: it holds no parameters"):
      saved.restore_variables(1, {"params": {"w": jnp.zeros(3)}})


def test_an_old_one_that_was_replaced_before_a_kill_is_deleted(tmp_path):
  save(tmp_path, 1, 2)
  folder = tmp_path / "checkpoints"
  (folder / "2.replaced").mkdir()
  (folder / "2.replaced" / "old").touch()
  (folder / "deleted").mkdir()
  (folder / "deleted" / "old").touch()
  checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  assert {path.name for path in folder.iterdir()} == {"1", "2", "2.replaced", "deleted"}
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    assert saved.steps() == [1, 2] and saved.problems(2) == []
  assert {path.name for path in folder.iterdir()} == {"1", "2"}


def test_when_a_checkpoint_was_written_may_be_unknown(tmp_path):
  reader = save(tmp_path, 1)
  assert abs(reader.time(1) - (tmp_path / "checkpoints/1/manifest.json").stat().st_mtime) < 60
  (tmp_path / "checkpoints/1/_CHECKPOINT_METADATA").unlink()
  assert checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True).time(1) is None


@pytest.mark.parametrize(
  "error, words",
  [
    (None, "another process met an error"),
    (ValueError("\n first\nsecond"), "first"),
    (ValueError(" "), "ValueError"),
  ],
)
def test_the_reason_is_the_first_line_of_an_error(error, words):
  assert store.reason(error) == words


def test_last_step_of_a_folder_without_checkpoints(tmp_path):
  assert checkpoints.last_step(tmp_path) is None
  save(tmp_path, 3, 20)
  assert checkpoints.last_step(tmp_path) == 20


# Which one is found.
def test_there_is_none_to_find(tmp_path):
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC)
  for which in checkpoints.WHICH:
    with pytest.raises(UserError, match=rf"^{tmp_path} holds no checkpoint$"):
      saved.find(which)
  saved.close()
  reader = save(tmp_path, 1)
  assert reader.find("last") == 1
  with pytest.raises(UserError, match=rf"^{tmp_path} holds no best checkpoint \(a run keeps"):
    reader.find("best")


def test_one_that_is_alone_and_cannot_be_saved(tmp_path, monkeypatch):
  def fail(*_, **__):
    raise ValueError("no such type\nas this")

  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    with monkeypatch.context() as patch:
      patch.setattr(saved._store, "start", fail)
      with pytest.raises(UserError) as error:
        saved.save_items(1000, {}, {}, {})
    assert str(error.value) == (
      "the checkpoint of step 1,000 could not be saved: no such type; there is no other"
    )


def test_the_newest_good_one_is_named_where_none_can_be_saved(tmp_path, monkeypatch):
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    monkeypatch.setattr(saved, "steps", lambda: [1, 2, 3, 4])
    saved._ledger.mark_damaged(3, "torn")
    error = saved._unsaved(4, ValueError("no such type"))
  assert str(error).endswith("no such type; the last good one is of step 2")


def test_a_run_that_deletes_one_is_noticed(tmp_path):
  reader = save(tmp_path, 1, 2, keep=checkpoints.Keep(-1))
  assert not reader.any_gone()
  (tmp_path / "checkpoints/1").rename(tmp_path / "elsewhere")
  assert reader.any_gone() and reader.steps() == [2]


def test_averages_that_are_not_there_or_have_not_begun(tmp_path):
  params = {"params": {"w": jnp.ones(2)}}
  averages = {
    "swa": {**params, "count": jnp.zeros((), jnp.int32)},
    "ema": {"params": {"w": 2 * jnp.ones(2)}},
    "slow": {"params": {"w": 3 * jnp.ones(2)}},
  }
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    saved.save_items(1000, {"variables": params, "averages": averages}, {}, {})
    saved.wait()
    assert saved.averages(1000) == {"ema", "slow", "swa"}
    read = lambda weights: saved.restore_variables(1000, params, weights)["params"]["w"]
    assert np.array_equal(read("ema"), [2, 2]) and np.array_equal(read("raw"), [3, 3])
    with pytest.raises(UserError, match="the average swa had not begun at step 1,000: choose"):
      read("swa")
    with pytest.raises(UserError, match=r"unknown weights 'eema'.*'ema'.* from: ema, raw, swa$"):
      read("eema")


# What is damaged is said once, with the number of files.
def test_how_many_files_are_damaged(tmp_path):
  said = []
  save(tmp_path, 1, 2)
  folder = tmp_path / "checkpoints" / "2"
  for name in ("a", "b", "c"):
    (folder / name).touch()
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True, say=said.append)
  assert saved.step() == 1 and saved.step() == 1
  assert said == [
    "the checkpoint of step 2 is damaged: a was added (and 2 more); that of step 1 is taken"
  ]
  with pytest.raises(UserError, match=r"^the checkpoint of step 2 is damaged: a was added \(and 2"):
    saved.find("2")
  (folder / "c").unlink()
  reader = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  with pytest.raises(UserError, match=r"damaged: a was added \(and 1 more\)$"):
    reader.find("2")
  (folder / "b").unlink()
  again = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True, say=said.append)
  assert again.step() == 1 and said[1].endswith("damaged: a was added; that of step 1 is taken")


def test_damage_of_one_that_a_run_deleted_meanwhile_is_not_said(tmp_path):
  said = []
  save(tmp_path, 1, 2)
  place = tmp_path / "checkpoints" / "2"
  (place / "more").touch()
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True, say=said.append)
  assert not saved._ledger.is_whole(2)
  place.rename(tmp_path / "gone")
  assert saved.step() == 1 and said == []


def test_those_set_aside_have_names_of_their_own(tmp_path):
  save(tmp_path, 1)
  folder = tmp_path / "checkpoints"
  for name in ("1.damaged", "1.damaged-2"):
    (folder / name).mkdir()
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    saved._ledger.mark_damaged(1, "torn")
    saved._ledger.set_aside()
    assert saved.steps() == [] and saved._ledger.damaged == {} and not saved._ledger.new_damage()
  assert sorted(p.name for p in folder.iterdir()) == ["1.damaged", "1.damaged-2", "1.damaged-3"]


# Other processes than the first.
def test_they_write_no_manifest_and_rename_and_delete_nothing(tmp_path, monkeypatch):
  save(tmp_path, 1, 2)
  folder = tmp_path / "checkpoints"
  monkeypatch.setattr(processes, "is_first", lambda: False)
  (folder / "deleted").mkdir()
  (folder / "9.replaced").mkdir()
  keep = checkpoints.Keep(-1)
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC, keep=keep)) as saved:
    saved.save_items(3, {"variables": {"params": {"w": jnp.arange(3.0)}}}, {}, {})
    (folder / "3.replaced").mkdir()
    saved.wait()
    saved._store.rename({1: "1.damaged"})
    assert not integrity.is_sealed(folder / "3")
    assert {"1", "2", "3", "3.replaced", "9.replaced"} <= {path.name for path in folder.iterdir()}


def test_what_the_first_process_finds_the_others_take(tmp_path, monkeypatch):
  saved = save(tmp_path, 1, 2)
  monkeypatch.setattr(processes, "is_first", lambda: False)
  monkeypatch.setattr(saved, "_choose", lambda which: pytest.fail("it looked for itself"))
  monkeypatch.setattr(processes, "broadcast_from_first", lambda step: {-1: 7}[step])
  assert saved.step() == 7 == saved.step("best")
  monkeypatch.setattr(processes, "broadcast_from_first", lambda step: step)
  assert saved.step() is None
  monkeypatch.setattr(processes, "max_over_processes", lambda n: 1)
  with pytest.raises(UserError, match=r"^the first process found no checkpoint in "):
    saved.step()


def test_a_write_that_failed_in_another_process_failed(tmp_path, monkeypatch):
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    saved.save_items(1, {"variables": {"params": {"w": jnp.arange(3.0)}}}, {}, {})
    monkeypatch.setattr(processes, "max_over_processes", lambda n: 1)
    with pytest.raises(UserError) as error:
      saved.wait()
    monkeypatch.undo()
  words = "the checkpoint of step 1 could not be saved: another process met an error; there is no"
  assert str(error.value).startswith(words)


def test_a_replacement_that_breaks_is_examined_anew(tmp_path, monkeypatch):
  """That the old one was whole says nothing of it."""

  def break_off(folder):
    (folder / "meta" / "metadata").write_text("{")
    raise OSError(5, "Input/output error")

  items = {"variables": {"params": {"w": jnp.arange(3.0)}}}
  with contextlib.closing(checkpoints.Checkpoints(tmp_path, monitor=METRIC)) as saved:
    saved.save_items(1, items, {}, {})
    assert saved.step() == 1
    monkeypatch.setattr(integrity, "seal", break_off)
    saved.save_items(1, items, {}, {}, replace=True)
    with pytest.raises(UserError, match=r"step 1 could not be saved: .*Input/output error"):
      saved.wait()
    with pytest.raises(UserError, match="step 1: meta/metadata cannot be read"):
      saved.step()
