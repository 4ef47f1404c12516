"""SqueezeNet; by default SqueezeNet 1.1 on the embedded digits, minutes on two CPU cores.

python -m cnnjax.main --config=configs/squeezenet.py
python -m cnnjax.main --config=configs/squeezenet.py:cifar10
python -m cnnjax.main --config=configs/squeezenet.py:imagenet --config.model.name=squeezenet1_0
"""

from cnnjax.config import default, pick


def digits(c):
  # Chosen on a validation split. At 1e-3, or without dropout, the relu after the last convolution
  # dies for some classes.
  c.model.small_images = True
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 60
  c.augment = "pad_crop(2)"
  c.optim.name = "adam"
  c.optim.learning_rate = 3e-4
  c.optim.schedule.warmup = 6


def cifar10(c):
  """The recipe of `imagenet` with a cosine and warmup, as none is published for this network.

  Common versions for CIFAR, such as that of github.com/weiaicunzai/pytorch-cifar100, have batch
  norm, and rates ten times as high.
  """
  c.model.small_images = True
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.learning_rate = 0.01
  c.optim.weight_decay = 2e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.warmup = 5


def imagenet(c):
  """The recipe of torchvision's weights: 100 epochs of 128 at 0.01, rate / 10 every 30.

  From pytorch/vision pull request 49. The authors (github.com/forresti/SqueezeNet) have batches of
  1024 at 0.08, polynomial decay, and the same weight decay.
  """
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 128
  c.epochs = 100
  c.augment = "flip"
  c.optim.learning_rate = 0.01
  c.optim.weight_decay = 2e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.boundaries = (30, 60, 90)


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "squeezenet1_1"
  presets = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}
  return pick(preset, presets, config)
