"""ConvMixers of timm."""

from cnnjax.transfer.mapping import Rules

RULES = [
  Rules(
    "timm",
    "convmixer_*",
    (
      (r"^stem\.0\.", "patch_embed.conv."),
      (r"^stem\.2\.", "patch_embed.norm."),
      (r"^blocks\.(\d+)\.", "block<1+1>."),
      (r"\.0\.fn\.0\.", ".depthwise.conv."),
      (r"\.0\.fn\.2\.", ".depthwise.norm."),
      (r"^(block\d+)\.1\.", "<1>.pointwise.conv."),
      (r"^(block\d+)\.3\.", "<1>.pointwise.norm."),
    ),
  )
]
