"""Checkpoints by Orbax: the last one and the best one. The only file that imports orbax.

A checkpoint holds `variables` (what `model.apply` takes), `training` (the rest of the TrainState)
and `meta` (JSON: the normalisation), so that evaluation reads no optimizer.
"""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from cnnjax.errors import UserError
from cnnjax.state import NEVER, TrainState

WHICH = ("last", "best")
METRIC = "validation/accuracy"  # what "best" means; the test split never chooses


class Checkpoints:
  """The checkpoints of one workdir, written in the background, each one whole or not there."""

  def __init__(self, workdir: pathlib.Path, *, read_only: bool = False):
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports each phase of a save
    score = lambda metrics: metrics[METRIC]
    policies = checkpoint_managers.AnyPreservationPolicy(
      [
        checkpoint_managers.LatestN(1),
        checkpoint_managers.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False),
      ]
    )
    self._manager = ocp.CheckpointManager(
      pathlib.Path(workdir).absolute() / "checkpoints",  # Orbax fails late on a relative path
      options=ocp.CheckpointManagerOptions(
        best_fn=score,
        preservation_policy=policies,
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
      ),
      item_handlers={
        "variables": ocp.StandardCheckpointHandler(),
        "training": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
      },
    )

  def step(self, which: str = "last") -> int | None:
    """The step of the last or the best checkpoint, None where there is none."""
    return {"last": self._manager.latest_step, "best": self._manager.best_step}[which]()

  def any(self) -> bool:
    """Whether there is a checkpoint."""
    return self.step() is not None

  @contextlib.contextmanager
  def kept(self, state: TrainState, meta: dict[str, Any]) -> Iterator[None]:
    """What is trained is saved if the work inside fails, as for images that cannot be read."""
    try:
      yield
    except UserError:
      if int(state.step):
        self.save(state, meta, {})
      raise

  def save(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]) -> None:
    """Starts to save; a step that is there already is left alone."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    scores = {METRIC: metrics[METRIC]} if METRIC in metrics else None
    self._manager.save(
      step,
      metrics=scores,
      force=True,
      args=ocp.args.Composite(
        variables=ocp.args.StandardSave(state.variables),
        training=ocp.args.StandardSave(_training(state)),
        meta=ocp.args.JsonSave(meta),
      ),
    )

  def check_finite(self, state: TrainState) -> None:
    """Raises UserError if a loss or an update so far was NaN or infinite: not to be saved."""
    if (bad := int(state.bad_step)) == NEVER:
      return
    self.wait()
    kept = f"the last good one is of step {self.step():,}" if self.any() else "there is none yet"
    raise UserError(
      f"the loss or the update became NaN or infinite in step {bad + 1:,}; checkpoint: {kept}. "
      "Try a lower optim.learning_rate, a longer optim.schedule.warmup, optim.clip_norm=1, or "
      "dtype=float32, in a new workdir"
    )

  def restore(self, abstract: TrainState) -> TrainState:
    """The state of the last checkpoint, laid out as `abstract` says.

    Raises:
      UserError: the checkpoint is of another model, or cannot be read.
    """
    step = self.step()
    self._check(step, abstract.variables)
    found = self._restore(
      step,
      variables=ocp.args.StandardRestore(abstract.variables),
      training=ocp.args.StandardRestore(_training(abstract)),
    )
    return abstract.replace(**found["variables"], **found["training"])

  def restore_variables(self, step: int, abstract: Any) -> Any:
    """The variables of the checkpoint at `step`; raises as `restore` does."""
    self._check(step, abstract)
    return self._restore(step, variables=ocp.args.StandardRestore(abstract))["variables"]

  def meta(self, step: int) -> dict[str, Any]:
    """What was saved beside the arrays at `step`."""
    return self._restore(step, meta=ocp.args.JsonRestore())["meta"]

  def _restore(self, step: int, **items: Any) -> Any:
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as e:  # what Orbax raises for damaged files is of any kind
      raise self._unreadable(step, e) from e

  def _check(self, step: int, variables: Any) -> None:
    """Compares the shapes that were saved with those that the model has now."""
    try:
      saved = self._manager.item_metadata(step)["variables"]
    except Exception as e:
      raise self._unreadable(step, e) from e
    if saved is None:
      raise self._unreadable(step, ValueError("it holds no parameters"))
    shapes = lambda tree: {
      jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    before, now = shapes(saved.tree if hasattr(saved, "tree") else saved), shapes(variables)
    for path in sorted({*before, *now}):
      if before.get(path) != now.get(path):
        raise UserError(
          f"the checkpoint in {self._manager.directory} is of another model: {path} "
          f"is {before.get(path, 'not there')} in it, and "
          f"{now.get(path, 'not there')} in the model"
        )

  def _unreadable(self, step: int, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
      f"cannot read the checkpoint of step {step} in {self._manager.directory}: {reason}"
    )

  def wait(self) -> None:
    """Returns when what was started is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


def last_step(workdir: pathlib.Path) -> int | None:
  """The step of the last checkpoint in a workdir, None where there is none."""
  return max(ocp.utils.checkpoint_steps(pathlib.Path(workdir) / "checkpoints"), default=None)


def _training(state: TrainState) -> dict[str, Any]:
  return {name: getattr(state, name) for name in ("step", "opt_state", "window", "bad_step")}
