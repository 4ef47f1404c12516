"""The shared layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.models import layers, ops


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class Apply(nn.Module):
  """A function that needs a compact method around it."""

  function: object

  @nn.compact
  def __call__(self, x):
    return self.function(x)


@pytest.mark.smoke
@pytest.mark.optimised
@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="this XLA merges what is done again")
def test_remat_needs_less_memory_in_training():
  """Compiled as the trainer does: some orders of operations undo it."""

  def memory(remat):
    model = models.create("resnet20", 10, stage_sizes=(4, 4), remat=remat)
    x = jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    loss = lambda params, stats, x: apply({"params": params, "batch_stats": stats}, x)[0].sum()
    step = jax.jit(
      jax.grad(loss), compiler_options=ops.compiler_options(model, variables["params"])
    )
    compiled = step.lower(variables["params"], variables["batch_stats"], x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert memory(remat=True) < 0.5 * memory(remat=False)


@pytest.mark.smoke
def test_drop_path_is_per_example_and_unbiased():
  x = jnp.ones((4000, 2, 2, 3))
  drop = Apply(lambda x: layers.drop_path(x, 0.25, train=True))
  y = np.asarray(drop.apply({}, x, rngs={"dropout": jax.random.key(0)})).reshape(4000, -1)
  assert (y == y[:, :1]).all()  # an example survives or falls as a whole
  np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
  # The mean of 4000 draws has a standard deviation of sqrt(0.25 / 0.75 / 4000) = 0.009.
  assert abs(y[:, 0].mean() - 1) < 0.03


@pytest.mark.parametrize("rate, train", [(0.0, True), (0.5, False)])
def test_drop_path_is_the_identity_without_a_key(rate, train):
  x = jnp.arange(6.0).reshape(2, 1, 1, 3)
  assert jnp.array_equal(Apply(lambda x: layers.drop_path(x, rate, train=train)).apply({}, x), x)


@pytest.mark.parametrize("mode, options, expected", [
  ("linear", {}, [0.1, 0.2, 0.3, 0.4]),  # arXiv:1603.09382 equation 4: l / L * p_L
  ("linear", dict(first=0), [0, 0.4 / 3, 0.8 / 3, 0.4]),
  ("linear", dict(first=0, divisor=4), [0, 0.1, 0.2, 0.3]),
  ("constant", {}, [0.4] * 4),
  ("constant", dict(first=0, divisor=4), [0.4] * 4),
])  # fmt: skip
def test_rates_of_stochastic_depth(mode, options, expected):
  assert layers.drop_path_rates(0.4, 4, mode, **options) == pytest.approx(expected)
  assert layers.drop_path_rates(0.4, 1, mode, first=0) == [0.4 if mode == "constant" else 0]


def dropped(function, x):
  run = jax.jit(lambda x, key: Apply(function).apply({}, x, rngs={"dropout": key}))
  return np.asarray(run(x, jax.random.key(0)))


def test_spatial_dropout_drops_whole_channels():
  x = 2 + jnp.abs(normal(100, 3, 4, 50))
  y = dropped(lambda x: layers.spatial_dropout(x, 0.2, train=True), x)
  kept = y != 0
  assert (kept == kept[:, :1, :1]).all()
  np.testing.assert_allclose(y[kept], (x / 0.8)[kept], rtol=1e-6)
  # 5000 draws: a standard deviation of 0.4 / sqrt(5000) = 0.006. Each example has its own channels.
  assert abs(kept[:, 0, 0].mean() - 0.8) < 0.02
  assert len(np.unique(kept[:, 0, 0], axis=0)) == 100
  single = dropped(lambda x: layers.dropout(x, 0.2, train=True), x) != 0
  assert not (single == single[:, :1, :1]).all() and abs(single.mean() - 0.8) < 0.02


BLOCKS = [(8, 8, 3), (7, 7, 4), (5, 9, 2), (5, 4, 1), (4, 6, 7), (5, 5, 5)]  # height, width, size


@pytest.mark.parametrize("height, width, size", BLOCKS)
def test_drop_block_drops_whole_squares_as_often_as_it_should(height, width, size):
  rate, x = 0.2, 2 + jnp.abs(normal(100, height, width, 40))
  y = dropped(lambda x: layers.drop_block(x, rate, size, train=True), x)
  kept = y != 0
  np.testing.assert_allclose(y[kept], (x / kept.mean())[kept], rtol=1e-5)

  size = min(size, height, width)
  windows = np.lib.stride_tricks.sliding_window_view(~kept, (size, size), axis=(1, 2))
  whole = windows.all(axis=(-2, -1))  # [batch, rows, columns, channels]: a square may begin here
  union = np.zeros_like(kept)
  covering = np.zeros((height, width))  # squares that a pixel may lie in
  for i, j in np.ndindex(whole.shape[1:3]):
    union[:, i : i + size, j : j + size] |= whole[:, i, j, None, None]
    covering[i : i + size, j : j + size] += 1
  np.testing.assert_array_equal(union, ~kept)

  # Section 3, equation 1; then a pixel stays if none of the squares around it is there. 4000 draws:
  # a standard deviation of at most 0.5 / sqrt(4000) = 0.008.
  gamma = rate * height * width / covering.sum()
  np.testing.assert_allclose((~kept).mean(axis=(0, 3)), 1 - (1 - gamma) ** covering, atol=0.035)
  pixel = kept[:, 2, 2]  # each example and each channel has its own
  assert len(np.unique(pixel, axis=0)) == 100 and np.unique(pixel, axis=1).shape[1] == 40


def test_drop_block_in_float16_and_where_nothing_is_left():
  x = jnp.full((4, 16, 16, 256), 3.0, jnp.float16)  # more values than the largest float16
  y = dropped(lambda x: layers.drop_block(x, 0.1, 3, train=True), x)
  assert y.dtype == np.float16
  assert y.astype(np.float64).mean() == pytest.approx(3, rel=1e-3)
  none = dropped(lambda x: layers.drop_block(x, 0.999, 2, train=True), x[:1, :2, :2, :3])
  assert not none.any()


IDENTITIES = {
  "spatial_dropout": lambda x, rate, train: layers.spatial_dropout(x, rate, train=train),
  "drop_block": lambda x, rate, train: layers.drop_block(x, rate, 2, train=train),
}


@pytest.mark.parametrize("rate, train", [(0.0, True), (0.5, False)])
@pytest.mark.parametrize("name", IDENTITIES)
def test_drops_are_the_identity_without_a_key(name, rate, train):
  x = jnp.arange(24.0).reshape(2, 2, 2, 3)
  assert jnp.array_equal(Apply(lambda x: IDENTITIES[name](x, rate, train)).apply({}, x), x)


@pytest.mark.parametrize("stages, expected", [
  (1, [0.4]), (2, [0.1, 0.4]), (4, [0, 0, 0.1, 0.4]),
])  # fmt: skip
def test_drop_block_in_the_last_two_stages(stages, expected):
  assert layers.drop_block_rates(0.4, stages) == expected


@pytest.mark.parity
@pytest.mark.parametrize("height, width, size", [(8, 8, 3), (6, 9, 5), (5, 7, 7)])
def test_drop_block_drops_as_much_as_in_torchvision(height, width, size):
  torch = parity.torch()
  from torchvision.ops import drop_block2d

  torch.manual_seed(0)
  theirs = drop_block2d(torch.ones(200, 50, height, width), 0.3, size) == 0
  x = jnp.ones((200, height, width, 50))
  ours = dropped(lambda x: layers.drop_block(x, 0.3, size, train=True), x) == 0
  # 10,000 maps each: standard deviations of at most 0.5 / sqrt(10000) = 0.005 each.
  np.testing.assert_allclose(ours.mean(axis=(0, 3)), theirs.double().mean(dim=(0, 1)), atol=0.03)


def test_option_a_shortcut():
  x = jnp.arange(1.0, 1 + 2 * 5 * 5 * 3).reshape(2, 5, 5, 3)
  y = layers.option_a_shortcut(x, 8, strides=2)
  assert y.shape == (2, 3, 3, 8)
  assert jnp.array_equal(y[..., 2:5], x[:, ::2, ::2])
  assert not y[..., :2].any() and not y[..., 5:].any()


@pytest.mark.parametrize("depth, ends", [
  (1, [1]), (2, [1, 2]), (5, [1, 2, 3, 5]), (12, [3, 6, 9, 12]), (32, [8, 16, 24, 32]),
])  # fmt: skip
def test_equal_blocks_are_read_out_by_quarters(depth, ends):
  found = layers.stages_of(depth)
  assert [*found] == ends and [*found.values()] == [f"stage{i + 1}" for i in range(len(ends))]


def test_activations_at_known_points():
  at = {name: float(function(jnp.float32(-1.0))) for name, function in layers.ACTIVATIONS.items()}
  expected = {
    "relu": 0, "relu6": 0, "leaky_relu": -0.01, "sigmoid": 0.26894142, "tanh": -0.76159416,
    "silu": -0.26894142, "hard_swish": -1 / 3,  # -1 times the sigmoid, and times relu6(2) / 6
    "gelu": -0.15865525,  # -1 times the normal distribution at -1; the tanh form gives -0.15880801
  }  # fmt: skip
  assert at == pytest.approx(expected, abs=1e-7)
  assert float(layers.ACTIVATIONS["relu6"](jnp.float32(7.0))) == 6


def test_convolution_is_the_same_with_and_without_the_barrier():
  x = normal(2, 6, 6, 4)
  conv = lambda train: layers.conv(
    8, 3, strides=2, padding=1, groups=2, dtype=jnp.float32, train=train
  )
  variables = {"params": {"kernel": normal(3, 3, 2, 8)}}
  apply = lambda x, train: conv(train).apply(variables, x)
  gradient = lambda x, train: jax.grad(lambda x: jnp.sum(apply(x, train) ** 2))(x)
  without, with_barrier = jax.jit(lambda x: [(apply(x, t), gradient(x, t)) for t in (0, 1)])(x)
  assert without[0].shape == (2, 3, 3, 8)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), without, with_barrier)
  # Gradients of single examples need the barrier to batch.
  each = jax.eval_shape(jax.vmap(lambda x: gradient(x[None], 1)[0]), x)
  assert each.shape == x.shape


def test_no_window_fits():
  """As the library says it: no pixel is left."""
  x = normal(2, 3, 3, 4)
  conv = layers.conv(6, 5, padding=0, dtype=jnp.float32, train=False)
  assert conv.apply({"params": {"kernel": normal(5, 5, 4, 6)}}, x).shape == (2, 0, 0, 6)


def test_initial_scales():
  conv = layers.conv(256, 3, padding=1, dtype=jnp.float32, train=False)
  kernel = jax.jit(conv.init)(jax.random.key(0), jnp.zeros((1, 1, 1, 64)))["params"]["kernel"]
  assert float(kernel.std()) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)  # fan out
  dense = layers.dense(500, dtype=jnp.float32)
  params = jax.jit(dense.init)(jax.random.key(0), jnp.zeros((1, 400)))["params"]
  assert float(abs(params["kernel"]).max()) == pytest.approx(1 / 20, rel=0.01)  # uniform, fan in
  assert not params["bias"].any()
