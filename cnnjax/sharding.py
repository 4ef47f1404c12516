"""Where arrays live: the mesh, and how what is on the host gets there."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax.errors import UserError


def make_mesh(data: int) -> Mesh:
  """A mesh of `data` devices (-1: all) along the axis "data", which the batch is split over.

  Raises:
    UserError: there are fewer devices.
  """
  devices = jax.devices()
  data = len(devices) if data == -1 else data
  if data > len(devices):
    raise UserError(
      f"mesh.data is {data}, but there are {len(devices)} {jax.default_backend()} devices; "
      "use -1 for all of them"
    )
  return jax.make_mesh((data,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:data])


def check_divides(batch_size: int, mesh: Mesh) -> None:
  """Raises UserError if the devices cannot share a batch equally."""
  if batch_size % mesh.size:
    below = batch_size // mesh.size * mesh.size
    near = f"{below} or {below + mesh.size}" if below else f"{mesh.size}"
    raise UserError(
      f"batch_size {batch_size} cannot be divided over {mesh.size} devices; the nearest that can: "
      f"{near} (or set mesh.data)"
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Split over the devices along `axis`."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
  """Which rows of a batch lie on the devices of this process, in order."""
  places = over_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[place] for place in places]))


def padded(n: int, mesh: Mesh) -> int:
  """The least number from `n` on that the devices can share equally."""
  return math.ceil(n / mesh.size) * mesh.size


def put_rows(tree: Any, sharding: NamedSharding) -> Any:
  """Each process's rows of host arrays as global arrays."""
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Host arrays as global arrays."""
  return jax.device_put(tree, sharding)


def describe(mesh: Mesh, batch_size: int) -> str:
  """The devices in words."""
  device = mesh.devices.flat[0]
  each = f", {batch_size // mesh.size} on each" if mesh.size > 1 else ""
  return f"{mesh.size} x {device.device_kind}, batch {batch_size}{each}"
