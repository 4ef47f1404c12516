"""RegNets of torchvision and timm."""

from cnnjax.transfer.mapping import Rules

_TORCHVISION = (
  (r"^trunk_output\.block\d\.block(\d)-(\d+)\.", "stage<1>_block<2+1>."),
  (r"\.f\.a\.", ".conv1."),
  (r"\.f\.b\.", ".conv2."),
  (r"\.f\.c\.", ".conv3."),
  (r"\.proj\.", ".shortcut."),
  (r"^stem\.", "conv_stem."),
  (r"(conv\d|conv_stem|shortcut)\.0\.", "<1>.conv."),
  (r"(conv\d|conv_stem|shortcut)\.1\.", "<1>.norm."),
  (r"\.f\.se\.fc1\.", ".se.reduce."),
  (r"\.f\.se\.fc2\.", ".se.expand."),
  (r"^fc\.", "head."),
)
_TIMM = (
  (r"^s(\d)\.b(\d+)\.", "stage<1>_block<2>."),
  (r"^stem\.", "conv_stem."),
  (r"\.downsample\.", ".shortcut."),
  (r"\.bn\.", ".norm."),
  (r"\.se\.fc1\.", ".se.reduce."),
  (r"\.se\.fc2\.", ".se.expand."),
  (r"^head\.fc\.", "head."),
)

RULES = [
  Rules("torchvision", "regnet?_*_tv regnetx_008 regnety_004 regnet?_016 regnet?_032 regnetx_080 "
        "regnet?_160 regnet?_320", _TORCHVISION),
  Rules("timm", "regnet*", _TIMM),
]  # fmt: skip
