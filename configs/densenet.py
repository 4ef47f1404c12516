"""DenseNets. Default: DenseNet-BC-40 with growth rate 12 on the embedded digits.

python -m cnnjax.main --config=configs/densenet.py
python -m cnnjax.main --config=configs/densenet.py:cifar10
python -m cnnjax.main --config=configs/densenet.py:cifar10 --config.model.name=densenet40_k12
python -m cnnjax.main --config=configs/densenet.py:imagenet --config.model.memory_efficient=True

The first three with any depth and growth rate: --config.model.depth=160
--config.model.growth_rate=24.
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.name = "densenet_bc40_k36"
  c.model.growth_rate = 12
  c.batch_size = 64
  c.epochs = 20
  c.augment = "pad_crop(1)"
  c.optim.nesterov = True
  c.optim.weight_decay = 5e-4
  c.optim.schedule.warmup = 1


def cifar10(c):
  """Section 4.2 of the paper: 300 epochs of 64, rate 0.1, / 10 at 50 % and 75 %.

  SGD with Nesterov momentum, weight decay 1e-4 on every parameter, as in the authors'
  github.com/liuzhuang13/DenseNet (train.lua). Without augmentation the paper has dropout 0.2:
  --config.augment=None --config.model.dropout=0.2.
  """
  c.model.name = "densenet_bc100_k12"
  c.data.source, c.data.name = "tfds", "cifar10"
  c.batch_size = 64
  c.epochs = 300
  c.augment = "pad_crop(4) | flip"
  c.optim.nesterov = True
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "step"
  c.optim.schedule.boundaries = (150, 225)


def cifar100(c):
  cifar10(c)
  c.data.name = "cifar100"


def imagenet(c):
  """Section 4.2 of the paper: 90 epochs of 256, rate 0.1, / 10 at 30 and 60; the rest as on CIFAR.

  Crops, colour jitter and evaluation are those of fb.resnet.torch, which the authors trained with
  (datasets/imagenet.lua). Difference: colours are not shifted by their principal components.
  """
  cifar10(c)
  c.model.name = "densenet121"
  c.data.name = "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.interpolation = "bicubic"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 256
  c.epochs = 90
  c.augment = "flip | color_jitter(0.4, 0.4, 0.4)"
  c.optim.schedule.boundaries = (30, 60)


def get_config(preset: str = "digits"):
  presets = {"digits": digits, "cifar10": cifar10, "cifar100": cifar100, "imagenet": imagenet}
  return pick(preset, presets, default())
