"""ShuffleNetV2; by default the smallest one on the embedded digits, minutes on two CPU cores.

python -m cnnjax.main --config=configs/shufflenet.py
python -m cnnjax.main --config=configs/shufflenet.py:cifar10
python -m cnnjax.main --config=configs/shufflenet.py:imagenet
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.name = "shufflenet_v2_x0_5"
  c.model.small_images = True
  c.model.head_features = 256
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 40
  c.augment = "pad_crop(2)"
  c.optim.name = "adam"
  c.optim.learning_rate = 3e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """github.com/kuangliu/pytorch-cifar: rate 0.1, cosine over 200 epochs."""
  c.model.name = "shufflenet_v2_x1_0"
  c.model.small_images = True
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def imagenet(c):
  """The authors' recipe, the same as for v1 (section 4): 300k steps of 1024, from a rate of 0.5.

  github.com/megvii-model/ShuffleNet-Series, ShuffleNetV1/train.py: the rate falls linearly; biases
  and norms do not decay. Images there have values from 0 to 255; here they are normalised.
  """
  c.model.name = "shufflenet_v2_x1_0"
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 1024
  c.epochs = "300000 steps"
  c.augment = "flip | color_jitter(0.4, 0.4, 0.4)"
  c.task.label_smoothing = 0.1
  c.optim.learning_rate = 0.5
  c.optim.weight_decay = 4e-5
  c.optim.schedule.name = "linear"


def get_config(preset: str = "digits"):
  config = default()
  presets = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}
  return pick(preset, presets, config)
