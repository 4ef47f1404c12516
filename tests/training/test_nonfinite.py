"""Which words follow from the magnitudes of a step, in the order of its computation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax.training import health
from cnnjax.training.health import nonfinite
from cnnjax.training.health.nonfinite import Value

NAN, INF = math.nan, math.inf
# A step of two layers that is finite.
BEFORE = [
  Value("images", "", 2.5), Value("params", "one/kernel", 0.5), Value("params", "one/bias", 0.75),
  Value("params", "onemore/kernel", 9.0), Value("params", "two/kernel", 4.0),
  Value("input", "one", 2.5), Value("output", "one", 3.25),
  Value("input", "two", 1.0), Value("input", "two", 7.0), Value("output", "two", 8.5),
  Value("loss", "", 123.0), Value("gradient", "two/kernel", 6.0),
  Value("gradient", "one/kernel", 11.0), Value("gradient", "one/bias", 13.0),
]  # fmt: skip
ENDS = "infinity (float32 ends at 3.4e+38)"


@pytest.mark.parametrize(
  "before, bad, words",
  [
    (0, Value("images", "", INF),
     f"{ENDS} is in the images that the model is given: see the data and the augmentation"),
    (1, Value("targets", "", NAN), "NaN is in what the loss is given: the targets"),
    (1, Value("targets", "mask", NAN), "NaN is in what the loss is given: mask"),
    (5, Value("params", "two/bias", NAN), "NaN is in the parameter two/bias before this step"),
    (5, Value("batch_stats", "norm/var", NAN),
     "NaN is in the batch statistic norm/var before this step"),
    (5, Value("other", "queue/x", NAN), "NaN is in the variable queue/x before this step"),
    (5, Value("input", "one", NAN),
     "NaN began between modules, before the first module, in the input of one (forward pass); the "
     "outputs of all modules before are finite"),
    (7, Value("input", "two", NAN),
     "NaN began between modules, behind one, in the input of two (forward pass); the outputs of "
     "all modules before are finite"),
    (9, Value("output", "two", INF, "float16"),
     "infinity (float16 ends at 6.55e+04) began in the output of two (forward pass); its inputs "
     "(up to 7) and its parameters (up to 4) are finite"),
    (6, Value("output", "one", NAN),
     "NaN began in the output of one (forward pass); its inputs (up to 2.5) and its parameters "
     "(up to 0.75) are finite"),
    (6, Value("output", "three", NAN),
     "NaN began in the output of three (forward pass); its inputs (up to 0) and its parameters "
     "(up to 0) are finite"),
    (6, Value("output", "", NAN),
     "NaN began in the output of the model (forward pass); its inputs (up to 0) and its "
     "parameters (up to 9) are finite"),
    (10, Value("moved", "norm/var", NAN),
     "NaN began in the new batch statistic norm/var; the forward pass is finite"),
    (10, Value("moved_other", "queue/x", NAN),
     "NaN began in the new value of the variable queue/x; the forward pass is finite"),
    (10, Value("loss", "", -INF),
     f"{ENDS} began in the loss; the model's outputs (up to 8.5) are finite"),
    (12, Value("gradient", "one/kernel", NAN),
     "NaN began in the gradient of one/kernel (backward pass); the loss (up to 1.2e+02) and the "
     "gradients of the layers behind it are finite"),
    (14, Value("update", "one/kernel", NAN),
     "NaN began in the update of one/kernel (optimizer); its gradient (up to 11) is finite"),
  ],
)  # fmt: skip
def test_the_first_that_is_not_finite_is_named(before, bad, words):
  assert nonfinite.explain([*BEFORE[:before], bad, Value("loss", "", NAN)]) == words


def test_a_step_that_is_finite():
  assert nonfinite.explain(BEFORE).startswith("computed once more, every value of this step is fi")
  assert nonfinite.explain([]) == nonfinite.explain(BEFORE)


def test_gradients_come_from_the_loss_back_and_the_turns_of_a_loop_one_by_one():
  """Modules in the order of `met`; of a loop first all of its first turn; loops one by one."""
  met = {
    ("stem", "output", 0): "float32", ("loop/a", "input", 0): "float16",
    ("loop/a", "output", 0): "float16", ("stem", "output", 1): "float32",
    ("lost", "output", 0): "float32", ("two/b", "output", 0): "float32",
    ("three/c", "output", 0): "float32", ("", "output", 0): "float32",
  }  # fmt: skip
  turns = lambda *x: (jnp.asarray(x, jnp.float32),)
  modules = {
    "stem": {"(output)": (jnp.float32(1), jnp.float32(2))},
    "loop": {"a": {"(input)": turns(3, 5), "(output)": turns(4, 6)}},
    "two": {"b": {"(output)": turns(10, 11)}},
    "three": {"c": {"(output)": turns(12, 13)}},
    "(output)": (jnp.float32(7),),
  }
  of = lambda *names: {name: {"w": float(i)} for i, name in enumerate(names)}
  found = {
    "images": 0.0, "targets": {"a": 0.5}, "params": {"stem": {"w": 0.25}}, "loss": 9.0,
    "moved": {"norm": {"mean": 8.0}}, "gradient": of("free", "stem", "loop"),
    "update": of("stem", "loop"), "moved_other": {"calls": {"n": 8.5}},
    "other": {"calls": {"n": 0.75}}, "batch_stats": {"norm": {"mean": 0.5}},
  }  # fmt: skip
  for kind in ("gradient", "update"):
    found[kind]["loop"] = {"a": found[kind]["loop"]}
  assert nonfinite._in_order(modules, found, met) == [
    Value("images", "", 0.0), Value("targets", "a", 0.5), Value("params", "stem/w", 0.25),
    Value("batch_stats", "norm/mean", 0.5), Value("other", "calls/n", 0.75),
    Value("output", "stem", 1.0), Value("input", "loop/a", 3.0, "float16"),
    Value("output", "loop/a", 4.0, "float16"), Value("input", "loop/a", 5.0, "float16"),
    Value("output", "loop/a", 6.0, "float16"), Value("output", "stem", 2.0),
    Value("output", "two/b", 10.0), Value("output", "two/b", 11.0),
    Value("output", "three/c", 12.0), Value("output", "three/c", 13.0),
    Value("output", "", 7.0), Value("moved", "norm/mean", 8.0),
    Value("moved_other", "calls/n", 8.5), Value("loss", "", 9.0),
    Value("gradient", "loop/a/w", 2.0), Value("gradient", "free/w", 0.0),
    Value("gradient", "stem/w", 1.0),
    Value("update", "loop/a/w", 1.0), Value("update", "stem/w", 0.0),
  ]  # fmt: skip


@pytest.mark.parametrize(
  "x, largest",
  [
    (np.array([-3.0, 2.0], np.float32), 3.0),
    (np.zeros((0, 2), np.float32), 0.0),
    (np.array([-np.inf, 1.0], np.float32), np.inf),
    (np.array([np.nan, np.inf], np.float32), np.nan),
    (np.array([-7, 2]), 0.0),
  ],
)
def test_the_largest_magnitude_of_floats(x, largest):
  np.testing.assert_equal(float(nonfinite._largest(jnp.asarray(x))), largest)
  assert float(nonfinite._largest(jnp.asarray([2.0], jnp.float16))) == 2.0
  assert nonfinite._largest(3.5) == 0.0  # no array


class Counting(nn.Module):
  """A layer that is called twice, one that takes no floats, and a count that grows."""

  @nn.compact
  def __call__(self, x, *, train):
    dense = nn.Dense(2, use_bias=False, name="dense")
    calls = self.variable("calls", "n", lambda: jnp.zeros((), jnp.float32))
    if not self.is_initializing():
      calls.value = calls.value + jnp.where(x.max() > 5, jnp.nan, 1.0)
    Whole(name="whole")(jnp.arange(3))
    return dense(dense(x.mean((1, 2))))


class Whole(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x + 1


class Both(nn.Module):
  """Returns its floats in two types, behind one that is none."""

  @nn.compact
  def __call__(self, x, *, train):
    return Halves(name="halves")(jnp.arange(3), x.mean((1, 2)), 1)[0].astype(jnp.float32)


class Halves(nn.Module):
  @nn.compact
  def __call__(self, whole, x, times):
    return x.astype(jnp.float16) * times, x


def test_of_several_types_that_of_the_first_floats_is_named():
  images = jnp.full((2, 1, 1, 2), 1e5)
  text = health.trace(Both(), lambda outputs, *_: outputs.sum(-1), {"params": {}}, images, None)
  assert text.startswith("infinity (float16 ends at 6.55e+04) began in the output of halves")


def test_a_variable_of_another_collection_is_looked_at():
  images = jnp.ones((2, 1, 1, 2))
  variables = Counting().init(jax.random.key(0), images, train=True)
  loss = lambda outputs, targets, kept: outputs.sum(-1)
  text = health.trace(Counting(), loss, variables, 6 * images, None)
  assert text == "NaN began in the new value of the variable calls/n; the forward pass is finite"
  assert "every value of this step is finite" in health.trace(
    Counting(), loss, variables, images, None
  )
