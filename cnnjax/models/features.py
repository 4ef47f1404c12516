"""Reads the feature maps of the stages of any model, for detection, segmentation, Grad-CAM.

    maps = models.features(model, variables, images)      # {"stage1": [batch, h, w, channels], ...}
    info = models.feature_info(model, (224, 224, 3))      # {"stage1": FeatureInfo(4, 256), ...}

The stages of a network inside another module are named by its path, such as "backbone/stage1". A
module that computes with feature maps, also in training, calls `feature_maps` of its backbone
(backbone.py).

Gradients with respect to a stage: put zeros of its shape into the variables as
`{"perturbations": {"stage4": zeros}}`, or `{"perturbations": {"backbone": {"stage4": zeros}}}`, and
differentiate with respect to them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict


class FeatureInfo(NamedTuple):
  """The stride and width of a stage's output."""

  stride: int  # the distance of two of its pixels, in pixels of the input
  width: int  # channels


def features(model: nn.Module, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
  """Returns the outputs of the stages in evaluation, [batch, height, width, channels].

  They are in order from the stem up; jax.jit returns the names in alphabetical order.
  """
  return {name: found.x for name, found in _run(model, variables, images).items()}


def feature_info(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, FeatureInfo]:
  """Returns the stride and width of each stage, in order, without running the model."""

  info = {}

  def run(images: jax.Array) -> None:
    variables = model.init(jax.random.key(0), images, train=False)
    for name, found in _run(model, variables, images).items():
      info[name] = FeatureInfo(found.stride, found.x.shape[-1])

  jax.eval_shape(run, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))
  return info


def _run(model: nn.Module, variables: Any, images: jax.Array) -> dict[str, Any]:
  _, kept = model.apply(variables, images, train=False, mutable=["features"])
  return flatten_dict(kept.get("features", {}), sep="/")
