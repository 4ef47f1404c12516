"""ResNets of many libraries and of repositories for CIFAR; see cnnjax/transfer/README.md.

timm's ecaresnet50 here is `timm.create_model("resnet50", block_args=dict(attn_layer="eca"))`. The
squeeze of its seresnet18 and seresnet34 is wider than ours (see models/resnet.py), so these two are
missing.
"""

import re

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
_PRETRAINEDMODELS = ((r"^last_linear\.", "fc."), *_TORCHVISION)
_LEGACY_SE = (
  (r"^layer0\.", ""),
  (r"\.se_module\.fc1\.", ".se.reduce."),
  (r"\.se_module\.fc2\.", ".se.expand."),
  *_PRETRAINEDMODELS,
)
_MMPRETRAIN = ((r"^backbone\.", ""), (r"^head\.fc\.", "fc."), *_TORCHVISION)
_PYCLS = (
  (r"^stem\.conv\.", "stem_conv."),
  (r"^stem\.bn\.", "stem_norm."),
  (r"^s(\d)\.b(\d+)\.", "stage<1>_block<2>."),
  (r"\.proj\.", ".shortcut_conv."),
  (r"\.bn\.", ".shortcut_norm."),
  (r"\.f\.([abc])(_bn)?\.", lambda m: f".{_kind(m[2])}{'abc'.index(m[1]) + 1}."),
  (r"^head\.fc\.", "head."),
)
_TRANSFORMERS = (
  (r"^resnet\.embedder\.embedder\.", "stem."),
  (r"^resnet\.encoder\.stages\.(\d)\.layers\.(\d+)\.", "stage<1+1>_block<2+1>."),
  (r"\.layer\.(\d)\.convolution\.", ".conv<1+1>."),
  (r"\.layer\.(\d)\.normalization\.", ".norm<1+1>."),
  (r"(stem|shortcut)\.convolution\.", "<1>_conv."),
  (r"(stem|shortcut)\.normalization\.", "<1>_norm."),
  (r"^classifier\.1\.", "head."),
)


def _kind(norm: str | None) -> str:
  return "norm" if norm else "conv"


def _caffe(match: re.Match) -> str:
  """Returns our name of a layer that is named as in Caffe.

  bn3b_branch2a is the norm of the first convolution in the second block of the second stage;
  res3b1_branch1 the shortcut of that block where blocks are many.
  """
  kind = _kind(match[1] if match[1] == "bn" else None)
  block = int(match[4]) + 1 if match[4] else ord(match[3]) - ord("a") + 1
  part = f"{kind}{'abc'.index(match[6]) + 1}" if match[6] else f"shortcut_{kind}"
  return f"stage{int(match[2]) - 1}_block{block}/{part}/"


_KERAS_2015 = (
  (r"^conv1/", "stem_conv/"),
  (r"^bn_conv1/", "stem_norm/"),
  (r"^(res|bn)(\d)([a-z])(\d*)_branch(1|2([abc]))/", _caffe),
  (r"^fc1000/", "head/"),
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
_NEXT = "resnext50_32x4d resnext101_*"
_WIDE = f"wide_resnet* {_NEXT}"
_V1 = "resnet50_v1 resnet101_v1 resnet152_v1"

_KERAS_2019 = ((r"^probs/", "predictions/"), *_KERAS)
_SE = "seresnet50 seresnet101 seresnet152"


def _keras(epsilon: float) -> dict:
  return dict(conv_bias=True, norm_epsilon=epsilon, norm_momentum=0.99)


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
  # Its resnet50 is our resnet50_v1, its resnet50b our resnet50.
  Rules("pytorchcv", f"resnet*_v1 {_PLAIN} {_NEXT} resnet200 seresnet18 seresnet34 {_SE} "
        "seresnext50_32x4d cbamresnet* preact_resnet110 preact_resnet164 preact_resnet1001 wrn_* "
        "resnext29_*", _PYTORCHCV),
  # pytorchcv has projections where the paper pads zeros.
  Rules("pytorchcv", "resnet20 resnet56 resnet110 resnet1202 seresnet20", _PYTORCHCV,
        overrides=dict(shortcut="B")),
  Rules("keras", _V1, _KERAS, overrides=_keras(1.001e-5)),
  Rules("keras", _V1, _KERAS_2019, overrides=_keras(1.001e-5)),
  Rules("keras", _V1, _KERAS_2015, overrides=_keras(1e-3)),
  Rules("pretrainedmodels", _PLAIN, _PRETRAINEDMODELS),
  # Their strides and pool are those of Caffe.
  Rules("pretrainedmodels", _SE, _LEGACY_SE, overrides=dict(stem="caffe", stride_in_1x1=True)),
  Rules("pretrainedmodels", "seresnext50_32x4d", _LEGACY_SE, overrides=dict(stem="caffe")),
  Rules("mmpretrain", f"{_PLAIN} {_NEXT}", _MMPRETRAIN),
  Rules("pycls", f"resnet50 resnet101 resnet152 {_NEXT}", _PYCLS),
  Rules("transformers", _PLAIN, _TRANSFORMERS),
  Rules("pytorch_cifar_models", "resnet20 resnet32 resnet44 resnet56", _TORCHVISION,
        overrides=dict(shortcut="B")),
]  # fmt: skip
