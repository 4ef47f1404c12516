"""NFNets; by default a narrow one of three stages on the embedded digits.

python -m cnnjax.main --config=configs/nfnet.py
python -m cnnjax.main --config=configs/nfnet.py:cifar10
python -m cnnjax.main --config=configs/nfnet.py:imagenet --config.model.name=dm_nfnet_f1

All presets but the digits clip gradients adaptively, unit by unit, except in the last layer
(arXiv:2102.06171 section 4). The digits clip the norm of the whole gradient.
"""

from cnnjax.config import default, pick

NARROW = dict(stage_sizes=(1, 1, 2), group_size=16, small_images=True)


def digits(c):
  c.model.update(NARROW, features=(32, 64, 128), dropout=0.0, drop_path=0.0)
  c.batch_size = 64
  c.epochs = 30
  c.augment = "pad_crop(1)"
  c.optim.agc, c.optim.clip_norm = None, 1.0
  c.optim.schedule.warmup = 2


def cifar10(c):
  """The recipe below with the epochs and the augmentation that are usual on CIFAR; not tuned."""
  c.model.update(NARROW, features=(64, 128, 256), dropout=0.2, drop_path=0.1)
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip | mixup(0.2)"
  c.optim.schedule.warmup = 5


def imagenet(c):
  """arXiv:2102.06171 section 6.1 and DeepMind's code: 360 epochs of 4096, SGD, cosine.

  Numbers from github.com/google-deepmind/deepmind-research, nfnets/experiment_nfnets.py. F0 trains
  on 192 pixels and is tested on 256, F1 on 224 and 320 (table 1): data.image_size, data.eval_size.
  RandAugment, applied to mixed images, has magnitude 5 of 10 for F0, 10 for F1 and F2, 15 for
  larger ones. Differences: a batch gets mixup or CutMix, theirs gets each on one half; RandAugment
  has torchvision's operations and strengths; they squeeze test images into the square, here it is
  cut from the centre.
  """
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 192
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.interpolation = "bicubic"
  c.data.eval_size = 256
  c.data.eval_crop = 256 / (256 + 32)  # eval_preproc
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.dtype = "bfloat16"
  c.batch_size = 4096
  c.epochs = 360
  c.augment = (
    "flip | choice(mixup(0.2, 'elem'), cutmix(1.0, 'elem')) | rand_augment(4, 5, 11, fill=0.5)"
  )
  c.optim.learning_rate, c.optim.scale_from = 0.1, 256  # lr, lr_scale_by_bs
  c.optim.schedule.warmup = 5
  c.average.ema = 0.99999  # ema_decay, with TensorFlow's warm-up (tf1_ema)


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "dm_nfnet_f0"
  config.task.label_smoothing = 0.1
  config.optim.learning_rate = 0.1
  config.optim.nesterov = True
  config.optim.agc = 0.01  # section 4.1, for batches of 4096
  config.optim.weight_decay = 2e-5
  return pick(preset, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}, config)
