"""The ResNet family: counts against other packages, blocks by hand, properties on tiny networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import resnet

IMAGENET, CIFAR, MNIST = (224, 224, 3), (32, 32, 3), (28, 28, 1)


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# (name, overrides, input shape, {classes: parameters}, BN moving statistics, {classes: MACs}).
# Parameters and statistics of ImageNet networks were counted in torchvision 0.28.0 and, for v2, in
# timm 1.0.31; those of the others in torch re-builds of the papers, cross-checked with pytorchcv
# 0.0.74 (resnext29_16x64d: its README). MACs with torch.utils.flop_counter; those of v1 in
# pytorchcv. None: no reference.
# fmt: off
COUNTS = [
  ("resnet18", {}, IMAGENET, {1000: 11689512, 10: 11181642, 100: 11227812}, 9600,
   {1000: 1814073344}),
  ("resnet34", {}, IMAGENET, {1000: 21797672, 10: 21289802, 100: 21335972}, 17024,
   {1000: 3663761408}),
  ("resnet50", {}, IMAGENET, {1000: 25557032, 10: 23528522, 100: 23712932}, 53120,
   {1000: 4089184256}),
  ("resnet50_v1", {}, IMAGENET, {1000: 25557032}, 53120, {1000: 3857973248}),
  ("resnet101", {}, IMAGENET, {1000: 44549160, 10: 42520650, 100: 42705060}, 105344,
   {1000: 7801405440}),
  ("resnet101_v1", {}, IMAGENET, {1000: 44549160}, 105344, {1000: 7570194432}),
  ("resnetv2_50", {}, IMAGENET, {1000: 25549352}, 45440, {1000: 4089184256}),
  ("resnetv2_152", {}, IMAGENET, {1000: 60185128}, 143744, {1000: 11513626624}),
  ("wide_resnet50_2", {}, IMAGENET, {1000: 68883240, 10: 66854730, 100: 67039140}, 68224,
   {1000: 11398021120}),
  ("resnext50_32x4d", {}, IMAGENET, {1000: 25028904, 10: 23000394, 100: 23184804}, 68224,
   {1000: 4230479872}),
  ("resnext29_16x64d", {}, CIFAR, {10: 68155210}, None, {}),
  ("resnet20", {}, CIFAR, {10: 269722, 100: 275572}, 1376, {10: 40551040, 100: 40556800}),
  ("resnet32", {}, CIFAR, {10: 464154, 100: 470004}, 2272, {10: 68862592, 100: 68868352}),
  ("resnet56", {}, CIFAR, {10: 853018, 100: 858868}, 4064, {10: 125485696, 100: 125491456}),
  ("resnet110", {}, CIFAR, {10: 1727962, 100: 1733812}, 8096, {10: 252887680, 100: 252893440}),
  ("resnet20", {"shortcut": "B"}, CIFAR, {10: 272474}, None, {}),
  ("resnet56", {"shortcut": "B"}, CIFAR, {10: 855770}, None, {}),
  ("resnet110", {"shortcut": "B"}, CIFAR, {10: 1730714}, None, {}),
  ("preact_resnet110", {}, CIFAR, {10: 1730522, 100: 1736372}, None, {10: 253149824}),
  ("preact_resnet110_bottleneck", {}, CIFAR, {10: 1146842, 100: 1169972}, 16160,
   {10: 167430656, 100: 167453696}),
  ("preact_resnet164", {}, CIFAR, {10: 1703258, 100: 1726388}, 24224,
   {10: 247646720, 100: 247669760}),
  # At 100 classes the head adds 90 * 257, to 10,350,836; tracing 333 blocks again shows no more.
  ("preact_resnet1001", {}, CIFAR, {10: 10327706}, 149216, {10: 1490995712}),
  ("preact_resnet18", {}, CIFAR, {10: 11171146, 100: 11217316}, 6784,
   {10: 555422720, 100: 555468800}),
  ("resnet18", {"small_images": True}, CIFAR, {10: 11173962, 100: 11220132}, 9600,
   {10: 555422720, 100: 555468800}),
  ("resnet18", {"small_images": True}, MNIST, {10: 11172810}, 9600, {10: 455800832}),
  ("wrn_16_4", {}, CIFAR, {10: 2748890, 100: 2772020}, 3616, {10: 392612352, 100: 392635392}),
  ("wrn_22_8", {}, CIFAR, {10: 17158106, 100: 17204276}, 10784, {10: 2454115328, 100: 2454161408}),
  ("wrn_28_2", {}, CIFAR, {10: 1467610, 100: 1479220}, 3616, {10: 214353152, 100: 214364672}),
  ("wrn_28_10", {}, CIFAR, {10: 36479194, 100: 36536884}, 17952,
   {10: 5243328768, 100: 5243386368}),
  ("wrn_28_12", {}, CIFAR, {10: 52517850, 100: 52587060}, 21536,
   {10: 7543905792, 100: 7543974912}),
  ("wrn_28_20", {}, CIFAR, {10: 145815514, 100: 145930804}, 35872,
   {10: 20919546368, 100: 20919661568}),
  ("wrn_40_8", {}, CIFAR, {10: 35748314, 100: 35794484}, 21536, {10: 5172024320, 100: 5172070400}),
  ("wrn_40_10", {}, CIFAR, {10: 55841754, 100: 55899444}, 26912,
   {10: 8074483968, 100: 8074541568}),
  ("wrn_28_10", {}, MNIST, {10: 36478906}, 17952, {10: 4014199296}),
  ("wrn_16_4", {}, MNIST, {10: 2748602}, 3616, {10: 300368640}),
  ("wrn_16_8", {}, MNIST, {10: 10961082}, 7200, {10: 1185074432}),
]
# fmt: on


@pytest.mark.parametrize(
  "name, overrides, input_shape, parameters, statistics, macs",
  COUNTS,
  ids=["-".join(map(str, (row[0], *row[1].values(), row[2][0]))) for row in COUNTS],
)
def test_counts(measure, name, overrides, input_shape, parameters, statistics, macs):
  for classes, expected in parameters.items():
    counted = measure(name, classes, input_shape, **overrides)
    assert counted[0] == expected
    assert statistics in (None, counted[1])
    assert macs.get(classes) in (None, counted[2])


def test_counts_of_the_cifar_formula(measure):
  def parameters(n):
    """6n+2 layers: 3x3 kernels of 16, 32, 64 maps, gamma and beta a map, a head with bias."""
    kernels = 3 * 16 + 2 * n * 16**2 + (2 * n - 1) * (32**2 + 64**2) + 16 * 32 + 32 * 64
    return 9 * kernels + 2 * (16 + 2 * n * (16 + 32 + 64)) + 64 * 10 + 10

  assert measure("resnet20", 10, CIFAR)[0] == parameters(3)
  assert measure("resnet44", 10, CIFAR)[0] == parameters(7)
  # Table 6 of the paper says 19.4M of its 1202 layers. Tracing 600 blocks here would show no more.
  own = {"stage_sizes": (200, 200, 200)}
  assert models.fields("resnet1202") == models.fields("resnet20") | own
  assert parameters(200) == 19_421_274


TINY = dict(small_images=True, stage_sizes=(1, 1), stem_features=8, features=8)
KINDS = {  # each compiles once, so that each shows several things
  "basic, ImageNet stem": dict(small_images=False),
  "option A, stochastic depth": dict(shortcut="A", drop_path=0.3),
  "ResNeXt": dict(block="bottleneck", groups=4, width_per_group=32),
  "pre-activation, dropout": dict(preact=True, dropout=0.3),
  "pre-activation bottleneck": dict(preact=True, block="bottleneck", final_norm=False),
}


def tiny(**overrides) -> resnet.ResNet:
  return models.create("resnet18", 5, **TINY | overrides)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_reaches_everything(kind, random_variables):
  model = tiny(**KINDS[kind])
  x = normal(8, 9, 9, 3)
  variables = random_variables(model, x)

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def step(params):
    logits, updates = model.apply(
      variables | {"params": params},
      x,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(2)},
    )
    return -jax.nn.log_softmax(logits)[:, 3].mean(), updates["batch_stats"]

  gradients, stats = step(variables["params"])
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)
  differs = lambda old, new: np.not_equal(old, new).all()
  assert jax.tree.all(jax.tree.map(differs, variables["batch_stats"], stats))
  # In evaluation nothing is written: linen raises where a collection that is not mutable would be.
  logits = jax.eval_shape(lambda v: model.apply(v, x, train=False), variables)
  assert logits.shape == (8, 5) and logits.dtype == jnp.float32


def reference_norm(x, params, stats):
  scale = params["scale"] / jnp.sqrt(stats["var"] + 1e-5)
  return (x - stats["mean"]) * scale + params["bias"]


def reference_conv(x, params, *, strides, padding):
  return jax.lax.conv_general_dilated(
    x,
    params["kernel"],
    (strides, strides),
    [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def block_by_hand(x, params, stats):
  y = nn.relu(
    reference_norm(
      reference_conv(x, params["conv1"], strides=2, padding=1), params["norm1"], stats["norm1"]
    )
  )
  y = reference_conv(y, params["conv2"], strides=1, padding=1)
  y = reference_norm(y, params["norm2"], stats["norm2"])
  x = reference_conv(x, params["shortcut_conv"], strides=2, padding=0)
  return nn.relu(y + reference_norm(x, params["shortcut_norm"], stats["shortcut_norm"]))


def preact_block_by_hand(x, params, stats):
  x = nn.relu(reference_norm(x, params["norm1"], stats["norm1"]))
  y = reference_conv(x, params["conv1"], strides=2, padding=1)
  y = nn.relu(reference_norm(y, params["norm2"], stats["norm2"]))
  y = reference_conv(y, params["conv2"], strides=1, padding=1)
  return y + reference_conv(x, params["shortcut_conv"], strides=2, padding=0)


def make_block(block, *, features=4, strides=1, zero_init_gamma=False):
  return block(
    convs=(resnet.ConvSpec(features, 3, strides), resnet.ConvSpec(features, 3)),
    shortcut="B",
    zero_init_gamma=zero_init_gamma,
    dropout=0.0,
    drop_path=0.0,
    dtype=jnp.float32,
  )


@pytest.mark.parametrize(
  "block, by_hand",
  [(resnet.Block, block_by_hand), (resnet.PreActBlock, preact_block_by_hand)],
)
def test_blocks_by_hand(block, by_hand, random_variables):
  x = normal(2, 7, 7, 3)
  module = make_block(block, strides=2)
  variables = random_variables(module, x)
  expected = jax.jit(by_hand)(x, variables["params"], variables["batch_stats"])
  actual = jax.jit(functools.partial(module.apply, train=False))(variables, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [resnet.Block, resnet.PreActBlock])
def test_zero_init_gamma_starts_from_the_identity_and_learns(block):
  x = abs(normal(2, 5, 5, 4))  # >= 0, for the last relu
  last = ("norm2", "scale") if block is resnet.Block else ("conv2", "kernel")

  module = make_block(block, zero_init_gamma=True)

  @jax.jit
  def run(x):
    variables = module.init(jax.random.key(1), x, train=False)

    def output(params):
      y, _ = module.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
      return y

    gradient = jax.grad(lambda params: jnp.sum(output(params) ** 3))(variables["params"])
    return output(variables["params"]), gradient[last[0]][last[1]]

  output, gradient = run(x)
  assert np.array_equal(output, x) and np.any(gradient)


def test_drop_path_grows_linearly_with_depth():
  rates = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, resnet.Block):
      rates.append(context.module.drop_path)
    return call(*args, **kwargs)

  model = tiny(stage_sizes=(2, 3), drop_path=0.5)
  with nn.intercept_methods(record):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 8, 8, 3)))
  assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])  # l / L * p_L


@pytest.mark.parametrize("preact", [False, True])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(preact):
  model = tiny(preact=preact, dtype="bfloat16")
  x = jnp.zeros((2, 8, 8, 3))
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  logits, captured = jax.eval_shape(
    lambda v, x: model.apply(
      v, x, train=True, capture_intermediates=True, mutable=["intermediates", "batch_stats"]
    ),
    variables,
    x,
  )
  assert logits.dtype == captured["batch_stats"]["stage1_block1"]["norm1"]["var"].dtype == "float32"
  inner = captured["intermediates"]
  del inner["head"], inner["__call__"]
  assert {leaf.dtype for leaf in jax.tree.leaves(inner)} == {jnp.dtype("bfloat16")}


@pytest.mark.smoke
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (33, 17, 5), (32, 32, 3)])
def test_any_size_and_any_channels(stem, shape):
  model = tiny(stem=stem)
  logits, _ = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False), jnp.zeros((2, *shape))
  )
  assert logits.shape == (2, 5) and logits.dtype == jnp.float32


@pytest.mark.smoke
def test_parameter_names():
  def names(**overrides):
    model = tiny(stage_sizes=(2, 1), **overrides)
    init = lambda x: model.init(jax.random.key(0), x, train=False)
    params = jax.eval_shape(init, jnp.zeros((1, 8, 8, 3)))["params"]
    return {key: sorted(value) for key, value in params.items()}

  block = ["conv1", "conv2", "norm1", "norm2"]
  assert names() == {
    "stem_conv": ["kernel"],
    "stem_norm": ["bias", "scale"],
    "stage1_block1": block,
    "stage1_block2": block,
    "stage2_block1": [*block, "shortcut_conv", "shortcut_norm"],
    "head": ["bias", "kernel"],
  }
  assert names(preact=True) == {
    "stem_conv": ["kernel"],
    "stage1_block1": block,
    "stage1_block2": block,
    "stage2_block1": [*block, "shortcut_conv"],
    "final_norm": ["bias", "scale"],
    "head": ["bias", "kernel"],
  }


def test_option_a_cannot_drop_channels():
  model = tiny(shortcut="A", stem_features=32)
  with pytest.raises(UserError, match="option A shortcut cannot take 32 channels to 8"):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 8, 8, 3)))
