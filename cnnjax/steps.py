"""The pure training and evaluation steps, built from a model, a task and an optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnnjax.state import TrainState

Batch = dict[str, jax.Array]  # image [batch, height, width, channels] uint8, label [batch] int32


def to_float(images: jax.Array) -> jax.Array:
  """uint8 images as float32 in [0, 1]; augmentation works on these."""
  return images.astype(jnp.float32) / 255.0


def normalizer(mean: Sequence[float], std: Sequence[float]) -> Callable:
  """images -> (images - mean) / std, per channel."""
  mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
  return lambda images: (images - mean) / std


def augmented(
  task: Any, augment: Callable, seed: int, step: jax.Array | int, batch: Batch
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(images in [0, 1], targets, a key for dropout) of `step`: what is trained on, normalised."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  augment_key, dropout_key = jax.random.split(key)
  images, targets = augment(augment_key, to_float(batch["image"]), task.targets(batch["label"]))
  return images, targets, dropout_key


def train_step(
  model: nn.Module,
  task: Any,
  optimizer: optax.GradientTransformation,
  augment: Callable,
  normalize: Callable,
  seed: int,
) -> Callable:
  """Returns the pure function (state, batch) -> state of one step."""

  def step(state: TrainState, batch: Batch) -> TrainState:
    images, targets, dropout_key = augmented(task, augment, seed, state.step, batch)
    images = normalize(images)

    def loss_fn(params):
      logits, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        images,
        train=True,
        rngs={"dropout": dropout_key},
        mutable=["batch_stats", "aux_logits"],
      )
      losses = task.loss(logits, targets)
      for aux_logits in jax.tree.leaves(updated.get("aux_logits", {})):
        losses += task.aux_weight * task.loss(aux_logits, targets)
      return losses.mean(), (logits, losses, updated.get("batch_stats", {}))

    grads, (logits, losses, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    finite = jnp.isfinite(losses.mean()) & jnp.isfinite(optax.tree.norm(updates))
    return state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
      window=state.window.merge(task.metrics(logits, targets, losses)),
      bad_step=jnp.where(finite, state.bad_step, jnp.minimum(state.bad_step, state.step)),
    )

  return step


def several(step: Callable, take: Callable, *, loop: bool) -> Callable:
  """Returns (state, feed, n) -> state, which does n steps on batches `take(feed, state.step)`.

  A loop around convolutions is slow on CPU (XLA leaves its fast path inside `while`): there, one
  step at a time, n being 1, with `loop` false. On GPU and TPU the loop saves dispatches.
  """

  def once(state: TrainState, feed: Any, n: int = 1) -> TrainState:
    return step(state, take(feed, state.step))

  def steps(state: TrainState, feed: Any, n: int) -> TrainState:
    return jax.lax.fori_loop(0, n, lambda _, s: once(s, feed), state)

  return steps if loop else once


def eval_step(model: nn.Module, task: Any, normalize: Callable, views: Callable) -> Callable:
  """Returns the pure function (variables, batch, mask) -> metrics, summed where `mask` is true.

  A prediction is the mean over the `views` of an image; see `augment.views`.
  """

  def step(variables: Any, batch: Batch, mask: jax.Array) -> Any:
    images = views(to_float(batch["image"]))
    logits = [model.apply(variables, normalize(view), train=False) for view in images]
    logits = task.mean_prediction(logits)
    targets = task.targets(batch["label"])
    return task.metrics(logits, targets, task.eval_loss(logits, targets), mask)

  return step
