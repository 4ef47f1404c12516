"""Flips and crops, each example on its own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.errors import UserError


def flip(p: float = 0.5) -> Callable:
  """Mirrors each image left to right with probability `p`."""
  if not (isinstance(p, int | float) and 0 <= p <= 1):
    raise UserError(f"augment: flip takes a probability between 0 and 1, not {p!r}")

  def apply(key: jax.Array, images: jax.Array, targets: jax.Array):
    chosen = jax.random.bernoulli(key, float(p), (images.shape[0], 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1], images), targets

  return apply


def pad_crop(pixels: int) -> Callable:
  """Pads with `pixels` zeros on each side and crops the old size anywhere (arXiv:1512.03385, 4.2).

  Zero is black: images are not yet normalised, as in torchvision's RandomCrop.
  """
  if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 0:
    raise UserError(f"augment: pad_crop takes a number of pixels, at least 0, not {pixels!r}")

  def apply(key: jax.Array, images: jax.Array, targets: jax.Array):
    batch, height, width, _ = images.shape
    corners = jax.random.randint(key, (batch, 2), 0, 2 * pixels + 1)
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    crop = lambda image, corner: jax.lax.dynamic_slice(
      image, (corner[0], corner[1], 0), (height, width, image.shape[-1])
    )
    return jax.vmap(crop)(padded, corners), targets

  return apply
