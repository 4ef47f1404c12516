"""Loads trained models from the folders of runs, to evaluate them or to learn from them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import augment, checkpoints, fields, tasks
from cnnjax.checkpoints import workdir
from cnnjax.config import keys
from cnnjax.data import check_classes
from cnnjax.errors import UserError, unknown, warn
from cnnjax.optim import averaging
from cnnjax.runtime import sharding
from cnnjax.runtime.paths import PathLike, to_path
from cnnjax.training import members, passes, state
from cnnjax.training.compiler import Compiler
from cnnjax.training.teacher import Teacher

# `build.measured_variables`: (folder, config, checkpoints, step, weights, given) -> variables with
# measured batch statistics. An argument, because build imports this file.
Measure = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model from a checkpoint, with functions that run it as its run did.

  Functions are compiled at their first call.
  """

  config: ConfigDict  # of the run; keys of evaluation may be overridden
  mesh: Mesh
  model: nn.Module
  variables: Any  # those of `model.apply`; of several runs with a leading axis of runs
  members: members.Members  # the runs that were trained as one program, usually one
  step: int
  meta: dict[str, Any]  # mean, std, classes, image_shape, fields
  fields: fields.Fields  # of its training data

  @property
  def classes(self) -> tuple[str, ...]:
    return tuple(self.meta["classes"])

  @property
  def normalize(self) -> Callable:
    """Returns the function that normalises images in [0, 1] for the model."""
    return passes.normalizer(self.meta["mean"], self.meta["std"])

  @functools.cached_property
  def task(self) -> tasks.Task:
    """The task of the model in evaluation, without the class weights of its loss."""
    return tasks.of_data(self.config.task, self.fields)

  @functools.cached_property
  def compiler(self) -> Compiler:
    """The compiler of the run, for functions of the variables."""
    return Compiler.of(self.config)

  @functools.cached_property
  def _predicted(self) -> Callable:
    views = augment.views.create(self.config.eval_views)
    return passes.predicted_outputs(self.model, self.task, self.normalize, views)

  @functools.cached_property
  def eval_step(self) -> Callable:
    """(variables, batch, mask) -> metrics."""
    return self.compiler.jit(passes.eval_step(self.task, self._predicted), (0, None, None))

  @functools.cached_property
  def predict_step(self) -> Callable:
    """(variables, images [batch, height, width, channels] uint8) -> predictions by name."""
    return self.compiler.jit(passes.predict_step(self.task, self._predicted), (0, None))

  def check_sizes(self, sizes: Iterable[int | None]) -> None:
    """Raises UserError unless the model takes square images of these sizes, in pixels."""
    one, shape = self.members.first(self.variables), tuple(self.meta["image_shape"])
    state.check_sizes(self.model, one, shape, {*sizes} - {None})


def check_choice(checkpoint: str, weights: str) -> None:
  """Raises UserError for a checkpoint or weights that no run can have; reads no files."""
  if checkpoint not in checkpoints.WHICH and not checkpoint.isdecimal():
    raise unknown("checkpoint", checkpoint, checkpoints.WHICH)
  if weights not in averaging.WEIGHTS:
    raise unknown("weights", weights, averaging.WEIGHTS)


def load(
  folder: PathLike,
  config: ConfigDict,
  mesh: Mesh,
  checkpoint: str,
  weights: str = "raw",
  splits: Any = None,
  *,
  measure: Measure,
) -> Trained:
  """Returns the model of the run in `folder`, whose config is `config`.

  If batch statistics were not measured when the checkpoint was saved, for example because a signal
  left no time, they are measured now, on the training data of the run.

  Args:
    folder: where the run is.
    config: the run's, which `workdir.load_config` reads.
    mesh: the devices to put the variables on.
    checkpoint: "last", "best", or a step as digits.
    weights: "raw", or an average that the run kept, of `optim.averaging.WEIGHTS`.
    splits: the data of a run that was given arrays, from `data.from_arrays`.
    measure: `build.measured_variables`.

  Raises:
    UserError: the checkpoint or average does not exist, is of another model, or its batch
      statistics cannot be measured.
  """
  folder = to_path(folder)
  while True:
    saved = checkpoints.Checkpoints.of(folder, config, read_only=True)
    try:
      measured = functools.partial(measure, folder, config, saved, given=splits)
      return _load(saved, config, mesh, checkpoint, weights, measured)
    except UserError:
      if not saved.any_gone():  # a run that is training may delete checkpoints: try again
        raise


def _load(
  saved: checkpoints.Checkpoints,
  config: ConfigDict,
  mesh: Mesh,
  checkpoint: str,
  weights: str,
  measure: Callable[[int, str], Any],
) -> Trained:
  step = saved.find(checkpoint)
  meta = saved.meta(step)
  declared = fields_of(meta, config)
  model = tasks.network(tasks.of_data(config.task, declared), config)
  runs = members.create(config)
  shapes = runs.shapes(state.abstract_variables(model, tuple(meta["image_shape"]), mesh))
  variables = saved.restore_variables(step, shapes, weights)
  if measured := _measured(saved, config, step, weights, measure):
    variables = sharding.put(jax.device_get(measured), sharding.replicated(mesh))
  return Trained(config, mesh, model, variables, runs, step, meta, declared)


def fields_of(meta: dict[str, Any], config: ConfigDict) -> fields.Fields:
  """Returns the fields of the data of a run, from the metadata of its checkpoint."""
  if "fields" in meta:
    return fields.from_json(meta["fields"])
  # Older checkpoints have no fields: their data are images of 8 bits with one class or several.
  label = fields.multi_label if tasks.lookup(config.task.name).SEVERAL_LABELS else fields.label
  return {"image": fields.image(*meta["image_shape"]), "label": label(meta["classes"])}


def _measured(
  saved: checkpoints.Checkpoints,
  config: ConfigDict,
  step: int,
  weights: str,
  measure: Callable[[int, str], Any],
) -> Any:
  """Returns variables with measured batch statistics if the checkpoint lacks them, else None."""
  # Older checkpoints do not say what was measured, so theirs are always measured again.
  noted = saved.meta(step).get(checkpoints.UNMEASURED)
  fresh = noted is not None and weights not in noted
  if fresh or not averaging.needs_measuring(weights, config):
    return None
  try:
    return measure(step, weights)
  except UserError as e:
    if weights == "raw" and config.optim.lookahead and averaging.SLOW not in saved.averages(step):
      warn(
        f"evaluating Lookahead's fast weights: the slow ones of step {step:,} were not saved, and "
        f"cannot be made now: {e}"
      )
      return None
    if noted is None:
      warn(f"the {weights} weights may be of a step before {step:,}, and cannot be made again: {e}")
      return None
    raise UserError(
      f"batch statistics of the {weights} weights were not measured when step {step:,} was saved, "
      f"and cannot be measured now: {e}. Go on with the run, which measures them, or choose a "
      "checkpoint that was evaluated"
    ) from e


def teacher(
  config: ConfigDict,
  meta: dict[str, Any],
  mesh: Mesh,
  sizes: Sequence[int] = (),
  *,
  measure: Measure,
) -> Teacher | None:
  """Returns the teacher of `config.distill`; None if no run is named there.

  Args:
    config: the keys of `distill`.
    meta: the metadata of the student's data.
    mesh: the devices to put the variables on.
    sizes: image sizes in training beside that of `meta`.
    measure: as in `load`.

  Raises:
    UserError: there is no such run, or its classes are different.
  """
  if config.workdir is None:
    standard = keys.default().distill
    read = () if config.teacher is None else ("teacher", "weight", "temperature")
    if idle := [key for key in standard if key not in read and config[key] != standard[key]]:
      raise UserError(
        f"distill.{idle[0]}={config[idle[0]]!r} has no effect without distill.workdir: set that as "
        f"well, or leave it at {standard[idle[0]]!r}"
      )
    return None
  try:
    return _teacher(config, meta, mesh, sizes, measure)
  except UserError as e:
    raise UserError(f"the teacher in distill.workdir={config.workdir}: {e}") from e


def _teacher(
  config: ConfigDict, meta: dict[str, Any], mesh: Mesh, sizes: Sequence[int], measure: Measure
) -> Teacher:
  folder = to_path(config.workdir)
  settings = workdir.load_config(folder)
  found = load(folder, settings, mesh, config.checkpoint, config.weights, measure=measure)
  if found.members.several:
    raise UserError("it holds several runs, and a teacher must be one")
  check_classes(found.meta["classes"], meta["classes"])
  shape, learnt = tuple(found.meta["image_shape"]), meta["image_shape"]
  if shape[-1] != learnt[-1]:
    raise UserError(
      f"its images have {shape[-1]} channels, but those of this run have {learnt[-1]}"
    )
  state.check_sizes(found.model, found.variables, shape, {learnt[0], *sizes})
  made = Teacher.of(found.model, found.variables, found.meta["mean"], found.meta["std"])
  text = f"{made.text} of {folder}, {config.weights} weights of step {found.step:,}"
  return dataclasses.replace(made, text=text, step=found.step)
