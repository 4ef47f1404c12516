"""Evaluates checkpoints: every example once, for any batch size and number of devices.

python -m cnnjax.evaluate --workdir=runs/lenet --split=test
"""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnnjax.config import saved
from cnnjax.errors import (
  ArgumentParser,
  Stopped,
  UserError,
  announce,
  number,
  run,
  unknown,
  warn,
)
from cnnjax.runtime.paths import PathLike, to_path

if TYPE_CHECKING:
  from cnnjax.trained import Trained

SPLITS = ("train", "validation", "test")
ALL = "all"  # all images of the data, of every split


def evaluate(
  step: Callable,
  variables: Any,
  pipeline: Any,
  batch_size: int,
  stop: Callable[[], Any] = lambda: None,
) -> Any:
  """Returns the metrics of `variables` over a whole split, a `passes.Evaluated`.

  Args:
    step: the jitted `passes.eval_step`.
    variables: what the model's `apply` takes.
    pipeline: yields (batch, mask) over the split from `once(batch_size)`.
    batch_size: examples at a time; changes the result only by rounding.
    stop: called before each batch; ends the evaluation if it returns true.

  Raises:
    Stopped: `stop` returned true.
    UserError: no image of the split can be read.
  """
  total = None
  for batch, mask in pipeline.once(batch_size):
    if stop():
      raise Stopped
    found = step(variables, batch, mask)
    if found.collected:
      found = found.replace(collected={k: np.asarray(x) for k, x in found.collected.items()})
    total = found if total is None else total.merge(found)
  if total is None or not np.min(total.examples):
    raise UserError("none of the images of the split can be read")
  return total


def compute_metrics(task: Any, members: Any, found: Any) -> dict[str, float]:
  """Returns the metrics by name from the result of `evaluate`.

  Args:
    task: a `tasks.Task`.
    members: the `Members` of the run.
    found: what `evaluate` returns.
  """
  return members.compute(found, lambda one: task.split_metrics(one.of_split()))


def evaluate_checkpoint(
  workdir: PathLike,
  split: str | None = None,
  checkpoint: str = "last",
  weights: str = "raw",
  splits: Any = None,
  unreadable: dict[str, str] | None = None,
  **overrides: Any,
) -> tuple[int, int, dict[str, float]]:
  """Returns (step, number of examples, metrics) of a run's checkpoint on a split of its data.

  Images that cannot be read are left out and not counted.

  Args:
    workdir: where the run is.
    split: "train", "validation" or "test" of the run's config, or "all" images of its data. None
      is "test", or "all" where `data.path` is overridden with images that have no splits and were
      not those of the run.
    checkpoint: "last", "best", or a step as digits.
    weights: "raw", or an average that the run kept: "ema", "swa", "schedule_free".
    splits: the data of a run that was given arrays, from `data.from_arrays`.
    unreadable: a dict to fill with the names of images that cannot be read, and the reasons.
    **overrides: config keys that may differ from the run's, such as `eval_batch_size`.

  Raises:
    UserError: there is no such run, checkpoint or split, or the checkpoint does not fit.
  """
  found = _evaluated(
    workdir,
    split=split,
    checkpoint=checkpoint,
    weights=weights,
    splits=splits,
    unreadable=unreadable,
    overrides=overrides,
  )
  return found.step, found.examples, found.metrics


class Evaluation(NamedTuple):
  """The metrics of a checkpoint on a split."""

  split: str
  step: int
  examples: int
  metrics: dict[str, float]
  declared: Mapping[str, Any]  # the `Metric` of each name, which says how to write it


def _evaluated(
  workdir: PathLike,
  *,
  split: str | None,
  checkpoint: str,
  weights: str,
  splits: Any,
  unreadable: dict[str, str] | None,
  overrides: dict[str, Any],
) -> Evaluation:
  """Returns the evaluation of `evaluate_checkpoint`, whose arguments it takes."""
  from cnnjax import trained  # late: --help need not import JAX

  split = _named(split)
  model = trained.open_run(workdir, checkpoint, weights, splits, overrides)
  return evaluate_trained(model, split, unreadable)


def evaluate_trained(
  model: "Trained", split: str | None = None, unreadable: dict[str, str] | None = None
) -> Evaluation:
  """Returns the evaluation of a model that `trained.open_run` opened.

  Args:
    model: it, with its overrides.
    split, unreadable: as of `evaluate_checkpoint`.

  Raises:
    UserError: there is no such split, or the model does not fit the data.
  """
  from cnnjax import data, tasks
  from cnnjax.checkpoints import trained_on
  from cnnjax.tasks.metric import of_weights

  config, before = model.config, trained_on.read(model.folder)
  split = _chosen(model, split, before)
  task = tasks.lookup(config.task.name)
  skipped, where = data.Skipped(config.data.max_unreadable), {"devices": model.mesh.size}
  where |= {"needs": task.NEEDS, "who": f"task.name={config.task.name}"}
  if split == ALL:
    where["several"] = task.SEVERAL_LABELS
    images = data.whole(config.data, model.classes, skipped, model.splits, **where)
  else:
    where |= {"evaluating": True, "before": before}
    images = data.load(config.data, (split,), skipped, model.splits, **where)[split]
  if images is None:
    raise UserError("this run has no validation split; choose --split=test or --split=train")
  _compare(before, split, images)
  data.check_classes(model.classes, images.classes)
  for key, text in images.remarks.items() if "data.path" in model.overrides else ():
    warn(f"{config.data.path}: {key}: {text}")
  image_shape = data.Crops.of(config.data, images.shape).shape(config.data.image_size)
  model.check_sizes((image_shape[0], config.data.eval_size))
  data.levels.compare(config.data, split, images, model.meta["mean"])
  pipeline = data.pipeline(images, config.data, model.mesh, skipped)
  total = evaluate(model.eval_step, model.variables, pipeline, config.eval_batch_size)
  if unreadable is not None:
    unreadable.update(skipped)
  return Evaluation(
    split,
    model.step,
    int(np.min(total.examples)),
    compute_metrics(model.task, model.members, total),
    of_weights(model.task.declared_metrics, ["raw"]),
  )


def _compare(before: Any, split: str, images: Any) -> None:
  """Warns if a split differs from what the run evaluated.

  Args:
    before: the training data of the run, a `data.History`.
    split: the name of the split.
    images: the split, a `data.Split`.

  Raises:
    UserError: the run was trained on images of a held-out split.
  """
  from cnnjax.data import holdout

  if split == ALL and (known := before.overlap(images)):
    warn(known)
  elif split not in ("train", ALL):
    before.check(images)
    if changed := before.changed(split, images):
      warn(changed)
  if holdout.OLDER in images.note:  # the note may say more
    warn(f"the {split} split is {images.note}")


def _named(split: str | None) -> str | None:
  """Returns the name of the split that `split` means, such as validation for val."""
  from cnnjax.data.names import split_of

  found = split if split in (*SPLITS, ALL, None) else split_of(split)
  if found is None and split is not None:
    raise unknown("split", split, (*SPLITS, ALL))
  return found


def _chosen(model: "Trained", split: str | None, before: Any) -> str:
  """Returns the name of the split to evaluate, whose source of data is checked.

  Args:
    model: the model.
    split: as of `evaluate_checkpoint`.
    before: the training data of the run, a `data.History`.
  """
  from cnnjax import data
  from cnnjax.data import folder

  split, config = _named(split), model.config.data
  if split is None and "data.path" in model.overrides and not data.has_splits(config):
    split, why = ALL, "has no splits: all of its images are evaluated"
    if not before.by:
      why += "; if they are those that this run was trained on, choose --split=test"
    elif before.share(folder.whole(config)) > 0.5:  # the folder of the run, moved
      split, why = "test", "has what this run was trained on: what it held out is evaluated"
    warn(f"{config.path} {why}")
  if split != ALL or config.source != "folder":  # all images of a folder need no splits
    data.check(config)
  return split or "test"


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(
    prog="python -m cnnjax.evaluate",
    description="Evaluates a checkpoint on a whole split: by default the last one on test.",
  )
  parser.add_argument("--workdir", required=True, type=to_path, help="where the run is")
  parser.add_argument(
    "--split",
    help="train, validation, test, or all images; default: test, or all for other images (--path) "
    "without splits",
  )
  parser.add_argument("--checkpoint", default="last", help="last, best or a step")
  parser.add_argument("--weights", default="raw", help="raw; ema, swa or schedule_free, if kept")
  parser.add_argument("--batch_size", type=int, help="examples at a time")
  parser.add_argument("--views", help="predictions are means over views, such as flip")
  parser.add_argument("--size", type=int, help="size of the images, if not the run's")
  parser.add_argument("--data_dir", help="folder of TFDS data sets, if they were moved")
  parser.add_argument(
    "--path", help="folder or list of other images, or of those of the run, if they were moved"
  )
  args = parser.parse_args(argv)
  saved.file_of_run(args.workdir)
  announce(f"evaluating {args.workdir}")
  overrides = {
    "eval_batch_size": args.batch_size,
    "eval_views": args.views,
    "data.eval_size": args.size,
    "data.data_dir": args.data_dir,
    "data.path": args.path,
  }
  unreadable = {}
  overrides = {key: value for key, value in overrides.items() if value is not None}
  found = _evaluated(
    args.workdir,
    split=args.split,
    checkpoint=args.checkpoint,
    weights=args.weights,
    splits=None,
    unreadable=unreadable,
    overrides=overrides,
  )
  from cnnjax.tasks.metric import in_words, of_each

  each = of_each(found.metrics)
  width = max(map(len, each))
  rows = [
    f"\n  {run:<{width}}  {in_words(values, found.declared)}" for run, values in each.items() if run
  ]
  of_one = in_words(each[""], found.declared)  # or the means of seeds
  of = "" if args.weights == "raw" else f", {args.weights} weights"
  where = "all images" if found.split == ALL else f"{found.split} split"
  print(
    f"{args.workdir}, {args.checkpoint} checkpoint (step {found.step:,}){of}, {where}, "
    f"{found.examples:,} examples:{(of_one and f' {of_one}') or ''.join(rows)}"
  )
  for name, reason in list(unreadable.items())[:1]:
    images = number(len(unreadable), "image")
    print(f"left out: {images} that cannot be read, such as {name}: {reason}")
  return 0


if __name__ == "__main__":
  sys.exit(run(main))
