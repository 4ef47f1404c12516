"""Xception: counts and numbers against Keras and timm."""

import functools

import jax
import jax.numpy as jnp
import parity
import pytest

from cnnjax import models
from cnnjax.errors import UserError


def test_counts(check_counts):
  # Counted in Keras 3.15.1, timm 1.0.31 and pytorchcv 0.0.74; MACs with torch.utils.flop_counter on
  # timm's. The head has 2049 parameters a class.
  parameters = {1000: 22855952, 10: 22855952 - 990 * 2049, 100: 22855952 - 900 * 2049}
  check_counts("xception", (299, 299, 3), parameters, 8357403496, 54528)


def tiny(**overrides):
  return models.create("xception", 5, **{"middle_blocks": 1, "width": 0.1, **overrides})


def run(model, images, **options):
  variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
  return jax.eval_shape(functools.partial(model.apply, **options), variables, images)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_the_smallest_image(padding):
  model = tiny(padding=padding)
  images = jnp.zeros((1, 7, 7, 3))
  _, kept = run(model, images, train=False, mutable=["features"])
  assert kept["features"]["stage4"].x.shape[1:3] == (1, 1)
  with pytest.raises(UserError, match="7x7"):
    run(model, images[:, 1:], train=False)
  assert run(tiny(padding=padding, small_images=True), images[:, :1, :1], train=False).shape == (
    1,
    5,
  )


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_sizes_of_the_maps(padding):
  """Figure 5 of the paper: 299x299 gives 19x19 in the middle flow and 10x10 at the end."""

  def sizes(**overrides):
    model = tiny(padding=padding, **overrides)
    _, kept = run(model, jnp.zeros((1, 299, 299, 3)), train=False, mutable=["features"])
    return {name: found.x.shape[1] for name, found in kept["features"].items()}

  assert sizes() == {"stem": 147, "stage1": 74, "stage2": 37, "stage3": 19, "stage4": 10}
  small = {"stem": 299, "stage1": 150, "stage2": 75, "stage3": 75, "stage4": 38}
  assert sizes(small_images=True) == small


def test_width():
  info = models.feature_info(tiny(width=0.25), (71, 71, 3))
  assert [stage.width for stage in info.values()] == [16, 32, 64, 182, 512]
  narrow = models.feature_info(tiny(width=0.01), (71, 71, 3))
  assert [stage.width for stage in narrow.values()] == [8, 8, 8, 8, 20]


# 46 pixels leave maps of 20 and 10, 78 pixels 36 and 18: timm and Keras pad those differently.
@pytest.mark.parity
def test_as_in_timm():
  parity.same_logits("xception", "timm", parity.timm_model("legacy_xception"), size=46)


@pytest.mark.parity
def test_as_in_timm_in_training():
  reference = parity.timm_model("legacy_xception")
  for i in range(5, 12):  # all but the first of the middle flow, which takes long to compile
    setattr(reference, f"block{i}", parity.torch().nn.Identity())
  parity.same_logits(
    "xception", "timm", reference, size=46, train=True, dropout=0.0, middle_blocks=1
  )


@pytest.mark.parity
def test_as_in_keras():
  make = functools.partial(parity.keras_model, "Xception", input_shape=(78, 78, 3))
  parity.same_logits_keras("xception", make, size=78)
