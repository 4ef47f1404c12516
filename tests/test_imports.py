"""Start-up: what a command imports, in a process of its own."""

import os
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


BEFORE_JAX = """
import sys
from cnnjax import main

class Jax:
  def find_spec(self, name, *_):
    if name == "jax":
      print("import jax", file=sys.stderr)
      sys.exit()

sys.meta_path.insert(0, Jax())
main.main(sys.argv[1:])
"""


def start(*words, **options):
  """A training that ends where it imports JAX."""
  command = [sys.executable, "-c", BEFORE_JAX, "--config=configs/mlp.py:mnist", *words]
  return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120, **options)


@pytest.mark.parametrize(
  "words, said",
  [
    ([], "training configs/mlp.py:mnist in a new folder under runs/: loading JAX\n"),
    (["--workdir=runs/x"], "training configs/mlp.py:mnist in runs/x: loading JAX\n"),
    (["--coordinator=here:1", "--processes=2", "--process=1"], ""),
  ],
)
def test_training_says_something_before_it_imports_jax(words, said):
  done = start(*words, stdout=subprocess.PIPE)
  assert (done.stdout, done.stderr, done.returncode) == (said, "import jax\n", 0)


def test_training_begins_though_nobody_reads_the_first_line():
  read, sent = os.pipe()
  os.close(read)
  done = start(stdout=sent)
  os.close(sent)
  warned, imported = done.stderr.splitlines()
  assert warned == "warning: nobody reads the output; the command goes on"
  assert (imported, done.returncode) == ("import jax", 0)


def test_training_imports_no_other_framework():
  everything = "import cnnjax.train, cnnjax.main, cnnjax.evaluate, cnnjax.data.tfds"
  assert loaded(everything, FRAMEWORKS)[0] == []
