"""Places arrays on devices: the mesh, the shardings of a state and a batch, copies from the host.

The mesh has two axes, and a batch is split over both. The axis "data" replicates the state. The
axis "fsdp" splits the large arrays of the state (parameters, optimizer state, averages) along one
of their axes: each device keeps a part, and collects a whole parameter where a layer needs it
(fully sharded data parallelism, arXiv:1910.02054, stage 3). Small arrays, such as batch statistics,
are replicated there too.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cnnjax.errors import UserError

AXES = ("data", "fsdp")


def make_mesh(data: int, fsdp: int = 1) -> Mesh:
  """Returns a mesh of `data` times `fsdp` devices of all processes; -1 takes the rest.

  Raises:
    UserError: there are fewer devices; or a run of many processes has more than the mesh takes.
  """
  devices, given = jax.devices(), f"mesh.data={data}, mesh.fsdp={fsdp}"
  available = f"there are {len(devices)} {jax.default_backend()} devices"
  if data == fsdp == -1:
    raise UserError(f"{given}: only one can be -1, for all devices that are left")
  left = max(len(devices) // max(data, fsdp), 1)
  shape = tuple(left if size == -1 else size for size in (data, fsdp))
  if (size := math.prod(shape)) > len(devices):
    more = "; XLA_FLAGS=--xla_force_host_platform_device_count=8 simulates more"
    raise UserError(
      f"{given} takes {size} devices, but {available}; ask for fewer, or for -1, all that are left"
      + (more if jax.default_backend() == "cpu" else "")
    )
  if jax.process_count() > 1 and size != len(devices):
    raise UserError(
      f"{given} takes {size} devices, but {available} in {jax.process_count()} processes, and none "
      "may be idle; use mesh.data=-1 for all of them"
    )
  types = (AxisType.Auto,) * len(AXES)
  return jax.make_mesh(shape, AXES, axis_types=types, devices=devices[:size])


def check_divides(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
  """Raises UserError if the devices cannot share each of `accumulate` parts of a batch equally."""
  if batch_size % (parts := mesh.size * accumulate):
    below = batch_size // parts * parts
    near = f"{below} or {below + parts}" if below else f"{parts}"
    times = f", {accumulate} times (accumulate)" if accumulate > 1 else ""
    raise UserError(
      f"batch_size {batch_size} cannot be divided over {mesh.size} devices{times}; the nearest "
      f"that can: {near} (or set mesh.data)"
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Returns the sharding of an array that all devices split along `axis`."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))


def split_axis(shape: tuple[int, ...], parts: int, min_size: int) -> int | None:
  """Returns the largest axis that `parts` divides, the last of equals.

  None for an array of fewer than `min_size` values, or where no axis can be divided.
  """
  if parts == 1 or math.prod(shape) < min_size:
    return None
  divisible = [axis for axis, length in enumerate(shape) if length and length % parts == 0]
  return max(divisible, key=lambda axis: (shape[axis], axis), default=None)


def of_state(tree: Any, mesh: Mesh, config: ConfigDict) -> Any:
  """Returns the sharding of each array of a state, or of a part of it. Takes `config.mesh`."""

  def where(x: Any) -> NamedSharding:
    axis = split_axis(x.shape, mesh.shape["fsdp"], config.fsdp_min_size)
    return over_fsdp(mesh, axis) if axis is not None else replicated(mesh)

  return jax.tree.map(where, tree)


def over_fsdp(mesh: Mesh, axis: int) -> NamedSharding:
  """Returns the sharding of an array split along `axis` over the mesh axis "fsdp"."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))


def laid_out(tree: Any, where: Any) -> Any:
  """Returns the shapes of a tree with the shardings of `where`."""
  give = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.tree.map(give, tree, where)


def gatherer(mesh: Mesh, config: ConfigDict) -> Callable[[Any], Any] | None:
  """Returns a function from split parameters to whole ones, or None where none is split.

  It is called inside a program. Its transpose is a reduce-scatter: sums the gradients and leaves
  each device its part.
  """
  if mesh.shape["fsdp"] == 1:
    return None

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def whole(where: NamedSharding, x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, replicated(mesh))

  whole.defvjp(
    lambda where, x: (whole(where, x), None),
    lambda where, _, grad: (jax.lax.with_sharding_constraint(grad, where),),
  )
  return lambda tree: jax.tree.map(whole, of_state(tree, mesh, config), tree)


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
  """Returns the rows of a batch that lie on this process's devices, in order."""
  places = over_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[place] for place in places]))


def padded(n: int, mesh: Mesh) -> int:
  """Rounds `n` up to a number that the devices can share equally."""
  return math.ceil(n / mesh.size) * mesh.size


def put_rows(tree: Any, sharding: NamedSharding) -> Any:
  """Puts each process's rows of host arrays into global arrays."""
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Puts host arrays, of which every process has the whole, into global arrays."""
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)

  def to_global(x: Any) -> jax.Array:  # device_put would compare all of it between the processes
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(to_global, tree)


def table(tree: Any) -> list[tuple[str, tuple[int, ...], tuple[int, ...], str]]:
  """Returns (path, shape, shape on a device, sharding in words) of each array of a sharded tree."""
  return [
    (
      jax.tree_util.keystr(path, simple=True, separator="/"),
      x.shape,
      x.sharding.shard_shape(x.shape),
      "whole" if x.sharding.is_fully_replicated else f"axis {_axis_of(x.sharding)} over fsdp",
    )
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _axis_of(sharding: NamedSharding) -> int:
  return next(axis for axis, name in enumerate(sharding.spec) if name is not None)


COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(program: str) -> dict[str, tuple[int, int]]:
  """Returns {kind: (number, bytes of results on a device)} of the collectives of a program.

  `program` is XLA's HLO, as of `compiled.as_text()`.
  """
  counts_of = dict.fromkeys(COLLECTIVES, (0, 0))
  shape = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")
  line = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
  for results, kind, _ in line.findall(program):
    sizes = [
      math.prod(map(int, filter(None, dims.split(",")))) * int(bits) // 8
      for _, bits, dims in shape.findall(results)
    ]
    counts_of[kind] = counts_of[kind][0] + 1, counts_of[kind][1] + sum(sizes)
  return {kind: counts for kind, counts in counts_of.items() if counts[0]}


def bytes_per_device(tree: Any) -> int:
  """Returns the bytes that a sharded tree takes on each device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def size_text(size: float, whole: float | None = None) -> str:
  """Returns bytes in GiB or MiB, of a part in the unit of its `whole`: 3 * 2**29 is "1.500 GiB"."""
  unit, name = (2**30, "GiB") if (whole or size) >= 2**30 else (2**20, "MiB")
  return f"{size / unit:.3f} {name}"


def describe(mesh: Mesh, batch_size: int) -> str:
  """Returns the devices of the mesh in words."""
  device, processes = mesh.devices.flat[0], jax.process_count()
  axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  axes = f" ({axes})" if mesh.shape["fsdp"] > 1 else ""
  of = f" of {processes} processes" if processes > 1 else ""
  each = f", {batch_size // mesh.size} on each" if mesh.size > 1 else ""
  return f"{mesh.size} x {device.device_kind}{axes}{of}, batch {batch_size}{each}"


def describe_parts(params: Any, mesh: Mesh, config: ConfigDict) -> dict[str, str]:
  """Returns in words how the parameters are split, if they are. Takes `config.mesh`."""
  if mesh.shape["fsdp"] == 1:
    return {}
  placed = laid_out(params, of_state(params, mesh, config))
  rows = table(placed)
  split, whole = sum(shape != part for _, shape, part, _ in rows), bytes_per_device(params)
  text = (
    f"{split} of {len(rows)} arrays of parameters in {mesh.shape['fsdp']} parts, "
    f"{size_text(bytes_per_device(placed), whole)} of {size_text(whole)} on each device (python -m "
    "cnnjax.plan lists them)"
  )
  return {"sharding": text}
