"""VGG: counts, the adaptive pool by its definition, numbers against torchvision, timm and Keras."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.models import layers

IMAGENET = (224, 224, 3)
# Counted in torchvision 0.28.0; MACs with torch.utils.flop_counter. The head has 4097 parameters a
# class; batch norm has no MACs.
# fmt: off
COUNTS = {
  "vgg11": ({1000: 132863336, 10: 128807306, 100: 129176036}, 7609090048, 0),
  "vgg11_bn": ({1000: 132868840, 10: 128812810, 100: 129181540}, 7609090048, 5504),
  "vgg13": ({1000: 133047848, 10: 128991818, 100: 129360548}, 11308466176, 0),
  "vgg13_bn": ({1000: 133053736, 10: 128997706, 100: 129366436}, 11308466176, 5888),
  "vgg16": ({1000: 138357544, 10: 134301514, 100: 134670244}, 15470264320, 0),
  "vgg16_bn": ({1000: 138365992, 10: 134309962, 100: 134678692}, 15470264320, 8448),
  "vgg19": ({1000: 143667240, 10: 139611210, 100: 139979940}, 19632062464, 0),
  "vgg19_bn": ({1000: 143678248, 10: 139622218, 100: 139990948}, 19632062464, 11008),
}
# fmt: on


@pytest.mark.parametrize("name", COUNTS)
def test_counts(check_counts, name):
  check_counts(name, IMAGENET, *COUNTS[name])


# pytorchcv 0.0.74: bn_vgg11, bn_vgg16, bn_vgg19.
@pytest.mark.parametrize(
  "name, parameters", [("vgg11_bn", 132866088), ("vgg16_bn", 138361768), ("vgg19_bn", 143672744)]
)
def test_counts_without_biases_beside_batch_norm(check_counts, name, parameters):
  check_counts(name, IMAGENET, {1000: parameters}, conv_bias=False)


def test_counts_for_small_images(check_counts):
  # By hand, VGG11 of github.com/kuangliu/pytorch-cifar: biases, gammas and betas, one dense layer.
  widths = (3, 64, 128, 256, 256, 512, 512, 512, 512)
  pairs = list(itertools.pairwise(widths))
  parameters = sum(9 * a * b + 3 * b for a, b in pairs) + 513 * 10
  sizes = (32, 16, 8, 8, 4, 4, 2, 2)
  macs = sum(9 * a * b * n**2 for (a, b), n in zip(pairs, sizes, strict=True)) + 512 * 10
  check_counts("vgg11_bn", (32, 32, 3), {10: parameters}, macs, small_images=True)


@pytest.mark.parametrize("n", [1, 3, 7, 10, 14])
def test_adaptive_pool_by_its_definition(n):
  x = np.random.default_rng(0).normal(size=(2, n, n + 1, 3)).astype(np.float32)
  expected = np.zeros((2, 7, 7, 3))
  windows = lambda n: [
    slice(int(np.floor(i * n / 7)), int(np.ceil((i + 1) * n / 7))) for i in range(7)
  ]
  for i, rows in enumerate(windows(n)):
    for j, columns in enumerate(windows(n + 1)):
      expected[:, i, j] = x[:, rows, columns].mean((1, 2))
  np.testing.assert_allclose(layers.adaptive_avg_pool(jnp.asarray(x), 7), expected, atol=1e-6)


def test_names_and_any_size():
  model = models.create("vgg11_bn", 10, features=4, hidden_features=8)
  init = lambda x: model.init(jax.random.key(0), x, train=False)
  variables = jax.eval_shape(init, jnp.zeros((1, 64, 64, 3)))
  assert {name: sorted(layer) for name, layer in variables["params"].items()} == {
    "block1": ["conv1", "norm1"],
    "block2": ["conv1", "norm1"],
    **{f"block{i}": ["conv1", "conv2", "norm1", "norm2"] for i in (3, 4, 5)},
    **{name: ["bias", "kernel"] for name in ("dense1", "dense2", "head")},
  }
  run = lambda v, x: model.apply(v, x, train=False)
  for shape in ((32, 32), (97, 250)):  # the same variables
    assert jax.eval_shape(run, variables, jnp.zeros((2, *shape, 3))).shape == (2, 10)


def test_dropout_between_the_convolutions_of_a_block():
  options = dict(features=4, hidden_features=8, conv_dropout=0.4, conv_dropout_kind="channel")
  model = models.create("vgg16", 10, **options)
  found = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout) and context.module.rate == 0.4:
      found.append((args[0].shape[1:], context.module.broadcast_dims))
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(
      lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 32, 32, 3))
    )
  sizes = [(32, 4), (16, 8), *2 * [(8, 16)], *2 * [(4, 32)], *2 * [(2, 32)]]
  assert found == [((size, size, width), (1, 2)) for size, width in sizes]


@pytest.mark.parity
def test_same_as_torchvision():
  # 96 pixels end in 3x3, from which the adaptive pool makes 7x7.
  parity.same_logits("vgg11", "torchvision", parity.torchvision_model("vgg11"), size=96)


@pytest.mark.parity
def test_same_as_torchvision_with_batch_norm():
  parity.same_logits("vgg11_bn", "torchvision", parity.torchvision_model("vgg11_bn"), size=64)


def narrow(name):
  """torchvision's network with 32 hidden features and without dropout, and our fields for it."""
  nn = parity.torch().nn
  with parity.torch().device("meta"):
    reference = parity.torchvision_model(name, num_classes=10, dropout=0.0)
  reference.classifier[0] = nn.Linear(25088, 32)
  reference.classifier[3], reference.classifier[6] = nn.Linear(32, 32), nn.Linear(32, 10)
  reference = reference.to_empty(device="cpu")
  return reference, dict(num_classes=10, hidden_features=32, dropout=0.0)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_same_training_as_torchvision(name):
  reference, fields = narrow(name)
  if name == "vgg11_bn":  # a bias before batch norm has no gradient but rounding
    fields["conv_bias"] = False
    for module in reference.modules():
      if isinstance(module, parity.torch().nn.Conv2d):
        module.bias = None
  parity.same_logits(name, "torchvision", reference, size=64, train=True, **fields)


@pytest.mark.parity
def test_same_as_timm():
  parity.same_logits(
    "vgg11_bn", "timm", parity.timm_model("vgg11_bn", num_classes=10), size=64, num_classes=10
  )


@pytest.mark.parity
def test_same_as_keras():
  make = lambda: parity.keras_model("VGG16", classes=10)
  parity.same_logits_keras("vgg16", make, size=224, num_classes=10)


@pytest.mark.parity
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_every_tensor_has_its_place(name, source):
  make = parity.torchvision_model if source == "torchvision" else parity.timm_model
  parity.fits(name, source, lambda: make(name).state_dict())
