"""Loads the splits of a run: from its source, held out of the training split, or given.

Decodes the splits that stay on the device, see `placement`, and reads no image of the others.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.config import keys
from cnnjax.data import arrays, fields, holdout, identity, imbalance, placement, sources
from cnnjax.data.crops import limits
from cnnjax.data.fields import Need
from cnnjax.data.history import History
from cnnjax.data.joined import join
from cnnjax.data.split import LABELS, Skipped, Split
from cnnjax.errors import UserError


def check(config: ConfigDict) -> None:
  """Raises UserError for an unknown source, data set or split; downloads nothing."""
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
      f"data.crop={config.crop} is made on the host, while streaming; for a resident split put "
      "random_resized_crop into augment"
    )
  if config.eval_crop != 1 and config.image_size is None and config.eval_size is None:
    raise UserError("data.eval_crop scales images: set data.image_size or data.eval_size as well")
  sources.check(config)


def load(
  config: ConfigDict,
  splits: tuple[str, ...] = ("train", "validation", "test"),
  skipped: Skipped | None = None,
  given: dict[str, Split] | None = None,
  *,
  evaluating: bool = False,
  devices: int = 1,
  before: History | None = None,
  needs: Iterable[Need] | None = None,
  who: str = "this run",
) -> dict[str, Split | None]:
  """Returns the splits by name; "validation" is None where the config has none.

  Splits given as a share or a number are held out of the training split, see `holdout`; they are
  the same for every seed of a run, so that seeds compare. Resident splits are decoded here; images
  that cannot be read are left out and named in `skipped`.

  Args:
    config: `config.data`.
    splits: those to load of "train", "validation" and "test".
    skipped: collects the images that cannot be read.
    given: the splits of `from_arrays`, instead of a source.
    evaluating: crops the training split like the others.
    devices: the number of devices that hold a resident split, in parts if `config.shard_resident`.
    before: the history of a run that resumes: the same examples stay held out.
    needs: kinds of fields to load, and a label where there is one; None loads all.
    who: the task that needs them, in words.

  Raises:
    UserError: the data do not fit the config, or lack a kind that is needed.
  """
  skipped = Skipped(config.max_unreadable) if skipped is None else skipped
  held = _held_out(config, given)
  wanted = {*splits, "train"} if {"train", *held} & {*splits} else {*splits}
  by_name = {
    key: _loaded(config, config[key], given) for key in wanted - {*held} if config[key] is not None
  }
  if "train" in by_name:
    others = by_name.keys() - {"train"}
    by_name |= {name: _with_lacking(by_name[name], by_name["train"]) for name in others}
    by_name |= _parted(by_name["train"], held, config, before)
  if needs is not None:
    by_name = {name: _needed(split, tuple(needs), who) for name, split in by_name.items()}
  by_name = _with_room(by_name)
  return {
    name: placement.decode_if_resident(
      by_name.get(name), config, skipped, devices, train=name == "train" and not evaluating
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
  needs: Iterable[Need] | None = None,
  who: str = "this run",
) -> Split:
  """Returns all examples of all splits, for a run on `classes`; arguments as of `load`.

  A folder or list also gives the splits that the config does not name. With `several` an image of
  the run may have more than one label.
  """
  if given is None and config.source == "folder":
    parts = [sources.module("folder").whole(config)]
  else:
    named = [config[key] for key in ("train", "validation", "test") if isinstance(config[key], str)]
    parts = [_loaded(config, split, given) for split in given or named]
  joined = join(parts, classes, several=several)
  joined = joined if needs is None else _needed(joined, tuple(needs), who)
  joined = _with_room({"all": joined})["all"]
  return placement.decode_if_resident(joined, config, skipped, devices, train=False)


def _needed(split: Split, needs: tuple[Need, ...], who: str) -> Split:
  """Returns the split with the fields of the needed kinds, and its label, which costs little."""
  try:
    fields.check(needs, split.fields, who)
  except UserError as e:
    if (why := split.remarks.get("boxes", "")).startswith("not used"):
      raise UserError(f"{e}; the boxes of these data are {why}") from None
    raise
  return split.with_fields(*fields.of_kind(split.fields, *fields.kinds_of(needs), *LABELS))


def _with_room(splits: dict[str, Split]) -> dict[str, Split]:
  """Returns the splits with room for the most boxes that an example has.

  Where their source does not know that number, it reads all boxes, and decodes no image.
  """
  unknown = {
    name
    for split in splits.values()
    for name, field in fields.of_kind(split.declared or {}, "boxes").items()
    if field.shape[0] is None
  }
  for name in unknown:
    most = max(1, *(split.most_boxes(name) for split in splits.values()))
    splits = {key: split.with_room(name, most) for key, split in splits.items()}
  return splits


def _parted(
  train: Split, held: dict[str, float | int], config: ConfigDict, before: History | None
) -> dict[str, Split]:
  """Returns the held-out splits and the rest of the training split, which may be a long tail."""
  seed, held_out = config.split_seed, {}
  by = (before and before.by) or train.by
  older = before is not None and before.older
  for key, amount in held.items():
    sides = before.sides(key, held) if before else ()
    train, held_out[key] = holdout.carve(train, amount, key, seed, by, *sides, older=older)
  if config.long_tail:
    if not train.has_label:
      raise UserError(
        f"data.long_tail={config.long_tail:g} goes by the class of each image, and these data have "
        "no labels: leave it at None"
      )
    labels = train.labels
    numbers = (
      holdout.tail_by_place(labels, seed)
      if older
      else identity.drawn(train.ids(by), "long_tail", seed)
    )
    train = train.take(imbalance.long_tail(labels, config.long_tail, numbers))
  return {"train": train, **held_out}


def _with_lacking(split: Split, train: Split) -> Split:
  """Notes the classes of `train` that `split` lacks, unless it would have to read labels."""
  if not (split.knows_labels and train.knows_labels):
    return split
  lacking = imbalance.lacking(train.labels, split.labels, split.classes)
  note = ", ".join(filter(None, (split.note, lacking and f"without {lacking}")))
  return dataclasses.replace(split, note=note)


def _held_out(config: ConfigDict, given: dict[str, Split] | None) -> dict[str, float | int]:
  """Returns the share or number held out of the training split for "test", then "validation".

  The test split comes first, so that it is the same with and without a validation split.
  """
  amounts = {key: config[key] for key in ("test", "validation")}
  if given is None and config.source == "folder":
    amounts["test"] = sources.module("folder").test_share(config) or config.test
  return {key: amount for key, amount in amounts.items() if isinstance(amount, int | float)}


def _loaded(config: ConfigDict, split: str, given: dict[str, Split] | None) -> Split:
  """Returns the split of a name or an expression."""
  if given is None:
    return sources.load(config, split)
  if split not in given:
    raise UserError(f"the split {split!r} is not among the arrays given: {', '.join(given)}")
  return arrays.in_range(given[split], limits(config))


def with_given(config: ConfigDict, given: dict[str, Split] | None) -> ConfigDict:
  """Returns the config of a run on `given` arrays, which has no source."""
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
  """Returns whether the data of a run have splits of their own."""
  return config.source != "folder" or sources.module("folder").has_splits(config.path)


def without_source(config: ConfigDict) -> ConfigDict:
  """Returns the config of a run as if on arrays, to check its other keys without any data."""
  config = config.copy_and_resolve_references()
  standard = keys.default().data
  of_sources = [name.removeprefix("data.") for name in registry.keys_of("source")]
  config.data.update({key: standard[key] for key in (*of_sources, "train", "test")})
  config.data.update(source="arrays", validation=config.data.validation and "validation")
  return config
