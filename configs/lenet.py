"""LeNet-5 (LeCun et al. 1998), the modern form.

The published network is --config.model.name=lenet5_1998; its outputs are squared distances, and it
needs a lower rate: --config.optim.learning_rate=1e-3.

python -m cnnjax.main --config=configs/lenet.py:mnist --workdir=runs/lenet
"""

from cnnjax.config import default, pick


def digits(c):
  c.data.image_size = 32
  c.epochs = 30


def mnist(c):
  c.data.source, c.data.name = "tfds", "mnist"
  c.augment = "pad_crop(2)"


def fashion_mnist(c):
  c.data.source, c.data.name = "tfds", "fashion_mnist"
  c.augment = "flip"


def cifar10(c):
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 30
  c.augment = "pad_crop(4) | flip"


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "lenet5"
  config.epochs = 15
  config.optim.name = "adam"
  config.optim.learning_rate = 2e-3
  presets = {"digits": digits, "mnist": mnist, "fashion_mnist": fashion_mnist, "cifar10": cifar10}
  return pick(preset, presets, config)
