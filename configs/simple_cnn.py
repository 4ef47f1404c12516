"""Two convolutions and a dense layer: 32-64-128 (1.2 M parameters at 28x28); cifar10: 16-32-64.

python -m cnnjax.main --config=configs/simple_cnn.py:mnist
"""

from cnnjax.config import default, pick


def digits(c):
  c.epochs = 20
  c.augment = "pad_crop(1)"


def mnist(c):
  c.data.source, c.data.name = "tfds", "mnist"
  c.augment = "pad_crop(2)"


def fashion_mnist(c):
  c.data.source, c.data.name = "tfds", "fashion_mnist"
  c.epochs = 12
  c.augment = "flip"


def cifar10(c):
  c.model.name = "simple_cnn_small"
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 30
  c.augment = "pad_crop(4) | flip"


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "simple_cnn"
  config.epochs = 10
  config.optim.name = "adam"
  config.optim.learning_rate = 1e-3
  config.optim.schedule.warmup = 0.5
  presets = {"digits": digits, "mnist": mnist, "fashion_mnist": fashion_mnist, "cifar10": cifar10}
  return pick(preset, presets, config)
