"""Config files: what is wrong in one, and every file and preset that is there."""

import contextlib
import pathlib
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from cnnjax import build, data, models
from cnnjax import config as configs
from cnnjax.config import default, durations, flatten, from_json, override, to_json
from cnnjax.errors import UserError
from cnnjax.models import ops

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))
FAMILIES = [file for file in FILES if file.stem != "transfer"]  # whose model comes from a file


def presets(file):
  """The presets of a config file, as the error of an unknown one lists them."""
  with pytest.raises(UserError) as error:
    configs.load(f"{file}:no such preset")
  return str(error.value).split("Choose from: ")[1].split(", ")


@pytest.fixture
def no_data_needed(monkeypatch):
  for source in ("tfds", "folder"):
    monkeypatch.setattr(f"cnnjax.data.{source}.check", lambda config: None)


def test_there_are_config_files():
  assert {"resnet", "lenet", "mlp", "simple_cnn"} <= {file.stem for file in FILES}


@pytest.mark.parametrize(
  "file, preset", [(f, p) for f in FILES for p in presets(f)], ids=lambda x: getattr(x, "stem", x)
)
def test_every_preset_is_valid(file, preset, no_data_needed):
  config = configs.load(f"{file}:{preset}")
  if config.model.name == "auto":  # as a file of weights says by init.from
    config.model.name, config.data.image_size = "resnet18", 224
  build.validate(config)
  added = flatten(config).keys() - flatten(default()).keys()
  assert all(key.startswith("model.") for key in added)
  assert to_json(config) != to_json(default()), "a preset that changes nothing"
  assert from_json(to_json(config)) == config
  assert (config.data.source == "tfds") == bool(config.data.name)
  parsed = [durations.parse(b, "") for b in config.optim.schedule.boundaries]
  assert len({unit for _, unit in parsed}) <= 1 and parsed == sorted(parsed)


def test_presets_are_found_from_any_folder(tmp_path, monkeypatch):
  """And a file of that name in the working directory comes first."""
  monkeypatch.chdir(tmp_path)
  assert configs.load("configs/mlp.py:mnist") == configs.load(f"{ROOT}/configs/mlp.py:mnist")
  with pytest.raises(UserError, match=r"unknown config file 'other/mlp.py'"):
    configs.load("other/mlp.py")
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "mlp.py").write_text(
    "from cnnjax.config import default\ndef get_config(): return default()\n"
  )
  assert configs.load("configs/mlp.py") == default()


@pytest.mark.slow
def test_a_wheel_carries_the_presets(tmp_path):
  """Unpacked in a folder of its own, with other people's `configs` beside it."""
  source, place = tmp_path / "source", tmp_path / "site"
  for name in ("cnnjax", "configs"):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), "./source"]
  subprocess.run(build, cwd=tmp_path, check=True, timeout=300)
  with zipfile.ZipFile(next(tmp_path.glob("cnnjax-*.whl"))) as wheel:
    wheel.extractall(place)
  (place / "configs").mkdir()
  code = (
    "from cnnjax import config; print(config.__file__); "
    "print(config.to_json(config.load('configs/mlp.py:mnist')))"
  )
  command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(place)!r}); {code}"]
  done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
  file, _, found = done.stdout.partition("\n")
  assert pathlib.Path(file).is_relative_to(place)
  assert from_json(found) == configs.load(f"{ROOT}/configs/mlp.py:mnist")


@pytest.mark.parametrize(
  "file, preset",
  [(f, p) for f in FAMILIES for p in presets(f) if p.startswith("imagenet") or p == "folder"],
  ids=lambda x: getattr(x, "stem", x),
)
def test_presets_of_photos_crop_them_as_they_come(file, preset):
  config = configs.load(f"{file}:{preset}")
  assert config.data.crop == "random_resized" and "pad_crop" not in config.augment
  assert "flip" in config.augment.split(" | ")
  # A test image is cut to its centre, unless it is larger than those that are trained on.
  assert config.data.eval_crop < 1 or config.data.eval_size > config.data.image_size
  if preset != "folder":  # which may well fit the device
    assert config.data.pipeline == "streaming"


# Images as they are stored, and how many classes; photos are small ones here.
STORED = {
  "cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100), "mnist": ((28, 28, 1), 10),
  "fashion_mnist": ((28, 28, 1), 10), "imagenet2012": ((40, 50, 3), 1000),
  "folder": ((40, 50, 3), 3), "svhn_cropped": ((32, 32, 3), 10),
}  # fmt: skip


def made_up(config):
  """`config` with batches of four and its splits, of noise in the place of its images."""
  c = config.data
  shape, classes = STORED[c.name or c.source]
  c.update(source="arrays", name=None, train="train", test="test", validation=None, long_tail=None)
  config.batch_size, config.eval_batch_size, config.mesh.data = 4, 4, 1
  config.batch_norm.ghost = config.batch_norm.ghost and 2
  noise = np.random.default_rng(0).integers(0, 256, (24, *shape), np.uint8)
  labels = np.arange(24) % min(classes, 12)
  return config, data.from_arrays((noise, labels), (noise[:4], labels[:4]), classes=range(classes))


@pytest.fixture
def plainly():
  """Operations are traced as they are written for a GPU: on a CPU they are up to dozens each."""
  with ops.plain():
    yield


@pytest.mark.slow
@pytest.mark.parametrize(
  "file, preset",
  [(f, p) for f in FAMILIES for p in presets(f) if p != "digits"],
  ids=lambda x: getattr(x, "stem", x),
)
def test_every_preset_makes_a_training_step(file, preset, plainly):
  """And an evaluation: traced, not compiled, on batches of the sizes that the preset asks for."""
  config, splits = made_up(configs.load(f"{file}:{preset}"))
  c = config.data
  height, width, channels = splits["train"].shape
  config.epochs = "15000 steps"  # room for every warm-up
  build.validate(config)
  program = build.build(config, splits)
  with contextlib.closing(program.inputs.train) as batches:
    feed = batches.feed(0)
  first = next(iter(c.progressive), c.image_size)
  shape = (4, first or height, first or width, channels)
  assert jax.eval_shape(batches.take, feed, 0)["image"].shape == shape

  state = program.new_state(abstract=True)
  after = program.compiled_step.eval_shape(state, feed, 1, program.constants)
  assert jax.tree.structure(after) == jax.tree.structure(state)

  ((batch, mask),) = program.inputs.evaluations["test"].once(config.eval_batch_size)
  size = c.eval_size or c.image_size
  assert batch["image"].shape == (4, size or height, size or width, channels)
  metrics = program.eval_step.eval_shape(state.variables, batch, mask)
  assert jax.tree.structure(metrics.sums) == jax.tree.structure(state.window.task)


@pytest.mark.parametrize("file", FAMILIES, ids=lambda x: x.stem)
def test_every_file_has_a_default_preset_without_a_download(file):
  config = configs.load(str(file))
  build.validate(config)
  assert config == configs.load(f"{file}:digits") and config.data.source == "digits"
  assert "cifar10" in presets(file)
  # The families of ImageNet have its recipe, those before them the small sets.
  assert ("imagenet" in presets(file)) or {"mnist", "fashion_mnist"} <= set(presets(file))


@pytest.mark.parametrize("file", FILES, ids=lambda x: x.stem)
def test_loading_twice_gives_configs_of_their_own(file):
  one, two = configs.load(str(file)), configs.load(str(file))
  override(one, "optim.schedule.warmup", 7)
  assert two.optim.schedule.warmup != 7


@pytest.mark.parametrize(
  "body, words",
  [
    ("c.optim.learning_rte = 1", ["line 5", "'learning_rte'", "mean 'optim.learning_rate'"]),
    ("c.optm = 1", ["line 5", "'optm'", "--help"]),
    ("c.epochs = c.epoch", ["line 5", "'epoch'", "mean 'epochs'"]),
    ("c.optim.scedule.name = 'step'", ["line 5", "'scedule'"]),
    ("c.epochs = 1 / 0", ["line 5", "ZeroDivisionError"]),
    ("import nonesuch", ["line 5", "nonesuch"]),
    ("c = None", ["None, not a config", "default()"]),
    ("c.epochs = (", ["line 5", "SyntaxError"]),
  ],
)
def test_what_is_wrong_in_a_config_file_is_one_line(tmp_path, body, words):
  file = tmp_path / "mine.py"
  file.write_text(
    "from cnnjax.config import default\n\ndef get_config():\n  c = default()\n"
    f"  {body}\n  return c\n"
  )
  with pytest.raises(UserError) as error:
    configs.load(str(file))
  message = str(error.value)
  assert "mine.py" in message and "\n" not in message and len(message) < 300
  for word in words:
    assert word in message


def test_a_file_without_presets_and_a_file_without_get_config(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text("from cnnjax.config import default\ndef get_config(): return default()\n")
  assert configs.load(str(file)) == default()
  with pytest.raises(UserError, match=r"no presets; leave out ':cifar10'"):
    configs.load(f"{file}:cifar10")
  file.write_text("")
  with pytest.raises(UserError, match="get_config"):
    configs.load(str(file))


MINE = """
from __future__ import annotations
import dataclasses
from cnnjax.config import default
from shared_bits import EPOCHS

@dataclasses.dataclass
class Settings:
  epochs: int = EPOCHS

def get_config(preset="3"):
  import more_bits.inner
  config = default()
  config.epochs, config.seed = Settings().epochs, more_bits.inner.SEED
  return config
"""


def test_a_config_imports_what_lies_beside_it(tmp_path, monkeypatch):
  """From anywhere, again and again; of several with neighbours of one name, each its own."""
  for name, number in (("a", 3), ("b", 5)):
    (tmp_path / name / "more_bits").mkdir(parents=True)
    (tmp_path / name / "mine.py").write_text(MINE)
    (tmp_path / name / "shared_bits.py").write_text(f"EPOCHS = {number}\n")
    (tmp_path / name / "more_bits" / "inner.py").write_text(f"SEED = {number}\n")
  path = [*sys.path]
  for name, number in [("a", 3), ("b", 5), ("a", 3), ("b", 5)]:
    config = configs.load(f"{tmp_path}/{name}/mine.py")
    assert (config.epochs, config.seed) == (number, number)
  assert sys.path == path
  monkeypatch.chdir(tmp_path / "a")
  assert configs.load("mine.py:5").epochs == 3
  (tmp_path / "b" / "shared_bits.py").unlink()
  (tmp_path / "c").mkdir()
  (tmp_path / "c" / "mine.py").write_text(MINE)
  with pytest.raises(UserError, match=r"mine\.py, line 5: ModuleNotFoundError.*shared_bits"):
    configs.load(f"{tmp_path}/c/mine.py")
  assert sys.path == path


def test_a_neighbour_that_registers_a_model_is_imported_once(tmp_path):
  (tmp_path / "my_own_nets.py").write_text(
    "from cnnjax import models\n"
    "models.register('my_own_net')(lambda num_classes, dtype=None: None)\n"
  )
  (tmp_path / "mine.py").write_text(
    "import my_own_nets\nfrom cnnjax.config import default\nget_config = lambda: default()\n"
  )
  for _ in range(2):
    configs.load(f"{tmp_path}/mine.py")
  assert models.names("my_own_net") == ["my_own_net"]


def test_an_error_beside_a_config_is_not_said_of_a_line_of_its_own(tmp_path):
  (tmp_path / "bad_bits.py").write_text("\n" * 6 + "a b\n")
  (tmp_path / "mine.py").write_text("import bad_bits\n")
  with pytest.raises(UserError, match=r"mine\.py, line 1: SyntaxError"):
    configs.load(f"{tmp_path}/mine.py")


@pytest.mark.parametrize("folder", ["a:b", "a.py:b", ":"])
def test_a_colon_in_the_path_of_a_config(tmp_path, folder):
  (tmp_path / folder).mkdir()
  file = tmp_path / folder / "c.py"
  file.write_text(
    "from cnnjax.config import default\n"
    "def get_config(preset='x:y'):\n  c = default()\n  c.data.name = preset\n  return c\n"
  )
  assert configs.load(f"{file}").data.name == "x:y"
  assert configs.load(f"{file}:z:1").data.name == "z:1"
  with pytest.raises(UserError, match=r"config file '.*/d\.py'"):
    configs.load(f"{tmp_path}/{folder}/d.py:z")
