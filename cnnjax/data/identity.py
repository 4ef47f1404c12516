"""Identifies examples by content or path, so that their place in a list does not matter.

The content is that of its image: the bytes of a file, the pixels of an array. A file that is
renamed, moved to another class or copied stays the same example. Content has to be read at each
start, so images of more than `LARGE` bytes together are identified by their place instead: the path
below the root and the size, or the place in a file of TFDS. Copies are then different examples.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import rich.progress

from cnnjax.runtime.console import Console

CONTENT, PLACE = "content", "place"
LARGE = 16 * 2**30  # bytes that a start may read: experiments/benchmarks/input/README.md
PART = 256  # images that a thread reads in one go
T = TypeVar("T")


def fingerprint(*parts: bytes) -> int:
  """Returns a 64-bit hash of byte strings."""
  hashed = hashlib.blake2b(digest_size=8)
  for part in parts:
    hashed.update(len(part).to_bytes(8, "little"))
    hashed.update(part)
  return int.from_bytes(hashed.digest(), "little")


def fingerprints(contents: Callable[[range], Iterable[bytes]], n: int) -> np.ndarray:
  """Returns the fingerprints of images, [n] uint64; `contents` gives the bytes at some places."""
  parts = in_parts(lambda places: [fingerprint(content) for content in contents(places)], n)
  return np.array([number for part in parts for number in part], np.uint64)


def drawn(ids: np.ndarray, use: str, seed: int) -> np.ndarray:
  """Returns a uniform uint64 per example, [n]: a function of its id, `use` and `seed` alone."""
  salt = f"{use} {seed}".encode()
  return np.array([fingerprint(i.tobytes(), salt) for i in ids], np.uint64)


def in_parts(read: Callable[[range], T], n: int) -> Iterator[T]:
  """Yields `read(range)` over consecutive ranges of [0, n), in order, by threads."""
  parts = [range(i, min(i + PART, n)) for i in range(0, n, PART)]
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    yield from _shown(pool.map(read, parts), len(parts))


def _shown(items: Iterable[T], total: int) -> Iterable[T]:
  """Yields `items`, with a progress bar on a terminal if there are many."""
  console = Console()
  if total <= 20 or not console.animated:
    return items
  return rich.progress.track(items, "reading images", total, console=console, transient=True)
