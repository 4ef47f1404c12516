"""Exact evaluation: every example once, whatever the batch size and the number of devices.

python -m cnnjax.evaluate --workdir=runs/lenet --split=test
"""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

from cnnjax.errors import ArgumentParser, UserError, run, unknown

SPLITS = ("train", "validation", "test")


def evaluate(step: Callable, variables: Any, pipeline: Any, batch_size: int) -> dict[str, float]:
  """Metrics of `variables` over a whole split, from sums and counts.

  Args:
    step: the jitted `steps.eval_step`.
    variables: what the model's `apply` takes.
    pipeline: gives (batch, mask) over the split, by `once(batch_size)`.
    batch_size: examples at a time; changes the result by rounding at most.
  """
  from cnnjax import tasks  # late, as below

  return tasks.compute(_sums(step, variables, pipeline, batch_size))


def _sums(step: Callable, variables: Any, pipeline: Any, batch_size: int) -> Any:
  batches = iter(pipeline.once(batch_size))
  total = step(variables, *next(batches))
  for batch, mask in batches:
    total = total.merge(step(variables, batch, mask))
  return total


def evaluate_checkpoint(
  workdir: pathlib.Path,
  split: str = "test",
  checkpoint: str = "last",
  splits: Any = None,
  unreadable: dict[str, str] | None = None,
  **overrides: Any,
) -> tuple[int, int, dict[str, float]]:
  """(step, number of examples, metrics) of a run's checkpoint on a split of its data.

  Images that cannot be read are left out, of the number as well.

  Args:
    workdir: where the run is.
    split: "train", "validation" or "test", as the run's config has them.
    checkpoint: "last" or "best".
    splits: what the run was given by `data.from_arrays`, if it was.
    unreadable: gets the names of images that cannot be read, and why.
    **overrides: config keys that may differ from the run's, such as `eval_batch_size`.

  Raises:
    UserError: there is no such run, checkpoint or split, or the checkpoint does not fit.
  """
  import jax  # late: --help need not import JAX

  from cnnjax import augment, checkpoints, data, models, sharding, state, steps, tasks
  from cnnjax import config as configs
  from cnnjax.workdir import load_config

  if split not in SPLITS:
    raise unknown("split", split, SPLITS)
  if checkpoint not in checkpoints.WHICH:
    raise unknown("checkpoint", checkpoint, checkpoints.WHICH)
  config = load_config(workdir)
  for key, value in overrides.items():
    configs.override(config, key, value)
  configs.validate(config)
  manager = checkpoints.Checkpoints(workdir, read_only=True)
  if (at := manager.step(checkpoint)) is None:
    why = (
      " (a run keeps its best when it has a validation split: data.validation)"
      if checkpoint == "best" and manager.step() is not None
      else ""
    )
    raise UserError(f"{workdir} holds no {checkpoint} checkpoint{why}")
  skipped = data.Skipped(config.data.max_unreadable)
  mesh = sharding.make_mesh(-1)  # all devices there are: the result is the same
  found = data.load(config.data, (split,), skipped, splits, evaluating=True, devices=mesh.size)[
    split
  ]
  if found is None:
    raise UserError("this run has no validation split; choose --split=test or --split=train")
  model = models.create(**config.model, num_classes=len(found.classes), dtype=config.dtype)
  image_shape = data.Crops.of(config.data, found.shape).shape(config.data.image_size)
  shapes = state.abstract_variables(model, image_shape, mesh)
  state.check_sizes(model, shapes, image_shape, {config.data.eval_size} - {None})
  variables = manager.restore_variables(at, shapes)
  meta = manager.meta(at)
  data.check_classes(meta["classes"], found.classes)
  step = jax.jit(
    steps.eval_step(
      model,
      tasks.create(config.task, len(found.classes), None),
      steps.normalizer(meta["mean"], meta["std"]),
      augment.views.create(config.eval_views),
    )
  )
  pipeline = data.pipeline(found, config.data, mesh, skipped)
  total = _sums(step, variables, pipeline, config.eval_batch_size)
  if unreadable is not None:
    unreadable.update(skipped)
  return at, int(total.loss.count), tasks.compute(total)


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(
    prog="python -m cnnjax.evaluate", description="Evaluates a checkpoint on a whole split."
  )
  parser.add_argument("--workdir", required=True, type=pathlib.Path, help="where the run is")
  parser.add_argument("--split", default="test", help="train, validation or test")
  parser.add_argument("--checkpoint", default="last", help="last or best")
  parser.add_argument("--batch_size", type=int, help="examples at a time")
  parser.add_argument("--views", help="predictions are means over views, such as flip")
  parser.add_argument("--size", type=int, help="size of the images, if not the run's")
  parser.add_argument("--data_dir", help="where TFDS data sets lie, if not where they were")
  parser.add_argument("--path", help="where the images of a folder lie, if not where they were")
  args = parser.parse_args(argv)
  overrides = {
    "eval_batch_size": args.batch_size,
    "eval_views": args.views,
    "data.eval_size": args.size,
    "data.data_dir": args.data_dir,
    "data.path": args.path,
  }
  unreadable = {}
  step, examples, metrics = evaluate_checkpoint(
    args.workdir,
    args.split,
    args.checkpoint,
    unreadable=unreadable,
    **{key: value for key, value in overrides.items() if value is not None},
  )
  more = [name for name in metrics if name not in ("accuracy", "loss")]
  print(
    f"{args.workdir}, {args.checkpoint} checkpoint (step {step:,}), {args.split} split: "
    f"accuracy {metrics['accuracy']:.2%} of {examples:,} examples, loss {metrics['loss']:.4f}"
    + "".join(f", {name.replace('_', ' ')} {metrics[name]:.2%}" for name in more)
  )
  for name, reason in list(unreadable.items())[:1]:
    print(f"{len(unreadable)} images cannot be read and are left out, such as {name}: {reason}")
  return 0


if __name__ == "__main__":
  sys.exit(run(main))
