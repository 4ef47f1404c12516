"""Lays out the state of a run in a checkpoint, and migrates the formats of older versions.

A checkpoint has three items of arrays: `variables` (of `model.apply`), `averages` of them, and
`training` (the rest of the TrainState), so that evaluation reads no optimizer. `meta` is JSON
beside them: the normalisation, the classes, the shape of the images. Opens no file.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.optim.averaging import SLOW

ITEMS = ("variables", "averages", "training")
# In `meta`: the weights whose batch statistics were not measured for the step; unknown if missing.
UNMEASURED = "unmeasured"
FORMAT = 3  # of checkpoints; written into `meta`
# From each format to the next. Checkpoints without a number are of format 0: 1 has the number, 2
# the sums of an epoch, 3 any collections of variables, and what a step or a task carries along.
MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (lambda meta: meta,) * 3
# Parts of `training` that older formats lack: they begin at 0.
_ADDED = ("epoch", "extra")


def migrated(meta: dict[str, Any], number: int) -> dict[str, Any]:
  """Returns `meta` of format `number` as format FORMAT has it."""
  for migrate in MIGRATIONS[number:]:
    meta = migrate(meta)
  return meta


def items(state: Any) -> dict[str, Any]:
  """Returns the items of a TrainState of arrays or shapes, each a tree."""
  found = {"variables": state.variables, "training": _training(state)}
  return {**found, "averages": state.averages} if state.averages else found


def restore(abstract: Any, there: dict[str, Any], read: Callable[..., Any]) -> Any:
  """Returns the state of a checkpoint, with the shardings of `abstract`.

  Args:
    abstract: a TrainState of shapes and shardings.
    there: the tree of each item in the checkpoint, None for a missing one.
    read: takes shapes by item, as keyword arguments, and returns arrays by item.
  """
  training = _training(abstract)
  lacking = {name: training.pop(name) for name in _ADDED if name not in there["training"]}
  # An older run saved no slow weights of Lookahead: they begin as the weights.
  missing = {SLOW} & abstract.averages.keys() - (there["averages"] or {}).keys()
  averages = {k: v for k, v in abstract.averages.items() if k not in missing}
  asked = {"variables": abstract.variables, "training": training}
  found = read(**asked, **({"averages": averages} if averages else {}))
  averages = found["averages"] if averages else {}
  averages |= {name: jax.tree.map(jnp.copy, found["variables"]) for name in missing}
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), lacking)
  found = {"variables": found["variables"], "averages": averages, **found["training"], **zeros}
  return abstract.replace(**found)


def paths(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by path, such as params/conv0/kernel."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _training(state: Any) -> dict[str, Any]:
  """Returns the fields of a state without the variables and the averages."""
  kept = {"variables", "averages"}
  return {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name not in kept}
