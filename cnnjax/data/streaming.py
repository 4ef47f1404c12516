"""The streaming pipeline: reads and crops images on the host while the device trains.

The only file that imports Grain, whose threads or worker processes run ahead of the training. Their
batches are pure functions of (config, seed, step): a run that stops loses nothing and resumes at
any step at once, and the numbers of threads, workers and processes change no batch.
"""

import contextlib
import dataclasses
import functools
import gc
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from grain._src.python.ipc.shared_memory_array import SharedMemoryArray
from grain.experimental import ThreadPrefetchIterDataset
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax.data import fields, stall
from cnnjax.data.examples import Examples
from cnnjax.data.images import UnreadableImage
from cnnjax.data.order import Order
from cnnjax.data.split import Example, Skipped, Split
from cnnjax.errors import TransientError, warn
from cnnjax.runtime import processes, sharding, signals

# Images that a thread decodes in one go. A larger batch is joined from such arrays, which costs a
# copy; NumPy asks for huge pages for arrays of this size, which saves most page faults.
CHUNK = 128
ON_DEVICE = 2  # batches on the device or on the way there, beside the one in use


class _TooMany(Exception):
  """Raised when more images cannot be read than allowed."""


@dataclasses.dataclass(frozen=True)
class _Chunks:
  """The rows of the batches of all steps in chunks, in order, for threads and workers to decode."""

  split: Split
  indices: Callable[[int], np.ndarray]  # step -> the examples of the global batch; -1: none
  rows: np.ndarray  # this process's rows of each batch
  # (example, step, row, where the image may be written) -> the arrays of the example
  crop: Callable[[Example, int, int, np.ndarray], dict[str, np.ndarray]]
  arrays: Callable[[int], dict[str, tuple[tuple[int, ...], str]]]  # step -> their shapes and types
  steps: range
  replace: bool  # an image that cannot be read by another one; else it is masked
  limit: int  # images that cannot be read; the search for another ends there
  what: str  # "step", or another word for a batch
  # The example that each thread of this process is reading: its id -> (the example, since when).
  reading: dict[int, tuple[int, float]] = dataclasses.field(default_factory=dict)

  @property
  def per_batch(self) -> int:
    return math.ceil(len(self.rows) / CHUNK)

  def __len__(self) -> int:
    return len(self.steps) * self.per_batch

  def __getitem__(self, i: int) -> dict[str, Any]:
    step = self.steps[i // self.per_batch]
    rows = np.array_split(self.rows, self.per_batch)[i % self.per_batch]
    arrays = {
      name: np.empty((len(rows), *shape), dtype)
      for name, (shape, dtype) in self.arrays(step).items()
    }
    mask, skipped = np.zeros(len(rows), bool), []
    for place, (row, index) in enumerate(zip(rows, self.indices(step)[rows], strict=True)):
      example = self._example(int(index), step, int(row), arrays["image"][place], skipped)
      mask[place] = example is not None
      for name, array in arrays.items():
        if example is None:
          array[place] = 0
        elif not np.may_share_memory(example[name], array):
          array[place] = example[name]
    self.reading.pop(threading.get_ident(), None)  # where there is no example, none was read
    return {"arrays": arrays, "mask": mask, "skipped": skipped}

  def _example(
    self, index: int, step: int, row: int, out: np.ndarray, skipped: list
  ) -> dict[str, np.ndarray] | None:
    """Returns the arrays of an example; None if there is no example, or it cannot be read."""
    cropped, damaged = None, set()

    def readable(at: int) -> bool:
      nonlocal cropped
      if at in damaged:
        return False
      self.reading[threading.get_ident()] = at, time.monotonic()
      example = self.split[at]
      try:
        cropped = self.crop(example, step, row, out)
      except UnreadableImage as e:
        damaged.add(at)
        skipped.append((self.split.name(at), str(e)))
        if len(damaged) > self.limit and self.replace:
          raise _TooMany from None
      return at not in damaged

    if index < 0:
      return None
    # With too many in `skipped` the process that trains ends, and says why.
    with contextlib.suppress(_TooMany):
      if not readable(index) and self.replace:
        self.split.stand_in(index, readable, skipped[-1][1])
    return cropped


def _join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
  """Joins chunks to a batch; copies those in memory that a worker shares.

  JAX may keep the arrays that it gets, on CPU, so that this memory could not be freed at the end.
  """
  if len(chunks) == 1 and type(chunks[0]["arrays"]["image"]) is np.ndarray:
    return chunks[0]
  arrays = {
    name: np.concatenate([c["arrays"][name] for c in chunks]) for name in chunks[0]["arrays"]
  }
  mask = np.concatenate([c["mask"] for c in chunks])
  return {
    "arrays": arrays, "mask": mask, "skipped": [pair for c in chunks for pair in c["skipped"]]
  }  # fmt: skip


def _start_tracker() -> None:
  """Starts Python's process that frees shared memory, with signals blocked.

  By itself it ignores only SIGINT and SIGTERM, and would die of a SIGHUP or SIGUSR1 to all
  processes of a job. It inherits the signals that are blocked here.
  """
  if not hasattr(signal, "pthread_sigmask"):  # Windows
    return
  before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOPPING)
  resource_tracker.ensure_running()
  signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_parent(worker: int, workers: int) -> None:
  """Leaves signals to the process that trains, and ends the worker once that process is gone."""
  for number in signals.STOPPING:
    signal.signal(number, signal.SIG_IGN)
  ended = multiprocessing.parent_process().join
  threading.Thread(target=lambda: (ended(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def _workers_watched() -> Iterator[None]:
  """Turns the death of a worker process, which Grain notices in a second, into a clear error."""
  try:
    yield
  except RuntimeError as e:
    if not (died := re.match(r"Worker process was terminated.* exit code (-?\d+)", str(e))):
      raise
    code = int(died[1])
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    memory = ", as by a system that runs out of memory" if code == -9 else ""
    raise TransientError(
      f"a data worker process has ended {how}{memory}. The same command goes on from the last "
      "checkpoint; fewer data.workers or data.threads take less memory"
    ) from e


class Streaming:
  """Batches of a split, read as they are needed.

  Args:
    split: the examples.
    config: `config.data`.
    mesh: each batch is split over its devices; a process reads only its own rows.
    skipped: collects the images that cannot be read.
    order: for training, the examples in the batch of each step.
  """

  per_dispatch = 1  # steps in one program: each has its batch

  def __init__(
    self, split: Split, config: ConfigDict, mesh: Mesh, skipped: Skipped, order: Order | None = None
  ):
    self.split, self.order = split, order
    self._config, self._mesh, self._skipped = config, mesh, skipped
    self._examples = Examples.of(config, split.fields)
    self._threads = config.threads or os.cpu_count() or 1
    self._stream, self._next, self._told = None, -1, False
    self._since, self._waited = None, 0.0

  def feed(self, step: int) -> dict[str, jax.Array]:
    """Returns the batch of `step`; the following ones are being read already."""
    began, goes_on = time.monotonic(), step == self._next
    if not goes_on:
      self.close()
      order, examples = self.order, self._examples
      self._stream = self._read(
        _Chunks(
          self.split,
          order.at,
          sharding.local_rows(order.batch_size, self._mesh),
          lambda example, step, row, out: examples.train(
            example, order.size(step), (order.seed, step, row), out
          ),
          lambda step: examples.arrays(order.size(step)),
          range(step, order.total),
          replace=True,
          limit=self._skipped.limit,
          what="step",
        ),
        self._config.workers,
      )
      self._next = step
    self._next += 1
    batch, _ = next(self._stream)
    if not goes_on:  # the first one has to be waited for, and compiling may follow it
      self._since, self._waited = None, 0.0
    else:
      self._since = began if self._since is None else self._since
      self._waited += time.monotonic() - began
    return batch

  def shapes(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns `feed` as shapes with shardings; reads nothing."""
    size, where = self.order.batch_size, sharding.over_batch(self._mesh)
    return {
      name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=where)
      for name, (shape, dtype) in self._examples.arrays(self.order.size(step)).items()
    }

  def waits(self) -> dict[str, float]:
    """Returns `data_wait`, the share of the time since the last call that `feed` waited."""
    since, waited = self._since, self._waited
    self._since, self._waited = None, 0.0  # from the next `feed` on: there may be an evaluation
    return {} if since is None else {"data_wait": waited / (time.monotonic() - since)}

  def close(self) -> None:
    """Ends the threads and processes; `feed` starts new ones."""
    if self._stream is not None:
      self._stream.close()
    self._stream, self._next = None, -1
    if self._config.workers:
      gc.collect()  # Grain's iterators that are done are cycles, and hold shared memory
      if (freeing := SharedMemoryArray._del_thread_pool) is not None:
        freeing.apply(int)  # a thread frees it, in order, and would not outlive the process

  @staticmethod
  def take(feed: dict[str, jax.Array], step: jax.Array) -> dict[str, jax.Array]:
    """Returns the batch, which is the feed itself."""
    return feed

  def once(self, batch_size: int) -> Iterator[tuple[dict[str, jax.Array], jax.Array]]:
    """Yields (batch, mask) over the split in order: every example once, the last batch padded."""
    examples, size = self._examples, self._config.eval_size or self._config.image_size
    batch_size = sharding.padded(min(batch_size, len(self.split)), self._mesh)
    places = np.arange(math.ceil(len(self.split) / batch_size) * batch_size)
    places = np.where(places < len(self.split), places, -1).reshape(-1, batch_size)
    chunks = _Chunks(
      self.split,
      places.__getitem__,
      sharding.local_rows(batch_size, self._mesh),
      lambda example, step, row, out: examples.evaluate(example, size),
      lambda step: examples.arrays(size),
      range(len(places)),
      replace=False,
      limit=self._skipped.limit,
      what="an evaluation at batch",
    )
    # In threads, as starting worker processes for each evaluation takes longer than they save.
    yield from self._read(chunks, workers=0)
    self._tell_lost()

  def _tell_lost(self) -> None:
    """Warns once of the classes that have no readable image in the whole split."""
    if self._skipped and not self._told and processes.is_first():
      self._told, split = True, self.split
      missing = [i for i in range(len(split)) if split.name(i) in self._skipped]
      if lost := split.lost(missing):
        warn(f"images that cannot be read are left out of the evaluation, which is {lost}")

  def _read(
    self, chunks: _Chunks, workers: int
  ) -> Iterator[tuple[dict[str, jax.Array], jax.Array]]:
    """Yields (batch, which of its rows are examples) of each step."""
    options = grain.ReadOptions(self._threads, self._threads + chunks.per_batch)
    data = grain.MapDataset.source(chunks).to_iter_dataset(options)
    if workers:
      _start_tracker()
      if not flags.FLAGS.is_parsed():  # Grain reads flags of absl, which are not set here
        flags.FLAGS.mark_as_parsed()
      options = grain.MultiprocessingOptions(workers, chunks.per_batch)
      data = data.mp_prefetch(options, _obey_parent)
    data = data.batch(chunks.per_batch, batch_fn=_join)
    data = ThreadPrefetchIterDataset(data.map(self._on_device), prefetch_buffer_size=ON_DEVICE)
    hint = functools.partial(self._hint, chunks, workers)
    # Threads and workers end with it.
    with contextlib.closing(iter(data)) as batches, stall.StallWatch(hint) as watch:
      for step in chunks.steps:
        with watch.waiting(f"{chunks.what} {step + 1:,}"), _workers_watched():
          arrays, mask, skipped = next(batches)
        for name, reason in skipped:
          self._skipped.add(name, reason)
        yield arrays, mask

  def _hint(self, chunks: _Chunks, workers: int) -> str:
    """Returns in words the likely reason why a batch is late, and the mend."""
    try_ = f"Look at the disk or the server that they are on, raise data.threads={self._threads}"
    try_ += f" or data.workers={self._config.workers}; Ctrl-C twice leaves at once"
    if reading := dict(chunks.reading):
      index, since = min(reading.values(), key=lambda read: read[1])
      name, seconds = self.split.name(index), time.monotonic() - since
      return f"{name} is being read for {seconds:.0f} s. {try_}"
    return f"{workers} worker processes read images. {try_}" if workers else try_

  def _on_device(
    self, batch: dict[str, Any]
  ) -> tuple[dict[str, jax.Array], jax.Array, list[tuple[str, str]]]:
    where = sharding.over_batch(self._mesh)
    arrays, mask = sharding.put_rows((batch["arrays"], batch["mask"]), where)
    return arrays, mask, batch["skipped"]

  @property
  def images_ahead(self) -> int:
    """The largest number of decoded images in this process's memory."""
    rows = len(sharding.local_rows(self.order.batch_size, self._mesh))
    per_batch = math.ceil(rows / CHUNK)
    chunks = self._threads + per_batch  # that Grain's threads hold
    if workers := self._config.workers:  # and in both queues between the processes
      chunks = workers * (chunks + 2 * (per_batch + 1))
    # The batch that is collected, that which is joined, one that waits, one that is trained on.
    return chunks * math.ceil(rows / per_batch) + (ON_DEVICE + 4) * rows

  def describe(self) -> str:
    """Returns the pipeline and the most memory of its decoded images in words."""
    nbytes = fields.nbytes(self._examples.cropped(self._config.image_size))
    mib = self.images_ahead * nbytes / 2**20
    workers = f"{self._config.workers} processes of " if self._config.workers else ""
    return f"streaming by {workers}{self._threads} threads, at most {mib:,.0f} MiB of images ahead"
