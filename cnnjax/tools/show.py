"""A picture of what the network will see: the images of a batch as they come, and augmented."""

import contextlib

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import augment, data, tasks
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.runtime.paths import PathLike, to_path
from cnnjax.training import steps

COLUMNS = 8


def show(config: ConfigDict, out: PathLike, step: int = 0, images: int = 32) -> str:
  """Writes the first `images` of the batch of `step` as a grid: above as loaded, below augmented.

  The augmented ones are exactly those of training, before they are normalised. Titles are the
  classes, with their weights where they are mixed. Returns what is shown in words.

  Raises:
    UserError: matplotlib is not installed, or `out` cannot be written.
  """
  try:
    from matplotlib.figure import Figure  # late: of an extra
  except ImportError as e:
    raise UserError("pictures need matplotlib: pip install -e '.[plots]'") from e
  if images < 1 or step < 0:
    raise UserError(f"images={images} has to be above 0, and step={step} at least 0")
  c = config.data
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  sharding.check_divides(config.batch_size, mesh)
  # The training split alone: `data.open_inputs` would decode those that are evaluated as well.
  skipped = data.Skipped(c.max_unreadable)
  split = data.load(c, ("train",), skipped, devices=mesh.size)["train"]
  order = data.Order.of(split, c, config.batch_size, config.seed)
  total = data.Length.of(order, config.epochs).total
  if step >= total:
    raise UserError(f"step {step:,} is past the end of the run, which has {total:,} steps")
  task = tasks.create(config.task, len(split.classes))
  task.check_labels(np.ndim(split[0][1]) == 1, split.classes)
  operations = augment.create(config.augment)
  train = data.pipeline(split, c, mesh, skipped, order.for_run(total))

  @jax.jit
  def both(feed):
    batch = train.take(feed, step)
    seen, targets, _ = steps.augmented(task, operations, config.seed, step, batch)
    return batch["image"], task.targets(batch["label"]), seen, targets

  with contextlib.closing(train):
    before, labels, after, targets = jax.device_get(both(train.feed(step)))
  images = min(images, len(before))
  rows = -(-images // COLUMNS)
  figure = Figure(figsize=(1.6 * COLUMNS, 1.9 * 2 * rows), layout="constrained")
  figure.suptitle(f"step {step}: above as loaded, below augmented", fontsize=9)
  axes = figure.subplots(2 * rows, COLUMNS, squeeze=False)
  for axis in axes.flat:
    axis.axis("off")
  for i in range(images):
    row, column = 2 * (i // COLUMNS), i % COLUMNS
    for offset, picture, target in ((0, before[i], labels[i]), (1, after[i], targets[i])):
      axis = axes[row + offset, column]
      grey = {"cmap": "gray", "vmin": 0, "vmax": 255 if picture.dtype == np.uint8 else 1}
      shown = picture if picture.shape[-1] == 3 else picture[..., 0]
      axis.imshow(shown, **(grey if shown.ndim == 2 else {}), interpolation="nearest")
      axis.set_title(_title(target, split.classes), fontsize=7, parse_math=False)
  try:
    figure.savefig(to_path(out), dpi=110)
  except (OSError, ValueError) as e:
    raise UserError(f"cannot write {out}: {e}") from e
  size = "x".join(map(str, before.shape[1:]))
  return (
    f"{c.name or c.path or c.source}, {len(split):,} training examples of {len(split.classes)} "
    f"classes: {images} of step {step:,} of {total:,}, {size}"
  )


def _title(target: np.ndarray, classes: tuple[str, ...]) -> str:
  """The classes of a target, the heaviest first."""
  places = [i for i in np.argsort(-target, kind="stable") if target[i] > 0.005][:3]
  whole = all(target[i] == 1 for i in places)
  return "\n".join(classes[i] if whole else f"{classes[i]} {target[i]:.2f}" for i in places)
