"""A multilayer perceptron, 784-512-256-10 with dropout 0.5 on MNIST.

python -m cnnjax.main --config=configs/mlp.py:mnist
"""

from cnnjax.config import default, pick


def digits(c):
  c.epochs = 40


def mnist(c):
  c.data.source, c.data.name = "tfds", "mnist"


def fashion_mnist(c):
  c.data.source, c.data.name = "tfds", "fashion_mnist"


def cifar10(c):
  c.data.source, c.data.name = "tfds", "cifar10"
  c.augment = "flip"


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "mlp"
  config.epochs = 20
  config.optim.name = "adam"
  config.optim.learning_rate = 1e-3
  presets = {"digits": digits, "mnist": mnist, "fashion_mnist": fashion_mnist, "cifar10": cifar10}
  return pick(preset, presets, config)
