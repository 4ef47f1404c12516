"""ShuffleNetV2: counts, the shuffle, the numbers of torchvision."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import shufflenet

# (name, {classes: parameters}, MACs, moving statistics), at 224x224: torchvision 0.28.0 on the meta
# device, MACs with torch.utils.flop_counter.
# fmt: off
COUNTS = [
  ("shufflenet_v2_x0_5", {1000: 1366792, 10: 352042, 100: 444292}, 40476448, 7952),
  ("shufflenet_v2_x1_0", {1000: 2278604, 10: 1263854, 100: 1356104}, 144907992, 16180),
  ("shufflenet_v2_x1_5", {1000: 3503624}, 295759392, 23440),
  ("shufflenet_v2_x2_0", {1000: 7393996, 10: 5365486, 100: 5549896}, 583253464, 33716),
]
# fmt: on


@pytest.mark.parametrize(
  "name, parameters, macs, statistics", COUNTS, ids=[row[0] for row in COUNTS]
)
def test_counts(check_counts, name, parameters, macs, statistics):
  check_counts(name, (224, 224, 3), parameters, macs, statistics)


def test_every_variant_is_counted():
  assert {row[0] for row in COUNTS} == {*models.names("shufflenet*")}


@pytest.mark.smoke
def test_channel_shuffle_by_hand():
  x = jnp.broadcast_to(jnp.arange(6), (2, 3, 3, 6))
  assert shufflenet.channel_shuffle(x, 2)[1, 2, 0].tolist() == [0, 3, 1, 4, 2, 5]
  assert shufflenet.channel_shuffle(x, 3)[1, 2, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_half_of_the_channels_pass_unchanged(random_variables):
  model = models.create("shufflenet_v2_x0_5", 0, stage_sizes=(2,), stage_features=(8,))
  x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
  variables = random_variables(model, x)
  _, kept = jax.jit(
    lambda v, x: model.apply(v, x, train=False, capture_intermediates=True, mutable=True)
  )(variables, x)
  first, second = (kept["intermediates"][f"stage1_block{n}"]["__call__"][0] for n in (1, 2))
  np.testing.assert_array_equal(second[..., ::2], first[..., :4])


def test_small_images():
  model = models.create("shufflenet_v2_x0_5", 10, small_images=True)
  info = models.feature_info(model, (32, 32, 3))
  assert [stage.stride for stage in info.values()] == [1, 2, 4, 8, 8]


@pytest.mark.parametrize("overrides, message", [
  ({"stage_sizes": (1, 1)}, "stage_sizes=.* stage_features=.* the same length"),
  ({"stage_features": (8, 9, 16)}, "even"),
])  # fmt: skip
def test_fields_that_do_not_fit(overrides, message):
  with pytest.raises(UserError, match=message):
    models.create("shufflenet_v2_x1_0", 10, **overrides)


@pytest.mark.parity
def test_torchvision():
  reference = parity.torchvision_model("shufflenet_v2_x0_5")
  parity.same_logits("shufflenet_v2_x0_5", "torchvision", reference, size=64, train=True)


@pytest.mark.parity
@pytest.mark.parametrize("name", [row[0] for row in COUNTS])
def test_torchvision_fits(name):
  make = lambda: parity.torchvision_model(name).state_dict()
  parity.fits(name, "torchvision", make, input_shape=(32, 32, 3))
