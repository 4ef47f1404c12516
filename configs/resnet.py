"""ResNets. Default: ResNet-20 on the embedded digits, a minute at most on two CPU cores.

python -m cnnjax.main --config=configs/resnet.py
python -m cnnjax.main --config=configs/resnet.py:cifar10
python -m cnnjax.main --config=configs/resnet.py:imagenet --config.model.name=resnet101
python -m cnnjax.main --config=configs/resnet.py:folder --config.data.path=PHOTOS

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

  Photos are decoded and cropped while the device trains, those of the validation split as well:
  decoded, they would be 7 GiB. From folders, PATH/train/<class>/ and PATH/val/<class>/:
  --config.data.source=folder --config.data.name=none --config.data.path=PATH.
  """
  c.model.name = "resnet50"
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 256
  c.epochs = 90
  c.augment = "flip"
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "step"
  c.optim.schedule.boundaries = (30, 60)


def folder(c):
  """Photos of your own, hundreds to thousands, from scratch on a laptop: a start, not tuned.

  PATH/<class>/*.jpg, of which a fifth is held out as the test split, or PATH/train/<class>/*.jpg
  beside PATH/test/ or PATH/val/. A few hundred photos want more epochs, small things in them a
  larger data.image_size, and what may not be mirrored, such as text, --config.augment=none.
  """
  c.model.name = "resnet18"
  c.data.source = "folder"
  c.data.image_size = 128
  c.data.crop = "random_resized"
  c.data.crop_scale = (0.25, 1.0)  # 0.08 misses more of the objects, and is for long runs
  c.data.eval_crop = 0.875
  c.batch_size = 32
  c.epochs = 30
  c.augment = "flip"
  c.task.label_smoothing = 0.1
  # On 442 photos of chess pieces, 64 pixels, 15 epochs, the training loss comes to 1.44; by SGD to
  # 1.55 at a rate of 0.005, and at 0.02 it rises to 2.73 first. One run each.
  c.optim.name = "adamw"
  c.optim.learning_rate = 1e-3
  c.optim.weight_decay = 0.05
  c.optim.schedule.warmup = 2


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
    "folder": folder,
  }
  return pick(preset, presets, config)
