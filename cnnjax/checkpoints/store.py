"""Writes, reads, renames and deletes the files of checkpoints by Orbax, each whole or not there.

Orbax writes a checkpoint under another name and renames it; then the manifest of its files follows
(integrity.py). No other file imports orbax.
"""

import contextlib
import functools
import json
import logging
import pathlib
import shutil
import sys
from concurrent import futures
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from cnnjax.checkpoints import integrity, layout
from cnnjax.errors import UserError
from cnnjax.runtime import processes
from cnnjax.runtime.paths import PathLike, to_path

FOLDER = "checkpoints"  # in a workdir
META, METRICS = "meta/metadata", "metrics/metrics"  # where Orbax keeps them
_DELETED = "deleted"  # a checkpoint is moved here before its files go, so that none is ever in part


class Unreadable(UserError):
  """The error of a checkpoint whose files cannot be read; another checkpoint may do."""


class Store:
  """The checkpoints in one folder, as files.

  All processes of a run call each method; the first one seals, deletes and renames.

  Args:
    folder: absolute (Orbax fails late on others); made unless `read_only`.
    read_only: writes, renames and deletes nothing.
  """

  def __init__(self, folder: pathlib.Path, *, read_only: bool):
    _hush()
    self.folder, self.read_only = folder, read_only
    self._saving: int | None = None
    self._sealing: futures.Future | None = None
    self._thread = futures.ThreadPoolExecutor(1, "seal")
    if not read_only:
      self._put_back()
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    write = not self.read_only
    arrays = {item: ocp.StandardCheckpointHandler() for item in layout.ITEMS}
    options = ocp.CheckpointManagerOptions(
      best_fn=lambda metrics: 0.0,  # so that Orbax writes metrics
      preservation_policy=policies.LatestN(),  # all: older ones go when this one is verified
      read_only=self.read_only,
      create=write,
      cleanup_tmp_directories=write,
      todelete_subdir=_DELETED if write else None,
      lightweight_initialize=True,  # else a damaged file of any step would end the start
    )
    handlers = {**arrays, "meta": ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

  def known(self) -> list[int]:
    """Returns the steps that existed when this was opened, or were saved since."""
    return sorted(self._manager.all_steps())

  def steps(self) -> list[int]:
    """Returns the steps of the checkpoints on disk, damaged or not, in rising order."""
    # A run that goes on may have deleted some since this one looked.
    return [step for step in self.known() if self.place(step).exists()]

  def place(self, step: int) -> pathlib.Path:
    """Returns the folder of a checkpoint."""
    return self.folder / str(step)

  # Writing.
  def start(
    self, step: int, items: dict[str, Any], meta: dict[str, Any], metrics: dict[str, Any] | None
  ) -> None:
    """Begins to write a checkpoint; raises any error that Orbax does.

    Args:
      step: its name, which no other one may have.
      items: some of `layout.ITEMS`, each a tree of arrays.
      meta: JSON to save beside them.
      metrics: None if nothing was measured.
    """
    arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    meta = ocp.args.JsonSave({"format": layout.FORMAT, **meta})
    args = ocp.args.Composite(**arrays, meta=meta)
    self._manager.save(step, metrics=metrics, force=True, args=args)
    self._saving = step
    if processes.is_first():
      self._sealing = self._thread.submit(self._seal, step)

  def _seal(self, step: int) -> None:
    """Waits until Orbax has committed the step, and writes its manifest."""
    self._manager.wait_until_finished()
    integrity.seal(self.place(step))

  def finish(self) -> tuple[int | None, Exception | None, bool]:
    """Waits for the write that was started.

    Returns:
      Its step, None if none was started; this process's error; whether any process had one.
    """
    if self._saving is None:
      return None, None, False
    step, self._saving, error = self._saving, None, None
    try:
      self._manager.wait_until_finished()
      if processes.is_first():
        self._sealing.result()
    except Exception as e:
      error = e
    failed = bool(processes.max_over_processes(int(error is not None)))
    if not failed and processes.is_first():
      shutil.rmtree(self.folder / f"{step}.replaced", ignore_errors=True)
    return step, error, failed

  def put_away(self, step: int) -> None:
    """Renames a checkpoint that is about to be replaced; `finish` deletes it."""
    self.rename({step: f"{step}.replaced"})

  def rename(self, names: dict[int, str]) -> None:
    """Renames checkpoints so that they do not count as such any more."""
    if processes.is_first():
      for step, new in names.items():
        self.place(step).rename(self.folder / new)
      integrity.sync(self.folder)
    processes.barrier()
    self._manager.close()
    self._manager = self._open()

  def _put_back(self) -> None:
    """Restores a checkpoint that was being replaced when the process was killed."""
    if processes.is_first():
      shutil.rmtree(self.folder / _DELETED, ignore_errors=True)
      for old in self.folder.glob("*.replaced"):
        if old.with_suffix("").exists():
          shutil.rmtree(old)
        else:
          old.rename(old.with_suffix(""))
    processes.barrier()

  def delete(self, step: int) -> None:
    """Renames a checkpoint so that it does not count any more; `empty` removes its files."""
    self._manager.delete(step)

  def empty(self) -> None:
    """Removes the files of deleted checkpoints."""
    if processes.is_first():
      shutil.rmtree(self.folder / _DELETED, ignore_errors=True)

  def close(self) -> None:
    """Ends the threads; no call may follow."""
    self._thread.shutdown()
    with contextlib.suppress(Exception):  # Orbax raises the error of a failed save again
      self._manager.close()

  # Reading.
  def restore(self, step: int, **shapes: Any) -> dict[str, Any]:
    """Reads items of a checkpoint into arrays of these shapes and shardings."""
    args = {item: ocp.args.StandardRestore(tree) for item, tree in shapes.items()}
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as e:  # Orbax raises any kind for damaged files
      raise self.unreadable(step, e) from e

  def arrays(self, step: int, item: str, where: jax.sharding.Sharding) -> Any:
    """Reads the arrays of an item as they were saved, all with the sharding `where`."""
    rest = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    return self.restore(step, **{item: jax.tree.map(rest, self.trees(step)[item])})[item]

  def trees(self, step: int) -> dict[str, Any]:
    """Returns the tree of shapes of each item of arrays, None for a missing item."""
    try:
      found = self._manager.item_metadata(step)
      trees = {item: found.get(item) for item in layout.ITEMS}
      for item in layout.ITEMS:
        # Orbax counts an item whose metadata is gone as one that was never saved.
        if trees[item] is None and (self.place(step) / item).exists():
          raise ValueError(f"{item} has no metadata")
    except Exception as e:
      raise self.unreadable(step, e) from e
    # A mapping of Orbax, or an object around one, depending on its version.
    plain = lambda tree: tree.tree if hasattr(tree, "tree") else tree
    return {item: None if tree is None else dict(plain(tree)) for item, tree in trees.items()}

  def meta(self, step: int) -> dict[str, Any]:
    """Reads the JSON beside the arrays; UserError if a newer cnnjax wrote it."""
    try:  # not by Orbax, whose processes wait for each other in a restore
      found = json.loads((self.place(step) / META).read_bytes())
    except (OSError, ValueError, RecursionError) as e:
      raise self.unreadable(step, e) from e
    if not isinstance(found, dict) or type(number := found.pop("format", 0)) is not int:
      error = ValueError("it is not what was written")
      raise self.unreadable(step, error) from error
    if number > layout.FORMAT:
      raise UserError(
        f"the checkpoint of step {step} in {self.folder} was written by a newer cnnjax (format "
        f"{number}, and this one reads up to {layout.FORMAT}): use that one"
      )
    return layout.migrated(found, number)

  def metrics(self, step: int) -> dict[str, Any] | None:
    """Reads the metrics of a checkpoint; raises any error that Orbax does."""
    return self._manager.metrics(step)

  def time(self, step: int) -> float | None:
    """Returns when a checkpoint was written, in seconds since 1970; None if unknown."""
    try:
      return self._manager.metadata(step).commit_timestamp_nsecs / 1e9
    except Exception:
      return None

  def unreadable(self, step: int, error: Exception) -> Unreadable:
    """Returns an `Unreadable` for a checkpoint that cannot be read because of `error`."""
    return Unreadable(
      f"cannot read the checkpoint of step {step} in {self.folder}: {reason(error)}"
    )


def last_step(workdir: PathLike) -> int | None:
  """Returns the step of the last checkpoint in a workdir, whole or not, None if it has none."""
  return max(ocp.utils.checkpoint_steps(to_path(workdir) / FOLDER), default=None)


def newest_format(workdir: PathLike) -> int:
  """Returns the highest format of the checkpoints in a workdir; 0 if none names its format."""
  formats = [0]
  for file in (to_path(workdir) / FOLDER).glob(f"*/{META}"):
    with contextlib.suppress(OSError, ValueError, RecursionError):
      found = json.loads(file.read_bytes())
      formats.append(int(found.get("format", 0)) if isinstance(found, dict) else 0)
  return max(formats)


def reason(error: BaseException | None) -> str:
  """Returns the first line of an error; for None, that it happened in another process."""
  if error is None:
    return "another process met an error"
  return (str(error).strip() or type(error).__name__).splitlines()[0]


@functools.cache
def _hush() -> None:
  """Silences the tracebacks that Orbax logs of errors which it raises as well."""
  logging.getLogger("absl").setLevel(logging.CRITICAL)  # each phase of a save as well
  before = sys.unraisablehook

  def hook(found: Any) -> None:
    # Reads and writes that nobody waits for any more, since another one has failed.
    if str(found.exc_value) != "Event loop is closed":
      before(found)

  sys.unraisablehook = hook
