"""Commands that train nothing: they show and scan data, plot rates, look into weights, plan.

This room imports augment, build, config, data, models, optim, runtime, tasks, trained, training and
transfer. Only commands import it.
"""
