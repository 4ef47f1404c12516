"""Choosing parameters by path."""

import jax
import numpy as np
import optax
import pytest

from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.optim import masks

PARAMS = {
  "conv1": {"kernel": np.ones((3, 3)), "bias": np.ones(3)},
  "block": {
    "norm": {"scale": np.ones(3), "bias": np.ones(3)},
    "kernel_net": {"kernel": np.ones(2)},
  },
}
DEPTHS = {"conv1": 0, "block": 2}
KEY = "optim.weight_decay_mask"


def settings(**overrides):
  c = default().optim
  c.update(overrides)
  return c


def chosen(mask):
  return {path for path, value in masks.paths(mask).items() if value}


@pytest.mark.parametrize(
  "pattern, wanted",
  [
    ("kernel$", {"conv1/kernel", "block/kernel_net/kernel"}),
    ("kernel", {"conv1/kernel", "block/kernel_net/kernel"}),
    ("^block/", {"block/norm/scale", "block/norm/bias", "block/kernel_net/kernel"}),
    ("^(?!.*norm).*(bias|kernel)$", {"conv1/kernel", "conv1/bias", "block/kernel_net/kernel"}),
    (
      "",
      {
        "conv1/kernel",
        "conv1/bias",
        "block/norm/scale",
        "block/norm/bias",
        "block/kernel_net/kernel",
      },
    ),
  ],
)
def test_a_pattern_is_searched_in_the_path(pattern, wanted):
  mask = masks.by_path(PARAMS, pattern, KEY)
  assert jax.tree.structure(mask) == jax.tree.structure(PARAMS)
  assert chosen(mask) == wanted
  assert all(type(value) is bool for value in jax.tree.leaves(mask))


@pytest.mark.parametrize("pattern", ["kernels", "^kernel", "Kernel"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
  with pytest.raises(UserError, match=r"matches no parameter; .*they are called.*/kernel") as e:
    masks.by_path(PARAMS, pattern, KEY)
  assert f"{KEY} {pattern!r}" in str(e.value)


@pytest.mark.parametrize(
  "pattern, hint",
  [
    ("^conv_1", "did you mean 'conv1'? they are called"),
    ("kernels$", "did you mean 'kernel'? they are called"),
    ("^kernel", "did you mean '^block/kernel'? they are called"),  # the place is not right
    ("[0-9]{7}", "; they are called"),
  ],
)
def test_the_nearest_right_name(pattern, hint):
  with pytest.raises(UserError) as e:
    masks.by_path(PARAMS, pattern, KEY)
  assert hint in str(e.value)
  assert "\n" not in str(e.value)


def test_what_is_no_regular_expression_is_refused():
  with pytest.raises(UserError, match=r"optim.freeze '\(kernel' is not a regular expression"):
    masks.by_path(PARAMS, "(kernel", "optim.freeze")


def test_shapes_are_enough():
  shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, PARAMS))
  assert masks.by_path(shapes, "kernel$", KEY) == masks.by_path(PARAMS, "kernel$", KEY)


def test_kernels_are_found_by_name():
  assert chosen(masks.kernels(PARAMS)) == {"conv1/kernel", "block/kernel_net/kernel"}


@pytest.mark.parametrize(
  "freeze, wanted",
  [
    ((), set()),
    (("^conv1",), {"conv1/kernel", "conv1/bias"}),
    (("bias", "scale$"), {"conv1/bias", "block/norm/bias", "block/norm/scale"}),
  ],
)
def test_frozen_is_what_any_of_the_patterns_finds(freeze, wanted):
  assert chosen(masks.frozen(settings(freeze=freeze), PARAMS)) == wanted


@pytest.mark.parametrize("freeze", [(".",), ("^conv1", "^block")])
def test_to_freeze_everything_is_refused(freeze):
  with pytest.raises(UserError, match="nothing is left to train"):
    masks.frozen(settings(freeze=freeze), PARAMS)


def test_a_mask_of_what_is_trained_leaves_out_what_is_frozen():
  frozen = masks.frozen(settings(freeze=("^conv1",)), PARAMS)
  trained = masks.trained(PARAMS, frozen)
  assert trained["conv1"] == {"kernel": optax.MaskedNode(), "bias": optax.MaskedNode()}
  mask = masks.by_path(trained, "kernel$", KEY)
  assert chosen(mask) == {"block/kernel_net/kernel"}
  assert mask["conv1"]["kernel"] == optax.MaskedNode()
  with pytest.raises(UserError, match=r"matches no parameter that is trained; they.*block"):
    masks.by_path(trained, "^conv1", KEY)


def test_rates_are_products():
  config = settings(multipliers=(("bias$", 2.0), ("^conv1", 10.0)), layer_decay=0.5)
  assert masks.paths(masks.rates(config, PARAMS, DEPTHS)) == {
    "conv1/kernel": 10 * 0.25,
    "conv1/bias": 2 * 10 * 0.25,
    "block/norm/scale": 1,
    "block/norm/bias": 2,
    "block/kernel_net/kernel": 1,
  }
  assert masks.rates(settings(), PARAMS, None) is None


def test_the_first_and_the_last_group():
  params = {name: {"kernel": np.ones(2)} for name in ("a", "b", "c", "d")}
  ends = masks.outermost(params, {"a": 1, "b": 0, "c": 3, "d": 3})
  assert chosen(ends) == {"b/kernel", "c/kernel", "d/kernel"}
