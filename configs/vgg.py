"""VGG; by default a narrow VGG-11 with batch norm on the embedded digits, for minutes.

python -m cnnjax.main --config=configs/vgg.py
python -m cnnjax.main --config=configs/vgg.py:cifar10
python -m cnnjax.main --config=configs/vgg.py:imagenet --config.model.name=vgg16_bn
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.name = "vgg11_bn"
  c.model.small_images = True
  c.model.features = 16
  c.model.dropout = 0.0
  c.data.image_size = 32
  c.batch_size = 64
  c.epochs = 15
  c.augment = "pad_crop(4)"
  c.optim.name = "adam"
  c.optim.learning_rate = 2e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """github.com/kuangliu/pytorch-cifar: VGG-16 with batch norm, rate 0.1, cosine over 200 epochs.

  The README reports 92.64 % with an earlier schedule. VGG there has no dropout.
  """
  c.model.name = "vgg16_bn"
  c.model.small_images = True
  c.model.dropout = 0.0
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def imagenet(c):
  """The recipe of torchvision's weights: 90 epochs of 256 at 0.1, rate / 10 at 30 and 60.

  Networks without batch norm need --config.optim.learning_rate=0.01 (pytorch/vision pull request 62
  and references/classification). The paper (section 3.1) has the same batch, the rate 0.01, weight
  decay 5e-4, and 74 epochs; its crops, 224 pixels where the short side has 256 to 512, are about
  data.crop_scale=(0.14, 0.57) and data.crop_ratio=(1.0, 1.0) for 4:3 photos.
  """
  c.model.name = "vgg11_bn"
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
  c.optim.learning_rate = 0.1
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.boundaries = (30, 60)


def get_config(preset: str = "digits"):
  config = default()
  presets = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}
  return pick(preset, presets, config)
