"""EfficientNets of torchvision, timm, Keras and github.com/lukemelas/EfficientNet-PyTorch.

timm's tf_efficientnet_* ("timm_tf") have the tensor names of its efficientnet_*, but TensorFlow's
padding and epsilon.
"""

import re

from cnnjax.models import registry
from cnnjax.transfer.mapping import Rules

_Renames = tuple[tuple[str, str], ...]


def _torchvision(head: int, stages: dict[str, str]) -> _Renames:
  """Returns the renames of torchvision.

  Args:
    head: the number of the last convolution in `features`.
    stages: our names of block.0, block.1, ..., by numbers of stages.
  """
  blocks = [
    (rf"^features\.([{numbers}])\.(\d+)\.block\.{i}\.", f"stage<1>_block<2+1>.{part}.")
    for numbers, parts in stages.items()
    for i, part in enumerate(parts.split())
  ]
  return (
    (r"^features\.0\.", "conv_stem."),
    (rf"^features\.{head}\.", "conv_head."),
    *blocks,
    (r"(conv_stem|conv_head|expand|depthwise|project)\.0\.", "<1>.conv."),
    (r"(conv_stem|conv_head|expand|depthwise|project)\.1\.", "<1>.norm."),
    (r"\.se\.fc1\.", ".se.reduce."),
    (r"\.se\.fc2\.", ".se.expand."),
    (r"^classifier\.1\.", "head."),
  )


def _timm(stages: dict[str, dict[str, str]]) -> _Renames:
  """Returns the renames of timm.

  `stages` has, by numbers of stages, our names of the convolutions in order; the norm after the
  first one is bn1, and so on.
  """
  blocks = [
    (rf"^(stage[{numbers}]_block\d+)\.{theirs}\.", f"<1>.{part}.")
    for numbers, convs in stages.items()
    for i, (conv, ours) in enumerate(convs.items(), 1)
    for theirs, part in ((conv, f"{ours}.conv"), (f"bn{i}", f"{ours}.norm"))
  ]
  return (
    (r"^conv_stem\.", "conv_stem.conv."),
    (r"^bn1\.", "conv_stem.norm."),
    (r"^conv_head\.", "conv_head.conv."),
    (r"^bn2\.", "conv_head.norm."),
    (r"^blocks\.(\d+)\.(\d+)\.", "stage<1+1>_block<2+1>."),
    *blocks,
    (r"\.se\.conv_(reduce|expand)\.", ".se.<1>."),
    (r"^classifier\.", "head."),
  )


_MBCONV = dict(conv_pw="expand", conv_dw="depthwise", conv_pwl="project")
_TIMM_V1 = _timm({"1": dict(conv_dw="depthwise", conv_pw="project"), "2-7": _MBCONV})
_TIMM_V2 = _timm(
  {"1": dict(conv="project"), "23": dict(conv_exp="expand", conv_pwl="project"), "4-7": _MBCONV}
)
_PARTS_V1 = {"1": "depthwise se project", "2-7": "expand depthwise se project"}
_PARTS_V2 = {"1": "project", "23": "expand project", "4-7": "expand depthwise se project"}
_KERAS = (
  (r"^stem_conv/", "conv_stem/conv/"),
  (r"^stem_bn/", "conv_stem/norm/"),
  (r"^top_conv/", "conv_head/conv/"),
  (r"^top_bn/", "conv_head/norm/"),
  (r"^block(\d)([a-z])_", lambda m: f"stage{m[1]}_block{ord(m[2]) - ord('a') + 1}/"),
  (r"/(expand|project)_conv/", "/<1>/conv/"),
  (r"/(expand|project)_bn/", "/<1>/norm/"),
  (r"/dwconv2?/", "/depthwise/conv/"),
  (r"/bn/", "/depthwise/norm/"),
  (r"/se_(reduce|expand)/", "/se/<1>/"),
  (r"^predictions/", "head/"),
)
_KERAS_2019 = ((r"^probs/", "predictions/"), *_KERAS)  # and github.com/qubvel/efficientnet


def _sizes(name: str) -> list[int]:
  """Returns the number of blocks of each stage of a variant."""
  return registry.create(name, 0).stage_sizes()


def _pytorchcv(sizes: list[int]) -> _Renames:
  """Returns the renames of pytorchcv, whose five stages are our 1, 2, 3, 4 and 5, 6 and 7."""

  def block(match: re.Match) -> str:
    stage, unit = (1, 2, 3, 4, 6)[int(match[1]) - 1], int(match[2])
    if stage in (4, 6) and unit > sizes[stage - 1]:
      stage, unit = stage + 1, unit - sizes[stage - 1]
    return f"stage{stage}_block{unit}."

  return (
    (r"^features\.init_block\.conv\.", "conv_stem."),
    (r"^features\.final_block\.", "conv_head."),
    (r"^features\.stage([1-5])\.unit(\d+)\.", block),
    (r"\.(conv1)\.(?=conv|bn)", ".expand."),
    (r"\.(conv2|dw_conv)\.(?=conv|bn)", ".depthwise."),
    (r"\.(conv3|pw_conv)\.(?=conv|bn)", ".project."),
    (r"\.se\.conv1\.", ".se.reduce."),
    (r"\.se\.conv2\.", ".se.expand."),
    (r"\.bn\.", ".norm."),
    (r"^output\.fc\.", "head."),
  )


def _efficientnet_pytorch(sizes: list[int]) -> _Renames:
  """Returns the renames of EfficientNet-PyTorch, which numbers blocks through the network."""
  blocks = [f"stage{i}_block{n}." for i, size in enumerate(sizes, 1) for n in range(1, size + 1)]
  return (
    (r"^_conv_stem\.", "conv_stem.conv."),
    (r"^_bn0\.", "conv_stem.norm."),
    (r"^_conv_head\.", "conv_head.conv."),
    (r"^_bn1\.", "conv_head.norm."),
    (r"^_blocks\.(\d+)\.", lambda m: dict(enumerate(blocks)).get(int(m[1]), m[0])),
    (r"\._(expand|depthwise|project)_conv\.", ".<1>.conv."),
    (r"\._bn0\.", ".expand.norm."),
    (r"\._bn1\.", ".depthwise.norm."),
    (r"\._bn2\.", ".project.norm."),
    (r"\._se_(reduce|expand)\.", ".se.<1>."),
    (r"^_fc\.", "head."),
  )


_TORCH = dict(padding="symmetric", norm_momentum=0.9, norm_epsilon=1e-5)
_TIMM_TF = dict(padding="same", norm_momentum=0.9, norm_epsilon=1e-3)
# In Keras the normalisation of images is part of the model; here images are normalised before.
_PREPROCESSING = (r"^normalization(_\d+)?/(mean|variance|count)$",)

RULES = [
  Rules("torchvision", "efficientnet_b[0-4]", _torchvision(8, _PARTS_V1), overrides=_TORCH),
  Rules("torchvision", "efficientnet_b[5-7]", _torchvision(8, _PARTS_V1),
        overrides=dict(padding="symmetric")),
  Rules("torchvision", "efficientnetv2_s", _torchvision(7, _PARTS_V2),
        overrides=dict(padding="symmetric")),
  Rules("torchvision", "efficientnetv2_[ml]", _torchvision(8, _PARTS_V2),
        overrides=dict(padding="symmetric")),
  Rules("timm", "efficientnet_b* efficientnet_lite*", _TIMM_V1, overrides=_TORCH),
  Rules("timm", "efficientnetv2_*", _TIMM_V2, overrides=_TORCH),
  Rules("timm_tf", "efficientnet_b* efficientnet_lite*", _TIMM_V1, overrides=_TIMM_TF),
  Rules("timm_tf", "efficientnetv2_*", _TIMM_V2, overrides=_TIMM_TF),
  *(Rules("efficientnet_pytorch", name, _efficientnet_pytorch(_sizes(name)))
    for name in (*registry.names("efficientnet_b*"), *registry.names("efficientnet_lite*"))),
  *(Rules(source, name, _pytorchcv(_sizes(name)), overrides=overrides)
    for name in registry.names("efficientnet_b*")
    for source, overrides in (("pytorchcv", _TORCH), ("pytorchcv_tf", _TIMM_TF))),
  Rules("keras", "efficientnet_b* efficientnetv2_*", _KERAS, ignore=_PREPROCESSING),
  Rules("keras", "efficientnet_b*", _KERAS_2019, ignore=_PREPROCESSING),
]  # fmt: skip
