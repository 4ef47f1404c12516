"""The resident pipeline: keeps a whole split on the devices, images and masks as stored."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax.data import fields
from cnnjax.data.order import Order
from cnnjax.data.split import Split
from cnnjax.errors import UserError
from cnnjax.runtime import sharding


@flax.struct.dataclass
class Feed:
  """The data that the steps of an epoch read: all examples, their order, the size of images."""

  arrays: dict[str, jax.Array]
  order: jax.Array  # [steps, batch] int32; of many runs [runs, steps, batch]
  size: int | None = flax.struct.field(pytree_node=False)

  @property
  def axes(self) -> "Feed":
    """The axis of runs of each array; None where an array has none."""
    return self.replace(arrays=None, order=0)


class Resident:
  """Batches of a split in memory, which each device holds whole or in part; see `Streaming`.

  `orders` has the order of each run where a program trains more than one.
  """

  def __init__(
    self,
    split: Split,
    config: ConfigDict,
    mesh: Mesh,
    order: Order | None = None,
    orders: Sequence[Order] = (),
  ):
    self.split, self.order, self._mesh, self._parts = split, order, mesh, config.shard_resident
    self._orders = orders
    self._rows = sharding.padded(len(split), mesh) if config.shard_resident else len(split)
    self._where = sharding.over_batch(mesh) if config.shard_resident else sharding.replicated(mesh)
    self._epoch: tuple[Any, Any] = (None, None)
    self.per_dispatch = 1 if jax.default_backend() == "cpu" else 32  # steps in one program
    # The batch is pinned to the mesh: XLA would otherwise be free to gather it on one device.
    self._take = jax.jit(gather, out_shardings=sharding.over_batch(mesh))

  @functools.cached_property
  def _arrays(self) -> dict[str, jax.Array]:
    """The arrays of the split on the devices, put there at the first access."""
    more = self._rows - len(self.split)
    pad = lambda x: x if not more else np.pad(x, [(0, more), *[(0, 0)] * (x.ndim - 1)])  # a copy
    return sharding.put({k: pad(x) for k, x in self.split.arrays.items()}, self._where)

  def shapes(self, step: int) -> Feed:
    """Returns `feed` as shapes with shardings; puts nothing on the devices."""
    arrays = {
      name: jax.ShapeDtypeStruct((self._rows, *shape), dtype, sharding=self._where)
      for name, (shape, dtype) in fields.arrays(self.split.fields).items()
    }
    runs = (len(self._orders),) if self._orders else ()
    order = jax.ShapeDtypeStruct(
      (*runs, self.order.steps_per_epoch, self.order.batch_size),
      np.int32,
      sharding=sharding.over_batch(self._mesh, axis=1 + len(runs)),
    )
    return Feed(arrays, order, self._size(step))

  def feed(self, step: int) -> Feed:
    """Returns the input of `take` for the steps of the epoch of `step`."""
    epoch = step // self.order.steps_per_epoch
    if self._epoch[0] != epoch:
      order = (
        np.stack([order.epoch(epoch) for order in self._orders])
        if self._orders
        else self.order.epoch(epoch)
      )
      where = sharding.over_batch(self._mesh, axis=order.ndim - 1)
      self._epoch = epoch, sharding.put(order, where)
    return Feed(self._arrays, self._epoch[1], self._size(step))

  def _size(self, step: int) -> int | None:
    """Returns the size to scale images to; None if they have it already."""
    size = self.order.size(step)
    return size if size != self.split.shape[0] else None

  def take(self, feed: Feed, step: jax.Array) -> dict[str, jax.Array]:
    """Returns the batch of `step`; pure, called inside the training program."""
    batch = gather(feed.arrays, feed.order[step % self.order.steps_per_epoch])
    if feed.size:
      for name, field in self.split.fields.items():
        if field.kind in _RESIZED:
          batch[name] = _RESIZED[field.kind](batch[name], feed.size)
    return jax.lax.with_sharding_constraint(batch, sharding.over_batch(self._mesh))

  def once(self, batch_size: int) -> Iterator[tuple[dict[str, jax.Array], jax.Array]]:
    """Yields (batch, mask) over the split in order: every example once, the last batch padded."""
    size = len(self.split)
    batch_size = sharding.padded(min(batch_size, size), self._mesh)
    where = sharding.over_batch(self._mesh)
    for start in range(0, size, batch_size):
      indices = np.arange(start, start + batch_size, dtype=np.int32)
      mask = indices < size
      indices, mask = sharding.put((np.minimum(indices, size - 1), mask), where)
      yield self._take(self._arrays, indices), mask

  def waits(self) -> dict[str, float]:
    """Returns {}: no step waits for its batch."""
    return {}

  def close(self) -> None:
    """Does nothing: there is no thread to end."""

  def describe(self) -> str:
    """Returns the pipeline and its memory in words."""
    size = sharding.size_text(len(self.split) * fields.nbytes(self.split.fields))
    parts = f", in {self._mesh.size} parts" if self._parts else " on each device"
    return f"resident, {size}{parts}"


def in_gib(shape: tuple[int, ...]) -> float:
  """Returns the GiB of an array of bytes of this `shape`, such as uint8 images."""
  return math.prod(shape) / 2**30


def check_fits(shape: tuple[int, ...], max_gib: float) -> None:
  """Raises UserError if `shape`, (images, bytes of one in any number of axes), is over a limit."""
  if (gib := in_gib(shape)) > max_gib:
    raise UserError(
      f"the {shape[0]:,} images take {gib:.1f} GiB on each device, and data.max_gib "
      f"allows {max_gib:g}; stream them (data.pipeline=streaming), take a part of them "
      "(data.train='train[:10%]'), smaller ones (data.image_size), or raise data.max_gib"
    )


def gather(arrays: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
  """Returns the examples at `indices`."""
  return jax.tree.map(lambda x: x[indices], arrays)


def _resized(images: jax.Array, size: int) -> jax.Array:
  """Scales images to squares of `size`, antialiased; keeps their type."""
  shape = (len(images), size, size, images.shape[-1])
  resized = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
  if jnp.issubdtype(images.dtype, jnp.integer):
    resized = jnp.round(resized)
  return resized.astype(images.dtype)


def _nearest(masks: jax.Array, size: int) -> jax.Array:
  """Scales masks to squares of `size` by nearest neighbour."""
  rows, columns = (
    jnp.floor((jnp.arange(size) + 0.5) * n / size).astype(jnp.int32) for n in masks.shape[1:]
  )
  return masks[:, rows[:, None], columns]


_RESIZED = {"image": _resized, "mask": _nearest}
