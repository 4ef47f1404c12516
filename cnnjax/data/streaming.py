"""The streaming pipeline: images are read and cropped on the host while the device trains.

The only file that imports Grain, whose threads or worker processes run ahead of the training. What
they make is a pure function of (config, seed, step): nothing is lost when a run stops, it goes on
at any step at once, and the numbers of threads, workers and processes change no batch.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from grain.experimental import ThreadPrefetchIterDataset
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import sharding
from cnnjax.data.crops import Crops
from cnnjax.data.images import UnreadableImage
from cnnjax.data.order import Order
from cnnjax.data.split import Label, Skipped, Split

# Images that a thread decodes in one go. A batch of more is put together, which costs a copy of it;
# NumPy asks for huge pages for arrays of this size, which saves most page faults.
CHUNK = 128
ON_DEVICE = 2  # batches on the device, or on their way there, beside the one in use


@dataclasses.dataclass(frozen=True)
class _Chunks:
  """The rows of the batches of all steps in chunks, in order; what threads and workers decode."""

  split: Split
  indices: Callable[[int], np.ndarray]  # step -> the examples of the global batch; -1: none
  rows: np.ndarray  # of each batch, those of this process
  image: Callable[[Any, int, int], np.ndarray]  # (data, step, row) -> pixels
  size: Callable[[int], tuple[int, int, int]]  # step -> height, width, channels
  steps: range
  replace: bool  # of an image that cannot be read: by the next that can; else it is masked

  @property
  def per_batch(self) -> int:
    return math.ceil(len(self.rows) / CHUNK)

  def __len__(self) -> int:
    return len(self.steps) * self.per_batch

  def __getitem__(self, i: int) -> dict[str, Any]:
    step = self.steps[i // self.per_batch]
    rows = np.array_split(self.rows, self.per_batch)[i % self.per_batch]
    images = np.empty((len(rows), *self.size(step)), np.uint8)
    labels, mask, skipped = [], np.zeros(len(rows), bool), []
    for place, (row, index) in enumerate(zip(rows, self.indices(step)[rows], strict=True)):
      pixels, label = self._example(int(index), step, int(row), skipped)
      mask[place] = pixels is not None
      images[place] = pixels if mask[place] else 0
      labels.append(label)
    return {"image": images, "label": np.stack(labels), "mask": mask, "skipped": skipped}

  def _example(self, index: int, step: int, row: int, skipped: list) -> tuple[Any, Label]:
    """(pixels, label); no pixels where there is no example, or it cannot be read."""
    for at in range(index, index + len(self.split)):
      data, label = self.split[max(at, 0) % len(self.split)]
      if index < 0:
        break
      try:
        return self.image(data, step, row), label
      except UnreadableImage as e:
        skipped.append((self.split.name(at % len(self.split)), str(e)))
      if not self.replace:
        break
    return None, label


def _join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
  """A batch of its chunks."""
  if len(chunks) == 1:
    return chunks[0]
  joined = {key: np.concatenate([c[key] for c in chunks]) for key in ("image", "label", "mask")}
  return {**joined, "skipped": [found for c in chunks for found in c["skipped"]]}


class Streaming:
  """Batches of a split, read as they are needed.

  Args:
    split: what is read.
    config: `config.data`.
    mesh: each batch is split over its devices, and a process reads its own rows alone.
    skipped: where images that cannot be read are named.
    order: for training: what stands in the batch of each step.
  """

  per_dispatch = 1  # steps in one program: each has its batch

  def __init__(
    self, split: Split, config: ConfigDict, mesh: Mesh, skipped: Skipped, order: Order | None = None
  ):
    self.split, self.order = split, order
    self._config, self._mesh, self._skipped = config, mesh, skipped
    self._crops = Crops.of(config, split.shape)
    self._threads = config.threads or os.cpu_count() or 1
    self._stream, self._next = None, -1

  def feed(self, step: int) -> dict[str, jax.Array]:
    """The batch of `step`; those that follow are under way already."""
    if step != self._next:
      self.close()
      order, crops = self.order, self._crops
      self._stream = self._read(
        _Chunks(
          self.split,
          order.at,
          sharding.local_rows(order.batch_size, self._mesh),
          lambda data, step, row: crops.train(data, order.size(step), (order.seed, step, row)),
          lambda step: crops.shape(order.size(step)),
          range(step, order.total),
          replace=True,
        ),
        self._config.workers,
      )
      self._next = step
    self._next += 1
    batch = next(self._stream)
    return {"image": batch["image"], "label": batch["label"]}

  def close(self) -> None:
    """Ends the threads and processes."""
    if self._stream is not None:
      self._stream.close()

  @staticmethod
  def take(feed: dict[str, jax.Array], step: jax.Array) -> dict[str, jax.Array]:
    """The batch, which is what was fed."""
    return feed

  def once(self, batch_size: int) -> Iterator[tuple[dict[str, jax.Array], jax.Array]]:
    """(batch, mask) over the split in order: every example once, the last batch padded."""
    crops, size = self._crops, self._config.eval_size or self._config.image_size
    batch_size = sharding.padded(min(batch_size, len(self.split)), self._mesh)
    places = np.arange(math.ceil(len(self.split) / batch_size) * batch_size)
    places = np.where(places < len(self.split), places, -1).reshape(-1, batch_size)
    chunks = _Chunks(
      self.split,
      places.__getitem__,
      sharding.local_rows(batch_size, self._mesh),
      lambda data, step, row: crops.evaluate(data, size),
      lambda step: crops.shape(size),
      range(len(places)),
      replace=False,
    )
    # In threads: to start worker processes for each evaluation takes longer than they save.
    for batch in self._read(chunks, workers=0):
      yield {"image": batch["image"], "label": batch["label"]}, batch["mask"]

  def _read(self, chunks: _Chunks, workers: int) -> Iterator[dict[str, jax.Array]]:
    options = grain.ReadOptions(self._threads, self._threads + chunks.per_batch)
    data = grain.MapDataset.source(chunks).to_iter_dataset(options)
    if workers:
      if (
        not flags.FLAGS.is_parsed()
      ):  # Grain's workers ask absl for flags, which nobody here has set
        flags.FLAGS.mark_as_parsed()
      data = data.mp_prefetch(grain.MultiprocessingOptions(workers, chunks.per_batch))
    data = data.batch(chunks.per_batch, batch_fn=_join)
    data = ThreadPrefetchIterDataset(data.map(self._on_device), prefetch_buffer_size=ON_DEVICE)
    with contextlib.closing(iter(data)) as batches:  # threads and workers end with it
      for arrays, skipped in batches:
        for name, reason in skipped:
          self._skipped.add(name, reason)
        yield arrays

  def _on_device(self, batch: dict[str, Any]) -> tuple[dict[str, jax.Array], list]:
    skipped = batch.pop("skipped")
    return sharding.put_rows(batch, sharding.over_batch(self._mesh)), skipped

  def describe(self) -> str:
    """Where batches come from, and the most memory that they take on the host."""
    rows = len(sharding.local_rows(self.order.batch_size, self._mesh))
    image = math.prod(self._crops.shape(self._config.image_size))
    ahead = self._threads * max(1, self._config.workers) * CHUNK + 2 * rows
    by = f"{self._config.workers} processes" if self._config.workers else f"{self._threads} threads"
    return f"streaming by {by}, at most {ahead * image / 2**20:,.0f} MiB of images ahead"
