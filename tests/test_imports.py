"""Start-up: what a command imports, in a process of its own."""

import subprocess
import sys

import pytest

from cnnjax import config as configs

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


def test_training_imports_no_other_framework():
  everything = "import cnnjax.train, cnnjax.main, cnnjax.evaluate, cnnjax.data.tfds"
  assert loaded(everything, FRAMEWORKS)[0] == []
