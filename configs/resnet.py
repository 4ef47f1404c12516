"""ResNets; by default ResNet-20 on the embedded digits, a minute at most on two CPU cores.

python -m cnnjax.main --config=configs/resnet.py
python -m cnnjax.main --config=configs/resnet.py:cifar10
python -m cnnjax.main --config=configs/resnet.py:imagenet --config.model.name=resnet101
python -m cnnjax.main --config=configs/resnet.py:folder --config.data.path=PHOTOS
python -m cnnjax.main --config=configs/resnet.py:rsb_a3    # papers' recipes: configs/README.md

A variant is chosen by its name, --config.model.name=preact_resnet164, wrn_28_10, seresnet20; on
ImageNet resnet50d, seresnet50, cbamresnet50, ecaresnet50. Any of them takes attention:
--config.model.attention=cbam_spatial. Very deep ones compile fast with --config.model.scan=True.
"""

from cnnjax.config import default, pick


def digits(c):
  # Chosen on a validation split of the training digits, by the mean of four seeds.
  c.batch_size = 64
  c.epochs = 30
  c.augment = "pad_crop(1)"
  c.task.label_smoothing = 0.1
  c.optim.nesterov = True
  c.optim.weight_decay = 5e-4
  c.optim.schedule.warmup = 1


def mnist(c):
  c.data.source, c.data.name = "tfds", "mnist"
  c.epochs = 10
  c.augment = "pad_crop(2)"
  c.optim.weight_decay = 5e-4
  c.optim.schedule.warmup = 1


def fashion_mnist(c):
  mnist(c)
  c.data.name = "fashion_mnist"
  c.epochs = 30
  c.augment = "pad_crop(2) | flip"


def cifar10(c):
  """He et al. 2015 (arXiv:1512.03385), section 4.2: 64k steps of 128, rate / 10 at 32k and 48k.

  Weight decay is on every parameter, as in the paper's framework. ResNet-110 and deeper networks
  need schedule.warmup="400 steps". Differences: mean and standard deviation per channel instead of
  the mean image; trained on all 50,000 images (the paper chose its settings on 45k/5k, as
  data.validation=5000 does).
  """
  c.data.source, c.data.name = "tfds", "cifar10"
  c.batch_size = 128  # section 4.2, and so all that follows
  c.epochs = "64000 steps"
  c.augment = "pad_crop(4) | flip"
  c.optim.learning_rate = 0.1
  c.optim.momentum = 0.9
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.boundaries = ("32000 steps", "48000 steps")


def cifar100(c):
  cifar10(c)
  c.data.name = "cifar100"


def stochastic_depth_cifar10(c):
  """ResNet-110 with stochastic depth, arXiv:1603.09382.

  Numbers from github.com/yueatsprograms/Stochastic_Depth, main.lua. Differences: each example
  drops its own blocks, there all of a batch drop the same; the paper reports the epoch with the
  lowest validation error.
  """
  cifar10(c)
  c.model.name = "resnet110"  # N = 18: 6 N + 2 layers
  c.model.drop_path = 0.5  # README: -deathRate 0.5, linear in depth (deathMode lin_decay)
  c.data.validation = 5000  # section 4 of the paper
  c.epochs = 500  # maxEpochs
  c.optim.nesterov = True  # sgdState; rate, momentum, weight decay and batch are those of cifar10
  c.optim.schedule.boundaries = (250, 375)  # maxEpochs * 0.5 and 0.75


def wrn_cifar10(c):
  """Wide ResNet with dropout, arXiv:1605.07146: numbers from section 3, implementation details.

  Differences: crops are padded with black, theirs with reflections (scripts/train_cifar.sh of
  github.com/szagoruyko/wide-residual-networks). Without dropout: --config.model.dropout=0.0.
  """
  cifar10(c)
  c.model.name = "wrn_28_10"
  c.model.dropout = 0.3  # section 3: on CIFAR, by cross-validation; README of the repository
  c.epochs = 200
  c.optim.nesterov = True
  c.optim.weight_decay = 5e-4
  c.optim.schedule.boundaries = (60, 120, 160)
  c.optim.schedule.factor = 0.2


def wrn_cifar100(c):
  wrn_cifar10(c)
  c.data.name = "cifar100"


def wrn_svhn(c):
  """WRN-16-8 with dropout on all of SVHN: scripts/train_svhn.sh of the authors' repository."""
  wrn_cifar10(c)
  c.model.name = "wrn_16_8"  # README: WRN-16-8-dropout
  c.model.dropout = 0.4
  c.data.name = "svhn_cropped"
  c.data.train = "train+extra"
  c.data.mean, c.data.std = (0.0,) * 3, (1.0,) * 3  # section 3: divided by 255, nothing else
  c.augment = None
  c.epochs = 160
  c.optim.learning_rate = 0.01
  c.optim.schedule.boundaries = (80, 120)
  c.optim.schedule.factor = 0.1


def sgdr_cifar10(c):
  """SGDR, arXiv:1608.03983 section 4.1: WRN-28-10, T_0 = 10, T_mult = 2, which ends at 150 epochs.

  The paper goes on to 200 epochs, in the middle of a period; its advice is to take the weights from
  before a restart (section 4.2), where the run here ends. The authors' code
  (github.com/loshchil/SGDR, SGDR_WRNs.py) differs from the paper: an epoch there has the 50,000
  images and as many mirrored ones, and its weight decay is Lasagne's sum of squares without a half,
  twice as strong, on kernels and scales: --config.epochs="15e6 examples"
  --config.optim.weight_decay=1e-3 --config.optim.schedule.first_period="1e6 examples"
  --config.optim.weight_decay_mask="kernel|scale".
  Difference: images are normalised per channel, there by the mean of each pixel.
  """
  c.model.name = "wrn_28_10"
  c.data.source, c.data.name = "tfds", "cifar10"
  c.batch_size = 128  # section 4.1: that of arXiv:1605.07146
  c.epochs = 150  # 10 + 20 + 40 + 80
  c.augment = "pad_crop(4) | flip"
  c.optim.learning_rate = 0.05  # section 4.1
  c.optim.momentum = 0.9  # section 4.1; not Nesterov's
  c.optim.weight_decay = 5e-4  # section 4.1
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "warm_restarts"
  c.optim.schedule.first_period = 10  # T_0
  c.optim.schedule.multiplier = 2.0  # T_mult


def sgdr_cifar100(c):
  sgdr_cifar10(c)
  c.data.name = "cifar100"


def mixup_cifar10(c):
  """Mixup, arXiv:1710.09412 section 3.2: a pre-activation ResNet-18.

  Numbers from github.com/facebookresearch/mixup-cifar10, train.py. The paper trained WRN-28-10 and
  DenseNet-BC-190 in the same way: --config.model.name=wrn_28_10.
  """
  cifar10(c)
  c.model.name = "preact_resnet18"
  c.epochs = 200
  c.augment = "pad_crop(4) | flip | mixup(1.0)"
  c.optim.schedule.boundaries = (100, 150)


def mixup_cifar100(c):
  mixup_cifar10(c)
  c.data.name = "cifar100"


def sam_cifar10(c):
  """Sharpness-aware minimisation on WRN-28-10, arXiv:2010.01412: table 6 in appendix C.1.

  The rest is from github.com/google-research/sam, training_utils/flax_training.py. There each of 8
  devices normalises and steps uphill by its own 32 images (section 4.1: m-sharpness). Difference:
  here images are normalised in groups of 32, but the step uphill is that of the whole batch.
  """
  cifar10(c)
  c.model.name = "wrn_28_10"
  c.batch_size = 256  # appendix C.1
  c.batch_norm.ghost = 32  # section 3.1: 8 GPUs
  c.epochs = 200  # table 6
  c.optim.sam_rho = 0.05  # table 6
  c.optim.nesterov = True  # create_optimizer
  c.optim.weight_decay = 5e-4  # table 6; on all parameters: train_step
  c.optim.clip_norm = 5.0  # gradient_clipping
  c.optim.schedule.update(default().optim.schedule)  # lr_schedule: cosine


def sam_cifar100(c):
  sam_cifar10(c)
  c.data.name = "cifar100"
  c.optim.sam_rho = 0.1  # table 6


def cifar10_lt(c):
  """Long-tailed CIFAR-10, 100 : 1, by the logit-adjusted loss, arXiv:2007.07314 equation 10.

  Numbers from github.com/google-research/google-research, logit_adjustment: main.py, utils.py and
  models.py. test/accuracy is the balanced accuracy, as the test split has equal classes.
  Differences: their ResNet-32 has blocks of 1x1, 3x3, 1x1, ours is that of arXiv:1512.03385; their
  long tail is a file of other examples with the same class sizes.
  """
  c.model.name = "resnet32"
  c.data.source, c.data.name = "tfds", "cifar10"
  c.data.long_tail = 100.0  # README: EXP-100
  c.data.mean, c.data.std = (0.5,) * 3, (1.0,) * 3  # _process_image
  c.batch_size = 128  # train_batch_size
  c.epochs = 1241  # dataset_mappings; of 12,406 images
  c.augment = "pad_crop(2) | flip"  # _process_image: 36 pixels
  c.task.logit_adjustment = 1.0  # tau
  c.optim.learning_rate = 0.1  # main
  c.optim.nesterov = True  # main; momentum 0.9
  c.optim.weight_decay = 2e-4  # Keras's l2(1e-4) has no half
  c.optim.weight_decay_mask = "kernel$|head/bias"  # models.py
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.warmup = 20  # lr_schedule
  c.optim.schedule.boundaries = (604, 926, 1128)  # lr_schedule


def cifar100_lt(c):
  cifar10_lt(c)
  c.data.name = "cifar100"
  c.epochs = 1419  # dataset_mappings, as the others; of 10,847 images
  c.optim.schedule.warmup = 22
  c.optim.schedule.boundaries = (691, 1059, 1290)


def cifar10_lt_focal(c):
  """Focal loss (arXiv:1708.02002) on long-tailed CIFAR-10, the baseline of arXiv:1906.07413.

  Numbers from github.com/kaidic/LDAM-DRW, cifar_train.py with --loss_type Focal. Weights by the
  effective number of examples (arXiv:1901.05555; --train_rule Reweight there) are
  --config.task.class_weights=effective_number --config.task.effective_beta=0.9999. Difference: the
  rate warms up with each step, there with each epoch, from 1/5.
  """
  cifar10(c)
  c.model.name = "resnet32"
  c.data.long_tail = 100.0  # imb_factor 0.01
  c.epochs = 200
  c.task.loss = "focal"
  c.task.focal_gamma = 1.0  # criterion
  c.optim.weight_decay = 2e-4
  c.optim.schedule.warmup = 5  # adjust_learning_rate, as the two below
  c.optim.schedule.boundaries = (160, 180)
  c.optim.schedule.factor = 0.01


def cifar10_fast(c):
  """The recipe of airbench94 (arXiv:2404.00498), as far as keys go, on a residual network.

  Numbers from github.com/KellerJordan/cifar10-airbench, airbench94.py, which reaches 94 % in 3.8 s
  on an A100 with its own network. Its rate and weight decay are for a summed loss and "decoupled"
  from momentum; here they are converted for a mean loss and torch's momentum. Not here: its network
  (whitened 2x2 stem, blocks that begin as the identity, max pooling, GELU, no scales in batch norm,
  whose averages keep 0.6) and settings tuned to it (biases of norms 64 times as fast, logits / 9);
  a flip that alternates with each epoch; reflection outside of a crop; lookahead whose rate rises
  during the run; test images shifted by a pixel. The network here is a wide ResNet of 8 layers, 64
  to 256 features; the rate is airbench's, not tuned for it.
  """
  c.model.name = "wrn_16_4"
  c.model.update(stage_sizes=(1, 1, 1), stem_features=64)
  c.data.source, c.data.name = "tfds", "cifar10"
  c.dtype = "bfloat16"  # half
  c.batch_size = 1024
  c.epochs = 9.9
  c.eval_views = "flip"  # tta_level 1; it has 2
  c.augment = "pad_crop(2) | flip"  # translate
  c.task.label_smoothing = 0.2
  kilostep = 1 + 1 / (1 - 0.85)  # kilostep_scale / 1024
  c.optim.learning_rate = 11.5 / kilostep  # 1.5
  c.optim.momentum = 0.85
  c.optim.nesterov = True
  c.optim.weight_decay = 0.0153 / 11.5  # wd / lr, of a mean
  c.optim.weight_decay_mask = ""  # param_configs
  c.optim.schedule.name = "piecewise"
  c.optim.schedule.points = ((0, 0.2), (0.23 * 9.9, 1.0), (9.9, 0.07))  # triangle


def photos(c):
  """ImageNet in crops of 224 pixels, tested on the centre of 256: arXiv:1512.03385 section 3.4.

  Crops (arXiv:1409.4842), mean and standard deviation are those that are usual since
  fb.resnet.torch. Photos are decoded and cropped while the device trains, also those of the
  validation split, which decoded would take 7 GiB. For folders PATH/train/<class>/ and
  PATH/val/<class>/: --config.data.source=folder --config.data.name=none --config.data.path=PATH.
  """
  c.model.name = "resnet50"
  c.data.source, c.data.name = "tfds", "imagenet2012"
  c.data.image_size = 224
  c.data.crop, c.data.pipeline = "random_resized", "streaming"
  c.data.eval_crop = 0.875
  c.data.test = "validation"  # the labels of the test split are not public
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.augment = "flip"


def imagenet(c):
  """The classic recipe of torchvision, references/classification: its defaults, on 8 GPUs of 32.

  It trained the IMAGENET1K_V1 weights of ResNets; those of ResNeXt took 100 epochs.
  """
  photos(c)
  c.batch_size = 256
  c.epochs = 90
  c.optim.learning_rate = 0.1
  c.optim.weight_decay = 1e-4
  c.optim.weight_decay_mask = ""
  c.optim.schedule.name = "multi_step"
  c.optim.schedule.boundaries = (30, 60)  # lr-step-size 30


def goyal(c):
  """ImageNet in one hour, arXiv:1706.02677: numbers from sections 5.1 and 5.2.

  Another batch_size scales the rate (section 2.1). Differences: the paper initialises the dense
  layer from a normal distribution of standard deviation 0.01, and does not say whether its bias
  decays; here it does. The paper's error is the median of the last five epochs.
  """
  imagenet(c)
  c.model.zero_init_gamma = True  # section 5.1: of the last norm in a block
  c.batch_size = 8192  # section 5.2
  c.batch_norm.ghost = 32  # section 2.3: images on a GPU
  c.optim.learning_rate, c.optim.scale_from = 0.1, 256  # section 5.1
  c.optim.nesterov = True  # section 5.1; momentum 0.9
  c.optim.weight_decay_mask = "kernel$|head/bias"  # section 5.1: not scale and bias of norms
  c.optim.schedule.warmup = 5  # section 2.2
  c.optim.schedule.warmup_factor = 1 / 32  # from 0.1 to 3.2: section 5.2
  c.optim.schedule.boundaries = (30, 60, 80)  # section 5.1


def mixup_imagenet(c):
  """Mixup on ImageNet, arXiv:1710.09412 section 3.1: the schedule of `goyal`, for 200 epochs.

  For 90 epochs: --config.epochs=90 --config.optim.schedule.boundaries="(30, 60, 80)". The paper
  names Goyal et al. for the schedule; taking the rest from them as well is our choice (unverified).
  """
  goyal(c)
  c.batch_size = 1024  # section 3.1
  c.epochs = 200  # section 3.1
  c.augment = "flip | mixup(0.2)"  # table 1
  c.optim.schedule.warmup_factor = 1 / 4  # section 3.1: from 0.1 to 0.4
  c.optim.schedule.boundaries = (60, 120, 180)  # section 3.1


def cutmix_imagenet(c):
  """CutMix on ImageNet, arXiv:1905.04899: README and train.py of github.com/clovaai/CutMix-PyTorch.

  Differences: colours are not shifted by their principal components; they report the best epoch.
  """
  imagenet(c)
  c.epochs = 300  # README
  c.augment = "flip | color_jitter(0.4, 0.4, 0.4) | cutmix(1.0)"  # beta 1, cutmix_prob 1
  c.optim.nesterov = True  # train.py; rate 0.1, batch 256, weight decay 1e-4
  c.optim.schedule.boundaries = (75, 150, 225)  # adjust_learning_rate


def sam_imagenet(c):
  """SAM on ResNet-50, arXiv:2010.01412 section 3.1 and appendix C.1; 200 or 400 epochs as well.

  Difference: there each of 32 TPU cores steps uphill by its own 128 images. The paper does not say
  whether norms decay; in github.com/google-research/sam they do.
  """
  imagenet(c)
  c.batch_size = 4096
  c.epochs = 100
  c.task.label_smoothing = 0.1
  c.optim.learning_rate = 1.0
  c.optim.sam_rho = 0.05
  c.optim.schedule.update(default().optim.schedule)  # cosine


def bag_of_tricks(c):
  """Bag of tricks for ResNet-50-D, arXiv:1812.01187: all of table 6 but distillation.

  Numbers from the authors' GluonCV: the log and script of resnet101_v1d_mixup (dmlc/web-data), and
  scripts/classification/imagenet/train_imagenet.py. Distillation (section 5.3) from a run of
  resnet152d: --config.distill.workdir=RUN --config.distill.temperature=20 (unverified).
  Differences: float32, theirs float16; colours are not shifted by their principal components.
  """
  photos(c)
  c.model.name = "resnet50d"
  c.model.zero_init_gamma = True  # last_gamma
  c.batch_size = 1024  # 8 GPUs of 128
  c.epochs = 200  # num_epochs, with mixup; else 120
  c.augment = "flip | color_jitter(0.4, 0.4, 0.4) | mixup(0.2)"  # jitter_param, mixup_alpha
  c.task.label_smoothing = 0.1  # section 5.2
  c.optim.learning_rate = 0.4  # lr: 0.1 for 256, section 3.1
  c.optim.nesterov = True  # optimizer nag; momentum 0.9
  c.optim.weight_decay = 1e-4  # wd; no_wd: not on biases and norms
  c.optim.schedule.warmup = 5  # warmup_epochs, then a cosine (lr_mode)


def rsb_a2(c):
  """ResNet strikes back, procedure A2: arXiv:2110.00476, table 2, through two transcriptions of it.

  From configs/resnet/resnet50_8xb256-rsb-a2-300e_in1k.py of github.com/open-mmlab/mmpretrain
  and its base files, and from others' commands for timm's train.py. Differences: bfloat16, theirs
  float16; RandAugment has torchvision's operations, without noise in the magnitude, resampled
  bilinearly; crops are resized bicubically, where timm draws bilinear or bicubic.
  """
  photos(c)
  c.model.drop_path = 0.05  # stochastic depth
  c.data.interpolation = "bicubic"
  c.data.eval_crop = 0.95  # test crop ratio
  c.data.repeats = 3  # repeated augmentation
  c.dtype = "bfloat16"  # mixed precision
  c.batch_size = 2048
  c.epochs = 300
  c.augment = f"flip | {_rand_augment(7)} | choice(mixup(0.1), cutmix(1.0))"
  c.task.loss = "binary_cross_entropy"
  c.task.target_threshold = 0.2  # section 2.2: classes of a mixed image; timm's --bce-target-thresh
  c.optim.name = "lamb"
  c.optim.learning_rate = 5e-3
  c.optim.eps = 1e-6  # timm/optim/lamb.py
  c.optim.clip_norm = 1.0  # max_grad_norm there, a part of its LAMB; table 2 has none of its own
  c.optim.weight_decay = 0.02
  c.optim.schedule.warmup = 5


def rsb_a1(c):
  """Procedure A1: twice as long as A2, labels smoothed; otherwise see `rsb_a2`.

  timm's threshold of mixed labels does not go with smoothing, so mixed labels stay shares here.
  """
  rsb_a2(c)
  c.epochs = 600
  c.augment = f"flip | {_rand_augment(7)} | choice(mixup(0.2), cutmix(1.0))"
  c.task.target_threshold = None
  c.task.label_smoothing = 0.1
  c.optim.weight_decay = 0.01


def rsb_a3(c):
  """Procedure A3: 100 epochs on 160 pixels, tested on 224; otherwise see `rsb_a2`."""
  rsb_a2(c)
  c.model.drop_path = 0.0
  c.data.image_size, c.data.eval_size = 160, 224
  c.data.repeats = 1
  c.epochs = 100
  c.augment = f"flip | {_rand_augment(6)} | choice(mixup(0.1), cutmix(1.0))"
  c.optim.learning_rate = 8e-3


def torchvision_v2(c):
  """torchvision's recipe of its IMAGENET1K_V2 weights, smaller in training than in tests (FixRes).

  The command of github.com/pytorch/vision, references/classification, in copies of it (issue 3995
  there is the source; pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-
  latest-primitives explains it). Differences: the average is updated at every step, there at every
  32nd with an equal total weight; it is not reset to the weights during warm-up.
  """
  photos(c)
  c.data.image_size, c.data.eval_size = 176, 224  # train-crop-size, val-crop-size
  c.data.eval_crop = 224 / 232  # val-resize-size
  c.data.repeats = 4  # ra-reps
  c.batch_size = 1024  # 8 GPUs of 128
  c.epochs = 600
  erasing = "random_erasing(0.1, fill=(0.485, 0.456, 0.406))"  # random-erase; 0 when normalised
  mixing = "choice(mixup(0.2), cutmix(1.0))"  # mixup-alpha, cutmix-alpha
  c.augment = f"flip | trivial_augment(31, 'bilinear') | {erasing} | {mixing}"  # ta_wide
  c.task.label_smoothing = 0.1
  c.optim.learning_rate = 0.5
  c.optim.weight_decay = 2e-5
  c.optim.weight_decay_mask = "kernel$|head/bias"  # norm-weight-decay 0
  c.optim.schedule.warmup = 5  # lr-warmup-epochs
  c.optim.schedule.warmup_factor = 0.01  # lr-warmup-decay
  # From model-ema-decay 0.99998: alpha * world * batch * steps / epochs in 32 steps.
  c.average.ema = 1 - (1 - 0.99998) * 1024 / 600
  c.average.ema_warmup = False


def timm_resnext50(c):
  """timm's ResNeXt-50, "will also work well for SE-ResNeXt-50": hfdocs/source/training_script.mdx.

  Differences: each of three rectangles is erased by chance, there all or none; erased pixels become
  uniform noise, there normal; RandAugment as in `rsb_a2`.
  """
  photos(c)
  c.model.name = "resnext50_32x4d"
  c.batch_size = 1536  # 8 GPUs of 192
  c.epochs = 240
  erasing = "random_erasing(0.4, (0.0067, 0.111), fill='noise')"  # reprob; a third of timm's areas
  c.augment = " | ".join(["flip", _rand_augment(7), *[erasing] * 3])  # rand-m7, recount 3
  c.task.label_smoothing = 0.1  # train.py, by default
  c.optim.learning_rate = 0.6
  c.optim.nesterov = True  # timm's sgd
  c.optim.weight_decay = 1e-4
  c.optim.schedule.warmup = 5


def _rand_augment(magnitude: int) -> str:
  """Returns timm's rand-m<magnitude>-mstd0.5-inc1: two operations, each with probability 0.5.

  The magnitude is out of 10. Pixels from outside the image get the mean colour, here its grey.
  """
  once = f"rand_augment(1, {magnitude}, 11, 'bilinear', 0.45, p=0.5)"
  return f"{once} | {once}"


def folder(c):
  """Your own photos, hundreds to thousands, from scratch on a laptop: a start, not tuned.

  They lie in PATH/<class>/*.jpg, where a fifth is held out as the test split, or in
  PATH/train/<class>/*.jpg beside PATH/test/ or PATH/val/. A few hundred photos need more epochs,
  small objects a larger data.image_size, and text or whatever may not be mirrored
  --config.augment=none.
  """
  c.model.name = "resnet18"
  c.data.source = "folder"
  c.data.image_size = 128
  c.data.crop = "random_resized"
  c.data.crop_scale = (0.25, 1.0)  # 0.08, for long runs, misses more of the objects
  c.data.eval_crop = 0.875
  c.batch_size = 32
  c.epochs = 30
  c.augment = "flip"
  c.task.label_smoothing = 0.1
  # In few epochs of a few hundred photos it learns more than SGD: see configs/README.md.
  c.optim.name = "adamw"
  c.optim.learning_rate = 1e-3
  c.optim.weight_decay = 0.05
  c.optim.schedule.warmup = 2


PRESETS = (
  digits, mnist, fashion_mnist, cifar10, cifar100, stochastic_depth_cifar10, wrn_cifar10,
  wrn_cifar100, wrn_svhn, sgdr_cifar10, sgdr_cifar100, mixup_cifar10, mixup_cifar100, sam_cifar10,
  sam_cifar100, cifar10_lt, cifar100_lt, cifar10_lt_focal, cifar10_fast, imagenet, goyal,
  mixup_imagenet, cutmix_imagenet, sam_imagenet, bag_of_tricks, rsb_a1, rsb_a2, rsb_a3,
  torchvision_v2, timm_resnext50, folder,
)  # fmt: skip


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "resnet20"
  return pick(preset, {function.__name__: function for function in PRESETS}, config)
