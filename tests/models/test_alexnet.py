"""AlexNet: counts, local response normalisation by its formula, numbers against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import layers

# Parameters counted in torchvision 0.28.0 and, for the network of 2012, in a torch re-build of the
# paper and in pytorchcv 0.0.74 (without towers); MACs with torch.utils.flop_counter.
# fmt: off
COUNTS = [
  ("alexnet", {}, 224, {1000: 61100840, 10: 57044810, 100: 57413540}, 714188480),
  ("alexnet_2012", {}, 227, {1000: 60965224, 10: 56909194, 100: 57277924}, 724406816),
  ("alexnet_2012", {"groups": 1}, 227, {1000: 62378344}, 1135256096),
]
# fmt: on


@pytest.mark.parametrize("name, overrides, size, parameters, macs", COUNTS)
def test_counts(check_counts, name, overrides, size, parameters, macs):
  check_counts(name, (size, size, 3), parameters, macs, 0, **overrides)


def test_counts_for_small_images(check_counts):
  # Five convolutions and a head with their biases, by hand.
  kernels = 3 * 64 * 11**2 + 64 * 192 * 5**2 + (192 * 384 + 384 * 256 + 256 * 256) * 9 + 256 * 10
  biases = 64 + 192 + 384 + 256 + 256 + 10
  check_counts("alexnet", (32, 32, 3), {10: kernels + biases}, small_images=True)


def test_the_sizes_of_the_maps():
  """Figure 2 of the paper: 55x55, 27x27, 13x13; then 6x6, the input of the dense layers."""
  model = models.create("alexnet_2012", 10, features=(2,) * 5, hidden_features=2)
  images = jnp.zeros((1, 227, 227, 3))
  variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
  run = functools.partial(model.apply, train=False, mutable=["features"])
  found = jax.eval_shape(run, variables, images)[1]["features"]
  sizes = {name: feature.x.shape[1] for name, feature in found.items()}
  assert sizes == {"stem": 55, "stage1": 27, "stage2": 13, "last_pool": 6}


def test_local_response_norm_by_the_formula():
  """Section 3.3 of the paper, one channel after another."""
  x = np.random.default_rng(0).normal(size=(2, 1, 3, 7)) * 30
  expected = np.zeros_like(x)
  for i in range(7):
    near = x[..., max(0, i - 2) : min(7, i + 3)]
    expected[..., i] = x[..., i] / (2 + 1e-4 * (near**2).sum(-1)) ** 0.75
  np.testing.assert_allclose(layers.local_response_norm(jnp.asarray(x)), expected, rtol=1e-5)
  half = layers.local_response_norm(jnp.asarray(x, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(half, np.float32), expected, rtol=0.02)


def test_initial_values_of_2012():
  """Section 5 of the paper. What the layers are given: drawing all of it takes long to compile."""
  found = {}

  def record(call, args, kwargs, context):
    if isinstance(context.module, nn.Conv | nn.Dense):
      found[context.module.name] = context.module
    return call(*args, **kwargs)

  model = models.create("alexnet_2012", 4, features=(8,) * 5, hidden_features=16)
  with nn.intercept_methods(record):
    params = jax.eval_shape(
      lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 67, 67, 3))
    )["params"]
  assert found.keys() == params.keys()
  assert params["conv2"]["kernel"].shape == (5, 5, 4, 8)  # from one tower of two
  assert len({layer.kernel_init for layer in found.values()}) == 1
  kernel = found["conv1"].kernel_init(jax.random.key(0), (100, 100), jnp.float32)
  assert np.std(kernel) == pytest.approx(0.01, rel=0.05)
  biases = {name: float(layer.bias_init(None, ())) for name, layer in found.items()}
  ones = {"conv2", "conv4", "conv5", "dense1", "dense2"}
  assert biases == {name: float(name in ones) for name in params}


@pytest.mark.parametrize("first", [True, False])
def test_dropout_stands_where_it_should(first, random_variables):
  """Before the hidden layers and not before the head, or behind them."""
  model = models.create(
    "alexnet", 4, features=(2,) * 5, hidden_features=64, dropout=0.9, dropout_first=first
  )
  x = jnp.ones((1, 63, 63, 3))
  params = random_variables(model, x)["params"]
  # The last hidden layer gives ones whatever it is given, the head their sum.
  params["dense2"] = {"kernel": jnp.zeros((64, 64)), "bias": jnp.ones(64)}
  params["head"] = {"kernel": jnp.ones((64, 4)), "bias": jnp.zeros(4)}
  run = jax.jit(lambda key: model.apply({"params": params}, x, train=True, rngs={"dropout": key}))
  assert np.all(run(jax.random.key(1)) == 64) == first


def test_bad_fields():
  with pytest.raises(UserError, match="5 convolutions"):
    models.create("alexnet", 10, features=(8, 8))
  with pytest.raises(UserError, match="groups=3 does not divide"):
    models.create("alexnet", 10, groups=3)


@pytest.mark.parity
def test_same_as_torchvision():
  # 255 pixels end in 7x7, from which the adaptive pool takes windows that overlap.
  parity.same_logits("alexnet", "torchvision", parity.torchvision_model("alexnet"), size=255)


@pytest.mark.parity
def test_same_training_as_torchvision():
  reference = parity.torchvision_model("alexnet", num_classes=10, dropout=0.0)
  for i, (width_in, width) in {1: (9216, 32), 4: (32, 32), 6: (32, 10)}.items():
    reference.classifier[i] = parity.torch().nn.Linear(width_in, width)
  parity.same_logits(
    "alexnet", "torchvision", reference, size=127, num_classes=10, train=True,
    hidden_features=32, dropout=0.0,
  )  # fmt: skip


@pytest.mark.parity
def test_same_as_pytorchcv():
  parity.same_logits("alexnet_2012", "pytorchcv", parity.pytorchcv_model("alexnet"), size=227)


@pytest.mark.parity
@pytest.mark.parametrize("train", [False, True])
def test_same_as_two_towers_in_torch(train):
  """pytorchcv's network with the groups put in; alpha so large that the normalisation matters."""
  t = parity.torch()
  reference = parity.pytorchcv_model("alexnet", num_classes=10)
  stages, output = reference.features, reference.output
  for unit, width_in, width, kernel_size in (
    (stages.stage2.unit1, 96, 256, 5),
    (stages.stage3.unit2, 384, 384, 3),
    (stages.stage3.unit3, 384, 256, 3),
  ):
    unit.conv = t.nn.Conv2d(width_in, width, kernel_size, padding=kernel_size // 2, groups=2)
  for unit in (stages.stage1.unit1, stages.stage2.unit1):
    unit.use_lrn = False
    unit.register_forward_hook(  # torch takes the mean of 5 squares
      lambda module, x, y: t.nn.functional.local_response_norm(y, size=5, alpha=0.5, k=2.0)
    )
  stages.register_forward_hook(lambda module, x, y: y.contiguous())  # it calls view
  width = 32 if train else 4096
  output.fc1.fc, output.fc2.fc = t.nn.Linear(9216, width), t.nn.Linear(width, width)
  output.fc3 = t.nn.Linear(width, 10)
  output.fc1.dropout.p = output.fc2.dropout.p = 0.0
  parity.same_logits(
    "alexnet_2012", "pytorchcv", reference, size=227, num_classes=10, train=train, groups=2,
    lrn_alpha=0.1, hidden_features=width, dropout=0.0,
  )  # fmt: skip
