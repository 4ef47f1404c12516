"""The mechanism: strict, and everything that is wrong is told at once. The tables are tested by the
parity tests of the families."""

import fnmatch
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax import models, transfer
from cnnjax.errors import UserError
from cnnjax.transfer import mapping

RULES = transfer.Rules("torchvision", "none", ((r"^layer(\d)\.(\d)\.", "stage<1>_block<2+1>."),))
LIKE = {
  "params": {
    "stage1_block1": {"kernel": jnp.zeros((3, 3, 2, 4)), "bias": jnp.zeros(4)},
    "norm": {"scale": jnp.zeros(4)},
    "head": {"kernel": jnp.zeros((4, 5))},
  },
  "batch_stats": {"norm": {"mean": jnp.zeros(4)}},
}


def weights(**changes):
  rng = np.random.default_rng(0)
  shapes = {
    "layer1.0.weight": (4, 2, 3, 3), "layer1.0.bias": (4,), "norm.weight": (4,),
    "norm.running_mean": (4,), "norm.num_batches_tracked": (), "head.weight": (5, 4),
  }  # fmt: skip
  found = {name: rng.normal(size=shape) for name, shape in shapes.items()} | changes
  return {name: value for name, value in found.items() if value is not None}


@pytest.mark.smoke
def test_names_and_layouts():
  theirs = weights()
  ours = transfer.convert(theirs, LIKE, RULES)
  assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, LIKE)
  assert jax.tree.leaves(ours)[0].dtype == np.float32
  kernel = ours["params"]["stage1_block1"]["kernel"]
  assert kernel[2, 1, 0, 3] == np.float32(theirs["layer1.0.weight"][3, 0, 2, 1])
  np.testing.assert_array_equal(
    ours["params"]["head"]["kernel"], theirs["head.weight"].T.astype(np.float32)
  )


def test_all_problems_in_one_error():
  wrong = {
    "layer1.0.bias": None,  # missing
    "layer1.0.extra": np.zeros(3),  # unexpected
    "head.weight": np.zeros((5, 3)),  # mis-shaped
    "layer1.00.weight": np.zeros((4, 2, 3, 3)),  # unexpected: no such block
    "norm/weight": np.zeros(4),  # twice
  }
  with pytest.raises(UserError) as error:
    transfer.convert(weights(**wrong), LIKE, RULES)
  for words in (
    "5 problems",
    "missing: params/stage1_block1/bias",
    "unexpected: layer1.0.extra",
    "unexpected: layer1.00.weight",
    "mis-shaped: head.weight is [5, 3], params/head/kernel takes [4, 5]",
    "twice: norm/weight and norm.weight",
  ):
    assert words in str(error.value)


@pytest.mark.parametrize(
  "source, name, theirs, ours",
  [
    ("torchvision", "head.weight", (4, 6), (4, 6)),  # [out, in] there
    ("torchvision", "head.weight", (8, 2, 1, 1), (1, 1, 8, 2)),  # [2, 8, 1, 1] is due
    ("torchvision", "head.weight", (4, 4, 1, 1), (1, 1, 8, 2)),
    ("torchvision", "head.weight", (6, 1), (6, 1)),
    ("torchvision", "head.weight", (6, 4, 1, 1), (6, 4)),
    ("keras", "head/kernel", (6, 4), (4, 6)),
  ],
)
def test_as_many_numbers_in_another_shape(source, name, theirs, ours):
  like = {"params": {"head": {"kernel": jnp.zeros(ours)}}}
  with pytest.raises(UserError, match=re.escape(f"mis-shaped: {name} is {list(theirs)}")):
    transfer.convert({name: np.zeros(theirs)}, like, transfer.Rules(source, "none", ()))


@pytest.mark.parametrize("theirs, ours", [((6, 4, 1, 1), (4, 6)), ((6, 4), (1, 1, 4, 6))])
def test_a_dense_layer_is_a_1x1_convolution(theirs, ours):
  weight = np.random.default_rng(0).normal(size=theirs).astype(np.float32)
  like = {"params": {"head": {"kernel": jnp.zeros(ours)}}}
  found = transfer.convert({"head.weight": weight}, like, RULES)["params"]["head"]["kernel"]
  assert found.shape == ours
  np.testing.assert_array_equal(found.reshape(4, 6), weight.reshape(6, 4).T)


@pytest.mark.parity
def test_torch_tensors_of_any_kind():
  """Parameters, as named_parameters() gives them, and half precision."""
  torch = parity.torch()
  theirs = {name: torch.tensor(value) for name, value in weights().items()}
  theirs["head.weight"] = torch.nn.Parameter(theirs["head.weight"])
  theirs["norm.weight"] = theirs["norm.weight"].to(torch.bfloat16)
  ours = transfer.convert(theirs, LIKE, RULES)
  expected = transfer.convert(weights(), LIKE, RULES)
  close = functools.partial(np.testing.assert_allclose, rtol=2**-8)
  jax.tree.map(close, ours, expected)
  assert ours["params"]["norm"]["scale"].dtype == np.float32


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_large_100"])
def test_padding_and_epsilon_of_timm_by_source(name):
  """Its tf_* have the names of the others."""
  symmetric, same = (transfer.rules_for(name, source).overrides for source in ("timm", "timm_tf"))
  assert models.create(name, 10, **symmetric).padding == "symmetric"
  assert models.create(name, 10, **same).padding == "same"
  assert (symmetric["norm_epsilon"], same["norm_epsilon"]) == (1e-5, 1e-3)


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet18", "googlenet_2014"])
def test_torchvision_has_none_of_these(name):
  with pytest.raises(UserError, match="no rules take weights of torchvision"):
    transfer.rules_for(name, "torchvision")


def test_a_flattened_map_keeps_its_order():
  """Theirs stands behind [channels, height, width], ours behind [height, width, channels]."""
  rng = np.random.default_rng(0)
  image, weight = rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 24))
  ours = mapping.flattened(2, 3, 4)(weight)
  np.testing.assert_allclose(
    ours @ image.transpose(1, 2, 0).ravel(), weight @ image.ravel(), rtol=1e-12
  )


@pytest.mark.parametrize("shape", [(5, 18), (24, 5), (5, 2, 3, 4)])
def test_a_flattened_map_of_another_size_is_mis_shaped(shape):
  rules = transfer.Rules("torchvision", "none", (), {"head/kernel": mapping.flattened(2, 3, 4)})
  like = {"params": {"head": {"kernel": jnp.zeros((24, 5))}}}
  with pytest.raises(UserError, match=r"mis-shaped: head\.weight is"):
    transfer.convert({"head.weight": np.zeros(shape)}, like, rules)


@pytest.mark.parametrize(
  "name, source, weight, theirs, wrong",
  [
    ("convnext_tiny", "torchvision", "stage1_block1/layer_scale", (96, 1, 1), (8, 12)),
    ("dm_nfnet_f0", "timm", "stem_conv1/gain", (16, 1, 1, 1), (4, 4)),
  ],
)
def test_a_vector_with_axes_of_one(name, source, weight, theirs, wrong):
  rules, like = transfer.rules_for(name, source), jnp.zeros(theirs[0])
  for part in reversed(weight.split("/")):
    like = {part: like}
  convert = lambda shape: transfer.convert({weight: np.ones(shape)}, {"params": like}, rules)
  assert jax.tree.leaves(convert(theirs))[0].shape == theirs[:1]
  with pytest.raises(UserError, match=f"mis-shaped: {weight}"):
    convert(wrong)


def test_no_rules_says_which_there_are():
  with pytest.raises(UserError, match=r"no rules take weights of pytorchcv to convnext_tiny.*timm"):
    transfer.rules_for("convnext_tiny", "pytorchcv")
  with pytest.raises(UserError, match="Did you mean 'torchvision'"):
    transfer.rules_for("resnet50", "torchvison")
  with pytest.raises(UserError, match="Did you mean 'resnet50'"):
    transfer.rules_for("resnt50", "timm")


def test_weights_of_another_network_are_refused():
  with pytest.raises(UserError, match=r"107 problems:\s+mis-shaped: head.weight is \[3\]"):
    transfer.load("resnet20", {"head.weight": np.zeros(3)}, source="pytorchcv", num_classes=10)


@pytest.mark.parametrize("rules", mapping.all_rules(), ids=lambda r: f"{r.source}-{r.models[:20]}")
def test_every_table_is_for_models_that_exist(rules):
  for pattern in rules.models.split():
    assert fnmatch.filter(models.names(), pattern), pattern
  name = fnmatch.filter(models.names(), rules.models.split()[0])[0]
  models.create(name, 10, **rules.overrides)
