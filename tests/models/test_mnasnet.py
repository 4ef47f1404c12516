"""MnasNet: counts, and the numbers of torchvision and timm."""

import functools

import jax
import jax.numpy as jnp
import parity
import pytest

from cnnjax import models, transfer

# (name, {classes: parameters}, MACs, moving statistics), at 224x224: timm 1.0.31 and torchvision
# 0.28.0 (mnasnet_130 only there) on the meta device, MACs with torch.utils.flop_counter.
# fmt: off
COUNTS = [
  ("mnasnet_050", {1000: 2218512, 10: 950322, 100: 1065612}, 104455968, 20624),
  ("mnasnet_100", {1000: 4383312, 10: 3115122, 100: 3230412}, 314415872, 37920),
  ("mnasnet_130", {1000: 6282256, 10: 5014066, 100: 5129356}, 526362432, 48816),
  ("semnasnet_100", {1000: 3887038}, 311579072, 33488),
]
OTHER_WIDTHS = [
  ("mnasnet_075", {1000: 3170208}, 215493104, 29808),
  ("mnasnet_140", {1000: 7115728}, 588799408, 52448),
  ("semnasnet_050", {1000: 2082006}, 103162992, 18400),
  ("semnasnet_075", {1000: 2912278}, 223448480, 26832),
  ("semnasnet_140", {1000: 6105992}, 586317952, 46016),
]
# fmt: on


with_names = lambda rows: dict(
  argnames="name, parameters, macs, statistics", argvalues=rows, ids=[row[0] for row in rows]
)


@pytest.mark.parametrize(**with_names(COUNTS))
def test_counts(check_counts, name, parameters, macs, statistics):
  check_counts(name, (224, 224, 3), parameters, macs, statistics)


@pytest.mark.slow  # to trace a network takes a second
@pytest.mark.parametrize(**with_names(OTHER_WIDTHS))
def test_counts_of_other_widths(check_counts, name, parameters, macs, statistics):
  check_counts(name, (224, 224, 3), parameters, macs, statistics)


def test_every_variant_is_counted():
  assert {row[0] for row in COUNTS + OTHER_WIDTHS} == {*models.names("*mnasnet*")}


@pytest.mark.smoke
def test_squeezes_follow_the_input_of_the_block():
  model = models.create("semnasnet_100", 10)
  init = functools.partial(model.init, train=False)
  params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
  squeezed = {
    block: parts["se"]["reduce"]["kernel"].shape for block, parts in params.items() if "se" in parts
  }
  assert squeezed == {
    "stage3_block1": (72, 6), "stage3_block2": (120, 10), "stage3_block3": (120, 10),
    "stage5_block1": (480, 20), "stage5_block2": (672, 28),
    "stage6_block1": (672, 28), "stage6_block2": (960, 40), "stage6_block3": (960, 40),
  }  # fmt: skip


def test_momentum_of_each_source():
  assert models.fields("mnasnet_100")["norm_momentum"] == 0.99
  for source, momentum in ("torchvision", 0.9997), ("timm", 0.9):
    assert transfer.rules_for("mnasnet_100", source).overrides == {"norm_momentum": momentum}


def test_small_images():
  info = models.feature_info(models.create("mnasnet_100", 10, small_images=True), (32, 32, 3))
  assert [stage.stride for stage in info.values()] == [1, 1, 1, 2, 4, 4, 8, 8, 8]


@pytest.mark.parity
def test_torchvision():
  reference = parity.torchvision_model("mnasnet0_5", dropout=0.0)
  parity.same_logits("mnasnet_050", "torchvision", reference, size=64, train=True, dropout=0.0)


@pytest.mark.parity
def test_timm():
  parity.same_logits("semnasnet_050", "timm", parity.timm_model("semnasnet_050"), size=64)


@pytest.mark.parity
@pytest.mark.parametrize("name, theirs", [
  ("mnasnet_075", "mnasnet0_75"), ("mnasnet_100", "mnasnet1_0"), ("mnasnet_130", "mnasnet1_3"),
])  # fmt: skip
def test_torchvision_fits(name, theirs):
  make = lambda: parity.torchvision_model(theirs).state_dict()
  parity.fits(name, "torchvision", make, input_shape=(32, 32, 3))


@pytest.mark.parity
@pytest.mark.parametrize(
  "name", [row[0] for row in COUNTS + OTHER_WIDTHS if row[0] != "mnasnet_130"]
)
def test_timm_fits(name):
  parity.fits(name, "timm", lambda: parity.timm_model(name).state_dict(), input_shape=(32, 32, 3))
