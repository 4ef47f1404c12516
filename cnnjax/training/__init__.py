"""The parts of a training run: state, step, runs side by side, health, resuming.

This room imports data, models, tasks, optimizers and checkpoints, and no command.
"""
