"""AlexNets of torchvision, pytorchcv and pretrainedmodels."""

from cnnjax.transfer.mapping import Rules, flattened

_TORCHVISION = tuple(
  (rf"^{theirs}\.", f"{ours}.")
  for theirs, ours in {
    r"features\.0": "conv1",
    r"features\.3": "conv2",
    r"features\.6": "conv3",
    r"features\.8": "conv4",
    r"features\.10": "conv5",
    r"classifier\.1": "dense1",
    r"classifier\.4": "dense2",
    r"classifier\.6": "head",
  }.items()
)
_PYTORCHCV = (
  (r"^features\.stage([12])\.unit1\.conv\.", "conv<1>."),
  (r"^features\.stage3\.unit(\d)\.conv\.", "conv<1+2>."),
  (r"^output\.fc([12])\.fc\.", "dense<1>."),
  (r"^output\.fc3\.", "head."),
)
_PRETRAINEDMODELS = (
  (r"^_features\.", "features."),
  (r"^linear0\.", "dense1."),
  (r"^linear1\.", "dense2."),
  (r"^last_linear\.", "head."),
  *_TORCHVISION,
)
# Saved by torch's example imagenet, which wraps the convolutions alone.
_IN_PARALLEL = ((r"^features\.module\.", "features."), *_TORCHVISION)
_REORDER = {"dense1/kernel": flattened(256, 6, 6)}

RULES = [
  Rules("torchvision", "alexnet", _TORCHVISION, _REORDER),
  Rules("torchvision", "alexnet", _IN_PARALLEL, _REORDER),
  Rules("pretrainedmodels", "alexnet", _PRETRAINEDMODELS, _REORDER),
  # Without towers; alpha multiplies the mean of 5 squares.
  Rules("pytorchcv", "alexnet_2012", _PYTORCHCV, _REORDER,
        overrides={"groups": 1, "lrn_alpha": 2e-5}),
]  # fmt: skip
