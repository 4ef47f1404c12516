"""Choosing parameters by their path, `stage1_block1/conv1/kernel`."""

import re
from typing import Any

import flax.traverse_util
import jax

from cnnjax.errors import UserError


def compile_pattern(pattern: str) -> re.Pattern[str]:
  """Raises UserError for what is not a regular expression."""
  try:
    return re.compile(pattern)
  except re.error as e:
    raise UserError(f"optim.weight_decay_mask {pattern!r} is not a regular expression: {e}") from e


def paths(tree: Any) -> dict[str, Any]:
  """The leaves of a nested dict by path."""
  return flax.traverse_util.flatten_dict(tree, sep="/")


def by_path(params: Any, pattern: str) -> Any:
  """A tree like `params`, true where the pattern is found in the path.

  Raises:
    UserError: it is found in none.
  """
  regex = compile_pattern(pattern)
  mask = {path: bool(regex.search(path)) for path in paths(params)}
  if not any(mask.values()):
    raise UserError(
      f"optim.weight_decay_mask {pattern!r} matches no parameter; "
      f"they are called, for example, {', '.join(list(mask)[:4])}"
    )
  tree = flax.traverse_util.unflatten_dict(mask, sep="/")
  return jax.tree.map(lambda _, chosen: chosen, params, tree)
