"""Vision transformers: counts, a network by hand, position embeddings, timm and torchvision."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import vit

IMAGENET = (224, 224, 3)
TINY = dict(features=12, depth=2, heads=3, patch_size=4)
# Counted in timm 1.0.31, MACs with torch.utils.flop_counter, attention unfused.
# fmt: off
COUNTS = [
  ("vit_tiny_patch16_224", IMAGENET, {1000: 5717416, 10: 5526346, 100: 5543716}, 1253683200, 0),
  ("vit_small_patch16_224", IMAGENET, {1000: 22050664, 10: 21669514, 100: 21704164}, 4598882304, 0),
  ("vit_base_patch16_224", IMAGENET, {1000: 86567656, 10: 85806346, 100: 85875556}, 17563828224, 0),
  ("vit_base_patch32_224", IMAGENET, {1000: 88224232, 10: 87462922, 100: 87532132}, 4409186304, 0),
]
# fmt: on


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row[0])
def test_counts(check_counts, row):
  check_counts(*row)


def shapes(model, *shape):
  init = functools.partial(model.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_by_hand(pool, random_variables):
  model = models.create("vit_tiny_patch16_224", 5, **TINY | dict(depth=1), pool=pool)
  x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
  p = jax.tree.map(np.asarray, random_variables(model, x)["params"])
  dense = lambda y, p: y @ p["kernel"] + p["bias"]

  def norm(y, p):
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    return y * p["scale"] + p["bias"]

  patches = x.reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 48)
  embed = {**p["patch_embed"], "kernel": p["patch_embed"]["kernel"].reshape(48, 12)}
  y = dense(patches, embed)
  if pool == "token":
    y = np.concatenate([np.tile(p["token"], (2, 1, 1)), y], axis=1)
  y = y + p["position_embedding"]
  block = p["block1"]
  q, k, v = np.split(dense(norm(y, block["norm1"]), block["qkv"]), 3, axis=-1)
  outputs = []
  for i in range(3):
    head = slice(4 * i, 4 * i + 4)
    weights = np.exp(q[..., head] @ k[..., head].transpose(0, 2, 1) / math.sqrt(4))
    outputs.append(weights / weights.sum(-1, keepdims=True) @ v[..., head])
  y = y + dense(np.concatenate(outputs, axis=-1), block["project"])
  hidden = dense(norm(y, block["norm2"]), block["mlp1"])
  hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
  y = norm(y + dense(hidden, block["mlp2"]), p["final_norm"])
  expected = dense(y[:, 0] if pool == "token" else y.mean(axis=1), p["head"])
  actual = jax.jit(functools.partial(model.apply, train=False))({"params": p}, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_position_embeddings_are_for_one_image_size():
  model = models.create("vit_tiny_patch16_224", 5, **TINY)
  variables = shapes(model, 1, 8, 8, 3)
  assert variables["params"]["position_embedding"].shape == (1, 5, 12)
  with pytest.raises(UserError, match=r"made for 5 tokens, these images give 7"):
    jax.eval_shape(functools.partial(model.apply, train=False), variables, jnp.zeros((1, 8, 12, 3)))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_features_are_maps_without_the_class_token(pool, random_variables):
  model = models.create("vit_tiny_patch16_224", 5, **TINY, pool=pool)
  x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
  variables = random_variables(model, x)
  maps = jax.jit(functools.partial(models.features, model))(variables, x)
  assert {name: m.shape for name, m in maps.items()} == dict.fromkeys(
    ("stem", "stage1", "stage2"), (2, 2, 3, 12)
  )
  p = variables["params"]
  tokens = maps["stem"].reshape(2, 6, 12)
  if pool == "token":
    tokens = jnp.concatenate([jnp.tile(p["token"], (2, 1, 1)), tokens], axis=1)
  tokens += p["position_embedding"]
  run = jax.jit(functools.partial(vit.Block(3, 4.0, 0.0, jnp.float32).apply, train=False))
  for i in 1, 2:
    tokens = run({"params": p[f"block{i}"]}, tokens, drop_path=0.0)
    y = tokens[:, -6:]
    if i == 2:  # behind the last norm
      y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-6)
      y = y * p["final_norm"]["scale"] + p["final_norm"]["bias"]
    np.testing.assert_allclose(maps[f"stage{i}"], y.reshape(2, 2, 3, 12), rtol=1e-4, atol=1e-4)


def test_each_quarter_of_the_depth_is_a_stage():
  model = models.create("vit_tiny_patch16_224", 5, features=12, patch_size=4, pool="avg")
  assert models.feature_info(model, (8, 12, 3)) == dict.fromkeys(
    ("stem", "stage1", "stage2", "stage3", "stage4"), (4, 12)
  )


@pytest.mark.parametrize("stage, reaches", [("stage1", True), ("stage2", False)])
def test_the_class_token_depends_on_the_patches_of_all_stages_but_the_last(
  stage, reaches, random_variables
):
  """By perturbations, as for Grad-CAM: they go on into the next block."""
  model = models.create("vit_tiny_patch16_224", 5, **TINY)
  variables = random_variables(model, jnp.zeros((1, 8, 8, 3)))
  x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)

  @jax.jit
  @jax.grad
  def gradient(perturbation):
    perturbed = {**variables, "perturbations": {stage: perturbation}}
    return model.apply(perturbed, x, train=False)[0, 0]

  found = gradient(jnp.zeros((1, 2, 2, 12)))
  assert np.all(np.any(found, axis=-1) == reaches)


# Patches of a quarter: also of one that is given, and not less than a pixel.
@pytest.mark.parametrize("patch_size, patch", [(16, 4), (32, 8), (8, 2), (1, 1)])
def test_small_images_take_small_patches(patch_size, patch):
  model = models.create(
    "vit_tiny_patch16_224", 5, depth=1, patch_size=patch_size, small_images=True
  )
  assert models.feature_info(model, (32, 32, 3))["stem"].stride == patch


def test_heads_must_divide_features():
  with pytest.raises(UserError, match="features 12 must be a multiple of heads 5"):
    models.create("vit_tiny_patch16_224", 5, features=12, heads=5)


@pytest.mark.parity
def test_timm_in_training():
  reference = parity.timm_model(
    "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3,
    num_classes=10,
  )  # fmt: skip
  parity.same_logits(
    "vit_tiny_patch16_224", "timm", reference, size=32, num_classes=10, train=True,
    features=48, depth=2, patch_size=8,
  )  # fmt: skip


@pytest.mark.parity
def test_timm():
  reference = parity.timm_model("vit_tiny_patch16_224", img_size=64)
  parity.same_logits("vit_tiny_patch16_224", "timm", reference, size=64)


@pytest.mark.parity
@pytest.mark.parametrize("name", [row[0] for row in COUNTS])
def test_timm_by_shapes(name):
  parity.fits(name, "timm", lambda: parity.timm_model(name).state_dict())


@pytest.mark.parity
def test_torchvision():
  parity.torch()
  from torchvision.models import VisionTransformer

  reference = VisionTransformer(32, 8, 2, 3, 48, 192, num_classes=10)
  parity.same_logits(
    "vit_base_patch16_224", "torchvision", reference, size=32, num_classes=10, train=True,
    features=48, depth=2, heads=3, patch_size=8,
  )  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("patch", [16, 32])
def test_torchvision_by_shapes(patch):
  make = lambda: parity.torchvision_model(f"vit_b_{patch}").state_dict()
  parity.fits(f"vit_base_patch{patch}_224", "torchvision", make)
