"""NFNets of timm, with DeepMind's weights."""

import numpy as np

from cnnjax.transfer.mapping import Rules

_TIMM = (
  (r"^stem\.conv(\d)\.", "stem_conv<1>."),
  (r"^stages\.(\d)\.(\d+)\.", "stage<1+1>_block<2+1>."),
  (r"\.downsample\.conv\.", ".shortcut_conv."),
  (r"\.conv3\.", ".conv4."),
  (r"\.conv2b\.", ".conv3."),
  (r"\.attn_last\.fc1\.", ".se.reduce."),
  (r"\.attn_last\.fc2\.", ".se.expand."),
  (r"\.skipinit_gain$", ".skip_gain"),
  (r"^head\.fc\.", "head."),
)

RULES = [
  Rules(
    "timm",
    "dm_nfnet_*",
    _TIMM,
    reorder={"/gain$": np.squeeze},  # [features, 1, 1, 1] there
    overrides=dict(activation="gelu", variance_floor=False),
  ),
]
