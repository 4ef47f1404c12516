"""All that a training run carries from one step to the next."""

import functools
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics
from flax.errors import ScopeParamShapeError
from jax.sharding import Mesh

from cnnjax import sharding
from cnnjax.errors import UserError

NEVER = jnp.iinfo(jnp.int32).max
# At its usual level LLVM spends 5 s (jax 0.10) to 47 s (0.12) on the random bits of a ResNet-20
# that are drawn once; at level 1 it takes 2.5 s, and they are the same bits.
CPU_INIT_OPTIONS = {"xla_backend_optimization_level": 1}


@flax.struct.dataclass
class TrainState:
  """Parameters, statistics, optimizer, and the sums since the last line of the log.

  With `step` and the seed of the config this is everything: the order of the data, the
  augmentation and the dropout are functions of the two.
  """

  step: jax.Array  # [] int32, steps done
  params: Any
  batch_stats: Any
  opt_state: optax.OptState
  window: metrics.Collection  # training metrics since they were last written
  bad_step: jax.Array  # [] int32, the first step whose loss or update was not finite, or NEVER

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {"params": self.params, "batch_stats": self.batch_stats}


def create(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  window: metrics.Collection,
  image_shape: tuple[int, int, int],
  seed: int,
  mesh: Mesh,
  *,
  abstract: bool = False,
) -> TrainState:
  """A fresh state for images of `[height, width, channels]`, born on the mesh.

  With `abstract`, shapes and shardings only: nothing is computed.
  """

  def init() -> TrainState:
    variables = _init(model, image_shape, seed)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      **variables,
      opt_state=optimizer.init(variables["params"]),
      window=window,
      bad_step=jnp.full((), NEVER, jnp.int32),
    )

  if abstract:
    return _laid_out(init, mesh)
  options = CPU_INIT_OPTIONS if jax.default_backend() == "cpu" else None
  return jax.jit(init, out_shardings=sharding.replicated(mesh), compiler_options=options)()


def abstract_variables(model: nn.Module, image_shape: tuple[int, int, int], mesh: Mesh) -> Any:
  """Shapes and shardings of the variables; a model refuses images that it cannot take here."""
  return _laid_out(lambda: _init(model, image_shape, 0), mesh)


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


def _init(model: nn.Module, image_shape: tuple[int, int, int], seed: int) -> dict[str, Any]:
  images = jnp.zeros((1, *image_shape), jnp.float32)
  return {"batch_stats": {}, **model.init(jax.random.key(seed), images, train=False)}


def _laid_out(init: Any, mesh: Mesh) -> Any:
  where = sharding.replicated(mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), jax.eval_shape(init)
  )


def count(params: Any) -> int:
  """The number of values in a tree of parameters."""
  return sum(x.size for x in jax.tree.leaves(params))
