"""ConvMixers: counts, a network by hand, timm."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax import models

IMAGENET, CIFAR = (224, 224, 3), (32, 32, 3)
# Counted in timm 1.0.31, MACs with torch.utils.flop_counter; convmixer_256_8 in the authors' code.
# fmt: off
COUNTS = [
  ("convmixer_768_32", IMAGENET, {1000: 21110248, 10: 20348938, 100: 20418148}, 20676851712, 99840),
  ("convmixer_1536_20", IMAGENET, {1000: 51625960, 10: 50104330, 100: 50242660}, 51099168768,
   125952),
  ("convmixer_1024_20_ks9_p14", IMAGENET, {1000: 24383464, 10: 23368714, 100: 23460964},
   5948547072),
  ("convmixer_256_8", CIFAR, {10: 594186}),
]
# fmt: on


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row[0])
def test_counts(check_counts, row):
  check_counts(*row)


@pytest.mark.parametrize("kernel_size", [3, 4])
def test_by_hand(kernel_size, random_variables):
  model = models.create(
    "convmixer_768_32",
    5,
    features=6,
    depth=1,
    patch_size=2,
    kernel_size=kernel_size,
    activation="gelu",
  )
  x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  variables = jax.tree.map(np.asarray, random_variables(model, x))
  p, stats = variables["params"], variables["batch_stats"]
  erf = np.vectorize(math.erf)

  def act_norm(y, p, stats):
    y = y + p["conv"]["bias"]
    y = y * (1 + erf(y / math.sqrt(2))) / 2
    y = (y - stats["norm"]["mean"]) / np.sqrt(stats["norm"]["var"] + 1e-5)
    return y * p["norm"]["scale"] + p["norm"]["bias"]

  patches = x.reshape(2, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 4, 12)
  y = patches @ p["patch_embed"]["conv"]["kernel"].reshape(12, 6)
  y = act_norm(y, p["patch_embed"], stats["patch_embed"])
  block, block_stats = p["block1"], stats["block1"]
  before = (kernel_size - 1) // 2  # as padding="same" in torch: the larger half behind
  padding = (before, kernel_size - 1 - before)
  padded = np.pad(y, ((0, 0), padding, padding, (0, 0)))
  kernel = block["depthwise"]["conv"]["kernel"]
  mixed = sum(
    padded[:, i : i + 4, j : j + 4] * kernel[i, j, 0]
    for i in range(kernel_size)
    for j in range(kernel_size)
  )
  y = y + act_norm(mixed, block["depthwise"], block_stats["depthwise"])
  y = act_norm(
    y @ block["pointwise"]["conv"]["kernel"][0, 0], block["pointwise"], block_stats["pointwise"]
  )
  expected = y.mean(axis=(1, 2)) @ p["head"]["kernel"] + p["head"]["bias"]
  actual = jax.jit(functools.partial(model.apply, train=False))(variables, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_patches_set_the_stride():
  model = models.create("convmixer_256_8", 10, patch_size=1, depth=2)
  assert models.feature_info(model, (8, 8, 3)) == dict.fromkeys(
    ("stem", "stage1", "stage2"), (1, 256)
  )
  logits = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], jnp.zeros((2, 1, 3, 1))
  )
  assert logits.shape == (2, 10)


def test_each_quarter_of_the_depth_is_a_stage(random_variables):
  """As in a network that ends there: behind blocks 1, 2, 3 and 5 of 5."""
  create = functools.partial(
    models.create, "convmixer_256_8", 5, features=6, patch_size=2, kernel_size=3
  )
  x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  variables = random_variables(create(depth=5), x)
  run = lambda depth: jax.jit(functools.partial(models.features, create(depth=depth)))(variables, x)
  maps = run(5)
  assert [*maps] == ["stage1", "stage2", "stage3", "stage4", "stem"]  # jit sorts
  for name, other in run(3).items():
    np.testing.assert_allclose(maps[name], other, rtol=1e-5, atol=1e-5)
  head = variables["params"]["head"]
  logits = maps["stage4"].mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
  expected = jax.jit(functools.partial(create(depth=5).apply, train=False))(variables, x)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


# Patches of a quarter, rounded up: also of one that is given.
@pytest.mark.parametrize("name, overrides, patch", [
  ("convmixer_768_32", {}, 2), ("convmixer_1024_20_ks9_p14", {}, 4), ("convmixer_256_8", {}, 1),
  ("convmixer_768_32", dict(patch_size=4), 1),
])  # fmt: skip
def test_small_images_take_small_patches(name, overrides, patch):
  model = models.create(name, 5, depth=1, small_images=True, **overrides)
  assert models.feature_info(model, (32, 32, 3))["stem"].stride == patch


@pytest.mark.parity
@pytest.mark.parametrize("activation, kernel_size", [("relu", 7), ("gelu", 4)])
def test_timm_in_training(activation, kernel_size):
  t = parity.torch()
  from timm.models.convmixer import ConvMixer

  acts = {"relu": t.nn.ReLU, "gelu": t.nn.GELU}
  reference = ConvMixer(24, 2, kernel_size, num_classes=10, act_layer=acts[activation])
  parity.same_logits(
    "convmixer_768_32", "timm", reference, size=28, num_classes=10, train=True,
    features=24, depth=2, kernel_size=kernel_size, activation=activation,
  )  # fmt: skip


@pytest.mark.parity
def test_timm():
  reference = parity.timm_model("convmixer_768_32")
  parity.same_logits("convmixer_768_32", "timm", reference, size=28)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["convmixer_1536_20", "convmixer_1024_20_ks9_p14"])
def test_timm_by_shapes(name):
  parity.fits(name, "timm", lambda: parity.timm_model(name).state_dict())
