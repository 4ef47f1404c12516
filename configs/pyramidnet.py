"""PyramidNets; by default six blocks of 16 to 64 features on the embedded digits.

python -m cnnjax.main --config=configs/pyramidnet.py
python -m cnnjax.main --config=configs/pyramidnet.py:cifar10
python -m cnnjax.main --config=configs/pyramidnet.py:cifar100 \
    --config.model.name=pyramidnet272_a200_bn
python -m cnnjax.main --config=configs/pyramidnet.py:cutmix_cifar100

Depth and alpha are free: --config.model.stage_sizes="(18,18,18)" --config.model.alpha=120.
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.name = "pyramidnet110_a48"
  c.model.stage_sizes = (2, 2, 2)
  c.batch_size = 64
  c.epochs = 20
  c.augment = "pad_crop(1)"
  c.task.label_smoothing = 0.1
  c.optim.nesterov = True
  c.optim.weight_decay = 5e-4
  c.optim.schedule.warmup = 1


def cifar10(c):
  """Han et al. 2016 (arXiv:1610.02915): 300 epochs of 128, rate 0.1, / 10 at 150 and 225.

  As in the authors' github.com/jhkim89/PyramidNet: Nesterov momentum and weight decay 1e-4 on every
  parameter. The rate is 0.5 on CIFAR-100.
  """
  c.model.name = "pyramidnet110_a84"
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 300
  c.augment = "pad_crop(4) | flip"
  c.optim.nesterov = True
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.boundaries = (150, 225)


def cifar100(c):
  cifar10(c)
  c.data.name = "cifar100"
  c.optim.learning_rate = 0.5


def cutmix_cifar100(c):
  """CutMix, arXiv:1905.04899: README and train.py of github.com/clovaai/CutMix-PyTorch.

  Difference: the README's error is that of the best epoch on the test split.
  """
  cifar100(c)
  c.model.name = "pyramidnet200_a240_bn"  # --depth 200 --alpha 240
  c.batch_size = 64  # README, and so all that follows
  c.augment = "pad_crop(4) | flip | cutmix(1.0, p=0.5)"  # beta 1, cutmix_prob 0.5
  c.optim.learning_rate = 0.25


def imagenet(c):
  """The authors' github.com/dyhan0920/PyramidNet-PyTorch: 100 epochs of 128.

  Rate 0.05, / 10 every 30 epochs. The README gives this for PyramidNet-200, with the augmentation
  of fb.resnet.torch; it does not say how the published PyramidNet-101, which is here, was trained.
  Differences: crops are resized bilinearly, as in torchvision; colours are not shifted by their
  principal components.
  """
  cifar10(c)
  c.model.name = "pyramidnet101_a360"
  c.data.name = "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.epochs = 100
  c.augment = "flip | color_jitter(0.4, 0.4, 0.4)"
  c.optim.learning_rate = 0.05
  c.optim.schedule.boundaries = (30, 60, 90)


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "pyramidnet110_a84"
  presets = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cutmix_cifar100": cutmix_cifar100,
    "imagenet": imagenet,
  }
  return pick(preset, presets, config)
