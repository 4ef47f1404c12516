"""Vision transformers; by default a narrow one with 2x2 patches on the embedded digits.

python -m cnnjax.main --config=configs/vit.py
python -m cnnjax.main --config=configs/vit.py:cifar10
python -m cnnjax.main --config=configs/vit.py:imagenet --config.model.name=vit_small_patch16_224
"""

from cnnjax.config import default, pick


def digits(c):
  c.model.features = 64
  c.model.heads = 4
  c.model.depth = 4
  c.model.patch_size = 2
  c.batch_size = 64
  c.epochs = 120
  c.augment = "pad_crop(1)"
  c.optim.name = "adamw"
  c.optim.learning_rate = 2e-3
  c.optim.weight_decay = 0.05
  c.optim.schedule.warmup = 5


def cifar10(c):
  """A baseline from scratch with 4x4 patches; no paper's recipe, as papers pre-train ViTs."""
  c.model.patch_size = 4
  c.model.drop_path = 0.1
  c.data.source, c.data.name = "tfds", "cifar10"
  c.batch_size = 256
  c.epochs = 200
  c.augment = "pad_crop(4) | flip | mixup(0.2)"
  c.optim.name = "adamw"
  c.optim.learning_rate = 1e-3
  c.optim.weight_decay = 0.05
  c.optim.schedule.warmup = 10


def imagenet(c):
  """ImageNet from scratch as in table 3 of the paper: 300 epochs of 4096, Adam, rate 3e-3.

  Weight decay 0.3 (decoupled), dropout 0.1, 10,000 steps of warm-up, a cosine, clipping at norm 1.
  Crops as in the authors' github.com/google-research/vision_transformer (input_pipeline.py),
  evaluation as in their google-research/big_vision (configs/vit_i1k.py).
  """
  c.model.name = "vit_base_patch16_224"
  c.model.dropout = 0.1
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.crop_scale = (0.05, 1.0)
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.5, 0.5, 0.5)
  c.data.std = (0.5, 0.5, 0.5)
  c.batch_size = 4096
  c.epochs = 300
  c.augment = "flip"
  c.optim.name = "adamw"
  c.optim.learning_rate = 3e-3
  c.optim.weight_decay = 0.3
  c.optim.clip_norm = 1.0
  c.optim.schedule.warmup = "10000 steps"


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "vit_tiny_patch16_224"
  return pick(preset, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet}, config)
