"""Makes views of an image at test time, to average predictions over.

A text such as `"flip | scales(0.9, 1.0, 1.1)"` names them; views of views multiply, here to six.
Every view has the size of the image, so one compiled network serves all. Views commute with
normalisation, so they may come before or after it. Only images have views: see `check`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.augment import checks, parser
from cnnjax.augment.operation import Kinds
from cnnjax.errors import UserError


def flip() -> Callable:
  """Returns each image as it is, and mirrored left to right."""
  return lambda images: jnp.stack([images, jnp.flip(images, axis=2)])


def five_crop(share: float) -> Callable:
  """Returns the corners and the centre, `share` of each side, enlarged.

  In torchvision's order: top left, top right, bottom left, bottom right, centre.
  """
  checks.number("five_crop", "the share of each side", share, 0.1, 1)

  def apply(images: jax.Array) -> jax.Array:
    _, height, width, _ = images.shape
    h, w = max(1, round(share * height)), max(1, round(share * width))
    bottom, right = height - h, width - w
    centre = round(bottom / 2), round(right / 2)
    corners = (0, 0), (0, right), (bottom, 0), (bottom, right), centre
    crops = jnp.stack([images[:, top : top + h, left : left + w] for top, left in corners])
    return jax.image.resize(crops, (len(corners), *images.shape), "linear")

  return apply


def ten_crop(share: float) -> Callable:
  """Returns the views of `five_crop`, and all of them mirrored (AlexNet, NIPS 2012, section 4.1).

  The paper crops 224 of 256 pixels: a share of 0.875.
  """
  checks.number("ten_crop", "the share of each side", share, 0.1, 1)
  crops = five_crop(share)
  return lambda images: jnp.concatenate([crops(images), crops(jnp.flip(images, axis=2))])


def scales(*factors: float) -> Callable:
  """Returns the image enlarged about its centre by each of `factors`; below 1 it shrinks.

  Outside of the image the border pixels repeat. Several scales at test time: arXiv:1409.1556,
  section 3.2.
  """
  if not factors:
    raise UserError("augment: scales takes factors, as scales(0.9, 1.0, 1.1)")
  for factor in factors:
    checks.number("scales", "factors, each", factor, 0.1, 10)

  def scaled(images: jax.Array, factor: float) -> jax.Array:
    size = np.array(images.shape[1:3])
    margin = np.ceil(np.maximum(size / factor - size, 0) / 2).astype(int)
    padded = jnp.pad(images, ((0, 0), *((m, m) for m in margin), (0, 0)), "edge")
    move = size / 2 - factor * (size / 2 + margin)  # the centre stays where it is
    return jax.image.scale_and_translate(
      padded, images.shape, (1, 2), jnp.full(2, factor), jnp.asarray(move, jnp.float32), "linear"
    )

  return lambda images: jnp.stack([scaled(images, factor) for factor in factors])


VIEWS: dict[str, Callable] = {
  "flip": flip,
  "five_crop": five_crop,
  "ten_crop": ten_crop,
  "scales": scales,
}


def parse(spec: str | None) -> list[Callable]:
  """Returns the views that `spec` names: functions from images to `[views, *images.shape]`.

  Raises:
    UserError: an unknown view, or wrong arguments.
  """
  return parser.read(spec, VIEWS, "eval_views", "test-time view", "flip | scales(0.9, 1.0, 1.1)")


def check(spec: str | None, kinds: Kinds) -> None:
  """Raises UserError for views of data with masks or boxes.

  Predictions for a moved image lie in other places, so they have no mean.
  """
  if not parse(spec):
    return
  for name, kind in kinds.items():
    if kind in ("mask", "boxes"):
      raise UserError(
        f"eval_views: {spec!r} moves the image, and predictions for the field {name!r} of kind "
        f"{kind} with it, so they have no mean: leave eval_views out"
      )


def create(spec: str | None) -> Callable:
  """Returns a function from images `[batch, height, width, channels]` to the views of `spec`.

  The views are `[views, batch, height, width, channels]`; for None only the images. The first name
  varies slowest: "flip | scales(1.0, 1.1)" gives both scales as they are, then both mirrored.
  """
  operations = parse(spec)

  def apply(images: jax.Array) -> jax.Array:
    views = images[None]
    for operation in operations:
      views = jax.vmap(operation)(views).reshape(-1, *images.shape)
    return views

  return apply
