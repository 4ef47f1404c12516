"""Choosing parameters by their path, `stage1_block1/conv1/kernel`: masks, what is frozen, rates.

Where some are frozen, the optimizer sees a tree in which `optax.MaskedNode` stands in their place
(`trained`); a mask of such a tree has it there as well.
"""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cnnjax.errors import UserError


def compile_pattern(pattern: str, key: str) -> re.Pattern[str]:
  """Raises UserError, naming the config key, for what is not a regular expression."""
  try:
    return re.compile(pattern)
  except re.error as e:
    raise UserError(f"{key} '{pattern}' is not a regular expression: {e}") from e


def patterns(config: ConfigDict) -> list[tuple[str, str]]:
  """(key, pattern) of all the patterns in `config.optim`."""
  return [
    ("optim.weight_decay_mask", config.weight_decay_mask),
    ("optim.agc_mask", config.agc_mask),
    *(("optim.freeze", pattern) for pattern in config.freeze),
    *(("optim.multipliers", pattern) for pattern, _ in config.multipliers),
  ]


def paths(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by path; a MaskedNode is none."""
  return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def by_path(params: Any, pattern: str, key: str) -> Any:
  """A tree like `params`, true where the pattern is found in the path.

  Raises:
    UserError: it is found in none; the config `key` and the nearest paths are named.
  """
  regex = compile_pattern(pattern, key)
  mask = jax.tree_util.tree_map_with_path(lambda keys, _: bool(regex.search(_path(keys))), params)
  if not any(jax.tree.leaves(mask)):
    raise UserError(f"{key} '{pattern}' matches no {_which(params)}; {_nearest(params, pattern)}")
  return mask


def kernels(params: Any) -> Any:
  """A tree like `params`, true for the kernels of convolutions and dense layers."""
  return jax.tree_util.tree_map_with_path(
    lambda keys, _: _path(keys).split("/")[-1] == "kernel", params
  )


def frozen(config: ConfigDict, params: Any) -> Any:
  """A tree like `params`, true for what `config.freeze` keeps as it is.

  Raises:
    UserError: a pattern matches nothing, or all of them together everything.
  """
  mask = jax.tree.map(lambda _: False, params)
  for pattern in config.freeze:
    mask = jax.tree.map(lambda a, b: a or b, mask, by_path(params, pattern, "optim.freeze"))
  if all(jax.tree.leaves(mask)):
    raise UserError(
      f"optim.freeze {tuple(config.freeze)!r} freezes every parameter: nothing is left to train"
    )
  return mask


def trained(params: Any, frozen: Any) -> Any:
  """`params` with a MaskedNode where `frozen` is true."""
  return jax.tree.map(lambda stays, p: optax.MaskedNode() if stays else p, frozen, params)


def rates(config: ConfigDict, params: Any, depths: Mapping[str, int] | None) -> Any:
  """A tree like `params` of what the learning rate is multiplied by; None if by 1 everywhere.

  All the multipliers whose pattern is found, times `layer_decay` to the power of the distance of
  the parameter's group from the last one, the head (arXiv:2106.08254). Each group
  that the model calls, such as a block or the normalisation behind the stem, is a layer.

  Raises:
    UserError: a pattern matches nothing.
  """
  if not config.multipliers and config.layer_decay is None:
    return None
  factors = [
    jax.tree.map(lambda chosen, f=factor: f if chosen else 1.0, found)
    for pattern, factor in config.multipliers
    for found in [by_path(params, pattern, "optim.multipliers")]
  ]
  if config.layer_decay is not None:
    last = max(_known(depths).values())
    factors.append(
      jax.tree_util.tree_map_with_path(
        lambda keys, _: config.layer_decay ** (last - depths[group(_path(keys), depths)]), params
      )
    )
  return jax.tree.map(lambda *each: math.prod(each), *factors)


def outermost(params: Any, depths: Mapping[str, int] | None) -> Any:
  """A tree like `params`, true in the first and in the last group: the stem and the head."""
  ends = {min(_known(depths).values()), max(depths.values())}
  return jax.tree_util.tree_map_with_path(
    lambda keys, _: depths[group(_path(keys), depths)] in ends, params
  )


def group(path: str, depths: Mapping[str, int] | None) -> str:
  """Returns which of the groups in `depths` a parameter is of; without them its first part."""
  parts = path.split("/")
  names = ("/".join(parts[:n]) for n in range(1, len(parts) + 1))
  return next(name for name in names if depths is None or name in depths)


def _known(depths: Mapping[str, int] | None) -> Mapping[str, int]:
  if not depths:
    raise ValueError("optim: layer_decay and muon need the depth of each group of parameters")
  return depths


def _path(keys: Any) -> str:
  return jax.tree_util.keystr(keys, simple=True, separator="/")


def _which(params: Any) -> str:
  nodes = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
  some_frozen = any(isinstance(node, optax.MaskedNode) for node in nodes)
  return "parameter that is trained" if some_frozen else "parameter"


def _nearest(params: Any, pattern: str) -> str:
  """A right name that is near to a word of the pattern, and paths that are near to all of it."""
  names = list(paths(params))
  parts = list(dict.fromkeys(part for name in names for part in name.split("/")))
  near = [
    match
    for word in re.findall(r"\w+", pattern)
    for match in difflib.get_close_matches(word, parts, n=1, cutoff=0.7)
    if match != word
  ]
  hint = f"did you mean {near[0]!r}? " if near else ""
  for name in names if pattern.startswith("^") else ():
    above = [name[: slash.end()] for slash in re.finditer("/", name)]
    if found := [prefix for prefix in above if re.search(pattern, name.removeprefix(prefix))]:
      hint = f"did you mean {pattern.replace('^', f'^{found[0]}', 1)!r}? "
      break
  examples = difflib.get_close_matches(pattern, names, n=4, cutoff=0)
  return f"{hint}they are called, for example, {', '.join(examples)}"
