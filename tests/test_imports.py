"""Start-up: what a command imports, in a process of its own."""

import os
import subprocess
import sys

import pytest

from cnnjax import config as configs
from cnnjax.__main__ import commands

pytestmark = pytest.mark.smoke
HEAVY = ("jax", "flax", "tensorflow", "torch", "keras")
FRAMEWORKS = ("tensorflow", "torch", "keras", "torchvision")


def python(code):
  return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def loaded(code, modules):
  """Which of `modules` are imported after `code` has run, and what it printed."""
  done = python(
    f"import sys\ntry:\n  {code}\nexcept SystemExit as e:\n  assert not e.code, e.code\n"
    f"print('LOADED', *[m for m in {modules!r} if m in sys.modules])"
  )
  assert done.returncode == 0, done.stderr
  output, _, found = done.stdout.rpartition("LOADED")
  return found.split(), output


def test_loaded_sees_an_import():
  assert loaded("import json, wave", ("json", "wave", "jax")) == (["json", "wave"], "")


def test_the_package_imports_nothing_heavy():
  assert loaded("import cnnjax", (*HEAVY, "numpy", "ml_collections"))[0] == []


@pytest.mark.parametrize("module", ["cnnjax.main", "cnnjax.evaluate"])
def test_help_does_not_wait_for_jax(module):
  code = (
    f"import runpy; sys.argv = ['{module}', '--help']; "
    f"runpy.run_module('{module}', run_name='__main__', alter_sys=True)"
  )
  found, output = loaded(code, HEAVY)
  assert output.startswith(f"usage: python -m {module} ")
  assert found == []
  if module == "cnnjax.main":
    for key in configs.flatten(configs.default()):
      assert f"--config.{key} = " in output
    assert "--workdir" in output and "FILE[:PRESET]" in output


def test_a_wrong_flag_does_not_wait_for_jax():
  found, _ = loaded(
    "from cnnjax import errors, main; "
    "assert errors.run(lambda: main.main(['--config=configs/nonesuch.py'])) == 2",
    HEAVY,
  )
  assert found == []


@pytest.fixture
def start(tmp_path):
  """Starts a command that ends at the first import that takes seconds, and says so on stderr."""
  fake = tmp_path / "instead"
  fake.mkdir()
  for name in ("jax", "sklearn"):
    (fake / f"{name}.py").write_text("import sys\nprint('slow', file=sys.stderr)\nsys.exit()\n")
  paths = [str(fake), *filter(None, [os.environ.get("PYTHONPATH")])]

  def start(*words, **streams):
    return subprocess.Popen(
      [sys.executable, "-m", *words],
      **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
      env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
      text=True,
    )

  return start


TRAIN = ("cnnjax.main", "--config=configs/mlp.py:mnist")


def test_training_says_something_before_it_imports_jax(start):
  said = {
    (): "training configs/mlp.py:mnist in a new folder under runs/: loading JAX\n",
    ("--workdir=runs/x",): "training configs/mlp.py:mnist in runs/x: loading JAX\n",
    ("--coordinator=here:1", "--processes=2", "--process=1"): "",
  }
  running = {words: start(*TRAIN, *words) for words in said}
  assert {words: one.communicate(timeout=120) for words, one in running.items()} == {
    words: (text, "slow\n") for words, text in said.items()
  }


def test_other_commands_say_something_on_stderr_before_they_import_jax(start, tmp_path):
  """Programs may read their stdout; and what is wrong is said without JAX where that is simple."""
  run, image = str(tmp_path / "run"), str(tmp_path / "a.png")
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")
  (tmp_path / "a.png").touch()
  config = "--config=configs/mlp.py:mnist"
  no_run = "error: none holds no run: there is no config.json in it\n"
  loading = "{}: loading JAX\nslow\n".format
  said = {
    ("cnnjax.evaluate", f"--workdir={run}"): loading(f"evaluating {run}"),
    ("cnnjax.evaluate", "--workdir=none"): no_run,
    ("cnnjax.predict", run, image): loading(f"predicting with {run}"),
    ("cnnjax.predict", run, str(tmp_path)): loading(f"predicting with {run}"),
    ("cnnjax.predict", "none", image): no_run,
    ("cnnjax.predict", run, image, "b.png"): "error: there is no image b.png\n",
    ("cnnjax.checkpoints", "list", run): loading("cnnjax.checkpoints"),
    ("cnnjax.data", "show", config): loading("cnnjax.data"),
    ("cnnjax.models", "vgg*"): loading("cnnjax.models"),
    ("cnnjax.optim", "plot", config): loading("cnnjax.optim"),
    ("cnnjax.plan", config): loading("cnnjax.plan"),
    ("cnnjax.transfer", "inspect", image): loading("cnnjax.transfer"),
  }  # fmt: skip
  running = {words: start(*words) for words in said}
  assert {words: one.communicate(timeout=120) for words, one in running.items()} == {
    words: ("", text) for words, text in said.items()
  }
  names = {f"cnnjax.{name}" for name in commands()}
  assert names - {words[0] for words in said} == {"cnnjax.main", "cnnjax.launch"}


def test_training_begins_though_nobody_reads_the_first_line(start):
  read, sent = os.pipe()
  os.close(read)
  done = start(*TRAIN, stdout=sent)
  os.close(sent)
  warned, imported = done.communicate(timeout=120)[1].splitlines()
  assert warned == "warning: nobody reads the output; the command goes on"
  assert (imported, done.returncode) == ("slow", 0)


def test_training_imports_no_other_framework():
  everything = "import cnnjax.train, cnnjax.main, cnnjax.evaluate, cnnjax.data.tfds"
  assert loaded(everything, FRAMEWORKS)[0] == []
