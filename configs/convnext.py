"""ConvNeXt and ConvNeXt V2; by default a narrow V2 of three stages on the embedded digits.

python -m cnnjax.main --config=configs/convnext.py
python -m cnnjax.main --config=configs/convnext.py:cifar10
python -m cnnjax.main --config=configs/convnext.py:imagenet --config.model.name=convnext_small
"""

from cnnjax.config import default, pick

# Applied twice it is timm's rand-m9-mstd0.5-inc1: two operations, each with probability 0.5, at
# strength 9 of 10. Pixels from outside the image get the mean colour of the data, here its grey.
RAND_AUGMENT = "rand_augment(1, 9, 11, 'bilinear', 0.45, p=0.5)"


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
  c.augment = "pad_crop(4) | flip | choice(mixup(0.8), cutmix(1.0))"
  c.optim.learning_rate = 1e-3
  c.optim.schedule.warmup = 10


def imagenet(c):
  """arXiv:2201.03545 table 5: 300 epochs of 4096, AdamW at 4e-3, 20 epochs of warm-up, cosine.

  Crops and evaluation as in the authors' github.com/facebookresearch/ConvNeXt, datasets.py; the
  rest is from TRAINING.md and main.py there. drop_path is that of the variant. Differences:
  RandAugment has torchvision's operations, at strengths without noise (mstd) and resampled
  bilinearly; erased pixels become uniform noise, theirs is normal.
  """
  c.model.name = "convnext_tiny"
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.interpolation = "bicubic"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.batch_size = 4096
  c.epochs = 300
  c.augment = (
    f"flip | {RAND_AUGMENT} | {RAND_AUGMENT} | random_erasing(0.25, fill='noise')"
    " | choice(mixup(0.8), cutmix(1.0))"
  )
  c.optim.learning_rate, c.optim.scale_from = 4e-3, 4096  # lr, "with total batch size 4096"
  c.optim.schedule.warmup = 20
  c.optim.schedule.end_factor = 1e-6 / 4e-3  # min_lr
  c.average.ema = 0.9999  # model_ema_decay, of timm's ModelEma
  c.average.ema_warmup = False


def finetune_384(c):
  """ConvNeXt-B at 384 pixels: TRAINING.md, "Finetune from ImageNet-1K pre-training"; table 5.

  Everything is here but the weights to start from: no key loads them; in Python cnnjax.transfer
  does. Differences: theirs has 12 groups of blocks as layers, here each of 46 groups of parameters
  is a layer, and layer_decay is the root that gives the stem the same rate; the head does not start
  small (head_init_scale 0.001); they squeeze test images into the square, here it is cut from the
  centre.
  """
  imagenet(c)
  c.model.name = "convnext_base"
  c.model.drop_path = 0.8  # drop_path
  c.data.image_size = 384  # input_size
  c.data.eval_crop = 1.0  # datasets.py: no crop from 384 pixels on
  c.batch_size = 512
  c.epochs = 30
  c.augment = f"flip | {RAND_AUGMENT} | {RAND_AUGMENT} | random_erasing(0.25, fill='noise')"
  c.optim.learning_rate, c.optim.scale_from = 5e-5, 512  # lr, for 512
  c.optim.weight_decay = 1e-8
  c.optim.layer_decay = 0.7 ** (13 / 45)  # layer_decay 0.7 over 13 steps from head to stem
  c.optim.schedule.warmup = 0
  c.optim.schedule.end_factor = 1e-6 / 5e-5
  c.average.ema, c.average.ema_warmup = None, True


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "convnextv2_atto"
  config.task.label_smoothing = 0.1
  config.optim.name = "adamw"
  config.optim.weight_decay = 0.05
  presets = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet": imagenet,
    "finetune_384": finetune_384,
  }
  return pick(preset, presets, config)
