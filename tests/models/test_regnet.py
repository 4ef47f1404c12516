"""RegNets: counts and numbers against other packages, the rule and the block by hand."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import regnet

# name: ({classes: parameters}, MACs, BN moving statistics) at 224x224, counted in timm 1.0.31, and
# the *_tv in torchvision 0.28.0, on the meta device; MACs with torch.utils.flop_counter.
# fmt: off
COUNTS = {
  "regnetx_002": ({1000: 2684792, 10: 2319482, 100: 2352692}, 199039872, 20848),
  "regnetx_004": ({1000: 5157512, 10: 4776362, 100: 4811012}, 397677568, 36672),
  "regnetx_004_tv": ({1000: 5495976, 10: 5098986, 100: 5135076}, 413812608, 37856),
  "regnetx_006": ({1000: 6196040, 10: 5672330, 100: 5719940}, 600890112, 33280),
  "regnetx_008": ({1000: 7259656, 10: 6593386, 100: 6653956}, 799699712, 37312),
  "regnetx_016": ({1000: 9190136, 10: 8286266, 100: 8368436}, 1602849792, 43504),
  "regnetx_032": ({1000: 15296552, 10: 14297642, 100: 14388452}, 3176621952, 62560),
  "regnetx_040": ({1000: 22118248, 10: 20770858, 100: 20893348}, 3964498816, 76064),
  "regnetx_064": ({1000: 26209256, 10: 24600506, 100: 24746756}, 6460291264, 74208),
  "regnetx_080": ({1000: 39572648, 10: 37670858, 100: 37843748}, 7995132416, 90464),
  "regnetx_120": ({1000: 46106056, 10: 43887466, 100: 44089156}, 12086678016, 96384),
  "regnetx_160": ({1000: 54278536, 10: 52250026, 100: 52434436}, 15940755456, 111168),
  "regnetx_320": ({1000: 107811560, 10: 105315770, 100: 105542660}, 31735929792, 162016),
  "regnety_002": ({1000: 3162996, 10: 2797686, 100: 2830896}, 199514080, 20848),
  "regnety_004": ({1000: 4344144, 10: 3907554, 100: 3947244}, 401842848, 27152),
  "regnety_006": ({1000: 6055160, 10: 5452250, 100: 5507060}, 601220992, 29760),
  "regnety_008": ({1000: 6263168, 10: 5501858, 100: 5571068}, 797176832, 29888),
  "regnety_008_tv": ({1000: 6432512, 10: 5655362, 100: 5726012}, 833856256, 30432),
  "regnety_016": ({1000: 11202430, 10: 10322320, 100: 10402330}, 1612076160, 52672),
  "regnety_032": ({1000: 19436338, 10: 17938468, 100: 18074638}, 3176482752, 66160),
  "regnety_040": ({1000: 20646656, 10: 19568546, 100: 19666556}, 3973288448, 62272),
  "regnety_064": ({1000: 30583252, 10: 29299222, 100: 29415952}, 6355204992, 82432),
  "regnety_080": ({1000: 39180068, 10: 37183238, 100: 37364768}, 7963057312, 85744),
  "regnety_080_tv": ({1000: 39381472, 10: 37384642, 100: 37566172}, 8473070592, 86528),
  "regnety_120": ({1000: 51822544, 10: 49603954, 100: 49805644}, 12092376576, 96384),
  "regnety_160": ({1000: 83590140, 10: 80595390, 100: 80867640}, 15911510272, 122816),
  "regnety_320": ({1000: 145046770, 10: 141370900, 100: 141705070}, 32279552832, 158288),
}
# fmt: on
QUICK = ("regnetx_002", "regnety_008", "regnety_008_tv")


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COUNTS]
)
def test_counts(check_counts, name):
  check_counts(name, (224, 224, 3), *COUNTS[name])


def test_every_variant_is_counted():
  assert set(COUNTS) == set(models.names("regnet*"))


def stages(name):
  fields = models.fields(name)
  numbers = {key: fields[key] for key in ("w_0", "w_a", "w_m", "depth", "group_width")}
  return regnet.stages(**numbers, keep_width=fields["keep_width"])


# As timm 1.0.31 and torchvision 0.28.0 build them.
@pytest.mark.parametrize(
  "name, features, blocks, groups",
  [
    ("regnetx_002", [24, 56, 152, 368], [1, 1, 4, 7], [8] * 4),
    ("regnetx_080", [80, 240, 720, 1920], [2, 5, 15, 1], [80, 120, 120, 120]),
    ("regnety_004", [48, 104, 208, 440], [1, 3, 6, 6], [8] * 4),
    ("regnety_080", [168, 448, 896, 2016], [2, 4, 10, 1], [56] * 4),
    ("regnety_080_tv", [224, 448, 896, 2016], [2, 4, 10, 1], [56] * 4),
  ],
)
def test_stages(name, features, blocks, groups):
  assert stages(name) == (features, blocks, groups)


def test_the_rule_by_hand():
  """u = 16, 24, 32, 40, 48 is 16 * 2 ** (0, 0.58, 1, 1.32, 1.58): rounded 0, 1, 1, 1, 2."""
  made = regnet.stages(16, 8.0, 2.0, 5, 24, keep_width=False)
  # Groups of 24, or of the whole width: 32 to the nearest multiple is 24; 64 is 72.
  assert made == ([16, 24, 72], [1, 3, 1], [16, 24, 24])
  made = regnet.stages(16, 8.0, 2.0, 5, 24, keep_width=True)
  assert made == ([16, 48, 72], [1, 3, 1], [16, 24, 24])  # 24 is less than 90 % of 32


@pytest.mark.parametrize(
  "overrides, says",
  [
    (dict(w_m=1.0), "regnety_004.w_m must be above 1"),
    (dict(w_a=-1.0), "regnety_004.w_a must be at least 0"),
    (dict(w_0=20), "regnety_004.w_0 must be a multiple of 8"),
  ],
)
def test_numbers_that_make_no_network(overrides, says):
  with pytest.raises(UserError, match=says):
    models.create("regnety_004", 10, **overrides)


# One stage of two blocks of 16 features in groups of 8.
ONE_STAGE = dict(depth=2, w_0=16, w_a=0.0, w_m=2.0, group_width=8, stem_features=8)


def conv_norm(x, variables, name, strides=1, padding=0, groups=1):
  params, stats = (variables[key][name] for key in ("params", "batch_stats"))
  y = jax.lax.conv_general_dilated(
    x, params["conv"]["kernel"], (strides, strides), [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
  )  # fmt: skip
  scale = params["norm"]["scale"] / jnp.sqrt(stats["norm"]["var"] + 1e-5)
  return (y - stats["norm"]["mean"]) * scale + params["norm"]["bias"]


def block_by_hand(x, variables, strides):
  y = nn.relu(conv_norm(x, variables, "conv1"))
  y = nn.relu(conv_norm(y, variables, "conv2", strides, 1, groups=2))
  se = variables["params"]["se"]
  assert se["reduce"]["kernel"].shape[-1] == x.shape[-1] // 4
  z = nn.relu(y.mean((1, 2)) @ se["reduce"]["kernel"] + se["reduce"]["bias"])
  z = z @ se["expand"]["kernel"] + se["expand"]["bias"]
  y = conv_norm(y / (1 + jnp.exp(-z))[:, None, None], variables, "conv3")
  return nn.relu(y + (x if strides == 1 else conv_norm(x, variables, "shortcut", strides)))


def test_blocks_by_hand(random_variables):
  """Between the features of the stem and of the stage, in the model itself."""
  model = models.create("regnety_004", 0, **ONE_STAGE)
  images = np.random.default_rng(0).normal(size=(2, 13, 13, 3)).astype(np.float32)
  variables = random_variables(model, images)
  found = jax.jit(functools.partial(models.features, model))(variables, images)
  part = lambda name: {key: tree[name] for key, tree in variables.items()}
  by_hand = jax.jit(block_by_hand, static_argnums=2)
  x = by_hand(found["stem"], part("stage1_block1"), 2)
  x = by_hand(x, part("stage1_block2"), 1)
  np.testing.assert_allclose(found["stage1"], x, rtol=1e-4, atol=1e-4)


def test_drop_path_grows_linearly_with_depth(monkeypatch):
  rates = []
  monkeypatch.setattr(regnet.layers, "drop_path", lambda x, rate, *, train: rates.append(rate) or x)
  model = models.create("regnetx_002", 10, drop_path=0.26)
  jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 8, 8, 3)))
  assert rates == pytest.approx([0.02 * block for block in range(1, 14)])


def test_small_images_keep_pixels():
  info = models.feature_info(models.create("regnetx_002", 10, small_images=True), (32, 32, 3))
  assert [stage.stride for stage in info.values()] == [1, 1, 2, 4, 8]


@pytest.mark.parity
@pytest.mark.parametrize("name, theirs", [
  ("regnety_004", "regnet_y_400mf"), ("regnetx_004_tv", "regnet_x_400mf")
])  # fmt: skip
def test_torchvisions(name, theirs):
  reference = parity.torchvision_model(theirs)
  parity.same_logits(name, "torchvision", reference, size=64, train=name == "regnety_004")


@pytest.mark.parity
def test_timms():
  parity.same_logits("regnetx_002", "timm", parity.timm_model("regnetx_002"), size=64)


def torchvision_shapes(name):
  """It computes its stages with torch, which the meta device cannot."""
  t = parity.torch()
  from torchvision.models.regnet import BlockParams

  made = BlockParams.from_init_params

  def on_cpu(**options):
    with t.device("cpu"):
      return made(**options)

  with mock.patch.object(BlockParams, "from_init_params", on_cpu):
    return parity.torchvision_model(name).state_dict()


SIZES = {
  "x": ("004_tv", "008", "016", "032", "080", "160", "320"),
  "y": ("004", "008_tv", "016", "032", "080_tv", "160", "320"),
}
IN_TORCHVISION = ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")


@pytest.mark.parity
@pytest.mark.parametrize("name, theirs", [
  (f"regnet{kind}_{ours}", f"regnet_{kind}_{theirs}")
  for kind, sizes in SIZES.items() for ours, theirs in zip(sizes, IN_TORCHVISION, strict=True)
])  # fmt: skip
def test_all_of_torchvision_fit(name, theirs):
  shapes = functools.partial(torchvision_shapes, theirs)
  parity.fits(name, "torchvision", shapes, input_shape=(32, 32, 3))


@pytest.mark.parity
@pytest.mark.parametrize("name", COUNTS)
def test_all_of_timm_fit(name):
  shapes = lambda: parity.timm_model(name).state_dict()
  parity.fits(name, "timm", shapes, input_shape=(32, 32, 3))
