"""Pure functions that make up steps of training and evaluation; see stepping.py."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from jax.ad_checkpoint import checkpoint_name
from ml_collections import ConfigDict

from cnnjax import models
from cnnjax.data import fields
from cnnjax.models import batch_stats as norms
from cnnjax.tasks.base import check_each_example
from cnnjax.training.state import TrainState

Batch = dict[str, jax.Array]  # image [batch, height, width, channels] uint8, label [batch] int32


@flax.struct.dataclass
class Examples:
  """The examples that a step learns from."""

  # [batch, height, width, channels] float32, augmented and normalised; of a task that learns from
  # several views [batch, views, height, width, channels].
  images: jax.Array
  # What `task.targets_of` returns: of classes [batch, num_classes] float32. They are augmented with
  # the images, so that of several views they are [batch, views, ...].
  targets: Any
  key: jax.Array  # of dropout
  teacher_outputs: Any = None  # those of the teacher on the same images


@flax.struct.dataclass
class TrainingPass:
  """The results of a forward pass in training, beside the gradient."""

  outputs: Any  # of the network, float32 [batch, ...]: of a classifier the logits
  losses: jax.Array  # [batch] float32
  collections: Any  # all collections but the parameters, after the pass
  moments: Any  # of the batch norms, where they are asked for


@flax.struct.dataclass
class Norms(metrics.Collection):
  """Means over the steps since the last line of the log; see `health.totals`."""

  grad_norm: metrics.Average.from_output("grad_norm")
  param_norm: metrics.Average.from_output("param_norm")
  update_ratio: metrics.Average.from_output("update_ratio")


@flax.struct.dataclass
class Window:
  """Training metrics since the last line of the log."""

  task: metrics.Collection
  norms: Norms

  def merge(self, other: "Window") -> "Window":
    return Window(self.task.merge(other.task), self.norms.merge(other.norms))

  def compute(self) -> dict[str, jax.Array]:
    return {**self.task.compute(), **self.norms.compute()}


def no_metrics(task: Any) -> Window:
  """Returns a window of no step."""
  none = jax.eval_shape(
    lambda: Norms.single_from_model_output(**dict.fromkeys(NORMS, jnp.zeros(())))
  )
  return Window(task.no_metrics(), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), none))


NORMS = tuple(Norms.__annotations__)


def to_float(images: jax.Array) -> jax.Array:
  """Returns images as float32 in [0, 1], as augmentation takes them."""
  if images.dtype == jnp.float32:
    return images
  return images.astype(jnp.float32) / float(fields.WHITE[str(images.dtype)])


def normalizer(mean: Sequence[float], std: Sequence[float]) -> Callable:
  """Returns the function images -> (images - mean) / std, per channel."""
  mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
  return lambda images: (images - mean) / std


def restorer(mean: Sequence[float], std: Sequence[float]) -> Callable:
  """Returns the function images -> images * std + mean, the inverse of `normalizer`."""
  mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
  return lambda images: images * std + mean


def augmented(
  task: Any, augment: Callable, seed: jax.Array | int, step: jax.Array | int, batch: Batch
) -> tuple[jax.Array, Any, jax.Array]:
  """Returns (images in [0, 1], targets, a key for dropout) of `step`, augmented.

  Images are those of `Examples` before they are normalised.
  """
  encoded, kinds = task.encode(batch), task.kinds
  views = [
    augmented_fields(augment, seed, step, encoded, kinds, view=view) for view in range(task.VIEWS)
  ]
  examples = [(view["image"], task.targets_of(view)) for view, _ in views]
  if task.VIEWS > 1:
    examples = [jax.tree.map(lambda *of_views: jnp.stack(of_views, axis=1), *examples)]
  images, targets = examples[0]
  return images, targets, views[0][1]


def augmented_fields(
  augment: Callable,
  seed: jax.Array | int,
  step: jax.Array | int,
  batch: Batch,
  kinds: Mapping[str, fields.Kind],
  *,
  view: int = 0,
) -> tuple[Batch, jax.Array]:
  """Returns (the batch with images in [0, 1], augmented; a key for dropout) of `step`.

  Args:
    augment: what `augment.create` returns.
    seed: of the run.
    step: whose numbers are drawn.
    batch: the fields by name.
    kinds: of the fields that are augmented, by name.
    view: of several views of the same images; each draws numbers of its own.
  """
  key = jax.random.fold_in(jax.random.key(seed), step)
  augment_key, dropout_key = jax.random.split(key)
  if view:
    augment_key = jax.random.fold_in(augment_key, view)
  images = {name: to_float(batch[name]) for name, kind in kinds.items() if kind == "image"}
  return augment(augment_key, {**batch, **images}, kinds), dropout_key


def of_views(apply: Callable[[jax.Array], Any], images: jax.Array) -> Any:
  """Applies a function of images [batch, ...] to them, or to [batch, views, ...] at once."""
  if images.ndim == 4:
    return apply(images)
  views = images.shape[1]
  apart = lambda x: x.reshape(-1, views, *x.shape[1:])
  return jax.tree.map(apart, apply(images.reshape(-1, *images.shape[2:])))


def preparer(
  task: Any, augment: Callable, normalize: Callable, teach: Callable | None = None
) -> Callable:
  """Returns the pure function (seed, step, batch, constants) -> Examples.

  `teach`: (constants, images in [0, 1]) -> outputs of the teacher. The constants are its variables;
  while they are None, `teach` is not called.
  """

  def prepare(seed: jax.Array, step: jax.Array, batch: Batch, constants: Any) -> Examples:
    images, targets, key = augmented(task, augment, seed, step, batch)
    teacher_outputs = None
    if teach is not None and constants is not None:
      outputs = of_views(lambda images: teach(constants, images), images)
      teacher_outputs = jax.lax.stop_gradient(outputs)
    return Examples(normalize(images), targets, key, teacher_outputs)

  return prepare


def losses(task: Any, distill: ConfigDict | None = None) -> Callable:
  """Returns the pure function (outputs, examples, updated) -> loss per example, `[batch]`.

  It adds the loss of the outputs, of the auxiliary heads in `updated`, and toward
  `examples.teacher_outputs` with the weight and the temperature of `config.distill`.
  """

  def loss(outputs: Any, examples: Examples, updated: Any) -> jax.Array:
    if task.NEEDS_TEACHER:
      return task.distill_loss(outputs, examples.teacher_outputs, distill.temperature)
    found = task.loss(outputs, examples.targets)
    batch = jax.tree.leaves(outputs)[0].shape[:1]
    check_each_example(found, batch, f"the loss of the task {task.name!r}")
    for aux_logits in jax.tree.leaves(updated.get("aux_logits", {})):
      found += task.aux_weight * task.loss(aux_logits, examples.targets)
    if examples.teacher_outputs is None:
      return found
    toward = task.distill_loss(outputs, examples.teacher_outputs, distill.temperature)
    return (1 - distill.weight) * found + distill.weight * toward

  return loss


def gradients(
  model: nn.Module,
  loss: Callable,
  *,
  accumulate: int = 1,
  matched: bool = False,
  batch_norm_mode: Callable[[], contextlib.AbstractContextManager] = norms.batch_norm_mode,
  frozen: Any = None,
  gather: Callable[[Any], Any] | None = None,
) -> Callable:
  """Returns the pure function (params, others, examples, scale) -> (grads, TrainingPass).

  `others` are the variables that are no parameters, by collection.

  Args:
    model: the network to train.
    loss: what `losses` returns.
    accumulate: the number of micro-batches, taken one after another.
    matched: updates batch statistics once, from all micro-batches together; else after each.
    batch_norm_mode: the context that the model runs in, `models.batch_stats.batch_norm_mode`.
    frozen: a tree like params, true where no gradient is taken.
    gather: what `sharding.gatherer` returns, where the parameters lie in parts.
  """
  keep = ["moments"] if matched else []

  def loss_fn(params: Any, others: Any, examples: Examples, scale: Any) -> Any:
    if gather:
      params = checkpoint_name(gather(params), "whole")
    if frozen is not None:
      params = jax.tree.map(lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen)
    with batch_norm_mode():
      variables = {**others, "params": params}
      passed = passed_in_training(model, variables, examples, keep)
    losses = loss(passed.outputs, examples, passed.extra)
    moments = passed.extra.get("moments", {})
    result = TrainingPass(passed.outputs, losses, passed.collections, moments)
    return losses.mean() * scale, result

  if gather:  # the backward pass collects each parameter anew, and none is kept for it
    policy = jax.checkpoint_policies.save_anything_except_these_names("whole")
    loss_fn = jax.checkpoint(loss_fn, policy=policy)
  grad = jax.grad(loss_fn, has_aux=True)
  if accumulate == 1:
    return grad

  def accumulated(params: Any, others: Any, examples: Examples, scale: Any) -> Any:
    # Each takes every n-th example: of a batch that lies on many devices, some of each.
    split = lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)
    join = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
    keys = jax.random.split(examples.key, accumulate)
    micro = jax.tree.map(split, examples.replace(key=None)).replace(key=keys)

    # A loop around convolutions takes XLA's slow path on CPU.
    unroll = accumulate if jax.default_backend() == "cpu" else 1

    def one(carry: Any, examples: Examples) -> Any:
      others, total = carry
      if unroll > 1:
        # XLA would begin all of them at once, and save no memory. A value of the gradients so far,
        # though it is never used, makes each wait for the last. (On jax 0.10 optimization_barrier
        # does not: ResNet-20, batch 128 in 4, takes 288 MiB with it as without, and 74 MiB so.)
        so_far = sum(leaf.ravel()[0] for leaf in jax.tree.leaves(total))
        images = jnp.where(so_far > jnp.inf, so_far.astype(examples.images.dtype), examples.images)
        examples = examples.replace(images=images)
      grads, result = grad(params, others, examples, scale)
      after = result.collections
      if matched:
        after = {**after, "batch_stats": others["batch_stats"]}
      return (after, optax.tree.add(total, grads)), result.replace(collections=None)

    begin = others, optax.tree.zeros_like(params)
    (after, total), result = jax.lax.scan(one, begin, micro, unroll=unroll)
    if matched:
      after = {**after, "batch_stats": norms.updated(others["batch_stats"], result.moments)}
    result = TrainingPass(jax.tree.map(join, result.outputs), join(result.losses), after, None)
    return optax.tree.scale(1 / accumulate, total), result

  return accumulated


def passed_in_training(
  model: nn.Module, variables: Any, examples: Examples, keep: Sequence[str] = ()
) -> models.ForwardPass:
  """Returns `models.forward_in_training` of examples, with outputs as `of_views` returns them."""
  passed = None

  def apply(images: jax.Array) -> Any:
    nonlocal passed
    passed = models.forward_in_training(model, variables, images, examples.key, keep)
    return passed.outputs

  outputs = of_views(apply, examples.images)
  return passed._replace(outputs=outputs)


def several(step: Callable, take: Callable, *, loop: bool) -> Callable:
  """Returns (state, feed, n, constants) -> state: n steps on batches `take(feed, state.step)`.

  On GPU and TPU the loop saves dispatches. On CPU a loop around convolutions is slow, as XLA leaves
  its fast path inside `while`: there `loop` is false, and n has to be 1.
  """

  def once(state: TrainState, feed: Any, n: int = 1, constants: Any = None) -> TrainState:
    return step(state, take(feed, state.step), constants)

  def steps(state: TrainState, feed: Any, n: int, constants: Any = None) -> TrainState:
    return jax.lax.fori_loop(0, n, lambda _, s: once(s, feed, constants=constants), state)

  return steps if loop else once


def predicted_outputs(
  model: nn.Module, task: Any, normalize: Callable, views: Callable
) -> Callable:
  """Returns the pure function (variables, images) -> outputs in evaluation.

  These give the mean prediction over the `views` of an image; see `augment.views`.
  """

  def outputs(variables: Any, images: jax.Array) -> Any:
    seen = views(to_float(images))
    found = [models.forward(model, variables, normalize(view)) for view in seen]
    return task.mean_prediction(found)

  return outputs


@flax.struct.dataclass
class Evaluated:
  """Metrics of some examples of an evaluation."""

  sums: metrics.Collection
  examples: jax.Array  # [] int32, how many
  collected: dict[str, Any]  # [batch, ...] by name, for metrics of a whole split, and `valid`

  def merge(self, other: "Evaluated") -> "Evaluated":
    """Returns the metrics of both, with the collected arrays joined on the host."""
    join = lambda a, b: np.concatenate(
      [a, b], axis=np.ndim(self.examples)
    )  # after the axis of runs
    return Evaluated(
      self.sums.merge(other.sums),
      self.examples + other.examples,
      jax.tree.map(join, self.collected, other.collected),
    )

  def compute(self) -> dict[str, jax.Array]:
    return self.sums.compute()

  def of_split(self) -> dict[str, np.ndarray]:
    """Returns the collected arrays of the split, `[examples, ...]`, by name."""
    valid = np.asarray(self.collected["valid"]) if self.collected else None
    rest = {name: x for name, x in self.collected.items() if name != "valid"}
    return {name: np.asarray(x)[valid] for name, x in rest.items()}


def eval_step(task: Any, predicted: Callable) -> Callable:
  """Returns the pure function (variables, batch, mask) -> Evaluated, where `mask` is true.

  `predicted` is what `predicted_outputs` returns.
  """

  def step(variables: Any, batch: Batch, mask: jax.Array) -> Evaluated:
    outputs = predicted(variables, batch["image"])
    encoded = task.encode({**batch, "image": to_float(batch["image"])})
    sums = task.eval_metrics(outputs, task.targets_of(encoded), mask)
    collected = task.split_arrays(outputs, batch)
    if collected:
      collected = {**collected, "valid": mask}
    return Evaluated(sums, mask.sum(dtype=jnp.int32), collected)

  return step


def predict_step(task: Any, predicted: Callable) -> Callable:
  """Returns the pure function (variables, images) -> `task.predictions`."""
  return lambda variables, images: task.predictions(predicted(variables, images))


def moments_step(
  model: nn.Module,
  prepare: Callable,
  batch_norm_mode: Callable[[], contextlib.AbstractContextManager],
) -> Callable:
  """Returns the pure function (variables, seed, step, batch, constants) -> moments.

  These are the moments of the batch norms on the examples of `step`, prepared as in training; see
  `models.batch_stats.pooled`.
  """

  def step(variables: Any, seed: jax.Array, step: jax.Array, batch: Batch, constants: Any) -> Any:
    examples = prepare(seed, step, batch, constants)
    with batch_norm_mode():
      passed = passed_in_training(model, variables, examples, ["moments"])
    return passed.extra.get("moments", {})

  return step
