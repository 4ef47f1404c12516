"""Chooses parameters by their path, such as `stage1_block1/conv1/kernel`: masks, frozen, rates.

The optimizer gets a tree with an `optax.MaskedNode` for each frozen parameter (`trained`); a mask
of such a tree has one there too.
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
  """Compiles a regular expression; UserError with the config key if it is none."""
  try:
    return re.compile(pattern)
  except re.error as e:
    raise UserError(f"{key} '{pattern}' is not a regular expression: {e}") from e


def patterns(config: ConfigDict) -> list[tuple[str, str]]:
  """Returns (key, pattern) of all patterns in `config.optim`."""
  return [
    ("optim.weight_decay_mask", config.weight_decay_mask),
    ("optim.agc_mask", config.agc_mask),
    *(("optim.freeze", pattern) for pattern in config.freeze),
    *(("optim.multipliers", pattern) for pattern, _ in config.multipliers),
  ]


def paths(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by path, without MaskedNodes."""
  return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def by_path(params: Any, pattern: str, key: str) -> Any:
  """Returns a tree like `params`, true where the pattern matches a part of the path.

  Raises:
    UserError: it matches no path; names the config `key` and the nearest paths.
  """
  regex = compile_pattern(pattern, key)
  mask = jax.tree_util.tree_map_with_path(lambda keys, _: bool(regex.search(_path(keys))), params)
  if not any(jax.tree.leaves(mask)):
    raise UserError(f"{key} '{pattern}' matches no {_which(params)}; {_nearest(params, pattern)}")
  return mask


def kernels(params: Any) -> Any:
  """Returns a tree like `params`, true for the kernels of convolutions and dense layers."""
  return jax.tree_util.tree_map_with_path(
    lambda keys, _: _path(keys).split("/")[-1] == "kernel", params
  )


def frozen(config: ConfigDict, params: Any) -> Any:
  """Returns a tree like `params`, true for the parameters that `config.freeze` names.

  Raises:
    UserError: a pattern matches no parameter, or all patterns together match every one.
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
  """Returns `params` with a MaskedNode where `frozen` is true."""
  return jax.tree.map(lambda stays, p: optax.MaskedNode() if stays else p, frozen, params)


def rates(config: ConfigDict, params: Any, depths: Mapping[str, int] | None) -> Any:
  """Returns a tree like `params` of factors of the learning rate; None if all are 1.

  A factor is the product of the multipliers whose pattern matches, and of `layer_decay` to the
  power of the distance of the parameter's group from the last one, the head (arXiv:2106.08254).
  Each group that the model calls, such as a block or the normalisation after the stem, is a layer.

  Raises:
    UserError: a pattern matches nothing.
  """
  if not config.multipliers and config.layer_decay is None:
    return None
  factors = [
    jax.tree.map(lambda chosen, f=factor: f if chosen else 1.0, mask)
    for pattern, factor in config.multipliers
    for mask in [by_path(params, pattern, "optim.multipliers")]
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
  """Returns a tree like `params`, true in the first and the last group: the stem and the head."""
  ends = {min(_known(depths).values()), max(depths.values())}
  return jax.tree_util.tree_map_with_path(
    lambda keys, _: depths[group(_path(keys), depths)] in ends, params
  )


def group(path: str, depths: Mapping[str, int] | None) -> str:
  """Returns the group in `depths` that a parameter belongs to; without them its first part."""
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
  """Returns a name near to a word of the pattern, and paths near to the whole pattern."""
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
    if prefixes := [prefix for prefix in above if re.search(pattern, name.removeprefix(prefix))]:
      hint = f"did you mean {pattern.replace('^', f'^{prefixes[0]}', 1)!r}? "
      break
  examples = difflib.get_close_matches(pattern, names, n=4, cutoff=0)
  return f"{hint}they are called, for example, {', '.join(examples)}"
