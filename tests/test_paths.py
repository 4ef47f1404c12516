"""Paths with `~`, and as str, wherever one is given."""

import pathlib

import pytest

from cnnjax import checkpoints, evaluate, main, paths, programs, train, trained, workdir, writers
from cnnjax import config as configs
from cnnjax.checkpoints import __main__ as checkpoints_command
from cnnjax.data import __main__ as data_command
from cnnjax.data import folder, scan
from cnnjax.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_to_path(home):
  assert paths.to_path("~/a b") == home / "a b" == paths.to_path(pathlib.Path("~/a b"))
  for text in ("a/~/b", "./~", "~no.such.user/a", "/"):
    assert paths.to_path(text) == pathlib.Path(text)


def test_quoted():
  assert paths.quoted(pathlib.Path("runs/a-1")) == "runs/a-1"
  assert paths.quoted("it's a/b c") == """'it'"'"'s a/b c'"""


MEASURE = programs.measured_later


@pytest.mark.parametrize(
  "use",
  [
    workdir.load_config,
    evaluate.evaluate_checkpoint,
    scan.scan,
    lambda path: trained.load(path, configs.default(), None, "last", measure=MEASURE),
    lambda path: evaluate.main([f"--workdir={path}"]),
    lambda path: checkpoints_command.main(["list", path]),
    lambda path: data_command.main(["scan", path]),
    lambda path: folder.load(given(data__path=path).data, "train"),
    lambda path: trained.teacher(given(distill__workdir=path).distill, {}, None, measure=MEASURE),
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
