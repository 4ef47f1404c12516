"""Pictures that a task may make of its network; see `tasks.Task.pictures`."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.tasks import Fitted
from cnnjax.tasks.metric import named
from cnnjax.training import passes

EXAMPLES = 16  # the number of first examples of a split that pictures are made of
_OF_PICTURES = jnp.iinfo(jnp.int32).max - 1  # folded into the seed; no step has this number
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # a "/" would make a group of it
_ROUNDING = 1e-3  # beyond [0, 1]; a level of 8 bits is 4e-3


@dataclasses.dataclass(frozen=True)
class Pictures:
  """The pictures of a run; computes and compiles nothing where its task has none."""

  program: Any  # a `Program`

  def taken(self, variables: Any, seed: jax.Array, split: str) -> dict[str, np.ndarray]:
    """Returns the pictures that the task makes of `variables` on a split.

    Random numbers depend on the seed of the run alone: the pictures of two steps, or of a run that
    was resumed, differ only by the weights.

    Args:
      variables: what the model's `apply` takes; of several runs with a leading axis.
      seed: that of the state.
      split: the name of one that is evaluated.

    Returns:
      Float images [n, height, width, channels] by name; of several runs by NAME/seed=0.
    """
    if not self._there:
      return {}
    found = jax.device_get(self._step(variables, seed, self._batches[split]))
    if not self.program.members.several:
      return found
    runs = list(enumerate(self.program.members.names))
    return {f"{name}/{run}": images[i] for name, images in found.items() for i, run in runs}

  def check(self) -> None:
    """Raises UserError for shapes, types and names that cannot be shown; compiles nothing."""
    if self._there:
      program = self.program
      now, batch = program.shapes
      found = jax.eval_shape(self._draw, now.variables, now.seed, batch)
      check(self._who, found, program.task.eval_metric_names, ("raw", *program.averages.names))

  def check_values(self, now: Any) -> None:
    """Raises UserError where pictures of a state that has learnt nothing leave [0, 1]."""
    for split in self.program.inputs.evaluations:
      for name, images in self.taken(now.evaluated, now.seed, split).items():
        if wrong := outside(name, images):
          raise UserError(
            f"{wrong}: let {self._who} divide by 255, take `to_pixels` of normalised images, or "
            "clip them"
          )

  @property
  def _there(self) -> bool:
    return self.program.task.has_pictures()

  @property
  def _who(self) -> str:
    return f"task.name={self.program.config.task.name}"

  def _draw(self, variables: Any, seed: jax.Array, batch: passes.Batch) -> dict[str, jax.Array]:
    program = self.program
    variables = program.gather(variables) if program.gather else variables
    restore = passes.restorer(program.inputs.meta["mean"], program.inputs.meta["std"])
    fitted = Fitted(
      program.model,
      variables,
      outputs=lambda images: program.predicted(variables, images),
      normalize=program.normalize,
      to_pixels=lambda images: jnp.clip(restore(images), 0, 1),
    )
    batch = {**batch, "image": passes.to_float(batch["image"])}
    key = jax.random.fold_in(jax.random.key(seed), _OF_PICTURES)
    return program.task.pictures(fitted, batch, key)

  @functools.cached_property
  def _step(self) -> Callable:
    """`_draw`, compiled."""
    replicated = sharding.replicated(self.program.mesh)
    return self.program.compiler.jit(self._draw, (0, 0, None), out_shardings=replicated)

  @functools.cached_property
  def _batches(self) -> dict[str, passes.Batch]:
    """The first examples of each split that is evaluated; every device has them all."""
    found, replicated = {}, sharding.replicated(self.program.mesh)
    for name, batches in self.program.inputs.evaluations.items():
      few = min(EXAMPLES, len(batches.split))
      with contextlib.closing(batches.once(few)) as once:
        batch, _ = next(once)
      first = lambda batch, few=few: jax.tree.map(lambda x: x[:few], batch)
      found[name] = jax.jit(first, out_shardings=replicated)(batch)
    return found


def check(who: str, found: Any, metrics: Iterable[str], weights: Iterable[str]) -> None:
  """Raises UserError unless the shapes of pictures by name are such as a sink can show.

  Args:
    who: the part that returned them, such as "task.name=gan".
    found: their shapes by name, as `jax.eval_shape` gives them.
    metrics: the names of the metrics, which are written beside them.
    weights: the evaluated ones, such as "raw" and "ema".
  """
  if not isinstance(found, dict):
    raise UserError(
      f"the pictures of {who} are a {type(found).__name__}, and must be a dict of names and images"
    )
  for name, images in found.items():
    if not isinstance(name, str) or not _NAME.fullmatch(name):
      raise UserError(
        f"the pictures of {who} have the name {name!r}: make it of letters, digits, _, - and ., "
        "such as 'samples'"
      )
    shape, dtype = list(jnp.shape(images)), getattr(images, "dtype", type(images).__name__)
    if len(shape) != 4 or shape[-1] not in (1, 3) or 0 in shape:
      raise UserError(
        f"the picture {name!r} of {who} is {shape}, and must be [n, height, width, 1 or 3]"
      )
    if not jnp.issubdtype(dtype, jnp.floating):
      raise UserError(
        f"the picture {name!r} of {who} is {dtype}, and must be float in [0, 1]: divide uint8 by "
        "255"
      )
  names = [named(w, name) for w in weights for name in found]
  taken = [*names, *(named(w, metric) for w in weights for metric in metrics)]
  if twice := [name for name in names if taken.count(name) > 1]:
    raise UserError(
      f"the picture {twice[0]!r} of {who} has the name of a metric or of another picture: choose "
      "another one"
    )


def outside(name: str, images: np.ndarray) -> str | None:
  """Returns in words which values of a picture are outside [0, 1]; None if none is."""
  if not np.isfinite(images).all():
    return f"the picture {name!r} has values that are no finite numbers"
  low, high = float(images.min()), float(images.max())
  if low < -_ROUNDING or high > 1 + _ROUNDING:
    return f"the picture {name!r} has values from {low:.3g} to {high:.3g}, outside [0, 1]"
  return None
