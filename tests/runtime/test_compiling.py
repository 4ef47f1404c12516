"""The cache of compiled programs, whole and broken, and the clock of compiling."""

import contextlib
import pathlib
import resource
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from cnnjax import build, evaluate, train
from cnnjax.checkpoints import trained_on, workdir
from cnnjax.runtime import compiling
from cnnjax.training import diagnose, members, resuming

SETTINGS = (
  "jax_enable_compilation_cache",
  "jax_compilation_cache_dir",
  "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def enabled(monkeypatch):
  """The cache of JAX as it is in a run, without the folder of the suite."""
  before = {name: getattr(jax.config, name) for name in SETTINGS}
  monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
  warnings.simplefilter("always")
  jax.config.update("jax_enable_compilation_cache", True)
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def compiled_anew(x=3.0):
  """The result of a function that nothing in this process has compiled yet, and the clock of it."""
  jax.clear_caches()
  argument = np.float32(x)
  clock = compiling.Clock()
  result = float(jax.jit(lambda x: jnp.cos(x) * jnp.sin(x) + 1)(argument))
  assert result == pytest.approx(np.cos(x) * np.sin(x) + 1, rel=1e-5)
  return clock


def entries(folder):
  return [file for file in pathlib.Path(folder).iterdir() if file.name.endswith("-cache")]


@pytest.mark.parametrize(
  "where, environment, folder",
  [
    ("auto", {"XDG_CACHE_HOME": "TMP/caches"}, "TMP/caches/cnnjax/xla"),
    ("auto", {"HOME": "TMP/home"}, "TMP/home/.cache/cnnjax/xla"),
    ("~/mine", {"HOME": "TMP/home"}, "TMP/home/mine"),
    ("TMP/a/b", {}, "TMP/a/b"),
    ("relative", {}, "TMP/relative"),
    (None, {}, None),
  ],
)
def test_where_compiled_programs_are_kept(
  where, environment, folder, tmp_path, monkeypatch, enabled
):
  place = lambda text: text and text.replace("TMP", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, place(value))
  compiling.use_cache(place(where))
  assert jax.config.jax_compilation_cache_dir == place(folder)
  if folder:
    assert pathlib.Path(place(folder)).stat().st_mode & 0o777 == 0o700  # it holds code


def test_auto_is_where_jax_was_told_to(tmp_path, enabled):
  """By JAX_COMPILATION_CACHE_DIR, or in Python."""
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
  compiling.use_cache("auto")
  compiled_anew()
  assert entries(tmp_path / "told")
  compiling.use_cache(None)  # the config of a run has the last word
  assert not jax.config.jax_compilation_cache_dir


def test_a_program_is_compiled_once(tmp_path, enabled):
  compiling.use_cache(str(tmp_path))
  began = time.monotonic()
  cold = compiled_anew()
  assert 0 < cold.seconds < time.monotonic() - began
  assert cold.describe().endswith(f" s, 0 of 1 programs from the cache in {tmp_path}")
  assert compiled_anew().describe().endswith(f" s, 1 of 1 programs from the cache in {tmp_path}")
  compiling.use_cache(None)
  assert "cache" not in compiled_anew().describe()


def test_another_folder_is_used_at_once(tmp_path, enabled):
  for name in ("a", "b"):
    compiling.use_cache(str(tmp_path / name))
    compiled_anew()
    assert len(entries(tmp_path / name)) == 1


def test_time_within_other_time_counts_once(enabled):
  spans = compiling._Spans.__new__(compiling._Spans)
  spans.all = []
  event = f"{compiling.COMPILING}jaxpr_trace_duration"
  time.sleep(0.02)
  spans._took(event, 0.005)
  spans._took(event, 0.02)  # which the first was a part of
  spans._took("/jax/something_else", 5.0)
  assert [seconds for _, seconds in spans.all] == [0.02]
  time.sleep(0.02)
  spans._took(event, 0.01)
  assert [seconds for _, seconds in spans.all] == [0.02, 0.01]


def damage(file, how):
  whole = file.read_bytes()
  middle = len(whole) // 2
  file.write_bytes({
    "empty": b"",
    "cut off": whole[:middle],
    "a bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    "zeros": bytes(len(whole)),
  }[how])  # fmt: skip


@pytest.mark.parametrize("how", ["empty", "cut off", "a bit", "zeros"])
def test_a_damaged_program_is_compiled_anew(how, tmp_path, enabled, capsys):
  compiling.use_cache(str(tmp_path))
  compiled_anew()
  damage(entries(tmp_path)[0], how)
  compiled_anew()
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith(f"warning: a compiled program in {tmp_path} is damaged, and compiled anew")
  assert "1 of 1" in compiled_anew().describe()  # JAX itself would never write it again
  assert not capsys.readouterr().err


def test_a_full_disk_is_said_once_and_leaves_nothing_broken(tmp_path, enabled, capsys):
  compiling.use_cache(str(tmp_path))
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # a write ends after so many bytes
  try:
    compiled_anew()
    compiled_anew()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  [line] = capsys.readouterr().err.splitlines()
  assert "cannot be kept for the next run: OSError: [Errno 27]" in line
  assert not entries(tmp_path)
  compiling.use_cache(str(tmp_path))  # the next run
  compiled_anew()
  assert len(entries(tmp_path)) == 1


def test_a_folder_that_cannot_be_made_ends_nothing(tmp_path, enabled, capsys):
  (tmp_path / "file").touch()
  compiling.use_cache(str(tmp_path / "file" / "xla"))
  assert "cache" not in compiled_anew().describe()
  assert "no compiled programs are kept: " in capsys.readouterr().err


def test_a_folder_that_vanishes_ends_nothing(tmp_path, enabled, capsys):
  compiling.use_cache(str(tmp_path / "a"))
  (tmp_path / "a").rmdir()
  compiled_anew()
  compiled_anew()
  assert len(capsys.readouterr().err.splitlines()) <= 1


def test_other_warnings_are_shown_as_ever(enabled, monkeypatch):
  shown = []
  monkeypatch.setattr(warnings, "showwarning", lambda *args: shown.append(args))
  for _ in range(2):  # of one process, several runs
    compiling.use_cache(None)
  warnings.warn("something else", stacklevel=1)
  assert [str(args[0]) for args in shown] == ["something else"]


def test_a_run_with_compiled_programs_ends_in_the_same_bits(tiny, tmp_path, enabled, capsys):
  config = tiny(epochs="5 steps", log_every="1 steps", dtype="bfloat16")
  config.compilation_cache = str(tmp_path / "xla")
  ends = {}
  for name in ("cold", "warm"):
    jax.clear_caches()
    now, metrics, _ = train.train(config, tmp_path / name)
    ends[name] = [np.asarray(x) for x in jax.tree.leaves(now)]
    ends[name] += [v for k, v in sorted(metrics.items()) if k != "images_per_second"]
    words = next(x for x in capsys.readouterr().out.splitlines() if "compiled in" in x).split()
    assert (words[4] == words[6]) == (name == "warm")  # so many of so many programs
  assert all(map(np.array_equal, ends["cold"], ends["warm"]))


def test_every_program_of_a_run_is_as_precise_as_asked(tiny, tmp_path, monkeypatch):
  """Those that train, evaluate, measure, examine and trace, and that of a later evaluation.

  They are lowered, not compiled, and give ones.
  """
  programs_, jit = {}, members.Members.jit

  def lowered(self, function, *args, **options):
    jitted = jit(self, function, *args, **options)

    def run(*args):
      programs_.setdefault(where, []).append(jitted.lower(*args).as_text())
      return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), jitted.eval_shape(*args))

    return run

  monkeypatch.setattr(members.Members, "jit", lowered)
  config = tiny(**{"matmul_precision": "highest", "health.trace": True, "augment": None})
  where = "begin"
  program = build.build(config)
  now, feed = program.new_state(), program.inputs.train.feed(0)
  batch = next(iter(program.inputs.evaluations["test"].once(37)))
  uses = {
    "train": lambda: program.train_step(now, feed, 1),
    "evaluate": lambda: program.eval_step(now.variables, *batch),
    "measure": lambda: program.moments_step(now.variables, now.seed, now.step, feed),
    "examine": lambda: diagnose.examine(program, now, feed),
    "trace": lambda: diagnose.trace(program, saved, 0),
    "evaluate later": lambda: evaluate.evaluate_checkpoint(tmp_path),
  }
  workdir.claim(tmp_path, config)
  trained_on.write(tmp_path, program.inputs.history(None)[0])
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved:
    saved.save(now, program.inputs.meta, {})
  for where, use in uses.items():  # noqa: B007
    use()
  for use in uses:
    text = "".join(programs_[use])
    assert "precision HIGHEST" in text and "precision DEFAULT" not in text, use
