"""MobileNets of torchvision, timm, Keras, pytorchcv and github.com/tonylins.

At widths other than 1, v3 of torchvision is another network (see models/mobilenet_v3.py). Keras' v3
needs `include_preprocessing=False`; otherwise it takes images that are not normalised.
"""

from collections.abc import Callable, Sequence

from cnnjax.transfer.mapping import Rules


def _block(sizes: Sequence[int], first: int) -> Callable:
  """Returns the rename of a block numbered through the network (the first group) to our name."""

  def replace(match) -> str:
    number = int(match[1] or 0) - first
    for stage, size in enumerate(sizes, 1):
      if number < size:
        return f"stage{stage}_block{number + 1}/"
      number -= size
    return match[0]

  return replace


_V1 = (1, 2, 2, 6, 2)
_V2 = (1, 2, 3, 4, 3, 3, 1)
_LARGE = (1, 2, 3, 4, 2, 3)
_SMALL = (1, 2, 3, 2, 3)

_TORCHVISION_V2 = (
  (r"^features\.0\.0\.", "conv_stem/conv/"),
  (r"^features\.0\.1\.", "conv_stem/norm/"),
  (r"^features\.18\.0\.", "conv_head/conv/"),
  (r"^features\.18\.1\.", "conv_head/norm/"),
  (r"^features\.(\d+)\.", _block(_V2, 1)),
  (r"^(stage1_block1)/conv\.0\.", "<1>/depthwise/"),
  (r"^(stage1_block1)/conv\.1\.", "<1>/project/conv/"),
  (r"^(stage1_block1)/conv\.2\.", "<1>/project/norm/"),
  (r"/conv\.0\.(?=\d)", "/expand/"),
  (r"/conv\.1\.(?=\d)", "/depthwise/"),
  (r"/conv\.2\.", "/project/conv/"),
  (r"/conv\.3\.", "/project/norm/"),
  (r"(expand|depthwise)/0\.", "<1>/conv/"),
  (r"(expand|depthwise)/1\.", "<1>/norm/"),
  (r"^classifier\.1\.", "head/"),
)


def _numbered(places: str) -> Callable:
  """Returns the rename of a part of a block whose `conv` counts relus too, to torchvision's."""
  theirs = dict(pair.split(":") for pair in places.split())
  return lambda match: f"features.{match[1]}.conv.{theirs.get(match[2], match[2])}."


_TONYLINS_V2 = (
  (r"^conv\.(\d)\.", "features.18.<1>."),
  (r"^classifier\.(?!\d)", "classifier.1."),
  (r"^features\.(1)\.conv\.(\d)\.", _numbered("0:0.0 1:0.1 3:1 4:2")),
  (r"^features\.(?!1\.)(\d+)\.conv\.(\d)\.", _numbered("0:0.0 1:0.1 3:1.0 4:1.1 6:2 7:3")),
  *_TORCHVISION_V2,
)


def _torchvision_v3(sizes: Sequence[int]) -> tuple:
  last = sum(sizes) + 1
  return (
    (r"^features\.0\.", "conv_stem/"),
    (rf"^features\.{last}\.", "conv_head/"),
    (r"^features\.(\d+)\.", _block(sizes, 1)),
    (r"block\.\d\.fc1\.", "se/reduce/"),
    (r"block\.\d\.fc2\.", "se/expand/"),
    (r"^(stage1_block1)/block\.0\.", "<1>/depthwise/"),
    (r"^(stage1_block1)/block\.\d\.", "<1>/project/"),
    (r"block\.0\.", "expand/"),
    (r"block\.1\.", "depthwise/"),
    (r"block\.[23]\.", "project/"),
    (r"^((?:stage\d_block\d+/)?\w+)/0\.", "<1>/conv/"),
    (r"^((?:stage\d_block\d+/)?\w+)/1\.", "<1>/norm/"),
    (r"^classifier\.0\.", "head_hidden/"),
    (r"^classifier\.3\.", "head/"),
  )


_TIMM = (
  (r"^conv_stem\.", "conv_stem/conv/"),
  (r"^bn1\.", "conv_stem/norm/"),
  (r"^blocks\.(\d+)\.(\d+)\.", "stage<1+1>_block<2+1>/"),
  (r"se\.conv_(reduce|expand)\.", "se/<1>/"),
  (r"^classifier\.", "head/"),
)
_TIMM_V1 = (
  *_TIMM,
  (r"/conv_dw\.", "/depthwise/conv/"),
  (r"/bn1\.", "/depthwise/norm/"),
  (r"/conv_pw\.", "/pointwise/conv/"),
  (r"/bn2\.", "/pointwise/norm/"),
)
_INVERTED_RESIDUALS = (  # the first block has no expansion
  (r"^(stage1_block1)/bn1\.", "<1>/depthwise/norm/"),
  (r"^(stage1_block1)/conv_pw\.", "<1>/project/conv/"),
  (r"^(stage1_block1)/bn2\.", "<1>/project/norm/"),
  (r"/conv_pw\.", "/expand/conv/"),
  (r"/bn1\.", "/expand/norm/"),
  (r"/conv_dw\.", "/depthwise/conv/"),
  (r"/bn2\.", "/depthwise/norm/"),
  (r"/conv_pwl\.", "/project/conv/"),
  (r"/bn3\.", "/project/norm/"),
)
TIMM_V2 = (
  *_TIMM,
  (r"^conv_head\.", "conv_head/conv/"),
  (r"^bn2\.", "conv_head/norm/"),
  *_INVERTED_RESIDUALS,
)


def _timm_v3(sizes: Sequence[int]) -> tuple:
  last = len(sizes)  # in timm the last convolution is a stage
  return (
    (r"^conv_head\.", "head_hidden/"),
    (rf"^blocks\.{last}\.0\.conv\.", "conv_head/conv/"),
    (rf"^blocks\.{last}\.0\.bn1\.", "conv_head/norm/"),
    *_TIMM,
    *_INVERTED_RESIDUALS,
  )


def _timm_v4(*rest: tuple[str, str]) -> tuple:
  return (
    (r"^conv_head\.", "head_hidden/conv/"),
    (r"^norm_head\.", "head_hidden/norm/"),
    (r"^blocks\.4\.0\.conv\.", "conv_head/conv/"),
    (r"^blocks\.4\.0\.bn1\.", "conv_head/norm/"),
    *_TIMM,
    (r"/dw_start\.", "/depthwise1/"),
    (r"/pw_exp\.", "/expand/"),
    (r"/dw_mid\.", "/depthwise2/"),
    (r"/pw_proj\.", "/project/"),
    (r"/bn\.", "/norm/"),
    (r"/conv\.", "/conv/"),
    *rest,
  )


_TIMM_V4_SMALL = _timm_v4((r"/bn1\.", "/norm/"))  # of its plain convolutions
_TIMM_V4 = _timm_v4(
  (r"/conv_exp\.", "/expand/conv/"),
  (r"/bn1\.", "/expand/norm/"),
  (r"/conv_pwl\.", "/project/conv/"),
  (r"/bn2\.", "/project/norm/"),
)

_KERAS_V1 = (
  (r"^conv1/", "conv_stem/conv/"),
  (r"^conv1_bn/", "conv_stem/norm/"),
  (r"^conv_dw_(\d+)", lambda m: _block(_V1, 1)(m) + "depthwise"),
  (r"^conv_pw_(\d+)", lambda m: _block(_V1, 1)(m) + "pointwise"),
  (r"(depthwise|pointwise)/", "<1>/conv/"),
  (r"(depthwise|pointwise)_bn/", "<1>/norm/"),
  (r"^conv_preds/", "head/"),
)
_KERAS_V2_ENDS = (
  (r"^Conv1/", "conv_stem/conv/"),
  (r"^bn_Conv1/", "conv_stem/norm/"),
  (r"^Conv_1/", "conv_head/conv/"),
  (r"^Conv_1_bn/", "conv_head/norm/"),
)
_KERAS_V2 = (
  *_KERAS_V2_ENDS,
  (r"^expanded_conv_", "block_0_"),
  (r"^block_(\d+)_", _block(_V2, 0)),
  (r"(expand|depthwise|project)/", "<1>/conv/"),
  (r"(expand|depthwise|project)_BN/", "<1>/norm/"),
  (r"^predictions/", "head/"),
)


_KERAS_V2_2019 = ((r"^Logits/", "predictions/"), *_KERAS_V2)  # Keras 2.2 to 2.3
_KERAS_V2_2018 = (  # Keras 2.1.6
  *_KERAS_V2_ENDS,
  (r"^mobl(\d+)_conv_\d+_(\w+)/", lambda m: f"{_block(_V2, 0)(m)}{m[2]}/conv/"),
  (r"^bn(\d+)_conv_\d+_bn_(\w+)/", lambda m: f"{_block(_V2, 0)(m)}{m[2]}/norm/"),
  (r"^Logits/", "head/"),
)
_PYTORCHCV_V1 = (
  (r"^features\.init_block\.", "conv_stem."),
  (r"^features\.stage(\d)\.unit(\d)\.", "stage<1>_block<2>."),
  (r"\.dw_conv\.", ".depthwise."),
  (r"\.pw_conv\.", ".pointwise."),
  (r"\.bn\.", ".norm."),
  (r"^output\.", "head."),
)


def _keras_v3(sizes: Sequence[int]) -> tuple:
  return (
    (r"^conv/", "conv_stem/conv/"),
    (r"^conv_bn/", "conv_stem/norm/"),
    (r"^conv_1/", "conv_head/conv/"),
    (r"^conv_1_bn/", "conv_head/norm/"),
    (r"^conv_2/", "head_hidden/"),
    (r"^expanded_conv_(?:(\d+)_)?", _block(sizes, 0)),
    (r"/(expand|depthwise|project)/", "/<1>/conv/"),
    (r"/(expand|depthwise|project)_bn/", "/<1>/norm/"),
    (r"squeeze_excite_conv/", "se/reduce/"),
    (r"squeeze_excite_conv_1/", "se/expand/"),
    (r"^logits/", "head/"),
  )


def _keras_v3_2020(sizes: Sequence[int]) -> tuple:
  """Returns the renames of Keras 2, whose names have slashes."""
  return (
    (r"^(Conv(?:_\d)?)/", lambda m: m[0].lower()),
    (r"^conv(_\d)?/BatchNorm/", lambda m: f"conv{m[1] or ''}_bn/"),
    (r"^expanded_conv(_\d+)?/", lambda m: f"expanded_conv{m[1] or ''}_"),
    (r"(expand|depthwise|project)/BatchNorm/", "<1>_bn/"),
    (r"squeeze_excite/(Conv(?:_1)?)/", lambda m: f"squeeze_excite_{m[1].lower()}/"),
    (r"^Logits/", "logits/"),
    *_keras_v3(sizes),
  )


def _keras(momentum: float, epsilon: float = 1e-3) -> dict:
  return dict(padding="same", norm_epsilon=epsilon, norm_momentum=momentum)


_TIMM_NORM = dict(norm_momentum=0.9, norm_epsilon=1e-5)
_TIMM_TF = _keras(0.9)  # the padding and the epsilon of TensorFlow

RULES = [
  Rules("torchvision", "mobilenetv2_*", _TORCHVISION_V2),
  Rules("torchvision", "mobilenetv3_large_100", _torchvision_v3(_LARGE)),
  Rules("torchvision", "mobilenetv3_small_100", _torchvision_v3(_SMALL)),
  Rules("timm", "mobilenetv1_*", _TIMM_V1),
  Rules("timm", "mobilenetv2_*", TIMM_V2),
  Rules("timm", "mobilenetv3_large_*", _timm_v3(_LARGE), overrides=_TIMM_NORM),
  Rules("timm", "mobilenetv3_small_*", _timm_v3(_SMALL), overrides=_TIMM_NORM),
  Rules("timm_tf", "mobilenetv3_large_*", _timm_v3(_LARGE), overrides=_TIMM_TF),
  Rules(
    "timm_tf", "mobilenetv3_small_075 mobilenetv3_small_100", _timm_v3(_SMALL), overrides=_TIMM_TF
  ),
  Rules("timm", "mobilenetv4_conv_small*", _TIMM_V4_SMALL),
  Rules("timm", "mobilenetv4_conv_medium mobilenetv4_conv_large", _TIMM_V4),
  Rules("keras", "mobilenetv1_*", _KERAS_V1, overrides=_keras(0.99)),
  Rules("keras", "mobilenetv2_*", _KERAS_V2, overrides=_keras(0.999)),
  Rules("keras", "mobilenetv2_*", _KERAS_V2_2019, overrides=_keras(0.999)),
  Rules("keras", "mobilenetv2_*", _KERAS_V2_2018, overrides=_keras(0.99, 1e-5)),
  Rules("keras", "mobilenetv3_large_*", _keras_v3(_LARGE), overrides=_keras(0.999)),
  Rules("keras", "mobilenetv3_small_*", _keras_v3(_SMALL), overrides=_keras(0.999)),
  Rules("keras", "mobilenetv3_large_*", _keras_v3_2020(_LARGE), overrides=_keras(0.999)),
  Rules("keras", "mobilenetv3_small_*", _keras_v3_2020(_SMALL), overrides=_keras(0.999)),
  Rules("pytorchcv", "mobilenetv1_*", _PYTORCHCV_V1, overrides=dict(activation="relu")),
  Rules("pytorch_mobilenet_v2", "mobilenetv2_*", _TONYLINS_V2),
]
