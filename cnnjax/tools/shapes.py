"""Makes stand-ins for the data of a run, to plan it: shapes and classes without pixels."""

import numpy as np
from ml_collections import ConfigDict

from cnnjax import data, tasks
from cnnjax.data import fields
from cnnjax.data.examples import Examples
from cnnjax.data.split import LABELS, Arrays, Split
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
  counted, declared = _examples_and_fields(config, classes)
  n = examples or counted
  if n is None and c.pipeline == "resident":
    raise UserError(f"the number of examples of {name} is unknown: give --examples=N")
  if n is None:
    c.pipeline = "streaming"
  needs = fields.kinds_of(tasks.lookup(config.task.name).NEEDS)
  made = {k: f for k, f in declared.items() if f.kind in needs | {*LABELS}}
  if any(None in field.shape for field in fields.of_kind(made, "boxes").values()):
    raise UserError(f"the most boxes that an image of {name} has is unknown: give data.max_boxes")
  made = Examples.of(c, made).cropped(c.image_size)
  text = f"{n:,} examples" if n else "an unknown number of examples (--examples), streamed"
  height, width, channels = made["image"].shape
  names = next((field.classes for field in made.values() if field.classes), ())
  text = f"{name}, {height}x{width}x{channels}, {len(names)} classes, {text}"

  def split(n: int) -> Split:
    return Split.of_fields(Arrays(_arrays(made, n)), made)

  config = data.without_source(config)
  c = config.data
  c.long_tail = None
  c.mean, c.std = (0.5,) * channels, (0.5,) * channels
  splits = {"train": split(n or STEPS * config.batch_size), "test": split(1)}
  return config, splits | ({"validation": split(1)} if c.validation else {}), text


def _arrays(declared: fields.Fields, n: int) -> dict[str, np.ndarray]:
  """Returns the arrays of n examples, with one image for all, every class, and else zeros."""
  arrays = {}
  for name, (shape, dtype) in fields.arrays(declared).items():
    example = np.zeros(shape, dtype)
    if name == "image":  # blank ones would be refused
      example = np.resize(np.linspace(0, fields.WHITE[dtype], 256), shape).astype(dtype)
    arrays[name] = np.broadcast_to(example, (n, *shape))
    if name in declared and declared[name].kind == "label":
      arrays[name] = (np.arange(n) % len(declared[name].classes)).astype(dtype)
  return arrays


def _examples_and_fields(
  config: ConfigDict, classes: int | None
) -> tuple[int | None, fields.Fields]:
  """Returns (examples or None, fields) of the training split.

  `classes` stands for data that are not there: images of so many classes.
  """
  c = config.data
  if classes:
    multi_label = tasks.lookup(config.task.name).SEVERAL_LABELS
    label = (fields.multi_label if multi_label else fields.label)(map(str, range(classes)))
    return None, {"image": fields.image(None, None, c.channels or 3), "label": label}
  try:
    if c.source == "tfds":
      from cnnjax.data import tfds  # late: a second of its own

      if (declared := tfds.described(c)) is not None:
        return None, declared
    data.check(c)
    c = c.copy_and_resolve_references()
    c.pipeline = "streaming"  # so that no image is decoded
    task = config.task.name
    needs = {"needs": tasks.lookup(task).NEEDS, "who": f"task.name={task}"}
    train = data.load(c, ("train",), **needs)["train"]
  except UserError as e:
    raise UserError(
      f"{e}; to plan without the data, say --classes=N --examples=N --config.data.image_size=PIXELS"
    ) from e
  return len(train), train.fields
