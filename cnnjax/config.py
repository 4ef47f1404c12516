"""The one base config, and everything that happens to a config before a run: load, override, check.

A config file is Python with `get_config(preset)`; it starts from `default()` and changes what
differs. Values from the command line come on top, and `validate` looks at the whole once, before
anything is downloaded or compiled.
"""

import ast
import difflib
import importlib.util
import inspect
import json
import os
import pathlib
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cnnjax import durations
from cnnjax.errors import UserError, unknown


def default() -> ConfigDict:
  """Every key of a run with its default.

  Durations are epochs, as a number that may be a fraction, or a string: "500 steps",
  "2.5 epochs", "1e6 examples".
  """
  c = ConfigDict(type_safe=False)
  for group in (_run, _data, _learning):
    group(c)
  c.lock()
  c.model.unlock()
  return c


# [keys] The lines from here to [end] that set a key are what `--help` shows.
def _run(c: ConfigDict) -> None:
  c.seed = 0  # every random choice of a run follows from it
  c.batch_size = 128  # examples per step, over all devices
  c.epochs = 10  # how long to train; a duration
  c.dtype = "float32"  # what the model computes in: float32, bfloat16. Parameters are float32

  c.imports = ()  # modules to import first, such as a fork's that registers models: ("my_nets",)

  c.model = ConfigDict(type_safe=False)
  c.model.name = "resnet20"  # any field of the model may stand beside it: model.drop_path=0.1

  c.mesh = ConfigDict(type_safe=False)
  c.mesh.data = -1  # devices that share the batch; -1: all there are

  c.steps_per_dispatch = None  # steps in one program; None: 1 on CPU, 32 on GPU and TPU
  c.eval_batch_size = 500  # changes nothing but memory and speed
  c.eval_views = None  # predictions are means over views: "flip", "five_crop(0.9)"; cnnjax/augment
  c.log_every = "100 steps"  # a duration; an epoch's end is always logged
  c.eval_every = 1  # a duration
  c.checkpoint_every = 1  # a duration


def _data(c: ConfigDict) -> None:
  c.data = ConfigDict(type_safe=False)
  c.data.source = "digits"  # digits (embedded), folder, tfds, synthetic; arrays from Python
  c.data.name = None  # tfds: the data set, as "cifar10", "mnist:3.0.1" or "name/config"
  c.data.data_dir = None  # tfds: where data sets lie; None: TFDS's own default
  c.data.path = None  # folder: with PATH/train/<class>/*.jpg, PATH/<class>/*.jpg; or a CSV, JSONL
  c.data.train = "train"  # split to train on; with tfds any expression, such as "train[:90%]"
  c.data.validation = None  # None, a share (0.1) or number (5000) of train, or a split
  c.data.test = "test"  # split of the final result, never used to choose; or a share or number
  c.data.split_seed = 0  # of what is held out as a share or number, and of long_tail
  c.data.long_tail = None  # keep a long tail of train: the largest class over the smallest, as 100
  c.data.image_size = None  # pixels, square, that are trained on; None: as they are
  c.data.progressive = ()  # smaller sizes first, in equal parts of the run: (128, 160)
  c.data.channels = None  # 1 or 3; None: those of the data set, of files 3
  c.data.crop = "center"  # for training: center, random_resized (arXiv:1409.4842; streaming)
  c.data.crop_scale = (0.08, 1.0)  # random_resized: share of the area
  c.data.crop_ratio = (3 / 4, 4 / 3)  # random_resized: width over height
  c.data.interpolation = "bilinear"  # nearest, bilinear, bicubic, lanczos, area
  c.data.eval_size = None  # pixels, square, that are evaluated on; None: image_size
  c.data.eval_crop = 1.0  # evaluation: the crop over the short side, as 0.875 on ImageNet
  c.data.mean = None  # per channel, images in [0, 1]; None: that of the training split
  c.data.std = None  # likewise
  c.data.sampling = "uniform"  # of classes: oversample, undersample, class_balanced, square_root
  c.data.repeats = 1  # of an example in a batch, each augmented anew (arXiv:1901.09335)
  c.data.remainder = "drop"  # examples at the end of an epoch: drop, pad (with others)
  c.data.pipeline = "auto"  # resident (on the device), streaming; auto: resident if it fits
  c.data.max_gib = 8.0  # the largest split to keep on a device, in GiB
  c.data.shard_resident = False  # each device keeps a part of a resident split, not all of it
  c.data.threads = None  # streaming: that decode images; None: one a core
  c.data.workers = 0  # streaming: processes that decode, with so many threads each; 0: none
  c.data.max_unreadable = 10  # images that are skipped at most; they are named in the workdir
  c.data.synthetic = ConfigDict(type_safe=False)
  c.data.synthetic.train_examples = 1024
  c.data.synthetic.test_examples = 256
  c.data.synthetic.num_classes = 10
  c.data.synthetic.image_size = 32  # pixels, square
  c.data.synthetic.channels = 3

  c.augment = None  # in order, such as "pad_crop(4) | flip | mixup(0.2)"; see cnnjax/augment


def _learning(c: ConfigDict) -> None:
  c.task = ConfigDict(type_safe=False)
  c.task.name = "classification"  # multi_label, where an image may have several
  c.task.label_smoothing = 0.0  # arXiv:1512.00567, section 7
  c.task.aux_weight = 0.3  # of the loss of each auxiliary head; arXiv:1409.4842, section 5
  c.task.class_weights = None  # in the loss: auto (1 / frequency), effective_number, or a list
  c.task.effective_beta = 0.999  # effective_number: beta of arXiv:1901.05555

  c.optim = ConfigDict(type_safe=False)
  c.optim.name = "sgd"  # sgd, adam, adamw
  c.optim.learning_rate = 0.1  # the peak of the schedule
  c.optim.momentum = 0.9  # sgd
  c.optim.nesterov = False  # sgd
  c.optim.b1 = 0.9  # adam, adamw
  c.optim.b2 = 0.999  # adam, adamw
  c.optim.eps = 1e-8  # adam, adamw
  c.optim.weight_decay = 0.0
  c.optim.weight_decay_kind = None  # l2 (added to the gradient), decoupled; None: the optimizer's
  c.optim.weight_decay_mask = "kernel$"  # which parameters decay: a regular expression of paths
  c.optim.clip_norm = None  # clip the gradient to this global norm

  c.optim.schedule = ConfigDict(type_safe=False)
  c.optim.schedule.name = "cosine"  # constant, step, cosine, warm_restarts
  c.optim.schedule.warmup = 0  # linear, from 0, in front of any schedule; a duration
  c.optim.schedule.boundaries = ()  # step: where the rate drops; durations from the start
  c.optim.schedule.factor = 0.1  # step: what it is multiplied by
  c.optim.schedule.end_factor = 0.0  # cosine, warm_restarts: lowest rate, as a share of the peak
  c.optim.schedule.first_period = 10  # warm_restarts: length of the first period; a duration
  c.optim.schedule.multiplier = 2.0  # warm_restarts: each period is so much longer
  c.optim.schedule.peak_decay = 1.0  # warm_restarts: each peak is multiplied by it


# [end]
# The keys that take something else than the type of their default. A float takes an int as well.
_DURATION = (int, float, str)
_TYPES: dict[str, tuple[type | None, ...]] = {
    "epochs": _DURATION, "log_every": _DURATION, "eval_every": _DURATION,
    "checkpoint_every": _DURATION, "optim.schedule.warmup": _DURATION,
    "optim.schedule.first_period": _DURATION, "optim.clip_norm": (float, None),
    "optim.weight_decay_kind": (str, None), "steps_per_dispatch": (int, None),
    "data.name": (str, None), "data.data_dir": (str, None), "data.image_size": (int, None),
    "data.validation": (float, int, str, None), "data.mean": (tuple, None),
    "data.std": (tuple, None), "augment": (str, None), "optim.schedule.boundaries": (tuple,),
    "imports": (tuple,), "data.path": (str, None), "data.progressive": (tuple,),
    "data.test": (str, float, int), "data.long_tail": (float, None), "data.channels": (int, None),
    "data.crop_scale": (tuple,), "data.crop_ratio": (tuple,),
    "data.eval_size": (int, None), "data.threads": (int, None),
    "task.class_weights": (str, tuple, None), "eval_views": (str, None),
}  # fmt: skip
Rule = tuple[Callable[[Any], bool], str]
_ABOVE_0: Rule = (lambda v: v > 0, "above 0")
_AT_LEAST_0: Rule = (lambda v: v >= 0, "at least 0")
_SHARE: Rule = (lambda v: 0 <= v < 1, "at least 0 and below 1")
_SEED: Rule = (lambda v: 0 <= v < 2**32, "at least 0 and below 2**32")  # as jax.random.key takes
_HELD_OUT: Rule = (
  lambda v: isinstance(v, str) or (0 < v < 1 if isinstance(v, float) else v > 0),
  "a share between 0 and 1, a number of examples, or a split",
)
# What a value that is not None must be, beside its type.
_RULES: dict[str, Rule] = {
    "batch_size": _ABOVE_0, "eval_batch_size": _ABOVE_0, "steps_per_dispatch": _ABOVE_0,
    "seed": _SEED,
    "mesh.data": (lambda v: v == -1 or v > 0, "above 0, or -1"),
    "data.image_size": _ABOVE_0, "data.max_gib": _ABOVE_0,
    "data.validation": _HELD_OUT, "data.test": _HELD_OUT, "data.split_seed": _SEED,
    "data.long_tail": (lambda v: v >= 1, "at least 1"), "data.eval_size": _ABOVE_0,
    "data.progressive": (
        lambda v: all(type(x) is int and x > 0 for x in v), "sizes in pixels, above 0"),
    "data.channels": (lambda v: v in (1, 3), "1 or 3"),
    "data.crop_scale": (lambda v: _is_range(v) and v[1] <= 1, "two shares in order, in (0, 1]"),
    "data.crop_ratio": (lambda v: _is_range(v), "two numbers above 0, in order"),
    "data.eval_crop": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "data.repeats": _ABOVE_0, "data.threads": _ABOVE_0, "data.workers": _AT_LEAST_0,
    "data.max_unreadable": _AT_LEAST_0,
    "data.mean": (lambda v: all(map(_is_number, v)), "a number per channel"),
    "data.std": (lambda v: all(_is_number(x) and x > 0 for x in v), "a number above 0 per channel"),
    "data.synthetic.train_examples": _ABOVE_0, "data.synthetic.test_examples": _ABOVE_0,
    "data.synthetic.num_classes": _ABOVE_0, "data.synthetic.image_size": _ABOVE_0,
    "data.synthetic.channels": _ABOVE_0, "task.label_smoothing": _SHARE,
    "task.aux_weight": _AT_LEAST_0, "task.effective_beta": _SHARE,
    "imports": (lambda v: all(isinstance(name, str) for name in v), "names of modules"),
    "optim.learning_rate": _ABOVE_0, "optim.momentum": _SHARE, "optim.b1": _SHARE,
    "optim.b2": _SHARE, "optim.eps": _ABOVE_0, "optim.weight_decay": _AT_LEAST_0,
    "optim.clip_norm": _ABOVE_0, "optim.schedule.factor": _ABOVE_0,
    "optim.schedule.end_factor": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "optim.schedule.multiplier": (lambda v: v >= 1, "at least 1"),
    "optim.schedule.peak_decay": _ABOVE_0,
}  # fmt: skip
_CHOICES = {
  "dtype": ("float32", "bfloat16"),
  "optim.weight_decay_kind": ("l2", "decoupled"),
  "data.crop": ("center", "random_resized"),
  "data.interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "area"),
  "data.sampling": ("uniform", "oversample", "undersample", "class_balanced", "square_root"),
  "data.remainder": ("drop", "pad"),
  "data.pipeline": ("auto", "resident", "streaming"),
}
# What may differ when a run goes on: where it ends, and what does not change its arithmetic.
MAY_CHANGE = (
    "epochs", "imports", "data.data_dir", "data.path", "data.shard_resident",
    "data.threads", "data.workers", "data.max_unreadable", "mesh.data", "steps_per_dispatch",
    "eval_batch_size", "log_every", "eval_every", "checkpoint_every",
)  # fmt: skip


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """The leaves of a nested config by dotted key."""
  flat = {}
  for key, value in config.items():
    nested = isinstance(value, Mapping | ConfigDict) and len(value)
    flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
  return flat


def load(argument: str) -> ConfigDict:
  """The config of `FILE` or `FILE:PRESET`. Config files are Python, and they are run."""
  path, _, preset = argument.partition(":")
  file = pathlib.Path(path)
  if not os.path.isfile(file):  # unlike Path.is_file, false for a name that is too long
    choices = [
      str(p) for folder in {file.parent, pathlib.Path("configs")} for p in folder.glob("*.py")
    ]
    raise (
      unknown("config file", path, choices)
      if choices
      else UserError(
        f"no config file {path!r}: there is no such file, and no *.py in {str(file.parent)!r}"
      )
    )
  spec = importlib.util.spec_from_file_location(f"cnnjax_config_{file.stem}", file)
  if spec is None:
    raise UserError(f"the config file {path!r} is not a Python file (*.py)")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if preset and not inspect.signature(module.get_config).parameters:
      raise UserError(f"{path} has no presets; leave out {':' + preset!r}")
    config = module.get_config(preset) if preset else module.get_config()
  except UserError:
    raise
  except Exception as e:
    raise UserError(f"in {path}{_line(e, file)}: {_reason(e)}") from e
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"get_config in {path} gives {config!r}, not a config: it starts from cnnjax.config.default()"
    )
  return config


def _line(error: Exception, file: pathlib.Path) -> str:
  """The line of a config file that an error comes from."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(file.absolute())
  ]
  lines += [error.lineno] if isinstance(error, SyntaxError) else []
  return f", line {lines[-1]}" if lines else ""


def _reason(error: Exception) -> str:
  """An error in words; a key that the locked base config does not have, as `unknown_key` has it."""
  while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps a KeyError
    error = error.args[0]
  text = str(error.args[0]) if error.args else ""
  if match := re.match(r"(?:Key \"|')(\w+)(?:\" does not exist|'\nDid you mean)", text):
    return str(unknown_key(match[1], flatten(default())))
  return f"{type(error).__name__}: {text}"


def pick(
  preset: str, presets: Mapping[str, Callable[[ConfigDict], None]], config: ConfigDict
) -> ConfigDict:
  """`config` after the preset of that name has changed it."""
  if preset not in presets:
    raise unknown("preset", preset, presets)
  presets[preset](config)
  return config


def from_arguments(argument: str | None, words: Sequence[str], flags: Sequence[str]) -> ConfigDict:
  """The config of `load(argument)` after the overrides among the `words` of a command line.

  `flags` are what else the command takes, for its errors.
  """
  given: dict[str, str] = {}
  rest = iter(words)
  for word in rest:
    flag, equals, value = word.partition("=")
    if not flag.startswith("--config."):
      raise unknown("argument", flag, ["--config", "--config.KEY=VALUE", "--help", *flags])
    if not equals and ((value := next(rest, None)) is None or value.startswith("--")):
      raise UserError(f"{flag} needs a value: {flag}=VALUE")
    if flag in given:
      raise UserError(f"{flag} is given twice")
    given[flag] = value
  if not argument:
    raise UserError("which config? --config=FILE[:PRESET], such as --config=configs/resnet.py")
  config = load(argument)
  for flag, value in given.items():
    override(config, flag.removeprefix("--config."), parse_value(value))
  return config


def parse_value(text: str) -> Any:
  """A value from the command line: a Python literal, true/false/none in any case, or the text."""
  words = {"true": True, "false": False, "none": None, "null": None}
  if text.lower() in words:
    return words[text.lower()]
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
    return float(text) if text.lower() in ("nan", "inf", "-inf") else text


def override(config: ConfigDict, key: str, value: Any) -> None:
  """Sets one dotted key, which must exist; under `model` any, since `validate` asks the model."""
  *parents, leaf = key.split(".")
  flat = flatten(config)
  if key not in flat and parents != ["model"]:
    if any(k.startswith(key + ".") for k in flat):
      raise UserError(
        f"config key {key!r} is a group; set one of its keys, such as "
        f"{next(k for k in flat if k.startswith(key + '.'))!r}"
      )
    raise unknown_key(key, flat)
  types = _TYPES.get(key, ())
  if tuple in types and isinstance(value, int | float | str) and type(value) not in types:
    value = (value,)
  node = config
  for parent in parents:
    node = node[parent]
  try:
    node[leaf] = value
  except OverflowError:
    raise UserError(f"config key {key!r} has too many digits") from None


def unknown_key(key: str, known: Mapping[str, Any]) -> UserError:
  """The error for a key that is not there; a right last part counts, whatever its group."""
  last = {k: k.split(".")[-1] for k in (key, *known)}
  initials = lambda name: "".join(word[0] for word in name.split("_"))  # lr: learning_rate
  near = (
    [k for k in known if last[k] == last[key]]
    or [k for k in known if initials(last[k]) == last[key]]
    or [k for k in known if difflib.get_close_matches(last[key], [last[k]])]
    or difflib.get_close_matches(key, known, cutoff=0.8)
  )
  near = difflib.get_close_matches(key, near, n=1, cutoff=0)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  return UserError(f"unknown config key {key!r}.{hint} All keys: python -m cnnjax.main --help")


def validate(config: ConfigDict) -> None:
  """Raises UserError for the first key or value that is wrong. Downloads and compiles nothing."""
  base, flat = flatten(default()), flatten(config)
  for key in flat:
    if key not in base and not key.startswith("model."):
      raise unknown_key(key, base)
  for key, standard in base.items():
    if key not in flat:
      raise UserError(f"config key {key!r} is missing: start from cnnjax.config.default()")
    _check_type(key, flat[key], _TYPES.get(key, (type(standard),)))
  _check_values(flat)
  _check_names(config)


def _check_type(key: str, value: Any, types: tuple[type | None, ...]) -> None:
  matches = (
    value is None
    if t is None
    else isinstance(value, int | float) and not isinstance(value, bool)
    if t is float
    else isinstance(value, tuple | list)
    if t is tuple
    else isinstance(value, t) and not (t is int and isinstance(value, bool))
    for t in types
  )
  if not any(matches):
    names = " or ".join("None" if t is None else t.__name__ for t in types)
    raise UserError(f"config key {key!r} takes {names}, not {value!r}")


def _is_range(value: tuple) -> bool:
  return len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and abs(value) < 2**63  # no NaN, nothing a float cannot hold


def _check_values(flat: dict[str, Any]) -> None:
  for key, value in flat.items():
    if isinstance(value, int | float) and not (isinstance(value, bool) or _is_number(value)):
      raise UserError(f"config key {key!r} is {value}; it must be finite and below 2**63")
    holds, text = _RULES.get(key, (lambda _: True, ""))
    if value is not None and not holds(value):
      raise UserError(f"config key {key!r} is {value!r}; it must be {text}")
    if key in _CHOICES and value is not None and value not in _CHOICES[key]:
      raise unknown(key, value, _CHOICES[key])
    if (
      key in _TYPES
      and _TYPES[key] == _DURATION
      and not durations.parse(value, key)[0]
      and key != "optim.schedule.warmup"
    ):
      raise UserError(f"config key {key!r} is {value!r}; it must be above 0")
  for boundary in flat["optim.schedule.boundaries"]:
    _check_type("optim.schedule.boundaries", boundary, _DURATION)
    durations.parse(boundary, "optim.schedule.boundaries")


def _check_names(config: ConfigDict) -> None:
  """Each room knows the names it takes."""
  from cnnjax import augment, data, models, optim, tasks  # late: --help need not import JAX

  for key, why in (("num_classes", "the data say it"), ("dtype", "it is the key 'dtype'")):
    if key in config.model:
      raise UserError(f"config key 'model.{key}' cannot be set: {why}")
  models.import_modules(config.imports)
  models.create(**config.model, num_classes=2, dtype=config.dtype)
  data.check(config.data)
  augment.parse(config.augment)
  augment.views.parse(config.eval_views)
  tasks.check(config.task)
  optim.check(config.optim)


def to_json(config: ConfigDict) -> str:
  """The resolved config as JSON, in the order of its keys."""
  return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
  """The config that `to_json` wrote; keys that are newer than it have their defaults."""
  config = default()
  for key, value in flatten(json.loads(text)).items():
    node = config
    for parent in key.split(".")[:-1]:
      node = node[parent]
    node[key.split(".")[-1]] = tuple(value) if isinstance(value, list) else value
  return config


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """The keys that differ and that a run which goes on may not change, as {key: (old, new)}."""
  before, after = (flatten(json.loads(to_json(c))) for c in (old, new))
  return {
    key: (before.get(key), after.get(key))
    for key in sorted({*before, *after})
    if before.get(key) != after.get(key) and key not in MAY_CHANGE
  }
