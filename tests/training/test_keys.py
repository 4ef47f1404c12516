"""The keys of a run: a default that changes changes every run that does not set it."""

import pytest

from cnnjax import config as configs
from cnnjax import registry
from cnnjax.errors import UserError

# As the README's table and the papers have them.
DEFAULTS = {
  "seed": 0, "seeds": 1, "rates": (), "batch_size": 128, "accumulate": 1, "epochs": 10,
  "dtype": "float32", "matmul_precision": None, "deterministic": False,
  "loss_scale.initial": 32768.0, "loss_scale.growth_steps": 2000, "loss_scale.maximum": 16777216.0,
  "step.name": "standard", "imports": (), "model.name": "resnet20",
  "batch_norm.ghost": None, "batch_norm.accumulated": "each", "batch_norm.precise": False,
  "batch_norm.batches": 100,
  "mesh.data": -1, "mesh.fsdp": 1, "mesh.fsdp_min_size": 4096,
  "steps_per_dispatch": None, "eval_batch_size": 500, "eval_views": None,
  "log_every": "100 steps", "eval_every": 1, "checkpoint_every": 1,
  "keep.last": 2, "keep.best": 1, "keep.every": None,
  "compilation_cache": "auto", "profile.start": None, "profile.steps": 5,
  "monitor": "validation/accuracy",
  "early_stopping.patience": None, "early_stopping.min_delta": 0.0,
  "early_stopping.restore_best": True,
  "health.every": None, "health.trace": False, "health.warnings": True,
}  # fmt: skip
DURATIONS = {"epochs", "log_every", "eval_every", "checkpoint_every", "keep.every", "health.every"}
CHOICES = {
  "dtype": ("float32", "bfloat16", "float16"),
  "matmul_precision": ("default", "tf32", "highest"),
  "batch_norm.accumulated": ("each", "matched"),
}


def test_the_defaults_are_as_they_were():
  found = configs.flatten(configs.default())
  for key, value in DEFAULTS.items():
    assert found[key] == value and type(found[key]) is type(value), key


def test_which_are_durations_and_which_choose():
  known = {key: registry.keys()[key] for key in DEFAULTS}
  assert {name for name, key in known.items() if key.duration} == DURATIONS
  assert {name: tuple(key.choices) for name, key in known.items() if key.choices} == CHOICES
  assert [name for name, key in known.items() if key.names] == ["imports"]


@pytest.mark.parametrize(
  "key, good, bad",
  [
    ("matmul_precision", "tf32", 3), ("batch_norm.ghost", 8, 0.5), ("steps_per_dispatch", 4, "x"),
    ("profile.start", 0, 0.5), ("early_stopping.patience", 2, "x"), ("eval_views", "flip", 3),
    ("compilation_cache", None, 3),
  ],
)  # fmt: skip
def test_what_may_be_none_takes_one_type_beside_it(key, good, bad):
  for value in (None, good):
    config = configs.default()
    configs.override(config, key, value)
    configs.check_values(config)
  config = configs.default()
  configs.override(config, key, bad)
  with pytest.raises(UserError, match=f"config key '{key}' takes"):
    configs.check_values(config)


@pytest.mark.parametrize("key", [key for key in DEFAULTS if key.startswith("loss_scale.")])
def test_the_scale_of_the_loss_is_that_of_float16(key):
  assert registry.keys()[key].needs == "dtype=float16"
