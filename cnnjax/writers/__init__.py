"""Shows a run and keeps its metrics: console, metrics.jsonl, TensorBoard.

The loop calls `Writers`. It puts together a meter (clock and speed), the display (block, bar,
progress), results in words, the list of unreadable images, and the sinks, which keep lines of
metrics. A new sink is one class like those of sinks.py and an entry in `writers.open_sinks`.

This room imports checkpoints, config, runtime, tasks and training (a program's pieces, warnings);
it takes numbers and pictures, never states, batches or models.
"""

from cnnjax.writers.metrics_file import BEFORE, METRICS, read_metrics
from cnnjax.writers.unreadable import UNREADABLE
from cnnjax.writers.writers import Writers

__all__ = ["BEFORE", "METRICS", "UNREADABLE", "Writers", "read_metrics"]
