"""Configs: every file and preset, overrides, durations, checks of values, JSON, what may change."""

import contextlib
import json
import math
import pathlib
import random
import re

import jax
import numpy as np
import pytest

from cnnjax import config as configs
from cnnjax import data, durations, train
from cnnjax.config import MAY_CHANGE, default, differences, flatten, from_json, override, to_json
from cnnjax.errors import UserError

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def presets(file):
  """The presets of a config file, as the error of an unknown one lists them."""
  with pytest.raises(UserError) as error:
    configs.load(f"{file}:no such preset")
  return str(error.value).split("Choose from: ")[1].split(", ")


def set_text(config, assignment):
  """One override as the command line gives it."""
  key, _, text = assignment.partition("=")
  override(config, key, configs.parse_value(text))
  return config


def get(config, key):
  return flatten(config)[key]


@pytest.fixture
def no_data_needed(monkeypatch):
  for source in ("tfds", "folder"):
    monkeypatch.setattr(f"cnnjax.data.{source}.check", lambda config: None)


# Config files


def test_there_are_config_files():
  assert {"resnet", "lenet", "mlp", "simple_cnn"} <= {file.stem for file in FILES}


@pytest.mark.parametrize(
  "file, preset", [(f, p) for f in FILES for p in presets(f)], ids=lambda x: getattr(x, "stem", x)
)
def test_every_preset_is_valid(file, preset, no_data_needed):
  config = configs.load(f"{file}:{preset}")
  configs.validate(config)
  added = flatten(config).keys() - flatten(default()).keys()
  assert all(key.startswith("model.") for key in added)
  assert to_json(config) != to_json(default()), "a preset that changes nothing"
  assert from_json(to_json(config)) == config
  assert (config.data.source == "tfds") == bool(config.data.name)
  parsed = [durations.parse(b, "") for b in config.optim.schedule.boundaries]
  assert len({unit for _, unit in parsed}) <= 1 and parsed == sorted(parsed)


@pytest.mark.parametrize(
  "file, preset",
  [(f, p) for f in FILES for p in presets(f) if p.startswith("imagenet") or p == "folder"],
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
  "folder": ((40, 50, 3), 3),
}  # fmt: skip


def made_up(config):
  """`config` with batches of four and its splits, of noise in the place of its images."""
  c = config.data
  shape, classes = STORED[c.name or c.source]
  c.update(source="arrays", name=None, train="train", test="test")
  config.batch_size, config.eval_batch_size, config.mesh.data = 4, 4, 1
  noise = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
  labels = np.arange(8) % 3
  return config, data.from_arrays((noise, labels), (noise[:4], labels[:4]), classes=range(classes))


@pytest.mark.slow
@pytest.mark.parametrize(
  "file, preset",
  [(f, p) for f in FILES for p in presets(f) if p != "digits"],
  ids=lambda x: getattr(x, "stem", x),
)
def test_every_preset_makes_a_training_step(file, preset):
  """And an evaluation: traced, not compiled, on batches of the sizes that the preset asks for."""
  config, splits = made_up(configs.load(f"{file}:{preset}"))
  c = config.data
  height, width, channels = splits["train"].shape
  config.epochs = "100000 steps"  # room for every warm-up
  configs.validate(config)
  program = train.build(config, splits)
  with contextlib.closing(program.inputs.train) as batches:
    feed = batches.feed(0)
  first = next(iter(c.progressive), c.image_size)
  shape = (4, first or height, first or width, channels)
  assert jax.eval_shape(batches.take, feed, 0)["image"].shape == shape

  state = program.new_state(abstract=True)
  after = jax.eval_shape(program.train_step, state, feed, 1)
  assert jax.tree.structure(after) == jax.tree.structure(state)

  ((batch, mask),) = program.inputs.evaluations["test"].once(config.eval_batch_size)
  size = c.eval_size or c.image_size
  assert batch["image"].shape == (4, size or height, size or width, channels)
  metrics = jax.eval_shape(program.eval_step, state.variables, batch, mask)
  assert jax.tree.structure(metrics) == jax.tree.structure(state.window)


@pytest.mark.parametrize("file", FILES, ids=lambda x: x.stem)
def test_every_file_has_a_default_preset_without_a_download(file):
  config = configs.load(str(file))
  configs.validate(config)
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


# Overrides


@pytest.mark.parametrize(
  "assignment, value",
  [
    ("seed=7", 7),
    ("optim.learning_rate=1e-3", 1e-3),
    ("optim.learning_rate=1", 1.0),
    ("epochs=500 steps", "500 steps"),
    ("epochs=2.5", 2.5),
    ("epochs=3", 3),
    ("optim.nesterov=true", True),
    ("optim.nesterov=False", False),
    ("optim.nesterov=TRUE", True),
    ("optim.clip_norm=1.0", 1.0),
    ("optim.clip_norm=none", None),
    ("optim.clip_norm=None", None),
    ("optim.clip_norm=null", None),
    ("optim.weight_decay_kind=decoupled", "decoupled"),
    ("optim.weight_decay_mask=", ""),
    ("data.mean=(0.5, 0.4, 0.3)", (0.5, 0.4, 0.3)),
    ("data.mean=0.5,0.4,0.3", (0.5, 0.4, 0.3)),
    ("data.mean=0.5", (0.5,)),
    ("optim.schedule.boundaries=30", (30,)),
    ("optim.schedule.boundaries=500 steps", ("500 steps",)),
    ("optim.schedule.boundaries=('5 steps', 2)", ("5 steps", 2)),
    ("data.train=train[:90%]", "train[:90%]"),
    ("data.validation=train[90%:]", "train[90%:]"),
    ("data.validation=0.1", 0.1),
    ("data.validation=5000", 5000),
    ("data.validation=none", None),
    ("data.name=mnist:3.0.1", "mnist:3.0.1"),
    ("augment=pad_crop(4) | flip", "pad_crop(4) | flip"),
    ("augment=", ""),
    ("data.data_dir=/a=b", "/a=b"),
    ("model.drop_path=0.1", 0.1),
    ("model.name=resnet50", "resnet50"),
    ("steps_per_dispatch=8", 8),
    ("log_every=1e6 examples", "1e6 examples"),
  ],
)
def test_override(assignment, value):
  config = set_text(default(), assignment)
  found = get(config, assignment.split("=")[0])
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  "key, value, valid",
  [
    ("optim.clip_norm", 1.0, True),
    ("data.validation", 0.2, True),
    ("data.mean", (0.5,), True),
    ("data.image_size", 16, True),
    ("steps_per_dispatch", 4, True),
    ("epochs", 3, False),
    ("seed", 1, False),
    ("augment", "flip", True),
    ("optim.nesterov", True, False),
  ],
)
def test_none_over_a_value_and_a_value_over_none(key, value, valid):
  """None is a value like any other to set, and `validate` says where it has a meaning."""
  config = default()
  override(config, key, value)
  configs.validate(config)
  assert get(config, key) == value
  override(config, key, None)
  assert get(config, key) is None
  if valid:
    configs.validate(config)
  else:
    with pytest.raises(UserError, match=f"{key}' takes .*not None"):
      configs.validate(config)


def test_every_key_can_be_overridden():
  for key, value in flatten(default()).items():
    config = default()
    override(config, key, value)
    assert config == default(), key


@pytest.mark.parametrize(
  "key, hint",
  [
    ("learning_rate", "'optim.learning_rate'"),
    ("optim.learning_rte", "'optim.learning_rate'"),
    ("lr", "'optim.learning_rate'"),
    ("optim.lr", "'optim.learning_rate'"),
    ("batchsize", "'batch_size'"),
    ("batch_sizes", "'batch_size'"),
    ("sead", "'seed'"),
    ("data.image_sze", "'data.image_size'"),
    ("data.synthetic.image_sze", "'data.synthetic.image_size'"),
    ("schedule.name", "'optim.schedule.name'"),
    ("dataname", "'data.name'"),
    ("warmup", "'optim.schedule.warmup'"),
    ("optim.warmup", "'optim.schedule.warmup'"),
    ("weight_decay", "'optim.weight_decay'"),
  ],
)
def test_unknown_key_names_the_nearest(key, hint):
  with pytest.raises(UserError) as error:
    override(default(), key, 1)
  assert f"unknown config key {key!r}. Did you mean {hint}?" in str(error.value)


@pytest.mark.parametrize("key", ["qqqqq", "", ".", "model.a.b", "optim.zzz.zzz", "seed.x"])
def test_unknown_key_without_a_neighbour(key):
  with pytest.raises(UserError, match=r"unknown config key.*--help"):
    override(default(), key, 1)


@pytest.mark.parametrize("key", ["optim", "optim.schedule", "model", "data.synthetic"])
def test_a_group_cannot_be_set(key):
  with pytest.raises(UserError, match=f"{key}' is a group.*{key}\\."):
    override(default(), key, 1)


def test_unknown_model_option_is_left_to_validate():
  config = set_text(default(), "model.drop_pth=0.1")
  with pytest.raises(UserError, match=r"unknown option of resnet20 'drop_pth'.*'drop_path'"):
    configs.validate(config)


# Values


@pytest.mark.parametrize(
  "assignment, words",
  [
    ("batch_size=-1", "above 0"),
    ("batch_size=0", "above 0"),
    ("batch_size=12.5", "takes int, not 12.5"),
    ("batch_size=big", "takes int, not 'big'"),
    ("batch_size=true", "takes int, not True"),
    ("eval_batch_size=0", "above 0"),
    ("optim.learning_rate=0", "above 0"),
    ("optim.learning_rate=-0.1", "above 0"),
    ("optim.learning_rate=nan", "finite"),
    ("optim.learning_rate=1e999", "finite"),
    ("optim.learning_rate=-1e999", "finite"),
    ("optim.momentum=1", "below 1"),
    ("optim.b1=-0.5", "at least 0"),
    ("optim.nesterov=1", "takes bool, not 1"),
    ("optim.clip_norm=0", "above 0"),
    ("optim.clip_norm={}", "takes float or None, not {}"),
    ("optim.weight_decay=-1", "at least 0"),
    ("optim.weight_decay_kind=L2", "'l2'"),
    ("optim.weight_decay_mask=[", "not a regular expression"),
    ("optim.name=sdg", "'sgd'"),
    ("optim.schedule.name=cosin", "'cosine'"),
    ("optim.schedule.multiplier=0.5", "at least 1"),
    ("optim.schedule.end_factor=2", "between 0 and 1"),
    ("optim.schedule.boundaries=(None,)", "not None"),
    ("optim.schedule.boundaries=((1, 2),)", r"not \(1, 2\)"),
    ("optim.schedule.boundaries=(b'12',)", "not b'12'"),
    ("optim.schedule.boundaries=('5 fish',)", "5 fish.*epochs"),
    ("task.label_smoothing=1", "below 1"),
    ("task.name=clasification", "'classification'"),
    ("seed=-1", "at least 0"),
    ("seed=1.0", "takes int, not 1.0"),
    ("seed=4294967296", r"below 2\*\*32"),
    ("seed=" + "9" * 400, "finite"),
    ("epochs=" + "9" * 400, "finite"),
    ("epochs=0", "above 0"),
    ("epochs=0 steps", "above 0"),
    ("epochs=-1", "not negative"),
    ("epochs=-5 steps", "not negative"),
    ("epochs=1e999 steps", "finite"),
    ("epochs=5 stpes", "500 steps"),
    ("epochs=none", "not None"),
    ("log_every=0", "above 0"),
    ("dtype=float23", "'float32'"),
    ("mesh.data=0", "or -1"),
    ("mesh.data=-2", "or -1"),
    ("steps_per_dispatch=0", "above 0"),
    ("augment=flp", "'flip'"),
    ("augment=flip(", "cannot read"),
    ("data.source=tfd", "'tfds'"),
    ("data.train=trian", "'train'"),
    ("data.test=tset", "'test'"),
    ("data.validation=tset", "'test'"),
    ("data.validation=1.5", "between 0 and 1"),
    ("data.validation=0", "number of examples"),
    ("data.image_size=-3", "above 0"),
    ("data.mean=('a',)", "number per channel"),
    ("data.mean=(True,)", "number per channel"),
    ("data.std=(0,)", "above 0"),
    ("data.max_gib=0", "above 0"),
    ("data.synthetic.num_classes=0", "above 0"),
    ("model.name=resnet21", "'resnet"),
    ("model.drop_path=2", "below 1"),
    ("model.drop_path=x", "float"),
    ("model.num_classes=5", "the data say it"),
    ("model.dtype=bfloat16", "'dtype'"),
  ],
)
def test_wrong_values_are_refused(assignment, words):
  with pytest.raises(UserError) as error:
    configs.validate(set_text(default(), assignment))
  assert re.search(words, str(error.value))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_of_a_config_file(value):
  for key in ("optim.learning_rate", "optim.weight_decay", "epochs", "data.max_gib"):
    config = default()
    override(config, key, value)
    with pytest.raises(UserError, match=f"{key}.* finite"):
      configs.validate(config)


def test_a_key_that_is_missing():
  config = default()
  with config.unlocked():
    del config.optim["momentum"]
  with pytest.raises(UserError, match=r"'optim.momentum' is missing.*default\(\)"):
    configs.validate(config)


def test_the_default_is_valid_and_locked():
  config = default()
  configs.validate(config)
  for node in (config, config.optim, config.data, config.optim.schedule):
    with pytest.raises((AttributeError, KeyError)):
      node.nonesuch = 1


JUNK = (
  None,
  True,
  False,
  0,
  -1,
  1,
  2,
  3.5,
  -2.5,
  0.0,
  1e-9,
  1e308,
  math.nan,
  math.inf,
  -math.inf,
  10**30,
  10**400,
  -(10**400),
  "",
  "x",
  "nan",
  "500 steps",
  "1e400 steps",
  "-1 steps",
  "2 fish",
  "[",
  "flip",
  "flip(",
  "flip(1)",
  "pad_crop(-1)",
  "mixup(nan)",
  "test",
  "train[:10%]",
  (),
  [],
  {},
  {"a": 1},
  (1,),
  (0.5, 0.5, 0.5),
  (None,),
  ((1,),),
  ("5 steps",),
  (10**400,),
  b"12",
  (b"12",),
  {1, 2},
  1j,
  object(),
  "\n",
  "é\0",
)


def mutation(seed):
  """(config, what was set) with one to three random keys set to something random."""
  rng = random.Random(seed)
  config = default()
  override(config, "data.source", rng.choice(["digits", "synthetic"]))
  override(config, "model.name", rng.choice(["lenet5", "resnet20", "simple_cnn", "mlp"]))
  override(config, "optim.schedule.name", rng.choice(["cosine", "constant", "warm_restarts"]))
  keys = [
    *sorted(flatten(config)),
    "model.drop_path",
    "model.features",
    "model.dropout",
    "model.num_classes",
    "model.conv_features",
  ]
  return config, {key: rng.choice(JUNK) for key in rng.sample(keys, rng.choice([1, 1, 1, 2, 3]))}


def test_random_mutations_are_valid_or_a_user_error():
  valid = 0
  for seed in range(300):
    config, settings = mutation(seed)
    try:
      for key, value in settings.items():
        override(config, key, value)
      configs.validate(config)
      again = from_json(to_json(config))
    except UserError as error:
      assert str(error)
      continue
    except Exception as error:
      pytest.fail(f"{settings}: {type(error).__name__}: {error}")
    valid += 1
    assert not differences(config, again), settings
  assert 5 < valid < 150


# JSON, and going on


def test_json_round_trip():
  config = default()
  for assignment in (
    "data.mean=0.1,0.2,0.3",
    "optim.clip_norm=1",
    "epochs=500 steps",
    "optim.schedule.boundaries=('5 steps', 2)",
    "model.drop_path=0.1",
    "data.validation=0.25",
    "optim.learning_rate=0.1000000001",
    "seed=4294967295",
  ):
    set_text(config, assignment)
  again = from_json(to_json(config))
  assert again == config and to_json(again) == to_json(config)
  assert isinstance(again.data.mean, tuple)
  assert list(json.loads(to_json(config))) == list(json.loads(to_json(default())))
  configs.validate(again)


def test_json_of_an_older_config_gets_new_keys_by_default():
  old = json.loads(to_json(default()))
  del old["optim"]["clip_norm"], old["eval_every"]
  old["seed"] = 3
  config = from_json(json.dumps(old))
  assert config.seed == 3 and config.eval_every == default().eval_every
  configs.validate(config)


@pytest.mark.parametrize(
  "assignment",
  [
    "seed=1",
    "batch_size=64",
    "model.drop_path=0.1",
    "model.name=resnet32",
    "augment=flip",
    "optim.clip_norm=1",
    "optim.learning_rate=0.2",
    "optim.schedule.warmup=2",
    "dtype=bfloat16",
    "data.train=test",
    "data.validation=0.1",
    "task.label_smoothing=0.1",
  ],
)
def test_differences_that_matter(assignment):
  old, new = default(), set_text(default(), assignment)
  key = assignment.split("=")[0]
  assert differences(old, new) == {key: (flatten(old).get(key), get(new, key))}
  assert differences(new, old) == {key: (get(new, key), flatten(old).get(key))}


def test_differences_that_do_not():
  values = {"data.data_dir": "/elsewhere", "mesh.data": 2, "steps_per_dispatch": 3}
  for key in MAY_CHANGE:
    new = default()
    override(new, key, values.get(key, 77))
    assert get(new, key) != flatten(default())[key], f"{key} of MAY_CHANGE was not changed"
    assert not differences(default(), new)
  as_list = default()
  as_list.data.mean = [0.5]
  as_tuple = default()
  as_tuple.data.mean = (0.5,)
  assert not differences(as_list, as_tuple)
