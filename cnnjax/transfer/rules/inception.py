"""Inception-v3 of torchvision, timm and Keras; -v4 of timm; Inception-ResNet-v2 of timm, Keras."""

import re
from collections.abc import Callable

from cnnjax.models import inception_v3, inception_v4
from cnnjax.transfer.mapping import Rules

_STEM = {"1a": 1, "2a": 2, "2b": 3, "3b": 4, "4a": 5}  # the authors' names
_NORM = ((r"\.bn\.", ".norm."), (r"^(fc|last_linear|classif|predictions)\b", "head"))


def _stem(match: re.Match) -> str:
  return f"stem_conv{_STEM[match[1]]}." if match[1] in _STEM else match[0]


def _lettered(match: re.Match) -> str:
  """Returns our name of a lettered module; stages begin with Mixed_5b, Mixed_6a and Mixed_7a."""
  stage = int(match[1]) - 4
  return f"stage{stage}_block{ord(match[2]) - ord('b' if stage == 1 else 'a') + 1}."


_V3 = (
  (r"^Conv2d_(\d\w)_\dx\d\.", _stem),
  (r"^Mixed_(\d)(\w)\.", _lettered),
  (r"^AuxLogits\.conv(\d)\.", "aux1_head.conv<1+1>."),
  (r"^AuxLogits\.fc\.", "aux1_head.head."),
  # The modules that reduce the size have their branches in another order.
  (r"^stage2_block1\.branch3x3\.", "stage2_block1.branch1_conv1."),
  (r"^stage2_block1\.branch3x3dbl_", "stage2_block1.branch2_conv"),
  (r"^stage3_block1\.branch3x3_", "stage3_block1.branch1_conv"),
  (r"\.branch1x1\.", ".branch1_conv1."),
  (r"\.branch(5x5|7x7|3x3|7x7x3)_", ".branch2_conv"),
  (r"\.branch(3x3|7x7)dbl_", ".branch3_conv"),
  (r"\.branch_pool\.", ".branch4_conv1."),
  *_NORM,
)


def _v4_module(match: re.Match) -> str:
  i = int(match[1])
  starts = {0: "stem_conv", 3: "stem_mixed", 6: "stage1_block", 10: "stage2_block",
            18: "stage3_block"}  # fmt: skip
  first = max(start for start in starts if start <= i)
  return f"{starts[first]}{i - first + 1}."


_BRANCHES = (
  (r"\.branch3\.1\.", ".branch4_conv1."),  # .0 is the pool
  (r"\.branch(\d)\.(\d)\.", ".branch<1+1>_conv<2+1>."),
  (r"\.branch(\d)_(\d)([ab]?)\.", ".branch<1+1>_conv<2+1><3>."),
  (r"\.branch(\d)\.", ".branch<1+1>_conv1."),
  *_NORM,
)
_V4 = (
  (r"^features\.(\d+)\.", _v4_module),
  (r"^stem_mixed1\.conv\.", "stem_mixed1.branch2_conv1."),
  (r"^stem_mixed3\.conv\.", "stem_mixed3.branch1_conv1."),
  *_BRANCHES,
)
_RESNET_V2 = (
  (r"^conv2d_7b\.", "final_conv."),
  (r"^conv2d_(\d\w)\.", _stem),
  (r"^mixed_(\d)(\w)\.", _lettered),
  (r"^repeat\.(\d+)\.", "stage1_block<1+2>."),
  (r"^repeat_1\.(\d+)\.", "stage2_block<1+2>."),
  (r"^repeat_2\.(\d+)\.", "stage3_block<1+2>."),
  (r"^block8\.", "stage3_block11."),
  (r"^(stage\d_block(?!1\.)\d+)\.branch", "<1>.mixed.branch"),
  (r"\.conv2d\.", ".expand."),
  *_BRANCHES,
)


def _convolutions(stages: list[list[list[list]]], *, residual: bool) -> list[str]:
  """Returns our names of the convolutions that a norm follows, in the order that they run."""
  names = [f"stem_conv{i}" for i in range(1, 6)]
  for stage, tables in enumerate(stages, 1):
    for block, table in enumerate(tables, 1):
      mixed = "/mixed" if residual and block > 1 else ""
      for i, branch in enumerate(table, 1):
        steps = [step for step in branch if not isinstance(step, str)]
        for j, step in enumerate(steps, 1):
          for letter in "ab"[: len(step)] if isinstance(step[0], tuple) else [""]:
            names.append(f"stage{stage}_block{block}{mixed}/branch{i}_conv{j}{letter}")
  return names


def _numbered(names: list[str], kind: str) -> Callable[[re.Match], str]:
  """Returns the rename of layers that Keras numbers in the order of creation: conv2d, conv2d_1."""
  places = {number: f"{name}/{kind}/" for number, name in enumerate(names)}
  return lambda match: places.get(int(match[1] or 0), match[0])


def _keras(names: list[str]) -> tuple:
  return (
    (r"^conv2d(?:_(\d+))?/", _numbered(names, "conv")),
    (r"^batch_normalization(?:_(\d+))?/", _numbered(names, "norm")),
    *_NORM,
  )


_KERAS_V3 = _convolutions(inception_v3.v3_tables((3, 4, 2)), residual=False)
_KERAS_RESNET_V2 = _convolutions(
  [
    [inception_v4.RESNET_START, *[inception_v4.RESNET_A] * 10],
    [inception_v4.RESNET_REDUCTION_A, *[inception_v4.RESNET_B] * 20],
    [inception_v4.RESNET_REDUCTION_B, *[inception_v4.RESNET_C] * 10],
  ],
  residual=True,
)

_KERAS_NORM = dict(norm_scale=False, norm_momentum=0.99)

RULES = [
  Rules("torchvision", "inception_v3", _V3),
  Rules("torchvision", "inception_v3", _V3, overrides={"aux_logits": True}),
  Rules("timm", "inception_v3", _V3),
  Rules("timm", "inception_v4", _V4),
  Rules("timm", "inception_resnet_v2", _RESNET_V2),
  Rules("pretrainedmodels", "inception_v3", _V3),
  Rules("pretrainedmodels", "inception_v3", _V3, overrides={"aux_logits": True}),
  Rules("pretrainedmodels", "inception_v4", _V4),
  Rules("pretrainedmodels", "inception_resnet_v2", _RESNET_V2),
  Rules("keras", "inception_v3", _keras(_KERAS_V3),
        overrides=_KERAS_NORM | dict(count_padding=False)),
  # Before Keras 2, with a gamma in each norm.
  Rules("keras", "inception_v3", _keras(_KERAS_V3),
        overrides=_KERAS_NORM | dict(count_padding=False, norm_scale=True)),
  Rules(
    "keras",
    "inception_resnet_v2",
    (
      (r"^block35_(\d+)_conv/", "stage1_block<1+1>/expand/"),
      (r"^block17_(\d+)_conv/", "stage2_block<1+1>/expand/"),
      (r"^block8_(\d+)_conv/", "stage3_block<1+1>/expand/"),
      (r"^conv_7b/", "final_conv/conv/"),
      (r"^conv_7b_bn/", "final_conv/norm/"),
      *_keras(_KERAS_RESNET_V2),
    ),
    overrides=_KERAS_NORM,
  ),
]  # fmt: skip
