"""MLP and the small convolutional networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.errors import UserError

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)

# Counted in torch from each example's own file, MACs with torch.utils.flop_counter; by hand where
# the sum is written out.
COUNTS = [
  ("mlp", MNIST, 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10, 784 * 512 + 512 * 256 + 2560),
  ("simple_cnn", MNIST, 1_199_882, 11_992_448),
  ("simple_cnn_flax", MNIST, 824_458, 4_643_840),
  ("simple_cnn_keras", MNIST, 34_826, 2_440_960),
  (
    "simple_cnn_small",
    CIFAR,
    448 + 4640 + (8 * 8 * 32) * 64 + 64 + 64 * 10 + 10,
    32 * 32 * 27 * 16 + 16 * 16 * 144 * 32 + 8 * 8 * 32 * 64 + 64 * 10,
  ),
]


@pytest.mark.smoke
@pytest.mark.parametrize("name, input_shape, parameters, macs", COUNTS)
def test_counts(measure, name, input_shape, parameters, macs):
  assert models.lookup(name).input_shape == input_shape
  assert measure(name, 10, input_shape) == (parameters, 0, macs)


def test_options_of_simple_cnn(measure):
  # No pool: 8x8 pixels stay. Batch norm replaces the bias of a convolution by gamma and beta.
  options = dict(conv_features=(4,), dense_features=(), pool="none")
  parameters, _, _ = measure("simple_cnn_small", 10, (8, 8, 3), **options)
  assert parameters == 27 * 4 + 4 + 8 * 8 * 4 * 10 + 10
  parameters, statistics, _ = measure(
    "simple_cnn_small", 10, (8, 8, 3), batch_norm=True, kernel_size=1, **options
  )
  assert (parameters, statistics) == (3 * 4 + 2 * 4 + 8 * 8 * 4 * 10 + 10, 2 * 4)


@pytest.mark.parametrize("name", ["mlp", "simple_cnn"])
def test_dropout_acts_in_training_only(name, random_variables):
  model = models.create(name, 10)
  x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
  variables = random_variables(model, x)

  @functools.partial(jax.jit, static_argnames="train")
  def run(seed, *, train):
    return model.apply(variables, x, train=train, rngs={"dropout": jax.random.key(seed)})

  assert not np.array_equal(run(0, train=True), run(1, train=True))
  assert np.array_equal(run(0, train=True), run(0, train=True))
  assert np.array_equal(run(0, train=False), run(1, train=False))


def test_dropout_of_whole_channels_before_they_are_flattened(random_variables):
  options = dict(
    conv_features=(20,), kernel_size=1, dense_features=(), pool="none", conv_dropout=0.5
  )
  model = models.create("simple_cnn_small", 0, conv_dropout_kind="channel", **options)
  x = np.ones((30, 3, 3, 1), np.float32)
  variables = random_variables(model, x)
  y = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
  whole = model.apply(variables, x, train=False)
  kept = (np.asarray(y) != 0).reshape(30, 9, 20)[:, :, np.asarray(whole[0, :20]) > 0]
  assert kept.shape[2] > 5 and (kept == kept[:, :1]).all() and 0.3 < kept.mean() < 0.7


def test_bfloat16_gives_float32_logits_and_parameters():
  for name in ("mlp", "simple_cnn"):
    model = models.create(name, 10, dtype="bfloat16")
    x = jnp.zeros((2, 8, 8, 1))
    variables = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x, train=False), x)
    logits = jax.eval_shape(lambda v, x, m=model: m.apply(v, x, train=False), variables, x)
    assert logits.dtype == jnp.float32 and logits.shape == (2, 10)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["mlp", "simple_cnn", "lenet5", "lenet5_1998"])
@pytest.mark.parametrize(
  "images",
  [jnp.zeros((1, 28, 28), "float32"), jnp.zeros((1, 28, 28, 1), "uint8")],
  ids=["3-D", "uint8"],
)
def test_what_are_not_images_says_so(name, images):
  model = models.create(name, 10)
  with pytest.raises(UserError, match="takes normalised float images"):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)


@pytest.mark.parametrize("name, shape, message", [
  ("mlp", (28, 28, 3), "dense1 was made for 784 features, its input has 2352"),
  ("mlp", (32, 32, 1), "dense1 was made for 784 features, its input has 1024"),
  ("simple_cnn", (32, 32, 1), "dense1 was made for 9216 features, its input has 12544"),
  ("simple_cnn_keras", (32, 32, 1), "head was made for 1600 features, its input has 2304"),
  ("simple_cnn", (28, 28, 3), "conv1 was made for 1 channels, its input has 3"),
  ("lenet5_1998", (28, 28, 3), "c1 was made for 1 channels, its input has 3"),
])  # fmt: skip
def test_other_images_than_it_was_made_for(name, shape, message):
  model = models.create(name, 10)
  run = lambda x: model.init(jax.random.key(0), x, train=False)
  variables = jax.eval_shape(run, jnp.zeros((1, 28, 28, 1)))
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, jnp.zeros((1, *shape)))


def test_maps_of_the_stages_of_simple_cnn():
  """Each convolution before its pool: 28 - 2 - 2 pixels, then half."""
  info = lambda name: models.feature_info(models.create(name, 10), models.lookup(name).input_shape)
  assert info("simple_cnn") == {"stage1": (1, 32), "stage2": (1, 64)}  # a pool behind both
  assert info("simple_cnn_small") == {"stage1": (1, 16), "stage2": (2, 32)}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_too_small_an_input_says_so(size):
  model = models.create("simple_cnn_keras", 10)
  with pytest.raises(UserError, match="smallest image that this model takes is 10x10, got"):
    jax.eval_shape(
      lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, size, size, 1))
    )
