"""The folder of a run: what is recorded, and when another start may go on in it."""

import concurrent.futures
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sys

import jax
import pytest

from cnnjax import config as configs
from cnnjax import registry
from cnnjax.checkpoints import workdir
from cnnjax.config import default, override
from cnnjax.errors import UserError


def changed(**settings):
  config = default()
  for key, value in settings.items():
    override(config, key, value)
  return config


def claim(folder, config):
  """What a start does: the config is bound to the folder once the run could be built."""
  workdir.check(folder, config)
  workdir.claim(folder, config)


def starts(folder):
  return [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]


def test_claim_makes_the_folder_and_saves_the_resolved_config(tmp_path):
  config = changed(**{"optim.clip_norm": 1.0, "data.mean": (0.5,), "model.drop_path": 0.1})
  claim(tmp_path / "a" / "b", config)
  assert workdir.load_config(tmp_path / "a" / "b") == workdir.resolve(config)
  saved = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
  assert saved["optim"]["clip_norm"] == 1.0 and saved["optim"]["momentum"] == 0.9


def test_claim_records_versions_devices_and_command(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python", "-m", "cnnjax.main", "--config=x y"])
  workdir.claim(tmp_path, default())
  (start,) = starts(tmp_path)
  for name in ("jax", "flax", "optax", "numpy", "orbax-checkpoint", "tensorflow-datasets"):
    assert start["versions"][name] == importlib.metadata.version(name)
  assert start["versions"]["python"] == platform.python_version()
  assert re.fullmatch(r"\d+\.\d+\.\d+.*", start["versions"]["cnnjax"])
  assert start["devices"] == ["cpu cpu"] * jax.device_count()
  assert start["command"][1:] == ["-m", "cnnjax.main", "--config=x y"]
  age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(start["time"])
  assert age < datetime.timedelta(minutes=5)


def test_a_run_that_is_older_than_a_key_goes_on_as_it_began(tmp_path):
  """Until the key is given, and also once the first start of today has written it."""
  config = changed(**{"data.source": "folder"})
  assert workdir.as_begun(tmp_path / "none", config) == (config, {})
  claim(tmp_path, config)
  assert workdir.as_begun(tmp_path, config) == (config, {})
  saved = json.loads((tmp_path / "config.json").read_text())
  del saved["data"]["orientation"]
  (tmp_path / "config.json").write_text(json.dumps(saved))
  for _ in range(2):
    found, words = workdir.as_begun(tmp_path, config)
    assert found.data.orientation == "ignore" and config.data.orientation is None
    assert words == {"kept": "data.orientation=ignore, as this run began"}
    claim(tmp_path, found)
  given, words = workdir.as_begun(tmp_path, changed(**{"data.source": "folder",
                                                   "data.orientation": "apply"}))  # fmt: skip
  assert given.data.orientation == "apply" and not words
  with pytest.raises(UserError, match="orientation was 'ignore' and is 'apply' now"):
    workdir.check(tmp_path, given)


def test_every_start_is_recorded(tmp_path):
  for epochs in (3, 5, 4):
    claim(tmp_path, changed(epochs=epochs))
  assert len(starts(tmp_path)) == 3
  assert workdir.load_config(tmp_path).epochs == 4


@pytest.mark.parametrize(
  "key, value, shown",
  [
    ("seed", 1, "seed was 0 and is 1 now"),
    ("optim.clip_norm", 1.0, "optim.clip_norm was None and is 1.0 now"),
    ("model.drop_path", 0.1, "model.drop_path was 0.0 and is 0.1 now"),
    ("augment", "flip", "augment was None and is 'flip' now"),
    ("data.mean", (0.5,), r"data.mean was None and is \[0.5\] now"),
  ],
)
def test_another_config_is_refused_and_nothing_is_touched(tmp_path, key, value, shown):
  claim(tmp_path, default())
  before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
  with pytest.raises(UserError, match=shown) as error:
    workdir.check(tmp_path, changed(**{key: value, "epochs": 77}))
  for word in (str(tmp_path), "--workdir", "epochs, "):  # where, the way out, what may change
    assert word in str(error.value)
  assert "epochs was" not in str(error.value)
  assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_all_differences_are_shown(tmp_path):
  claim(tmp_path, default())
  with pytest.raises(UserError) as error:
    workdir.check(tmp_path, changed(seed=1, batch_size=64, **{"model.name": "lenet5"}))
  for words in (
    "batch_size was 128 and is 64 now; ",
    "; model.name was 'resnet20' and is 'lenet5' now; ",
    "; seed was 0 and is 1 now. ",
  ):
    assert words in str(error.value)


def test_every_field_of_the_model_is_kept(tmp_path):
  """So that a default that changes some day does not change an old run."""
  claim(tmp_path, default())
  saved = json.loads((tmp_path / "config.json").read_text())["model"]
  assert saved["name"] == "resnet20" and saved["stage_sizes"] == [3, 3, 3]
  assert saved["drop_path"] == 0.0 and "num_classes" not in saved


MAY_CHANGE = {
  "where the run ends": "epochs early_stopping.patience",
  "what is looked at": "log_every eval_every profile.start profile.steps",
  "what is kept": "checkpoint_every keep.last keep.best keep.every",
  "where the data are": "data.path data.data_dir data.npz data.max_unreadable",
  "its speed": "steps_per_dispatch eval_batch_size compilation_cache data.threads data.workers",
  "on which devices": "mesh.data mesh.fsdp mesh.fsdp_min_size data.shard_resident",
  "what is registered": "imports",
}


def test_what_changes_no_arithmetic_may_change():
  assert sorted(configs.may_change()) == sorted(" ".join(MAY_CHANGE.values()).split())


@pytest.mark.parametrize("key", configs.may_change())
def test_what_may_change(tmp_path, key):
  standard = configs.flatten(default())[key]
  value = {"imports": ("json",)}.get(key, 3)
  value = not standard if isinstance(standard, bool) else value
  known = registry.keys()[key]
  if str in known.takes and not known.duration:
    value = "/elsewhere"
  claim(tmp_path, default())
  claim(tmp_path, changed(**{key: value}))
  assert configs.flatten(workdir.load_config(tmp_path))[key] == value


def test_a_folder_of_something_else_is_refused(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="is not empty and holds no run"):
    workdir.check(tmp_path, default())
  assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_without_its_config_is_told_what_is_missing(tmp_path):
  claim(tmp_path, default())
  (tmp_path / "config.json").unlink()
  with pytest.raises(UserError, match=r"holds no run; put its config\.json back, or choose"):
    workdir.check(tmp_path, default())


def test_a_run_of_another_model_is_said_in_a_few_words(tmp_path):
  claim(tmp_path, changed(seed=5))
  other = default()
  other.model = {"name": "vit_tiny_patch16_224"}
  for i, key in enumerate(("momentum", "b1", "b2", "eps", "decay", "weight_decay")):
    override(other, f"optim.{key}", 0.1 * (i + 1))
  with pytest.raises(UserError) as error:
    workdir.check(tmp_path, other)
  words = str(error.value)
  assert "model.name was 'resnet20' and is 'vit_tiny_patch16_224' now" in words
  assert words.count(" was ") == workdir.SHOWN and "; and 2 more." in words


def test_looking_touches_nothing(tmp_path):
  workdir.check(tmp_path / "new", default())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"nonesuch": 1}', "\0"])
def test_a_config_that_cannot_be_read(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  for use in (workdir.load_config, lambda folder: workdir.check(folder, default())):
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
      use(tmp_path)
  assert (tmp_path / "config.json").read_text() == text


def test_a_module_that_came_with_the_run_is_not_imported(tmp_path, monkeypatch):
  claim(tmp_path / "run", default())
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "imports": ["brought"]}))
  for place in (tmp_path / "run", tmp_path):
    (place / "brought.py").write_text("raise SystemExit('it was run')")
  monkeypatch.syspath_prepend(tmp_path / "run")
  with pytest.raises(UserError, match="'brought', which lies in the workdir itself"):
    workdir.load_config(tmp_path / "run")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(SystemExit):
    workdir.load_config(tmp_path / "run")


@pytest.mark.parametrize(
  "name, words",
  [("my_net", "unknown model 'my_net'"), ("lenet5", "cannot import 'nets_elsewhere'.*PYTHONPATH")],
)
def test_what_a_run_imports_is_not_there(tmp_path, name, words):
  """Its config is good: nothing says to put another one there."""
  config = default()
  config.model = {"name": name}
  config.imports = () if name == "my_net" else ("nets_elsewhere",)
  (tmp_path / "config.json").write_text(configs.to_json(config))
  with pytest.raises(UserError, match=rf"cannot use {tmp_path}/config\.json: {words}") as error:
    workdir.load_config(tmp_path)
  assert "put" not in str(error.value)


def test_no_run(tmp_path):
  with pytest.raises(UserError, match=r"holds no run: there is no config\.json"):
    workdir.load_config(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/run", "n" * 300])
def test_unwritable(tmp_path, name):
  (tmp_path / "file").write_text("mine")
  with pytest.raises(UserError, match="cannot write to the workdir"):
    claim(tmp_path / name, default())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_unwritable_by_its_mode(tmp_path, mode):
  folder = tmp_path / "closed"
  folder.mkdir(mode=mode)
  with pytest.raises(UserError, match="Permission denied"):
    workdir.check(folder, default())


def test_permission_denied_is_told(tmp_path, monkeypatch):
  """As above, for those who test as root."""

  def denied(*_, **__):
    raise PermissionError(13, "Permission denied")

  for method in ("exists", "mkdir", "open", "write_text"):
    with monkeypatch.context() as patch, pytest.raises(UserError, match="Permission denied"):
      patch.setattr(pathlib.Path, method, denied)
      claim(tmp_path / method, default())


@pytest.mark.parametrize(
  "settings, name",
  [
    ({}, "resnet20-digits"),
    ({"data.source": "tfds", "data.name": "mnist:3.0.1", "model.name": "mlp"}, "mlp-mnist_3.0.1"),
    ({"data.source": "tfds", "data.name": "a/b"}, "resnet20-a_b"),
  ],
)
def test_a_fresh_folder_is_named_after_model_and_data(tmp_path, monkeypatch, settings, name):
  monkeypatch.chdir(tmp_path)
  folder = workdir.claim(None, changed(**settings))
  assert folder.parent == pathlib.Path("runs") and (folder / "config.json").is_file()
  assert re.fullmatch(re.escape(name) + r"-\d{8}-\d{6}", folder.name)


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    folders = set(pool.map(lambda _: workdir.claim(None, default()), range(8)))
  assert len(folders) == 8


def test_the_lock_claims_the_folder_for_a_run(tmp_path):
  with workdir.lock(workdir.make(tmp_path / "run", default()), default()) as check:
    check()
    assert workdir.load_config(tmp_path / "run") == workdir.resolve(default())
    before = (tmp_path / "run" / "starts.jsonl").read_bytes()
    again = pytest.raises(UserError, match="another run holds the workdir")
    with again, workdir.lock(tmp_path / "run", default()):
      pass
    assert (tmp_path / "run" / "starts.jsonl").read_bytes() == before
  assert not (tmp_path / "run" / "run.lock").exists()


def test_a_run_that_came_between_is_not_written_over(tmp_path):
  """Its config was not there yet when the folder was looked at."""
  workdir.claim(tmp_path, default())
  before = (tmp_path / "config.json").read_bytes()
  other = pytest.raises(UserError, match="seed was 0 and is 1 now")
  with other, workdir.lock(tmp_path, changed(seed=1)):
    pass
  assert (tmp_path / "config.json").read_bytes() == before
  assert not (tmp_path / "run.lock").exists()


def test_what_a_kill_in_starting_leaves_is_no_other_run(tmp_path):
  for name in ("run.lock", "run.lock.0123456789abcdef", "config.json.new"):
    (tmp_path / name).write_text("{")
  workdir.check(tmp_path, default())
  with workdir.lock(tmp_path, default()):
    assert workdir.load_config(tmp_path) == workdir.resolve(default())


def test_other_processes_of_the_run_take_no_lock(tmp_path, monkeypatch):
  with workdir.lock(tmp_path, default()):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with workdir.lock(tmp_path, default()) as check:
      check()
  assert len(starts(tmp_path)) == 1


def test_a_lock_that_cannot_be_written(tmp_path, monkeypatch):
  def denied(*_, **__):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(os, "open", denied)
  refused = pytest.raises(UserError, match=r"cannot write to the workdir .*Permission denied")
  with refused, workdir.lock(tmp_path, default()):
    pass


def test_a_folder_that_may_not_be_written_or_entered(tmp_path, monkeypatch):
  """As an account that is not root is told."""
  asked = []
  monkeypatch.setattr(os, "access", lambda place, mode: asked.append((place, mode)))
  with pytest.raises(UserError) as error:
    workdir.check(tmp_path / "a" / "b", default())
  assert asked == [(tmp_path, os.W_OK | os.X_OK)]
  assert str(error.value) == (
    f"cannot write to the workdir {tmp_path / 'a' / 'b'}: Permission denied in {tmp_path}"
  )


def test_a_start_is_recorded_with_its_machine(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "executable", "/usr/bin/python3.99")
  monkeypatch.setattr(sys, "orig_argv", ["python", "a", "b c"])
  workdir.claim(tmp_path, default())
  (start,) = starts(tmp_path)
  assert start["command"] == ["python3.99", "a", "b c"]
  assert (start["machine"], start["cpus"]) == (platform.platform(), os.cpu_count())
  assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", start["time"])
  assert {path.name for path in tmp_path.iterdir()} == {"config.json", "starts.jsonl"}


def test_the_second_folder_of_a_second_has_a_number(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)

  class Now(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
      return cls(2001, 2, 3, 4, 5, 6, tzinfo=tz)

  monkeypatch.setattr(workdir.datetime, "datetime", Now)
  made = [workdir.make(None, default()).name for _ in range(3)]
  name = "resnet20-digits-20010203-040506"
  assert made == [name, f"{name}-2", f"{name}-3"]


def test_a_fresh_folder_that_cannot_be_made(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "runs").touch()
  for use in (workdir.make, workdir.claim):
    with pytest.raises(UserError, match="cannot write to the workdir runs/: Not a directory"):
      use(None, default())


def test_six_keys_that_differ_are_shown_whole(tmp_path):
  claim(tmp_path, default())
  keys = ("momentum", "b1", "b2", "eps", "decay", "weight_decay")
  for n in (6, 5):
    other = default()
    for i, key in enumerate(keys[:n]):
      override(other, f"optim.{key}", 0.1 * (i + 1))
    with pytest.raises(UserError) as error:
      workdir.check(tmp_path, other)
    assert str(error.value).count(" was ") == n and " more." not in str(error.value)


def test_the_keys_of_another_model_are_not_shown(tmp_path):
  claim(tmp_path, changed(**{"model.drop_path": 0.1}))
  other = changed(seed=3)
  other.model = {"name": "lenet5"}
  with pytest.raises(UserError) as error:
    workdir.check(tmp_path, other)
  assert "model.name was" in str(error.value) and "seed was" in str(error.value)
  assert "model.drop_path" not in str(error.value)
