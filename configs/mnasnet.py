"""MnasNets; by default a narrow one on the embedded digits, minutes on two CPU cores.

python -m cnnjax.main --config=configs/mnasnet.py
python -m cnnjax.main --config=configs/mnasnet.py:cifar10 --config.model.name=semnasnet_100
python -m cnnjax.main --config=configs/mnasnet.py:imagenet
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.name = "mnasnet_050"
  c.model.small_images = True
  c.model.norm_momentum = 0.9  # 900 steps are few for averages over 100
  c.data.image_size = 16
  c.batch_size = 64
  c.epochs = 40
  c.augment = "pad_crop(2)"
  c.optim.name = "adam"
  c.optim.learning_rate = 3e-3
  c.optim.schedule.warmup = 1


def cifar10(c):
  """The recipe of github.com/kuangliu/pytorch-cifar, which lacks this network."""
  c.model.name = "mnasnet_100"
  c.model.small_images = True
  c.model.dropout = 0.0
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def imagenet(c):
  """github.com/1e100/mnasnet_trainer, the recipe that torchvision names: SGD, cosine, 330 epochs.

  This is mnasnet_100, with 740 images per step; mnasnet_050 has 1000, rate 1.0, no weight decay and
  300 epochs. torchvision trained its weights of both with earlier versions of the recipe
  (mnasnet_100: 200 epochs, pull request 829), and its other widths with another recipe. The paper
  (section 5) has RMSProp and 4096 images per step.
  """
  c.model.name = "mnasnet_100"
  c.model.norm_momentum = 0.9997  # as in torchvision
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 740
  c.epochs = 330
  c.augment = "flip"
  c.optim.learning_rate = 0.5
  c.optim.nesterov = True
  c.optim.weight_decay = 1e-5
  c.optim.weight_decay_mask = ""
  c.optim.schedule.warmup = 5
  c.optim.schedule.warmup_factor = 0.1


def get_config(preset: str = "digits"):
  config = default()
  presets = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}
  return pick(preset, presets, config)
