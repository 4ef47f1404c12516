"""EfficientNets. Default: a narrow, shallow B0 on the embedded digits, minutes on two CPU cores.

python -m cnnjax.main --config=configs/efficientnet.py
python -m cnnjax.main --config=configs/efficientnet.py:cifar10
python -m cnnjax.main --config=configs/efficientnet.py:imagenet --config.model.name=efficientnet_b1
python -m cnnjax.main --config=configs/efficientnet.py:imagenet_v2
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.small_images = True
  c.model.width = 0.5
  c.model.depth = 0.5
  c.model.norm_momentum = 0.9  # 0.99 is slow to follow where an epoch has 22 steps
  c.model.drop_path = 0.0
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 20
  c.augment = "pad_crop(2)"
  c.optim.name = "adam"
  c.optim.learning_rate = 3e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """The recipe of github.com/kuangliu/pytorch-cifar: rate 0.1, cosine over 200 epochs.

  Its EfficientNetB0 has the stride-1 stem as here, but keeps the stride of the second stage and has
  no last 1x1 convolution.
  """
  c.model.small_images = True
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def imagenet(c):
  """The plain recipe of facebookresearch/pycls (MODEL_ZOO.md, arXiv:2003.13678 figure 22).

  configs/dds_baselines/effnet/EN-B0_dds_8gpu.yaml: SGD, 100 epochs of 256, half a
  cosine from 0.4, 5 epochs of warm-up, weight decay 1e-5, neither dropout nor stochastic depth;
  24.9 % error for B0. The recipe of the EfficientNet paper (section 5: RMSprop, rate times 0.97
  every 2.4 epochs, AutoAugment; 22.9 %) is not here: the trainer has no RMSprop yet.

  Difference: pycls also shifts colours by their principal components. Another variant takes its own
  size: --config.data.image_size=240 for B1.
  """
  c.model.dropout = 0.0
  c.model.drop_path = 0.0
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 256
  c.epochs = 100
  c.augment = "flip"
  c.optim.learning_rate = 0.4
  c.optim.weight_decay = 1e-5
  c.optim.weight_decay_mask = ""
  c.optim.schedule.warmup = 5


def imagenet_v2(c):
  """EfficientNetV2-S with progressive learning, arXiv:2104.00298 section 4.

  As in the authors' github.com/google/automl, efficientnetv2 (effnetv2_configs.py, main.py): 350
  epochs, of which each quarter has larger images, crops from 5 % of the area, RandAugment 2 x 10,
  label smoothing; tested on 384 pixels. Differences: batches of 256 and the optimizer and schedule
  of `imagenet`, where they have 4096, RMSProp and an average of the weights; RandAugment stays at
  10, which theirs grows to from 5, and has torchvision's operations and strengths; they squeeze a
  test image into the square, which here is cut from its centre.
  """
  imagenet(c)
  c.model.update(name="efficientnetv2_s", dropout=0.2, drop_path=0.2)
  c.data.progressive = (171, 214, 257)
  c.data.image_size = 300
  c.data.eval_size = 384
  c.data.crop_scale = (0.05, 1.0)
  c.data.eval_crop = 1.0
  c.data.mean = (0.5, 0.5, 0.5)
  c.data.std = (0.5, 0.5, 0.5)
  c.epochs = 350
  c.augment = "flip | rand_augment(2, 10, 11, fill=0.5)"
  c.task.label_smoothing = 0.1


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "efficientnet_b0"
  presets = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet": imagenet,
    "imagenet_v2": imagenet_v2,
  }
  return pick(preset, presets, config)
