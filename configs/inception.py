"""Inception-v3, v4, Inception-ResNet-v2; by default a narrow v3 on the digits, for minutes.

python -m cnnjax.main --config=configs/inception.py
python -m cnnjax.main --config=configs/inception.py:cifar10
python -m cnnjax.main --config=configs/inception.py:imagenet --config.model.name=inception_v4
"""

from cnnjax.config import default, pick


def digits(c):
  # Chosen on a validation split.
  c.model.small_images = True
  c.model.width = 0.25
  c.model.dropout = 0.0
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 15
  c.augment = "pad_crop(2)"
  c.optim.name = "adam"
  c.optim.learning_rate = 5e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """github.com/weiaicunzai/pytorch-cifar100: 200 epochs, rate times 0.2 at 60, 120, 160.

  The recipe there is for CIFAR-100, with slightly different strides and paddings.
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
  """arXiv:1512.00567 sections 6 to 8, and arXiv:1602.07261 section 4: RMSProp, and its average.

  Weight decay and the weight of the auxiliary head are those of TF-slim. Crops, colours and the
  central 87.5 % for evaluation are those of TF-slim as well (inception_preprocessing.py).
  Differences: the papers have 50 asynchronous workers with batches of 32, which no batch size
  equals; brightness is multiplied here by up to 1 +- 32/255; TF-slim squeezes the centre of an
  image into the square, here it is cut out.
  """
  c.model.aux_logits = True  # section 6
  c.task.aux_weight = 0.4  # TF-slim, train_image_classifier.py
  c.task.label_smoothing = 0.1  # section 7
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 299
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.crop_scale = (0.05, 1.0)
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.5, 0.5, 0.5)
  c.data.std = (0.5, 0.5, 0.5)
  c.batch_size = 256  # tensorflow/models, inception_train.py, on 8 GPUs
  c.epochs = 100  # section 8, and so all of optim without another source
  c.augment = "flip | color_jitter(brightness=0.125, saturation=0.5)"
  c.optim.name = "rmsprop_tf"
  c.optim.learning_rate = 0.045
  c.optim.decay = 0.9
  c.optim.momentum = 0.9  # RMSPROP_MOMENTUM in inception_train.py
  c.optim.eps = 1.0
  c.optim.clip_norm = 2.0
  c.optim.weight_decay = 4e-5  # TF-slim
  c.optim.schedule.name = "step"
  c.optim.schedule.factor = 0.94
  c.optim.schedule.period = 2
  c.average.ema = 0.9999  # MOVING_AVERAGE_DECAY in inception_model.py (unverified)


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "inception_v3"
  presets = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}
  return pick(preset, presets, config)
