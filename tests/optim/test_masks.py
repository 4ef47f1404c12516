"""Choosing parameters by path."""

import jax
import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.optim import masks

PARAMS = {
  "conv1": {"kernel": np.ones((3, 3)), "bias": np.ones(3)},
  "block": {
    "norm": {"scale": np.ones(3), "bias": np.ones(3)},
    "kernel_net": {"kernel": np.ones(2)},
  },
}


@pytest.mark.parametrize(
  "pattern, chosen",
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
def test_a_pattern_is_searched_in_the_path(pattern, chosen):
  mask = masks.by_path(PARAMS, pattern)
  assert jax.tree.structure(mask) == jax.tree.structure(PARAMS)
  assert {path for path, value in masks.paths(mask).items() if value} == chosen
  assert all(type(value) is bool for value in jax.tree.leaves(mask))


@pytest.mark.parametrize("pattern", ["kernels", "^kernel", "Kernel"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
  with pytest.raises(UserError, match=r"matches no parameter; they are called.*conv1/kernel") as e:
    masks.by_path(PARAMS, pattern)
  assert repr(pattern) in str(e.value)


def test_what_is_no_regular_expression_is_refused():
  with pytest.raises(UserError, match=r"'\(kernel' is not a regular expression"):
    masks.by_path(PARAMS, "(kernel")


def test_shapes_are_enough():
  shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, PARAMS))
  assert masks.by_path(shapes, "kernel$") == masks.by_path(PARAMS, "kernel$")
