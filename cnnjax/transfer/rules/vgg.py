"""VGGs of torchvision, timm, Keras, pytorchcv, pretrainedmodels and pytorch-cifar."""

import re
from collections.abc import Callable

import numpy as np

from cnnjax.models.vgg import STAGE_SIZES
from cnnjax.transfer.mapping import Rules, flattened


def _features(sizes: tuple[int, ...], *, norm: bool) -> tuple[str, Callable[[re.Match], str]]:
  """Returns the rename of `features`, whose numbers count convolutions, norms, relus and pools."""
  names, number = {}, 0
  for block, size in enumerate(sizes, 1):
    for i in range(1, size + 1):
      names[number] = f"block{block}.conv{i}."
      if norm:
        names[number + 1] = f"block{block}.norm{i}."
      number += 3 if norm else 2
    number += 1
  return r"^features\.(\d+)\.", lambda match: names.get(int(match[1]), match[0])


def _dense_of_conv(weight: np.ndarray) -> np.ndarray:
  """Returns the weight [out, in, 7, 7] of a convolution over the map as a dense weight."""
  if weight.ndim == 2:
    return weight
  return weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1)


_CLASSIFIER = ((r"^classifier\.0\.", "dense1."), (r"^classifier\.3\.", "dense2."),
               (r"^classifier\.6\.", "head."))  # fmt: skip
_TIMM = ((r"^pre_logits\.fc(\d)\.", "dense<1>."), (r"^head\.fc\.", "head."))
_KERAS = (
  (r"^block(\d)_conv(\d)/", "block<1>/conv<2>/"),
  (r"^fc(\d)/", "dense<1>/"),
  (r"^predictions/", "head/"),
)

# Saved by torch's example imagenet, which wraps the convolutions alone.
_IN_PARALLEL = (r"^features\.module\.", "features.")
_PRETRAINEDMODELS = (
  (r"^linear0\.", "dense1."),
  (r"^linear1\.", "dense2."),
  (r"^last_linear\.", "head."),
)
_PYTORCHCV = (
  (r"^features\.stage(\d)\.unit(\d)\.conv\.", "block<1>.conv<2>."),
  (r"^features\.stage(\d)\.unit(\d)\.bn\.", "block<1>.norm<2>."),
  (r"^output\.fc([12])\.fc\.", "dense<1>."),
  (r"^output\.fc3\.", "head."),
)
_FLATTENED = {"dense1/kernel": flattened(512, 7, 7)}

RULES = [
  Rules("keras", "vgg16 vgg19", _KERAS),
  Rules("pytorchcv", "vgg*", _PYTORCHCV, _FLATTENED),  # with norms its bn_vgg16b and so on
  Rules("pytorchcv", "vgg*_bn", _PYTORCHCV, _FLATTENED, overrides=dict(conv_bias=False)),
]
for _name, _sizes in STAGE_SIZES.items():
  for _suffix in ("", "_bn"):
    _places = _features(_sizes, norm=bool(_suffix))
    RULES += [
      Rules("torchvision", _name + _suffix, (_places, *_CLASSIFIER),
            _FLATTENED),
      Rules("torchvision", _name + _suffix, (_IN_PARALLEL, _places, *_CLASSIFIER), _FLATTENED),
      Rules("pretrainedmodels", _name + _suffix,
            ((r"^_features\.", "features."), _places, *_PRETRAINEDMODELS), _FLATTENED),
      Rules("timm", _name + _suffix, (_places, *_TIMM), {"dense1/kernel": _dense_of_conv}),
    ]  # fmt: skip
  RULES.append(Rules("pytorch_cifar", f"{_name}_bn", (_places, (r"^classifier\.", "head.")),
                     overrides=dict(small_images=True)))  # fmt: skip
