"""MnasNets of torchvision (B1) and timm (B1 and A1)."""

from cnnjax.transfer.mapping import Rules
from cnnjax.transfer.rules.mobilenet import TIMM_V2

_TORCHVISION = (
  (r"^layers\.0\.", "conv_stem/conv/"),
  (r"^layers\.1\.", "conv_stem/norm/"),
  (r"^layers\.3\.", "stage1_block1/depthwise/conv/"),
  (r"^layers\.4\.", "stage1_block1/depthwise/norm/"),
  (r"^layers\.6\.", "stage1_block1/project/conv/"),
  (r"^layers\.7\.", "stage1_block1/project/norm/"),
  (r"^layers\.14\.", "conv_head/conv/"),
  (r"^layers\.15\.", "conv_head/norm/"),
  (r"^layers\.(\d+)\.(\d)\.layers\.", "stage<1-6>_block<2+1>/"),
  (r"/0\.", "/expand/conv/"),
  (r"/1\.", "/expand/norm/"),
  (r"/3\.", "/depthwise/conv/"),
  (r"/4\.", "/depthwise/norm/"),
  (r"/6\.", "/project/conv/"),
  (r"/7\.", "/project/norm/"),
  (r"^classifier\.1\.", "head/"),
)

RULES = [
  Rules("torchvision", "mnasnet_*", _TORCHVISION, overrides=dict(norm_momentum=0.9997)),
  # Before torchvision 0.5 the stem had all features, whatever the width.
  Rules("torchvision", "mnasnet_050 mnasnet_075 mnasnet_13? mnasnet_14?", _TORCHVISION,
        overrides=dict(norm_momentum=0.9997, scale_stem=False)),
  Rules("timm", "mnasnet_* semnasnet_*", TIMM_V2, overrides=dict(norm_momentum=0.9)),
]  # fmt: skip
