"""The keys of data and augmentation. `registry` runs this file without the room."""

from cnnjax.registry import (
  ABOVE_0,
  ABOVE_0_TO_1,
  AT_LEAST_0,
  AT_LEAST_1,
  SEED,
  Key,
  Rule,
  declare,
  is_number,
)

HELD_OUT: Rule = (
  lambda v: isinstance(v, str) or (0 < v < 1 if isinstance(v, float) else v > 0),
  "a share between 0 and 1, a number of examples, or a split",
)
SIZES: Rule = (lambda v: all(type(x) is int and x > 0 for x in v), "sizes in pixels, above 0")
CHANNELS: Rule = (lambda v: v in (1, 3), "1 or 3")
BITS: Rule = (
  lambda v: (
    0 < v <= 32 if type(v) is int else len(v) == 2 and all(map(is_number, v)) and v[0] < v[1]
  ),
  "a number of bits up to 32, or the values of black and white, such as (0, 4095)",
)
CLASSES: Rule = (
  lambda v: v > 1 if isinstance(v, int) else all(isinstance(name, str) for name in v),
  "names, or a number above 1",
)
NUMBERS: Rule = (lambda v: all(map(is_number, v)), "a number per channel")
NUMBERS_ABOVE_0: Rule = (
  lambda v: all(is_number(x) and x > 0 for x in v),
  "a number above 0 per channel",
)


def _is_range(v: tuple) -> bool:
  return len(v) == 2 and all(map(is_number, v)) and 0 < v[0] <= v[1]


SHARES: Rule = (lambda v: _is_range(v) and v[1] <= 1, "two shares in order, in (0, 1]")
RANGE: Rule = (_is_range, "two numbers above 0, in order")

declare(
  "data",
  source=Key("digits", "digits (embedded), folder, npz, tfds, synthetic; arrays from Python"),
)

declare(
  "data",
  kind="source",
  name=Key(
    None, 'tfds: the data set, as "cifar10", "mnist:3.0.1" or "name/config"', types=str, idle=("",)
  ),
  data_dir=Key(
    None,
    "tfds: folder of the data sets; None: TFDS's default",
    types=str,
    idle=("",),
    may_change=True,
  ),
  path=Key(
    None,
    "folder: with PATH/train/<class>/*.jpg, PATH/<class>/*.jpg; or a CSV, JSONL",
    types=str,
    idle=("",),
    may_change=True,
  ),
  npz=Key(
    None,
    "npz: a .npz file, or a folder of .npy files, of named arrays; see cnnjax/data/npz.py",
    types=str,
    idle=("",),
    may_change=True,
  ),
)

declare(
  "data",
  train=Key("train", 'split to train on; with tfds any expression, such as "train[:90%]"'),
  validation=Key(
    None,
    "None, a share (0.1) or number (5000) of train, or a split",
    types=(float, int, str),
    rule=HELD_OUT,
  ),
  test=Key(
    "test",
    "split of the final result, never used to choose; also a share or number",
    types=(str, float, int),
    rule=HELD_OUT,
  ),
)

declare(
  "data",
  kind="source",
  group=Key(
    None,
    "folder: groups that a hold-out never parts: a column, a pattern of paths",
    types=str,
    idle=("",),
  ),
)

declare(
  "data",
  split_seed=Key(0, "of held-out shares and numbers, and of long_tail", rule=SEED),
  long_tail=Key(
    None,
    "keep a long tail of train: the largest class over the smallest, as 100",
    types=float,
    rule=AT_LEAST_1,
  ),
  image_size=Key(
    None, "side of square training images in pixels; None: as stored", types=int, rule=ABOVE_0
  ),
  progressive=Key(
    (), "smaller sizes to begin with, in equal parts of the run: (128, 160)", rule=SIZES
  ),
  channels=Key(None, "1 or 3; None: those of the data set; 3 for files", types=int, rule=CHANNELS),
)

declare(
  "data",
  kind="source",
  orientation=Key(
    None,
    "EXIF orientation: apply, ignore; None: apply to photos of a folder",
    types=str,
    choices=("apply", "ignore"),
    idle=("ignore",),
    before=("ignore", "data.source", "folder"),
  ),
  alpha=Key(
    "drop",
    "transparency: drop (keep the colour below), white, black",
    choices=("drop", "white", "black"),
  ),
  range=Key(
    None,
    "files over 8 bits: bits in use (12), or (low, high); None: the upper 8",
    types=(int, tuple),
    rule=BITS,
  ),
  dtype=Key(
    None,
    "of images from files: uint8, uint16, float32; None: uint8",
    types=str,
    choices=("uint8", "uint16", "float32"),
  ),
  masks=Key(
    None,
    'folder: path of the mask of an image: "{folder}/../masks/{name}.png"',
    types=str,
    idle=("",),
  ),
  classes=Key(
    None,
    "of masks: names or number; None: those in the training masks",
    types=(tuple, int),
    rule=CLASSES,
  ),
  masks_white=Key(
    None,
    "of masks, 255: ignore, class (it is class 1); None: class, if all else is 0",
    types=str,
    choices=("ignore", "class"),
  ),
  max_boxes=Key(
    None,
    "room for boxes an image; None: the most that one has; tfds counts them",
    types=int,
    rule=ABOVE_0,
  ),
)

declare(
  "data",
  crop=Key(
    "center",
    "for training: center, random_resized (arXiv:1409.4842; streaming)",
    choices=("center", "random_resized"),
  ),
  crop_scale=Key(
    (0.08, 1.0), "random_resized: share of the area", rule=SHARES, needs="data.crop=random_resized"
  ),
  crop_ratio=Key(
    (3 / 4, 4 / 3),
    "random_resized: width over height",
    rule=RANGE,
    needs="data.crop=random_resized",
  ),
  antialias=Key(
    False,
    "random_resized: filter when a crop shrinks; slower",
    needs="data.crop=random_resized",
  ),
  interpolation=Key(
    "bilinear",
    "nearest, bilinear, bicubic, lanczos, area",
    choices=("nearest", "bilinear", "bicubic", "lanczos", "area"),
  ),
  eval_size=Key(
    None, "side of square evaluation images in pixels; None: image_size", types=int, rule=ABOVE_0
  ),
  eval_crop=Key(
    1.0, "evaluation: the crop over the short side, as 0.875 on ImageNet", rule=ABOVE_0_TO_1
  ),
  mean=Key(
    None,
    "per channel, of images in [0, 1]; None: of the training split",
    types=tuple,
    rule=NUMBERS,
  ),
  std=Key(None, "likewise", types=tuple, rule=NUMBERS_ABOVE_0),
  sampling=Key(
    "uniform",
    "of classes: oversample, undersample, class_balanced, square_root",
    choices=("uniform", "oversample", "undersample", "class_balanced", "square_root"),
  ),
  repeats=Key(
    1, "copies of an example in a batch, augmented differently (arXiv:1901.09335)", rule=ABOVE_0
  ),
  remainder=Key(
    "drop",
    "last incomplete batch of an epoch: drop, pad (with other examples)",
    choices=("drop", "pad"),
  ),
  pipeline=Key(
    "auto",
    "resident (on the device), streaming; auto: resident if it fits",
    choices=("auto", "resident", "streaming"),
  ),
  max_gib=Key(8.0, "largest split to keep on a device, in GiB", rule=ABOVE_0),
  shard_resident=Key(False, "split a resident split over the devices", may_change=True),
  threads=Key(
    None,
    "streaming: threads that decode images; None: one per core",
    types=int,
    rule=ABOVE_0,
    may_change=True,
  ),
  workers=Key(
    0,
    "streaming: processes that decode, each with `threads` threads; 0: none",
    rule=AT_LEAST_0,
    may_change=True,
  ),
  max_unreadable=Key(
    10,
    "unreadable images to skip at most; the workdir names them",
    rule=AT_LEAST_0,
    may_change=True,
  ),
)

declare(
  "data.synthetic",
  train_examples=Key(1024, "of the training split", rule=ABOVE_0),
  test_examples=Key(256, "of the test split", rule=ABOVE_0),
  num_classes=Key(10, "classes", rule=ABOVE_0),
  image_size=Key(32, "pixels, square", rule=ABOVE_0),
  channels=Key(3, "1: grey, 3: colour", rule=ABOVE_0),
)

declare(
  "",
  augment=Key(
    None, 'in order, such as "pad_crop(4) | flip | mixup(0.2)"; see cnnjax/augment', types=str
  ),
)
