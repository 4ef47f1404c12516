"""Layers that Keras names by a counter of the session, such as conv2d_95: counted from zero."""

import re
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")
# Kinds of layers with such names in networks that have rules, as Keras 2 and 3 call them, and what
# Keras 1 called them.
KINDS = {
  "conv2d": "conv2d",
  "batch_normalization": "batch_normalization",
  "convolution2d": "conv2d",
  "batchnormalization": "batch_normalization",
}


def counted_from_zero(weights: Mapping[str, Value]) -> dict[str, Value]:
  """Returns weights by the names of the first network of a session of today.

  Keras 1 and 2 count from 1 and TensorFlow's Keras from 0, and a second network of a session goes
  on where the first one ended. The names become conv2d, conv2d_1, conv2d_2 and so on.
  """
  numbers: dict[str, set[int]] = {}
  pattern = re.compile(rf"^({'|'.join(KINDS)})(?:_(\d+))?/")
  for name in weights:
    if match := pattern.match(name):
      numbers.setdefault(KINDS[match[1]], set()).add(int(match[2] or 0))
  places = {
    (kind, number): f"_{place}" if place else ""
    for kind, found in numbers.items()
    for place, number in enumerate(sorted(found))
  }

  def renamed(match: re.Match) -> str:
    kind = KINDS[match[1]]
    return f"{kind}{places[kind, int(match[2] or 0)]}/"

  return {pattern.sub(renamed, name): value for name, value in weights.items()}
