"""ConvMixers of timm and of the authors' short form, one sequence of layers."""

from cnnjax.transfer.mapping import Rules

_TIMM = (
  (r"^stem\.0\.", "patch_embed.conv."),
  (r"^stem\.2\.", "patch_embed.norm."),
  (r"^blocks\.(\d+)\.", "block<1+1>."),
  (r"\.0\.fn\.0\.", ".depthwise.conv."),
  (r"\.0\.fn\.2\.", ".depthwise.norm."),
  (r"^(block\d+)\.1\.", "<1>.pointwise.conv."),
  (r"^(block\d+)\.3\.", "<1>.pointwise.norm."),
)
_SEQUENCE = (
  (r"^(\d+)\.(?=\d)", "blocks.<1-3>."),
  (r"^([02])\.", "stem.<1>."),
  (r"^\d+\.", "head."),
  *_TIMM,
)

RULES = [
  Rules("timm", "convmixer_*", _TIMM),
  Rules("convmixer", "convmixer_*", _SEQUENCE, overrides={"activation": "gelu"}),
]
