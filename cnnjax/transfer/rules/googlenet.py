"""GoogLeNet of torchvision, GoogLeNet of 2014 in torch, BN-Inception of pytorchcv.

The published weights of torchvision's GoogLeNet need images normalised by mean 0.5 and standard
deviation 0.5 in each channel (its `transform_input` converts the usual normalisation to that).
"""

from cnnjax.transfer.mapping import Rules, flattened

_TORCHVISION = (
  (r"^conv(\d)\.", "stem_conv<1>."),
  (r"^(aux\d)\.fc1\.", "<1>_head.dense."),
  (r"^(aux\d)\.fc2\.", "<1>_head.head."),
  (r"^(aux\d)\.conv\.", "<1>_head.conv."),
  (r"^fc\.", "head."),
  (r"\.branch1\.", ".conv1x1."),
  (r"\.branch2\.0\.", ".reduce3x3."),
  (r"\.branch2\.1\.", ".conv3x3."),
  (r"\.branch3\.0\.", ".reduce5x5."),
  (r"\.branch3\.1\.", ".conv5x5."),
  (r"\.branch4\.1\.", ".project."),
  (r"\.bn\.", ".norm."),
)
_STAGES = (("3a", "3b"), ("3c", "4a", "4b", "4c", "4d"), ("4e", "5a", "5b"))
_MODULES = {
  f"stage{stage}.unit{unit}": f"inception{module}."
  for stage, modules in enumerate(_STAGES, 1)
  for unit, module in enumerate(modules, 1)
}
_PYTORCHCV = (
  (r"^features\.init_block\.conv1\.(?=conv|bn)", "stem_conv1."),
  (r"^features\.init_block\.conv2\.conv(\d)\.", "stem_conv<1+1>."),
  # Modules of stride 2 have no 1x1 branch: their first branch is the second of other modules.
  (r"^(features\.stage[23]\.unit1\.branches\.branch)(\d)\.", "<1><2+1>."),
  (r"^features\.(stage\d\.unit\d)\.branches\.",
   lambda match: _MODULES.get(match[1], match[0])),
  (r"\.branch1\.", ".conv1x1."),
  (r"\.branch2\.conv1\.", ".reduce3x3."),
  (r"\.branch2\.conv2\.", ".conv3x3."),
  (r"\.branch3\.conv1\.", ".reduce5x5."),
  (r"\.branch3\.conv(\d)\.", ".conv5x5_<1-1>."),
  (r"\.branch4\.conv\.", ".project."),
  (r"\.bn\.", ".norm."),
  (r"^output\.", "head."),
)  # fmt: skip

_AUX = dict(
  reorder={r"aux\d_head/dense/kernel": flattened(128, 4, 4)}, overrides={"aux_logits": True}
)

RULES = [
  Rules("torchvision", "googlenet", _TORCHVISION, **_AUX),
  Rules("torchvision", "googlenet", _TORCHVISION),  # files without the auxiliary heads
  Rules("bvlc_googlenet", "googlenet_2014", _TORCHVISION, **_AUX),
  Rules("pytorchcv", "bn_inception", _PYTORCHCV),
]  # fmt: skip
