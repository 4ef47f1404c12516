"""Measures the health of a run: norms, dead units, where NaN began, and warnings in words.

found = health.totals(params, grads, updates)            # in the training step, always
found |= health.by_layer(params, grads, updates)         # now and then
found = health.dead_units(model, variables, images, key)
text = health.trace(model, loss_fn, variables, images, targets, key, update_fn, opt_state)
watch = health.Watch(total_steps, monitor, better)
warnings = watch.see(line)                               # each line of metrics.jsonl
"""

from cnnjax.training.health.nonfinite import trace as trace
from cnnjax.training.health.norms import by_layer as by_layer
from cnnjax.training.health.norms import totals as totals
from cnnjax.training.health.units import counted as counted
from cnnjax.training.health.units import dead_units as dead_units
from cnnjax.training.health.watch import Watch as Watch
from cnnjax.training.health.watch import Watches as Watches
