"""Paths with `~`, and as str, wherever one is given."""

import os
import pathlib
import subprocess
import sys

import pytest

from cnnjax import checkpoints, evaluate, main, train, trained, writers
from cnnjax import config as configs
from cnnjax.checkpoints import __main__ as checkpoints_command
from cnnjax.checkpoints import workdir
from cnnjax.data import folder
from cnnjax.errors import UserError
from cnnjax.runtime import compiling, paths
from cnnjax.tools import data as data_command
from cnnjax.tools import scan


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_to_path(home):
  assert paths.to_path("~/a b") == home / "a b" == paths.to_path(pathlib.Path("~/a b"))
  for text in ("a/~/b", "/", "b~"):
    assert paths.to_path(text) == pathlib.Path(text)
  for name in ("~", "~no.such.user"):  # and whatever is asked for once more is the same
    assert paths.to_path(paths.to_path(f"./{name}/a")) == home / name / "a"


@pytest.mark.parametrize(
  "use",
  [
    paths.to_path,
    lambda path: main.parse([f"--workdir={path}"]),
    lambda path: train.train(configs.default(), path),
    lambda path: data_command.main(["scan", path]),
    lambda path: folder.load(given(data__path=path).data, "train"),
  ],
)
def test_a_home_of_nobody_is_refused(use, home):
  with pytest.raises(UserError, match=r"no user 'no\.such\.user'; .* '\./~no\.such\.user/a'"):
    use("~no.such.user/a")
  assert not list(home.iterdir())


def test_a_cache_at_the_home_of_nobody_is_none(home, capsys):
  """As in a container whose user has none: a run need not end for it."""
  compiling.use_cache("~no.such.user/a")
  said = capsys.readouterr().err
  assert "no compiled programs are kept: path '~no.such.user/a': there is no user" in said
  assert not list(home.iterdir())


@pytest.mark.parametrize(
  "name, env, words",
  [
    ("caf\u00e9", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
     "are ascii here: set PYTHONUTF8=1"),
    ("caf\udce9", {"PYTHONUTF8": "1"}, "is not UTF-8: choose another folder, or rename it"),
    ("caf\u00e9", {"PYTHONUTF8": "1"}, None),
    ("cafe", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, None),
  ],
)  # fmt: skip
def test_a_path_that_checkpoints_cannot_have_is_refused(name, env, words):
  """They are written by C++, which takes UTF-8 alone."""
  code = (
    "import sys; from cnnjax.runtime import paths; paths.check_text(paths.to_path(sys.argv[1]))"
  )
  argument = name.encode("utf-8", "surrogateescape")
  command = [sys.executable, "-c", code, argument]
  ended = subprocess.run(command, env={**os.environ, **env}, capture_output=True, check=False)
  assert (ended.returncode == 0) == (words is None), ended.stderr
  assert words is None or words in ended.stderr.decode()


def test_a_workdir_is_looked_at_before_the_run(home):
  for use in (
    lambda path: train.train(configs.default(), path),
    lambda path: checkpoints.Checkpoints(path, monitor="validation/accuracy"),
  ):
    with pytest.raises(UserError, match="is not UTF-8"):
      use("caf\udce9")
  assert not list(home.iterdir())


def test_quoted():
  assert paths.quoted(pathlib.Path("runs/a-1")) == "runs/a-1"
  assert paths.quoted("it's a/b c") == """'it'"'"'s a/b c'"""


@pytest.mark.parametrize(
  "use",
  [
    workdir.load_config,
    evaluate.evaluate_checkpoint,
    scan.scan,
    trained.open_run,
    lambda path: evaluate.main([f"--workdir={path}"]),
    lambda path: checkpoints_command.main(["list", path]),
    lambda path: data_command.main(["scan", path]),
    lambda path: folder.load(given(data__path=path).data, "train"),
    lambda path: trained.teacher(given(distill__workdir=path)),
  ],
)
def test_a_path_that_is_read(use, home):
  """What is not there is named where it was looked for."""
  with pytest.raises(UserError, match=str(home)):
    use("~/nowhere")


def given(**settings):
  config = configs.default()
  for key, value in settings.items():
    configs.override(config, key.replace("__", "."), value)
  return config


def test_a_config_at_home(home):
  (home / "mine.py").write_text("from cnnjax.config import default as get_config\n")
  assert configs.load("~/mine.py") == configs.load(home / "mine.py") == configs.default()


def test_metrics_and_checkpoints(home):
  (home / "metrics.jsonl").write_text('{"step": 3}\n')
  (home / "checkpoints" / "3").mkdir(parents=True)
  assert writers.read_metrics("~") == [{"step": 3}]
  assert checkpoints.last_step("~") == 3


def test_the_workdir_of_a_run(home, monkeypatch):
  found = []
  monkeypatch.setattr(train.workdirs, "check", lambda *args: (found.append(args[0]), 1 / 0))
  (home / "mine.py").write_text("from cnnjax.config import default as get_config\n")
  for start in (
    lambda: train.train(configs.default(), "~/run"),
    lambda: main.main(["--config=~/mine.py", "--workdir=~/run"]),
  ):
    with pytest.raises(ZeroDivisionError):
      start()
  assert found == [home / "run"] * 2
