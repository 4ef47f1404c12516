"""DenseNets of torchvision, timm, Keras, pytorchcv and pretrainedmodels."""

from cnnjax.transfer.mapping import Rules

_TORCHVISION = (
  (r"^features\.", ""),
  (r"^conv0\.", "stem_conv."),
  (r"^norm0\.", "stem_norm."),
  (r"^denseblock(\d)\.denselayer(\d+)\.", "block<1>.layer<2>_"),
  (r"_(norm|conv)1\.", "_bottleneck.<1>."),
  (r"_(norm|conv)2\.", "_growth.<1>."),
  (r"^norm5\.", "final_norm."),
  (r"^classifier\.", "head."),
)
_TORCHVISION_2017 = (  # before 0.2.1, as the files that it downloads still are
  (r"(denselayer\d+)\.(norm|conv)\.([12])\.", "<1>.<2><3>."),
  *_TORCHVISION,
)
_KERAS = (
  (r"^conv1_conv/", "stem_conv/"),
  (r"^conv1_bn/", "stem_norm/"),
  (r"^conv(\d)_block(\d+)_", "block<1-1>/layer<2>_"),
  (r"_0_bn/", "_bottleneck/norm/"),
  (r"_1_conv/", "_bottleneck/conv/"),
  (r"_1_bn/", "_growth/norm/"),
  (r"_2_conv/", "_growth/conv/"),
  (r"^pool(\d)_bn/", "transition<1-1>/norm/"),
  (r"^pool(\d)_conv/", "transition<1-1>/conv/"),
  (r"^bn/", "final_norm/"),
  (r"^predictions/", "head/"),
)
_KERAS_2018 = (
  (r"^conv1/(conv|bn)/", "conv1_<1>/"),
  (r"^fc1000/", "predictions/"),
  *_KERAS,
)
_PYTORCHCV = (
  (r"^features\.", ""),
  (r"^init_block\.conv\.", "stem_conv."),
  (r"^init_block\.bn\.", "stem_norm."),
  (r"^init_block\.", "stem_conv."),
  (r"^stage(\d)\.trans\d\.conv\.", "transition<1-1>."),
  (r"^stage(\d)\.unit(\d+)\.", "block<1>.layer<2>_"),
  (r"(layer\d+)_conv1\.", "<1>_bottleneck."),
  (r"(layer\d+)_conv2?\.", "<1>_growth."),
  (r"\.bn\.", ".norm."),
  (r"^post_activ\.norm\.", "final_norm."),
  (r"^output\.", "head."),
)
_KERAS_NORM = dict(norm_epsilon=1.001e-5, norm_momentum=0.99)
_IMAGENET = "densenet121 densenet161 densenet169 densenet201 densenet264 densenet264_k48"

RULES = [
  Rules("torchvision", _IMAGENET, _TORCHVISION),
  Rules("timm", _IMAGENET, _TORCHVISION),
  Rules("torchvision", _IMAGENET, _TORCHVISION_2017),
  Rules("pretrainedmodels", _IMAGENET,
        ((r"^last_linear\.", "classifier."), *_TORCHVISION_2017)),
  Rules("keras", _IMAGENET, _KERAS, overrides=_KERAS_NORM),
  Rules("keras", _IMAGENET, _KERAS_2018, overrides=_KERAS_NORM),
  Rules("pytorchcv", f"densenet_bc* {_IMAGENET}", _PYTORCHCV),
  Rules(
    "pytorchcv",
    "densenet40_k12 densenet100_k12 densenet100_k24",
    _PYTORCHCV,
    overrides={"compression": 0.5, "stem_features": 0},
  ),
]  # fmt: skip
