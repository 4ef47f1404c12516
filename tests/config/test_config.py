"""Configs: overrides, keys and their values, JSON, what may change. Files are in test_presets."""

import json
import math
import random
import re

import pytest

from cnnjax import Key, build, register, registry
from cnnjax import config as configs
from cnnjax.config import (
  default,
  differences,
  flatten,
  from_json,
  may_change,
  override,
  to_json,
)
from cnnjax.errors import UserError


def set_text(config, assignment):
  """One override as the command line gives it."""
  key, _, text = assignment.partition("=")
  override(config, key, configs.parse_value(text, key))
  return config


def get(config, key):
  return flatten(config)[key]


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
    # A key that takes text takes any: names of folders, of splits.
    ("data.path=2024", "2024"),
    ("data.path=1e5", "1e5"),
    ("data.path=true", "true"),
    ("data.path=(1,2)", "(1,2)"),
    ("data.path='2024'", "2024"),
    ("data.path=none", None),
    ("data.train=2024", "2024"),
    ("data.train=none", "none"),
    ("data.test=True", "True"),
    ("distill.workdir=007", "007"),
    ("model.name=0", "0"),
    ("task.class_weights=1,2", (1, 2)),
    ("imports=my_nets", ("my_nets",)),
    ("imports=my_nets,more.parts", ("my_nets", "more.parts")),
    ("optim.freeze=^stem.{1,2}", ("^stem.{1,2}",)),
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
  build.validate(config)
  assert get(config, key) == value
  override(config, key, None)
  assert get(config, key) is None
  if valid:
    build.validate(config)
  else:
    with pytest.raises(UserError, match=f"{key}' takes .*not None"):
      build.validate(config)


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


@pytest.mark.parametrize("key", ["data.shuffle", "optim.foobar"])
def test_a_key_of_the_same_group_is_no_neighbour(key):
  with pytest.raises(UserError, match=rf"^unknown config key '{key}'\. All keys"):
    override(default(), key, 1)


@pytest.mark.parametrize("key", ["optim", "optim.schedule", "model", "data.synthetic"])
def test_a_group_cannot_be_set(key):
  with pytest.raises(UserError, match=f"{key}' is a group.*{key}\\."):
    override(default(), key, 1)


def test_unknown_model_option_is_left_to_validate():
  config = set_text(default(), "model.drop_pth=0.1")
  with pytest.raises(UserError, match=r"unknown option of resnet20 'drop_pth'.*'drop_path'"):
    build.validate(config)


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
    build.validate(set_text(default(), assignment))
  assert re.search(words, str(error.value))


# What the words of a rule allow and refuse; the rules of one key stand under its name.
ALLOWED = {
  "widths of layers, above 0": ([(1024,), (8, 4)], [(), (0,), (1.5,)]),
  "a file, the workdir of a run, or hf://owner/name": (["x.pth", "hf://a/b"], [""]),
  "above 0": ([1], [0, -1]),
  "at least 0": ([0, 1], [-1]),
  "at least 1": ([1, 2], [0, -1]),
  "between 0 and 1": ([0.5], [-0.1, 1.1]),
  "at least 0 and below 1": ([0, 0.5], [-0.1, 1]),
  "above 0 and at most 1": ([0.5, 1], [0, 1.1]),
  "names, or a number above 1": ([("sky", "sea"), 2], [1, (1, 2)]),
  "at least 0 and below 2**32": ([0, 2**32 - 1], [-1, 2**32]),
  "a share between 0 and 1, a number of examples, or a split": ([0.1, 9, "train"], [0, 1.5, -3]),
  "above 0, or -1": ([-1, 2], [0, -2]),
  "between -1e12 and 1e12": ([-5.5, 0.0, 1e9], [1e13, -1e13]),
  "compilation_cache": (["auto", "compiled"], [""]),
  "data.channels": ([1, 3], [0, 2]),
  "data.progressive": ([(), (32, 64)], [(0,), (16.0,)]),
  "data.crop_scale": ([(0.08, 1.0)], [(1.0, 0.08), (0.1,), (0.5, 1.5), (0, 1)]),
  "data.crop_ratio": ([(0.75, 1.5)], [(1.5, 0.75), (0, 1), ("a", 1)]),
  "data.range": ([8, 12, (0, 1), (-1000.0, 400)], [0, 33, (1, 0), (0,), (0, 1, 2), ("a", 1)]),
  "data.mean": ([(0,), (0.5, 0.4)], [("a",), (True,)]),
  "data.std": ([(0.5,)], [(0,), (-1,), (None,)]),
  "imports": ([(), ("json",)], [(1,)]),
  "task.metrics": ([(), ("brier",)], [(1,)]),
  "rates": ([(), (0.1, 1)], [(0,), (0.1, -0.1), ("0.1",)]),
  "monitor": (["validation/loss"], ["test/accuracy", "accuracy", ""]),
  "optim.freeze": ([("^stem",)], [(1,)]),
  "optim.multipliers": (
    [(("^head", 10.0), ("^stem", 1))],
    [("^head", 10.0), (("^head", 0),), (("^head",),), ((1, "^head"),)],
  ),
  "optim.schedule.points": ([((0, 1.0), (30, 0))], [((0, -1),), ((0,),), (1, 2), ((0, "a"),)]),
}


@pytest.mark.parametrize("key", [name for name, key in registry.keys().items() if key.rule])
def test_a_rule_does_what_it_says(key):
  holds, words = registry.keys()[key].rule
  allowed, refused = ALLOWED[key if key in ALLOWED else words]
  types = registry.keys()[key].takes
  fits = lambda value: type(value) in types or (float in types and type(value) is int)
  assert all(holds(value) for value in allowed)
  refused = [value for value in refused if fits(value)]
  assert refused, "no value of its type is refused"
  for value in refused:
    config = default()
    override(config, key, value)
    with pytest.raises(UserError) as error:
      build.validate(config)
    found = get(config, key)  # a float, where the default is one
    assert str(error.value) == f"config key {key!r} is {found!r}; it must be {words}"


def test_a_new_key_whose_default_is_none_takes_any_value(own_registry):
  """And ours say what they take."""
  assert all(
    key.types for key in registry.keys().values() if key.default is None and not key.duration
  )
  register("loss", "mine", of="classification", own=Key(None, "anything"))(None)
  for text, value in {"words": "words", "3": 3, "0.5": 0.5, "(1, 2)": (1, 2), "none": None}.items():
    config = default()
    override(config, "task.own", configs.parse_value(text, "task.own"))
    assert config.task.own == value
    configs.check_values(config)


def test_every_number_has_a_rule():
  for key in flatten(default()):
    known = registry.keys()[key]
    if {*known.takes} & {int, float}:
      assert known.rule or known.duration, key


@pytest.mark.parametrize("key", flatten(default()))
def test_a_value_of_another_type_is_refused(key):
  config = default()
  override(config, key, b"12")
  with pytest.raises(UserError, match=rf"config key '{key}' takes .*, not b'12'"):
    build.validate(config)


@pytest.mark.parametrize("key", [name for name, key in registry.keys().items() if key.choices])
def test_a_choice_that_is_not_there_names_the_nearest(key):
  for choice in registry.keys()[key].choices:
    config = default()
    override(config, key, choice + "_")
    with pytest.raises(UserError, match=f"{key} '{choice}_'. Did you mean '{choice}'"):
      build.validate(config)


@pytest.mark.parametrize("key", [name for name, key in registry.keys().items() if key.duration])
def test_durations_that_are_none(key):
  zero = [] if registry.keys()[key].may_be_0 else [0, "0 steps"]
  for value in (-1, "5 stpes", "-5 steps", *zero):
    config = default()
    override(config, key, value)
    with pytest.raises(UserError, match=key):
      build.validate(config)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_of_a_config_file(value):
  keys = ("optim.learning_rate", "optim.weight_decay", "epochs", "data.max_gib")
  for key, given in (*((key, value) for key in keys), ("task.class_weights", (1.0, value))):
    config = default()
    override(config, key, given)
    with pytest.raises(UserError, match=f"{key}.* finite"):
      build.validate(config)


def test_a_key_that_is_missing():
  config = default()
  with config.unlocked():
    del config.optim["momentum"]
  with pytest.raises(UserError, match=r"'optim.momentum' is missing.*default\(\)"):
    build.validate(config)


def test_the_default_is_valid_and_locked():
  config = default()
  build.validate(config)
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
  names = [
    *sorted(flatten(config)),
    "model.drop_path",
    "model.features",
    "model.dropout",
    "model.num_classes",
    "model.conv_features",
  ]
  return config, {key: rng.choice(JUNK) for key in rng.sample(names, rng.choice([1, 1, 1, 2, 3]))}


def test_random_mutations_are_valid_or_a_user_error():
  valid = 0
  for seed in range(450):
    config, settings = mutation(seed)
    try:
      for key, value in settings.items():
        override(config, key, value)
      build.validate(config)
      again = from_json(to_json(config))
    except UserError as error:
      assert str(error)
      continue
    except Exception as error:
      pytest.fail(f"{settings}: {type(error).__name__}: {error}")
    valid += 1
    assert not differences(config, again), settings
  assert 5 < valid < 225


# JSON, and going on


def test_json_round_trip():
  config = default()
  for assignment in (
    "data.mean=0.1,0.2,0.3",
    "optim.clip_norm=1",
    "epochs=500 steps",
    "optim.schedule.name=multi_step",
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
  build.validate(again)


def test_json_of_an_older_config_gets_new_keys_by_default():
  old = json.loads(to_json(default()))
  del old["optim"]["clip_norm"], old["eval_every"]
  old["seed"] = 3
  config = from_json(json.dumps(old))
  assert config.seed == 3 and config.eval_every == default().eval_every
  build.validate(config)


@pytest.mark.parametrize("source, orientation", [("folder", "ignore"), ("digits", None)])
def test_json_of_an_older_config_says_what_was_done_before_a_key(source, orientation):
  old = json.loads(to_json(default()))
  del old["data"]["orientation"]
  old["data"]["source"] = source
  assert from_json(json.dumps(old)).data.orientation == orientation


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
  for key in may_change():
    new = default()
    override(new, key, values.get(key, 77))
    assert get(new, key) != flatten(default())[key], f"{key} was not changed"
    assert not differences(default(), new)
  as_list = default()
  as_list.data.mean = [0.5]
  as_tuple = default()
  as_tuple.data.mean = (0.5,)
  assert not differences(as_list, as_tuple)


@pytest.mark.parametrize(
  "switch, keys",
  [
    ("dtype=float16", {"loss_scale.initial": 2.0, "loss_scale.growth_steps": 9}),
    ("dtype=float16", {"loss_scale.maximum": 2.0**20}),
    ("data.crop=random_resized", {"data.crop_scale": (0.2, 1.0), "data.crop_ratio": (1, 2)}),
    ("data.crop=random_resized", {"data.antialias": True}),
    ("task.class_weights=effective_number", {"task.effective_beta": 0.9}),
    ("optim.scale_from", {"optim.scale_rule": "sqrt"}),
    ("optim.lookahead", {"optim.lookahead_rate": 0.8}),
    ("optim.weight_decay", {"optim.weight_decay_kind": "l2"}),
    ("optim.agc", {"optim.agc_mask": "conv"}),
    ("optim.noise", {"optim.noise_decay": 0.6}),
    ("optim.plateau.patience", {"optim.plateau.factor": 0.5, "optim.plateau.min_delta": 0.1}),
    ("optim.plateau.patience", {"optim.plateau.cooldown": 1, "optim.plateau.min_scale": 0.1}),
    ("average.ema", {"average.ema_warmup": False}),
    ("average.swa_start", {"average.swa_every": 2}),
  ],
)
def test_what_has_no_effect_is_refused(switch, keys):
  for key, value in keys.items():
    config = default()
    as_it_is = flatten(config)[key]
    configs.override(config, key, value)
    words = f"{key}.* has no effect without {switch}: set that as well, or leave it at {as_it_is!r}"
    with pytest.raises(UserError, match=words.translate(str.maketrans("()^?!", "....."))):
      build.validate(config)


def test_each_key_that_needs_another_is_there():
  known = flatten(default())
  switches = {key.needs.partition("=")[0] for key in registry.keys().values() if key.needs}
  assert switches <= {*known} and not switches & {*may_change()}


@pytest.mark.parametrize("kind", registry.PART_KINDS)
def test_each_key_of_a_kind_is_read_by_a_part(kind):
  row = registry.PART_KINDS[kind]
  read = {key for (k, *_), part in registry._PARTS.items() if k == kind for key in part.keys}
  assert {f"{row.group}.{key}" for key in read} == {*registry.keys_of(kind)}
  assert row.switch in flatten(default())


def test_another_choice_sets_back_what_the_preset_had_for_its_own():
  words = ["--config.optim.schedule.name=cosine", "--config.optim.name=adam"]
  config = configs.from_arguments("configs/resnet.py:cifar10", words, [])
  preset = configs.load("configs/resnet.py:cifar10")
  assert preset.optim.schedule.boundaries and not config.optim.schedule.boundaries
  config.data = default().data  # CIFAR-10 need not be there
  build.validate(config)
  digits = configs.from_arguments("configs/resnet.py", words, [])
  assert digits.optim.schedule.warmup == configs.load("configs/resnet.py").optim.schedule.warmup
  assert not digits.optim.nesterov
  words = ["--config.optim.schedule.name=multi_step", "--config.optim.schedule.factor=0.5"]
  same = configs.from_arguments("configs/resnet.py:cifar10", words, [])
  assert same.optim.schedule.boundaries == preset.optim.schedule.boundaries
  words = ["--config.optim.schedule.power=2", "--config.optim.schedule.name=polynomial"]
  assert configs.from_arguments("configs/resnet.py", words, []).optim.schedule.power == 2
