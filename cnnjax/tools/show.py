"""Draws the input of the network: the images of a batch as loaded, and augmented."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import augment, data, tasks
from cnnjax.data import fields
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.runtime.paths import PathLike, to_path
from cnnjax.training import passes

COLUMNS = 8


def show(config: ConfigDict, out: PathLike, step: int = 0, images: int = 32) -> str:
  """Writes the first `images` of the batch of `step` as a grid: above as loaded, below augmented.

  The augmented ones are exactly those of training, before normalisation. Masks cover them in a
  colour for each class, boxes are frames. Titles are the classes, with their weights where they are
  mixed, and the values. Fields that the task does not read are shown too, unless an augmentation
  cannot act on them. Returns a description in words.

  Raises:
    UserError: matplotlib is not installed, or `out` cannot be written.
  """
  try:
    from matplotlib.figure import Figure  # late: of an extra
  except ImportError as e:
    raise UserError("pictures need matplotlib: pip install -e '.[plots]'") from e
  if images < 1 or step < 0:
    raise UserError(f"images={images} must be above 0, and step={step} at least 0")
  c = config.data
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  sharding.check_divides(config.batch_size, mesh)
  # The training split alone: `data.open_inputs` would decode those that are evaluated as well.
  skipped = data.Skipped(c.max_unreadable)
  split = data.load(c, ("train",), skipped, devices=mesh.size)["train"]
  split = _with_shown_fields(config, split)
  order, length = data.order_and_length(split, config)
  if step >= length.total:
    raise UserError(f"step {step:,} is past the end of the run, which has {length.total:,} steps")
  train = data.pipeline(split, c, mesh, skipped, order)
  before, after = _batches(config, train, step)
  images = min(images, len(before["image"]))
  rows = -(-images // COLUMNS)
  figure = Figure(figsize=(1.6 * COLUMNS, 1.9 * 2 * rows), layout="constrained")
  figure.suptitle(f"step {step}: above as loaded, below augmented", fontsize=9)
  axes = figure.subplots(2 * rows, COLUMNS, squeeze=False)
  for axis in axes.flat:
    axis.axis("off")
  for i in range(images):
    row, column = 2 * (i // COLUMNS), i % COLUMNS
    for offset, batch in ((0, before), (1, after)):
      _draw(axes[row + offset, column], {name: x[i] for name, x in batch.items()}, split)
  try:
    figure.savefig(to_path(out), dpi=110)
  except (OSError, ValueError) as e:
    raise UserError(f"cannot write {out}: {e}") from e
  size = "x".join(map(str, before["image"].shape[1:]))
  classes = f" of {len(split.classes)} classes" if split.classes else ""
  name = c.name or c.path or c.npz or c.source
  return (
    f"{name}, {len(split):,} training examples{classes}: {images} of step "
    f"{step:,} of {length.total:,}, {size}"
  )


def _kinds(declared: Mapping[str, fields.Field]) -> dict[str, fields.Kind]:
  """Returns the kinds of the fields to augment, with the targets of a label."""
  kinds = fields.kinds({name: declared[name] for name in declared if name != "label"})
  return {**kinds, **({"targets": "targets"} if "label" in declared else {})}


def _with_shown_fields(config: ConfigDict, split: data.Split) -> data.Split:
  """Returns the split with the fields to show."""
  needed = fields.kinds_of(tasks.lookup(config.task.name).NEEDS)
  for name, field in split.fields.items():
    kept = {k: f for k, f in split.fields.items() if k != name}
    if field.kind not in needed and field.kind != "label":
      try:
        augment.check(config.augment, _kinds(split.fields), split.shape[2])
      except UserError:
        split = split.with_fields(*kept)
  return split


def _batches(
  config: ConfigDict, train: data.Resident | data.Streaming, step: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Returns the batch of `step` as loaded, and augmented with the `targets` of a label."""
  split, operations = train.split, augment.create(config.augment)
  kinds, task = _kinds(split.fields), tasks.lookup(config.task.name)
  if split.has_label and issubclass(task, tasks.LabelTask):
    task.check_data(split.fields)
  multi_label = split.has_label and split.label.kind == "multi_label"
  task_of_labels = tasks.MultiLabel if multi_label else tasks.Classification
  of_labels = task_of_labels(max(1, len(split.classes)))

  @jax.jit
  def both(feed):
    batch = train.take(feed, step)
    if split.has_label:
      batch["targets"] = of_labels.targets(batch["label"])
    after, _ = passes.augmented_fields(operations, config.seed, step, batch, kinds)
    return batch, after

  with contextlib.closing(train):
    return jax.device_get(both(train.feed(step)))


def _draw(axis: Any, example: dict[str, np.ndarray], split: data.Split) -> None:
  """Draws an image with its masks, boxes and title."""
  picture = example["image"]
  height, width, bands = picture.shape
  shown = picture[..., :3] if bands >= 3 else picture[..., 0]
  white = fields.WHITE[str(picture.dtype)]
  if shown.ndim == 3 and picture.dtype != np.uint8:
    shown, white = np.clip(shown / np.float32(white), 0, 1), 1
  grey = {"cmap": "gray", "vmin": 0, "vmax": white}
  axis.imshow(shown, **(grey if shown.ndim == 2 else {}), interpolation="nearest")
  title = [_title(example["targets"], split.classes)] if "targets" in example else []
  for name, field in split.fields.items():
    if field.kind == "mask":
      mask = np.ma.masked_equal(example[name], field.ignore)
      colours = {"cmap": "tab20", "vmin": 0, "vmax": 19}
      axis.imshow(np.ma.mod(mask, 20), **colours, alpha=0.5, interpolation="nearest")
    elif field.kind == "boxes":
      labels, valid = example[fields.label_of(name)], example[fields.valid_of(name)]
      for i in np.flatnonzero(valid):
        sides = example[name][i] * (height, width, height, width) - 0.5
        _frame(axis, sides, field.classes[labels[i]], f"C{labels[i] % 10}")
    elif field.kind == "value":
      title.append(f"{name} {', '.join(f'{value:.4g}' for value in np.ravel(example[name]))}")
  axis.set_title("\n".join(title), fontsize=7, parse_math=False)


def _frame(axis: Any, sides: np.ndarray, name: str, colour: str) -> None:
  """Draws a box, of which `sides` are top, left, bottom and right in pixels."""
  top, left, bottom, right = sides
  axis.plot([left, right, right, left, left], [top, top, bottom, bottom, top], colour, lw=1)
  axis.text(left, top, name, fontsize=5, color=colour, va="bottom", parse_math=False)


def _title(target: np.ndarray, classes: tuple[str, ...]) -> str:
  """Returns the classes of a target in words, the heaviest first."""
  places = [i for i in np.argsort(-target, kind="stable") if target[i] > 0.005][:3]
  whole = all(target[i] == 1 for i in places)
  return "\n".join(classes[i] if whole else f"{classes[i]} {target[i]:.2f}" for i in places)
