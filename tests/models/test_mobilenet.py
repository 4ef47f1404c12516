"""MobileNet v1 to v4: counts, the numbers of torchvision, timm and Keras, widths and strides."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import layers, mobilenet, mobilenet_v4

IMAGENET = (224, 224, 3)

# (name, {classes: parameters}, MACs, moving statistics), at 224x224. Counted on the meta device in
# timm 1.0.31 (mobilenetv1_025 to _075: its generator with that multiplier) and, for v2 and v3 at
# width 1 and mobilenetv2_130 (width_mult), in torchvision 0.28.0; Keras 3.15.1 agrees on v1, v2 and
# v3. MACs with torch.utils.flop_counter.
# fmt: off
COUNTS = [
  ("mobilenetv1_100", {1000: 4231976}, 568740352, 21888),
  ("mobilenetv2_035", {1000: 1677128}, 59285808, 14080),
  ("mobilenetv2_100", {1000: 3504872, 10: 2236682, 100: 2351972}, 300774272, 34112),
  ("mobilenetv3_small_100", {1000: 2542856, 10: 1528106, 100: 1620356}, 56510400, 12112),
  ("mobilenetv3_large_100", {1000: 5483032}, 216589760, 24400),
  ("mobilenetv4_conv_small", {1000: 3774024}, 186005568, 25088),
  ("mobilenetv4_conv_medium", {1000: 9715512}, 827649984, 67904),
  ("mobilenetv4_conv_large", {1000: 32590864}, 2171341312, 149552),
]
OTHER_WIDTHS = [
  ("mobilenetv1_025", {1000: 470072}, 41030272, 5472),
  ("mobilenetv2_140", {1000: 6108776}, 582195824, 47936),
  ("mobilenetv3_small_075", {1000: 2041872}, 43399344, 9680),
  ("mobilenetv4_conv_small_035", {1000: 1905384}, 47723040, 10688),
  ("mobilenetv1_050", {1000: 1331592}, 149497088, 10944),
  ("mobilenetv1_075", {1000: 2585560}, 325400448, 16416),
  ("mobilenetv1_125", {1000: 6270840}, 879516800, 27360),
  ("mobilenetv2_050", {1000: 1968680}, 97131840, 18544),
  ("mobilenetv2_075", {1000: 2636424}, 209069792, 26640),
  ("mobilenetv2_130", {1000: 5386792}, 509374560, 44256),
  ("mobilenetv3_small_050", {1000: 1593224}, 24188688, 6496),
  ("mobilenetv3_large_075", {1000: 3993528}, 154560624, 19088),
  ("mobilenetv4_conv_small_050", {1000: 2238952}, 64741408, 13856),
]
# fmt: on


with_names = lambda rows: dict(
  argnames="name, parameters, macs, statistics", argvalues=rows, ids=[row[0] for row in rows]
)


@pytest.mark.parametrize(**with_names(COUNTS))
def test_counts(check_counts, name, parameters, macs, statistics):
  check_counts(name, IMAGENET, parameters, macs, statistics)


@pytest.mark.slow  # to trace a network takes a second
@pytest.mark.parametrize(**with_names(OTHER_WIDTHS))
def test_counts_of_other_widths(check_counts, name, parameters, macs, statistics):
  check_counts(name, IMAGENET, parameters, macs, statistics)


def test_every_variant_is_counted():
  assert {row[0] for row in COUNTS + OTHER_WIDTHS} == {*models.names("mobilenet*")}


@pytest.mark.smoke
@pytest.mark.parametrize("value, divisor, expected", [
  (24, 8, 24), (26.6, 8, 24), (28, 8, 32), (3, 8, 8),
  # 83 is nearest to 80, which is more than 90 % of it; 18 to 16, which is less: the next one up.
  (83, 8, 80), (84, 8, 88), (18, 8, 24), (33.6, 8, 32), (5.6, 8, 8), (11.2, 8, 16),
  (10, 4, 12), (9, 4, 12), (41, 4, 40),
])  # fmt: skip
def test_widths_are_rounded(value, divisor, expected):
  assert layers.make_divisible(value, divisor) == expected


ones = lambda *shape: np.ones(shape, np.float32)
SYMMETRIC = dict(norm="batch", momentum=0.9, epsilon=1e-5, padding="symmetric", act=None)


# How many pixels of a 4x4 image each window of a 3x3 at stride 2 holds: torch leaves out a row and
# a column above and on the left, TensorFlow below and on the right.
@pytest.mark.parametrize(
  "padding, pixels", [("symmetric", [[4, 6], [6, 9]]), ("same", [[9, 6], [6, 4]])]
)
def test_padding_at_stride_2(padding, pixels):
  options = SYMMETRIC | dict(padding=padding, epsilon=1e-12, dtype=jnp.float32)
  variables = {
    "params": {
      "conv": {"kernel": ones(3, 3, 1, 1)},
      "norm": {"scale": ones(1), "bias": 0 * ones(1)},
    },
    "batch_stats": {"norm": {"mean": 0 * ones(1), "var": ones(1)}},
  }
  for layer in mobilenet.make_layers(**options):
    y = layer(1, 3, strides=2).apply(variables, ones(1, 4, 4, 1), train=False)
    np.testing.assert_allclose(y[0, ..., 0], pixels, rtol=1e-6)


@pytest.mark.parametrize("name, strides", [
  ("mobilenetv1_100", [1, 1, 2, 4, 8, 16]),
  ("mobilenetv2_100", [1, 1, 1, 2, 4, 4, 8, 8, 8]),
  ("mobilenetv3_small_100", [1, 1, 2, 4, 4, 8, 8]),
  ("mobilenetv4_conv_small", [1, 1, 2, 4, 8, 8]),
])  # fmt: skip
def test_small_images(name, strides):
  info = models.feature_info(models.create(name, 10, small_images=True), (32, 32, 3))
  assert [stage.stride for stage in info.values()] == strides


def init_shapes(name, num_classes=10, size=32, **overrides):
  model = models.create(name, num_classes, **overrides)
  init = functools.partial(model.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]


def test_v3_widths_follow_the_input_of_each_block():
  """mobilenetv3_small_075: 18 becomes 24 (90 %), and 4.5 times its 16 inputs are 72."""
  params = init_shapes("mobilenetv3_small_075")
  assert params["conv_stem"]["conv"]["kernel"].shape == (3, 3, 3, 16)
  assert params["stage2_block1"]["expand"]["conv"]["kernel"].shape == (1, 1, 16, 72)
  assert params["stage2_block1"]["project"]["conv"]["kernel"].shape == (1, 1, 72, 24)
  assert params["head_hidden"]["kernel"].shape == (432, 1024)


def test_linear_bottlenecks_and_squeezes():
  params = init_shapes("mobilenetv3_small_100")
  assert "expand" not in params["stage1_block1"]
  # A quarter of the expanded 16, 96, 240: 4 and 24 and 60, rounded to multiples of 8.
  for block, width in ("stage1_block1", 8), ("stage3_block1", 24), ("stage3_block2", 64):
    assert params[block]["se"]["reduce"]["kernel"].shape[1] == width
  assert "se" not in params["stage2_block1"]


def test_features_of_v3_are_those_of_the_hidden_layer():
  model = models.create("mobilenetv3_small_100", 0)
  pooled, _ = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False), jnp.zeros((2, 8, 8, 3))
  )
  assert pooled.shape == (2, 1024)


@pytest.mark.parametrize("sizes, middle", [((3, 5), 8), ((3, 0), 4)])
def test_stride_of_a_universal_bottleneck_is_in_the_last_depthwise(sizes, middle):
  layer, depthwise = mobilenet.make_layers(**SYMMETRIC, dtype=jnp.float32)
  row = mobilenet_v4.uib(*sizes, expand=2, features=16, strides=2)
  block = mobilenet_v4.UniversalBottleneck(row, layer=layer, depthwise=depthwise)

  def run(x):
    variables = block.init(jax.random.key(0), x, train=False, drop_path=0.0)
    options = dict(capture_intermediates=True, mutable=["intermediates"])
    return block.apply(variables, x, train=False, drop_path=0.0, **options)

  y, kept = jax.eval_shape(run, ones(1, 8, 8, 8))
  assert y.shape == (1, 4, 4, 16)
  assert kept["intermediates"]["depthwise1"]["__call__"][0].shape == (1, middle, middle, 8)


@pytest.mark.parametrize("row, words", [
  (mobilenet_v4.conv(0, 8), "kernel_size1"), (mobilenet_v4.fused(0, 4, 8), "kernel_size1"),
  (mobilenet_v4.uib(0, 0, 2, 8, strides=2), "take its stride"),
  (mobilenet_v4.uib(4, 0, 2, 8), "odd, or 0 for none, got 4"),
])  # fmt: skip
def test_rows_of_v4_that_cannot_be_built(row, words):
  with pytest.raises(UserError, match=words):
    models.create("mobilenetv4_conv_small", 5, stages=((row,),))


def test_initial_kernels():
  """Variance 2 / fan_out; a depthwise kernel has one output, so that it is 2 / 9."""
  layer, depthwise = mobilenet.make_layers(**SYMMETRIC, dtype=jnp.float32)
  block = mobilenet.InvertedResidual(
    600, 100, 1, layer=layer, depthwise=depthwise, dtype=jnp.float32
  )
  init = functools.partial(block.init, train=False, drop_path=0.0)
  params = jax.jit(init)(jax.random.key(0), ones(1, 1, 1, 100))["params"]
  deviation = lambda name: float(params[name]["conv"]["kernel"].std())
  assert deviation("depthwise") == pytest.approx((2 / 9) ** 0.5, rel=0.03)
  assert deviation("expand") == pytest.approx((2 / 600) ** 0.5, rel=0.03)


@pytest.mark.parity
@pytest.mark.parametrize("name, theirs, options", [
  ("mobilenetv2_035", "mobilenet_v2", dict(width_mult=0.35)),
  ("mobilenetv3_small_100", "mobilenet_v3_small", {}),
])  # fmt: skip
def test_torchvision(name, theirs, options):
  reference = parity.torchvision_model(theirs, dropout=0.0, **options)
  parity.same_logits(name, "torchvision", reference, size=64, train=True, dropout=0.0)


@pytest.mark.parity
@pytest.mark.parametrize("name, options", [
  ("mobilenetv2_100", {}), ("mobilenetv2_130", dict(width_mult=1.3)),
])  # fmt: skip
def test_torchvision_v2_fits(name, options):
  make = lambda: parity.torchvision_model("mobilenet_v2", **options).state_dict()
  parity.fits(name, "torchvision", make, input_shape=(32, 32, 3))


@pytest.mark.parity
def test_torchvision_v3_large():
  reference = parity.torchvision_model("mobilenet_v3_large")
  parity.same_logits("mobilenetv3_large_100", "torchvision", reference, size=64)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv4_conv_small"])
def test_timm(name):
  options = dict(size=64, train=True, dropout=0.0)
  parity.same_logits(name, "timm", parity.timm_model(name), **options)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["mobilenetv2_035", "mobilenetv3_small_075"])
def test_timm_of_other_widths(name):
  parity.same_logits(name, "timm", parity.timm_model(name), size=64)


@pytest.mark.parity
def test_timm_padded_as_in_tensorflow():
  reference = parity.timm_model("tf_mobilenetv3_small_075")
  parity.same_logits("mobilenetv3_small_075", "timm_tf", reference, size=64)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["large_075", "large_100", "small_100"])
def test_timm_padded_as_in_tensorflow_fits(name):
  make = lambda: parity.timm_model(f"tf_mobilenetv3_{name}").state_dict()
  parity.fits(f"mobilenetv3_{name}", "timm_tf", make, input_shape=(32, 32, 3))


@pytest.mark.parity
@pytest.mark.parametrize(
  "name", [row[0] for row in COUNTS + OTHER_WIDTHS if row[0] not in
           ("mobilenetv1_025", "mobilenetv1_050", "mobilenetv1_075", "mobilenetv2_130")]
)  # fmt: skip
def test_timm_fits(name):
  parity.fits(name, "timm", lambda: parity.timm_model(name).state_dict(), input_shape=(32, 32, 3))


@pytest.mark.parity
@pytest.mark.parametrize("name, theirs, options", [
  ("mobilenetv1_025", "MobileNet", dict(alpha=0.25)),
  ("mobilenetv2_035", "MobileNetV2", dict(alpha=0.35)),
  ("mobilenetv3_small_075", "MobileNetV3Small", dict(alpha=0.75, include_preprocessing=False)),
  ("mobilenetv3_large_100", "MobileNetV3Large", dict(include_preprocessing=False)),
])  # fmt: skip
def test_keras(name, theirs, options):
  make = lambda: parity.keras_model(theirs, input_shape=(64, 64, 3), **options)
  parity.same_logits_keras(name, make, size=64)
