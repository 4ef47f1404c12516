"""ConvMixers; by default a narrow one with patches of one pixel on the embedded digits.

python -m cnnjax.main --config=configs/convmixer.py
python -m cnnjax.main --config=configs/convmixer.py:cifar10
python -m cnnjax.main --config=configs/convmixer.py:imagenet --config.model.name=convmixer_1536_20
"""

from cnnjax.config import default, pick

# Applied twice it is timm's rand-m9-mstd0.5-inc1; see configs/convnext.py.
RAND_AUGMENT = "rand_augment(1, 9, 11, 'bilinear', 0.45, p=0.5)"


def digits(c):
  c.model.features = 64
  c.model.depth = 4
  c.model.patch_size = 1
  c.model.kernel_size = 3
  c.batch_size = 64
  c.epochs = 20
  c.augment = "pad_crop(1)"
  c.optim.name = "adamw"
  c.optim.learning_rate = 0.01
  c.optim.weight_decay = 0.01
  c.optim.schedule.warmup = 1


def cifar10(c):
  """The authors' github.com/locuslab/convmixer-cifar10: 25 epochs of 512, AdamW, rate 0.05.

  The first command of its README, 92.6 %.
  """
  c.data.source, c.data.name = "tfds", "cifar10"
  c.batch_size = 512
  c.epochs = 25
  c.augment = "flip | rand_augment(2, 12)"
  c.optim.name = "adamw"
  c.optim.learning_rate = 0.05
  c.optim.weight_decay = 0.005
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "piecewise"
  c.optim.schedule.points = ((0, 0.0), (10, 1.0), (20, 0.05), (25, 0.0))  # lr_schedule in train.py


def imagenet(c):
  """The authors' github.com/locuslab/convmixer: 300 epochs of 640, AdamW, rate 0.01.

  convmixer_1536_20 trains for 150 epochs. Weight decay 2e-5 and label smoothing 0.1 are the
  defaults of their script, a copy of timm's. Differences: a cosine instead of one-cycle, which they
  call not critical; crops are always resized bicubically, where timm draws bilinear or bicubic;
  RandAugment as in configs/convnext.py.
  """
  c.model.name = "convmixer_768_32"
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.interpolation = "bicubic"
  c.data.eval_crop = 0.96  # timm/models/convmixer.py
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 640
  c.epochs = 300
  c.augment = (
    f"flip | {RAND_AUGMENT} | {RAND_AUGMENT} | random_erasing(0.25, fill='noise')"
    " | choice(mixup(0.5), cutmix(0.5))"
  )
  c.task.label_smoothing = 0.1
  c.optim.name = "adamw"
  c.optim.learning_rate = 0.01
  c.optim.eps = 1e-3
  c.optim.weight_decay = 2e-5
  c.optim.clip_norm = 1.0


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "convmixer_256_8"
  return pick(preset, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}, config)
