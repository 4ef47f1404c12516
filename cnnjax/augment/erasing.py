"""Erases parts of each image: cutout, random erasing and GridMask.

`fill` is a value in [0, 1], a tuple of one for each channel, or "noise", every value uniform in
[0, 1]. The papers erase with 0 after normalisation, the mean of the data. Here images are not yet
normalised: 0.5, the default, is near the mean of photos; for other data give the mean as a tuple.
Erased pixels of a mask do not count; a box stays unless less than a tenth of it is left. One call
draws all numbers of an example, as each call takes time to compile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.augment import boxes, checks
from cnnjax.augment.geometry import integers
from cnnjax.augment.operation import Operation, Shape, ignored, of_places
from cnnjax.errors import UserError

Fill = float | tuple[float, ...] | str


def rectangles(
  top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array, height: int, width: int
) -> jax.Array:
  """Returns masks `[n, height, width]`, true from `top` to `bottom` and from `left` to `right`.

  All four are `[n]` and may lie outside of the image; `bottom` and `right` are exclusive.
  """
  rows, columns = jnp.arange(height), jnp.arange(width)
  inside_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
  inside_columns = (columns >= left[:, None]) & (columns < right[:, None])
  return inside_rows[:, :, None] & inside_columns[:, None, :]


def _check_fill(name: str, fill: Fill) -> None:
  if fill == "noise":
    return
  if not isinstance(fill, int | float | tuple | list):
    raise UserError(
      f"augment: {name} takes fill, a number between 0 and 1, one for each channel as "
      f"(0.5, 0.5, 0.5), or 'noise', not {fill!r}"
    )
  by_channel = isinstance(fill, tuple | list)
  for value in fill if by_channel else (fill,):
    checks.number(name, "fill, each" if by_channel else "fill", value, 0, 1)


def _erasing(draw: Callable, fill: Fill) -> Operation:
  """Returns an operation that erases where `draw` says.

  `draw` is (key, shape) -> (where `[batch, height, width]`, a key for noise).
  """

  def image(images: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> jax.Array:
    where, key = drawn
    noise = isinstance(fill, str)
    value = jax.random.uniform(key, images.shape) if noise else jnp.asarray(fill, images.dtype)
    return jnp.where(where[..., None], value, images)

  def mask(masks: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.where(drawn[0], jnp.asarray(ignored(masks), masks.dtype), masks)

  def cover(
    sides: jax.Array, valid: jax.Array, drawn: tuple[jax.Array, jax.Array], size: tuple[int, int]
  ) -> tuple[jax.Array, jax.Array]:
    return boxes.covered(sides, valid, drawn[0])

  by_channel = isinstance(fill, tuple | list)
  channels = ((len(fill),), "as many as its fill has") if by_channel else ()
  return of_places(draw, image, mask, cover, *channels)


def cutout(size: int, fill: Fill = 0.5) -> Operation:
  """Erases a square of `size` pixels, centred anywhere, clipped at the border (arXiv:1708.04552).

  The authors took 16 for CIFAR-10, 8 for CIFAR-100 and 20 for SVHN, all of 32 pixels.
  """
  checks.number("cutout", "size in pixels", size, 0, integer=True)
  _check_fill("cutout", fill)

  def draw(key: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array]:
    batch, height, width, _ = shape
    box_key, fill_key = jax.random.split(key)
    corners = jax.random.randint(box_key, (batch, 2), 0, np.array([height, width])) - size // 2
    top, left = corners.T
    return rectangles(top, top + size, left, left + size, height, width), fill_key

  return _erasing(draw, fill)


def random_erasing(
  p: float = 0.5,
  scale: tuple[float, float] = (0.02, 0.33),
  ratio: tuple[float, float] = (0.3, 3.3),
  fill: Fill = 0.5,
) -> Operation:
  """Erases a rectangle of random area and shape with probability `p` (arXiv:1708.04896, section 3).

  As torchvision's RandomErasing: the share of the area is uniform in `scale`, height by width is
  uniform in its logarithm between the two of `ratio`, and the first of ten draws counts that is
  smaller than the image along both axes; if none is, nothing is erased. The paper's best fill is
  "noise".
  """
  name = "random_erasing"
  checks.number(name, "p", p, 0, 1)
  scale = checks.interval(name, "scale", scale, 0, 1)
  ratio = checks.interval(name, "ratio", ratio, 0.01, 100)
  _check_fill(name, fill)

  def draw(key: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array]:
    batch, height, width, _ = shape
    box_key, fill_key = jax.random.split(key)
    drawn = jax.random.uniform(box_key, (batch, 23))
    area = height * width * (scale[0] + drawn[:, :10] * (scale[1] - scale[0]))
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** drawn[:, 10:20]
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    chosen = fits.any(1) & (drawn[:, 20] < p)
    first = (jnp.arange(batch), fits.argmax(1))
    h, w = jnp.where(chosen, heights[first], 0), jnp.where(chosen, widths[first], 0)
    top = integers(drawn[:, 21], height - h + 1)
    left = integers(drawn[:, 22], width - w + 1)
    return rectangles(top, top + h, left, left + w, height, width), fill_key

  return _erasing(draw, fill)


def grid(
  d: jax.Array, kept: jax.Array, row: jax.Array, column: jax.Array, angle: jax.Array | None,
  height: int, width: int,
) -> jax.Array:  # fmt: skip
  """Returns masks `[n, height, width]` of squares, `d - kept` wide, that repeat every `d` pixels.

  Bands of `kept` pixels between them begin at `row` and `column`; the grid is turned
  counterclockwise about the centre of the image by `angle` degrees; None turns nothing. All `[n]`.
  """
  d, kept, row, column = (x[:, None, None] for x in (d, kept, row, column))
  y, x = jnp.arange(height)[:, None], jnp.arange(width)
  if angle is not None:
    radians = jnp.deg2rad(angle)[:, None, None]
    down, right = y - (height - 1) / 2, x - (width - 1) / 2
    y = jnp.round(jnp.cos(radians) * down + jnp.sin(radians) * right + (height - 1) / 2)
    x = jnp.round(jnp.cos(radians) * right - jnp.sin(radians) * down + (width - 1) / 2)
  return ((y - row) % d >= kept) & ((x - column) % d >= kept)


def grid_mask(
  d: int | tuple[int, int], ratio: float = 0.6, rotate: float = 0.0, fill: Fill = 0.5
) -> Operation:
  """Erases squares on a grid of random width and offset (arXiv:2001.04086, section 3.2).

  `d`, the width of a unit in pixels, is drawn from (lowest, highest), both included; `ratio` of it
  is kept, along each axis; the grid is turned by up to `rotate` degrees. The authors' code for
  ImageNet: d (96, 224), ratio 0.6, rotate 360, p growing to 0.8 during the run.
  """
  lowest, highest = d if isinstance(d, tuple | list) and len(d) == 2 else (d, d)
  for value in (lowest, highest):
    checks.number("grid_mask", "d, in pixels", value, 2, integer=True)
  if lowest > highest:
    raise UserError(f"augment: grid_mask takes d as (lowest, highest), not {d!r}")
  checks.number("grid_mask", "ratio", ratio, 0, 1)
  checks.number("grid_mask", "rotate, in degrees", rotate, 0, 360)
  _check_fill("grid_mask", fill)

  def draw(key: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array]:
    batch, height, width, _ = shape
    grid_key, fill_key = jax.random.split(key)
    drawn = jax.random.uniform(grid_key, (4, batch))
    units = lowest + integers(drawn[0], highest - lowest + 1)
    row, column = integers(drawn[1], units), integers(drawn[2], units)
    kept = jnp.floor(units * ratio + 0.5).astype(jnp.int32)
    angle = rotate * drawn[3] if rotate else None
    return grid(units, kept, row, column, angle, height, width), fill_key

  return _erasing(draw, fill)
