"""ConvNeXts of torchvision, timm, Keras, transformers and their authors."""

import numpy as np

from cnnjax.transfer.mapping import Rules


def _feature(match):
  """Returns our name for torchvision's number in (stem, stage, downsampling, stage, ...)."""
  number, inner = int(match[1]), int(match[2])
  if number == 0:
    return "stem_norm." if inner else "stem_conv."
  if number % 2:
    return f"stage{number // 2 + 1}_block{inner + 1}."
  return f"stage{number // 2 + 1}_downsample_{'conv' if inner else 'norm'}."


_TORCHVISION = (
  (r"^features\.(\d)\.(\d+)\.", _feature),
  (r"\.block\.0\.", ".depthwise."),
  (r"\.block\.2\.", ".norm."),
  (r"\.block\.3\.", ".expand."),
  (r"\.block\.5\.", ".project."),
  (r"^classifier\.0\.", "head_norm."),
  (r"^classifier\.2\.", "head."),
)
_TIMM = (
  (r"^stem\.0\.", "stem_conv."),
  (r"^stem\.1\.", "stem_norm."),
  (r"^stages\.(\d)\.downsample\.0\.", "stage<1+1>_downsample_norm."),
  (r"^stages\.(\d)\.downsample\.1\.", "stage<1+1>_downsample_conv."),
  (r"^stages\.(\d)\.blocks\.(\d+)\.", "stage<1+1>_block<2+1>."),
  (r"\.conv_dw\.", ".depthwise."),
  (r"\.mlp\.fc1\.", ".expand."),
  (r"\.mlp\.grn\.", ".response_norm."),
  (r"\.mlp\.fc2\.", ".project."),
  (r"\.gamma$", ".layer_scale"),
  (r"^head\.norm\.", "head_norm."),
  (r"^head\.fc\.", "head."),
)
_AUTHORS = (
  (r"^downsample_layers\.0\.0\.", "stem_conv."),
  (r"^downsample_layers\.0\.1\.", "stem_norm."),
  (r"^downsample_layers\.(\d)\.0\.", "stage<1+1>_downsample_norm."),
  (r"^downsample_layers\.(\d)\.1\.", "stage<1+1>_downsample_conv."),
  (r"^stages\.(\d)\.(\d+)\.", "stage<1+1>_block<2+1>."),
  (r"\.dwconv\.", ".depthwise."),
  (r"\.pwconv1\.", ".expand."),
  (r"\.pwconv2\.", ".project."),
  (r"\.grn\.gamma$", ".response_norm.weight"),
  (r"\.grn\.beta$", ".response_norm.bias"),
  (r"\.gamma$", ".layer_scale"),
  (r"^norm\.", "head_norm."),
)
_TRANSFORMERS = (
  (r"^convnext(v2)?\.", ""),
  (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
  (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
  (r"^encoder\.stages\.(\d)\.downsampling_layer\.", "downsample_layers.<1>."),
  (r"^encoder\.stages\.(\d)\.layers\.", "stages.<1>."),
  (r"\.layernorm\.", ".norm."),
  (r"\.grn\.(weight|bias)$", ".response_norm.<1>"),
  (r"\.layer_scale_parameter$", ".gamma"),
  (r"^layernorm\.", "norm."),
  (r"^classifier\.", "head."),
  *_AUTHORS,
)
_KERAS = (
  (r"^(\w+/)?convnext_[a-z]+_", ""),  # the stem is in a group, and so is each downsampling
  (r"^stem_layernorm", "stem_norm"),
  (r"^downsampling_layernorm_(\d)", "stage<1+2>_downsample_norm"),
  (r"^downsampling_conv_(\d)", "stage<1+2>_downsample_conv"),
  (r"^stage_(\d)_block_(\d+)_", "stage<1+1>_block<2+1>/"),
  (r"/depthwise_conv/", "/depthwise/"),
  (r"/layernorm/", "/norm/"),
  (r"/pointwise_conv_1/", "/expand/"),
  (r"/pointwise_conv_2/", "/project/"),
  (r"/layer_scale/\w+$", "/layer_scale"),
  (r"^head_layernorm/", "head_norm/"),
  (r"^head_dense/", "head/"),
)

_BOTH = "convnext_* convnextv2_*"

RULES = [
  Rules(
    "torchvision",
    "convnext_tiny convnext_small convnext_base convnext_large",
    _TORCHVISION,
    reorder={"/layer_scale$": np.squeeze},  # [features, 1, 1] there
  ),
  Rules("timm", _BOTH, _TIMM),
  # [1, 1, 1, features] there
  Rules("facebookresearch", _BOTH, _AUTHORS, reorder={"/response_norm/": np.squeeze}),
  Rules("transformers", _BOTH, _TRANSFORMERS, reorder={"/response_norm/": np.squeeze}),
  Rules("keras", "convnext_*", _KERAS),
]
