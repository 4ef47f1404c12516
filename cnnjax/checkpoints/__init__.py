"""Checkpoints: written whole or not at all, verified, found again, kept as the config says.

The room of what lies in a workdir. checkpoints.py saves the state of a run and restores it, with
store.py (files; the only one that knows Orbax), ledger.py (what is whole, what is damaged),
retention.py (what stays) and layout.py (what a state is on disk, and older formats). integrity.py
is the manifest of a checkpoint; workdir.py, lock.py and trained_on.py are what lies beside them.

It may write and rename in a workdir alone, delete what it wrote itself, and nothing of a checkpoint
that is damaged. It knows a state by its fields, and no model, step or loop.
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
