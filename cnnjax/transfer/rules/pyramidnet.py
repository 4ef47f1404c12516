"""PyramidNets of pytorchcv."""

from cnnjax.transfer.mapping import Rules

RULES = [
  Rules(
    "pytorchcv",
    "pyramidnet*",
    (
      (r"^features\.init_block\.bn\.", "stem_norm."),
      (r"^features\.init_block\.conv\.", "stem_conv."),
      (r"^features\.stage(\d+)\.unit(\d+)\.", "stage<1>_block<2>."),
      (r"\.body\.conv(\d)\.conv\.", ".conv<1>."),
      (r"\.body\.conv(\d)\.bn\.", ".norm<1>."),
      (r"_block(\d+)\.bn\.", "_block<1>.last_norm."),
      (r"^features\.post_activ\.bn\.", "final_norm."),
      (r"^output\.", "head."),
    ),
  )
]
