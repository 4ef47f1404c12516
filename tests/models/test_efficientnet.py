"""EfficientNets: counts and numbers against other packages, blocks and scaling by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax import models, transfer
from cnnjax.models import efficientnet

# (name, image size, {classes: parameters}, MACs, BN moving statistics). B0 to B7 and V2 as in
# torchvision 0.28.0, Lite as in timm 1.0.31, counted on the meta device; MACs with
# torch.utils.flop_counter at the size given. Keras 3.15.1 counts 7 more in B0 to B7: the mean,
# variance and count of its normalisation layer.
# fmt: off
COUNTS = [
  ("efficientnet_b0", 224, {1000: 5288548, 10: 4020358, 100: 4135648}, 385814752, 42016),
  ("efficientnet_b1", 240, {1000: 7794184, 10: 6525994, 100: 6641284}, 686802832, 62048),
  ("efficientnet_b2", 260, {1000: 9109994, 10: 7715084, 100: 7841894}, 993561872, 67568),
  ("efficientnet_b3", 300, {1000: 12233232, 10: 10711602, 100: 10849932}, 1827141392, 87296),
  ("efficientnet_b4", 380, {1000: 19341616, 10: 17566546, 100: 17727916}, 4393771024, 125200),
  ("efficientnet_b5", 456, {1000: 30389784, 10: 28361274, 100: 28545684}, 10266384752, 172736),
  ("efficientnet_b6", 528, {1000: 43040704, 10: 40758754, 100: 40966204}, 19067593536, 224432),
  ("efficientnet_b7", 600, {1000: 66347960, 10: 63812570, 100: 64043060}, 37745884192, 310720),
  ("efficientnetv2_s", 384, {1000: 21458488, 10: 20190298, 100: 20305588}, 8365617152, 153872),
  ("efficientnetv2_m", 480, {1000: 54139356, 10: 52871166, 100: 52986456}, 24582460384, 292032),
  ("efficientnetv2_l", 480, {1000: 118515272, 10: 117247082, 100: 117362372}, 56079699008, 512576),
  ("efficientnet_lite0", 224, {1000: 4652008, 10: 3383818, 100: 3499108}, 385187552, 42016),
  ("efficientnet_lite1", 240, {1000: 5416680, 10: 4148490, 100: 4263780}, 600185232, 53664),
  ("efficientnet_lite2", 260, {1000: 6092072, 10: 4823882, 100: 4939172}, 859736272, 58096),
  ("efficientnet_lite3", 280, {1000: 8197096, 10: 6928906, 100: 7044196}, 1383321872, 76672),
  ("efficientnet_lite4", 300, {1000: 13006568, 10: 11738378, 100: 11853668}, 2553034336, 112368),
]
# fmt: on
QUICK = ("efficientnet_b0", "efficientnet_lite3", "efficientnetv2_s")


@pytest.mark.parametrize(
  "name, size, parameters, macs, statistics",
  [pytest.param(*row, marks=() if row[0] in QUICK else pytest.mark.slow) for row in COUNTS],
  ids=[row[0] for row in COUNTS],
)
def test_counts(check_counts, name, size, parameters, macs, statistics):
  assert models.lookup(name).input_shape == (size, size, 3)
  check_counts(name, (size, size, 3), parameters, macs, statistics)


def test_every_variant_is_counted():
  assert {row[0] for row in COUNTS} == set(models.names("efficientnet*"))


def shapes(name, size=32, **overrides):
  model = models.create(name, 10, **overrides)
  init = functools.partial(model.init, train=False)
  params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
  return jax.tree.map(lambda leaf: leaf.shape, params)


def test_lite_scales_neither_its_ends_nor_their_depth():
  params = shapes("efficientnet_lite4")  # widths times 1.4, blocks times 1.8
  assert params["conv_stem"]["conv"]["kernel"] == (3, 3, 3, 32)
  assert params["conv_head"]["conv"]["kernel"] == (1, 1, 448, 1280)
  blocks = [sum(key.startswith(f"stage{i}_") for key in params) for i in range(1, 8)]
  assert blocks == [1, 4, 4, 6, 6, 8, 1]
  assert "se" not in params["stage2_block1"]
  widths = [params[f"stage{i}_block1"]["project"]["conv"]["kernel"][-1] for i in range(1, 8)]
  assert widths == [24, 32, 56, 112, 160, 272, 448]  # 16 * 1.4 = 22.4 is nearest to 24


def test_the_squeeze_is_a_quarter_of_the_input_of_the_block():
  params = shapes("efficientnet_b0")
  assert params["stage1_block1"]["se"]["reduce"]["kernel"] == (32, 8)
  assert params["stage3_block1"]["se"]["reduce"]["kernel"] == (6 * 24, 6)


def convolve(x, kernel, strides, pads, groups=1):
  return jax.lax.conv_general_dilated(
    x, kernel, (strides, strides), [pads, pads], dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )  # fmt: skip


def conv_norm(x, variables, name, strides=1, pads=(0, 0), groups=1):
  params, stats = (variables[key][name] for key in ("params", "batch_stats"))
  x = convolve(x, params["conv"]["kernel"], strides, pads, groups)
  scale = params["norm"]["scale"] / jnp.sqrt(stats["norm"]["var"] + 1e-3)
  return (x - stats["norm"]["mean"]) * scale + params["norm"]["bias"]


swish = lambda x: x / (1 + jnp.exp(-x))


def mbconv_by_hand(x, variables, strides, pads):
  y = swish(conv_norm(x, variables, "expand"))
  y = swish(conv_norm(y, variables, "depthwise", strides, pads, groups=y.shape[-1]))
  se = variables["params"]["se"]
  z = swish(y.mean((1, 2)) @ se["reduce"]["kernel"] + se["reduce"]["bias"])
  z = z @ se["expand"]["kernel"] + se["expand"]["bias"]
  y = conv_norm(y / (1 + jnp.exp(-z))[:, None, None], variables, "project")
  return x + y if strides == 1 else y


def fused_by_hand(x, variables, strides, pads):
  y = swish(conv_norm(x, variables, "expand", strides, pads))
  y = conv_norm(y, variables, "project")
  return x + y if strides == 1 else y


def model_of(*stages, **overrides):
  return models.create(
    "efficientnet_b0", 0, stages=stages, stem_features=8, head_features=8, **overrides
  )


@pytest.mark.parametrize(
  "block, strides, padding, pads",
  [
    ("mbconv", 1, "same", (2, 2)),
    ("mbconv", 2, "same", (1, 2)),  # as TensorFlow pads an even size: more behind
    ("fused", 1, "symmetric", (2, 2)),
    ("fused", 2, "symmetric", (2, 2)),
  ],
)
def test_blocks_by_hand(block, strides, padding, pads, random_variables):
  """Between the features of the stem and of the first stage, in the model itself."""
  by_hand = {"mbconv": mbconv_by_hand, "fused": fused_by_hand}[block]
  model = model_of(efficientnet.Stage(block, 4, 5, strides, 8, 1), padding=padding)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  variables = random_variables(model, images)
  found = jax.jit(functools.partial(models.features, model))(variables, images)
  inner = {key: tree["stage1_block1"] for key, tree in variables.items()}
  expected = jax.jit(functools.partial(by_hand, strides=strides, pads=pads))(found["stem"], inner)
  np.testing.assert_allclose(found["stage1"], expected, rtol=1e-4, atol=1e-4)


def test_drop_path_grows_from_0_with_the_block(monkeypatch):
  rates = []
  monkeypatch.setattr(
    efficientnet.layers, "drop_path", lambda x, rate, *, train: rates.append(rate) or x
  )
  shapes("efficientnet_b0", drop_path=0.32)  # 16 blocks, 9 of them residual
  assert rates == pytest.approx([0.02 * block for block in (2, 4, 6, 7, 9, 10, 12, 13, 14)])


def test_initialisation():
  """Normal of variance 2 / fan_out, where a depthwise kernel has one output; head uniform.

  The head in +-1 / sqrt(classes) from 1000 classes on, in +-1 / sqrt(features) below.
  """
  block = efficientnet.Stage("mbconv", 6, 5, 1, 96, 1)
  small = dict(stages=(block,), stem_features=64, head_features=128)

  def drawn(classes):
    model = models.create("efficientnet_b0", classes, **small)
    init = jax.jit(functools.partial(model.init, train=False))
    return init(jax.random.key(0), jnp.zeros((1, 1, 1, 3)))["params"]

  params = drawn(1000)
  deviation = lambda part: np.std(params["stage1_block1"][part]["conv"]["kernel"])
  assert deviation("expand") == pytest.approx((2 / 384) ** 0.5, rel=0.03)
  assert deviation("depthwise") == pytest.approx((2 / 25) ** 0.5, rel=0.03)
  assert deviation("project") == pytest.approx((2 / 96) ** 0.5, rel=0.03)
  for classes, bound in ((1000, 1000**-0.5), (100, 128**-0.5)):
    head = np.abs(drawn(classes)["head"]["kernel"])
    assert 0.99 * bound < head.max() <= bound and np.mean(head) == pytest.approx(
      bound / 2, rel=0.03
    )


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnetv2_s"])
def test_small_images_keep_pixels(name):
  narrow = dict(width=0.1, depth=0.01)
  strides = lambda **overrides: [
    info.stride
    for info in models.feature_info(
      models.create(name, 10, **narrow, **overrides), (32, 32, 3)
    ).values()
  ]
  assert strides()[-1] == 32
  assert strides(small_images=True)[:3] == [1, 1, 1] and strides(small_images=True)[-1] == 8


def test_small_images_with_stages_of_your_own():
  """The first stage that has a stride loses it, wherever it stands."""
  strides = lambda *numbers: [
    info.stride
    for info in models.feature_info(
      model_of(
        *(efficientnet.Stage("mbconv", 1, 3, number, 8, 1) for number in numbers), small_images=True
      ),
      (32, 32, 3),
    ).values()
  ]
  assert strides(2, 2, 1) == [1, 1, 2, 2, 2]  # stem, stages, head
  assert strides(1, 1, 2) == [1, 1, 1, 1, 1]


PLAIN = dict(dropout=0.0, drop_path=0.0)


@pytest.mark.parity
def test_b0_is_torchvisions():
  reference = parity.torchvision_model("efficientnet_b0", dropout=0.0, stochastic_depth_prob=0.0)
  parity.same_logits("efficientnet_b0", "torchvision", reference, size=64, train=True, **PLAIN)


def shallow_v2_s():
  """A fifth of the blocks: random weights make of rounding an error of 10 % in the whole one."""
  parity.torch()
  from torchvision.models import efficientnet as theirs

  fused, mbconv = theirs.FusedMBConvConfig, theirs.MBConvConfig
  stages = [
    fused(1, 3, 1, 24, 24, 1), fused(4, 3, 2, 24, 48, 1), fused(4, 3, 2, 48, 64, 1),
    mbconv(4, 3, 2, 64, 128, 2), mbconv(6, 3, 1, 128, 160, 2), mbconv(6, 3, 2, 160, 256, 3),
  ]  # fmt: skip
  norm = functools.partial(parity.torch().nn.BatchNorm2d, eps=1e-3)
  return theirs.EfficientNet(
    stages, dropout=0.0, stochastic_depth_prob=0.0, last_channel=1280, norm_layer=norm
  )


@pytest.mark.parity
def test_v2_s_is_torchvisions():
  parity.same_logits(
    "efficientnetv2_s", "torchvision", shallow_v2_s(), size=64, train=True, depth=0.2, **PLAIN
  )


@pytest.mark.parity
@pytest.mark.parametrize(
  "name, source", [("efficientnet_lite0", "timm"), ("tf_efficientnet_b0", "timm_tf")]
)
def test_timms(name, source):
  parity.same_logits(name.removeprefix("tf_"), source, parity.timm_model(name), size=96)


def keras_b0():
  """With its normalisation, which is the identity until it is adapted, and without its 1 / 255."""
  import keras

  inner = parity.keras_model("EfficientNetB0", input_shape=(96, 96, 3))
  return keras.Sequential([keras.layers.Rescaling(255.0), inner])


@pytest.mark.parity
def test_b0_is_that_of_keras():
  parity.same_logits_keras("efficientnet_b0", keras_b0, size=96)


@pytest.mark.parity
@pytest.mark.parametrize(
  "name, theirs",
  [
    *((f"efficientnet_b{i}", f"efficientnet_b{i}") for i in range(8)),
    *((f"efficientnetv2_{size}", f"efficientnet_v2_{size}") for size in "sml"),
  ],
)
def test_batch_norm_of_torchvision(name, theirs):
  with parity.torch().device("meta"):
    modules = parity.torchvision_model(theirs).modules()
  found = {(m.eps, 1 - m.momentum) for m in modules if type(m).__name__ == "BatchNorm2d"}
  fields = models.fields(name) | dict(transfer.rules_for(name, "torchvision").overrides)
  assert found == {(fields["norm_epsilon"], fields["norm_momentum"])}


FITS = [
  *((f"efficientnet_b{i}", "torchvision", f"efficientnet_b{i}") for i in range(1, 8)),
  *((f"efficientnetv2_{size}", "torchvision", f"efficientnet_v2_{size}") for size in "sml"),
  *((f"efficientnet_b{i}", "timm", f"efficientnet_b{i}") for i in range(8)),
  *((f"efficientnet_lite{i}", "timm_tf", f"tf_efficientnet_lite{i}") for i in range(1, 5)),
  *((f"efficientnetv2_{size}", "timm_tf", f"tf_efficientnetv2_{size}") for size in "sml"),
]


@pytest.mark.parity
@pytest.mark.parametrize("name, source, theirs", FITS, ids=["-".join(row[1:]) for row in FITS])
def test_other_variants_fit(name, source, theirs):
  make = parity.torchvision_model if source == "torchvision" else parity.timm_model
  parity.fits(name, source, lambda: make(theirs).state_dict(), input_shape=(32, 32, 3))


def lite0_of_efficientnet_pytorch():
  """The shapes of timm by the names of github.com/lukemelas/EfficientNet-PyTorch.

  The published weights that are so named fit: they know 18 of 20 ImageNet photos with our padding,
  and 14 with `padding="symmetric"`.
  """
  starts = np.cumsum([0, 1, 2, 2, 3, 3, 4])
  parts = dict(conv_pw="_expand_conv", bn1="_bn0", conv_dw="_depthwise_conv", bn2="_bn1",
               conv_pwl="_project_conv", bn3="_bn2")  # fmt: skip
  first = dict(conv_dw="_depthwise_conv", bn1="_bn1", conv_pw="_project_conv", bn2="_bn2")
  ends = dict(conv_stem="_conv_stem", bn1="_bn0", conv_head="_conv_head", bn2="_bn1")
  named = {}
  for name, value in parity.timm_model("tf_efficientnet_lite0").state_dict().items():
    module, *rest = name.split(".")
    if module == "blocks":
      stage, block, part, leaf = rest
      part = (parts if int(stage) else first)[part]
      named[f"_blocks.{starts[int(stage)] + int(block)}.{part}.{leaf}"] = value
    else:
      named[f"{ends.get(module, '_fc')}.{rest[0]}"] = value
  return named


@pytest.mark.parity
def test_lite0_of_efficientnet_pytorch_fits():
  parity.fits(
    "efficientnet_lite0", "efficientnet_pytorch", lite0_of_efficientnet_pytorch,
    input_shape=(32, 32, 3),
  )  # fmt: skip
