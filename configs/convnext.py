"""ConvNeXt and ConvNeXt V2. Default: a narrow V2 of three stages on the embedded digits.

python -m cnnjax.main --config=configs/convnext.py
python -m cnnjax.main --config=configs/convnext.py:cifar10
python -m cnnjax.main --config=configs/convnext.py:imagenet --config.model.name=convnext_small
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.update(stage_sizes=(1, 1, 2), features=(32, 64, 128), small_images=True)
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 30
  c.augment = "pad_crop(2)"
  c.optim.learning_rate = 2e-3
  c.optim.schedule.warmup = 2


def cifar10(c):
  """The recipe below with the epochs and the augmentation that are usual on CIFAR; not tuned."""
  c.model.update(small_images=True, drop_path=0.1)
  c.data.source, c.data.name = "tfds", "cifar10"
  c.batch_size = 256
  c.epochs = 200
  c.augment = "pad_crop(4) | flip | mixup(0.8) | cutmix(1.0)"
  c.optim.learning_rate = 1e-3
  c.optim.schedule.warmup = 10


def imagenet(c):
  """arXiv:2201.03545 table 5: 300 epochs of 4096, AdamW at 4e-3, 20 epochs of warm-up, cosine.

  Differences: no RandAugment and no random erasing, pad-crop in place of random-resized crops, no
  average of the weights; mixup and CutMix in every step, where the paper draws one of them. Rates
  are for batches of 4096: with n, learning_rate = n / 4096 * 4e-3. drop_path is that of the
  variant. The data set has to fit the device (data.max_gib), as with configs/resnet.py:imagenet.
  """
  c.model.name = "convnext_tiny"
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 4096
  c.epochs = 300
  c.augment = "pad_crop(28) | flip | mixup(0.8) | cutmix(1.0)"
  c.optim.learning_rate = 4e-3
  c.optim.schedule.warmup = 20


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "convnextv2_atto"
  config.task.label_smoothing = 0.1
  config.optim.name = "adamw"
  config.optim.weight_decay = 0.05
  return pick(preset, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}, config)
