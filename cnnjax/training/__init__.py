"""The parts of a training run: state, step, runs side by side, health, resuming.

This room imports augment, checkpoints, config, data, models, optim, registry, runtime and tasks,
and no command.
"""
