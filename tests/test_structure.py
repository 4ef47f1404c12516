"""The rules of the house, read from the source."""

import ast
import functools
import graphlib
import pathlib
import re

import pytest

from cnnjax import config as configs
from cnnjax import registry
from cnnjax.config.files import keys_help

ROOT = pathlib.Path(__file__).parents[1]
FILES = {
  str(file.relative_to(ROOT / "cnnjax")): file for file in sorted((ROOT / "cnnjax").rglob("*.py"))
}
each_file = pytest.mark.parametrize("name", FILES)
# One file per volatile dependency.
OWNERS = {
  "orbax": "checkpoints/store.py",
  "tensorflow_datasets": "data/tfds.py",
  "tensorboardX": "writers/tensorboard.py",
  "grain": "data/streaming.py",
  "rich.console": "runtime/console.py",
}
# The names at the root, and what each imports of those above it in this table; all import errors.
# "data.fields" is that file alone. A __main__.py is a command, and not of its room.
ROOMS = {
  "errors": "",
  "registry": "",
  "runtime": "",
  "config": "registry runtime",
  "models": "registry",
  "transfer": "models registry runtime",
  "data": "config registry runtime",
  "augment": "data.fields registry",
  "tasks": "data.fields models registry",
  "optim": "config registry",
  "checkpoints": "config data models optim registry runtime tasks",
  "training": "augment checkpoints config data models optim registry runtime tasks",
  "writers": "checkpoints config runtime tasks training",
  "build": "augment checkpoints config data models optim registry runtime tasks training transfer",
  "trained": "augment build checkpoints config data models optim runtime tasks training transfer",
  "evaluate": "checkpoints config data runtime tasks trained",
  "predict": "config data evaluate models runtime trained training",
  "tools": "augment build config data models optim runtime tasks trained training transfer",
  "plan": "tools",
  "train": "build checkpoints data evaluate runtime trained training transfer writers",
  "main": "config runtime train",
  "launch": "main",
}
FOREIGN = {"configs", "experiments", "tests", "tensorflow", "torch", "torchvision", "keras", "tf"}
FORBIDDEN_PARTS = {
  "clu.metric_writers",
  "clu.periodic_actions",
  "clu.deterministic_data",
  "clu.checkpoint",
}  # they import TensorFlow


@functools.cache
def tree(name):
  return ast.parse(FILES[name].read_text())


def imports(syntax):
  """The absolute dotted names that a module imports, wherever in it, and by import_module."""
  for node in ast.walk(syntax):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
      yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def test_the_files_are_found():
  assert {"train.py", "main.py", "models/resnet.py", "data/tfds.py"} <= FILES.keys()


def test_imports_sees_all_forms():
  source = "import a.b\ndef f():\n  from c import d\nimportlib.import_module('e.f')"
  assert set(imports(ast.parse(source))) == {"a.b", "c.d", "e.f"}


@each_file
def test_no_foreign_imports(name):
  for module in imports(tree(name)):
    assert module.split(".")[0] not in FOREIGN, f"imports {module}"
    assert not any(module.startswith(part) for part in FORBIDDEN_PARTS), f"imports {module}"


def test_no_file_imports_one_that_imports_it():
  """Nor on the way round through others, wherever in a file the import stands."""
  modules = {
    f"cnnjax/{name}"[:-3].removesuffix("/__init__").replace("/", "."): name for name in FILES
  }
  arrows = {}
  for module, name in modules.items():
    found = {m if m in modules else m.rpartition(".")[0] for m in imports(tree(name))}
    arrows[module] = (found & modules.keys()) - {module}
  assert "cnnjax.registry" in arrows["cnnjax.config.keys"]
  assert list(graphlib.TopologicalSorter(arrows).static_order())  # or a CycleError names them


@pytest.mark.parametrize("module", OWNERS)
def test_a_volatile_dependency_has_one_file(module):
  users = {n for n in FILES if any(f"{m}.".startswith(f"{module}.") for m in imports(tree(n)))}
  assert users == {OWNERS[module]}


def room_of(name):
  return "__main__" if name.endswith("__main__.py") else name.split("/")[0].removesuffix(".py")


def test_the_root_has_these_names_alone():
  assert {room_of(name) for name in FILES} - {"__init__", "__main__"} == ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_and_its_docstring_say(room):
  """Also inside functions; and only rooms above it in the table, so that no arrow runs back up."""
  modules = {module for name in FILES if room_of(name) == room for module in imports(tree(name))}
  paths = [module.split(".")[1:] for module in modules if module.startswith("cnnjax.")]
  others = [path for path in paths if path[0] in ROOMS.keys() - {room, "errors"}]
  allowed = [path.split(".") for path in ROOMS[room].split()]
  fits = lambda path, start: path[: len(start)] == start
  assert not [path for path in others if not any(fits(path, start) for start in allowed)]
  assert not [start for start in allowed if not any(fits(path, start) for path in others)], "unused"
  below = {start[0] for start in allowed}
  assert below <= {*[*ROOMS][: [*ROOMS].index(room)]}
  if f"{room}/__init__.py" in FILES:
    said = re.search(r"This room imports ([^.;:]+)", ast.get_docstring(tree(f"{room}/__init__.py")))
    assert {*re.findall(r"\w+", said[1])} & ROOMS.keys() == below


@pytest.mark.parametrize("name, limit", [("train.py", 300), ("main.py", 120)])
def test_the_programs_are_short(name, limit):
  assert len(FILES[name].read_text().splitlines()) < limit


@each_file
def test_functions_are_short_and_nothing_is_asserted(name):
  for node in ast.walk(tree(name)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      length = node.end_lineno - node.lineno + 1
      assert length <= 80, f"{node.name} has {length} lines"
    assert not isinstance(node, ast.Assert), f"line {node.lineno}: validate by exceptions"


@each_file
def test_no_defaults_outside_the_base_config(name):
  """`config.get(key, default)` and `getattr(config, key, default)` hide what a run does."""
  for node in ast.walk(tree(name)):
    if not isinstance(node, ast.Call):
      continue
    called, args = ast.unparse(node.func), list(map(ast.unparse, node.args))
    assert not re.search(r"\bconfig(\.\w+)*\.(get|setdefault|pop)$", called), (
      f"line {node.lineno}: {called}"
    )
    assert not (called == "getattr" and args[0].startswith("config") and len(args) == 3), (
      f"line {node.lineno}: {ast.unparse(node)}"
    )


@each_file
def test_modules_and_public_functions_of_programs_have_docstrings(name):
  syntax = tree(name)
  assert ast.get_docstring(syntax) or not syntax.body
  for node in syntax.body:
    if isinstance(node, ast.FunctionDef) and node.name not in ("main", "check", "load"):
      assert node.name.startswith("_") or ast.get_docstring(node), node.name


def test_only_the_command_lines_print_or_exit():
  """The rest raises UserError, or writes through writers."""
  commands = {n for n in FILES if "__main__" in n + FILES[n].read_text()}
  behind = {n for n in FILES if n.startswith("tools/") and "\ndef main(" in FILES[n].read_text()}
  allowed = {"errors.py"} | commands | behind
  for name in FILES.keys() - allowed:
    called = {ast.unparse(n.func) for n in ast.walk(tree(name)) if isinstance(n, ast.Call)}
    assert not called & {"print", "sys.exit", "exit", "quit"}, name


def test_every_key_is_in_the_help_and_has_a_word_of_explanation():
  shown = keys_help([])
  for key in configs.flatten(configs.default()):
    assert re.search(rf"^--config\.{re.escape(key)} = \S", shown, re.MULTILINE), key
  assert all(key.comment for key in registry.keys().values())


def test_json_is_written_in_one_way():
  """By strict_json, which has no NaN; where no number can be one, by json itself."""
  without_floats = {
    "runtime/strict_json.py", "checkpoints/lock.py", "checkpoints/workdir.py",
    "checkpoints/integrity.py",
  }  # fmt: skip
  for name in FILES.keys() - without_floats:
    called = {ast.unparse(n.func) for n in ast.walk(tree(name)) if isinstance(n, ast.Call)}
    assert not called & {"json.dump", "json.dumps"}, name


def test_no_two_test_files_have_one_name():
  """pytest imports them by their name alone, and would leave one of the two out."""
  names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
  assert len(names) == len(set(names))


def test_what_makes_up_a_run_cannot_be_changed():
  """What one function is handed, another one does not change; states of flax never can be."""
  for name in FILES:
    if name.startswith(("training/", "checkpoints/", "writers/", "optim/")):
      for node in ast.walk(tree(name)):
        for made in map(ast.unparse, getattr(node, "decorator_list", ())):
          if made.startswith("dataclasses.dataclass"):
            assert made == "dataclasses.dataclass(frozen=True)", f"{name}: {node.name}"
