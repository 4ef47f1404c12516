"""Moves boxes with the pixels of their images.

A box is (ymin, xmin, ymax, xmax) in [0, 1] of the image, as in TFDS; `valid` is true for boxes that
exist. After an operation a box tightly encloses its part that is left in the image. With less than
a tenth of its area left, it becomes invalid and zero.
"""

import jax
import jax.numpy as jnp

from cnnjax.data import fields

# A little below the least share: areas are float32 here, and rounding may take a bit from a tenth.
# Crops on the host count in float64 and take the share itself.
LEAST_LEFT = fields.LEAST_LEFT - 1e-4
_EDGE = 1e-3  # pixels; rounding may move a side on the border to beyond it


def _bounds(points: jax.Array, among: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the lowest and the highest x and y, `[..., 2]` each, of `points` `[..., n, 2]`.

  Only the points count where `among` is true.
  """
  among = among[..., None]
  low = jnp.where(among, points, jnp.inf).min(-2)
  return low, jnp.where(among, points, -jnp.inf).max(-2)


def _visible(corners: jax.Array, half: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns (low, high), the bounds of the part of each convex quadrilateral within +-`half`.

  That part is a polygon. Its corners are the ends of the quadrilateral's sides, cut at the border
  (Liang and Barsky, 1984), and the image's corners inside it. If it has none, `low` is infinite.
  """
  side = jnp.roll(corners, -1, axis=-2) - corners  # [..., 4, 2]
  # The shares of a side's length at which it enters and leaves the strip of x, and that of y.
  still = side == 0
  step = jnp.where(still, 1, side)
  to_low, to_high = (-half - corners) / step, (half - corners) / step
  inside = jnp.abs(corners) <= half
  enter = jnp.where(still, jnp.where(inside, 0, 2), jnp.minimum(to_low, to_high)).max(-1)
  leave = jnp.where(still, jnp.where(inside, 1, -1), jnp.maximum(to_low, to_high)).min(-1)
  enter, leave = jnp.maximum(enter, 0), jnp.minimum(leave, 1)
  ends = corners[..., None, :] + jnp.stack([enter, leave], -1)[..., None] * side[..., None, :]
  cut = jnp.broadcast_to((enter <= leave)[..., None], ends.shape[:-1])

  image = half * jnp.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
  away = image[:, None] - corners[..., None, :, :]  # [..., corner of the image, side, 2]
  turn = side[..., None, :, 0] * away[..., 1] - side[..., None, :, 1] * away[..., 0]
  within = (turn >= 0).all(-1) | (turn <= 0).all(-1)

  flat = ends.reshape(*ends.shape[:-3], 8, 2)
  image = jnp.broadcast_to(image, (*flat.shape[:-2], 4, 2))
  points = jnp.concatenate([flat, image], -2)
  return _bounds(points, jnp.concatenate([cut.reshape(*flat.shape[:-1]), within], -1))


def moved(
  boxes: jax.Array, valid: jax.Array, matrices: jax.Array, size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
  """Returns boxes `[batch, m, 4]` and `valid` `[batch, m]` of warped images.

  The share that is left is the area of the box around the visible part, over that of the box around
  the whole moved one.

  Args:
    boxes: of the images before.
    valid: true for boxes that exist.
    matrices: `[batch, 2, 3]`, from pixels of the result to those of the image, see `geometry.warp`.
    size: height and width of the images in pixels.
  """
  extent = jnp.array([size[1], size[0]], jnp.float32)  # along x, along y
  top, left, bottom, right = (boxes[..., i] for i in range(4))
  around = [(left, top), (right, top), (right, bottom), (left, bottom)]
  corners = (jnp.stack([jnp.stack(c, -1) for c in around], -2) - 0.5) * extent  # [batch, m, 4, 2]
  # A corner moves by the inverse of the matrix that says where a pixel comes from.
  a, b, c, d = (matrices[:, i, j, None, None] for i in range(2) for j in range(2))
  x, y = (corners[..., i] - matrices[:, i, 2, None, None] for i in range(2))
  determinant = a * d - b * c
  corners = jnp.stack([(d * x - b * y) / determinant, (a * y - c * x) / determinant], -1)

  low, high = _bounds(corners, jnp.ones(corners.shape[:-1], bool))
  whole = jnp.prod(high - low, -1)
  low, high = _visible(corners, extent / 2 + _EDGE)
  low, high = (jnp.clip(v / extent + 0.5, 0, 1) for v in (low, high))
  left_over = jnp.prod((high - low) * extent, -1)
  valid &= (bottom > top) & (right > left)
  valid &= (low < high).all(-1) & (left_over >= LEAST_LEFT * whole)
  visible = jnp.stack([low[..., 1], low[..., 0], high[..., 1], high[..., 0]], -1)
  return jnp.where(valid[..., None], visible, 0), valid


def covered(boxes: jax.Array, valid: jax.Array, erased: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the boxes of images after the pixels `erased` `[batch, height, width]`.

  Boxes keep their place; one with less than a tenth of its area left becomes invalid.
  """

  def overlap(low: jax.Array, high: jax.Array, size: int) -> jax.Array:  # [batch, m, size], pixels
    low, high, pixel = low[..., None] * size, high[..., None] * size, jnp.arange(size)
    return jnp.clip(jnp.minimum(high, pixel + 1) - jnp.maximum(low, pixel), 0, 1)

  rows = overlap(boxes[..., 0], boxes[..., 2], erased.shape[1])
  columns = overlap(boxes[..., 1], boxes[..., 3], erased.shape[2])
  left = jnp.einsum("bmh,bhw,bmw->bm", rows, jnp.float32(~erased), columns, precision="highest")
  valid = valid & (left >= LEAST_LEFT * rows.sum(-1) * columns.sum(-1))
  return jnp.where(valid[..., None], boxes, 0), valid
