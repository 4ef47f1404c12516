"""MobileNets v1 to v4; by default a narrow MobileNetV2 on the embedded digits, for minutes.

python -m cnnjax.main --config=configs/mobilenet.py
python -m cnnjax.main --config=configs/mobilenet.py --config.model.name=mobilenetv3_small_050
python -m cnnjax.main --config=configs/mobilenet.py:cifar10
python -m cnnjax.main --config=configs/mobilenet.py:imagenet
python -m cnnjax.main --config=configs/mobilenet.py:imagenet_v1
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

  Networks there have no dropout.
  """
  c.model.name = "mobilenetv2_100"
  c.model.small_images = True
  c.model.dropout = 0.0
  c.data.source, c.data.name = "tfds", "cifar10"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip"
  c.optim.weight_decay = 5e-4
  c.optim.weight_decay_mask = ""


def photos(c):
  """ImageNet in crops of 224 pixels, tested on the centre of 256."""
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.augment = "flip"


def imagenet(c):
  """MobileNetV2 by torchvision (references/classification, README): 300 epochs on 8 GPUs of 32."""
  photos(c)
  c.model.name = "mobilenetv2_100"
  c.batch_size = 256
  c.epochs = 300
  c.optim.learning_rate = 0.045  # lr
  c.optim.weight_decay = 4e-5  # wd
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "step"
  c.optim.schedule.period = 1  # lr-step-size
  c.optim.schedule.factor = 0.98  # lr-gamma


def imagenet_v1(c):
  """MobileNet, arXiv:1704.04861 section 3.2: "RMSprop [...] similar to Inception V3".

  The paper gives no numbers; these are of Inception-v3 (configs/inception.py) and TF-slim
  (github.com/tensorflow/models, research/slim). No label smoothing, no decay of depthwise kernels,
  no very small crops (section 3.2; the limit is our choice). Differences: one batch per step, there
  asynchronous workers; images are normalised as in `imagenet`, there to +-1.
  """
  photos(c)
  c.model.name = "mobilenetv1_100"
  c.data.crop_scale = (0.35, 1.0)  # ours
  c.batch_size = 256  # ours
  c.epochs = 100  # that of arXiv:1512.00567, section 8
  c.optim.name = "rmsprop_tf"
  c.optim.learning_rate = 0.045  # nets/mobilenet_v1_train.py
  c.optim.decay = 0.9  # rmsprop_decay in train_image_classifier.py, as the two below
  c.optim.momentum = 0.9
  c.optim.eps = 1.0
  c.optim.weight_decay = 4e-5  # nets/mobilenet_v1.py
  c.optim.weight_decay_mask = "^(?!.*depthwise).*kernel$"  # section 3.2
  c.optim.schedule.name = "step"
  c.optim.schedule.period = 2.5  # num_epochs_per_decay in mobilenet_v1_train.py
  c.optim.schedule.factor = 0.94  # _LEARNING_RATE_DECAY_FACTOR


def imagenet_v2(c):
  """MobileNetV2 by its paper, arXiv:1801.04381 section 6.1: RMSProp, 0.98 an epoch.

  What the paper leaves out is from TF-slim, nets/mobilenet/README.md, which reports 72.0 %. The
  paper has 16 asynchronous workers with batches of 96; a step here has one batch of 96. The epochs
  are 700,000 steps on 8 GPUs there. Differences: crops have at least 8 % of the area, in TF-slim
  5 %, and TF-slim changes no colours.
  """
  photos(c)
  c.model.name = "mobilenetv2_100"
  c.batch_size = 96
  c.epochs = 400  # 8 * 96 * 700,000 / 1,281,167 = 420
  c.task.label_smoothing = 0.1  # README
  c.optim.name = "rmsprop_tf"
  c.optim.learning_rate = 0.045
  c.optim.decay = 0.9
  c.optim.momentum = 0.9
  c.optim.eps = 1.0  # opt_epsilon in train_image_classifier.py
  c.optim.weight_decay = 4e-5
  c.optim.schedule.name = "step"
  c.optim.schedule.period = 1
  c.optim.schedule.factor = 0.98
  c.average.ema = 0.9999  # README: moving_average_decay


def imagenet_v3(c):
  """github.com/tensorflow/models, official/vision: AdamW, cosine over 700 epochs; 75.7 %.

  configs/experiments/image_classification/imagenet_mobilenetv3large_tpu.yaml, which has no warmup.
  Difference: AutoAugment has torchvision's policy, theirs is v0. Crops and the rest are as in
  `imagenet`. The paper (arXiv:1905.02244 section 6.1.1) has RMSProp at 0.1 for 4096 images, weight
  decay 1e-5, an average of 0.9999 and "learning rate decay rate of 0.01 every 3 epochs"; see
  `imagenet_v3_timm`.
  """
  photos(c)
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


def imagenet_v3_timm(c):
  """MobileNetV3-Large by timm, hfdocs/source/training_script.mdx: RMSProp as in TensorFlow.

  Differences: the rate has no noise (--lr-noise 0.42 0.9); RandAugment has torchvision's
  operations, at strengths without noise (mstd) and resampled bilinearly; erased pixels become
  uniform noise, there normal; crops are resized bicubically, there bilinearly or bicubically.
  """
  photos(c)
  c.model.name = "mobilenetv3_large_100"
  c.model.update(drop_path=0.2, dropout=0.2)  # drop-path, drop
  c.model.update(norm_momentum=0.9, norm_epsilon=1e-5)  # timm's default
  c.data.interpolation = "bicubic"
  c.batch_size = 1024  # 2 GPUs of 512
  c.epochs = 600
  rand_augment = "rand_augment(1, 9, 11, 'bilinear', 0.45, p=0.5)"  # aa rand-m9, of two operations
  c.augment = (
    f"flip | {rand_augment} | {rand_augment} | random_erasing(0.2, fill='noise')"  # reprob
  )
  c.task.label_smoothing = 0.1  # train.py, by default
  c.optim.name = "rmsprop_tf"
  c.optim.learning_rate = 0.064  # lr
  c.optim.decay = 0.9  # alpha in timm/optim, for rmsproptf
  c.optim.momentum = 0.9  # train.py, by default
  c.optim.eps = 1e-3  # opt-eps
  c.optim.weight_decay = 1e-5
  c.optim.schedule.name = "step"
  c.optim.schedule.warmup = 3  # train.py of that time, by default (unverified)
  c.optim.schedule.warmup_factor = 1e-6 / 0.064  # warmup-lr
  c.optim.schedule.period = 2.4  # decay-epochs
  c.optim.schedule.factor = 0.973  # decay-rate
  c.average.ema = 0.9999  # model-ema-decay
  c.average.ema_warmup = False


def imagenet_v3_torchvision(c):
  """MobileNetV3-Large by torchvision: pytorch.org/blog/ml-models-torchvision-v0.9.

  From configs/mobilenet_v3/mobilenet-v3-large_8xb128_in1k.py of github.com/open-mmlab/mmpretrain
  and copies of the command. Their weights are the mean of the best checkpoints (unverified).
  """
  photos(c)
  c.model.name = "mobilenetv3_large_100"
  c.batch_size = 1024  # 8 GPUs of 128
  c.epochs = 600
  erasing = "random_erasing(0.2, fill=(0.485, 0.456, 0.406))"  # random-erase
  c.augment = f"flip | auto_augment('imagenet', 'bilinear') | {erasing}"  # auto-augment
  c.optim.name = "rmsprop"  # torch's
  c.optim.learning_rate = 0.064  # lr
  c.optim.decay = 0.9  # alpha
  c.optim.momentum = 0.9
  c.optim.eps = 0.0316
  c.optim.weight_decay = 1e-5  # wd
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "step"
  c.optim.schedule.period = 2  # lr-step-size
  c.optim.schedule.factor = 0.973  # lr-gamma


def imagenet_v4(c):
  """github.com/tensorflow/models, official/vision: AdamW, cosine over 500 epochs; 79.9 % at 256.

  configs/experiments/image_classification/imagenet_mobilenetv4_conv_medium_tpu.yaml. Its
  RandAugment has two operations, each with probability 0.7, at magnitude 15 of 10. Difference: here
  the magnitude is 10, with torchvision's operations and strengths. The rest is as in `imagenet_v3`.
  """
  imagenet_v3(c)
  c.model.name = "mobilenetv4_conv_medium"
  c.model.norm_epsilon = 1e-3
  c.data.image_size = 256
  rand_augment = "rand_augment(1, 10, 11, fill=0.5, p=0.7)"
  c.augment = f"flip | {rand_augment} | {rand_augment}"
  c.epochs = "156000 steps"
  c.optim.schedule.warmup = "1560 steps"


def get_config(preset: str = "digits"):
  presets = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet": imagenet,
    "imagenet_v1": imagenet_v1,
    "imagenet_v2": imagenet_v2,
    "imagenet_v3": imagenet_v3,
    "imagenet_v3_timm": imagenet_v3_timm,
    "imagenet_v3_torchvision": imagenet_v3_torchvision,
    "imagenet_v4": imagenet_v4,
  }
  return pick(preset, presets, default())
