"""What a training run is made of: state, step, several runs at once, health, going on.

It touches data, models, tasks, optimizers and checkpoints, and knows no command.
"""
