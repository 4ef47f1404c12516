"""How a run is doing: norms, dead units, where NaN began, and warnings in words.

found = health.totals(params, grads, updates)            # in the training step, always
found |= health.by_layer(params, grads, updates)         # now and then
found = health.dead_units(model, variables, images, rngs)
text = health.trace(model, loss_fn, variables, images, targets, rngs, update_fn, opt_state)
watch = health.Watch(total_steps, monitor, better)
warnings = watch.see(line)                               # each line of metrics.jsonl
"""

from cnnjax.health.nonfinite import trace as trace
from cnnjax.health.norms import by_layer as by_layer
from cnnjax.health.norms import totals as totals
from cnnjax.health.units import counted as counted
from cnnjax.health.units import dead_units as dead_units
from cnnjax.health.watch import Watch as Watch
from cnnjax.health.watch import Watches as Watches
