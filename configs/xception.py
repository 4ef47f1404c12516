"""Xception; by default a narrow one on the embedded digits, minutes on two CPU cores.

python -m cnnjax.main --config=configs/xception.py
python -m cnnjax.main --config=configs/xception.py:cifar10
python -m cnnjax.main --config=configs/xception.py:imagenet
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.small_images = True
  c.model.width = 0.25
  c.model.middle_blocks = 2
  c.model.dropout = 0.2
  c.model.norm_momentum = 0.9  # 0.99 averages too long for so few steps
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 20
  c.augment = "pad_crop(2)"
  c.optim.name = "adam"
  c.optim.learning_rate = 2e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """github.com/weiaicunzai/pytorch-cifar100: 200 epochs, rate times 0.2 at 60, 120, 160.

  The recipe there is for CIFAR-100.
  """
  c.model.small_images = True
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip | rotate(15, 'nearest')"
  c.optim.nesterov = True
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.warmup = 1
  c.optim.schedule.factor = 0.2
  c.optim.schedule.boundaries = (60, 120, 160)


def imagenet(c):
  """arXiv:1610.02357 sections 4.2 and 4.3: SGD at 0.045, times 0.94 every second epoch.

  Momentum 0.9, weight decay 1e-5, dropout 0.5. The paper gives neither the batch (60 GPUs) nor the
  epochs nor the augmentation. It evaluates averaged weights (Polyak, section 4.2) but does not say
  how; the average here is that of Inception-v3.
  """
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 299
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.5, 0.5, 0.5)
  c.data.std = (0.5, 0.5, 0.5)
  c.batch_size = 256
  c.epochs = 100
  c.augment = "flip"
  c.optim.learning_rate = 0.045
  c.optim.weight_decay = 1e-5
  c.optim.schedule.name = "step"
  c.optim.schedule.factor = 0.94
  c.optim.schedule.period = 2
  c.average.ema = 0.9999  # configs/inception.py


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "xception"
  presets = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}
  return pick(preset, presets, config)
