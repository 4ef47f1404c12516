"""The resident pipeline: the whole split stays on the devices as uint8.

The batch of a step is a pure function of (seed, step): nothing is lost when a run stops, and the
order does not know how many devices there are.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax import sharding
from cnnjax.errors import UserError


class Resident:
  """Batches of a split, replicated over the mesh; each batch is split over its devices."""

  def __init__(self, split: Any, mesh: Mesh, max_gib: float):
    check_fits(split.images.shape, max_gib)
    self.size = len(split)
    self._mesh = mesh
    self._arrays = sharding.put(
      {"image": split.images, "label": split.labels}, sharding.replicated(mesh)
    )
    self._epoch: tuple[Any, Any] = (None, None)
    # The batch is pinned to the mesh: XLA would otherwise be free to gather it on one device.
    self._take = jax.jit(gather, out_shardings=sharding.over_batch(mesh))

  def start(self, batch_size: int, seed: int) -> None:
    """Fixes the order; an epoch leaves out the remainder, another one each time."""
    self.batch_size, self.seed, self._epoch = batch_size, seed, (None, None)
    self.steps_per_epoch = self.size // batch_size
    if not self.steps_per_epoch:
      raise UserError(f"batch_size {batch_size} is larger than the training split ({self.size})")

  def feed(self, step: int) -> Any:
    """What `take` needs for the steps of the epoch that `step` is in."""
    epoch = step // self.steps_per_epoch
    if self._epoch[0] != epoch:
      order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
      order = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)
      where = sharding.over_batch(self._mesh, axis=1)
      self._epoch = epoch, (self._arrays, sharding.put(order.astype(np.int32), where))
    return self._epoch[1]

  def take(self, feed: Any, step: jax.Array) -> dict[str, jax.Array]:
    """The batch of `step`; pure, called inside the training program."""
    arrays, order = feed
    batch = gather(arrays, order[step % self.steps_per_epoch])
    return jax.lax.with_sharding_constraint(batch, sharding.over_batch(self._mesh))

  def once(self, batch_size: int) -> Iterator[tuple[dict[str, jax.Array], jax.Array]]:
    """(batch, mask) over the split in order: every example once, the last batch padded."""
    devices = self._mesh.size
    batch_size = -(-min(batch_size, self.size) // devices) * devices
    where = sharding.over_batch(self._mesh)
    for start in range(0, self.size, batch_size):
      indices = np.arange(start, start + batch_size, dtype=np.int32)
      mask = indices < self.size
      indices, mask = sharding.put((np.minimum(indices, self.size - 1), mask), where)
      yield self._take(self._arrays, indices), mask


def check_fits(shape: tuple[int, ...], max_gib: float) -> None:
  """Raises UserError if uint8 images of `[n, height, width, channels]` take more than allowed."""
  gib = math.prod(shape) / 2**30
  if gib > max_gib:
    raise UserError(
      f"the {shape[0]:,} images take {gib:.1f} GiB on each device, and data.max_gib "
      f"allows {max_gib:g}; take a part of them (data.train='train[:10%]'), smaller "
      "ones (data.image_size), or raise data.max_gib"
    )


def gather(arrays: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
  """The examples at `indices`."""
  return jax.tree.map(lambda x: x[indices], arrays)
