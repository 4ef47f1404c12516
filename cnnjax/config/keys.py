"""Every key of a run: its default, its comment, the values that it takes.

`default()` is the one base config; what is done with a config is in config.py.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from cnnjax.errors import UserError


def default() -> ConfigDict:
  """Every key of a run with its default.

  Durations are epochs, as a number that may be a fraction, or a string: "500 steps",
  "2.5 epochs", "1e6 examples".
  """
  c = ConfigDict(type_safe=False)
  for group in (_run, _data, _task, _optim):
    group(c)
  c.lock()
  c.model.unlock()
  return c


# [keys] The lines from here to [end] that set a key are what `--help` shows.
def _run(c: ConfigDict) -> None:
  c.seed = 0  # every random choice of a run follows from it
  c.seeds = 1  # so many runs, of seed, seed + 1, ..., trained as one program; means are reported
  c.rates = ()  # learning rates of so many runs, trained as one program
  c.batch_size = 128  # examples per step, over all devices
  c.accumulate = 1  # micro-batches that a batch is taken in, to save memory
  c.epochs = 10  # how long to train; a duration
  c.dtype = "float32"  # what the model computes in, or bfloat16, float16; parameters are float32
  c.matmul_precision = None  # of float32 products: default, tf32, highest; None: JAX's
  c.deterministic = False  # on GPU, the same bits in each run; slower
  c.loss_scale = ConfigDict(type_safe=False)  # float16: the loss is multiplied by it
  c.loss_scale.initial = 2.0**15
  c.loss_scale.growth_steps = 2000  # finite steps before it is doubled; halved when one is not
  c.loss_scale.maximum = 2.0**24

  c.step = ConfigDict(type_safe=False)
  c.step.name = "standard"  # how a step of training is taken; modules in imports may register more

  c.imports = ()  # modules to import first, such as a fork's that registers models: ("my_nets",)

  c.model = ConfigDict(type_safe=False)
  c.model.name = "resnet20"  # any field of the model may stand beside it: model.drop_path=0.1

  c.batch_norm = ConfigDict(type_safe=False)
  c.batch_norm.ghost = None  # examples that are normalised together; None: the (micro-)batch
  c.batch_norm.accumulated = "each"  # moving averages follow each micro-batch; matched: the batch
  c.batch_norm.precise = False  # statistics of the raw weights measured afresh: arXiv:2105.07576
  c.batch_norm.batches = 100  # they are measured on: precise, SWA, schedule-free, Lookahead

  c.mesh = ConfigDict(type_safe=False)
  c.mesh.data = -1  # devices with the whole state, which share the batch; -1: all that are left
  c.mesh.fsdp = 1  # devices that share the state as well, each with a part of each large array
  c.mesh.fsdp_min_size = 4096  # values of an array below which it is not split

  c.steps_per_dispatch = None  # steps in one program; None: 1 on CPU, 32 on GPU and TPU
  c.eval_batch_size = 500  # changes nothing but memory and speed
  c.eval_views = None  # predictions are means over views: "flip", "five_crop(0.9)"; cnnjax/augment
  c.log_every = "100 steps"  # a duration; an epoch's end is always logged
  c.eval_every = 1  # a duration
  c.checkpoint_every = 1  # a duration
  c.keep = ConfigDict(type_safe=False)
  c.keep.last = 2  # checkpoints that stay, the newest; -1: all of them
  c.keep.best = 1  # and the best ones by monitor
  c.keep.every = None  # and each at a multiple of this duration, for ever
  c.compilation_cache = "auto"  # folder of compiled programs; auto: ~/.cache/cnnjax/xla; None: none

  c.profile = ConfigDict(type_safe=False)  # a jax.profiler trace, in the workdir
  c.profile.start = None  # steps before it; 0: it shows compiling as well; None: no trace
  c.profile.steps = 5

  c.monitor = "validation/accuracy"  # best checkpoint, early stopping and plateau go by it
  c.early_stopping = ConfigDict(type_safe=False)
  c.early_stopping.patience = None  # evaluations without improvement; None: never stop early
  c.early_stopping.min_delta = 0.0  # what counts as improvement
  c.early_stopping.restore_best = True  # the result is that of the best checkpoint

  c.health = ConfigDict(type_safe=False)
  c.health.every = None  # norms and dead units of each layer, so often; a duration; None: never
  c.health.trace = False  # name the layer where NaN or infinity began, by going there once more
  c.health.warnings = True  # say in words when a run diverges or stands still


def _data(c: ConfigDict) -> None:
  c.data = ConfigDict(type_safe=False)
  c.data.source = "digits"  # digits (embedded), folder, tfds, synthetic; arrays from Python
  c.data.name = None  # tfds: the data set, as "cifar10", "mnist:3.0.1" or "name/config"
  c.data.data_dir = None  # tfds: where data sets lie; None: TFDS's own default
  c.data.path = None  # folder: with PATH/train/<class>/*.jpg, PATH/<class>/*.jpg; or a CSV, JSONL
  c.data.train = "train"  # split to train on; with tfds any expression, such as "train[:90%]"
  c.data.validation = None  # None, a share (0.1) or number (5000) of train, or a split
  c.data.test = "test"  # split of the final result, never used to choose; or a share or number
  c.data.group = None  # folder: what a hold-out never parts; a column of a list, a pattern of paths
  c.data.split_seed = 0  # of what is held out as a share or number, and of long_tail
  c.data.long_tail = None  # keep a long tail of train: the largest class over the smallest, as 100
  c.data.image_size = None  # pixels, square, that are trained on; None: as they are
  c.data.progressive = ()  # smaller sizes first, in equal parts of the run: (128, 160)
  c.data.channels = None  # 1 or 3; None: those of the data set, of files 3
  c.data.orientation = None  # of EXIF: apply, ignore; None: applied to the photos of a folder
  c.data.alpha = "drop"  # what is transparent: drop (has a colour all the same), white, black
  c.data.dtype = None  # of the images of files: uint8, uint16, float32; None: uint8
  c.data.masks = None  # folder: where the mask of an image lies: "{folder}/../masks/{name}.png"
  c.data.classes = None  # of masks: their names, or how many; None: those in the training masks
  c.data.range = None  # of files over 8 bits: bits used (12) or (low, high); None: the upper 8
  c.data.crop = "center"  # for training: center, random_resized (arXiv:1409.4842; streaming)
  c.data.crop_scale = (0.08, 1.0)  # random_resized: share of the area
  c.data.crop_ratio = (3 / 4, 4 / 3)  # random_resized: width over height
  c.data.antialias = False  # random_resized, when it shrinks: 1.1 to 1.8 of a crop's time
  c.data.interpolation = "bilinear"  # nearest, bilinear, bicubic, lanczos, area
  c.data.eval_size = None  # pixels, square, that are evaluated on; None: image_size
  c.data.eval_crop = 1.0  # evaluation: the crop over the short side, as 0.875 on ImageNet
  c.data.mean = None  # per channel, images in [0, 1]; None: that of the training split
  c.data.std = None  # likewise
  c.data.sampling = "uniform"  # of classes: oversample, undersample, class_balanced, square_root
  c.data.repeats = 1  # of an example in a batch, each augmented anew (arXiv:1901.09335)
  c.data.remainder = "drop"  # examples at the end of an epoch: drop, pad (with others)
  c.data.pipeline = "auto"  # resident (on the device), streaming; auto: resident if it fits
  c.data.max_gib = 8.0  # the largest split to keep on a device, in GiB
  c.data.shard_resident = False  # each device keeps a part of a resident split, not all of it
  c.data.threads = None  # streaming: that decode images; None: one a core
  c.data.workers = 0  # streaming: processes that decode, with so many threads each; 0: none
  c.data.max_unreadable = 10  # images that are skipped at most; they are named in the workdir
  c.data.synthetic = ConfigDict(type_safe=False)
  c.data.synthetic.train_examples = 1024
  c.data.synthetic.test_examples = 256
  c.data.synthetic.num_classes = 10
  c.data.synthetic.image_size = 32  # pixels, square
  c.data.synthetic.channels = 3

  c.augment = None  # in order, such as "pad_crop(4) | flip | mixup(0.2)"; see cnnjax/augment


def _task(c: ConfigDict) -> None:
  c.task = ConfigDict(type_safe=False)
  c.task.name = "classification"  # multi_label, where an image may have several
  c.task.loss = None  # cross_entropy, binary_cross_entropy, focal; None: the task's, the first two
  c.task.label_smoothing = 0.0  # arXiv:1512.00567, section 7
  c.task.focal_gamma = 2.0  # focal: arXiv:1708.02002, equation 4
  c.task.target_threshold = None  # binary_cross_entropy: mixed targets above are 1, others 0
  c.task.logit_adjustment = 0.0  # tau of arXiv:2007.07314, equation 10; 1 is the paper's
  c.task.aux_weight = 0.3  # of the loss of each auxiliary head; arXiv:1409.4842, section 5
  c.task.class_weights = None  # in the loss: auto (rare ones weigh more), effective_number, a list
  c.task.effective_beta = 0.999  # effective_number: beta of arXiv:1901.05555

  c.distill = ConfigDict(type_safe=False)  # learn from the predictions of another run as well
  c.distill.workdir = None  # where it is
  c.distill.teacher = None  # in its place "ema": this run's own average, arXiv:1703.01780
  c.distill.checkpoint = "last"  # best
  c.distill.weights = "raw"  # ema, swa, schedule_free: an average that it kept
  c.distill.weight = 0.9  # share of the loss; arXiv:1503.02531, section 2
  c.distill.temperature = 4.0


def _optim(c: ConfigDict) -> None:
  c.optim = ConfigDict(type_safe=False)
  c.optim.name = "sgd"  # adam, adamw, lamb, lars, lion, muon, nadam, rmsprop, ...: cnnjax/optim
  c.optim.learning_rate = 0.1  # the peak of the schedule
  c.optim.scale_from = None  # the batch size it is meant for: it is scaled to batch_size
  c.optim.scale_rule = "linear"  # or sqrt
  c.optim.momentum = 0.9  # sgd, rmsprop, lars, muon
  c.optim.nesterov = False  # sgd, lars
  c.optim.b1 = 0.9  # adam and its like, lion, schedule_free
  c.optim.b2 = 0.999  # likewise
  c.optim.eps = 1e-8  # adam and its like, rmsprop
  c.optim.decay = 0.9  # rmsprop: of the mean square; alpha in torch
  c.optim.trust_coefficient = 0.001  # lars: eta of arXiv:1708.03888
  c.optim.sam_rho = None  # sharpness-aware minimisation around any: arXiv:2010.01412
  c.optim.lookahead = None  # fast steps to a slow one (evaluated), around any: arXiv:1907.08610
  c.optim.lookahead_rate = 0.5  # alpha
  c.optim.weight_decay = 0.0
  c.optim.weight_decay_kind = None  # l2 (added to the gradient), decoupled; None: the optimizer's
  c.optim.weight_decay_mask = "kernel$"  # which parameters decay: a regular expression of paths
  c.optim.l1 = 0.0  # times the sum of magnitudes, in the loss, of the parameters that decay
  c.optim.max_norm = None  # of the weights of a unit: Srivastava et al. 2014, section 5.1
  c.optim.clip_norm = None  # clip the gradient to this global norm
  c.optim.clip_value = None  # clip each of its values to +- this
  c.optim.agc = None  # adaptive clipping, lambda of arXiv:2102.06171
  c.optim.agc_mask = "^(?!head)"  # the paper leaves the last layer out
  c.optim.noise = 0.0  # Gaussian noise on the gradient, eta of arXiv:1511.06807
  c.optim.noise_decay = 0.55  # gamma
  c.optim.freeze = ()  # patterns of what stays as it is, batch statistics too
  c.optim.multipliers = ()  # of the rate, by pattern: (("^head", 10.0), ("^stem", 0.1))
  c.optim.layer_decay = None  # of the rate, for each layer further from the head: 0.75

  c.optim.schedule = ConfigDict(type_safe=False)
  c.optim.schedule.name = "cosine"  # constant, step, multi_step, linear, ...: cnnjax/optim
  c.optim.schedule.warmup = 0  # linear, in front of any schedule; a duration
  c.optim.schedule.warmup_factor = 0.0  # where it begins, as a share of the peak
  c.optim.schedule.boundaries = ()  # multi_step: where the rate drops; durations from the start
  c.optim.schedule.factor = 0.1  # step, multi_step, exponential: what it is multiplied by
  c.optim.schedule.period = 30  # step, exponential: how often; a duration
  c.optim.schedule.power = 1.0  # polynomial
  c.optim.schedule.end_factor = 0.0  # lowest rate, as a share of the peak, where it is reached
  c.optim.schedule.first_period = 10  # warm_restarts: length of the first period; a duration
  c.optim.schedule.multiplier = 2.0  # warm_restarts: each period is so much longer
  c.optim.schedule.peak_decay = 1.0  # warm_restarts: each peak is multiplied by it
  c.optim.schedule.start_factor = 0.04  # one_cycle: the first rate, as a share of the peak
  c.optim.schedule.peak_at = 0.3  # one_cycle: share of the run until the peak
  c.optim.schedule.cooldown = 0.2  # trapezoid: share of the run that comes down to end_factor
  c.optim.schedule.points = ()  # piecewise: ((duration, share of the peak), ...), lines between

  c.optim.plateau = ConfigDict(type_safe=False)  # the rate falls when `monitor` stands still
  c.optim.plateau.patience = None  # evaluations in a row that may bring nothing; None: off
  c.optim.plateau.factor = 0.1  # what the rate is multiplied by
  c.optim.plateau.min_delta = 1e-4  # what counts as improvement
  c.optim.plateau.cooldown = 0  # evaluations after a fall that do not count
  c.optim.plateau.min_scale = 0.0  # the product of the factors stays at or above it

  c.optimizers = ()  # beside optim: (("critic", {"params": "^critic/", "learning_rate": 1e-3}), )

  c.average = ConfigDict(type_safe=False)  # of the weights; evaluated beside them
  c.average.ema = None  # decay of an exponential moving average, such as 0.9999
  c.average.ema_warmup = True  # decay min(ema, (1 + step) / (10 + step)), as in TensorFlow
  c.average.swa_start = None  # the mean of the weights from here on, arXiv:1803.05407; a duration
  c.average.swa_every = 1  # between two that count; a duration


# [end]
# The keys that take something else than the type of their default. A float takes an int as well. A
# key whose default is None, and that is not here, takes any of these.
ANY = (bool, int, float, str, tuple, None)
DURATION = (int, float, str)
DURATIONS = (
    "epochs", "log_every", "eval_every", "checkpoint_every", "health.every", "average.swa_start",
    "average.swa_every", "optim.schedule.warmup", "optim.schedule.period",
    "optim.schedule.first_period", "keep.every",
)  # fmt: skip
MAY_BE_0 = ("average.swa_start", "optim.schedule.warmup")  # of the durations
TYPES: dict[str, tuple[type | None, ...]] = {
    **dict.fromkeys(DURATIONS, DURATION),
    "health.every": (*DURATION, None), "keep.every": (*DURATION, None),
    "average.swa_start": (*DURATION, None),
    "optim.clip_norm": (float, None),
    "optim.weight_decay_kind": (str, None), "steps_per_dispatch": (int, None),
    "data.name": (str, None), "data.data_dir": (str, None), "data.image_size": (int, None),
    "data.validation": (float, int, str, None), "data.mean": (tuple, None),
    "data.std": (tuple, None), "augment": (str, None), "optim.schedule.boundaries": (tuple,),
    "matmul_precision": (str, None), "rates": (tuple,), "batch_norm.ghost": (int, None),
    "early_stopping.patience": (int, None), "optim.plateau.patience": (int, None),
    "task.loss": (str, None), "task.target_threshold": (float, None),
    "distill.workdir": (str, None), "distill.teacher": (str, None), "optim.scale_from": (int, None),
    "optim.sam_rho": (float, None), "optim.lookahead": (int, None), "optim.max_norm": (float, None),
    "optim.clip_value": (float, None), "optim.agc": (float, None), "optim.freeze": (tuple,),
    "optim.multipliers": (tuple,), "optim.layer_decay": (float, None),
    "optim.schedule.points": (tuple,), "average.ema": (float, None),
    "imports": (tuple,), "data.path": (str, None), "data.progressive": (tuple,),
    "optimizers": (tuple,),
    "data.group": (str, None), "data.dtype": (str, None), "data.masks": (str, None),
    "data.classes": (tuple, int, None),
    "data.test": (str, float, int), "data.long_tail": (float, None), "data.channels": (int, None),
    "data.crop_scale": (tuple,), "data.crop_ratio": (tuple,),
    "data.orientation": (str, None), "data.range": (int, tuple, None),
    "data.eval_size": (int, None), "data.threads": (int, None),
    "task.class_weights": (str, tuple, None), "eval_views": (str, None),
    "compilation_cache": (str, None), "profile.start": (int, None),
}  # fmt: skip
Rule = tuple[Callable[[Any], bool], str]
_ABOVE_0: Rule = (lambda v: v > 0, "above 0")
_AT_LEAST_0: Rule = (lambda v: v >= 0, "at least 0")
_SHARE: Rule = (lambda v: 0 <= v < 1, "at least 0 and below 1")
_SEED: Rule = (lambda v: 0 <= v < 2**32, "at least 0 and below 2**32")  # as jax.random.key takes
_HELD_OUT: Rule = (
  lambda v: isinstance(v, str) or (0 < v < 1 if isinstance(v, float) else v > 0),
  "a share between 0 and 1, a number of examples, or a split",
)
# What a value that is not None must be, beside its type.
RULES: dict[str, Rule] = {
    "batch_size": _ABOVE_0, "eval_batch_size": _ABOVE_0, "steps_per_dispatch": _ABOVE_0,
    "seed": _SEED, "profile.start": _AT_LEAST_0, "profile.steps": _ABOVE_0,
    "compilation_cache": (lambda v: v != "", "a folder, auto or None"),
    "keep.last": (lambda v: v == -1 or v > 0, "above 0, or -1"), "keep.best": _AT_LEAST_0,
    "mesh.data": (lambda v: v == -1 or v > 0, "above 0, or -1"),
    "mesh.fsdp": (lambda v: v == -1 or v > 0, "above 0, or -1"), "mesh.fsdp_min_size": _AT_LEAST_0,
    "data.image_size": _ABOVE_0, "data.max_gib": _ABOVE_0,
    "data.validation": _HELD_OUT, "data.test": _HELD_OUT, "data.split_seed": _SEED,
    "data.long_tail": (lambda v: v >= 1, "at least 1"), "data.eval_size": _ABOVE_0,
    "data.progressive": (
        lambda v: all(type(x) is int and x > 0 for x in v), "sizes in pixels, above 0"),
    "data.classes": (
      lambda v: v > 1 if isinstance(v, int) else all(isinstance(name, str) for name in v),
      "names, or a number above 1",
    ),
    "data.channels": (lambda v: v in (1, 3), "1 or 3"),
    "data.range": (
        lambda v: 0 < v <= 32 if type(v) is int
        else len(v) == 2 and all(map(is_number, v)) and v[0] < v[1],
        "a number of bits up to 32, or the values of black and white, such as (0, 4095)"),
    "data.crop_scale": (lambda v: _is_range(v) and v[1] <= 1, "two shares in order, in (0, 1]"),
    "data.crop_ratio": (lambda v: _is_range(v), "two numbers above 0, in order"),
    "data.eval_crop": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "data.repeats": _ABOVE_0, "data.threads": _ABOVE_0, "data.workers": _AT_LEAST_0,
    "data.max_unreadable": _AT_LEAST_0,
    "data.mean": (lambda v: all(map(is_number, v)), "a number per channel"),
    "data.std": (lambda v: all(is_number(x) and x > 0 for x in v), "a number above 0 per channel"),
    "data.synthetic.train_examples": _ABOVE_0, "data.synthetic.test_examples": _ABOVE_0,
    "data.synthetic.num_classes": _ABOVE_0, "data.synthetic.image_size": _ABOVE_0,
    "data.synthetic.channels": _ABOVE_0, "task.label_smoothing": _SHARE,
    "task.aux_weight": _AT_LEAST_0, "task.effective_beta": _SHARE,
    "imports": (lambda v: all(isinstance(name, str) for name in v), "names of modules"),
    "seeds": _ABOVE_0, "accumulate": _ABOVE_0,
    "rates": (lambda v: all(is_number(x) and x > 0 for x in v), "numbers above 0"),
    "loss_scale.initial": _ABOVE_0, "loss_scale.growth_steps": _ABOVE_0,
    "loss_scale.maximum": _ABOVE_0, "batch_norm.ghost": _ABOVE_0, "batch_norm.batches": _ABOVE_0,
    "monitor": (
        lambda v: v.startswith("validation/"),
        "a metric of the validation split, such as validation/accuracy or validation/loss"),
    "early_stopping.patience": _ABOVE_0, "early_stopping.min_delta": _AT_LEAST_0,
    "task.focal_gamma": _AT_LEAST_0, "task.target_threshold": _SHARE,
    "task.logit_adjustment": _AT_LEAST_0,
    "distill.weight": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "distill.temperature": _ABOVE_0,
    "optim.learning_rate": _ABOVE_0, "optim.scale_from": _ABOVE_0, "optim.momentum": _SHARE,
    "optim.b1": _SHARE, "optim.b2": _SHARE, "optim.eps": _ABOVE_0, "optim.decay": _SHARE,
    "optim.trust_coefficient": _ABOVE_0, "optim.sam_rho": _ABOVE_0, "optim.lookahead": _ABOVE_0,
    "optim.lookahead_rate": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "optim.weight_decay": _AT_LEAST_0, "optim.l1": _AT_LEAST_0, "optim.max_norm": _ABOVE_0,
    "optim.clip_norm": _ABOVE_0, "optim.clip_value": _ABOVE_0, "optim.agc": _ABOVE_0,
    "optim.noise": _AT_LEAST_0, "optim.noise_decay": _AT_LEAST_0,
    "optim.freeze": (lambda v: all(isinstance(x, str) for x in v), "patterns of parameters"),
    "optim.multipliers": (
        lambda v: all(
            isinstance(x, tuple | list) and len(x) == 2 and isinstance(x[0], str)
            and is_number(x[1]) and x[1] > 0 for x in v),
        'pairs of a pattern and a number above 0, such as (("^head", 10.0),)'),
    "optim.layer_decay": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "optim.schedule.warmup_factor": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "optim.schedule.factor": _ABOVE_0, "optim.schedule.power": _ABOVE_0,
    "optim.schedule.end_factor": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "optim.schedule.multiplier": (lambda v: v >= 1, "at least 1"),
    "optim.schedule.peak_decay": _ABOVE_0,
    "optim.schedule.start_factor": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "optim.schedule.peak_at": (lambda v: 0 < v < 1, "between 0 and 1"),
    "optim.schedule.cooldown": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "optim.schedule.points": (
        lambda v: all(
            isinstance(x, tuple | list) and len(x) == 2 and is_number(x[1]) and 0 <= x[1] <= 1
            for x in v),
        "pairs of a duration and a share of the peak up to 1, such as ((0, 1.0), (30, 0.1))"),
    "optim.plateau.patience": _AT_LEAST_0,
    "optim.plateau.factor": (lambda v: 0 < v < 1, "between 0 and 1"),
    "optim.plateau.min_delta": _AT_LEAST_0, "optim.plateau.cooldown": _AT_LEAST_0,
    "optim.plateau.min_scale": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "average.ema": (lambda v: 0 < v < 1, "between 0 and 1"),
}  # fmt: skip
CHOICES = {
  "dtype": ("float32", "bfloat16", "float16"),
  "matmul_precision": ("default", "tf32", "highest"),
  "batch_norm.accumulated": ("each", "matched"),
  "distill.checkpoint": ("last", "best"),
  "distill.teacher": ("ema",),
  "distill.weights": ("raw", "ema", "swa", "schedule_free"),
  "optim.scale_rule": ("linear", "sqrt"),
  "optim.weight_decay_kind": ("l2", "decoupled"),
  "data.crop": ("center", "random_resized"),
  "data.orientation": ("apply", "ignore"),
  "data.alpha": ("drop", "white", "black"),
  "data.dtype": ("uint8", "uint16", "float32"),
  "data.interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "area"),
  "data.sampling": ("uniform", "oversample", "undersample", "class_balanced", "square_root"),
  "data.remainder": ("drop", "pad"),
  "data.pipeline": ("auto", "resident", "streaming"),
}
# What a preset says for its own choice, and what is set back where the command line makes another.
OF_A_CHOICE = {
  "optim.name": tuple(
    f"optim.{key}"
    for key in ("momentum", "nesterov", "b1", "b2", "eps", "decay", "trust_coefficient")
  ),
  "optim.schedule.name": tuple(
    f"optim.schedule.{key}"
    for key in default().optim.schedule
    if key not in ("name", "warmup", "warmup_factor")
  ),
}
# What acts only where another key has such a value, or another than its default. That key is none
# of MAY_CHANGE: a run that goes on could set neither of the two.
NEEDS: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(("loss_scale.initial", "loss_scale.growth_steps", "loss_scale.maximum"),
                    ("dtype", "float16")),
    "data.crop_scale": ("data.crop", "random_resized"),
    "data.crop_ratio": ("data.crop", "random_resized"),
    "data.antialias": ("data.crop", "random_resized"),
    "task.effective_beta": ("task.class_weights", "effective_number"),
    "optim.scale_rule": ("optim.scale_from", None),
    "optim.lookahead_rate": ("optim.lookahead", None),
    "optim.weight_decay_kind": ("optim.weight_decay", None),
    "optim.agc_mask": ("optim.agc", None), "optim.noise_decay": ("optim.noise", None),
    **dict.fromkeys(
        [f"optim.plateau.{key}" for key in default().optim.plateau if key != "patience"],
        ("optim.plateau.patience", None)),
    "average.ema_warmup": ("average.ema", None), "average.swa_every": ("average.swa_start", None),
}  # fmt: skip
# What may differ when a run goes on: where it ends, and what does not change its arithmetic.
MAY_CHANGE = (
    "epochs", "early_stopping.patience", "imports", "data.data_dir", "data.path",
    "data.shard_resident", "data.threads", "data.workers", "data.max_unreadable", "mesh.data",
    "mesh.fsdp", "mesh.fsdp_min_size", "steps_per_dispatch", "eval_batch_size", "log_every",
    "eval_every", "checkpoint_every", "keep.last", "keep.best", "keep.every", "compilation_cache",
    "profile.start", "profile.steps",
)  # fmt: skip

# What runs did before a key was there, where its default is something else: (value, the key that
# it acts with, the value of that).
BEFORE = {"data.orientation": ("ignore", "data.source", "folder")}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """The leaves of a nested config by dotted key."""
  flat = {}
  for key, value in config.items():
    nested = isinstance(value, Mapping | ConfigDict) and len(value)
    flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
  return flat


@functools.cache
def defaults() -> Mapping[str, Any]:
  """The default of every key, by its dotted name."""
  return MappingProxyType(flatten(default()))


@functools.cache
def types(key: str) -> tuple[type | None, ...]:
  """The types that a key takes, None among them where it may be None; () where it is not ours."""
  if key in TYPES:
    return TYPES[key]
  if key not in defaults():
    return ()  # a field of a model, or a mistake
  value = defaults()[key]
  return ANY if value is None else (type(value),)


def check_idle(group: str, config: ConfigDict, takes: Mapping[str, Iterable[str]]) -> None:
  """Raises UserError for a key that `config.name` has no use for, and that is not at its default.

  `config` is the `group` of a config; `takes` says which of its keys each name takes, of those
  that only some do.
  """
  standard = default()
  for name in group.split("."):
    standard = standard[name]
  some = [key for key in standard if any(key in keys for keys in takes.values())]
  own = takes[config.name]
  if idle := [key for key in some if key not in own and config[key] != standard[key]]:
    given = ", ".join(f"{key}={config[key]!r}" for key in idle)
    back = ", ".join(f"{key}={standard[key]!r}" for key in idle)
    users = [name for name, keys in takes.items() if {*idle} <= {*keys}]
    raise UserError(
      f"{group}: {config.name} has no use for {given}; go back to the default ({back})"
      + (f", or take {' or '.join(users)}" if users else "")
    )


def _is_range(value: tuple) -> bool:
  return len(value) == 2 and all(map(is_number, value)) and 0 < value[0] <= value[1]


def is_number(value: Any) -> bool:
  """Whether value is an int or a float, no NaN, and nothing that a float cannot hold."""
  return type(value) in (int, float) and abs(value) < 2**63
