"""Opens the trained model of a run, to evaluate it, to predict with it or to learn from it."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import augment, checkpoints, data, models, tasks, transfer
from cnnjax import config as configs
from cnnjax.build import build, validate
from cnnjax.checkpoints import trained_on
from cnnjax.checkpoints.workdir import CONFIG, load_config
from cnnjax.config import keys
from cnnjax.data import fields
from cnnjax.errors import UserError, unknown, warn
from cnnjax.optim import averaging
from cnnjax.runtime import compiling, sharding
from cnnjax.runtime.paths import PathLike, to_path
from cnnjax.tasks.metric import WEIGHTS
from cnnjax.training import members, passes, resuming, state
from cnnjax.training.compiler import Compiler
from cnnjax.training.teacher import Teacher

AUTO = "auto"  # the model of init.from


@dataclasses.dataclass(frozen=True, repr=False)
class Trained:
  """A model from a checkpoint, with functions that run it as its run did.

  Functions are compiled at their first call.
  """

  folder: pathlib.Path  # of the run
  config: ConfigDict  # of the run, with `overrides`
  mesh: Mesh
  model: nn.Module
  variables: Any  # those of `model.apply`; of several runs with a leading axis of runs
  members: members.Members  # the runs that were trained as one program, usually one
  step: int
  meta: dict[str, Any]  # mean, std, classes, image_shape, fields
  fields: fields.Fields  # of its training data
  splits: dict[str, data.Split] | None = None  # the data of a run that was given arrays
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keys of evaluation

  def __repr__(self) -> str:
    shape = "x".join(map(str, self.meta["image_shape"]))
    classes = f"{len(self.classes)} classes, " if self.classes else ""
    return f"{self.config.model.name}, {classes}{shape}, step {self.step:,} of {self.folder}"

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

  def with_overrides(self, overrides: Mapping[str, Any]) -> "Trained":
    """Returns the model with other values of config keys, such as `{"eval_views": "flip"}`.

    Raises:
      UserError: a key or value is wrong, or does not fit the task. The data are not looked at.
    """
    config = _overridden(self.config, overrides)
    augment.views.check(config.eval_views, self.task.kinds)
    return dataclasses.replace(self, config=config, overrides={**self.overrides, **overrides})

  def check_sizes(self, sizes: Iterable[int | None]) -> None:
    """Raises UserError unless the model takes square images of these sizes, in pixels."""
    one, shape = self.members.first(self.variables), tuple(self.meta["image_shape"])
    state.check_sizes(self.model, one, shape, {*sizes} - {None})


def check_choice(checkpoint: str, weights: str) -> None:
  """Raises UserError for a checkpoint or weights that no run can have; reads no files."""
  if checkpoint not in checkpoints.WHICH and not checkpoint.isdecimal():
    raise unknown("checkpoint", checkpoint, checkpoints.WHICH)
  if weights not in WEIGHTS:
    raise unknown("weights", weights, WEIGHTS)


def open_run(
  workdir: PathLike,
  checkpoint: str = "last",
  weights: str = "raw",
  splits: dict[str, data.Split] | None = None,
  overrides: Mapping[str, Any] | None = None,
) -> Trained:
  """Returns the model of a run on all devices, for every command that uses one.

  Args:
    workdir: where the run is; or a file of weights, see `transfer.open_file`.
    checkpoint: "last", "best", or a step as digits.
    weights: "raw", or an average that the run kept, of `tasks.metric.WEIGHTS`.
    splits: the data of a run that was given arrays, from `data.from_arrays`.
    overrides: config keys that may differ from the run's, as of `Trained.with_overrides`.

  Raises:
    UserError: as of `load`, or an override is wrong.
  """
  check_choice(checkpoint, weights)
  folder, overrides = to_path(workdir), overrides or {}
  if folder.is_file():
    return of_pretrained(transfer.open_file(folder), folder).with_overrides(overrides)
  own = load_config(folder)
  config = _overridden(own, overrides)  # what is wrong is said before the checkpoint is read
  compiling.use_cache(config.compilation_cache)
  model = load(folder, own, sharding.make_mesh(-1), checkpoint, weights, splits)
  return model.with_overrides(overrides)


def _overridden(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """Returns a config with overrides, of which all is checked but the source of data."""
  config = config.copy_and_resolve_references()
  for key, value in overrides.items():
    configs.override(config, key, value)
  validate(data.without_source(config))
  return config


def load(
  folder: pathlib.Path,
  config: ConfigDict,
  mesh: Mesh,
  checkpoint: str,
  weights: str = "raw",
  splits: dict[str, data.Split] | None = None,
) -> Trained:
  """Returns the model of the run in `folder`, whose config is `config`, with variables on `mesh`.

  If batch statistics were not measured when the checkpoint was saved, for example because a signal
  left no time, they are measured now, on the training data of the run. Other arguments are those of
  `open_run`.

  Raises:
    UserError: the checkpoint or average does not exist, is of another model, or its batch
      statistics cannot be measured.
  """
  while True:
    saved = checkpoints.Checkpoints.of(folder, config, read_only=True)
    try:
      step = saved.find(checkpoint)
      meta = saved.meta(step)
      declared = fields_of(meta, config)
      model = tasks.network(tasks.of_data(config.task, declared), config)
      runs = members.create(config)
      shapes = runs.shapes(state.abstract_variables(model, tuple(meta["image_shape"]), mesh))
      variables = saved.restore_variables(step, shapes, weights)
      if measured := _measured(folder, config, saved, step, weights, splits):
        variables = sharding.put(jax.device_get(measured), sharding.replicated(mesh))
      return Trained(folder, config, mesh, model, variables, runs, step, meta, declared, splits)
    except UserError:
      if not saved.any_gone():  # a run that is training may delete checkpoints: try again
        raise


def fields_of(meta: dict[str, Any], config: ConfigDict) -> fields.Fields:
  """Returns the fields of the data of a run, from the metadata of its checkpoint."""
  if "fields" in meta:
    return fields.from_json(meta["fields"])
  # Older checkpoints have no fields: their data are images of 8 bits with one class or several.
  label = fields.multi_label if tasks.lookup(config.task.name).SEVERAL_LABELS else fields.label
  return {"image": fields.image(*meta["image_shape"]), "label": label(meta["classes"])}


def _measured(
  folder: pathlib.Path,
  config: ConfigDict,
  saved: checkpoints.Checkpoints,
  step: int,
  weights: str,
  splits: dict[str, data.Split] | None,
) -> Any:
  """Returns variables with measured batch statistics if the checkpoint lacks them, else None."""
  # Older checkpoints do not say what was measured, so theirs are always measured again.
  noted = saved.meta(step).get(checkpoints.UNMEASURED)
  fresh = noted is not None and weights not in noted
  if fresh or not averaging.needs_measuring(weights, config):
    return None
  try:
    return measured_variables(folder, config, saved, step, weights, splits)
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


def measured_variables(
  folder: pathlib.Path,
  config: ConfigDict,
  saved: checkpoints.Checkpoints,
  step: int,
  weights: str,
  splits: dict[str, data.Split] | None,
) -> Any:
  """Returns variables of a checkpoint with batch statistics measured as in its run.

  Loads the training data of the run in `folder`, unless they are `splits`.

  Raises:
    UserError: the data are missing, or are not those of the run.
  """
  config = data.with_given(config.copy_and_resolve_references(), splits)
  config.mesh.data = math.gcd(config.batch_size // config.accumulate, jax.device_count())
  config.mesh.fsdp = 1
  config.distill.workdir = None  # nothing is learnt from another run here
  program = build(config, splits, before=trained_on.read(folder))
  data.check_classes(saved.meta(step)["classes"], program.inputs.classes)
  with contextlib.closing(program.inputs.train):
    return program.weights(
      program.with_measured_batch_stats(resuming.restored(program, saved, str(step)))
    )[weights]


def with_init(
  config: ConfigDict, workdir: pathlib.Path | None = None, given: transfer.Pretrained | None = None
) -> tuple[ConfigDict, transfer.Pretrained | None]:
  """Returns the config with the keys that the network of `init.from` decides, and that network.

  `model.name=auto` becomes its architecture with its options. The keys of data that its record of
  preprocessing has (`transfer.Preprocessing.keys`) become those of the record where they are at
  their defaults, unless `init.preprocessing=data`. A run that resumes in `workdir` has all of them
  in its config, and needs no network. `given` is taken in place of the file.

  Raises:
    UserError: the network cannot be read, or is not the one that the config names.
  """
  configs.import_parts(config)
  configs.check_values(config)
  if config.init["from"] is None and given is None:
    if config.model.name == AUTO:
      raise UserError("model.name=auto is the model of a trained network: set init.from")
    return config, None
  config = config.copy_and_resolve_references()
  if workdir and checkpoints.last_step(workdir) is not None:
    begun = load_config(workdir)
    network, model, keys_of_data = None, {**begun.model}, configs.flatten(begun.data)
  else:
    network = given or pretrained(config)
    model = {"name": network.name, **network.options}
    keys_of_data = network.preprocessing.keys
  if config.model.name not in (AUTO, model["name"]):
    raise UserError(
      f"model.name={config.model.name}, and the weights are those of {model['name']}: set "
      "model.name=auto"
    )
  config.model = {**model, **{key: v for key, v in config.model.items() if key != "name"}}
  standard = keys.default().data
  if config.init.preprocessing == "weights":
    for key in transfer.Preprocessing().keys:
      if config.data[key] == standard[key]:
        config.data[key] = keys_of_data[key]
  return config, network


def pretrained(config: ConfigDict) -> transfer.Pretrained:
  """Returns the network of `init.from`: a file, or the workdir of a run. Takes the whole config.

  Raises:
    UserError: it cannot be read, or is not the one that the config names.
  """
  c, name = config.init, None if config.model.name == AUTO else config.model.name
  where = c["from"]
  if where.startswith(transfer.HUB) or not (to_path(where) / CONFIG).is_file():
    if (standard := keys.default().init.weights) != c.weights:
      raise UserError(
        f"init.weights={c.weights} is an average of a run, and {where} is a file: leave it at "
        f"{standard}"
      )
    if not where.startswith(transfer.HUB):
      where = to_path(where)
    return transfer.open_file(where, source=c.source, name=name)
  if c.source is not None:
    raise UserError(f"init.source={c.source} is for files, and {where} is the workdir of a run")
  folder = to_path(where)
  saved = checkpoints.Checkpoints.of(folder, load_config(folder), read_only=True)
  best = c.checkpoint == "best" and saved.step("best") is not None
  return as_pretrained(open_run(folder, "best" if best else "last", c.weights))


def as_pretrained(run: Trained) -> transfer.Pretrained:
  """Returns the model of a run with its preprocessing, without the head that its task puts on it.

  Raises:
    UserError: the run has no such model.
  """
  c, meta = run.config, run.meta
  variables = jax.device_get(run.members.first(run.variables))
  place = transfer.backbone(run.model, meta["image_shape"])
  inner = {name: _at(tree, place) for name, tree in variables.items()}
  standard = models.fields(c.model.name)
  options = {k: v for k, v in c.model.items() if k != "name" and v != standard[k]}
  record = transfer.Preprocessing(
    mean=tuple(meta["mean"]), std=tuple(meta["std"]), image_size=meta["image_shape"][0],
    crop=c.data.eval_crop, interpolation=c.data.interpolation,
    classes=() if place else run.classes, source=f"cnnjax, {run.folder}",
  )  # fmt: skip
  outputs = 0 if place else run.task.num_outputs
  text = f"weights of step {run.step:,} of {run.folder}"
  return transfer.Pretrained(c.model.name, options, outputs, inner, record, text)


def _at(tree: Any, place: Iterable[str]) -> Any:
  """Returns the part of a tree at a path, or {} if there is none."""
  for name in place:
    tree = tree.get(name, {})
  return tree


def config_of(network: transfer.Pretrained) -> ConfigDict:
  """Returns the config of a network, with its preprocessing, for images of a folder."""
  config = keys.default()
  config.model = {"name": network.name, **network.options}
  config.data.source = "folder"
  for key, value in network.preprocessing.keys.items():
    config.data[key] = value
  return config


def of_pretrained(network: transfer.Pretrained, where: pathlib.Path) -> Trained:
  """Returns a classifier from a file of weights, on all devices.

  Raises:
    UserError: the network has no last layer.
  """
  if not network.num_classes:
    raise UserError(f"{where} has no last layer, so it predicts no classes: train one by init.from")
  config, record = config_of(network), network.preprocessing
  classes = record.classes or tuple(f"class {i}" for i in range(network.num_classes))
  declared = {"image": fields.image(*network.shape), "label": fields.label(classes)}
  meta = {
    "mean": record.mean, "std": record.std, "classes": classes, "image_shape": network.shape,
  }  # fmt: skip
  mesh = sharding.make_mesh(-1)
  variables = sharding.put(dict(network.variables), sharding.replicated(mesh))
  model = tasks.network(tasks.of_data(config.task, declared), config)
  runs = members.create(config)
  return Trained(where, config, mesh, model, variables, runs, 0, meta, declared)


def teacher(config: ConfigDict) -> Teacher | None:
  """Returns the teacher of a run from `distill.workdir`; None if no other run is named there.

  Takes the whole config.

  Raises:
    UserError: there is no such run, or it cannot teach.
  """
  c, standard = config.distill, keys.default().distill
  if c.workdir is None:
    read = () if c.teacher is None else ("teacher", "weight", "temperature")
    if idle := [key for key in standard if key not in read and c[key] != standard[key]]:
      raise UserError(
        f"distill.{idle[0]}={c[idle[0]]!r} has no effect without distill.workdir: set that as "
        f"well, or leave it at {standard[idle[0]]!r}"
      )
    return None
  folder, mesh = to_path(c.workdir), sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  with _named_teacher(c):
    model = load(folder, load_config(folder), mesh, c.checkpoint, c.weights)
    if model.members.several:
      raise UserError("it holds several runs, and a teacher must be one")
  made = Teacher.of(model.model, model.variables, model.meta["mean"], model.meta["std"])
  text = f"{made.text} of {folder}, {c.weights} weights of step {model.step:,}"
  check = functools.partial(_check_pupil, c, model)
  return dataclasses.replace(made, text=text, step=model.step, check=check)


def _check_pupil(
  config: ConfigDict, model: Trained, meta: Mapping[str, Any], sizes: Iterable[int]
) -> None:
  """Raises UserError unless a model can teach a run; arguments as of `Teacher.check`."""
  with _named_teacher(config):
    data.check_classes(model.classes, meta["classes"])
    (side, *_, channels), (*_, own) = meta["image_shape"], model.meta["image_shape"]
    if own != channels:
      raise UserError(f"its images have {own} channels, but those of this run have {channels}")
    model.check_sizes((side, *sizes))


@contextlib.contextmanager
def _named_teacher(config: ConfigDict) -> Iterator[None]:
  """Says of a UserError in the body that it is about the teacher of `config.distill`."""
  try:
    yield
  except UserError as e:
    raise UserError(f"the teacher in distill.workdir={config.workdir}: {e}") from e
