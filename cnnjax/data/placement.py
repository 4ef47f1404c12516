"""Where a split stays: on the device, decoded, or on the host, from which it is streamed."""

from collections.abc import Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import fields
from cnnjax.data.examples import Examples
from cnnjax.data.order import Order
from cnnjax.data.resident import Resident, check_fits, in_gib
from cnnjax.data.split import Skipped, Split
from cnnjax.data.streaming import Streaming
from cnnjax.errors import UserError


def settled(
  split: Split | None, config: ConfigDict, skipped: Skipped, devices: int, *, train: bool
) -> Split | None:
  """The split decoded, if it is to stay on the device; else as it is."""
  if split is None or not _stays(split, config, devices, train=train):
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
  """Batches of a split that `load` gave, of one that is trained on in its `order`.

  `seeds`: of the runs that are trained as one program, where there are several.
  """
  if _stays(split, config, mesh.size, train=order is not None):
    return Resident(split, config, mesh, order, [order.with_seed(seed) for seed in seeds])
  if seeds:
    raise UserError(
      "several runs in one program (seeds, rates) take their batches from a training split that "
      "stays on the device, and this one is streamed: raise data.max_gib, or train them one by one"
    )
  return Streaming(split, config, mesh, skipped, order)


def _stays(split: Split, config: ConfigDict, devices: int, *, train: bool) -> bool:
  """Whether a split stays on the device; the answer is the same once it is decoded."""
  if config.pipeline != "auto":
    return config.pipeline == "resident"
  cropped = Examples.of(config, split.fields).cropped(_size(config, train=train))
  fits = in_gib((len(split), fields.nbytes(cropped))) <= _max_gib(config, devices)
  return fits and not (train and config.crop != "center")


def _size(config: ConfigDict, *, train: bool) -> int | None:
  return config.image_size if train else config.eval_size or config.image_size


def _max_gib(config: ConfigDict, devices: int) -> float:
  """What may stay on all devices together, where each holds a part; else on each."""
  return config.max_gib * (devices if config.shard_resident else 1)
