"""Every rewriting against what it stands in for, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import ops

# name: (image, kernel, strides, padding, input channels, groups, output channels)
CASES = {
  "1x1": (5, 1, 1, 0, 6, 1, 8),
  "1x1, stride 2": (5, 1, 2, 0, 6, 1, 8),
  "depthwise": (7, 3, 1, 1, 6, 6, 6),
  "depthwise, stride 2": (7, 3, 2, 1, 6, 6, 6),
  "depthwise 5x5, TensorFlow's padding": (8, 5, 2, "SAME", 6, 6, 6),
  "depthwise 7x7 on a smaller image": (4, 7, 1, 3, 6, 6, 6),
  "depthwise, two outputs a channel": (7, 3, 1, 1, 6, 6, 12),
  "groups": (7, 3, 1, 1, 6, 2, 8),
  "groups, stride 2": (8, 3, 2, 1, 6, 3, 6),
  "3x3 on a smaller image": (2, 3, 1, 1, 4, 1, 6),
  "7x7 on a smaller image, stride 2": (4, 7, 2, [(3, 3), (2, 4)], 4, 1, 6),
}


def case(name, dtype=np.float32):
  size, window, strides, padding, channels, groups, features = CASES[name]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, size, size, channels)).astype(dtype)
  kernel = rng.normal(size=(window, window, channels // groups, features)).astype(dtype)
  pads = [(padding, padding)] * 2 if isinstance(padding, int) else padding

  def function(x, kernel):
    return ops.convolve(
      x, kernel, (strides, strides), pads, train=True, feature_group_count=groups,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip

  return function, x, kernel


def both(function, *args):
  weigh = lambda *args: jnp.sum(jnp.sin(function(*args)))
  return function(*args), jax.grad(weigh, range(len(args)))(*args)


@pytest.mark.parametrize("name", CASES)
def test_convolutions(name):
  function, x, kernel = case(name)

  def traced():  # anew each time: JAX knows a function that it has traced
    return jax.jit(lambda x, kernel: both(function, x, kernel)).trace(x, kernel)

  ours = traced()
  assert "conv_general_dilated" not in str(ours.jaxpr)
  with ops.plain():
    theirs = traced()
  assert "conv_general_dilated" in str(theirs.jaxpr)
  assert "optimization_barrier" not in str(theirs.jaxpr)
  ours, theirs = (program.lower().compile()(x, kernel) for program in (ours, theirs))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), ours, theirs)


@pytest.mark.parametrize("name", ["1x1", "depthwise, stride 2", "groups"])
def test_transformations(name):
  """vmap over examples, forward mode, checkpoint, bfloat16."""
  function, x, kernel = case(name)
  alone = jax.vmap(lambda x: function(x[None], kernel)[0])(x)
  np.testing.assert_allclose(alone, function(x, kernel), rtol=1e-5, atol=1e-5)
  _, tangent = jax.jvp(lambda x: function(x, kernel), (x,), (x,))
  np.testing.assert_allclose(tangent, function(x, kernel), rtol=1e-5, atol=1e-5)  # it is linear
  again = both(jax.checkpoint(function), x, kernel)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    again,
    both(function, x, kernel),
  )
  assert function(*(jnp.bfloat16(a) for a in (x, kernel))).dtype == jnp.bfloat16


def test_other_platforms_get_the_operations_of_xla(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  for name in CASES:
    function, x, kernel = case(name)
    text = str(jax.make_jaxpr(function)(x, kernel))
    assert "conv_general_dilated" in text and "barrier" not in text


def test_a_choice_that_is_none():
  with pytest.raises(UserError, match="Did you mean 'depthwise'"), ops.without("deepwise"):
    pass


POOLS = {
  "max": ops.max_pool,
  "average": ops.avg_pool,
  "average of what is there": functools.partial(ops.avg_pool, count_padding=False),
}


@pytest.mark.parametrize("window, strides, padding", [(2, 2, 0), (3, 2, 1), (3, 1, "SAME")])
@pytest.mark.parametrize("kind", POOLS)
def test_pools(kind, window, strides, padding):
  """Behind a norm, which XLA fuses with a pool and may compute twice, rounded in two ways."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 33, 33, 16)).astype(np.float32)
  scale = rng.uniform(0.5, 1.5, size=16).astype(np.float32)

  def after_a_norm(x):
    x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-3) * scale + 0.3
    return POOLS[kind](jax.nn.relu(x), window, strides=strides, padding=padding)

  traced = lambda: jax.jit(functools.partial(both, lambda x: after_a_norm(x))).trace(x)
  ours = traced()
  assert "reduce_window" not in str(ours.jaxpr)
  with ops.plain():
    theirs = traced()
  assert "reduce_window" in str(theirs.jaxpr)
  ours, theirs = (program.lower().compile()(x) for program in (ours, theirs))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), ours, theirs)


def test_of_pixels_that_tie_the_first_takes_the_gradient():
  x = jnp.asarray(np.random.default_rng(0).integers(3, size=(2, 9, 9, 4)), jnp.bfloat16)
  gradient = lambda x: jax.grad(lambda x: ops.max_pool(x, 3, strides=2, padding=1).sum())(x)
  ours = gradient(x)
  with ops.plain():
    np.testing.assert_array_equal(ours, gradient(x))


def test_max_pool_pads_with_minus_infinity_and_keeps_nan():
  x = -jnp.ones((1, 4, 4, 1))
  pool = functools.partial(ops.max_pool, window=3, strides=2, padding=1)
  assert jnp.array_equal(pool(x), -jnp.ones((1, 2, 2, 1)))
  assert np.isnan(pool(x.at[0, 1, 1].set(np.nan))).all()
  assert pool(x[:, :1, :1], padding=0).shape == (1, 0, 0, 1)  # no window fits


@pytest.mark.parametrize("window, strides, padding", [(3, 2, 0), (3, 2, 1), (2, 2, 0), (2, 2, 1)])
@pytest.mark.parametrize("size", range(4, 9))
def test_ceil_counts_the_last_window(size, window, strides, padding):
  """As torch.nn.MaxPool2d and AvgPool2d: the number of windows by the formula of its manual."""
  x = jnp.ones((1, size, size, 1))
  pool = functools.partial(ops.max_pool, x, window, strides=strides, padding=padding)
  count = -(-(size + 2 * padding - window) // strides) + 1
  if (count - 1) * strides >= size + padding:  # it would start in the padding
    count -= 1
  assert pool(ceil=True).shape[1] == count
  assert pool(ceil=False).shape[1] == (size + 2 * padding - window) // strides + 1
  mean = ops.avg_pool(x, window, strides=strides, padding=padding, ceil=True, count_padding=False)
  np.testing.assert_array_equal(mean, jnp.ones((1, count, count, 1)))


class Given(nn.Module):
  """A head on a network that it is given."""

  net: nn.Module

  def __call__(self, x, *, train):
    return self.net(x, train=train)


class Made(nn.Module):
  """A head on a network that it makes, in a list, with a parameter of its own before it."""

  remat_inside: bool

  def setup(self):
    self.scale = self.param("scale", nn.initializers.ones, (4,))
    self.nets = [Given(models.create("mobilenetv1_025", 10, remat=self.remat_inside))]

  def __call__(self, x, *, train):
    return self.nets[0](x, train=train)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize(
  "model",
  [
    lambda remat: Given(models.create("mobilenetv1_025", 10, remat=remat)),
    lambda remat: Made(remat),
  ],
  ids=["given", "made"],
)
def test_order_is_not_asked_for_a_model_that_wraps_one_with_remat(model, remat):
  model, x = model(remat), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  params = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)[
    "params"
  ]
  assert ("xla_cpu_scheduler_type" in ops.compiler_options(model, params)) == (not remat)


@pytest.mark.parametrize(
  ("name", "channels", "overrides", "ordered"),
  [
    ("mobilenetv1_025", 3, {}, True),
    ("resnet20", 1, {}, False),  # the stem of grey images is no depthwise convolution
    ("mobilenetv1_025", 3, {"remat": True}, False),
  ],
)
def test_order_is_asked_where_it_pays(name, channels, overrides, ordered):
  model = models.create(name, 10, **overrides)
  x = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
  init = functools.partial(model.init, train=False)
  params = jax.eval_shape(init, jax.random.key(0), x)["params"]
  assert ("xla_cpu_scheduler_type" in ops.compiler_options(model, params)) == ordered
  with ops.plain():
    assert ops.compiler_options(model, params) == {}
