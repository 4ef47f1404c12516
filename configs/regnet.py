"""RegNets; by default RegNetX-200MF on the embedded digits, minutes on two CPU cores.

python -m cnnjax.main --config=configs/regnet.py
python -m cnnjax.main --config=configs/regnet.py:cifar10
python -m cnnjax.main --config=configs/regnet.py:imagenet --config.model.name=regnety_004
"""

from cnnjax.config import default, pick


def digits(c):
  # Chosen on a validation split; SGD at the default rate learns little of the digits.
  c.model.small_images = True
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 25
  c.augment = "pad_crop(2)"
  c.optim.name = "adam"
  c.optim.learning_rate = 2e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """The recipe of github.com/kuangliu/pytorch-cifar: rate 0.1, cosine over 200 epochs.

  RegNetX_200MF there has a stem of 64 features and one stride less: its last map is 8x8, not 4x4.
  """
  c.model.small_images = True
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def imagenet(c):
  """The authors' recipe, arXiv:2003.13678 appendix C and MODEL_ZOO.md of facebookresearch/pycls.

  SGD, 100 epochs, half a cosine from 0.1 per 128 images, 5 epochs of warm-up, weight decay 5e-5.
  Batches of 1024 up to 1.6GF, 512 up to 16GF, 256 for 32GF. Reported top-1 errors: X-200MF 31.1 %,
  X-400MF 27.3 %, Y-400MF 25.9 %, Y-1.6GF 22.0 %.

  Difference: they also shift colours by their principal components.
  """
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 1024
  c.epochs = 100
  c.augment = "flip"
  c.optim.learning_rate = 0.8
  c.optim.weight_decay = 5e-5
  c.optim.weight_decay_mask = ""
  c.optim.schedule.warmup = 5


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "regnetx_002"
  return pick(preset, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}, config)
