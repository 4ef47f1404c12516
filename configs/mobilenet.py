"""MobileNets v1 to v4. Default: a narrow MobileNetV2 on the embedded digits, minutes on two cores.

python -m cnnjax.main --config=configs/mobilenet.py
python -m cnnjax.main --config=configs/mobilenet.py --config.model.name=mobilenetv3_small_050
python -m cnnjax.main --config=configs/mobilenet.py:cifar10
python -m cnnjax.main --config=configs/mobilenet.py:imagenet
python -m cnnjax.main --config=configs/mobilenet.py:imagenet_v3
python -m cnnjax.main --config=configs/mobilenet.py:imagenet_v4
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.name = "mobilenetv2_035"
  c.model.small_images = True
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 40
  c.augment = "pad_crop(2)"
  c.optim.name = "adam"
  c.optim.learning_rate = 3e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """github.com/kuangliu/pytorch-cifar: rate 0.1, cosine over 200 epochs; MobileNetV2 94.43 %.

  It has no dropout.
  """
  c.model.name = "mobilenetv2_100"
  c.model.small_images = True
  c.model.dropout = 0.0
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def imagenet(c):
  """MobileNetV2 by torchvision (references/classification): rate 0.045, times 0.98 an epoch, 300.

  Batches of 256 (8 GPUs with 32).
  """
  c.model.name = "mobilenetv2_100"
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 256
  c.epochs = 300
  c.augment = "flip"
  c.optim.learning_rate = 0.045
  c.optim.weight_decay = 4e-5
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "step"
  c.optim.schedule.boundaries = tuple(range(1, 300))
  c.optim.schedule.factor = 0.98


def imagenet_v3(c):
  """github.com/tensorflow/models, official/vision: AdamW, cosine over 700 epochs; 75.7 %.

  configs/experiments/image_classification/imagenet_mobilenetv3large_tpu.yaml, which has no warmup.
  Difference: the policy of AutoAugment is torchvision's, theirs (v0) is another one. Crops and the
  rest as in `imagenet`.
  """
  imagenet(c)
  c.model.name = "mobilenetv3_large_100"
  c.model.padding = "same"
  c.model.norm_momentum = 0.997
  c.batch_size = 4096
  c.epochs = "218000 steps"
  c.augment = "flip | auto_augment('imagenet', fill=0.5)"
  c.task.label_smoothing = 0.1
  c.optim.name = "adamw"
  c.optim.learning_rate = 0.004
  c.optim.eps = 1e-7
  c.optim.weight_decay = 0.1
  c.optim.weight_decay_mask = "kernel$"
  c.optim.schedule.name = "cosine"


def imagenet_v4(c):
  """github.com/tensorflow/models, official/vision: AdamW, cosine over 500 epochs; 79.9 % at 256.

  configs/experiments/image_classification/imagenet_mobilenetv4_conv_medium_tpu.yaml. Its
  RandAugment does two operations, each with probability 0.7, at a magnitude of 15 out of 10.
  Difference: here it is 10, with torchvision's operations and strengths. The rest as in
  `imagenet_v3`.
  """
  imagenet_v3(c)
  c.model.name = "mobilenetv4_conv_medium"
  c.model.norm_epsilon = 1e-3
  c.data.image_size = 256
  rand_augment = "rand_augment(1, 10, 11, fill=0.5, p=0.7)"
  c.augment = f"flip | {rand_augment} | {rand_augment}"
  c.epochs = "156000 steps"
  c.optim.eps = 1e-7
  c.optim.schedule.warmup = "1560 steps"


def get_config(preset: str = "digits"):
  config = default()
  presets = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet": imagenet,
    "imagenet_v3": imagenet_v3,
    "imagenet_v4": imagenet_v4,
  }
  return pick(preset, presets, config)
