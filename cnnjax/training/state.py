"""The training state: all that a run carries from one step to the next."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.errors import ScopeParamShapeError
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.optim.averaging import SLOW
from cnnjax.runtime import sharding
from cnnjax.training.loss_scale import LossScale
from cnnjax.training.members import Members
from cnnjax.training.monitor import Monitor

Path = tuple[str, ...]  # of a module
NEVER = jnp.iinfo(jnp.int32).max
# LLVM takes long to optimise the drawing of parameters, which runs once. At level 1 it is quick and
# gives the same bits: experiments/benchmarks/train_step/README.md.
CPU_INIT_OPTIONS = {"xla_backend_optimization_level": 1}


@flax.struct.dataclass
class TrainState:
  """Variables of the model, optimizer, averages, counters, and the sums of training metrics.

  Nothing else decides what follows: data order, augmentation and dropout are functions of `step`
  and `seed`. Where several runs are trained as one program, every array has a leading axis of runs;
  see members.py.
  """

  step: jax.Array  # [] int32, steps done
  seed: jax.Array  # [] uint32
  variables: dict[str, Any]  # {collection: tree}: params, batch_stats, and others that a model has
  opt_state: optax.OptState
  averages: dict[str, Any]  # of the parameters; see optim/averaging.py
  rate_factor: jax.Array  # [] float32, times the schedule; differs from 1 in a sweep of rates
  monitor: Monitor
  loss_scale: LossScale | None
  window: Any  # sums of training metrics since they were last written
  epoch: Any  # the same over the steps of this epoch; see passes.py
  bad_step: jax.Array  # [] int32, the first step whose loss or update was not finite, or NEVER
  # {name: tree}: what the step or the task carries along besides, such as a queue.
  extra: dict[str, Any] = flax.struct.field(default_factory=dict)

  @property
  def params(self) -> Any:
    """The variables that an optimizer trains."""
    return self.variables["params"]

  @property
  def batch_stats(self) -> Any:
    """The running statistics of batch norms; empty where there are none."""
    return self.variables["batch_stats"]

  @property
  def others(self) -> dict[str, Any]:
    """The variables without the parameters, by collection."""
    return {name: tree for name, tree in self.variables.items() if name != "params"}

  @property
  def steps_done(self) -> int:
    """`step` as an int; all runs have the same."""
    return int(np.asarray(self.step).flat[0])

  @property
  def evaluated(self) -> dict[str, Any]:
    """The variables that "raw" evaluates: these, or Lookahead's slow ones."""
    return self.averages.get(SLOW, self.variables)

  def with_statistics(self, weights: str, batch_stats: Any) -> "TrainState":
    """Returns the state with other batch statistics for the "raw" weights or for an average."""
    if weights == "raw" and SLOW not in self.averages:
      return self.replace(variables={**self.variables, "batch_stats": batch_stats})
    weights = SLOW if weights == "raw" else weights
    average = {**self.averages[weights], "batch_stats": batch_stats}
    return self.replace(averages={**self.averages, weights: average})

  @property
  def rate_scale(self) -> jax.Array:
    """The factor of the schedule's learning rate."""
    fallen = self.monitor.plateau
    return self.rate_factor if fallen is None else self.rate_factor * fallen.scale


def create(
  model: nn.Module,
  image_shape: tuple[int, int, int],
  rest: Callable[[dict[str, Any], jax.Array], dict[str, Any]],
  members: Members,
  mesh: Mesh,
  config: ConfigDict,
  *,
  start: Any = None,
  abstract: bool = False,
) -> TrainState:
  """Returns a new state, computed where it lies on the mesh.

  Args:
    model: the network to train.
    image_shape: `[height, width, channels]`.
    rest: (variables, seed) -> the other fields of the state.
    members: the seeds and rates of the runs.
    mesh: the devices that hold it.
    config: `config.mesh`, which says what they split.
    start: values of variables to begin with, {collection: tree}; the others are drawn by `seed`.
    abstract: computes nothing; returns shapes with shardings.
  """

  def init(seed: jax.Array, rate_factor: jax.Array, start: Any) -> TrainState:
    drawn = flatten_dict(_init(model, image_shape, seed), keep_empty_nodes=True)
    variables = unflatten_dict(drawn | start)  # XLA leaves out the drawing of what is given
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      seed=seed,
      rate_factor=rate_factor,
      variables=variables,
      **rest(variables, seed),
      bad_step=jnp.full((), NEVER, jnp.int32),
    )

  # Several runs are not split, so no sharding has to know the axis of runs.
  given = flatten_dict(start or {})
  axes = (0, 0, None)
  shapes = jax.eval_shape(
    jax.vmap(init, axes) if members.several else init, *members.arguments, given
  )
  where = sharding.of_state(shapes, mesh, config)
  if abstract:
    return sharding.laid_out(shapes, where)
  options = CPU_INIT_OPTIONS if jax.default_backend() == "cpu" else None
  made = members.jit(init, axes, out_shardings=where, compiler_options=options)
  return made(*members.arguments, given)


def abstract_variables(model: nn.Module, image_shape: tuple[int, int, int], mesh: Mesh) -> Any:
  """Returns the shapes and shardings of the variables.

  Raises:
    UserError: the model cannot take the images, or a pass changes the shape of a collection.
  """
  shapes = jax.eval_shape(lambda: _init(model, image_shape, 0))
  if shapes.keys() - {"params", "batch_stats"}:
    _check_collections(model, shapes, image_shape)
  return sharding.laid_out(shapes, jax.tree.map(lambda _: sharding.replicated(mesh), shapes))


def _check_collections(
  model: nn.Module, variables: dict[str, Any], image_shape: tuple[int, int, int]
) -> None:
  """Raises UserError unless a training pass keeps the names, shapes and types of its variables."""
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  run = lambda *args: models.forward_in_training(model, *args, jax.random.key(0)).collections
  described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  for name, tree in jax.eval_shape(run, variables, images).items():
    if described(tree) != described(variables[name]):
      raise UserError(
        f"{type(model).__name__} does not keep the shapes of its collection {name!r} from one step "
        "to the next: while `self.is_initializing()`, sow nothing there, and make no variable "
        "with an axis of the batch"
      )


def depths(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
  """Returns the place in the forward pass, from 0, of each group of parameters by its name.

  A group holds the parameters of a module that the model calls, such as "stage1_block1". Where the
  model wraps a registered one, groups are the modules that this calls: "backbone/stage1_block1".
  """
  called: list[Path] = []
  around: set[Path] = {()}  # registered models, and the modules that hold them

  def note(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    path = context.module.path
    called.append(path)
    if models.is_registered(context.module):
      around.update(path[:n] for n in range(len(path) + 1))
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    params = jax.eval_shape(lambda: _init(model, image_shape, 0))["params"]
  groups = lambda paths: dict.fromkeys(
    next((path[:n] for n in range(len(path) + 1) if path[:n] not in around), ()) for path in paths
  )
  order = {path: place for place, path in enumerate(path for path in groups(called) if path)}
  return {"/".join(path): order.get(path, 0) for path in groups(flatten_dict(params))}


def check_sizes(
  model: nn.Module, variables: Any, image_shape: tuple[int, int, int], sizes: Iterable[int]
) -> None:
  """Raises UserError unless the model takes square images of `sizes` beside `image_shape`."""
  for size in sizes:
    images = jax.ShapeDtypeStruct((1, size, size, image_shape[-1]), jnp.float32)
    try:
      jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
    except (ScopeParamShapeError, TypeError, UserError) as e:
      raise UserError(
        f"{type(model).__name__} is made for images of {image_shape[0]} pixels, and would see some "
        f"of {size} (data.eval_size, data.progressive): {' '.join(str(e).split())}"
      ) from e


def _init(
  model: nn.Module, image_shape: tuple[int, int, int], seed: jax.Array | int
) -> dict[str, Any]:
  images = jnp.zeros((1, *image_shape), jnp.float32)
  return models.init(model, jax.random.key(seed), images)


def count(params: Any) -> int:
  """Returns the number of values in a tree of parameters."""
  return sum(x.size for x in jax.tree.leaves(params))
