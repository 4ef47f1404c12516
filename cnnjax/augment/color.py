"""Changes colour, tone, noise and blur, for each example on its own.

The first half of the file has functions of images `[batch, height, width, channels]` in [0, 1] and
of one parameter per example, `[batch, 1, 1, 1]`. Functions that change every value of a channel
alike also work on `RAMP`: its 256 levels become a lookup table, by which policies.py applies
many at the price of one. The second half has the random operations of a config. Semantics are
torchvision's, and Pillow's where the two differ.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.augment import checks
from cnnjax.augment.operation import Operation, Shape, of_values
from cnnjax.errors import UserError

RAMP = (np.arange(256, dtype=np.float32) / 255).reshape(1, 256, 1, 1)  # an image of every level
WITH_COLOUR = (1, 3), "grey or RGB"  # channels of operations that need a grey value or a hue
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, by which Pillow and torchvision convert to grey


def _rgb(images: jax.Array) -> list[jax.Array]:
  """Returns the three channels, `[batch, height, width, 1]` each; UserError for another number."""
  channels = images.shape[-1]
  if channels != 3:
    raise UserError(
      "augment: contrast, saturation, hue, grayscale and the policies take images of 1 or 3 "
      f"channels (grey or RGB), not {channels}"
    )
  return [images[..., i : i + 1] for i in range(3)]


def luminance(images: jax.Array) -> jax.Array:
  """Returns the grey value `[batch, height, width, 1]`; that of one channel is itself.

  Raises:
    UserError: neither 1 nor 3 channels, for which no grey value is defined.
  """
  if images.shape[-1] == 1:
    return images
  # No dot, which a GPU rounds to 10 bits; no sum over so short an axis, which is slow on CPU.
  red, green, blue = _rgb(images)
  return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def blend(images: jax.Array, other: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Blends `other` (factor 0) with `images` (1), and beyond, as Pillow's Image.blend; clips."""
  return jnp.clip(factor * images + (1 - factor) * other, 0, 1)


def adjust_brightness(images: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Scales the difference from black by `factor`."""
  return blend(images, 0.0, factor)


def mean_luminance(images: jax.Array) -> jax.Array:
  """Returns the mean grey value of each image, `[batch, 1, 1, 1]`."""
  return luminance(images.mean((1, 2), keepdims=True))


def adjust_contrast(images: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Scales the difference from the mean grey value of the image by `factor`."""
  return blend(images, mean_luminance(images), factor)


def adjust_saturation(images: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Scales the difference from grey by `factor`; grey images stay."""
  return blend(images, luminance(images), factor)


def adjust_hue(images: jax.Array, shift: jax.Array | float) -> jax.Array:
  """Turns the hue by `shift` of the colour circle, in [-0.5, 0.5]; grey images stay."""
  if images.shape[-1] == 1:
    return images
  red, green, blue = _rgb(images)
  value = jnp.maximum(jnp.maximum(red, green), blue)
  chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
  sixths = jnp.where(
    value == red, green - blue, jnp.where(value == green, blue - red, red - green)
  ) / jnp.where(chroma == 0, 1, chroma)
  sixths += jnp.where(value == red, 0, jnp.where(value == green, 2, 4))

  # Back to RGB in one formula without cases: each channel falls and rises as the hue passes it.
  def channel(start: int) -> jax.Array:
    place = sixths + 6 * shift + start
    place -= 6 * jnp.floor(place / 6)
    return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

  return jnp.concatenate([channel(5), channel(3), channel(1)], axis=-1)


def smooth(images: jax.Array) -> jax.Array:
  """Smooths as Pillow's ImageFilter.SMOOTH: 3x3, weight 5 in the centre, else 1; keeps borders."""
  if min(images.shape[1:3]) <= 2:
    return images
  shifts = lambda x, axis: sum(
    jax.lax.slice_in_dim(x, i, i + x.shape[axis] - 2, axis=axis) for i in range(3)
  )
  inner = images[:, 1:-1, 1:-1]
  return images.at[:, 1:-1, 1:-1].set((shifts(shifts(images, 1), 2) + 4 * inner) / 13)


def adjust_sharpness(images: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Scales the difference from the smoothed image by `factor`."""
  return blend(images, smooth(images), factor)


def blurred(images: jax.Array, sigma: jax.Array, kernel_size: int) -> jax.Array:
  """Blurs by a Gaussian of `sigma` pixels `[batch]`, cut to `kernel_size`; reflects at borders."""
  half = kernel_size // 2
  offsets = np.arange(-half, half + 1)
  kernel = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)  # sigma 0: identity
  kernel = (kernel / kernel.sum(1, keepdims=True))[:, :, None, None, None]
  for axis in (1, 2):
    # Shifted multiplies, as each example has its own kernel.
    size = images.shape[axis]
    pads = [(half, half) if a == axis else (0, 0) for a in range(4)]
    padded = jnp.pad(images, pads, mode="reflect")
    shifted = lambda i, x=padded, n=size, axis=axis: jax.lax.slice_in_dim(x, i, i + n, axis=axis)
    images = sum(kernel[:, i] * shifted(i) for i in range(kernel_size))
  return images


def to_levels(images: jax.Array) -> jax.Array:
  """Rounds values in [0, 1] to int32 levels from 0 to 255."""
  return jnp.round(images * 255).astype(jnp.int32)


def solarize_from(images: jax.Array, threshold: jax.Array | float) -> jax.Array:
  """Inverts the values of at least `threshold`."""
  return jnp.where(images >= threshold, 1 - images, images)


def posterize_to(images: jax.Array, bits: jax.Array | int) -> jax.Array:
  """Keeps the first `bits` (0 to 8) of the 8 of each value."""
  return (to_levels(images) & -jnp.left_shift(1, 8 - bits)) / 255.0


def extremes(images: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the lowest and the highest value of each channel, `[batch, 1, 1, channels]`."""
  return images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)


def stretch(images: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """Maps `low` to 0 and `high` to 1; nothing where the two are equal."""
  width = jnp.where(high > low, high - low, 1)
  return jnp.clip((images - jnp.where(high > low, low, 0)) / width, 0, 1)


def histogram(levels: jax.Array) -> jax.Array:
  """Counts each level of each image and channel, `[batch, 256, 1, channels]` int32."""
  batch, _, _, channels = levels.shape
  # One count an image, which stays on the device of the image: with one index over the whole batch
  # XLA reduced over the devices. One-hot dots are slower: experiments/benchmarks/input/README.md.
  count = lambda x: jnp.bincount(
    (x + 256 * jnp.arange(channels)).reshape(-1), length=256 * channels
  )
  counts = jax.vmap(count)(levels).reshape(batch, channels, 256)
  return counts.transpose(0, 2, 1)[:, :, None]


def equalizing_table(levels: jax.Array) -> jax.Array:
  """Returns the table of `equalize`, `[batch, 256, 1, channels]` in [0, 1], by Pillow's rule."""
  counts = histogram(levels)
  before = jnp.cumsum(counts, axis=1) - counts
  below_highest = jnp.max(jnp.where(counts > 0, before, 0), axis=1, keepdims=True)
  step = below_highest // 255
  table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255) / 255.0
  return jnp.where(step == 0, RAMP, table)


def look_up(tables: jax.Array, levels: jax.Array) -> jax.Array:
  """Maps each level by the table `[batch, 256, 1, channels]` of its image and channel."""
  batch, height, width, channels = levels.shape
  # A gather, as a dot with one-hot vectors is slow on CPU. Without barriers XLA would compute the
  # entry anew for each pixel, and the result for each use: experiments/benchmarks/input/README.md.
  table = jax.lax.optimization_barrier(tables[:, :, 0])
  flat = jnp.take_along_axis(table, levels.reshape(batch, -1, channels), axis=1)
  return jax.lax.optimization_barrier(flat.reshape(batch, height, width, channels))


def _uniform(adjust: Callable, low: float, high: float, *channels: Any) -> Operation:
  """Returns an operation `adjust(images, parameter)`, the parameter uniform in [low, high]."""

  def draw(key: jax.Array, shape: Shape) -> jax.Array:
    return jax.random.uniform(key, (shape[0], 1, 1, 1), minval=low, maxval=high)

  return of_values(draw, adjust, *channels)


def _by_factor(
  name: str, what: str, adjust: Callable, strength: float, *channels: Any
) -> Operation:
  """Returns an operation with ColorJitter's factor of torchvision.

  It is uniform in [max(0, 1 - strength), 1 + strength].
  """
  checks.number(name, what, strength, 0)
  return _uniform(adjust, max(0.0, 1.0 - strength), 1.0 + strength, *channels)


def _turn_hue(name: str, what: str, strength: float) -> Operation:
  checks.number(name, what, strength, 0, 0.5)
  return _uniform(adjust_hue, -strength, strength, *WITH_COLOUR)


def _always(change: Callable, *channels: Any) -> Operation:
  """Returns an operation without random numbers."""
  return of_values(lambda key, shape: None, lambda images, _: change(images), *channels)


def brightness(strength: float) -> Operation:
  """Multiplies each image by a factor uniform in [max(0, 1 - strength), 1 + strength]."""
  return _by_factor("brightness", "strength", adjust_brightness, strength)


def contrast(strength: float) -> Operation:
  """Scales the difference from the mean grey value of each image, with `brightness`'s factor."""
  return _by_factor("contrast", "strength", adjust_contrast, strength, *WITH_COLOUR)


def saturation(strength: float) -> Operation:
  """Scales the difference from grey, with `brightness`'s factor; images of 1 channel stay."""
  return _by_factor("saturation", "strength", adjust_saturation, strength, *WITH_COLOUR)


def sharpness(strength: float) -> Operation:
  """Scales the difference from the smoothed image, with `brightness`'s factor."""
  return _by_factor("sharpness", "strength", adjust_sharpness, strength)


def hue(strength: float) -> Operation:
  """Turns the hue by a share of the circle in +-`strength`, at most 0.5; grey images stay."""
  return _turn_hue("hue", "strength", strength)


def color_jitter(
  brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> Operation:
  """Applies brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter.

  The whole batch has one order: an order for each image would compute every operation four times.
  """
  name = "color_jitter"
  jitters = (
    (_by_factor(name, "brightness", adjust_brightness, brightness), brightness),
    (_by_factor(name, "contrast", adjust_contrast, contrast), contrast),
    (_by_factor(name, "saturation", adjust_saturation, saturation), saturation),
    (_turn_hue(name, "hue", hue), hue),
  )
  steps = [step for step, strength in jitters if strength]  # at 0 it changes nothing
  alone = lambda step: lambda key, x: step.changes["image"](x, step.draw(key, x.shape))
  branches = [alone(step) for step in steps]

  def draw(key: jax.Array, shape: Shape) -> tuple[jax.Array, list[jax.Array]]:
    order_key, *keys = jax.random.split(key, len(steps) + 1)
    return jax.random.permutation(order_key, len(steps)), keys

  def change(images: jax.Array, drawn: tuple[jax.Array, list[jax.Array]]) -> jax.Array:
    order, keys = drawn
    for i, step_key in enumerate(keys):
      images = jax.lax.switch(order[i], branches, step_key, images)
    return images

  return of_values(draw, change, *(WITH_COLOUR if contrast or saturation or hue else ()))


def grayscale() -> Operation:
  """Sets all channels to the grey value; images of 1 channel stay."""
  return _always(lambda images: jnp.broadcast_to(luminance(images), images.shape), *WITH_COLOUR)


def gaussian_noise(std: float) -> Operation:
  """Adds normal noise of `std`, a share of the range from black to white, and clips."""
  checks.number("gaussian_noise", "std", std, 0)

  def change(images: jax.Array, key: jax.Array) -> jax.Array:
    noise = jax.random.normal(key, images.shape, images.dtype)
    return jnp.clip(images + std * noise, 0, 1)

  return of_values(lambda key, shape: key, change)


def gaussian_blur(kernel_size: int, sigma: tuple[float, float] = (0.1, 2.0)) -> Operation:
  """Blurs by a Gaussian whose width in pixels is uniform in `sigma`: torchvision's GaussianBlur."""
  name = "gaussian_blur"
  checks.number(name, "kernel_size", kernel_size, 1, integer=True)
  if kernel_size % 2 == 0:
    raise UserError(f"augment: {name} takes kernel_size, an odd number, not {kernel_size}")
  low, high = checks.interval(name, "sigma", sigma, 0)

  def blur(images: jax.Array, drawn: jax.Array) -> jax.Array:
    return blurred(images, drawn[:, 0, 0, 0], kernel_size)

  return _uniform(blur, low, high)


def solarize(threshold: float) -> Operation:
  """Inverts all values of at least `threshold`, in [0, 1]."""
  checks.number("solarize", "threshold", threshold, 0, 1)
  return _always(lambda images: solarize_from(images, threshold))


def posterize(bits: int) -> Operation:
  """Keeps the first `bits` of each value rounded to 8 bits; 8 keeps all."""
  checks.number("posterize", "bits", bits, 1, 8, integer=True)
  return _always(lambda images: posterize_to(images, bits))


def equalize() -> Operation:
  """Spreads the values of each channel evenly: Pillow's ImageOps.equalize, of 8-bit values."""

  def change(images: jax.Array) -> jax.Array:
    levels = to_levels(images)
    return look_up(equalizing_table(levels), levels)

  return _always(change)


def autocontrast() -> Operation:
  """Stretches each channel from black to white: Pillow's ImageOps.autocontrast."""
  return _always(lambda images: stretch(images, *extremes(images)))


def invert() -> Operation:
  """Inverts each image."""
  return _always(lambda images: 1 - images)
