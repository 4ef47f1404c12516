"""Reads examples from image files as they are needed; identifies them by content or by place."""

import dataclasses
import functools
import itertools
import os
import pathlib
import stat

import numpy as np

from cnnjax.data import identity, mask_files, walk
from cnnjax.data.images import UnreadableImage, read
from cnnjax.data.split import Example
from cnnjax.errors import TransientError


@dataclasses.dataclass(frozen=True)
class Files:
  """Records in files below `root`, with labels and groups as in `Records`."""

  paths: tuple[str, ...]
  labels: np.ndarray | None
  root: str = "."
  groups: np.ndarray | None = None
  masks: tuple[str, ...] | None = None  # the file of each mask
  white: bool = False  # white pixels of masks are of class 1, see `mask_files`
  values: np.ndarray | None = None  # [n] or [n, k] float32
  boxes: tuple[tuple[np.ndarray, np.ndarray], ...] | None = None  # [k, 4] and classes [k] of each

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, i: int) -> Example:
    example: Example = {"image": self._read(self.paths[i], i)}
    if self.labels is not None:
      example["label"] = self.labels[i]
    if self.masks is not None:
      example["mask"] = self._mask(i)
    if self.values is not None:
      example["value"] = self.values[i]
    if self.boxes is not None:
      example["boxes"], example["boxes_label"] = self.boxes[i]
    return example

  def _mask(self, i: int) -> bytes | np.ndarray | UnreadableImage:
    """Returns the mask of example i, or the reason why it cannot be read."""
    data = self._read(self.masks[i], i)
    if self.white and isinstance(data, bytes):
      return mask_files.with_white(self.masks[i], data)
    return data

  def _read(self, path: str, i: int) -> bytes | UnreadableImage:
    """Returns the bytes of a file of example i, or the reason why they cannot be read."""
    try:
      return read(path)
    except UnreadableImage as e:
      return e
    except OSError as e:  # as an image that cannot be decoded: skipped, counted and named
      if gone := self._gone(i):
        raise TransientError(
          f"cannot read {self.name(i)}, as {gone} is gone: look at the disk or the server, and "
          "start the same command again when it is back"
        ) from e
      return UnreadableImage(e.strerror)

  def _gone(self, i: int) -> pathlib.Path | None:
    """Returns the first missing folder above image i, if those of other images are missing too."""
    above = [pathlib.Path(self.paths[at]).parent for at in (i, 0, -1)]
    if any(folder.is_dir() for folder in above):
      return None
    missing = itertools.takewhile(lambda folder: not folder.is_dir(), above[0].parents)
    return [above[0], *missing][-1]

  def name(self, i: int) -> str:
    return walk.printable(self.paths[i])

  @functools.cached_property
  def contents(self) -> np.ndarray:
    """Fingerprints of the files; of the path where a file cannot be read."""

    def content(i: int) -> bytes:
      data = self._read(self.paths[i], i)
      return data if isinstance(data, bytes) else os.fsencode(self.relative(i))

    return identity.fingerprints(lambda at: map(content, at), len(self))

  @functools.cached_property
  def places(self) -> np.ndarray:
    """Fingerprints of path and size; of the path alone where the file is missing."""
    sizes = ("" if size is None else size for size in self._sizes)
    texts = [os.fsencode(f"{self.relative(i)}|{size}") for i, size in enumerate(sizes)]
    return np.array(list(map(identity.fingerprint, texts)), np.uint64)

  def relative(self, i: int) -> str:
    """Returns the path of file i below the root."""
    path, above = self.paths[i], os.path.join(self.root, "")
    below = os.path.normpath(path.removeprefix(above))
    # Faster than relpath: experiments/benchmarks/input/README.md.
    if path.startswith(above) and not below.startswith(("/", "..")):
      return below
    return os.path.relpath(path, self.root)

  @functools.cached_property
  def large(self) -> bool:
    """True if all files together exceed `identity.LARGE`."""
    return sum(size or 0 for size in self._sizes) > identity.LARGE

  @functools.cached_property
  def _sizes(self) -> list[int | None]:
    """The size of each file in bytes; None where it is missing or no file."""
    parts = identity.in_parts(lambda at: [_size(self.paths[i]) for i in at], len(self))
    return list(itertools.chain.from_iterable(parts))


def _size(path: str) -> int | None:
  try:
    status = os.stat(path)
  except (OSError, ValueError):
    return None
  return status.st_size if stat.S_ISREG(status.st_mode) else None
