"""GoogLeNet and BN-Inception: counts, auxiliary heads, numbers against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax import models, transfer

IMAGENET = (224, 224, 3)
# Parameters of googlenet counted in torchvision 0.28.0, of googlenet_2014 in a torch re-build of
# Caffe's, of bn_inception in pytorchcv 0.0.74; MACs with torch.utils.flop_counter. The head has
# 1025 parameters a class, and so has each auxiliary head.
# fmt: off
COUNTS = [
  ("googlenet", {}, {1000: 6624904, 10: 5610154, 100: 5702404}, 1498376192, 14560),
  ("googlenet", {"aux_logits": True}, {1000: 13004888, 10: 9960638, 100: 10237388}, 1498376192,
   15072),
  ("googlenet_2014", {}, {1000: 6998552, 10: 6998552 - 990 * 1025, 100: 6998552 - 900 * 1025},
   1582671872, 0),
  ("googlenet_2014", {"aux_logits": True}, {1000: 13378280, 10: 13378280 - 990 * 3075},
   1582671872, 0),
  ("bn_inception", {}, {1000: 11295240, 10: 10280490, 100: 10372740}, 2032600064, 20032),
]
# fmt: on


@pytest.mark.parametrize("name, overrides, parameters, macs, statistics", COUNTS)
def test_counts(check_counts, name, overrides, parameters, macs, statistics):
  check_counts(name, IMAGENET, parameters, macs, statistics, **overrides)


def test_sizes_and_widths_of_table_1():
  info = models.feature_info(models.create("googlenet_2014", 10), IMAGENET)
  assert list(info.values()) == [(2, 64), (4, 192), (8, 480), (16, 832), (32, 1024)]
  assert [224 // stage.stride for stage in info.values()] == [112, 56, 28, 14, 7]


def shapes(model, images, **options):
  init = functools.partial(model.init, train=False)
  variables = jax.eval_shape(init, jax.random.key(0), images)
  return variables, jax.eval_shape(functools.partial(model.apply, **options), variables, images)


def test_auxiliary_heads_run_in_training_only():
  model = models.create("googlenet_2014", 10, aux_logits=True, dropout=0.0, aux_dropout=0.0)
  images = jnp.zeros((2, 224, 224, 3))
  variables, (_, kept) = shapes(model, images, train=True, mutable=["aux_logits"])
  assert {name: x.shape for name, x in kept["aux_logits"].items()} == {
    "aux1": (2, 10),
    "aux2": (2, 10),
  }
  # A 5x5/3 pool of 14x14 leaves 4x4 for the 128 features that the dense layer sees.
  assert variables["params"]["aux1_head"]["dense"]["kernel"].shape == (4 * 4 * 128, 1024)
  _, (_, kept) = shapes(model, images, train=False, mutable=["aux_logits"])
  assert not kept
  bare = models.create("googlenet_2014", 0, aux_logits=True)
  assert "aux1_head" not in shapes(bare, images, train=False)[0]["params"]


@pytest.mark.parametrize("size", [31, 97])
def test_auxiliary_heads_take_any_size(size):
  for name in ("googlenet", "googlenet_2014"):
    model = models.create(name, 10, aux_logits=True)
    variables, _ = shapes(model, jnp.zeros((2, size, size, 3)), train=False)
    assert variables["params"]["aux2_head"]["dense"]["kernel"].shape == (4 * 4 * 128, 1024)


@pytest.mark.parametrize("size", [27, 28])
def test_modules_with_stride_take_odd_maps(size):
  model = models.create("bn_inception", 10)
  _, (_, kept) = shapes(
    model, jnp.zeros((1, 8 * size, 8 * size, 3)), train=False, mutable=["features"]
  )
  assert kept["features"]["stage1"].x.shape[1] == size
  assert kept["features"]["stage2"].x.shape[1] == 14


def torchvision_googlenet(**options):
  reference = parity.torchvision_model("googlenet", init_weights=False, **options)
  # In training it returns the auxiliary logits as well: keep them aside.
  reference.eager_outputs = lambda x, aux2, aux1: setattr(reference, "aux", (aux1, aux2)) or x
  return reference


def paper_googlenet():
  """Caffe's bvlc_googlenet out of torchvision's parts."""
  t = parity.torch()
  from torchvision.models.googlenet import Inception, InceptionAux

  class Unit(t.nn.Module):
    def __init__(self, features_in, features, **options):
      super().__init__()
      self.conv = t.nn.Conv2d(features_in, features, **options)

    def forward(self, x):
      return t.relu(self.conv(x))

  class Module(Inception):
    def __init__(self, *widths):
      super().__init__(*widths, conv_block=Unit)
      self.branch3[1] = Unit(widths[4], widths[5], kernel_size=5, padding=2)

  class Auxiliary(InceptionAux):
    def __init__(self, features_in, num_classes, **options):
      super().__init__(features_in, num_classes, conv_block=Unit, **options)

    def forward(self, x):
      x = self.conv(t.nn.functional.avg_pool2d(x, 5, stride=3)).flatten(1)
      return self.fc2(self.dropout(t.relu(self.fc1(x))))

  reference = torchvision_googlenet(
    blocks=[Unit, Module, Auxiliary], dropout=0.0, dropout_aux=0.0, num_classes=10
  )
  lrn = functools.partial(t.nn.functional.local_response_norm, size=5, alpha=1e-4, k=1.0)
  reference.maxpool1.register_forward_hook(lambda module, x, y: lrn(y))
  reference.maxpool2.register_forward_pre_hook(lambda module, x: lrn(x[0]))
  reference.maxpool4 = t.nn.MaxPool2d(3, stride=2, ceil_mode=True)
  return reference


@pytest.mark.parity
@pytest.mark.parametrize("size", [64, 97])
def test_same_as_torchvision(size):
  parity.same_logits("googlenet", "torchvision", torchvision_googlenet(), size=size)


@pytest.mark.parity
def test_same_training_as_torchvision():
  reference = torchvision_googlenet(num_classes=10, aux_logits=False, dropout=0.0)
  parity.same_logits(
    "googlenet", "torchvision", reference, size=64, num_classes=10, train=True, dropout=0.0,
    aux_logits=False,
  )  # fmt: skip


@pytest.mark.parity
def test_same_as_the_paper_in_torch():
  reference = paper_googlenet()
  parity.same_logits("googlenet_2014", "bvlc_googlenet", reference, size=97, num_classes=10)


@pytest.mark.parity
@pytest.mark.parametrize(
  "name, source, size",
  [("googlenet", "torchvision", 97), ("googlenet_2014", "bvlc_googlenet", 224)],
)
def test_same_auxiliary_logits(name, source, size):
  t = parity.torch()
  reference = (
    paper_googlenet() if name == "googlenet_2014"
    else torchvision_googlenet(num_classes=10, dropout=0.0, dropout_aux=0.0)
  )  # fmt: skip
  parity.randomize(reference)
  model, variables = transfer.load(
    name, reference.state_dict(), source=source, num_classes=10,
    input_shape=(size, size, 3), dropout=0.0, aux_dropout=0.0,
  )  # fmt: skip
  x = parity.images(size).astype(np.float64)  # a batch norm of few values amplifies rounding
  with t.no_grad():
    theirs = reference.double().train()(t.tensor(x.transpose(0, 3, 1, 2).copy()))
  with jax.enable_x64(True):
    variables = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), variables)
    model = model.clone(dtype=jnp.float64)
    run = functools.partial(model.apply, train=True, mutable=["aux_logits", "batch_stats"])
    ours, kept = jax.jit(run)(variables, jnp.asarray(x))
  parity.assert_close(ours, theirs, 1e-4, "logits")
  for name, logits in zip(("aux1", "aux2"), reference.aux, strict=True):
    assert np.ptp(logits.numpy()) > 1e-3
    parity.assert_close(kept["aux_logits"][name], logits, 1e-4, name)


@pytest.mark.parity
def test_same_as_pytorchcv():
  reference = parity.pytorchcv_model("bninception")
  reference.features.final_pool = parity.torch().nn.AdaptiveAvgPool2d(1)  # theirs is for 224 only
  parity.same_logits("bn_inception", "pytorchcv", reference, size=64)


@pytest.mark.parity
def test_same_training_as_pytorchcv():
  reference = parity.pytorchcv_model("bninception", num_classes=10)
  reference.features.final_pool = parity.torch().nn.AdaptiveAvgPool2d(1)
  for module in reference.modules():  # a bias before batch norm has no gradient but rounding
    if isinstance(module, parity.torch().nn.Conv2d):
      module.bias = None
  parity.same_logits(
    "bn_inception", "pytorchcv", reference, size=64, num_classes=10, train=True, conv_bias=False
  )
