"""SqueezeNets of torchvision, pytorchcv and pretrainedmodels."""

from cnnjax.models import registry
from cnnjax.transfer.mapping import Rules


def _rules(name: str) -> list[Rules]:
  """Returns the rules for torchvision, which counts all layers, and pytorchcv, which has stages."""
  in_sequence, by_stage = {}, {}
  index, number = 2, 2  # of the layer after the stem and its relu; of our first fire module
  sizes = registry.lookup(name).defaults["stage_sizes"]
  for stage, size in enumerate(sizes, 1):
    index += 1  # a pool
    for unit in range(1, size + 1):
      in_sequence[f"{index}"] = by_stage[f"{stage}.unit{unit}"] = f"fire{number}."
      index, number = index + 1, number + 1
  torchvision = (
    (r"^features\.0\.", "stem_conv."),
    (r"^features\.(\d+)\.", lambda match: in_sequence.get(match[1], match[0])),
    (r"^classifier\.1\.", "head."),
  )
  pytorchcv = (
    (r"^features\.init_block\.conv\.", "stem_conv."),
    (r"^features\.stage(\d\.unit\d)\.", lambda match: by_stage.get(match[1], match[0])),
    (r"^(fire.*)\.conv\.", "<1>."),
    (r"^output\.final_conv\.", "head."),
  )
  return [
    Rules("torchvision", name, torchvision),
    Rules("pytorchcv", name, pytorchcv),
    Rules("pretrainedmodels", name, ((r"^last_conv\.", "head."), *torchvision)),
  ]


RULES = [*_rules("squeezenet1_0"), *_rules("squeezenet1_1")]
