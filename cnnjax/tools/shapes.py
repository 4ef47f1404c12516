"""Stands in for the data of a run, to plan it: shapes and classes, no pixels and no memory."""

import numpy as np
from ml_collections import ConfigDict

from cnnjax import data, tasks
from cnnjax.data.crops import Crops
from cnnjax.data.split import Split
from cnnjax.errors import UserError

STEPS = 1000  # of an epoch with an unknown number of examples


def stand_in(
  config: ConfigDict, examples: int | None = None, classes: int | None = None
) -> tuple[ConfigDict, dict[str, Split], str]:
  """Returns the config of a run on arrays like its data, these arrays, and the data in words.

  Downloads and decodes nothing. A split of unknown size is taken to be streamed.

  Args:
    config: the whole config of the run.
    examples: of the training split; None takes its own number.
    classes: of missing data; None takes those of the data.

  Raises:
    UserError: neither the data nor the arguments say something that is needed.
  """
  config = config.copy_and_resolve_references()
  c = config.data
  name = c.name or c.path or c.npz or c.source
  counted, names, stored = _looked_at(c, classes)
  n = examples or counted
  if n is None and c.pipeline == "resident":
    raise UserError(f"the number of examples of {name} is unknown: give --examples=N")
  if n is None:
    c.pipeline = "streaming"
  height, width, channels = shape = Crops.of(c, stored).shape(c.image_size)
  text = f"{n:,} examples" if n else "an unknown number of examples (--examples), streamed"
  text = f"{name}, {height}x{width}x{channels}, {len(names)} classes, {text}"
  several = tasks.lookup(config.task.name).SEVERAL

  ramp = np.resize(np.arange(256, dtype=np.uint8), shape)  # blank ones would be refused

  def split(n: int) -> Split:
    labels = np.zeros((n, len(names)), np.uint8) if several else np.arange(n) % len(names)
    images = np.broadcast_to(ramp, (n, *shape))  # one image in all
    return Split.of(images, labels.astype(np.uint8 if several else np.int32), names)

  validation = c.validation and "validation"
  config = data.without_source(config)
  c = config.data
  c.long_tail, c.validation = None, validation
  c.mean, c.std = (0.5,) * channels, (0.5,) * channels
  splits = {"train": split(n or STEPS * config.batch_size), "test": split(1)}
  return config, splits | ({"validation": split(1)} if validation else {}), text


def _looked_at(
  config: ConfigDict, classes: int | None
) -> tuple[int | None, tuple[str, ...], tuple[int | None, int | None, int]]:
  """Returns (examples or None, class names, shape of stored images) of the training split."""
  if classes:
    return None, tuple(map(str, range(classes))), (None, None, config.channels or 3)
  try:
    if config.source == "tfds":
      from cnnjax.data import tfds  # late: a second of its own

      if (found := tfds.described(config)) is not None:
        return found
    data.check(config)
    config = config.copy_and_resolve_references()
    config.pipeline = "streaming"  # so that no image is decoded
    train = data.load(config, ("train",))["train"]
  except UserError as e:
    raise UserError(
      f"{e}; to plan without the data, say --classes=N --examples=N --config.data.image_size=PIXELS"
    ) from e
  return len(train), train.classes, train.shape
