"""The resident pipeline: the whole split stays on the devices, images and masks as they are."""

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

from cnnjax import fields
from cnnjax.data.order import Order
from cnnjax.data.split import Split
from cnnjax.errors import UserError
from cnnjax.runtime import sharding


@flax.struct.dataclass
class Feed:
  """What the steps of an epoch take: all examples, who stands where, and the size of the images."""

  arrays: dict[str, jax.Array]
  order: jax.Array  # [steps, batch] int32; of several runs [runs, steps, batch]
  size: int | None = flax.struct.field(pytree_node=False)

  @property
  def axes(self) -> "Feed":
    """Where each array has the axis of runs; None: it has none."""
    return self.replace(arrays=None, order=0)


class Resident:
  """Batches of a split in memory, which every device holds, or its part; see `Streaming`.

  `orders`: of the runs that are trained as one program, where there are several.
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
    """The split on the devices, where it is put when it is first asked for."""
    more = self._rows - len(self.split)
    pad = lambda x: x if not more else np.pad(x, [(0, more), *[(0, 0)] * (x.ndim - 1)])  # a copy
    return sharding.put({k: pad(x) for k, x in self.split.arrays.items()}, self._where)

  def shapes(self, step: int) -> Feed:
    """What `feed` gives, as shapes that say where they lie; nothing is put there."""
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
    """What `take` needs for the steps of the epoch that `step` is in."""
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
    """The size that images have to be scaled to, if it is not theirs."""
    size = self.order.size(step)
    return size if size != self.split.shape[0] else None

  def take(self, feed: Feed, step: jax.Array) -> dict[str, jax.Array]:
    """The batch of `step`; pure, called inside the training program."""
    batch = gather(feed.arrays, feed.order[step % self.order.steps_per_epoch])
    if feed.size:
      for name, field in self.split.fields.items():
        if field.kind in _RESIZED:
          batch[name] = _RESIZED[field.kind](batch[name], feed.size)
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

  def waits(self) -> dict[str, float]:
    """Nothing is waited for."""
    return {}

  def close(self) -> None:
    """There is nothing to end."""

  def describe(self) -> str:
    """Where batches come from, and what it takes."""
    size = sharding.size_text(len(self.split) * fields.nbytes(self.split.fields))
    parts = f", in {self._mesh.size} parts" if self._parts else " on each device"
    return f"resident, {size}{parts}"


def in_gib(shape: tuple[int, ...]) -> float:
  """The size of arrays of `shape` in bytes, such as of uint8 images."""
  return math.prod(shape) / 2**30


def check_fits(shape: tuple[int, ...], max_gib: float) -> None:
  """Raises UserError if `shape`, (images, bytes of one in any number of axes), is not allowed."""
  if (gib := in_gib(shape)) > max_gib:
    raise UserError(
      f"the {shape[0]:,} images take {gib:.1f} GiB on each device, and data.max_gib "
      f"allows {max_gib:g}; stream them (data.pipeline=streaming), take a part of them "
      "(data.train='train[:10%]'), smaller ones (data.image_size), or raise data.max_gib"
    )


def gather(arrays: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
  """The examples at `indices`."""
  return jax.tree.map(lambda x: x[indices], arrays)


def _resized(images: jax.Array, size: int) -> jax.Array:
  """Images as square ones of `size`, antialiased, of the same type."""
  shape = (len(images), size, size, images.shape[-1])
  resized = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
  if jnp.issubdtype(images.dtype, jnp.integer):
    resized = jnp.round(resized)
  return resized.astype(images.dtype)


def _nearest(masks: jax.Array, size: int) -> jax.Array:
  """Masks as square ones of `size`: of each pixel, the value at its centre."""
  rows, columns = (
    jnp.floor((jnp.arange(size) + 0.5) * n / size).astype(jnp.int32) for n in masks.shape[1:]
  )
  return masks[:, rows[:, None], columns]


_RESIZED = {"image": _resized, "mask": _nearest}
