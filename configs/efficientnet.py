"""EfficientNets; by default a narrow, shallow B0 on the embedded digits, minutes on two cores.

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
  c.model.norm_momentum = 0.9  # 0.99 averages too long for epochs of 22 steps
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

  EfficientNetB0 there also has a stem of stride 1, but keeps the stride of the second stage and has
  no last 1x1 convolution.
  """
  c.model.small_images = True
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def photos(c):
  """ImageNet in crops of 224 pixels, tested on the centre of 256.

  Other variants need their own size: --config.data.image_size=240 for B1.
  """
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.augment = "flip"


def imagenet(c):
  """The paper's recipe, arXiv:1905.11946 section 5.2: RMSProp, rate times 0.97 every 2.4 epochs.

  What the paper leaves out is from the authors' github.com/tensorflow/tpu,
  models/official/efficientnet, main.py and utils.py; dropout and drop_path are those of the
  variant. Differences: AutoAugment has torchvision's policy, theirs is v0; they normalise in groups
  of 8 cores; the paper holds out 25,000 images and stops early.
  """
  photos(c)
  c.data.interpolation = "bicubic"
  c.dtype = "bfloat16"  # use_bfloat16
  c.batch_size = 2048  # train_batch_size
  c.epochs = 350  # train_steps
  c.augment = "flip | auto_augment('imagenet', fill=0.5)"
  c.task.label_smoothing = 0.1
  c.optim.name = "rmsprop_tf"
  c.optim.learning_rate, c.optim.scale_from = 0.016, 256  # base_learning_rate; 0.256 for 4096
  c.optim.decay = 0.9
  c.optim.momentum = 0.9
  c.optim.eps = 1e-3  # build_optimizer
  c.optim.weight_decay = 1e-5
  c.optim.weight_decay_mask = "^(?!.*norm/)"  # all but batch_normalization
  c.optim.schedule.name = "step"
  c.optim.schedule.warmup = 5  # lr_warmup_epochs
  c.optim.schedule.factor = 0.97
  c.optim.schedule.period = 2.4
  c.average.ema = 0.9999  # moving_average_decay, with num_updates


def imagenet_timm(c):
  """EfficientNet-B0 with RandAugment by timm: hfdocs/source/training_script.mdx; 77.7 %.

  Differences: RandAugment has torchvision's operations, at strengths without noise (mstd) and
  resampled bilinearly; erased pixels become uniform noise, there normal; crops are resized
  bicubically, there bilinearly or bicubically.
  """
  photos(c)
  c.model.update(dropout=0.2, drop_path=0.2)  # drop, drop-path
  c.model.update(padding="symmetric", norm_momentum=0.9, norm_epsilon=1e-5)  # not a tf_ model
  c.data.interpolation = "bicubic"
  c.batch_size = 768  # 2 GPUs of 384
  c.epochs = 450
  rand_augment = "rand_augment(1, 9, 11, 'bilinear', 0.45, p=0.5)"  # aa rand-m9, of two operations
  c.augment = (
    f"flip | {rand_augment} | {rand_augment} | random_erasing(0.2, fill='noise')"  # reprob
  )
  c.task.label_smoothing = 0.1  # train.py, by default
  c.optim.name = "rmsprop_tf"
  c.optim.learning_rate = 0.048  # lr
  c.optim.decay = 0.9  # alpha in timm/optim, for rmsproptf
  c.optim.momentum = 0.9  # train.py, by default
  c.optim.eps = 1e-3  # opt-eps
  c.optim.weight_decay = 1e-5
  c.optim.schedule.name = "step"
  c.optim.schedule.warmup = 3  # train.py of that time, by default (unverified)
  c.optim.schedule.warmup_factor = 1e-6 / 0.048  # warmup-lr
  c.optim.schedule.period = 2.4  # decay-epochs
  c.optim.schedule.factor = 0.97  # decay-rate
  c.average.ema = 0.9999  # model-ema-decay
  c.average.ema_warmup = False


def imagenet_pycls(c):
  """The plain recipe of facebookresearch/pycls (MODEL_ZOO.md, arXiv:2003.13678 figure 22).

  configs/dds_baselines/effnet/EN-B0_dds_8gpu.yaml: SGD, 100 epochs of 256, half a
  cosine from 0.4, 5 epochs of warm-up, weight decay 1e-5, neither dropout nor stochastic depth;
  24.9 % error for B0. Difference: pycls also shifts colours by their principal components.
  """
  photos(c)
  c.model.dropout = 0.0
  c.model.drop_path = 0.0
  c.batch_size = 256
  c.epochs = 100
  c.optim.learning_rate = 0.4
  c.optim.weight_decay = 1e-5
  c.optim.weight_decay_mask = ""
  c.optim.schedule.warmup = 5


def imagenet_v2(c):
  """EfficientNetV2-S with progressive learning, arXiv:2104.00298 section 4.

  As in the authors' github.com/google/automl, efficientnetv2 (effnetv2_configs.py, hparams.py): 350
  epochs with larger images in each quarter, crops from 5 % of the area, RandAugment 2 x 10, label
  smoothing, the optimizer of `imagenet`; tested on 384 pixels. Differences: RandAugment has
  torchvision's operations and strengths and stays at 10, where theirs grows from 5 to 10; they
  squeeze test images into the square, here it is cut from the centre.
  """
  imagenet(c)
  c.model.update(name="efficientnetv2_s", dropout=0.2, drop_path=0.2)  # efficientnetv2_params
  c.data.progressive = (171, 214, 257)
  c.data.image_size = 300
  c.data.eval_size = 384
  c.data.crop_scale = (0.05, 1.0)
  c.data.eval_crop = 1.0
  c.data.interpolation = "bilinear"
  c.data.mean = (0.5, 0.5, 0.5)
  c.data.std = (0.5, 0.5, 0.5)
  c.batch_size = 4096  # base_config.train
  c.augment = "flip | rand_augment(2, 10, 11, fill=0.5)"
  c.optim.weight_decay_mask = "kernel$"  # weight_decay_exclude


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "efficientnet_b0"
  presets = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet": imagenet,
    "imagenet_timm": imagenet_timm,
    "imagenet_pycls": imagenet_pycls,
    "imagenet_v2": imagenet_v2,
  }
  return pick(preset, presets, config)
