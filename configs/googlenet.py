"""GoogLeNet and BN-Inception; by default GoogLeNet on the 8x8 digits, minutes on two CPU cores.

python -m cnnjax.main --config=configs/googlenet.py
python -m cnnjax.main --config=configs/googlenet.py:cifar10
python -m cnnjax.main --config=configs/googlenet.py:imagenet --config.model.name=bn_inception
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.small_images = True
  c.model.width = 0.25
  c.batch_size = 64
  c.epochs = 15
  c.augment = "pad_crop(1)"
  c.optim.name = "adam"
  c.optim.learning_rate = 1e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """github.com/kuangliu/pytorch-cifar: rate 0.1, cosine over 200 epochs, no dropout.

  GoogLeNet there has two 3x3 instead of the 5x5, and a bias beside each batch norm.
  """
  c.model.small_images = True
  c.model.conv5x5 = "3x3,3x3"
  c.model.dropout = 0.0
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def imagenet(c):
  """arXiv:1409.4842 section 6: momentum 0.9, the rate times 0.96 every 8 epochs, auxiliary heads.

  Crops have 8 % to 100 % of the area and ratios of 3/4 to 4/3, as in the paper. The rest is from
  Caffe's bvlc_googlenet: batches of 32 at 0.01, weight decay 2e-4 on kernels, 250 epochs, tested on
  the central 224 of 256 pixels. The paper averages the weights (Polyak) but does not say how; the
  average here is that of Google's Inception-v3. Not here: photometric distortions, random
  interpolations and asynchronous workers.
  """
  c.model.name = "googlenet_2014"
  c.model.aux_logits = True  # section 5, with the default weight of 0.3
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 32
  c.epochs = 250
  c.augment = "flip"
  c.optim.learning_rate = 0.01
  c.optim.weight_decay = 2e-4
  c.optim.schedule.name = "step"
  c.optim.schedule.factor = 0.96  # section 6
  c.optim.schedule.period = 8  # section 6
  c.average.ema = 0.9999  # configs/inception.py


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "googlenet"
  presets = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}
  return pick(preset, presets, config)
