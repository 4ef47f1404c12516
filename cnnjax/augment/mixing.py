"""Mixup and CutMix: every example is mixed with another of its batch, and so are the targets."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.errors import UserError


def _check_alpha(name: str, alpha: float) -> None:
  if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < 1e6:
    raise UserError(f"augment: {name} takes alpha, a number that is at least 0, not {alpha!r}")


def _ratio(key: jax.Array, alpha: float) -> jax.Array:
  """The share of the first image, from Beta(alpha, alpha); at alpha 0, all of it."""
  return jax.random.beta(key, alpha, alpha) if alpha else jnp.ones(())


def mixup(alpha: float) -> Callable:
  """Convex combinations with one ratio a batch (arXiv:1710.09412, section 2)."""
  _check_alpha("mixup", alpha)

  def apply(key: jax.Array, images: jax.Array, targets: jax.Array):
    ratio_key, order_key = jax.random.split(key)
    ratio = _ratio(ratio_key, alpha)
    order = jax.random.permutation(order_key, images.shape[0])
    mix = lambda x: ratio * x + (1 - ratio) * x[order]
    return mix(images), mix(targets)

  return apply


def cutmix(alpha: float) -> Callable:
  """Pastes one box a batch from another image (arXiv:1905.04899, section 3.1).

  The box is clipped at the border; targets are mixed by the area that was really pasted.
  """
  _check_alpha("cutmix", alpha)

  def apply(key: jax.Array, images: jax.Array, targets: jax.Array):
    batch, height, width, _ = images.shape
    ratio_key, order_key, row_key, column_key = jax.random.split(key, 4)
    side = jnp.sqrt(1 - _ratio(ratio_key, alpha))

    def inside(key, size):  # [size] bool, the box along one axis
      centre = jax.random.randint(key, (), 0, size)
      half = (size * side).astype(jnp.int32) // 2
      position = jnp.arange(size)
      return (position >= centre - half) & (position < centre + half)

    box = inside(row_key, height)[:, None] & inside(column_key, width)[None, :]
    order = jax.random.permutation(order_key, batch)
    kept = 1 - box.mean()
    return (
      jnp.where(box[None, :, :, None], images[order], images),
      kept * targets + (1 - kept) * targets[order],
    )

  return apply
