"""ResNets of torchvision, timm, pytorchcv and Keras."""

from cnnjax.transfer.mapping import Rules

_STAGES = (r"layer(\d+)\.(\d+)\.", "stage<1>_block<2+1>.")
_TORCHVISION = (
  (r"^conv1\.", "stem_conv."),
  (r"^bn1\.", "stem_norm."),
  _STAGES,
  (r"\.bn(\d)\.", ".norm<1>."),
  (r"downsample\.0\.", "shortcut_conv."),
  (r"downsample\.1\.", "shortcut_norm."),
  (r"^fc\.", "head."),
)
_TIMM = (
  (r"^conv1\.0\.", "stem_conv1."),
  (r"^conv1\.1\.", "stem_norm1."),
  (r"^conv1\.3\.", "stem_conv2."),
  (r"^conv1\.4\.", "stem_norm2."),
  *_TORCHVISION[:1],
  *_TORCHVISION[2:],
  (r"\.se\.fc1\.", ".se.reduce."),
  (r"\.se\.fc2\.", ".se.expand."),
  (r"\.se\.conv\.weight$", ".eca.kernel"),
)
_DEEP = (*_TIMM, (r"^conv1\.6\.", "stem_conv3."), (r"downsample\.1\.", "shortcut_conv."))

RULES = [
  Rules("torchvision", "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet* resnext50* "
        "resnext101*", _TORCHVISION),
]  # fmt: skip
