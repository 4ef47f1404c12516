"""The resident pipeline: the whole split stays on the devices as uint8."""

import math
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import sharding
from cnnjax.data.order import Order
from cnnjax.data.split import Split
from cnnjax.errors import UserError


@flax.struct.dataclass
class Feed:
  """What the steps of an epoch take: all examples, who stands where, and the size of the images."""

  arrays: dict[str, jax.Array]
  order: jax.Array  # [steps, batch] int32
  size: int | None = flax.struct.field(pytree_node=False)


class Resident:
  """Batches of a split in memory, which every device holds, or its part; see `Streaming`."""

  def __init__(self, split: Split, config: ConfigDict, mesh: Mesh, order: Order | None = None):
    self.split, self.order, self._mesh, self._parts = split, order, mesh, config.shard_resident
    rows = sharding.padded(len(split), mesh) if config.shard_resident else len(split)
    pad = lambda x: np.pad(x, [(0, rows - len(x)), *[(0, 0)] * (x.ndim - 1)])
    self._arrays = sharding.put(
      {"image": pad(split.images), "label": pad(split.labels)},
      sharding.over_batch(mesh) if config.shard_resident else sharding.replicated(mesh),
    )
    self._epoch: tuple[Any, Any] = (None, None)
    self.per_dispatch = 1 if jax.default_backend() == "cpu" else 32  # steps in one program
    # The batch is pinned to the mesh: XLA would otherwise be free to gather it on one device.
    self._take = jax.jit(gather, out_shardings=sharding.over_batch(mesh))

  def feed(self, step: int) -> Feed:
    """What `take` needs for the steps of the epoch that `step` is in."""
    epoch = step // self.order.steps_per_epoch
    if self._epoch[0] != epoch:
      where = sharding.over_batch(self._mesh, axis=1)
      self._epoch = epoch, sharding.put(self.order.epoch(epoch), where)
    size = self.order.size(step)
    return Feed(self._arrays, self._epoch[1], size if size != self.split.shape[0] else None)

  def take(self, feed: Feed, step: jax.Array) -> dict[str, jax.Array]:
    """The batch of `step`; pure, called inside the training program."""
    batch = gather(feed.arrays, feed.order[step % self.order.steps_per_epoch])
    if feed.size:
      batch["image"] = _resized(batch["image"], feed.size)
    return jax.lax.with_sharding_constraint(batch, sharding.over_batch(self._mesh))

  def once(self, batch_size: int) -> Iterator[tuple[dict[str, jax.Array], jax.Array]]:
    """(batch, mask) over the split in order: every example once, the last batch padded."""
    size = len(self.split)
    batch_size = sharding.padded(min(batch_size, size), self._mesh)
    where = sharding.over_batch(self._mesh)
    for start in range(0, size, batch_size):
      indices = np.arange(start, start + batch_size, dtype=np.int32)
      mask = indices < size
      indices, mask = sharding.put((np.minimum(indices, size - 1), mask), where)
      yield self._take(self._arrays, indices), mask

  def close(self) -> None:
    """There is nothing to end."""

  def describe(self) -> str:
    """Where batches come from, and what it takes."""
    gib = len(self.split) * math.prod(self.split.shape) / 2**30
    parts = f", in {self._mesh.size} parts" if self._parts else " on each device"
    return f"resident, {gib:.2g} GiB{parts}"


def check_fits(shape: tuple[int, ...], max_gib: float) -> None:
  """Raises UserError if uint8 images of `[n, height, width, channels]` take more than allowed."""
  gib = math.prod(shape) / 2**30
  if gib > max_gib:
    raise UserError(
      f"the {shape[0]:,} images take {gib:.1f} GiB on each device, and data.max_gib "
      f"allows {max_gib:g}; stream them (data.pipeline=streaming), take a part of them "
      "(data.train='train[:10%]'), smaller ones (data.image_size), or raise data.max_gib"
    )


def gather(arrays: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
  """The examples at `indices`."""
  return jax.tree.map(lambda x: x[indices], arrays)


def _resized(images: jax.Array, size: int) -> jax.Array:
  """uint8 images as square ones of `size`, antialiased."""
  shape = (len(images), size, size, images.shape[-1])
  resized = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
  return jnp.round(resized).astype(jnp.uint8)
