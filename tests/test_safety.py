"""What is read from outside runs no code: the source has nothing that could make it.

Config files are Python and are run, and the config of a run may name modules to import, which do
not come with it (test_workdir.py). That damaged input ends well is tested in tests/fuzz.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "cnnjax"
FILES = {str(file.relative_to(ROOT)): file for file in sorted(ROOT.rglob("*.py"))}
# They run what they read, or unpack names that may lead anywhere.
MODULES = {
  "pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code", "codeop", "torch",
  "h5py", "zipfile", "tarfile", "xmlrpc", "runpy",
}  # fmt: skip
CALLS = {
  "eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "np.load",
  "numpy.load", "np.fromfile", "shutil.unpack_archive", "pd.read_pickle", "torch.load",
}  # fmt: skip
# The names in a zip are listed, and numpy unpickles nothing unless it is told to.
HARMLESS = {
  "data/npz.py": {"zipfile", "np.load"},
  "transfer/files.py": {"zipfile", "np.load"},  # of arrays without objects
  "transfer/keras_file.py": {"zipfile", "h5py"},  # two members by name, read whole
  "transfer/torch_file.py": {"zipfile", "pickle"},  # names stand for functions of that module alone
}
# Where modules are imported by name, and whose names those are.
IMPORTERS = {
  "__init__.py": "its own public names",
  "config/files.py": "the config file that the user gives",
  "registry/__init__.py": "`imports` of a config, and the keys of the rooms",
  "data/sources.py": "the built-in sources",
  "transfer/mapping.py": "the tables of rules",
}


def dangers(source):
  """What in a module could run what is read."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom):
      if (node.module or "").split(".")[0] in MODULES:
        yield node.module
    elif isinstance(node, ast.Call):
      called = ast.unparse(node.func)
      if called in CALLS or called.endswith((".extractall", ".extract", ".unsafe_load")):
        yield called
      for keyword in node.keywords:
        text = f"{keyword.arg}={ast.unparse(keyword.value)}"
        if text in ("shell=True", "allow_pickle=True", "weights_only=False"):
          yield text


def importers(source):
  """How a module imports others by name."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Call):
      called = ast.unparse(node.func).split(".")[-1]
      if called in ("import_module", "exec_module", "reload", "load_module"):
        yield called


@pytest.mark.parametrize(
  "source",
  [
    "import pickle", "import os, pickle", "from pickle import load", "import yaml.cyaml",
    "def f():\n  import joblib", "eval(x)", "os.system(x)", "x = np.load(file)", "torch.load(f)",
    "np.lib.format.read_array(f, allow_pickle=True)", "subprocess.run(x, shell=True)",
    "tar.extractall()", "if x:\n  y = [exec(z) for z in x]",
  ],
)  # fmt: skip
def test_dangers_are_seen(source):
  assert list(dangers(source))


def test_harmless_code_is_let_through():
  assert not list(dangers("import json\nast.literal_eval(x)\nre.compile(x)\nmodel.eval"))


@pytest.mark.parametrize("name", FILES)
def test_no_file_runs_what_it_reads(name):
  source = FILES[name].read_text()
  assert {*dangers(source)} <= HARMLESS.get(name, set())
  assert name in IMPORTERS or not list(importers(source))


def test_every_importer_is_one():
  for name in IMPORTERS:
    assert list(importers(FILES[name].read_text())), name
