"""Images in: a source gives splits, a pipeline gives the batch of any step.

The batch of a step is a pure function of (config, seed, step) in both pipelines: it does not know
the number of devices, processes, threads or restarts.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax.config import durations, keys
from cnnjax.data import history, holdout, identity, imbalance, levels, names
from cnnjax.data.arrays import from_arrays
from cnnjax.data.crops import Crops
from cnnjax.data.history import History
from cnnjax.data.joined import join
from cnnjax.data.order import Order
from cnnjax.data.resident import Resident, check_fits, in_gib
from cnnjax.data.split import Skipped, Split
from cnnjax.data.streaming import Streaming
from cnnjax.errors import UserError, listed, unknown
from cnnjax.runtime import processes, sharding

# Each is a module of this package with
#   check(config): raises UserError for names that are wrong, before anything is downloaded;
#   load(config, split): the `Split` of a split expression.
SOURCES = ("arrays", "digits", "folder", "synthetic", "tfds")
# Keys that have no effect with other sources.
_ONLY = {
  "name": ("tfds",), "data_dir": ("tfds",), "path": ("folder",), "range": ("folder",),
  "group": ("folder",),  "alpha": ("folder", "tfds"), "orientation": ("folder", "tfds"),
}  # fmt: skip

__all__ = [
  "Crops", "History", "Inputs", "Order", "Resident", "Skipped", "Split", "Streaming", "check",
  "check_classes", "describe", "from_arrays", "has_splits", "history", "load", "open_inputs",
  "pipeline", "whole", "with_given", "without_source",
]  # fmt: skip


def _source(name: str):
  if name not in SOURCES:
    raise unknown("data source", name, SOURCES)
  return importlib.import_module(f"cnnjax.data.{name}")


def check(config: ConfigDict) -> None:
  """Raises UserError for a source, data set or split that is not there; downloads nothing."""
  source = _source(config.source)
  for key, sources in _ONLY.items():
    if config[key] not in (None, "", "drop", "ignore") and config.source not in sources:
      raise UserError(
        f"data.{key}={config[key]!r} goes with data.source={' or '.join(sources)}, and data.source "
        f"is {config.source!r}"
      )
  if config.progressive and config.image_size is None:
    raise UserError("data.progressive grows to data.image_size; set it as well")
  if config.progressive and max(config.progressive) >= config.image_size:
    raise UserError(
      f"data.progressive {tuple(config.progressive)} has sizes that are not below "
      f"data.image_size={config.image_size}, which it ends with"
    )
  if config.crop != "center" and config.image_size is None:
    raise UserError(f"data.crop={config.crop} needs the size of the crop: data.image_size")
  if config.crop != "center" and config.pipeline == "resident":
    raise UserError(
      f"data.crop={config.crop} is made on the host, while streaming; for a resident set put "
      "random_resized_crop into augment"
    )
  if config.eval_crop != 1 and config.image_size is None and config.eval_size is None:
    raise UserError("data.eval_crop scales images: set data.image_size or data.eval_size as well")
  source.check(config)


def load(
  config: ConfigDict,
  splits: tuple[str, ...] = ("train", "validation", "test"),
  skipped: Skipped | None = None,
  given: dict[str, Split] | None = None,
  *,
  evaluating: bool = False,
  devices: int = 1,
  before: History | None = None,
) -> dict[str, Split | None]:
  """The splits asked for; "validation" is None where the config has none.

  Splits given as a share or a number are held out of the training split, see `holdout`; they are
  the same for every seed of a run, so that seeds compare. Those that stay on the device are
  decoded here, and images that cannot be read are left out and named in `skipped`.

  Args:
    config: `config.data`.
    splits: which of "train", "validation" and "test".
    skipped: where images that cannot be read are named.
    given: what `from_arrays` made, in the place of a source.
    evaluating: the training split is cropped as those that are evaluated.
    devices: that a resident split lies on, in parts if `config.shard_resident`.
    before: of the run, where it has trained: what it holds out stays what it was.
  """
  skipped = Skipped(config.max_unreadable) if skipped is None else skipped
  held = _held_out(config, given)
  wanted = {*splits, "train"} if {"train", *held} & {*splits} else {*splits}
  found = {
    key: _loaded(config, config[key], given) for key in wanted - {*held} if config[key] is not None
  }
  if "train" in found:
    others = found.keys() - {"train"}
    found |= {name: _with_lacking(found[name], found["train"]) for name in others}
    found |= _parted(found["train"], held, config, before)
  return {
    name: _settled(
      found.get(name), config, skipped, devices, train=name == "train" and not evaluating
    )
    for name in splits
  }


def whole(
  config: ConfigDict,
  classes: Sequence[str],
  skipped: Skipped,
  given: dict[str, Split] | None = None,
  *,
  several: bool,
  devices: int = 1,
) -> Split:
  """All that the data have, of every split, for a run on `classes`; arguments as of `load`.

  Of a folder or list also the splits that the config does not name. `several`: an image of the
  run may have several labels.
  """
  if given is None and config.source == "folder":
    parts = [_source("folder").whole(config)]
  else:
    named = [config[key] for key in ("train", "validation", "test") if isinstance(config[key], str)]
    parts = [_loaded(config, split, given) for split in given or named]
  joined = join(parts, classes, several=several)
  return _settled(joined, config, skipped, devices, train=False)


def _parted(
  train: Split, held: dict[str, float | int], config: ConfigDict, before: History | None
) -> dict[str, Split]:
  """What is held out of the training split, and the rest of it, which may be a long tail."""
  seed, found = config.split_seed, {}
  by = (before and before.by) or train.by
  older = before is not None and before.older
  for key, amount in held.items():
    sides = before.sides(key, held) if before else ()
    carve = holdout.carve_by_place if older else holdout.carve
    train, found[key] = carve(train, amount, key, seed, by, *sides)
  if config.long_tail:
    labels = train.labels
    numbers = (
      holdout.tail_by_place(labels, seed)
      if older
      else identity.drawn(train.ids(by), "long_tail", seed)
    )
    train = train.take(imbalance.long_tail(labels, config.long_tail, numbers))
  return {"train": train, **found}


def _with_lacking(split: Split, train: Split) -> Split:
  """Notes the classes that `train` has and `split` lacks, unless labels have to be read for it."""
  if any("labels" not in vars(one.records) for one in (split, train)):
    return split
  lacking = imbalance.lacking(train.labels, split.labels, split.classes)
  note = ", ".join(filter(None, (split.note, lacking and f"without {lacking}")))
  return dataclasses.replace(split, note=note)


def _held_out(config: ConfigDict, given: dict[str, Split] | None) -> dict[str, float | int]:
  """The share or number that is held out of train for "test", then for "validation".

  The test split comes first, so that it is the same with and without a validation split.
  """
  amounts = {key: config[key] for key in ("test", "validation")}
  if given is None and config.source == "folder":
    amounts["test"] = _source("folder").test_share(config) or config.test
  return {key: amount for key, amount in amounts.items() if isinstance(amount, int | float)}


def _loaded(config: ConfigDict, split: str, given: dict[str, Split] | None) -> Split:
  """The split of a name or an expression."""
  if given is None:
    return _source(config.source).load(config, split)
  if split not in given:
    raise UserError(f"the split {split!r} is not among the arrays given: {', '.join(given)}")
  return given[split]


def _settled(
  split: Split | None, config: ConfigDict, skipped: Skipped, devices: int, *, train: bool
) -> Split | None:
  """The split decoded, if it is to stay on the device; else as it is."""
  if split is None or not _stays(split, config, devices, train=train):
    return split
  crops, size = Crops.of(config, split.shape), _size(config, train=train)
  check_fits((len(split), *crops.shape(size)), _max_gib(config, devices))
  image = lambda data: crops.whole(data, size) if train else crops.evaluate(data, size)
  return split.decoded(image, skipped, replace=train)


def _size(config: ConfigDict, *, train: bool) -> int | None:
  return config.image_size if train else config.eval_size or config.image_size


def _max_gib(config: ConfigDict, devices: int) -> float:
  """What may stay on all devices together, where each holds a part; else on each."""
  return config.max_gib * (devices if config.shard_resident else 1)


def _stays(split: Split, config: ConfigDict, devices: int, *, train: bool) -> bool:
  """Whether a split stays on the device; the answer is the same once it is decoded."""
  if config.pipeline != "auto":
    return config.pipeline == "resident"
  shape = Crops.of(config, split.shape).shape(_size(config, train=train))
  fits = in_gib((len(split), *shape)) <= _max_gib(config, devices)
  return fits and not (train and config.crop != "center")


def pipeline(
  split: Split,
  config: ConfigDict,
  mesh: Mesh,
  skipped: Skipped,
  order: Order | None = None,
  seeds: Sequence[int] = (),
) -> Resident | Streaming:
  """Batches of a split that `load` gave, of one that is trained on in its `order`.

  `seeds`: of the runs that are trained as one program, where there are several.
  """
  if _stays(split, config, mesh.size, train=order is not None):
    return Resident(split, config, mesh, order, [order.with_seed(seed) for seed in seeds])
  if seeds:
    raise UserError(
      "several runs in one program (seeds, rates) take their batches from a training split that "
      "stays on the device, and this one is streamed: raise data.max_gib, or train them one by one"
    )
  return Streaming(split, config, mesh, skipped, order)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What a run trains and evaluates on, and what follows from it."""

  train: Resident | Streaming
  evaluations: dict[str, Resident | Streaming]  # the splits that are evaluated
  skipped: Skipped  # images that cannot be read
  classes: tuple[str, ...]
  counts: np.ndarray | None  # training examples of each class, where the loss asks for them
  several: bool  # an image may have several labels
  image_shape: tuple[int, int, int]  # that the run ends with
  sizes: tuple[int, ...]  # others that the model sees
  meta: dict[str, tuple]  # mean and deviation per channel, class names; for checkpoints
  total: int  # steps of the whole run
  steps_per_epoch: int
  phase: int  # steps with images of one size
  to_steps: Callable[[int | float | str, str], int]  # (duration, its key)
  summary: dict[str, str]  # in words

  def history(self, before: History | None) -> tuple[History, dict[str, str]]:
    """See `history.of_run`; may read all images. UserError where other processes have others."""
    others = {name: batches.split for name, batches in self.evaluations.items()}
    if processes.several():
      by = (before and before.by) or self.train.split.by
      splits = {"train": self.train.split, **others}.items()
      processes.check_same({f"{key} split": (by, s.ids(by).tobytes()) for key, s in splits})
    return history.of_run(before, self.train.split, others)


def open_inputs(
  config: ConfigDict,
  mesh: Mesh,
  given: dict[str, Split] | None = None,
  *,
  seeds: Sequence[int] = (),
  counted: bool = False,
  before: History | None = None,
) -> Inputs:
  """Loads the splits of a run and starts its pipelines. Takes the whole config.

  `seeds`: of the runs that are trained as one program, where there are several. `counted`: the
  loss asks for the number of examples of each class. `before`: what the run was trained on so far.

  Raises:
    UserError: the data do not fit the config.
  """
  c = config.data
  sharding.check_divides(config.batch_size, mesh, config.accumulate)
  skipped = Skipped(c.max_unreadable)
  splits = {
    name: split
    for name, split in load(
      c, skipped=skipped, given=given, devices=mesh.size, before=before
    ).items()
    if split is not None
  }
  train = splits["train"]
  order = Order.of(train, c, config.batch_size, config.seed)
  to_steps = lambda duration, key: durations.in_steps(
    duration, key, order.steps_per_epoch, config.batch_size
  )
  total = max(1, to_steps(config.epochs, "epochs"))
  order = order.for_run(total)
  crops = Crops.of(c, train.shape)
  counts = levels.count(c, train)
  mean, std = levels.normalization(c, counts)
  for name in splits.keys() - {"train"}:
    levels.compare(c, name, splits[name], mean)
  batches = pipeline(train, c, mesh, skipped, order, seeds)
  if (config.steps_per_dispatch or 1) > 1 and isinstance(batches, Streaming):
    raise UserError(
      f"steps_per_dispatch={config.steps_per_dispatch} needs the training split on the device, and "
      "it is streamed, a batch a step: set steps_per_dispatch=1, or data.pipeline=resident"
    )
  return Inputs(
    train=batches,
    evaluations={
      name: pipeline(splits[name], c, mesh, skipped)
      for name in ("validation", "test")
      if name in splits
    },
    skipped=skipped,
    classes=train.classes,
    counts=imbalance.counts(train.listed, len(train.classes)) if counted else None,
    several=np.ndim(train[0][1]) == 1,
    image_shape=crops.shape(c.image_size),
    sizes=tuple({*c.progressive, c.eval_size} - {None, c.image_size}),
    meta={
      "mean": mean,
      "std": std,
      "classes": train.classes,
      "image_shape": crops.shape(c.image_size),
    },
    total=total,
    steps_per_epoch=order.steps_per_epoch,
    phase=order.phase,
    to_steps=to_steps,
    summary={
      "data": describe(c, splits),
      **train.remarks,
      "pixels": levels.describe(c, train, counts),
      **_imbalance(train),
      "input": batches.describe(),
      "length": f"{total:,} steps, {order.steps_per_epoch:,} an epoch",
    },
  )


def with_given(config: ConfigDict, given: dict[str, Split] | None) -> ConfigDict:
  """The config of a run on `given` arrays, which no source has."""
  if given is None:
    return config
  config = config.copy_and_resolve_references()
  config.data.source = "arrays"
  if "test" not in given and config.data.test == "test":
    raise UserError("there is no test split: give one, or hold out a share, as data.test=0.2")
  for key in ("validation", "test"):
    if key in given and isinstance(config.data[key], int | float):
      raise UserError(
        f"data.{key}={config.data[key]} holds a part of train out, and a {key} split is given too"
      )
  if "validation" in given:
    config.data.validation = "validation"
  return config


def has_splits(config: ConfigDict) -> bool:
  """Whether the data of a run say what is trained on and what tested."""
  return config.source != "folder" or _source("folder").has_splits(config.path)


def without_source(config: ConfigDict) -> ConfigDict:
  """The config of a run as if on arrays: to check the rest of it where no split need be there."""
  config = config.copy_and_resolve_references()
  standard = keys.default().data
  config.data.update({key: standard[key] for key in (*_ONLY, "train", "validation", "test")})
  config.data.source = "arrays"
  return config


def check_classes(trained: Sequence[str], found: Sequence[str]) -> None:
  """Raises UserError unless a run that was `trained` on these classes finds the same ones."""
  before, now = (list(map(names.same, classes)) for classes in (trained, found))
  if before == now:
    return
  if sorted(before) == sorted(now):
    one, other = next(pair for pair in zip(trained, found, strict=True) if pair[0] != pair[1])
    raise UserError(
      f"the run was trained on the same {len(trained)} classes in another order: where it has "
      f"{one!r} they have {other!r} (numbers with a sign or a point used to be sorted as text): "
      "train it anew in another workdir"
    )
  named = lambda classes, others: listed([repr(c) for c in classes if names.same(c) not in others])
  differ = {"lack": named(trained, now), "also have": named(found, before)}
  words = " and ".join(f"{verb} {some}" for verb, some in differ.items() if some)
  raise UserError(
    f"the run was trained on other classes ({len(trained)}) than these data have ({len(found)}): "
    f"these data {words}. Are they the data of this run?"
  )


def describe(config: ConfigDict, splits: dict[str, Split]) -> str:
  """The data in words."""
  name = config.name or config.path or config.source
  train = splits["train"]
  height, width, channels = Crops.of(config, train.shape).shape(config.image_size)
  sizes = ", ".join(
    f"{len(split):,} {key}" + (f" ({split.note})" if split.note else "")
    for key, split in splits.items()
  )
  carved = "" if "validation" in splits else " (no validation split: no best checkpoint)"
  return f"{name}, {height}x{width}x{channels}, {len(train.classes)} classes: {sizes}{carved}"


def _imbalance(train: Split) -> dict[str, str]:
  """The classes in words, unless the labels would have to be read for it."""
  if not train.knows_labels:
    return {}
  counts = imbalance.counts(train.listed, len(train.classes))
  return {"classes": imbalance.describe(counts, train.classes)}
