"""LeNet-5, as it is used today and as published."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import lenet


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize("size", [28, 32])
def test_counts_of_today(measure, size):
  # Built from the paper in torch and counted, MACs with torch.utils.flop_counter.
  assert measure("lenet5", 10, (size, size, 1)) == (61_706, 0, 416_520)
  assert measure("lenet5", 100, (size, size, 1))[0] == 69_356


def test_counts_of_1998():
  # Section II.B of the paper, layer by layer; 60,000 in all (introduction of section III).
  model = models.create("lenet5_1998", 10)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 28, 28, 1))
  )
  count = {
    layer: sum(leaf.size for leaf in leaves.values())
    for layer, leaves in variables["params"].items()
  }
  assert count == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164}
  assert sum(count.values()) == 60_000


def test_c3_table_is_the_papers():
  inputs = [set(np.flatnonzero(column)) for column in lenet.C3_CONNECTED.T]
  contiguous = lambda length: [{(first + i) % 6 for i in range(length)} for first in range(6)]
  assert inputs[:6] == contiguous(3)  # every contiguous subset of three
  assert inputs[6:12] == contiguous(4)  # every contiguous subset of four
  assert inputs[12:15] == [{0, 1, 3, 4}, {1, 2, 4, 5}, {0, 2, 3, 5}]  # discontinuous ones of four
  assert inputs[15] == set(range(6))


def test_c3_maps_see_only_their_inputs():
  layer = lenet.C3(dtype=jnp.float32)
  x = normal(1, 5, 5, 6)
  variables = jax.jit(layer.init)(jax.random.key(1), x)
  jacobian = jax.jit(jax.jacrev(lambda x: layer.apply(variables, x)[0, 0, 0]))(x)
  touched = (np.asarray(jacobian) != 0).any(axis=(1, 2, 3))  # of [16, 1, 5, 5, 6]
  assert np.array_equal(touched, lenet.C3_CONNECTED.T)
  largest = abs(np.asarray(variables["params"]["kernel"])).max(axis=(0, 1))
  fan_in = 25 * lenet.C3_CONNECTED.sum(axis=0)[np.nonzero(lenet.C3_CONNECTED)[1]]
  assert (largest <= 2.4 / fan_in).all() and (largest > 1.2 / fan_in).all()


def test_subsampling_by_hand():
  layer = lenet.Subsample(dtype=jnp.float32)
  params = {"coefficient": jnp.array([2.0, -1.0]), "bias": jnp.array([0.5, 0.0])}
  x = jnp.stack([jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.ones((2, 2))], axis=-1)[None]
  np.testing.assert_allclose(layer.apply({"params": params}, x), [[[[20.5, -4.0]]]])


def test_squash_fixes_plus_and_minus_one():
  np.testing.assert_allclose(lenet.squash(jnp.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 10, 47, 100])
def test_prototypes_are_fixed_codes_that_differ(num_classes):
  codes = lenet.prototypes(num_classes)
  assert codes.shape == (num_classes, 84) and set(np.unique(codes)) == {-1, 1}
  assert np.array_equal(codes, lenet.prototypes(num_classes))
  differing = (codes[:, None] != codes).sum(axis=-1)[~np.eye(num_classes, dtype=bool)]
  assert differing.min() >= 4


def test_logits_of_1998_are_minus_squared_distances(random_variables):
  model = models.create("lenet5_1998", 10)
  x = normal(2, 28, 28, 1)
  params = random_variables(model, x)["params"]
  # With F6 silenced but for a bias that squashes to the bitmap of 3, class 3 is at distance 0.
  to_code = np.arctanh(lenet.prototypes(10)[3] / 1.7159) * 1.5
  f6 = {"kernel": np.zeros((1, 1, 120, 84), np.float32), "bias": to_code}
  apply = jax.jit(functools.partial(model.apply, train=False))
  logits = apply({"params": params | {"f6": f6}}, x)
  differing = (lenet.prototypes(10) != lenet.prototypes(10)[3]).sum(axis=-1)
  np.testing.assert_allclose(logits, np.stack([-4.0 * differing] * 2), rtol=1e-5, atol=1e-5)


def test_without_classes_1998_gives_f6(random_variables):
  model, x = models.create("lenet5_1998", 0), normal(2, 28, 28, 1)
  variables = random_variables(model, x)
  f6 = jax.jit(functools.partial(model.apply, train=False))(variables, x)
  logits = jax.jit(functools.partial(models.create("lenet5_1998", 10).apply, train=False))(
    variables, x
  )
  assert (f6.shape, f6.dtype) == ((2, 84), jnp.float32)
  distances = ((f6[:, None] - lenet.prototypes(10)) ** 2).sum(axis=-1)
  np.testing.assert_allclose(logits, -distances, rtol=1e-5)


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998"])
def test_maps_of_the_stages(name):
  """C1, C3 and C5 of the paper, 28x28, 10x10 and 1x1."""
  model, images = models.create(name, 10), jnp.zeros((2, 28, 28, 1))
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
  maps = jax.eval_shape(functools.partial(models.features, model), variables, images)
  assert {key: x.shape[1:] for key, x in maps.items()} == {
    "stage1": (28, 28, 6), "stage2": (10, 10, 16), "stage3": (1, 1, 120),
  }  # fmt: skip
  assert [info.stride for info in models.feature_info(model, (28, 28, 1)).values()] == [1, 2, 4]


def test_images_stand_in_the_middle_of_the_field():
  x = normal(2, 28, 29, 1)
  padded = np.pad(x, ((0, 0), (2, 2), (1, 2), (0, 0)))
  assert np.array_equal(lenet.centre_on_field(x), padded)


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998"])
@pytest.mark.parametrize("height, width", [(27, 28), (28, 33), (224, 224), (8, 8)])
def test_other_sizes_say_what_is_taken(name, height, width):
  model = models.create(name, 10)
  with pytest.raises(UserError, match=f"28x28 to 32x32, got {height}x{width}.*image_size=32"):
    jax.eval_shape(
      lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, height, width, 1))
    )


@pytest.mark.parametrize("name, overrides", [("lenet5", {"pool": "max"}), ("lenet5_1998", {})])
def test_every_parameter_learns(name, overrides, random_variables):
  model = models.create(name, 10, dtype="bfloat16", **overrides)
  x = normal(4, 32, 32, 1)
  params = random_variables(model, x)["params"]
  weights = normal(4, 10)

  def loss(params):
    logits = model.apply({"params": params}, x, train=True)
    assert logits.dtype == jnp.float32
    return jnp.sum(logits * weights)

  for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
    assert np.isfinite(gradient).all() and np.any(gradient), jax.tree_util.keystr(path)
