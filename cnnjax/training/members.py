"""Trains several runs side by side, which differ in seed or in learning rate.

Their state and their results have a leading axis of runs; a single run has none. The report has
the values of each run, and of seeds also the mean with a 95 % interval.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from ml_collections import ConfigDict

from cnnjax.errors import UserError

CONFIDENCE = 0.95


def in_turns() -> bool:
  """Returns whether the runs take turns, as on CPU; see `Members.jit`."""
  return jax.default_backend() == "cpu"


@dataclasses.dataclass(frozen=True)
class Members:
  """The runs of a program, each with its seed and its learning rate."""

  seeds: tuple[int, ...]
  rates: tuple[float, ...]
  base: float  # optim.learning_rate, of which each rate is a multiple
  names: tuple[str, ...]  # "seed=0", "rate=0.1"; () for one run

  @property
  def several(self) -> bool:
    return bool(self.names)

  @property
  def arguments(self) -> tuple[jax.Array, jax.Array]:
    """The seeds and the factors of the rate, `[runs]` each; `[]` for one run."""
    seeds = jnp.asarray(self.seeds, jnp.uint32)
    factors = jnp.asarray([rate / self.base for rate in self.rates], jnp.float32)
    return (seeds, factors) if self.several else (seeds[0], factors[0])

  def jit(self, function: Callable, in_axes: Any = 0, **options: Any) -> Callable:
    """Compiles a function of one run into a function of all runs.

    On GPU and TPU it becomes one program by `jax.vmap`. On CPU the runs take turns in one compiled
    function: there vmap makes grouped convolutions, which are slow; see
    experiments/benchmarks/train_step/README.md.

    Args:
      function: of one run.
      in_axes: as of `jax.vmap`; an axis may be a function of its argument.
      **options: of `jax.jit`.
    """
    if not self.several:
      return jax.jit(function, **options)

    def axes_of(args: tuple) -> tuple:
      axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
      return tuple(a(x) if callable(a) else a for a, x in zip(axes, args, strict=True))

    if not in_turns():
      return jax.jit(lambda *args: jax.vmap(function, axes_of(args))(*args), **options)
    one = jax.jit(function, **options)
    stack = jax.jit(lambda *results: jax.tree.map(lambda *x: jnp.stack(x), *results))
    split = jax.jit(lambda own: [[x[run] for x in own] for run in range(len(self.names))])

    def in_turn(*args: Any) -> Any:
      leaves, tree = jax.tree.flatten(args)
      has_axis = lambda axis, part: jax.tree.map(lambda _: axis is not None, part)
      flags = jax.tree.map(has_axis, axes_of(args), args, is_leaf=lambda axis: axis is None)
      flags = jax.tree.leaves(flags)
      results = []
      for own in split([x for x, flag in zip(leaves, flags, strict=True) if flag]):
        of_run = iter(own)
        found = [next(of_run) if flag else x for x, flag in zip(leaves, flags, strict=True)]
        results.append(one(*jax.tree.unflatten(tree, found)))
      return stack(*results)

    return in_turn

  def stacked(self, tree: Any) -> Any:
    """Repeats one run's tree along the axis of runs."""
    n = len(self.names)
    return jax.tree.map(lambda x: jnp.stack([x] * n), tree) if self.several else tree

  def shapes(self, tree: Any) -> Any:
    """Adds the axis of runs to the shapes of one run."""
    stack = lambda x: jax.ShapeDtypeStruct(
      (len(self.names), *x.shape), x.dtype, sharding=x.sharding
    )
    return jax.tree.map(stack, tree) if self.several else tree

  def first(self, tree: Any) -> Any:
    """Returns the tree of the first run."""
    return jax.tree.map(lambda x: x[0], tree) if self.several else tree

  def describe(self) -> dict[str, str]:
    """Returns the runs in words; nothing for one run."""
    how = "in turns" if in_turns() else "as one program"
    return {"runs": f"{', '.join(self.names)}, {how}"} if self.several else {}

  def compute(
    self, collection: Any, more: Callable[[Any], dict[str, float]] = lambda _: {}
  ) -> dict[str, float]:
    """Returns the values of summed metrics, for several runs as `report` does.

    `more`: the collection of a run -> other metrics.
    """
    from cnnjax import tasks  # late: a config can be read without the room `tasks`

    if jax.process_count() > 1:  # each process computes this for itself
      collection = jax.tree.map(jnp.asarray, jax.device_get(collection))
    if not self.several:
      return tasks.compute(collection) | more(collection)
    each = [jax.tree.map(lambda x: x[i], collection) for i in range(len(self.names))]  # noqa: B023
    return self.report([tasks.compute(one) | more(one) for one in each])

  def report(self, each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the values of each run, as "loss/seed=0"; of seeds also "loss", "loss_ci95".

    These are the mean and half of its 95 % interval by Student's t. Different learning rates have
    no mean.
    """
    found = {}
    for name in each[0]:
      values = np.array([metrics[name] for metrics in each])
      if len(set(self.seeds)) > 1:
        t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
        found[name] = float(values.mean())
        found[f"{name}_ci95"] = float(t * values.std(ddof=1) / np.sqrt(len(values)))
      found |= {f"{name}/{run}": float(v) for run, v in zip(self.names, values, strict=True)}
    return found


def check(config: ConfigDict) -> None:
  """Raises UserError for keys that several runs in one program cannot have. Takes the config."""
  if config.seeds == 1 and not config.rates:
    return
  if config.seeds > 1 and config.rates:
    raise UserError("seeds and rates are both given: train one sweep at a time")
  if len(set(names := create(config).names)) < len(names):
    raise UserError(f"rates gives a rate twice: {', '.join(names)}; leave one out")
  refused = {
    "early_stopping.patience": config.early_stopping.patience is not None,
    "optim.plateau.patience": config.optim.plateau.patience is not None,
    "optim.noise": config.optim.noise > 0,
    "mesh.fsdp": config.mesh.fsdp != 1,
    "health.every": config.health.every is not None,
    "health.trace": config.health.trace,
    "data.pipeline=streaming": config.data.pipeline == "streaming",
  }
  for key, given in refused.items():
    if given:
      raise UserError(
        f"{key} does not go with several runs in one program (seeds, rates): leave one of them out"
      )


def create(config: ConfigDict) -> Members:
  """Returns the runs of a config; `rates` replace `optim.learning_rate` and are scaled like it."""
  base = config.optim.learning_rate
  if config.rates:
    names = tuple(f"rate={rate:g}" for rate in config.rates)
    return Members((config.seed,) * len(config.rates), tuple(config.rates), base, names)
  seeds = tuple(range(config.seed, config.seed + config.seeds))
  names = tuple(f"seed={seed}" for seed in seeds) if config.seeds > 1 else ()
  return Members(seeds, (base,) * len(seeds), base, names)
