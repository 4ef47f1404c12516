"""Defines the interface of a task, with the defaults that most tasks share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average, Collection
from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.data import fields
from cnnjax.data.fields import Fields, Kind, Need
from cnnjax.errors import UserError
from cnnjax.tasks.metric import Metric


def declared_metrics(task: Any, more: Sequence[str]) -> tuple[Metric, ...]:
  """Returns the metrics that a task, or its class, declares, and registered ones by name."""
  parts = [(name, registry.part("metric", name, task.name)) for name in more]
  more = (Metric(name, **part.options) for name, part in parts)
  return (*task.METRICS, *task.SPLIT_METRICS, *more)


def check_each_example(values: Any, shape: tuple[int, ...], what: str) -> None:
  """Raises UserError unless `what` returned a value for each example, an array of this shape."""
  if jnp.shape(values) != shape:
    raise UserError(
      f"{what} must return a value for each example, of shape {list(shape)}, and returned "
      f"{list(jnp.shape(values))}"
    )


class Fitted(NamedTuple):
  """A network with the weights that are evaluated, of which `Task.pictures` makes pictures."""

  model: nn.Module  # from `Task.network`
  variables: Any  # for `model.apply`
  outputs: Callable  # images in [0, 1] -> outputs, as evaluation has them
  normalize: Callable  # images in [0, 1] -> images as the model takes them
  to_pixels: Callable  # images as the model takes them -> images in [0, 1], clipped


@dataclasses.dataclass(frozen=True)
class Task:
  """A task: pure functions of the fields of a batch and the outputs of a network.

  A subclass is registered by `@register("task", NAME, ...)`. It declares in `NEEDS` the kinds of
  fields that it takes, and its metrics in the order in which they are printed: in `METRICS` sums
  over examples, which `collection` computes, and in `SPLIT_METRICS` metrics of a whole split,
  which `split_metrics` computes. Losses are registered for its `name`: functions (task, outputs,
  targets) -> [batch], the loss of each example. A task with one loss only overrides `loss` instead.

  Outputs are an array or a tree of arrays [batch, ...]. They are compared with the targets: the
  field of the kind `TARGET`; of boxes, or of more than one kind, a dict of arrays, see
  `targets_of`. In training with more than one of `VIEWS`, both are [batch, views, ...].
  """

  NEEDS: ClassVar[tuple[Need, ...]] = ("image",)  # the kinds of fields that it reads
  TARGET: ClassVar[Kind | tuple[Kind, ...] | None] = None  # kinds of its targets; None: no targets
  VIEWS: ClassVar[int] = 1  # augmented versions of each image that a step learns from
  NEEDS_TEACHER: ClassVar[bool] = False  # it learns from the outputs of a teacher alone
  LOSS_OVER_BATCH: ClassVar[bool] = False  # the loss of an example depends on others of its batch
  STEP: ClassVar[str | None] = None  # the kind of step that it needs; None: any
  METRICS: ClassVar[tuple[Metric, ...]] = ()
  SPLIT_METRICS: ClassVar[tuple[Metric, ...]] = ()
  SEVERAL_LABELS: ClassVar[bool] = False  # an image may have several labels

  num_outputs: int  # of the network, in the last axis
  name: str = ""  # of the task whose losses and metrics it takes; a subclass says it, and its loss
  loss_name: str = ""
  head: str | None = None  # a registered one; None: that of the model
  config: ConfigDict | None = None  # the group `task`, for the keys of registered parts
  more_metrics: tuple[str, ...] = ()  # registered ones, beside those of the collection
  aux_weight: float = 0.3  # of the loss of each auxiliary head
  data: Fields | None = None  # the fields of the data

  # The network.
  @classmethod
  def count_outputs(cls, data: Fields, config: ConfigDict) -> int:
    """Returns `num_outputs` for these data; `config` is the group `task`."""
    raise NotImplementedError

  @classmethod
  def check_data(cls, data: Fields) -> None:
    """Raises UserError where the data, which have all kinds it needs, do not fit."""

  def network(self, backbone: Callable[[int], nn.Module]) -> nn.Module:
    """Returns the network; `backbone` makes the model of the config with so many outputs.

    With 0 outputs it has no last layer, and a head is put on its `feature_maps`.
    """
    if self.head is None:
      return backbone(self.num_outputs)
    return registry.part("head", self.head, self.name).value(self, backbone(0))

  # The examples.
  @property
  def kinds(self) -> dict[str, Kind]:
    """The kind of each field to augment, by its name."""
    return {"image": "image"} | {kind: kind for kind in self._target_kinds}

  @property
  def _target_kinds(self) -> tuple[Kind, ...]:
    if self.TARGET is None:
      return ()
    return self.TARGET if isinstance(self.TARGET, tuple) else (self.TARGET,)

  def encode(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the arrays of the fields to augment, by the names in `kinds`.

    Beside `boxes` are `boxes_label` and `boxes_valid`; see `fields`.
    """
    encoded = {"image": batch["image"]}
    for kind in self._target_kinds:
      name = self.field(kind)
      encoded[kind] = self.targets(batch[name])
      if kind == "boxes":
        for beside in (fields.label_of, fields.valid_of):
          encoded[beside(kind)] = batch[beside(name)]
    return encoded

  def field(self, kind: Kind) -> str:
    """Returns the name of the field of a kind in the data."""
    return next(iter(fields.of_kind(self.data or {}, kind)), kind)

  def targets(self, values: jax.Array) -> jax.Array:
    """Returns targets of the values of a field."""
    return values

  def targets_of(self, encoded: Mapping[str, jax.Array]) -> Any:
    """Returns the targets, from the arrays that `encode` returned, augmented in training.

    By default they are the array of the kind `TARGET`; if that names boxes or more than one kind, a
    dict of all arrays but the image. An autoencoder returns `encoded["image"]`, in [0, 1].
    """
    if self.TARGET is None or (self.TARGET in encoded and self.TARGET != "boxes"):
      return encoded.get(self.TARGET)
    return {name: array for name, array in encoded.items() if name != "image"}

  # The loss.
  def loss(self, outputs: Any, targets: Any) -> jax.Array:
    """Returns the training loss of each example, `[batch]`, by the chosen registered loss."""
    return registry.part("loss", self.loss_name, self.name).value(self, outputs, targets)

  def eval_loss(self, outputs: Any, targets: Any) -> jax.Array:
    """Returns the loss of each example in evaluation, `[batch]`."""
    return self.loss(outputs, targets)

  def distill_loss(self, outputs: Any, teacher_outputs: Any, temperature: float) -> jax.Array:
    """Returns the loss of each example toward the outputs of a teacher, `[batch]`."""
    raise NotImplementedError

  @classmethod
  def can_distill(cls) -> bool:
    """Returns whether it defines `distill_loss`."""
    return cls.distill_loss is not Task.distill_loss

  # The predictions and the metrics.
  def mean_prediction(self, outputs: Sequence[Any]) -> Any:
    """Returns the outputs for an image from those for its views, by default their mean."""
    if len(outputs) == 1:
      return outputs[0]
    return jax.tree.map(lambda *of_views: jnp.stack(of_views).mean(0), *outputs)

  def predictions(self, outputs: Any) -> dict[str, jax.Array]:
    """Returns predictions in the units of a person: arrays [batch, ...] by name."""
    raise NotImplementedError

  def pictures(
    self, fitted: Fitted, batch: Mapping[str, jax.Array], key: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns pictures of the work of the network, for TensorBoard; by default none.

    They are made at each evaluation. Each is shown as a square of its images, row by row.

    Args:
      fitted: the network, with weights that are evaluated.
      batch: the first 16 examples of the split, images in [0, 1].
      key: the same at every evaluation of a run.

    Returns:
      Float images [n, height, width, 1 or 3] in [0, 1] by name.
    """
    return {}

  @classmethod
  def has_pictures(cls) -> bool:
    """Returns whether it defines `pictures`."""
    return cls.pictures is not Task.pictures

  @property
  def collection(self) -> type[Collection]:
    """The metrics that are sums; `loss` is among them."""
    raise NotImplementedError

  def metric_inputs(self, outputs: Any, targets: Any) -> dict[str, jax.Array]:
    """Returns the arrays that `collection` is computed from, beside the losses."""
    return {}

  def split_arrays(self, outputs: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns arrays [batch, ...] to collect over a split for `split_metrics`; by default none."""
    return {}

  def has_split_arrays(self) -> bool:
    """Returns whether the data have the fields that `split_arrays` takes."""
    return True

  def split_metrics(self, collected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns metrics of a whole split, from the arrays that `split_arrays` returned."""
    return {}

  @property
  def declared_metrics(self) -> tuple[Metric, ...]:
    """The metrics of the task, with the registered ones that are chosen."""
    return declared_metrics(self, self.more_metrics)

  @property
  def eval_metric_names(self) -> tuple[str, ...]:
    """The names of the metrics of an evaluation."""
    collected = self.SPLIT_METRICS if self.has_split_arrays() else ()
    return (*self.eval_collection.__annotations__, *(metric.name for metric in collected))

  @functools.cached_property
  def full_collection(self) -> type[Collection]:
    """The collection of the task, with the registered metrics that are chosen."""
    own = self.collection
    more = {name: Average.from_output(name) for name in self.more_metrics}
    return Collection.create(**own.__annotations__, **more) if more else own

  @property
  def eval_collection(self) -> type[Collection]:
    """The collection of `eval_metrics`."""
    return self.full_collection

  def metrics(
    self, outputs: Any, targets: Any, losses: jax.Array, mask: jax.Array | None = None
  ) -> Collection:
    """Returns sums and counts of one batch, of examples whose mask is true."""
    mask = jnp.ones(losses.shape, bool) if mask is None else mask
    check_each_example(losses, mask.shape, f"the loss of the task {self.name!r}")
    more = {
      name: registry.part("metric", name, self.name).value(self, outputs, targets)
      for name in self.more_metrics
    }
    for name, values in more.items():
      check_each_example(values, mask.shape, f"the metric {name!r}")
    return self.full_collection.single_from_model_output(
      loss=losses, mask=mask, **self.metric_inputs(outputs, targets), **more
    )

  def eval_metrics(self, outputs: Any, targets: Any, mask: jax.Array) -> Collection:
    """Returns `metrics` of one batch of an evaluation, which has one view of each image."""
    return self.metrics(outputs, targets, self.eval_loss(outputs, targets), mask)

  @property
  def example_shapes(self) -> tuple[Any, Any]:
    """The shapes of outputs and targets of one training example."""
    values = jax.ShapeDtypeStruct((1, self.num_outputs), jnp.float32)
    return values, values

  def no_metrics(self) -> Collection:
    """Returns the metrics of no examples, with the shapes of those of a batch."""
    losses = jax.ShapeDtypeStruct((1,), jnp.float32)
    found = jax.eval_shape(self.metrics, *self.example_shapes, losses)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
