"""Decides where a split stays: decoded on the device, or on the host, which streams it."""

from collections.abc import Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax.data import fields
from cnnjax.data.examples import Examples
from cnnjax.data.order import Order
from cnnjax.data.resident import Resident, check_fits, in_gib
from cnnjax.data.split import Skipped, Split
from cnnjax.data.streaming import Streaming
from cnnjax.errors import UserError


def decode_if_resident(
  split: Split | None, config: ConfigDict, skipped: Skipped, devices: int, *, train: bool
) -> Split | None:
  """Decodes a split that stays on the device; returns others as they are."""
  if split is None or not _is_resident(split, config, devices, train=train):
    return split
  examples, size = Examples.of(config, split.fields), _size(config, train=train)
  check_fits((len(split), fields.nbytes(examples.cropped(size))), _max_gib(config, devices))
  crop = examples.whole if train else examples.evaluate
  return split.decoded(lambda example: crop(example, size), skipped, replace=train)


def pipeline(
  split: Split,
  config: ConfigDict,
  mesh: Mesh,
  skipped: Skipped,
  order: Order | None = None,
  seeds: Sequence[int] = (),
) -> Resident | Streaming:
  """Returns the pipeline of a split from `load`; a training split has an `order`.

  `seeds` has the seed of each run where a program trains more than one.
  """
  if _is_resident(split, config, mesh.size, train=order is not None):
    return Resident(split, config, mesh, order, [order.with_seed(seed) for seed in seeds])
  if seeds:
    raise UserError(
      "several runs in one program (seeds, rates) take their batches from a training split that "
      "stays on the device, and this one is streamed: raise data.max_gib, or train them one by one"
    )
  return Streaming(split, config, mesh, skipped, order)


def _is_resident(split: Split, config: ConfigDict, devices: int, *, train: bool) -> bool:
  """Returns whether a split stays on the device; the same before and after it is decoded."""
  if config.pipeline != "auto":
    return config.pipeline == "resident"
  cropped = Examples.of(config, split.fields).cropped(_size(config, train=train))
  fits = in_gib((len(split), fields.nbytes(cropped))) <= _max_gib(config, devices)
  return fits and not (train and config.crop != "center")


def _size(config: ConfigDict, *, train: bool) -> int | None:
  return config.image_size if train else config.eval_size or config.image_size


def _max_gib(config: ConfigDict, devices: int) -> float:
  """Returns the GiB that may stay on each device, or on all together where each holds a part."""
  return config.max_gib * (devices if config.shard_resident else 1)
