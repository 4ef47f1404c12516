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
    "convmixer_768_32", 5, features=6, depth=1, patch_size=2, kernel_size=kernel_size, act="gelu"
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
  assert models.feature_info(model, (8, 8, 3)) == {"stem": (1, 256), "stage1": (1, 256)}
  logits = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], jnp.zeros((2, 1, 3, 1))
  )
  assert logits.shape == (2, 10)


@pytest.mark.parity
@pytest.mark.parametrize("act, kernel_size", [("relu", 7), ("gelu", 4)])
def test_timm_in_training(act, kernel_size):
  t = parity.torch()
  from timm.models.convmixer import ConvMixer

  acts = {"relu": t.nn.ReLU, "gelu": t.nn.GELU}
  reference = ConvMixer(24, 2, kernel_size, num_classes=10, act_layer=acts[act])
  parity.same_logits(
    "convmixer_768_32", "timm", reference, size=28, num_classes=10, train=True,
    features=24, depth=2, kernel_size=kernel_size, act=act,
  )  # fmt: skip


@pytest.mark.parity
def test_timm():
  reference = parity.timm_model("convmixer_768_32")
  parity.same_logits("convmixer_768_32", "timm", reference, size=28)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["convmixer_1536_20", "convmixer_1024_20_ks9_p14"])
def test_timm_by_shapes(name):
  parity.fits(name, "timm", lambda: parity.timm_model(name).state_dict())
