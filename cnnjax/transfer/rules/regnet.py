"""RegNets of torchvision, timm, pytorchcv, transformers and their authors (pycls)."""

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
_PYCLS = (
  (r"^stem\.bn\.", "conv_stem.norm."),
  (r"^stem\.conv\.", "conv_stem.conv."),
  (r"^s(\d)\.b(\d+)\.", "stage<1>_block<2>."),
  (r"\.proj\.", ".shortcut.conv."),
  (r"(block\d+)\.bn\.", "<1>.shortcut.norm."),
  (r"\.f\.([abc])\.", lambda m: f".conv{'abc'.index(m[1]) + 1}.conv."),
  (r"\.f\.([abc])_bn\.", lambda m: f".conv{'abc'.index(m[1]) + 1}.norm."),
  (r"\.f\.se\.f_ex\.0\.", ".se.reduce."),
  (r"\.f\.se\.f_ex\.2\.", ".se.expand."),
  (r"^head\.fc\.", "head."),
)
_PYTORCHCV = (
  (r"^features\.init_block\.", "conv_stem."),
  (r"^features\.stage(\d)\.unit(\d+)\.", "stage<1>_block<2>."),
  (r"\.identity_conv\.", ".shortcut."),
  (r"\.body\.se\.conv1\.", ".se.reduce."),
  (r"\.body\.se\.conv2\.", ".se.expand."),
  (r"\.body\.", "."),
  (r"\.bn\.", ".norm."),
  (r"^output\.", "head."),
)
_TRANSFORMERS = (
  (r"^regnet\.embedder\.embedder\.", "conv_stem."),
  (r"^regnet\.encoder\.stages\.(\d)\.layers\.(\d+)\.", "stage<1+1>_block<2+1>."),
  (r"\.layer\.2\.attention\.0\.", ".se.reduce."),
  (r"\.layer\.2\.attention\.2\.", ".se.expand."),
  (r"\.layer\.([01])\.", ".conv<1+1>."),
  (r"\.layer\.[23]\.", ".conv3."),  # 2 is the attention of a RegNetY
  (r"\.convolution\.", ".conv."),
  (r"\.normalization\.", ".norm."),
  (r"^classifier\.1\.", "head."),
)

RULES = [
  Rules("torchvision", "regnet?_*_tv regnetx_008 regnety_004 regnet?_016 regnet?_032 regnetx_080 "
        "regnet?_160 regnet?_320", _TORCHVISION),
  Rules("timm", "regnet*", _TIMM),
  Rules("pycls", "regnet*", _PYCLS),
  Rules("pytorchcv", "regnet*", _PYTORCHCV),
  Rules("transformers", "regnet*", _TRANSFORMERS),
]  # fmt: skip
