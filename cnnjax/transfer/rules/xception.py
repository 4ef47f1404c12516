"""Xception of Keras, timm (`legacy_xception`) and pretrainedmodels."""

import re

from cnnjax.transfer.mapping import Rules


def _place(block: int) -> str:
  """Returns our name of a block from its number among the twelve."""
  if block == 12:
    return "stage4_block1"
  return f"stage{block}_block1" if block < 3 else f"stage3_block{block - 2}"


def _timm_conv(match: re.Match) -> str:
  """Returns our name of a part of `rep`, which repeats relu, convolution, norm.

  The first block has no relu in front.
  """
  block, index = int(match[1]), int(match[2]) + (match[1] == "1")
  kind = ".norm" if index % 3 == 2 else ""
  return f"{_place(block)}.conv{index // 3 + 1}{kind}."


def _keras_shortcut(match: re.Match) -> str:
  """Returns our name of a shortcut, which Keras numbers: conv2d, conv2d_1, ..."""
  place = _place((1, 2, 3, 12)[int(match[2] or 0)])
  return f"{place}/shortcut/{'conv' if match[1] == 'conv2d' else 'norm'}/"


_KERAS = (
  (r"^(conv2d|batch_normalization)(?:_([0-3]))?/", _keras_shortcut),
  (r"^block1_conv(\d)_bn/", "stem_conv<1>/norm/"),
  (r"^block1_conv(\d)/", "stem_conv<1>/conv/"),
  (r"^block14_sepconv", "stage4_conv"),
  (r"^block(\d+)_sepconv", lambda match: f"{_place(int(match[1]) - 1)}/conv"),
  (r"conv(\d)_bn/", "conv<1>/norm/"),
  (r"/(?:block\d+_sepconv\d_)?(depthwise|pointwise)_kernel$", "/<1>/<1>_kernel"),
  (r"^predictions/", "head/"),
)
_TIMM = (
  (r"^conv([12])\.", "stem_conv<1>.conv."),
  (r"^bn([12])\.", "stem_conv<1>.norm."),
  (r"^conv([34])\.", "stage4_conv<1-2>."),
  (r"^bn([34])\.", "stage4_conv<1-2>.norm."),
  (r"^block(\d+)\.rep\.(\d+)\.", _timm_conv),
  (r"^block(\d+)\.skip\.", lambda match: f"{_place(int(match[1]))}.shortcut.conv."),
  (r"^block(\d+)\.skipbn\.", lambda match: f"{_place(int(match[1]))}.shortcut.norm."),
  (r"\.conv1\.weight$", ".depthwise.weight"),
  (r"^fc\.", "head."),
)

_TORCH = {"padding": "symmetric", "norm_epsilon": 1e-5, "norm_momentum": 0.9}

RULES = [
  Rules("keras", "xception", _KERAS),
  Rules("timm", "xception", _TIMM, overrides=_TORCH),
  Rules("pretrainedmodels", "xception", ((r"^last_linear\.", "fc."), *_TIMM), overrides=_TORCH),
]  # fmt: skip
