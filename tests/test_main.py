"""The command line: what is wrong is told in one line, before anything is computed."""

import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

import cnnjax.__main__
from cnnjax import build, errors, evaluate, launch, main, train
from cnnjax import config as configs
from cnnjax.checkpoints import workdir

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
RESNET = f"--config={CONFIGS}/resnet.py"


@pytest.fixture
def nothing_built(monkeypatch):
  """Fails the test where data would be loaded or a model built."""

  def reached(*_):
    pytest.fail("reached `build`")

  monkeypatch.setattr(train, "build", reached)


@pytest.fixture
def offline(monkeypatch):
  """No TensorFlow, no network: a data set is on disk or it is not."""
  monkeypatch.setattr("cnnjax.data.tfds._has_tensorflow", lambda: False)

  def reached(*_, **__):
    pytest.fail("started to download")

  monkeypatch.setattr("cnnjax.data.tfds.subprocess", types.SimpleNamespace(run=reached))
  monkeypatch.setattr("socket.getaddrinfo", reached)


@pytest.fixture
def fails(capsys, tmp_path, monkeypatch):
  """A function from arguments to the one line on stderr of a command that ends with 2."""
  monkeypatch.chdir(tmp_path)

  def fails(*argv, command=main.main):
    assert errors.run(lambda: command(list(argv))) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "Traceback" not in printed.err and printed.err.endswith("\n")
    return printed.err

  return fails


@pytest.fixture
def resolved(monkeypatch):
  """A function from arguments to the config and workdir that training is given."""
  given = []
  monkeypatch.setattr(train, "train", lambda *args: (given.append(args), (None, {}, None))[1])

  def resolved(*argv):
    assert errors.run(lambda: main.main([RESNET, *argv])) == 0
    config, folder = given[-1]
    build.validate(config)
    return config, folder

  return resolved


# What is wrong


@pytest.mark.parametrize(
  "argv, words",
  [
    (["--config.optim.learning_rat=1"], "mean 'optim.learning_rate'"),
    (["--config.learning_rate=1"], "mean 'optim.learning_rate'"),
    (["--config.optim=1"], "'optim' is a group"),
    (["--config.model.name=resnt20"], "mean 'resnet20'"),
    (["--config.model.drop_pth=0.1"], "Choose from: attention, block"),
    (["--config.model.num_classes=3"], "'model.num_classes'"),
    (["--config.data.source=digit"], "mean 'digits'"),
    (["--config.data.test=tst"], "mean 'test'"),
    (["--config.data.validation=vldtn"], "Choose from: test, train"),
    (["--config.augment=flip | cutmx(1)"], "mean 'cutmix'"),
    (["--config.batch_size=-8"], "'batch_size' is -8; it must be above 0"),
    (["--config.batch_size", "-8"], "'batch_size' is -8; it must be above 0"),
    (["--config.batch_size=0"], "it must be above 0"),
    (["--config.batch_size=many"], "takes int, not 'many'"),
    (["--config.optim.nesterov=2"], "takes bool, not 2"),
    (["--config.optim.learning_rate=0"], "it must be above 0"),
    (["--config.optim.learning_rate=nan"], "it must be finite"),
    (["--config.optim.learning_rate=1e999"], "it must be finite"),
    (["--config.epochs=3 weeks"], '"500 steps"'),
    (["--config.seed"], "--config.seed needs a value"),
    (["--config.seed", "--config.epochs=3"], "--config.seed needs a value"),
    (["--config.augment=a\nb"], "cannot read"),
    (["--confg.seed=1"], "mean '--config'"),
    (["--workdri=x"], "mean '--workdir'"),
    (["--epochs=3"], "--epochs is a config key: --config.epochs=VALUE"),
    (["resnet"], "unknown argument 'resnet'"),
  ],
)
def test_bad_input_is_one_line(fails, nothing_built, tmp_path, argv, words):
  assert words in fails(RESNET, f"--workdir={tmp_path}/run", *argv)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "argument, words",
  [
    (f"{CONFIGS}/resnt.py", "resnet.py'? Choose from"),
    (f"{CONFIGS}/resnet", "resnet.py'? Choose from"),
    (f"{CONFIGS}/resnet.py:cifr10", "mean 'cifar10'? Choose from: bag_of_tricks, cifar10"),
    ("nowhere/resnet.py", "file 'nowhere/resnet.py'. Did you mean 'configs/resnet.py'?"),
    ("resnet", "file 'resnet'. Did you mean 'configs/resnet.py'?"),
    ("configs/resnt.py:cifar10", "mean 'configs/resnet.py'?"),
    ("configs/resnet.py:cifr10", "mean 'cifar10'?"),
    ("", "give a config:"),
    (str(CONFIGS), "config file"),
    (f"{CONFIGS.parent}/pyproject.toml", "config file"),
  ],
)
def test_unknown_config_file_or_preset(fails, nothing_built, argument, words):
  assert words in fails(f"--config={argument}")


@pytest.mark.parametrize("name", ["myresnet", "config/my_resnet.py", "configs/my_resnet"])
def test_the_configs_of_the_working_directory_are_offered(fails, nothing_built, tmp_path, name):
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "my_resnet.py").touch()
  assert "Did you mean 'configs/my_resnet.py'?" in fails(f"--config={name}")


def test_nan_in_a_config_file(fails, nothing_built, tmp_path):
  (tmp_path / "mine.py").write_text(
    "from cnnjax.config import default\ndef get_config():\n  c = default()\n"
    "  c.optim.learning_rate = float('nan')\n  return c\n"
  )
  assert "'optim.learning_rate' is nan; it must be finite" in fails("--config=mine.py")


def test_no_config(fails):
  assert "give a config: --config=FILE[:PRESET]" in fails()


# The tests run on eight simulated devices.
@pytest.mark.parametrize(
  "size, devices, words",
  [
    (12, 8, "cannot be divided over 8 devices; the nearest that can: 8 or 16"),
    (3, 8, "the nearest that can: 8 "),
    (128, 9, "mesh.data=9, mesh.fsdp=1 takes 9 devices, but there are 8 cpu devices"),
    (1500, 1, "batch_size 1500 is larger than the training split (1437)"),
  ],
)
def test_batch_and_devices_do_not_fit(fails, monkeypatch, size, devices, words):
  monkeypatch.setattr(build, "_check_names", lambda config: None)
  monkeypatch.setattr("cnnjax.models.create", None)  # no model is built before it
  config = f"--config.batch_size={size}", f"--config.mesh.data={devices}"
  assert words in fails(RESNET, *config, "--workdir=run")


@pytest.mark.parametrize(
  "settings, words",
  [
    (["warmup=40"], "warmup 40 is 880 steps, and the whole run is 660"),
    (["name=multi_step", "boundaries=(9, 5)"], "(9, 5) must rise"),
    (["name=multi_step"], "needs boundaries"),
  ],
)
def test_schedule_does_not_fit_the_run(fails, settings, words):
  settings = [f"--config.optim.schedule.{s}" for s in settings]
  assert words in fails(RESNET, *settings, "--workdir=run")


@pytest.mark.parametrize("preset", ["cifar10", "mnist", "imagenet"])
def test_data_set_that_is_not_on_disk(fails, offline, nothing_built, tmp_path, preset):
  name = "imagenet2012" if preset == "imagenet" else preset
  message = fails(f"{RESNET}:{preset}", f"--config.data.data_dir={tmp_path}/data")
  assert f"data set {name} is not in {tmp_path}/data/{name}/" in message
  assert f"python -m cnnjax.data prepare {name} --data_dir={tmp_path}/data" in message
  assert "--config.data.data_dir=DIR" in message and "[prepare]" in message


@pytest.mark.parametrize(
  "name, words",
  [
    ("cifr10", "mean 'cifar10'"),
    ("mnist:9.9.9", "9.9.9"),
    ("", "needs data.name"),
    ("none", "needs data.name"),
    ("../etc", "data.name='../etc'"),
    ("7", "data.name='7'"),
  ],
)
def test_unknown_data_set(fails, offline, nothing_built, tmp_path, name, words):
  assert words in fails(
    f"{RESNET}:cifar10", f"--config.data.data_dir={tmp_path}", f"--config.data.name={name}"
  )


@pytest.mark.parametrize("folder", ["file", "file/run", "n" * 300])
def test_unwritable_workdir(fails, nothing_built, tmp_path, folder):
  (tmp_path / "file").write_text("mine")
  assert f"cannot write to the workdir {folder}: " in fails(RESNET, f"--workdir={folder}")
  assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
  "words, message",
  [
    (["--config.sed=3"], "mean 'seed'"),
    (["--workdri=x"], "mean '--workdir'"),
    (["--process=1"], "leave them out"),
    (["--processes=0"], "it takes at least one"),
  ],
)
def test_launch_says_once_what_is_wrong(fails, monkeypatch, words, message):
  monkeypatch.setattr(launch.subprocess, "Popen", None)  # no process is started for it
  assert message in fails("--processes=2", RESNET, *words, command=launch.main)


def test_another_run_in_the_workdir(fails, nothing_built, tmp_path):
  workdir.claim(tmp_path / "run", configs.load(f"{CONFIGS}/resnet.py"))
  before = (tmp_path / "run" / "config.json").read_text()
  message = fails(RESNET, "--workdir=run", "--config.seed=1", "--config.epochs=50")
  assert "seed was 0 and is 1 now. Choose another --workdir" in message
  assert "epochs was" not in message
  assert (tmp_path / "run" / "config.json").read_text() == before


@pytest.mark.parametrize(
  "argv, words",
  [
    (["--workdir=run", "--split=tset"], "unknown split 'tset'. Did you mean 'test'?"),
    (["--workdir=run", "--checkpoint=lst"], "unknown checkpoint 'lst'. Did you mean 'last'?"),
    (["--workdir=nowhere"], "nowhere holds no run"),
    (["--workdir=broken"], "cannot read broken/config.json"),
    (["--workdir=old"], "unknown config key 'optim.nonesuch'"),
    (["--workdir=run", "--batch_size=0"], "'eval_batch_size' is 0; it must be above 0"),
    (["--workdir=run"], "run holds no checkpoint"),
  ],
)
def test_evaluate_what_is_not_there(fails, tmp_path, argv, words):
  for name in ("run", "old", "broken"):
    workdir.claim(tmp_path / name, configs.default())
  (tmp_path / "broken" / "config.json").write_text('{"seed": ')
  if "--workdir=old" in argv:  # a key that this version does not have
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["optim"]["nonesuch"] = 1
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    words = "cannot read old/config.json"
  assert words in fails(*argv, command=evaluate.main)


# What is right


def test_overrides_reach_training(resolved):
  config, folder = resolved(
    "--workdir=a/b",
    "--config.seed=7",
    "--config.epochs",
    "500 steps",
    "--config.optim.nesterov",
    "true",
    "--config.optim.clip_norm",
    "1.5",
    "--config.data.mean=0.5",
    "--config.data.validation=none",
    "--config.optim.schedule.end_factor",
    "1e-2",
    "--config.model.drop_path=0.25",
    "--config.data.std",
    "0.1,",
  )
  assert folder == pathlib.Path("a/b")
  assert config.seed == 7 and config.epochs == "500 steps" and config.optim.nesterov is True
  assert config.optim.clip_norm == 1.5 and config.data.mean == (0.5,) == config.data.mean
  assert config.data.std == (0.1,) and config.data.validation is None
  assert config.optim.schedule.end_factor == 0.01 and config.model.drop_path == 0.25


def test_none_unsets(resolved):
  config, folder = resolved("--config.data.mean=none", "--config.data.validation", "None")
  assert config.data.mean is None and config.data.validation is None and folder is None


def test_a_key_given_twice_is_refused(fails):
  message = fails(RESNET, "--config.seed=1", "--config.seed=2")
  assert "--config.seed is given twice" in message


def test_config_flag_with_a_space_and_overrides_before_it(monkeypatch):
  given = []
  monkeypatch.setattr(train, "train", lambda *args: (given.append(args), (None, {}, None))[1])
  assert main.main(["--config.seed=3", "--config", f"{CONFIGS}/mlp.py:mnist"]) == 0
  assert given[0][0].seed == 3 and given[0][0].data.name == "mnist"


@pytest.mark.parametrize("signal, code", [(None, 0), (2, 130), (15, 143)])
def test_exit_code(monkeypatch, signal, code):
  monkeypatch.setattr(train, "train", lambda *_: (None, {}, signal))
  assert errors.run(lambda: main.main([RESNET])) == code


def test_interrupted_before_training(capsys, monkeypatch):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(train, "train", interrupted)
  assert errors.run(lambda: main.main([RESNET])) == 130
  assert capsys.readouterr().err.startswith("stopped at once")


def test_other_errors_are_not_hidden(monkeypatch):
  """A bug shows where it is."""

  def broken(*_):
    raise ZeroDivisionError

  monkeypatch.setattr(train, "train", broken)
  with pytest.raises(ZeroDivisionError):
    errors.run(lambda: main.main([RESNET]))


# All commands


def test_the_commands_are_listed(capsys):
  """Each in a line, as it says of itself; nothing comes first."""
  assert cnnjax.__main__.main([]) == 0
  *lines, _ = capsys.readouterr().out.splitlines()
  found = [line.split()[2].removeprefix("cnnjax.") for line in lines]
  assert found == [
    "checkpoints", "data", "evaluate", "launch", "main", "models", "optim", "plan", "predict",
    "transfer",
  ]  # fmt: skip
  assert "python -m cnnjax.main         Trains what a config file says." in lines
  assert all(line.startswith("python -m cnnjax.") and len(line) < 130 for line in lines)


def test_a_command_after_a_space(fails):
  assert "python -m cnnjax.main" in fails("main", RESNET, command=cnnjax.__main__.main)
  assert "mean 'evaluate'" in fails("evalute", command=cnnjax.__main__.main)


# As a process of its own


@pytest.mark.smoke
@pytest.mark.parametrize(
  "argv, words",
  [
    ([RESNET, "--config.optim.lr=1"], "mean 'optim.learning_rate'"),
    (
      [f"{RESNET}:cifar10", "--config.data.data_dir=nowhere", "--config.data.name=cifar10:3.0.2"],
      "data set cifar10:3.0.2 is not in nowhere/cifar10/3.0.2",
    ),
  ],
)
def test_as_a_process(tmp_path, argv, words):
  """Nothing but the line, and that JAX is loaded: no warning, no traceback, no folder."""
  if "nowhere" in words:  # a TensorFlow that may be installed would prepare the data set
    (tmp_path / "sitecustomize.py").write_text(
      "import importlib.util as u\nfind = u.find_spec\n"
      "u.find_spec = lambda name, *a: None if name == 'tensorflow' else find(name, *a)\n"
    )
  paths = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{CONFIGS.parent}"}
  done = subprocess.run(
    [sys.executable, "-m", "cnnjax.main", *argv],
    cwd=tmp_path,
    timeout=120,
    capture_output=True,
    text=True,
    env={**os.environ, **paths},
  )
  begun = f"training {argv[0].removeprefix('--config=')} in a new folder under runs/: loading JAX\n"
  assert (done.returncode, done.stdout) == (2, begun if "nowhere" in words else "")
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
  assert words in done.stderr and not (tmp_path / "runs").exists()
