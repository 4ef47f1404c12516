"""Vision transformers of timm and torchvision."""

from cnnjax.transfer.mapping import Rules

_TIMM = (
  (r"^cls_token$", "token"),
  (r"^pos_embed$", "position_embedding"),
  (r"^patch_embed\.proj\.", "patch_embed."),
  (r"^blocks\.(\d+)\.", "block<1+1>."),
  (r"\.attn\.qkv\.", ".qkv."),
  (r"\.attn\.proj\.", ".project."),
  (r"\.mlp\.fc(\d)\.", ".mlp<1>."),
  (r"^norm\.", "final_norm."),
)
_TORCHVISION = (
  (r"^class_token$", "token"),
  (r"^encoder\.pos_embedding$", "position_embedding"),
  (r"^conv_proj\.", "patch_embed."),
  (r"^encoder\.layers\.encoder_layer_(\d+)\.", "block<1+1>."),
  (r"\.ln_(\d)\.", ".norm<1>."),
  (r"\.self_attention\.in_proj_", ".qkv."),
  (r"\.self_attention\.out_proj\.", ".project."),
  (r"\.mlp\.0\.", ".mlp1."),
  (r"\.mlp\.3\.", ".mlp2."),
  (r"^encoder\.ln\.", "final_norm."),
  (r"^heads\.head\.", "head."),
)
_TORCHVISION_2022 = (  # before 0.13, as the files that it downloads still are
  (r"\.mlp\.linear_(\d)\.", ".mlp<1>."),
  *_TORCHVISION,
)

RULES = [
  Rules("timm", "vit_*", _TIMM),
  Rules("torchvision", "vit_base_*", _TORCHVISION),
  Rules("torchvision", "vit_base_*", _TORCHVISION_2022),
]
