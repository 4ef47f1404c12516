"""SqueezeNet: counts, the head, numbers against torchvision and pytorchcv."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from cnnjax import models
from cnnjax.errors import UserError

# Counted in torchvision 0.28.0; MACs with torch.utils.flop_counter. 513 parameters a class.
COUNTS = {
  "squeezenet1_0": ({1000: 1248424, 10: 740554, 100: 786724}, 818924576),
  "squeezenet1_1": ({1000: 1235496, 10: 727626, 100: 773796}, 349151936),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(check_counts, name):
  check_counts(name, (224, 224, 3), *COUNTS[name], 0)


def test_bypass_has_no_parameters(check_counts):
  check_counts("squeezenet1_0", (224, 224, 3), {1000: 1248424}, 818924576, bypass=True)


def test_the_head_is_a_convolution_with_a_relu(random_variables):
  model = models.create("squeezenet1_1", 3, squeeze=(4,) * 8, stem_features=8)
  x = np.random.default_rng(0).normal(size=(2, 33, 33, 3)).astype(np.float32)
  variables = random_variables(model, x)
  logits, kept = jax.jit(functools.partial(model.apply, train=False, mutable=["features"]))(
    variables, x
  )
  last, head = kept["features"]["stage3"].x, variables["params"]["head"]
  assert last.shape == (2, 2, 2, 32) and head["kernel"].shape == (1, 1, 32, 3)
  maps = jnp.maximum(last @ head["kernel"][0, 0] + head["bias"], 0)
  np.testing.assert_allclose(logits, maps.mean((1, 2)), rtol=1e-4, atol=1e-5)
  bare = models.create("squeezenet1_1", 0, squeeze=(4,) * 8, stem_features=8)
  params = {k: v for k, v in variables["params"].items() if k != "head"}
  pooled = jax.jit(functools.partial(bare.apply, train=False))({"params": params}, x)
  np.testing.assert_allclose(pooled, last.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_stages_must_fit_the_modules():
  with pytest.raises(UserError, match="makes 6 fire modules, but squeeze has 8"):
    models.create("squeezenet1_0", 10, stage_sizes=(2, 2, 2))


@pytest.mark.parity
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("size", [63, 64])  # with and without windows over the edge
def test_same_as_torchvision(name, size):
  parity.same_logits(name, "torchvision", parity.torchvision_model(name), size=size)


@pytest.mark.parity
def test_same_training_as_torchvision():
  reference = parity.torchvision_model("squeezenet1_1", num_classes=10, dropout=0.0)
  parity.same_logits(
    "squeezenet1_1", "torchvision", reference, size=64, num_classes=10, train=True, dropout=0.0
  )


@pytest.mark.parity
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("bypass", [False, True])
def test_same_as_pytorchcv(name, bypass):
  theirs = name.replace("squeezenet", "squeezeresnet_v" if bypass else "squeezenet_v")
  reference = parity.pytorchcv_model(theirs)
  reference.output.final_pool = parity.torch().nn.AdaptiveAvgPool2d(1)  # theirs is for 224 only
  parity.same_logits(name, "pytorchcv", reference, size=64, bypass=bypass)
