"""ResNets. Default: ResNet-20 on the embedded digits, a minute at most on two CPU cores.

python -m cnnjax.main --config=configs/resnet.py
python -m cnnjax.main --config=configs/resnet.py:cifar10
python -m cnnjax.main --config=configs/resnet.py:imagenet --config.model.name=resnet101

Every variant by its name, --config.model.name=preact_resnet164, wrn_28_10, seresnet20; on ImageNet
resnet50d, seresnet50, cbamresnet50, ecaresnet50. Attention in any of them:
--config.model.attention=cbam_spatial. Very deep ones compile fast with --config.model.scan=True.
"""

from cnnjax.config import default, pick


def digits(c):
  # Chosen on a validation split of the training digits, as the mean of four seeds.
  c.batch_size = 64
  c.epochs = 30
  c.augment = "pad_crop(1)"
  c.task.label_smoothing = 0.1
  c.optim.nesterov = True
  c.optim.weight_decay = 5e-4
  c.optim.schedule.warmup = 1


def mnist(c):
  c.data.source, c.data.name = "tfds", "mnist"
  c.epochs = 10
  c.augment = "pad_crop(2)"
  c.optim.weight_decay = 5e-4
  c.optim.schedule.warmup = 1


def fashion_mnist(c):
  mnist(c)
  c.data.name = "fashion_mnist"
  c.epochs = 30
  c.augment = "pad_crop(2) | flip"


def cifar10(c):
  """He et al. 2015 (arXiv:1512.03385), section 4.2: 64k steps of 128, rate / 10 at 32k and 48k.

  Differences: means and deviations per channel in place of the mean image; trained on all 50,000
  images (the paper chose its settings on 45k/5k: data.validation=5000 does that). Weight decay on
  every parameter, as in the paper's framework. ResNet-110 and deeper: schedule.warmup="400 steps".
  """
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = "64000 steps"
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "step"
  c.optim.schedule.boundaries = ("32000 steps", "48000 steps")


def cifar100(c):
  cifar10(c)
  c.data.name = "cifar100"


def imagenet(c):
  """The reference recipe of torchvision: 90 epochs of 256, rate / 10 at 30 and 60.

  The data set has to fit the device (data.max_gib), so that this is for parts of it, such as
  data.train="train[:5%]", until the streaming pipeline and its random-resized crops are there.
  """
  c.model.name = "resnet50"
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 256
  c.epochs = 90
  c.augment = "pad_crop(28) | flip"
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "step"
  c.optim.schedule.boundaries = (30, 60)


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "resnet20"
  presets = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
  }
  return pick(preset, presets, config)
