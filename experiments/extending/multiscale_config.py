"""Presets of multiscale.py on the embedded digits: all of it trained, or its backbone frozen."""

from cnnjax.config import default, pick


def whole(c):
  c.optim.learning_rate = 0.1


def frozen(c):
  # Kernels, norms and batch statistics of the backbone stay as they are drawn: the head alone
  # learns. With weights to start from, this is a linear probe of two scales.
  c.optim.freeze = ("^net/",)


def get_config(preset: str = "whole"):
  config = default()
  config.imports = ("experiments.extending.multiscale",)
  config.model.name = "two_scales"
  config.batch_size = 64
  config.epochs = 10
  config.augment = "pad_crop(1)"
  config.optim.nesterov = True
  config.optim.weight_decay = 5e-4
  config.optim.schedule.warmup = 1
  return pick(preset, {"whole": whole, "frozen": frozen}, config)
