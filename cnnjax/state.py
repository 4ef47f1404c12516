"""All that a training run carries from one step to the next."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics
from jax.sharding import Mesh

from cnnjax import sharding

NEVER = jnp.iinfo(jnp.int32).max


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


def create(model: nn.Module, optimizer: optax.GradientTransformation,
           window: metrics.Collection, image_shape: tuple[int, int, int], seed: int,
           mesh: Mesh, *, abstract: bool = False) -> TrainState:
  """A fresh state for images of `[height, width, channels]`, born on the mesh.

  With `abstract`, shapes and shardings only: nothing is computed.
  """
  def init() -> TrainState:
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init({"params": jax.random.key(seed)}, images, train=False)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params,
        batch_stats=variables.get("batch_stats", {}), opt_state=optimizer.init(params),
        window=window, bad_step=jnp.full((), NEVER, jnp.int32))

  where = sharding.replicated(mesh)
  if abstract:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
                        jax.eval_shape(init))
  return jax.jit(init, out_shardings=where)()


def abstract_params(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
  """The shapes of the parameters; the model's own errors for images it cannot take come here."""
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  init = lambda key, x: model.init(key, x, train=False)
  return jax.eval_shape(init, jax.random.key(0), images)["params"]
