"""AlexNet; by default a narrow one on the embedded digits, a minute on two CPU cores.

python -m cnnjax.main --config=configs/alexnet.py
python -m cnnjax.main --config=configs/alexnet.py:cifar10
python -m cnnjax.main --config=configs/alexnet.py:imagenet
python -m cnnjax.main --config=configs/alexnet.py:imagenet_2012
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.small_images = True
  c.model.features = (32, 96, 192, 128, 128)
  c.model.dropout = 0.2
  c.data.image_size = 32
  c.batch_size = 64
  c.epochs = 30
  c.augment = "pad_crop(4)"
  c.optim.name = "adam"
  c.optim.learning_rate = 1e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """github.com/bearpaw/pytorch-classification: 164 epochs of 128, rate / 10 after 81 and 122.

  The AlexNet there has no dropout. Here the rate starts at 0.01, as there is no batch norm; the
  script there has 0.1 for all networks.
  """
  c.model.small_images = True
  c.model.dropout = 0.0
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 164
  c.augment = "pad_crop(4) | flip"
  c.optim.learning_rate = 0.01
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.boundaries = (81, 122)


def imagenet(c):
  """The recipe of torchvision's weights: 90 epochs of 256 at 0.01, rate / 10 at 30 and 60.

  From github.com/pytorch/examples, imagenet, with --lr 0.01.
  """
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
  c.optim.learning_rate = 0.01
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.boundaries = (30, 60)


def imagenet_2012(c):
  """Krizhevsky et al. 2012, section 5: batches of 128, weight decay 5e-4, about 90 epochs.

  The rate starts at 0.01. The paper divided it by 10 three times by hand; the steps here are those
  of Caffe's bvlc_alexnet (every 20 epochs). Crops are squares of 227/256 of the short side of a 4:3
  photo, anywhere in the photo; in the paper, anywhere in its central square. Evaluation takes one
  crop; the mean over ten of section 4.1 is --config.eval_views="ten_crop(0.887)"
  --config.data.eval_crop=1.0. The paper's mean image and colour augmentation (PCA) are not here;
  for the rest see `imagenet`.
  """
  imagenet(c)
  c.model.name = "alexnet_2012"
  c.data.image_size = 227
  c.data.crop_scale = (0.59, 0.59)  # (227 / 256)^2 * 3 / 4
  c.data.crop_ratio = (1.0, 1.0)
  c.data.eval_crop = 227 / 256
  c.batch_size = 128
  c.optim.weight_decay = 5e-4
  c.optim.schedule.boundaries = (20, 40, 60)


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "alexnet"
  presets = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet": imagenet,
    "imagenet_2012": imagenet_2012,
  }
  return pick(preset, presets, config)
