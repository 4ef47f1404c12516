"""Writes cnnjax/transfer/sizes.json anew, after a model or a rule was added: takes minutes.

python tests/transfer/write_sizes.py
"""

import json

import jax
import numpy as np

from cnnjax import models
from cnnjax.transfer import mapping, recognise


def size(rules: mapping.Rules, name: str) -> int:
  """Returns the number of values of a model without its head."""
  like = mapping.shapes_of(models.create(name, 0, **rules.overrides), name)
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(like))


def main() -> None:
  sizes = {}
  for rules, name in recognise.options():
    key = recognise.size_key(rules, name)
    if key not in sizes:
      sizes[key] = size(rules, name)
      print(key, sizes[key], flush=True)
  recognise.SIZES.write_text(json.dumps(sizes, indent=0) + "\n")


if __name__ == "__main__":
  main()
