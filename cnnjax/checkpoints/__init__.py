"""Checkpoints: written whole or not at all, verified, found again, kept as the config says.

This room keeps a workdir. checkpoints.py saves and restores the state of a run, with store.py
(files; alone imports Orbax), ledger.py (whole and damaged checkpoints), retention.py (which ones
stay) and layout.py (a state on disk, older formats). integrity.py is the manifest of a checkpoint;
workdir.py, lock.py and trained_on.py keep the files beside the checkpoints.

It writes and renames only inside a workdir, deletes only files that it wrote, and never a damaged
checkpoint. It knows a state by its fields, and no step or loop.

This room imports config, data, models (the defaults of a model), optim, registry, runtime and tasks
(the direction of the monitored metric).
"""

from cnnjax.checkpoints.checkpoints import WHICH, Checkpoints
from cnnjax.checkpoints.layout import FORMAT, ITEMS, UNMEASURED, paths
from cnnjax.checkpoints.retention import Keep
from cnnjax.checkpoints.store import FOLDER, last_step, newest_format

__all__ = [
  "FOLDER",
  "FORMAT",
  "ITEMS",
  "UNMEASURED",
  "WHICH",
  "Checkpoints",
  "Keep",
  "last_step",
  "newest_format",
  "paths",
]
