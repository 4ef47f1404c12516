"""Flips, crops and warps images, masks and boxes alike, each example on its own.

A mask takes the nearest pixel, and outside of the image the value that does not count; boxes move
by the same matrices, see `boxes`.

Conventions are torchvision's: a pixel is a square of side 1 with its value at its centre; x runs to
the right and y down; angles are in degrees, and the fixed point is the centre of the image.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.augment import boxes, checks
from cnnjax.augment.operation import Operation, Shape, ignored, of_places
from cnnjax.errors import UserError

INTERPOLATIONS = ("nearest", "bilinear")  # of a warp


def integers(uniform: jax.Array, n: jax.Array | int) -> jax.Array:
  """Turns numbers uniform in [0, 1) into integers from 0 to n - 1, int32."""
  return (uniform * n).astype(jnp.int32)


def flip(p: float = 0.5) -> Operation:
  """Mirrors each image left to right with probability `p`."""
  return _flip("flip", p, axis=2)


def vertical_flip(p: float = 0.5) -> Operation:
  """Mirrors each image top to bottom with probability `p`."""
  return _flip("vertical_flip", p, axis=1)


def _flip(name: str, p: float, axis: int) -> Operation:
  if not (isinstance(p, int | float) and 0 <= p <= 1):
    raise UserError(f"augment: {name} takes a probability between 0 and 1, not {p!r}")

  def draw(key: jax.Array, shape: Shape) -> jax.Array:
    return jax.random.bernoulli(key, float(p), (shape[0], 1, 1, 1))

  def image(images: jax.Array, chosen: jax.Array) -> jax.Array:
    return jnp.where(chosen, jnp.flip(images, axis), images)

  def mask(masks: jax.Array, chosen: jax.Array) -> jax.Array:
    return jnp.where(chosen[..., 0], jnp.flip(masks, axis), masks)

  def move(sides: jax.Array, valid: jax.Array, chosen: jax.Array, size: tuple[int, int]):
    low, high = axis - 1, axis + 1  # xmin and xmax, or ymin and ymax
    mirrored = sides.at[..., low].set(1 - sides[..., high]).at[..., high].set(1 - sides[..., low])
    return jnp.where(chosen[..., 0] & valid[..., None], mirrored, sides), valid

  return of_places(draw, image, mask, move)


def pad_crop(pixels: int) -> Operation:
  """Pads with `pixels` zeros on each side and crops the old size anywhere (arXiv:1512.03385, 4.2).

  Zero is black: images are not yet normalised, as in torchvision's RandomCrop.
  """
  if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 0:
    raise UserError(f"augment: pad_crop takes a number of pixels, at least 0, not {pixels!r}")

  def draw(key: jax.Array, shape: Shape) -> jax.Array:
    return jax.random.randint(key, (shape[0], 2), 0, 2 * pixels + 1)

  def crop(images: jax.Array, corners: jax.Array, fill: int = 0) -> jax.Array:
    height, width = images.shape[1:3]
    margins = (0, 0), (pixels, pixels), (pixels, pixels), (0, 0)
    padded = jnp.pad(images, margins, constant_values=fill)
    cut = lambda image, corner: jax.lax.dynamic_slice(
      image, (corner[0], corner[1], 0), (height, width, image.shape[-1])
    )
    return jax.vmap(cut)(padded, corners)

  def mask(masks: jax.Array, corners: jax.Array) -> jax.Array:
    return crop(masks[..., None], corners, ignored(masks))[..., 0]

  def move(sides: jax.Array, valid: jax.Array, corners: jax.Array, size: tuple[int, int]):
    down, right = (pixels - corners).T
    return boxes.moved(sides, valid, inverse_matrices(translate=(right, down)), size)

  return of_places(draw, crop, mask, move)


def _cubic(distance: jax.Array) -> jax.Array:
  """Returns Keys's kernel with a = -1/2, as Pillow, and torchvision where it antialiases."""
  distance = jnp.abs(distance)
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
  return jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0))


# The weight of a pixel by its signed distance. Nearest: the pixel whose square holds the point.
KERNELS = {
  "nearest": lambda distance: jnp.float32((distance > -0.5) & (distance <= 0.5)),
  "bilinear": lambda distance: jnp.maximum(1 - jnp.abs(distance), 0),
  "bicubic": _cubic,
}


def resized_crop(
  images: jax.Array,
  top: jax.Array,
  left: jax.Array,
  height: jax.Array,
  width: jax.Array,
  interpolation: str = "bilinear",
) -> jax.Array:
  """Enlarges a box of each image, in whole pixels `[batch]`, to the size of the image.

  No pixel outside of the box counts, as after a crop. A box is never larger than its image, so it
  needs no antialiasing.
  """
  kernel = KERNELS[interpolation]

  def weights(start: jax.Array, length: jax.Array, size: int) -> jax.Array:  # [batch, out, in]
    place = (jnp.arange(size) + 0.5) * length[:, None] / size - 0.5  # in pixels of the box
    pixel = jnp.arange(size) - start[:, None]
    weight = kernel(pixel[:, None, :] - place[:, :, None])
    weight *= ((pixel >= 0) & (pixel < length[:, None]))[:, None, :]
    return weight / weight.sum(-1, keepdims=True)

  # A dot for each axis: gathers are slower on CPU. In full precision: a GPU would keep 10 bits.
  rows = weights(top, height, images.shape[1])
  columns = weights(left, width, images.shape[2])
  resized = jnp.einsum("boh,bhwc->bowc", rows, images, precision="highest")
  resized = jnp.einsum("bpw,bowc->bopc", columns, resized, precision="highest")
  return jnp.clip(resized, 0, 1)  # bicubic overshoots


def crop_nearest(
  masks: jax.Array, top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
  """Enlarges boxes of masks `[batch, height, width]` by nearest pixels; see `resized_crop`."""

  def pixels(start: jax.Array, length: jax.Array, size: int) -> jax.Array:  # [batch, size]
    return start[:, None] + (2 * jnp.arange(size) + 1) * length[:, None] // (2 * size)

  rows = pixels(top, height, masks.shape[1])[:, :, None]
  columns = pixels(left, width, masks.shape[2])[:, None, :]
  return jnp.take_along_axis(jnp.take_along_axis(masks, rows, axis=1), columns, axis=2)


def _boxes(
  key: jax.Array,
  batch: int,
  height: int,
  width: int,
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> tuple[jax.Array, ...]:
  """Returns (top, left, height, width) of a box per example, `[batch]`, by torchvision's rule.

  Draws area and ratio ten times at once and takes the first that fits; if none does, the largest
  box in the centre with an allowed ratio.
  """
  # One call, as each takes time to compile: experiments/benchmarks/input/README.md.
  drawn = jax.random.uniform(key, (batch, 22))
  area = height * width * (scale[0] + (scale[1] - scale[0]) * drawn[:, :10])
  aspect = ratio[0] * (ratio[1] / ratio[0]) ** drawn[:, 10:20]
  widths = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
  heights = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
  fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
  fitting = fits.any(1)
  pick = lambda values: jnp.take_along_axis(values, fits.argmax(1)[:, None], axis=1)[:, 0]

  shape = width / height
  whole_width = width if shape <= ratio[1] else round(height * ratio[1])
  whole_height = height if shape >= ratio[0] else round(width / ratio[0])
  box_height = jnp.where(fitting, pick(heights), whole_height)
  box_width = jnp.where(fitting, pick(widths), whole_width)
  top = integers(drawn[:, 20], height - box_height + 1)
  left = integers(drawn[:, 21], width - box_width + 1)
  return (
    jnp.where(fitting, top, (height - whole_height) // 2),
    jnp.where(fitting, left, (width - whole_width) // 2),
    box_height,
    box_width,
  )


def random_resized_crop(
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  interpolation: str = "bilinear",
) -> Operation:
  """Enlarges a box of random area and ratio to the old size (arXiv:1409.4842, section 6).

  `scale` bounds the share of the area and `ratio` width by height, uniform in its logarithm, by
  torchvision's rule. For resident data; streamed images are cropped on the host.
  """
  name = "random_resized_crop"
  scale = checks.interval(name, "scale", scale, 0.0001, 1)
  ratio = checks.interval(name, "ratio", ratio, 0.01, 100)
  checks.one_of("interpolation", interpolation, KERNELS)

  def draw(key: jax.Array, shape: Shape) -> tuple[jax.Array, ...]:
    return _boxes(key, *shape[:3], scale, ratio)

  def image(images: jax.Array, crop: tuple[jax.Array, ...]) -> jax.Array:
    return resized_crop(images, *crop, interpolation)

  def mask(masks: jax.Array, crop: tuple[jax.Array, ...]) -> jax.Array:
    return crop_nearest(masks, *crop)

  def move(sides: jax.Array, valid: jax.Array, crop: tuple[jax.Array, ...], size: tuple[int, int]):
    top, left, height, width = crop
    grow_x, grow_y, none = width / size[1], height / size[0], jnp.zeros(len(top))
    x, y = left + (width - size[1]) / 2, top + (height - size[0]) / 2  # the centre of the box
    rows = jnp.stack([grow_x, none, x], -1), jnp.stack([none, grow_y, y], -1)
    return boxes.moved(sides, valid, jnp.stack(rows, -2), size)

  return of_places(draw, image, mask, move)


def inverse_matrices(
  degrees: jax.Array | float = 0.0,
  translate: tuple[jax.Array | float, jax.Array | float] = (0.0, 0.0),
  scale: jax.Array | float = 1.0,
  shear: tuple[jax.Array | float, jax.Array | float] = (0.0, 0.0),
  center: tuple[jax.Array | float, jax.Array | float] = (0.0, 0.0),
) -> jax.Array:
  """Returns matrices from pixels of warped images to the original ones, `[..., 2, 3]`.

  These are torchvision's inverse matrices. The image is sheared (degrees along x, along y),
  enlarged by `scale` and turned clockwise by `degrees`, all about `center` (pixels from the centre
  of the image), then moved by `translate` (pixels). All arguments have one shape, which may be [].
  """
  angle, shear_x, shear_y = (jnp.deg2rad(jnp.float32(v)) for v in (degrees, *shear))
  a = jnp.cos(angle - shear_y) / jnp.cos(shear_y)
  b = -(a * jnp.tan(shear_x) + jnp.sin(angle))
  c = jnp.sin(angle - shear_y) / jnp.cos(shear_y)
  d = jnp.cos(angle) - c * jnp.tan(shear_x)
  (center_x, center_y), (move_x, move_y) = center, translate

  def row(m_x: jax.Array, m_y: jax.Array, at: jax.Array | float) -> jax.Array:
    offset = at - m_x * (center_x + move_x) - m_y * (center_y + move_y)
    return jnp.stack(jnp.broadcast_arrays(m_x, m_y, offset), axis=-1)

  rows = row(d / scale, -b / scale, center_x), row(-c / scale, a / scale, center_y)
  return jnp.stack(jnp.broadcast_arrays(*rows), axis=-2)


def warp(
  images: jax.Array, matrices: jax.Array, interpolation: str = "bilinear", fill: float = 0.0
) -> jax.Array:
  """Warps each image `[batch, height, width, channels]` by its own matrix `[batch, 2, 3]`.

  A matrix maps (x, y, 1) of a pixel of the result to its place in the image, both in pixels from
  the centre of the image. Around the image is `fill`; bilinear sampling blends into it, as
  torchvision does for fill 0.
  """
  batch, height, width, channels = images.shape
  x = jnp.arange(width) - (width - 1) / 2
  y = (jnp.arange(height) - (height - 1) / 2)[:, None]

  def place(row: jax.Array, size: int) -> jax.Array:  # [batch, height, width], in [-1, size]
    m_x, m_y, offset = (row[:, i, None, None] for i in range(3))
    return jnp.clip(m_x * x + m_y * y + offset + (size - 1) / 2, -1, size)

  place_x, place_y = place(matrices[:, 0], width), place(matrices[:, 1], height)
  padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
  padded = padded.reshape(batch, -1, channels)

  def at(row: jax.Array, column: jax.Array) -> jax.Array:  # the pixels of these whole numbers
    index = ((row + 1) * (width + 2) + column + 1).astype(jnp.int32)
    get = lambda image, index: image.at[index].get(mode="promise_in_bounds")
    return jax.vmap(get)(padded, index)

  if interpolation == "nearest":
    warped = at(jnp.round(place_y), jnp.round(place_x))
  else:
    left, top = jnp.floor(place_x), jnp.floor(place_y)
    right, bottom = jnp.minimum(left + 1, width), jnp.minimum(top + 1, height)
    share_x, share_y = (place_x - left)[..., None], (place_y - top)[..., None]
    upper = at(top, left) * (1 - share_x) + at(top, right) * share_x
    lower = at(bottom, left) * (1 - share_x) + at(bottom, right) * share_x
    warped = upper * (1 - share_y) + lower * share_y
  # On CPU XLA would fuse the gather into each use of the result and compute it again there; so too
  # in color.look_up. experiments/benchmarks/input/README.md has the figures.
  return jax.lax.optimization_barrier(warped)


def warp_nearest(masks: jax.Array, matrices: jax.Array) -> jax.Array:
  """Warps masks `[batch, height, width]`, surrounded by the value that does not count."""
  return warp(masks[..., None], matrices, "nearest", ignored(masks))[..., 0]


def _affine(
  name: str,
  degrees: float = 0.0,
  translate: float | tuple[float, float] = 0.0,
  scale: tuple[float, float] = (1.0, 1.0),
  shear: float | tuple[float, float] = 0.0,
  interpolation: str = "bilinear",
  fill: float = 0.0,
) -> Operation:
  checks.number(name, "degrees", degrees, 0, 360)
  translate = checks.pair(name, "a fraction of the size", translate, 1)
  scale = checks.interval(name, "the lowest and the highest zoom", scale, 0.01, 100)
  shear = checks.pair(name, "shear in degrees", shear, 89, other=0.0)
  checks.one_of("interpolation", interpolation, INTERPOLATIONS)
  checks.number(name, "fill", fill, 0, 1)

  def draw(key: jax.Array, shape: Shape) -> jax.Array:
    batch, height, width, _ = shape
    across, down = translate[0] * width, translate[1] * height
    symmetric = [(-limit, limit) for limit in (degrees, across, down, *shear)]
    low, high = np.array([*symmetric, scale], np.float32).T
    drawn = jax.random.uniform(key, (batch, 6), minval=low, maxval=high)
    angle, move_x, move_y, shear_x, shear_y, size = drawn.T
    move = jnp.round(move_x), jnp.round(move_y)  # whole pixels, as torchvision moves
    return inverse_matrices(angle, move, size, (shear_x, shear_y))

  def image(images: jax.Array, matrices: jax.Array) -> jax.Array:
    return warp(images, matrices, interpolation, float(fill))

  return of_places(draw, image, warp_nearest, boxes.moved)


def affine(
  degrees: float = 0.0,
  translate: float | tuple[float, float] = 0.0,
  scale: tuple[float, float] = (1.0, 1.0),
  shear: float | tuple[float, float] = 0.0,
  interpolation: str = "bilinear",
  fill: float = 0.0,
) -> Operation:
  """Rotates, translates, zooms and shears in one warp, as torchvision's RandomAffine.

  Each is drawn uniformly for each image: the angle from +-`degrees`; the translation, in whole
  pixels, from +-`translate` of the width and of the height (a number, or one for each); the zoom
  from `scale`, above 1 larger; the shear from +-`shear` degrees (a number, along x alone, or
  one for x and one for y). Pixels from outside are `fill`.
  """
  return _affine("affine", degrees, translate, scale, shear, interpolation, fill)


def rotate(degrees: float, interpolation: str = "bilinear", fill: float = 0.0) -> Operation:
  """Turns each image by an angle from +-`degrees`; see `affine`."""
  return _affine("rotate", degrees=degrees, interpolation=interpolation, fill=fill)


def zoom(low: float, high: float, interpolation: str = "bilinear", fill: float = 0.0) -> Operation:
  """Enlarges each image by a factor between `low` and `high` (below 1: shrinks); see `affine`."""
  return _affine("zoom", scale=(low, high), interpolation=interpolation, fill=fill)


def translate(
  fraction: float | tuple[float, float], interpolation: str = "bilinear", fill: float = 0.0
) -> Operation:
  """Moves each image by up to `fraction` of its size, in whole pixels; see `affine`."""
  return _affine("translate", translate=fraction, interpolation=interpolation, fill=fill)


def shear(
  degrees: float | tuple[float, float], interpolation: str = "bilinear", fill: float = 0.0
) -> Operation:
  """Shears each image by up to `degrees`; see `affine`."""
  return _affine("shear", shear=degrees, interpolation=interpolation, fill=fill)
