"""Checkpoints by Orbax: written whole or not at all, verified, and kept as the config says.

A checkpoint holds `variables` (what `model.apply` takes), `averages` of them, `training` (the rest
of the TrainState) and `meta` (JSON: the normalisation, classes, shape of the images), so that
evaluation reads no optimizer. Orbax writes it beside and renames it; then a manifest of its files
follows (integrity.py), and then only are older ones deleted. One that is damaged is left out for
the next good one, and set aside when that is restored: nothing of it is deleted.

The only file that imports orbax.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import pathlib
import shutil
import sys
import types
from collections.abc import Callable
from concurrent import futures
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from cnnjax import errors, tasks
from cnnjax.checkpoints import integrity
from cnnjax.errors import TransientError, UserError, unknown
from cnnjax.optim.averaging import SLOW
from cnnjax.runtime import processes
from cnnjax.runtime.paths import PathLike, check_text, to_path

WHICH = ("last", "best")
FOLDER = "checkpoints"  # in a workdir
# In `meta`: the weights whose batch statistics were not measured for the step. Not there: unknown.
UNMEASURED = "unmeasured"
FORMAT = 2  # of what is saved; it stands in `meta`
# From each format to the next. What was saved before there were formats is 0: 1 has the number, 2
# the sums of an epoch.
_MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (lambda meta: meta,) * 2
_SUMS = ("epoch",)  # of the training state, which begin at 0 where a checkpoint has not got them
_DELETED = "deleted"  # what goes is renamed into it first, so that no part of it can pass as whole
_META, _METRICS = "meta/metadata", "metrics/metrics"  # where Orbax keeps them


class _Unreadable(UserError):
  """A checkpoint whose files cannot be read, so that another one may do."""


@dataclasses.dataclass(frozen=True)
class Keep:
  """Which checkpoints stay."""

  last: int = 2  # so many of the newest; -1: all
  best: int = 1  # so many of the best by the monitored metric
  every: int | None = None  # and each whose step is a multiple

  @classmethod
  def of(cls, config: ConfigDict, to_steps: Callable[[Any, str], int]) -> "Keep":
    """That of `config.keep`; `to_steps` is (duration, key) -> steps."""
    every = None if config.every is None else max(1, to_steps(config.every, "keep.every"))
    return cls(config.last, config.best, every)

  def choose(self, scores: dict[int, float | None]) -> set[int]:
    """The steps that stay, of all in rising order, with a score where one was measured."""
    # Of equals the first counts as best, as it does for early stopping.
    infos = [
      types.SimpleNamespace(step=step, metrics=None if score is None else (score, -step), time=None)
      for step, score in scores.items()
    ]
    rules = [
      policies.LatestN(None if self.last == -1 else self.last),
      policies.BestN(
        get_metric_fn=lambda score: score, n=self.best, keep_checkpoints_without_metrics=False
      ),
      *([policies.EveryNSteps(self.every)] if self.every else []),
    ]
    stays = policies.AnyPreservationPolicy(rules).should_preserve(
      infos, context=policies.PreservationContext()
    )
    return {step for step, stay in zip(scores, stays, strict=True) if stay}


class Checkpoints:
  """The checkpoints of one workdir, written in the background, each one whole or not there.

  Of several processes all call each method; the first one verifies, deletes, renames and speaks.

  Args:
    workdir: its folder `checkpoints` holds them.
    monitor: the metric that says which is the best.
    better: whether it is to be large or small.
    read_only: nothing is written, renamed or deleted.
    keep: which ones stay.
    say: takes a line for the user where a checkpoint is damaged.
  """

  def __init__(
    self,
    workdir: PathLike,
    *,
    monitor: str,
    better: Literal["max", "min"] = "max",
    read_only: bool = False,
    keep: Keep = Keep(),
    say: Callable[[str], None] = errors.warn,
  ):
    check_text(to_path(workdir))
    _hush()
    self._monitor, self.sign = monitor, {"max": 1, "min": -1}[better]
    self._folder = to_path(workdir).absolute() / FOLDER  # Orbax fails late on a relative path
    self._read_only, self._keep, self.say = read_only, keep, say
    self._scores: dict[int, float | None] = {}
    self._good: set[int] = set()  # steps that are known to be whole
    self._bad: dict[int, str] = {}  # and what is wrong with others
    self._told: set[int] = set()  # those of them that the user knows of
    self._saving: int | None = None
    self._sealing: futures.Future | None = None
    self._thread = futures.ThreadPoolExecutor(1, "seal")
    if not read_only:
      self._put_back()
    self._manager = self._open()

  @classmethod
  def of(cls, workdir: PathLike, config: ConfigDict, **options: Any) -> "Checkpoints":
    """Those of the run in `workdir`, whose config is `config`; `options` as of the class."""
    better = tasks.monitored(config).better
    return cls(workdir, monitor=config.monitor, better=better, **options)

  def _open(self) -> ocp.CheckpointManager:
    write = not self._read_only
    handlers = {
      "variables": ocp.StandardCheckpointHandler(),
      "averages": ocp.StandardCheckpointHandler(),
      "training": ocp.StandardCheckpointHandler(),
      "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(
      best_fn=self._score_of,  # so that Orbax writes metrics
      preservation_policy=policies.LatestN(),  # all: older ones go when this one is verified
      read_only=self._read_only,
      create=write,
      cleanup_tmp_directories=write,
      todelete_subdir=_DELETED if write else None,
      lightweight_initialize=True,  # else a damaged file of any step would end the start
    )
    return ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

  def steps(self) -> list[int]:
    """Those that there is a checkpoint of, also damaged ones, in rising order."""
    # A run that goes on may have deleted some since this one looked.
    return sorted(step for step in self._manager.all_steps() if self.place(step).exists())

  def any_gone(self) -> bool:
    """Whether a run that goes on has deleted one that was there when this was opened."""
    return not all(self.place(step).exists() for step in self._manager.all_steps())

  def place(self, step: int) -> pathlib.Path:
    """The folder of a checkpoint."""
    return self._folder / str(step)

  def step(self, which: str = "last") -> int | None:
    """The step of the last or the best checkpoint that is whole, None where there is none.

    Raises:
      UserError: there are some, and none is whole; or a newer cnnjax wrote them.
    """
    self._settle()
    step, error = -1, None
    try:
      if processes.is_first():
        step = self._choose(which)
    except UserError as e:
      error = e
    if processes.worst(int(error is not None)):
      raise error or UserError(f"the first process found no checkpoint in {self._folder}")
    step = processes.of_first(step)
    return None if step == -1 else step

  def _choose(self, which: str) -> int:
    """The step of the first that is whole, or -1; tells what it passes over."""
    candidates = self.steps()[::-1]
    if which == "best":
      scored = [step for step in candidates if self.score(step) is not None]
      candidates = sorted(scored, key=lambda step: (-self.score(step), step))  # of equals the first
    chosen = next((step for step in candidates if self._is_whole(step)), -1)
    if chosen == -1 and candidates and which == "last":
      raise UserError(
        f"no checkpoint in {self._folder} can be read: "
        + "; ".join(f"step {step:,}: {self._bad[step]}" for step in candidates)
        + ". Choose a new workdir, or take that folder away to begin again"
      )
    instead = f"that of step {chosen:,} is taken" if chosen != -1 else "there is no other"
    for step in sorted(set(self._bad) - self._told):
      if not self.place(step).exists():  # a run that goes on deleted it while it was read
        continue
      stays = self._read_only or which == "best"  # that may be asked for without being restored
      aside = "" if stays else f", and it is set aside as {FOLDER}/{step}.damaged"
      self.say(f"the checkpoint of step {step:,} is damaged: {self._bad[step]}; {instead}{aside}")
    self._told |= set(self._bad)
    return chosen

  def _is_whole(self, step: int) -> bool:
    """Whether a checkpoint is as it was written; notes what is wrong."""
    if step not in self._good and step not in self._bad:
      if found := self.problems(step):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        self._bad[step] = found[0] + more
      else:
        self._good.add(step)
    return step in self._good

  def problems(self, step: int) -> list[str]:
    """What is wrong with a checkpoint, in words; raises UserError where a newer cnnjax wrote it."""
    if found := integrity.problems(self.place(step)):
      return found
    try:
      self.meta(step)
    except _Unreadable as e:
      return [f"{_META} cannot be read: {_reason(e.__cause__)}"]
    return []

  def score(self, step: int) -> float | None:
    """The monitored metric of a checkpoint, the higher the better; None if it was not measured.

    Infinite where it cannot be read any more, so that it is looked at, and not deleted.
    """
    if step not in self._scores:
      try:
        damaged = integrity.problems(self.place(step), _METRICS)
        score = math.inf if damaged else self._score_of(self._manager.metrics(step))
      except Exception:  # what Orbax raises for damaged files is of any kind
        score = math.inf
      self._scores[step] = score
    return self._scores[step]

  def _score_of(self, metrics: dict[str, float] | None) -> float | None:
    if not metrics or self._monitor not in metrics:
      return None
    value = metrics[self._monitor]
    return -math.inf if value is None or not math.isfinite(value) else self.sign * float(value)

  def any(self) -> bool:
    """Whether there is a checkpoint; raises as `step` does."""
    return self.step() is not None

  def save(
    self,
    state: Any,
    meta: dict[str, Any],
    metrics: dict[str, float],
    *,
    replace: bool = False,
  ) -> None:
    """Starts to save; a step that is there already is left alone, or replaced.

    Raises:
      UserError: this one or the one before could not be saved; what was there before still is.
    """
    items = {"variables": state.variables, "training": _training(state)}
    if state.averages:
      items["averages"] = state.averages
    self.save_items(state.steps_done, items, meta, metrics, replace=replace)

  def save_items(
    self,
    step: int,
    items: dict[str, Any],
    meta: dict[str, Any],
    metrics: dict[str, float],
    *,
    replace: bool = False,
  ) -> None:
    """`save` of some of `variables`, `averages` and `training`, each a tree of arrays."""
    if step in self._manager.all_steps() and not replace:
      return
    self._settle()
    if step in self._manager.all_steps():
      self._rename([(str(step), f"{step}.replaced")])
    scores = None
    if (value := metrics.get(self._monitor)) is not None:
      scores = {self._monitor: value if math.isfinite(value) else None}  # JSON has no more
    arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    args = ocp.args.Composite(**arrays, meta=ocp.args.JsonSave({"format": FORMAT, **meta}))
    try:
      self._manager.save(step, metrics=scores, force=True, args=args)
    except Exception as e:  # the disk may be full already
      raise self._unsaved(step, e) from e
    self._scores[step], self._saving = self._score_of(scores), step
    self._good.discard(step)
    if processes.is_first():
      self._sealing = self._thread.submit(self._seal, step)

  def _seal(self, step: int) -> None:
    """Waits until Orbax has committed the step, and writes its manifest."""
    self._manager.wait_until_finished()
    integrity.seal(self.place(step))

  def _settle(self) -> None:
    """Waits until what was started is verified, and deletes what need not stay then."""
    if self._saving is None:
      return
    step, self._saving, error = self._saving, None, None
    try:
      self._manager.wait_until_finished()
      if processes.is_first():
        self._sealing.result()
    except Exception as e:
      error = e
    if processes.worst(int(error is not None)):
      raise self._unsaved(step, error) from error
    self._good.add(step)
    if processes.is_first():
      shutil.rmtree(self._folder / f"{step}.replaced", ignore_errors=True)
    self._delete_others()

  def _delete_others(self) -> None:
    """Those that need not stay; damaged ones are no measure, and do."""
    steps = sorted(self._manager.all_steps())
    scores = {step: self.score(step) for step in steps if step not in self._bad}
    stay = self._keep.choose({s: score for s, score in scores.items() if score != math.inf})
    for step in steps:
      goes = scores.get(step, math.inf) != math.inf and step not in stay
      if processes.of_first(int(goes)):
        self._manager.delete(step)
    if processes.is_first():
      shutil.rmtree(self._folder / _DELETED, ignore_errors=True)

  def _unsaved(self, step: int, error: Exception | None) -> UserError:
    # Tasks of Orbax that nobody waits for any more would tell the same once more, by tracebacks.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    older = [other for other in self.steps() if other != step and other not in self._bad]
    kept = f"the last good one is of step {older[-1]:,}" if older else "there is no other"
    text = f"the checkpoint of step {step:,} could not be saved"
    if error is not None and errors.is_of_full_disk(error):
      return TransientError(
        f"the disk is full: {text}; {kept}; free space and run the same command"
      )
    return UserError(f"{text}: {_reason(error)}; {kept}")

  def _rename(self, names: list[tuple[str, str]]) -> None:
    """Renames checkpoints, old to new, so that they count as none, or as one, from here on."""
    if processes.is_first():
      for old, new in names:
        (self._folder / old).rename(self._folder / new)
      integrity.sync(self._folder)
    processes.meet()
    self._manager.close()
    self._manager = self._open()

  def _put_back(self) -> None:
    """A step that was being replaced when the process was killed is there again."""
    if processes.is_first():
      shutil.rmtree(self._folder / _DELETED, ignore_errors=True)
      for old in self._folder.glob("*.replaced"):
        if old.with_suffix("").exists():
          shutil.rmtree(old)
        else:
          old.rename(old.with_suffix(""))
    processes.meet()

  def _set_aside(self) -> None:
    """Renames the damaged ones, so that their steps can be saved again."""
    names = []
    for step in sorted(self._bad):
      free = (f"{step}.damaged{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
      names.append((str(step), next(n for n in free if not (self._folder / n).exists())))
      self._scores.pop(step, None)
    self._bad.clear()
    self._told.clear()
    self._rename(names)

  def find(self, which: str) -> int:
    """The step of a checkpoint: "last", "best", or a step as digits.

    Raises:
      UserError: there is none, or that of the step is damaged.
    """
    if which not in WHICH:
      if not which.isdecimal() or (step := int(which)) not in self.steps():
        raise unknown("step", which, [*WHICH, *self.steps()])
      if not self._is_whole(step):
        raise UserError(f"the checkpoint of step {step:,} is damaged: {self._bad[step]}")
      return step
    if (step := self.step(which)) is not None:
      return step
    if which == "last" or not self.any():
      raise UserError(f"{self._folder.parent} holds no checkpoint")
    raise UserError(
      f"{self._folder.parent} holds no best checkpoint (a run keeps its best when it has a "
      "validation split, data.validation, and one learning rate)"
    )

  def restore(self, abstract: Any, which: str = "last") -> Any:
    """The state of the last or the best checkpoint, laid out as `abstract` says.

    Where one is damaged, that of the next one that is not; it is set aside then.

    Raises:
      UserError: the checkpoint is of another model, or none can be read.
    """
    while True:
      step, found, error = self.find(which), None, None
      try:
        found = self._restore_state(step, abstract)
      except _Unreadable as e:
        error = e
      if processes.worst(int(error is not None)):
        self._good.discard(step)
        self._bad[step] = _reason(error and error.__cause__)
        continue
      if not self._read_only and processes.worst(len(self._bad)):
        self._set_aside()
      return found

  def _restore_state(self, step: int, abstract: Any) -> Any:
    self._check(step, abstract.variables)
    if (there := self._shapes(step)["training"]) is None:
      raise UserError(
        f"the checkpoint of step {step} in {self._folder} holds weights alone, as an average does: "
        "it can be evaluated, and not trained on"
      )
    training = _training(abstract)
    lacking = {name: training.pop(name) for name in _SUMS if name not in there}
    # A run with Lookahead whose slow weights were not evaluated: they are made of the others.
    missing = {SLOW} & abstract.averages.keys() - self.averages(step)
    averages = {k: v for k, v in abstract.averages.items() if k not in missing}
    found = self._restore(
      step,
      variables=ocp.args.StandardRestore(abstract.variables),
      training=ocp.args.StandardRestore(training),
      **({"averages": ocp.args.StandardRestore(averages)} if averages else {}),
    )
    averages = found["averages"] if averages else {}
    averages |= {name: jax.tree.map(jnp.copy, found["variables"]) for name in missing}
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), lacking)
    found = {**found["variables"], "averages": averages, **found["training"], **zeros}
    return abstract.replace(**found)

  def averages(self, step: int) -> set[str]:
    """The names of the averages in the checkpoint at `step`."""
    return {*(self._shapes(step)["averages"] or {})}

  def restore_variables(self, step: int, abstract: Any, weights: str = "raw") -> Any:
    """The variables of the checkpoint at `step`, or an average; raises as `restore` does.

    "raw" weights are those of `TrainState.evaluated`.
    """
    self._check(step, abstract)
    kept = self.averages(step)
    if weights == "raw" and SLOW not in kept:
      return self._restore(step, variables=ocp.args.StandardRestore(abstract))["variables"]
    if weights != "raw" and weights not in kept:
      raise unknown("weights", weights, ["raw", *(kept - {SLOW})])
    name = SLOW if weights == "raw" else weights
    found = self.arrays(step, "averages", jax.tree.leaves(abstract)[0].sharding)[name]
    if not found.get("count", np.ones(())).any():
      raise UserError(
        f"the average {weights} had not begun at step {step:,}: choose --weights=raw, or a later "
        "checkpoint"
      )
    return {name: found.get(name, {}) for name in abstract}

  def arrays(self, step: int, item: str, where: jax.sharding.Sharding) -> Any:
    """The arrays of an item as they were saved, all laid out as `where` says."""
    rest = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    shapes = jax.tree.map(rest, self._shapes(step)[item])
    return self._restore(step, **{item: ocp.args.StandardRestore(shapes)})[item]

  def shapes(self, step: int) -> dict[str, dict[str, Any]]:
    """What has `shape` and `dtype`, by item and path, of the arrays of a checkpoint."""
    trees = {item: tree for item, tree in self._shapes(step).items() if tree is not None}
    return {item: paths(tree) for item, tree in trees.items()}

  def _shapes(self, step: int) -> dict[str, Any]:
    """The tree of each item of arrays, None for one that is not there."""
    try:
      found = self._manager.item_metadata(step)
      trees = {item: found.get(item) for item in ("variables", "averages", "training")}
    except Exception as e:
      raise self._unreadable(step, e) from e
    # A mapping of its own, or what wraps one, as Orbax's versions have it.
    plain = lambda tree: tree.tree if hasattr(tree, "tree") else tree
    return {item: None if tree is None else dict(plain(tree)) for item, tree in trees.items()}

  def meta(self, step: int) -> dict[str, Any]:
    """What was saved beside the arrays at `step`; UserError where a newer cnnjax wrote it."""
    try:  # not by Orbax, whose processes wait for each other in a restore
      found = json.loads((self.place(step) / _META).read_bytes())
    except (OSError, ValueError, RecursionError) as e:
      raise self._unreadable(step, e) from e
    if not isinstance(found, dict) or type(number := found.pop("format", 0)) is not int:
      error = ValueError("it is not what was written")
      raise self._unreadable(step, error) from error
    if number > FORMAT:
      raise UserError(
        f"the checkpoint of step {step} in {self._folder} was written by a newer cnnjax (format "
        f"{number}, and this one reads up to {FORMAT}): use that one"
      )
    for migrate in _MIGRATIONS[number:]:
      found = migrate(found)
    return found

  def time(self, step: int) -> float | None:
    """When a checkpoint was written, in seconds since 1970; None where that cannot be read."""
    try:
      return self._manager.metadata(step).commit_timestamp_nsecs / 1e9
    except Exception:
      return None

  def _restore(self, step: int, **items: Any) -> Any:
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as e:  # what Orbax raises for damaged files is of any kind
      raise self._unreadable(step, e) from e

  def _check(self, step: int, variables: Any) -> None:
    """Compares the shapes that were saved with those that the model has now."""
    if (saved := self._shapes(step)["variables"]) is None:
      error = ValueError("it holds no parameters")
      raise self._unreadable(step, error) from error
    before, now = ({p: tuple(x.shape) for p, x in paths(t).items()} for t in (saved, variables))
    for path in sorted({*before, *now}):
      if before.get(path) != now.get(path):
        raise UserError(
          f"the checkpoint in {self._folder} is of another model: {path} "
          f"is {before.get(path, 'not there')} in it, and "
          f"{now.get(path, 'not there')} in the model"
        )

  def _unreadable(self, step: int, error: Exception) -> _Unreadable:
    return _Unreadable(
      f"cannot read the checkpoint of step {step} in {self._folder}: {_reason(error)}"
    )

  def wait(self) -> None:
    """Returns when what was started is on disk and verified; raises as `save` does."""
    self._settle()

  def close(self) -> None:
    """`wait`, and no more may follow."""
    try:
      self._settle()
    finally:
      self._thread.shutdown()
      with contextlib.suppress(Exception):  # Orbax tells once more of a save that failed
        self._manager.close()


def last_step(workdir: PathLike) -> int | None:
  """The step of the last checkpoint in a workdir, whole or not, None where there is none."""
  return max(ocp.utils.checkpoint_steps(to_path(workdir) / FOLDER), default=None)


def newest_format(workdir: PathLike) -> int:
  """The highest format of the checkpoints in a workdir; 0 where none says it."""
  formats = [0]
  for file in (to_path(workdir) / FOLDER).glob(f"*/{_META}"):
    with contextlib.suppress(OSError, ValueError, RecursionError):
      found = json.loads(file.read_bytes())
      formats.append(int(found.get("format", 0)) if isinstance(found, dict) else 0)
  return max(formats)


def paths(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by path, such as params/conv0/kernel."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@functools.cache
def _hush() -> None:
  """Orbax raises what goes wrong; what it tells beside that, in many tracebacks, is left out."""
  logging.getLogger("absl").setLevel(logging.CRITICAL)  # each phase of a save as well
  before = sys.unraisablehook

  def hook(found: Any) -> None:
    # Of reads and writes that end when another one has failed, and nobody waits for them.
    if str(found.exc_value) != "Event loop is closed":
      before(found)

  sys.unraisablehook = hook


def _reason(error: BaseException | None) -> str:
  if error is None:
    return "another process met an error"
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def _training(state: Any) -> dict[str, Any]:
  """All but the variables and the averages."""
  kept = {"params", "batch_stats", "averages"}
  return {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name not in kept}
