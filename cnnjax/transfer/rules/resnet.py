"""ResNets of torchvision, timm, pytorchcv, Keras and two repositories for CIFAR.

timm's ecaresnet50 here is `timm.create_model("resnet50", block_args=dict(attn_layer="eca"))`. The
squeeze of its seresnet18 and seresnet34 is wider than ours (see models/resnet.py), so these two are
missing.
"""

from cnnjax.transfer.mapping import Rules

_TORCHVISION = (
  (r"^conv1\.", "stem_conv."),
  (r"^bn1\.", "stem_norm."),
  (r"layer(\d+)\.(\d+)\.", "stage<1>_block<2+1>."),
  (r"\.bn(\d)\.", ".norm<1>."),
  (r"downsample\.0\.", "shortcut_conv."),
  (r"downsample\.1\.", "shortcut_norm."),
  (r"^fc\.", "head."),
)
_CIFAR = (
  (r"^module\.", ""),  # saved from a DataParallel
  (r"\.shortcut\.0\.", ".shortcut_conv."),
  (r"\.shortcut\.1\.", ".shortcut_norm."),
  (r"^linear\.", "head."),
  *_TORCHVISION,
)
_TIMM = (
  *_TORCHVISION,
  (r"\.se\.fc1\.", ".se.reduce."),
  (r"\.se\.fc2\.", ".se.expand."),
  (r"\.se\.conv\.weight$", ".eca.weight"),
)
_TIMM_D = (  # three convolutions in the stem; the average pool is downsample.0
  (r"^conv1\.0\.", "stem_conv1."),
  (r"^conv1\.1\.", "stem_norm1."),
  (r"^conv1\.3\.", "stem_conv2."),
  (r"^conv1\.4\.", "stem_norm2."),
  (r"^conv1\.6\.", "stem_conv3."),
  (r"^bn1\.", "stem_norm3."),
  (r"downsample\.1\.", "shortcut_conv."),
  (r"downsample\.2\.", "shortcut_norm."),
  *_TORCHVISION,
)
_TIMM_V2 = (
  (r"^stem\.conv\.", "stem_conv."),
  (r"^stages\.(\d+)\.blocks\.(\d+)\.", "stage<1+1>_block<2+1>."),
  (r"downsample\.conv\.", "shortcut_conv."),
  (r"^norm\.", "final_norm."),
  (r"^head\.fc\.", "head."),
)
_PYTORCHCV = (
  (r"^features\.init_block\.(conv\.)?bn\.", "stem_norm."),
  (r"^features\.init_block\.(conv\.)*", "stem_conv."),
  (r"^features\.stage(\d+)\.unit(\d+)\.", "stage<1>_block<2>."),
  (r"\.body\.conv(\d)\.conv\.", ".conv<1>."),
  (r"\.body\.conv(\d)\.bn\.", ".norm<1>."),
  (r"\.identity_conv\.bn\.", ".shortcut_norm."),
  (r"\.identity_conv\.(conv\.)?", ".shortcut_conv."),
  (r"\.se\.conv1\.", ".se.reduce."),
  (r"\.se\.conv2\.", ".se.expand."),
  (r"\.cbam\.ch_gate\.mlp\.fc1\.", ".channel.reduce."),
  (r"\.cbam\.ch_gate\.mlp\.fc2\.", ".channel.expand."),
  (r"\.cbam\.sp_gate\.conv\.conv\.", ".spatial.conv."),
  (r"\.cbam\.sp_gate\.conv\.bn\.", ".spatial.norm."),
  (r"^features\.post_activ\.bn\.", "final_norm."),
  (r"^output\.", "head."),
)
_KERAS = (
  (r"^conv1_conv", "stem_conv"),
  (r"^conv1_bn", "stem_norm"),
  (r"^conv(\d)_block(\d+)_", "stage<1-1>_block<2>/"),
  (r"/0_conv", "/shortcut_conv"),
  (r"/0_bn", "/shortcut_norm"),
  (r"/(\d)_conv", "/conv<1>"),
  (r"/(\d)_bn", "/norm<1>"),
  (r"^predictions", "head"),
)
_PLAIN = "resnet18 resnet34 resnet50 resnet101 resnet152"
_WIDE = "wide_resnet* resnext50_32x4d resnext101*"

RULES = [
  Rules("torchvision", f"{_PLAIN} {_WIDE}", _TORCHVISION),
  Rules("pytorch_resnet_cifar10", "resnet20 resnet32 resnet44 resnet56 resnet110 resnet1202",
        _CIFAR),
  Rules("pytorch_cifar", "preact_resnet18", _CIFAR),
  Rules("pytorch_cifar", _PLAIN, _CIFAR, overrides=dict(small_images=True)),
  Rules("timm", "resnet18d resnet34d resnet50d resnet101d resnet152d", _TIMM_D),
  Rules("timm", "resnetv2_*", _TIMM_V2),
  Rules(
    "timm",
    f"{_PLAIN} {_WIDE} resnet200 seresnet50 seresnet101 seresnet152 seresnext* ecaresnet*",
    _TIMM,
  ),
  Rules("pytorchcv", "resnet*_v1 resnet18 resnet34 resnet200 seresnet18 seresnet34 seresnet50 "
        "seresnet101 seresnet152 cbamresnet* preact_resnet110 preact_resnet164 preact_resnet1001 "
        "wrn_* resnext29_*", _PYTORCHCV),
  # pytorchcv has projections where the paper pads zeros.
  Rules("pytorchcv", "resnet20 resnet56 resnet110 resnet1202 seresnet20", _PYTORCHCV,
        overrides=dict(shortcut="B")),
  Rules("keras", "resnet50_v1 resnet101_v1 resnet152_v1", _KERAS, overrides=dict(conv_bias=True)),
]  # fmt: skip
