"""PyramidNet: counts and logits against pytorchcv, widths by hand."""

import jax
import jax.numpy as jnp
import parity
import pytest

from cnnjax import models

CIFAR = (32, 32, 3)

# (name, input shape, {classes: parameters}, BN moving statistics, MACs at the first), counted in
# pytorchcv 0.0.74, MACs with torch.utils.flop_counter.
# fmt: off
COUNTS = [
  ("pyramidnet110_a48", CIFAR, {10: 1772706, 100: 1778556}, 13168, 403813504),
  ("pyramidnet110_a84", CIFAR, {10: 3904446, 100: 3913536}, 19108, 772168168),
  ("pyramidnet110_a270", CIFAR, {10: 28485477, 100: 28511307}, 49798, 4717983724),
  ("pyramidnet164_a270_bn", CIFAR, {10: 27216021}, 165844, 4569837040),
  ("pyramidnet200_a240_bn", CIFAR, {10: 26752702, 100: 26844952}, 181984, 4519606016),
  ("pyramidnet236_a220_bn", CIFAR, {10: 26969046}, 198824, 4582673952),
  ("pyramidnet272_a200_bn", CIFAR, {10: 26210842, 100: 26288692}, 210864, 4488778176),
  ("pyramidnet101_a360", (224, 224, 3), {1000: 42455070, 10: 40775040, 100: 40927770}, 164896,
   8696707045),
]
# fmt: on
QUICK = ("pyramidnet110_a84", "pyramidnet101_a360")
COUNTS = [
  pytest.param(*row, id=row[0], marks=() if row[0] in QUICK else pytest.mark.slow) for row in COUNTS
]


@pytest.mark.parametrize("name, input_shape, parameters, statistics, macs", COUNTS)
def test_counts(check_counts, name, input_shape, parameters, statistics, macs):
  check_counts(name, input_shape, parameters, macs, statistics)


def test_widths():
  """16 + 84 n / 54, rounded: 16, then 17.56, 19.11, 20.67, ... and 100 at last."""
  model = models.create("pyramidnet110_a84", 10)
  init = lambda x: model.init(jax.random.key(0), x, train=False)
  params = jax.eval_shape(init, jnp.zeros((1, *CIFAR)))["params"]
  width = lambda block: params[block]["conv2"]["kernel"].shape[-1]
  assert [width(f"stage1_block{i}") for i in (1, 2, 3, 18)] == [18, 19, 21, 44]
  assert [width("stage2_block1"), width("stage3_block18")] == [46, 100]
  assert params["stage1_block1"]["conv1"]["kernel"].shape == (3, 3, 16, 18)


@pytest.mark.parity
@pytest.mark.parametrize("name, theirs, size, classes, train", [
  ("pyramidnet110_a48", "pyramidnet110_a48_cifar10", 15, 10, False),
  ("pyramidnet164_a270_bn", "pyramidnet164_a270_bn_cifar10", 16, 10, False),
  ("pyramidnet101_a360", "pyramidnet101_a360", 64, 1000, False),
])  # fmt: skip
def test_parity(name, theirs, size, classes, train):
  reference = parity.pytorchcv_model(theirs)
  parity.same_logits(name, "pytorchcv", reference, size=size, num_classes=classes, train=train)


@pytest.mark.parity
@pytest.mark.parametrize("bottleneck", [False, True])
def test_parity_in_training(bottleneck):
  """Their network at depth 8 (11 with bottlenecks)."""
  parity.torch()
  from pytorchcv.models.pyramidnet_cifar import get_pyramidnet_cifar

  reference = get_pyramidnet_cifar(10, 11 if bottleneck else 8, alpha=48, bottleneck=bottleneck)
  parity.same_logits(
    "pyramidnet110_a48", "pytorchcv", reference, size=32, num_classes=10, train=True,
    stage_sizes=(1, 1, 1), block="bottleneck" if bottleneck else "basic",
  )  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("name", [
  "pyramidnet110_a84", "pyramidnet110_a270", "pyramidnet200_a240_bn", "pyramidnet236_a220_bn",
  "pyramidnet272_a200_bn",
])  # fmt: skip
def test_their_weights_fit(name):
  weights = lambda: parity.pytorchcv_model(f"{name}_cifar10").state_dict()
  parity.fits(name, "pytorchcv", weights, num_classes=10)
