"""Commands that train nothing: they show and scan data, plot rates, stand in for data.

This room imports augment, build, config, data, models, optim, runtime, tasks, trained and training.
Only commands import it.
"""
