"""ConvNeXt: counts and weights of the references; the block by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import convnext

IMAGENET = (224, 224, 3)
# {classes: parameters}, MACs at 224x224: counted in timm 1.0.31 on the meta device, MACs with
# torch.utils.flop_counter. torchvision 0.28.0 and Keras 3.15.1 have the same T, S, B and L.
# A class more or less is a row of the head, in all of them.
# fmt: off
COUNTS = {
  "convnext_tiny": ({1000: 28589128, 10: 27827818, 100: 27897028}, 4455531264),
  "convnext_small": ({1000: 50223688}, 8683712256),
  "convnext_base": ({1000: 88591464, 10: 87576714, 100: 87668964}, 15354729472),
  "convnext_large": ({1000: 197767336, 10: 196245706, 100: 196384036}, 34361433600),
  "convnext_xlarge": ({1000: 350196968}, 60921030656),
  "convnextv2_atto": ({1000: 3708400, 10: 3390610, 100: 3419500}, 547332480),
  "convnextv2_femto": ({1000: 5233240}, 779629824),
  "convnextv2_pico": ({1000: 9066280}, 1367055360),
  "convnextv2_nano": ({1000: 15623800}, 2445528320),
  "convnextv2_tiny": ({1000: 28635496}, 4455531264),
  "convnextv2_base": ({1000: 88717800}, 15354729472),
  "convnextv2_large": ({1000: 197956840}, 34361433600),
  "convnextv2_huge": ({1000: 660289640}, 114922100480),
}
# fmt: on
SIZES = ("tiny", "small", "base", "large", "xlarge")
SMALL = dict(stage_sizes=(1, 2), features=(4, 8), small_images=True)


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(check_counts, name):
  parameters, macs = COUNTS[name]
  check_counts(name, IMAGENET, parameters, macs, 0)


def test_every_variant_is_counted():
  assert set(models.names("convnext*")) == set(COUNTS)


def draw(module, x):
  """Variables of a block, away from their initial values."""
  init = functools.partial(module.init, train=False, drop_path=0.0)
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(init, jax.random.key(0), x)
  return jax.tree.map(lambda v: rng.uniform(-1, 1, v.shape).astype(np.float32), shapes)


def block_by_hand(x, params):
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  kernel = params["depthwise"]["kernel"][:, :, 0]
  y = sum(padded[:, i : i + 5, j : j + 5] * kernel[i, j] for i in range(3) for j in range(3))
  y = y + params["depthwise"]["bias"]
  y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
  y = y * params["norm"]["scale"] + params["norm"]["bias"]
  y = y @ params["expand"]["kernel"] + params["expand"]["bias"]
  y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2  # GELU, exact
  if "response_norm" in params:
    size = np.sqrt((y**2).sum((1, 2)))  # of each channel over the image
    weight = (size / size.mean(-1, keepdims=True))[:, None, None]
    y = y + params["response_norm"]["scale"] * y * weight + params["response_norm"]["bias"]
  y = y @ params["project"]["kernel"] + params["project"]["bias"]
  return x + y * params.get("layer_scale", 1)


@pytest.mark.parametrize("response_norm", [False, True])
def test_block_by_hand(response_norm):
  module = convnext.Block(
    kernel_size=3, layer_scale=0.0 if response_norm else 1e-6, response_norm=response_norm,
    norm="layer", dtype=jnp.float32,
  )  # fmt: skip
  x = normal(2, 5, 5, 4)
  variables = draw(module, x)
  assert ("layer_scale" in variables["params"]) != response_norm
  y = module.apply(variables, x, train=False, drop_path=0.0)
  np.testing.assert_allclose(y, block_by_hand(x, variables["params"]), rtol=1e-4, atol=1e-5)


def test_response_norm_of_channels_that_are_zero():
  """As for a black image at initialisation: x = 0 gives 0, and finite gradients."""
  module, x = convnext.ResponseNorm(), jnp.zeros((1, 2, 2, 3))
  variables = {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
  gradient = jax.grad(lambda x: jnp.sum(module.apply(variables, x)))
  for images in (x, x.at[..., 0].set(1.0)):
    assert np.isfinite(gradient(images)).all()
    np.testing.assert_array_equal(module.apply(variables, images)[..., 1:], 0)


def test_drop_path_grows_linearly_from_zero():
  rates = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, convnext.Block):
      rates.append(kwargs["drop_path"])
    return call(*args, **kwargs)

  model = models.create("convnext_tiny", 5, **SMALL, drop_path=0.4)
  with nn.intercept_methods(record):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 8, 8, 3)))
  assert rates == pytest.approx([0, 0.2, 0.4])
  drop_paths = [models.fields(f"convnext_{size}")["drop_path"] for size in SIZES]
  assert drop_paths == [0.1, 0.4, 0.5, 0.5, 0.2]  # arXiv:2201.03545 table 5


def test_small_images_keep_twice_the_resolution():
  for small, strides in ((False, [4, 4, 8, 16, 32]), (True, [2, 2, 4, 8, 16])):
    model = models.create("convnextv2_atto", 10, small_images=small)
    info = models.feature_info(model, (32, 32, 3))
    assert [stage.stride for stage in info.values()] == strides
    assert [stage.width for stage in info.values()] == [40, 40, 80, 160, 320]
    smallest = strides[-1]
    with pytest.raises(UserError, match=f"{smallest}x{smallest}"):
      models.feature_info(model, (smallest - 1, 64, 3))


def test_initial_values():
  model = models.create("convnext_tiny", 100, **SMALL)
  args = jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  init = jax.jit(functools.partial(model.init, train=False)).lower(*args)
  quick = {"xla_backend_optimization_level": 0}  # to compile
  params = init.compile(compiler_options=quick)(*args)["params"]
  assert np.std(params["head"]["kernel"]) == pytest.approx(0.02, rel=0.1)
  assert np.std(params["stage2_block1"]["expand"]["kernel"]) == pytest.approx(0.02, rel=0.2)
  np.testing.assert_array_equal(params["stage1_block1"]["layer_scale"], np.float32(1e-6))


def test_features_and_stage_sizes_go_together():
  with pytest.raises(UserError, match="same length"):
    models.create("convnext_tiny", 10, stage_sizes=(1, 2))


@pytest.mark.parity
def test_torchvision_and_training():
  reference = parity.torchvision_model("convnext_tiny", stochastic_depth_prob=0.0)
  parity.same_logits("convnext_tiny", "torchvision", reference, size=32, train=True, drop_path=0.0)


@pytest.mark.parity
def test_v2_of_timm_and_training():
  reference = parity.timm_model("convnextv2_atto")
  parity.same_logits("convnextv2_atto", "timm", reference, size=48, train=True)


@pytest.mark.parity
def test_keras():
  parity.same_logits_keras(
    "convnext_tiny",
    lambda: parity.keras_model(
      "ConvNeXtTiny", include_preprocessing=False, input_shape=(48, 48, 3)
    ),
    size=48,
  )


@pytest.mark.parity
@pytest.mark.parametrize("name", COUNTS)
def test_weights_fit(name):
  parity.fits(name, "timm", lambda: parity.timm_model(name).state_dict())
  if name in ("convnext_small", "convnext_base", "convnext_large"):
    parity.fits(name, "torchvision", lambda: parity.torchvision_model(name).state_dict())
