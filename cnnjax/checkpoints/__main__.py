"""Looks into the checkpoints of a run, or averages them: list, show, verify, diff, average.

Writes nothing to the workdir, and does not disturb a run that is training in it.
"""

import argparse
import datetime
import math
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from rich.table import Table

from cnnjax.checkpoints import (
  FOLDER,
  ITEMS,
  UNMEASURED,
  WHICH,
  Checkpoints,
  integrity,
  paths,
  trained_on,
)
from cnnjax.checkpoints import workdir as workdirs
from cnnjax.errors import ArgumentParser, UserError, run
from cnnjax.optim.averaging import SLOW
from cnnjax.runtime import strict_json
from cnnjax.runtime.console import Console
from cnnjax.runtime.paths import quoted, to_path


def main(argv: list[str] | None = None) -> int:
  """Runs a command; returns 1 if `verify` found damage or `diff` a difference."""
  jax.config.update("jax_platforms", "cpu")  # an accelerator may be busy with the run itself
  args = _parse(argv)
  return args.command(args, _open(args.workdir), Console())


def _parse(argv: list[str] | None) -> argparse.Namespace:
  parser = ArgumentParser(prog="python -m cnnjax.checkpoints", description=__doc__)
  commands = parser.add_subparsers(required=True, metavar="COMMAND")

  def command(name: str, function: Any) -> argparse.ArgumentParser:
    one = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    one.add_argument("workdir", type=to_path, metavar="WORKDIR", help="where the run is")
    one.set_defaults(command=function)
    return one

  which = "a step, last or best"
  command("list", list_all)
  command("show", show).add_argument("step", nargs="?", default="last", help=which)
  command("verify", verify)
  one = command("diff", diff)
  one.add_argument("a", nargs="?", default="last", help=which)
  one.add_argument("b", nargs="?", default="last", help=f"{which}; of OTHER, if that is given")
  one.add_argument("--with", type=to_path, dest="other", metavar="OTHER", help="a workdir")
  one = command("average", average)
  one.add_argument("--out", type=to_path, required=True, help="the new workdir")
  some = one.add_mutually_exclusive_group(required=True)
  some.add_argument("--steps", help="which, such as 100,200,300")
  some.add_argument("--last", type=int, help="so many of the newest")
  return parser.parse_args(argv)


def list_all(args: argparse.Namespace, saved: Checkpoints, console: Console) -> int:
  """Lists the checkpoints with time, size and the monitored metric."""
  scores = {step: saved.score(step) for step in saved.steps()}
  finite = {s: score for s, score in scores.items() if score is not None and score < math.inf}
  # Of equals the first, as `Checkpoints.step` has it.
  best = max(finite, key=finite.get, default=None)
  monitor = workdirs.load_config(args.workdir).monitor
  table = _table("step", "written", "MiB", monitor, "", "verified")
  for step, score in scores.items():
    place, time = saved.place(step), saved.time(step)
    marks = [name for name, at in zip(WHICH, (max(scores), best), strict=True) if at == step]
    table.add_row(
      f"{step:,}",
      "?" if time is None else f"{datetime.datetime.fromtimestamp(time):%Y-%m-%d %H:%M:%S}",
      f"{_size(place) / 2**20:.1f}",
      "" if score is None else "?" if score == math.inf else f"{saved.monitored(step):.6g}",
      ", ".join(marks),
      "at saving" if integrity.is_sealed(place) else "unverified",
    )
  console.print(table)
  for place in sorted((args.workdir / FOLDER).glob("*.damaged*")):
    console.print(f"set aside: {place}")
  return 0


def show(args: argparse.Namespace, saved: Checkpoints, console: Console) -> int:
  """Shows the arrays of a checkpoint with their shapes, and its `meta`."""
  step = saved.find(args.step)
  for item, arrays in saved.shapes(step).items():
    total = sum(math.prod(x.shape) for x in arrays.values())
    console.print(f"{item}: {len(arrays)} arrays, {total:,} values")
    table = _table("array", "shape", "type", show_header=False)
    for path, x in arrays.items():
      table.add_row(f"  {path}", "x".join(map(str, x.shape)) or "scalar", str(x.dtype))
    console.print(table)
  params = saved.shapes(step)["variables"]
  count = sum(math.prod(x.shape) for path, x in params.items() if path.startswith("params/"))
  console.print(f"step {step:,}, {count:,} parameters, meta {strict_json.dumps(saved.meta(step))}")
  return 0


def verify(args: argparse.Namespace, saved: Checkpoints, console: Console) -> int:
  """Compares all files with their manifests; exit code 1 if one is damaged."""
  damaged = 0
  for step in saved.steps():
    found = saved.problems(step)
    sealed = integrity.is_sealed(saved.place(step))
    if not found and not sealed:  # killed while it was written: there is more to look at
      try:
        _arrays(saved, step)
      except UserError as e:
        found = [str(e)]
    state = "damaged" if found else "good" if sealed else "can be read (unverified: no manifest)"
    console.print(f"step {step:,}: {state}")
    for problem in found:
      console.print(f"  {problem}")
    damaged += bool(found)
  return int(damaged > 0)


def diff(args: argparse.Namespace, saved: Checkpoints, console: Console) -> int:
  """Shows which arrays of two checkpoints differ, and how much; exit code 1 if any does."""
  other = saved if args.other is None else _open(args.other)
  steps = saved.find(args.a), other.find(args.b)
  if other is saved and steps[0] == steps[1]:
    raise UserError(f"that is step {steps[0]:,} twice; name two, or another workdir: --with=OTHER")
  a, b = _arrays(saved, steps[0]), _arrays(other, steps[1])
  rows = list(differences(a, b))
  table = _table("array", "largest difference", "relative")
  for row in rows:
    table.add_row(*row)
  if rows:
    console.print(table)
  console.print(
    f"{len(rows)} of {len({*a, *b})} arrays differ: A is step {steps[0]:,}, B is step {steps[1]:,}"
    + (f" of {args.other}" if args.other else "")
  )
  for name, meta in (("A", saved.meta(steps[0])), ("B", other.meta(steps[1]))):
    if stale := meta.get(UNMEASURED):
      console.print(f"{name} was saved before batch statistics of {', '.join(stale)} were measured")
  return int(bool(rows))


def differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
  """Returns (path, largest absolute difference, norm of the difference over that of `a`) in words.

  The weights come first, then the model's other variables, its averages, the optimizer.
  """
  place = lambda path: (not path.startswith("variables/params/"), ITEMS.index(path.split("/")[0]))
  for path in sorted({*a, *b}, key=lambda path: (place(path), path)):
    if path not in a or path not in b:
      yield path, f"only in {'A' if path in a else 'B'}", ""
    elif a[path].shape != b[path].shape:
      yield path, f"{a[path].shape} and {b[path].shape}", ""
    elif a[path].tobytes() != b[path].tobytes():  # to the bit
      x, y = a[path].astype(np.float64), b[path].astype(np.float64)
      norm = np.linalg.norm(x)
      relative = f"{np.linalg.norm(x - y) / norm:.3g}" if norm else "A is 0"
      yield path, f"{np.abs(x - y).max():.3g}", relative


def average(args: argparse.Namespace, saved: Checkpoints, console: Console) -> int:
  """Averages the weights of several checkpoints into a new workdir that can be evaluated."""
  if args.last is not None and args.last < 1:
    raise UserError(f"--last={args.last} has to be above 0")
  there = saved.steps()
  if args.last is not None and args.last > len(there):
    raise UserError(f"--last={args.last}, and there are {len(there)}")
  names = there[-args.last :] if args.last else args.steps.split(",")
  steps = sorted({saved.find(str(name)) for name in names})
  if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
    raise UserError(f"--out={args.out} is there already; choose a new folder")
  mean = jax.tree.map(lambda x: np.zeros(x.shape), _evaluated(saved, steps[0]))
  for step in steps:
    mean = jax.tree.map(lambda total, x: total + x / len(steps), mean, _evaluated(saved, step))
  like = _evaluated(saved, steps[-1])
  mean = jax.tree.map(lambda total, x: total.astype(x.dtype), mean, like)
  args.out.mkdir(parents=True, exist_ok=True)
  shutil.copyfile(args.workdir / workdirs.CONFIG, args.out / workdirs.CONFIG)
  # The examples that it may not be evaluated on.
  trained_on.write(args.out, trained_on.read(args.workdir))
  meta = {**saved.meta(steps[-1]), "averaged": steps, UNMEASURED: []}
  made = Checkpoints.of(args.out, workdirs.load_config(args.workdir))
  made.save_items(steps[-1], {"variables": mean}, meta, {})
  made.close()
  console.print(
    f"the mean of steps {', '.join(f'{step:,}' for step in steps)} is in {args.out}, to be "
    f"evaluated: python -m cnnjax.evaluate --workdir={quoted(args.out)}"
  )
  if like.get("batch_stats"):
    console.print(
      "its batch statistics are means as well, which may be far from those of the mean weights: "
      "compare with an average kept in training (average.swa_start), whose are measured afresh"
    )
  return 0


def _table(*columns: str, show_header: bool = True) -> Table:
  """Returns a table that folds cells that are too wide for the terminal, and cuts none."""
  table = Table(box=None, show_header=show_header)
  for column in columns:
    table.add_column(column, overflow="fold")
  return table


def _open(workdir: pathlib.Path) -> Checkpoints:
  saved = Checkpoints.of(workdir, workdirs.load_config(workdir), read_only=True)
  if not saved.steps():
    raise UserError(f"{workdir} holds no checkpoint")
  return saved


def _read(saved: Checkpoints, step: int, item: str) -> Any:
  """Reads an item of a checkpoint as numpy arrays."""
  here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
  return jax.tree.map(np.asarray, saved.arrays(step, item, here))


def _evaluated(saved: Checkpoints, step: int) -> Any:
  """Reads the variables of a checkpoint that "raw" evaluates, as `TrainState.evaluated`."""
  slow = SLOW in saved.averages(step)
  return _read(saved, step, "averages")[SLOW] if slow else _read(saved, step, "variables")


def _arrays(saved: Checkpoints, step: int) -> dict[str, np.ndarray]:
  """Reads all arrays of a checkpoint by item and path."""
  items = {item: _read(saved, step, item) for item in ITEMS if item in saved.shapes(step)}
  return paths(items)


def _size(folder: pathlib.Path) -> int:
  return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
  sys.exit(run(main))
