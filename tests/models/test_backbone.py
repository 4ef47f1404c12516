"""Feature maps for a module around a backbone: in initialisation, training and evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import backbone

SMALL = dict(stage_sizes=(1, 1), stem_features=4, features=4, small_images=True, drop_path=0.5)
STRIDES = {"stem": 1, "stage1": 1, "stage2": 2}


class InSetup(nn.Module):
  def setup(self):
    self.net = models.create("resnet18", 0, **SMALL)

  def __call__(self, x, *, train):
    return self.net.feature_maps(x, train=train)


class Compact(nn.Module):
  """A decoder of both stages."""

  @nn.compact
  def __call__(self, x, *, train):
    maps = InSetup(name="around")(x, train=train)
    fine, coarse = (nn.Dense(3, name=name)(maps[name].x) for name in ("stage1", "stage2"))
    return fine + jax.image.resize(coarse, fine.shape, "nearest")


@pytest.fixture(scope="module", name="images")
def images_fixture():
  return np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("train", [False, True])
def test_initialised_with_the_maps(images, train):
  """The same parameters as by itself, but for the last layer, which the trunk does not call."""
  rngs = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(0)), strict=True))
  init = lambda model: jax.eval_shape(functools.partial(model.init, train=train), rngs, images)
  variables = init(Compact())
  assert set(variables) == {"params", "batch_stats"}
  assert set(variables["params"]) == {"around", "stage1", "stage2"}
  wanted = init(models.create("resnet18", 5, **SMALL))
  wanted["params"].pop("head")
  assert {name: variables[name]["around"]["net"] for name in wanted} == wanted


def test_the_same_bits_as_inside_the_network(images, random_variables):
  """Stochastic depth draws the same, and batch statistics move once."""
  model = models.create("resnet18", 5, **SMALL)
  variables = random_variables(model, images)

  def run(method):
    return jax.jit(lambda v, x: model.apply(
      v, x, train=True, method=method, rngs={"dropout": jax.random.key(1)},
      mutable=["batch_stats", "features"],
    ))(variables, images)  # fmt: skip

  logits, plain = run("__call__")
  maps, updated = run("feature_maps")
  (again, both), moved = run("logits_and_maps")
  jax.tree.map(np.testing.assert_array_equal, maps, plain["features"])
  jax.tree.map(np.testing.assert_array_equal, (again, both), (logits, maps))
  for found in (updated, moved):
    jax.tree.map(np.testing.assert_array_equal, found["batch_stats"], plain["batch_stats"])
  before = variables["batch_stats"]["stem_norm"]["mean"]
  x = jax.lax.conv_general_dilated(
    images, variables["params"]["stem_conv"]["kernel"], (1, 1), "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  once = 0.9 * before + 0.1 * x.mean((0, 1, 2))  # twice would be 0.81 and 0.19
  np.testing.assert_allclose(updated["batch_stats"]["stem_norm"]["mean"], once, atol=1e-5)
  assert {name: found.stride for name, found in maps.items()} == STRIDES


def test_gradients_reach_all_of_it(images, random_variables):
  variables = random_variables(Compact(), images)

  @jax.jit
  def gradient(params):
    def loss(params):
      options = dict(train=True, rngs={"dropout": jax.random.key(3)}, mutable=["batch_stats"])
      decoded, _ = Compact().apply({**variables, "params": params}, images, **options)
      return jnp.sum(decoded**2)

    return jax.grad(loss)(params)

  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
    assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)


def test_read_and_perturbed_from_outside(images, random_variables):
  """`models.features` and gradients of a stage (Grad-CAM) through a module around it."""
  variables = random_variables(Compact(), images)
  info = models.feature_info(Compact(), (6, 6, 3))
  assert {name: found.stride for name, found in info.items()} == {
    f"around/net/{name}": stride for name, stride in STRIDES.items()
  }
  maps = models.features(Compact(), variables, images)
  decoder = variables["params"]

  def decoded(stage2):
    zeros = {"around": {"net": {"stage2": stage2}}}
    return Compact().apply({**variables, "perturbations": zeros}, images, train=False).sum()

  fine, coarse = (
    maps[f"around/net/{name}"] @ decoder[name]["kernel"] + decoder[name]["bias"]
    for name in ("stage1", "stage2")
  )
  found, gradient = jax.value_and_grad(decoded)(jnp.zeros((4, 3, 3, 8)))
  np.testing.assert_allclose(found, fine.sum() + 4 * coarse.sum(), rtol=1e-4)
  # Each coarse pixel is four fine ones.
  by_hand = np.broadcast_to(4 * decoder["stage2"]["kernel"].sum(1), gradient.shape)
  np.testing.assert_allclose(gradient, by_hand, rtol=1e-4)


def test_no_parameters_behind_the_trunk():
  """The 13 convolutions of VGG-16 have 14,714,688; all of it has 138,357,544."""
  model = models.create("vgg16", 1000)
  init = functools.partial(model.init, train=False, method="feature_maps")
  shapes = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), "float32"))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 14_714_688


def test_a_network_without_maps():
  images = np.zeros((1, 8, 8, 1), np.float32)
  with pytest.raises(UserError, match="MLP has no feature maps: choose a model with some"):
    models.create("mlp", 5).apply({}, images, train=True, method="feature_maps")


def test_run_stages():
  """Which block is made of what, the strides, and where the marks stand."""

  class Add(nn.Module):
    value: int
    strides: int

    def __call__(self, x, *, train, drop_path=0.0):
      x = x[:, :: self.strides, :: self.strides] + self.value
      return jnp.concatenate([x, jnp.full_like(x, drop_path)], axis=-1)

  made, marks = [], []

  def block(stage, number, width, *, strides, name):
    made.append((stage, number, width, strides, name))
    return Add(10 * stage + number, strides, parent=None)

  def mark(name, x, *, stride):
    marks.append((name, x.shape, stride))
    return x

  strides = backbone.first_strided([1, 2], [2, 1])
  assert strides == [[1, 1], [2]]
  x, stride = backbone.run_stages(
    block, strides, jnp.zeros((1, 4, 4, 1)), mark, stride=2, train=True, remat=False,
    drop_path=[0.1, 0.2, 0.3],
  )  # fmt: skip
  assert made == [
    (0, 0, 1, 1, "stage1_block1"), (0, 1, 2, 1, "stage1_block2"), (1, 0, 4, 2, "stage2_block1"),
  ]  # fmt: skip
  assert marks == [("stage1", (1, 4, 4, 4), 2), ("stage2", (1, 2, 2, 8), 4)] and stride == 4
  np.testing.assert_allclose(x[0, 0, 0], [11, 11.1, 10.2, 10.2, 0.3, 0.3, 0.3, 0.3], rtol=1e-6)
