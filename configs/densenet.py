"""DenseNets; by default DenseNet-BC-40 with growth rate 12 on the embedded digits.

python -m cnnjax.main --config=configs/densenet.py
python -m cnnjax.main --config=configs/densenet.py:cifar10
python -m cnnjax.main --config=configs/densenet.py:cifar10 --config.model.name=densenet40_k12
python -m cnnjax.main --config=configs/densenet.py:svhn
python -m cnnjax.main --config=configs/densenet.py:imagenet --config.model.memory_efficient=True

Networks for small images take any depth and growth rate: --config.model.depth=160
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
  github.com/liuzhuang13/DenseNet (train.lua).
  """
  c.model.name = "densenet_bc100_k12"
  c.data.source, c.data.name = "tfds", "cifar10"
  c.batch_size = 64  # section 4.2, as all that follows
  c.epochs = 300
  c.augment = "pad_crop(4) | flip"  # section 4.1
  c.optim.learning_rate = 0.1
  c.optim.momentum = 0.9
  c.optim.nesterov = True
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""  # train.lua: model:getParameters()
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.boundaries = (150, 225)


def cifar100(c):
  cifar10(c)
  c.data.name = "cifar100"


def cifar10_plain(c):
  """Without augmentation, therefore with dropout (section 4.2): the column C10 of table 2."""
  cifar10(c)
  c.model.dropout = 0.2  # after each convolution but the first
  c.augment = None


def svhn(c):
  """All of SVHN for 40 epochs, no augmentation: sections 4.1 and 4.2 of the paper.

  Difference: the paper holds out 6,000 images and tests the epoch that is best on them. Set
  --config.data.validation=6000 and evaluate the best checkpoint for that.
  """
  cifar10_plain(c)
  c.data.name = "svhn_cropped"
  c.data.train = "train+extra"
  c.data.mean, c.data.std = (0.0,) * 3, (1.0,) * 3  # section 4.1: divided by 255
  c.epochs = 40
  c.optim.schedule.boundaries = (20, 30)  # 50 % and 75 %


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
  c.batch_size = 256  # section 4.2
  c.epochs = 90
  c.augment = "flip | color_jitter(0.4, 0.4, 0.4)"
  c.optim.schedule.boundaries = (30, 60)


def get_config(preset: str = "digits"):
  presets = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar10_plain": cifar10_plain,
    "svhn": svhn,
    "imagenet": imagenet,
  }
  return pick(preset, presets, default())
