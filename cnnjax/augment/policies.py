"""Applies policies: each example gets operations drawn for it from a set.

Operations, magnitudes and probabilities are torchvision's (torchvision.transforms.v2, 0.28); images
are rounded to 8 bits for operations that are defined on 8 bits.

A switch between 15 operations on a batch would compute all 15 for every example. Here a layer has
three steps, each the identity for examples that drew another one: an affine warp, a lookup table
for each image and channel, and a blend with the grey or the smoothed image.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.augment import boxes, checks, color, geometry
from cnnjax.augment.operation import WITHOUT_PLACE, Operation, Shape, of_places
from cnnjax.errors import UserError

# Invert comes last: RandAugment and TrivialAugment draw from those before it.
OPERATIONS = (
  "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color",
  "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert",
)  # fmt: skip
ENHANCEMENTS = ("Brightness", "Color", "Contrast", "Sharpness")  # AugMix may leave these out
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", *ENHANCEMENTS}

# The policies of arXiv:1805.09501, tables 7 to 9 (appendix), as torchvision has them: pairs of
# (operation, probability, bin of its magnitude out of 10).
# fmt: off
POLICIES = {
  "imagenet": (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, None), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, None)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, None)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, None), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, None)),
    (("Equalize", 0.0, None), ("Equalize", 0.8, None)),
    (("Invert", 0.6, None), ("Equalize", 1.0, None)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, None)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, None)),
    (("Color", 0.4, 0), ("Equalize", 0.6, None)),
    (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
    (("Invert", 0.6, None), ("Equalize", 1.0, None)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
  ),
  "cifar10": (
    (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
    (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
    (("Color", 0.9, 9), ("Equalize", 0.6, None)),
    (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, None), ("Invert", 0.1, None)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
  ),
  "svhn": (
    (("ShearX", 0.9, 4), ("Invert", 0.2, None)),
    (("ShearY", 0.9, 8), ("Invert", 0.7, None)),
    (("Equalize", 0.6, None), ("Solarize", 0.6, 6)),
    (("Invert", 0.9, None), ("Equalize", 0.6, None)),
    (("Equalize", 0.6, None), ("Rotate", 0.9, 3)),
    (("ShearX", 0.9, 4), ("AutoContrast", 0.8, None)),
    (("ShearY", 0.9, 8), ("Invert", 0.4, None)),
    (("ShearY", 0.9, 5), ("Solarize", 0.2, 6)),
    (("Invert", 0.9, None), ("AutoContrast", 0.8, None)),
    (("Equalize", 0.6, None), ("Rotate", 0.9, 3)),
    (("ShearX", 0.9, 4), ("Solarize", 0.3, 3)),
    (("ShearY", 0.8, 8), ("Invert", 0.7, None)),
    (("Equalize", 0.9, None), ("TranslateY", 0.6, 6)),
    (("Invert", 0.9, None), ("Equalize", 0.6, None)),
    (("Contrast", 0.3, 3), ("Rotate", 0.8, 4)),
    (("Invert", 0.8, None), ("TranslateY", 0.0, 2)),
    (("ShearY", 0.7, 6), ("Solarize", 0.4, 8)),
    (("Invert", 0.6, None), ("Rotate", 0.8, 4)),
    (("ShearY", 0.3, 7), ("TranslateX", 0.9, 3)),
    (("ShearX", 0.1, 6), ("Invert", 0.6, None)),
    (("Solarize", 0.7, 2), ("TranslateY", 0.6, 7)),
    (("ShearY", 0.8, 4), ("Invert", 0.8, None)),
    (("ShearX", 0.7, 9), ("TranslateY", 0.8, 3)),
    (("ShearY", 0.8, 5), ("AutoContrast", 0.7, None)),
    (("ShearX", 0.7, 2), ("Invert", 0.1, None)),
  ),
}
# fmt: on


def magnitudes(space: str, bins: int, height: int, width: int) -> np.ndarray:
  """Returns the strength of each operation in each bin, `[operations, bins]`; 0 if it has none.

  Shears are tangents, translations pixels, angles degrees, enhancements factor - 1, posterize bits,
  thresholds in [0, 1]. `space` is one of "rand_augment" (AutoAugment's too), "trivial_augment"
  and "augmix", as in torchvision.
  """
  shear, degrees, factor, bits, coarsest, pixels = {
    "rand_augment": (0.3, 30, 0.9, 8, 4, lambda size: 150 / 331 * size),
    "trivial_augment": (0.99, 135, 0.99, 8, 2, lambda size: 32),
    "augmix": (0.3, 30, 0.9, 4, 0, lambda size: size / 3),
  }[space]
  highest = {
    "ShearX": shear, "ShearY": shear, "TranslateX": pixels(width), "TranslateY": pixels(height),
    "Rotate": degrees, **dict.fromkeys(ENHANCEMENTS, factor),
  }  # fmt: skip
  values = {name: np.linspace(0, high, bins) for name, high in highest.items()}
  values["Posterize"] = np.round(bits - np.arange(bins) / ((bins - 1) / (bits - coarsest)))
  values["Solarize"] = np.linspace(1, 0, bins)
  return np.stack([values.get(name, np.zeros(bins)) for name in OPERATIONS]).astype(np.float32)


def warps(operation: jax.Array, magnitude: jax.Array, height: int, width: int) -> jax.Array:
  """Returns the matrices of a layer for `geometry.warp`, `[batch, 2, 3]`; see `layer`."""
  drawn = lambda *names: sum(operation == OPERATIONS.index(name) for name in names).astype(bool)
  take = lambda name: jnp.where(drawn(name), magnitude, 0)

  def shear(name: str) -> jax.Array:
    return jnp.rad2deg(jnp.arctan(take(name)))

  sheared = drawn("ShearX", "ShearY")  # these keep the corner at the top left in its place
  return geometry.inverse_matrices(
    degrees=-take("Rotate"),  # counter-clockwise, as Pillow turns
    translate=(jnp.trunc(take("TranslateX")), jnp.trunc(take("TranslateY"))),
    shear=(shear("ShearX"), shear("ShearY")),
    center=(jnp.where(sheared, -width / 2, 0), jnp.where(sheared, -height / 2, 0)),
  )


def layer(
  images: jax.Array,
  operation: jax.Array,
  magnitude: jax.Array,
  interpolation: str = "nearest",
  fill: float = 0.0,
) -> jax.Array:
  """Applies to each image its own operation, an index into OPERATIONS, at its own magnitude.

  Args:
    images: `[batch, height, width, channels]` in [0, 1], of 1 or 3 channels.
    operation: `[batch]` int.
    magnitude: `[batch]`, signed, in the units of `magnitudes`.
    interpolation: of the geometric operations.
    fill: the value outside of the image.
  """
  drawn = lambda *names: sum(operation == OPERATIONS.index(name) for name in names).astype(bool)
  take = lambda *names: jnp.where(drawn(*names), magnitude, 0)
  spread = lambda values: values[:, None, None, None]  # against images
  matrices = warps(operation, magnitude, *images.shape[1:3])
  images = geometry.warp(images, matrices, interpolation, fill)

  factor = spread(1 + take(*ENHANCEMENTS))
  levels = color.to_levels(images)
  tables = {
    "Brightness": color.adjust_brightness(color.RAMP, factor),
    "Contrast": color.blend(color.RAMP, color.mean_luminance(images), factor),
    "Posterize": color.posterize_to(color.RAMP, spread(take("Posterize").astype(jnp.int32))),
    "Solarize": color.solarize_from(color.RAMP, spread(magnitude)),
    "AutoContrast": color.stretch(color.RAMP, *color.extremes(images)),
    "Equalize": color.equalizing_table(levels),
    "Invert": 1 - color.RAMP,
  }
  table = jnp.select([spread(drawn(name)) for name in tables], list(tables.values()), color.RAMP)
  images = jnp.where(spread(drawn(*tables)), color.look_up(table, levels), images)

  other = jnp.where(spread(drawn("Sharpness")), color.smooth(images), color.luminance(images))
  return color.blend(images, other, spread(1 + take("Color", "Sharpness")))


def _magnitude(
  operation: jax.Array, bin_: jax.Array | int, uniform: jax.Array, table: np.ndarray
) -> jax.Array:
  """Returns the magnitude `[batch]` of each operation, half negative for those with a sign."""
  signed = jnp.array([name in SIGNED for name in OPERATIONS])[operation]
  magnitude = jnp.asarray(table)[operation, bin_]
  return jnp.where(signed & (uniform < 0.5), -magnitude, magnitude)


def _indices(names: Iterable[str]) -> np.ndarray:
  return np.array([OPERATIONS.index(name) for name in names], np.int32)


def _check_warp(name: str, interpolation: str, fill: float) -> None:
  checks.one_of("interpolation", interpolation, geometry.INTERPOLATIONS)
  checks.number(name, "fill", fill, 0, 1)


def _policy(draw: Callable, interpolation: str, fill: float) -> Operation:
  """Returns an operation of the layers that `draw` returns: (key, shape) -> [(op, magnitude)]."""
  Layers = list[tuple[jax.Array, jax.Array]]

  def image(images: jax.Array, layers: Layers) -> jax.Array:
    for operation, magnitude in layers:
      images = layer(images, operation, magnitude, interpolation, fill)
    return images

  def mask(masks: jax.Array, layers: Layers) -> jax.Array:
    for drawn in layers:
      masks = geometry.warp_nearest(masks, warps(*drawn, *masks.shape[1:3]))
    return masks

  def move(sides: jax.Array, valid: jax.Array, layers: Layers, size: tuple[int, int]):
    for drawn in layers:
      sides, valid = boxes.moved(sides, valid, warps(*drawn, *size), size)
    return sides, valid

  return of_places(draw, image, mask, move, *color.WITH_COLOUR)


def rand_augment(
  num_ops: int = 2,
  magnitude: int = 9,
  num_magnitude_bins: int = 31,
  interpolation: str = "nearest",
  fill: float = 0.0,
) -> Operation:
  """Applies `num_ops` of 14 operations in turn, all with one strength (arXiv:1909.13719).

  Magnitudes go from 0 to `num_magnitude_bins` - 1. The identity is one of the 14.
  """
  name = "rand_augment"
  checks.number(name, "num_ops", num_ops, 0, 100, integer=True)
  checks.number(name, "num_magnitude_bins", num_magnitude_bins, 2, 1000, integer=True)
  checks.number(name, "magnitude", magnitude, 0, num_magnitude_bins - 1, integer=True)
  _check_warp(name, interpolation, fill)

  def draw(key: jax.Array, shape: Shape) -> list[tuple[jax.Array, jax.Array]]:
    batch, height, width, _ = shape
    table, layers = magnitudes(name, num_magnitude_bins, height, width), []
    for which, sign in jax.random.uniform(key, (num_ops, 2, batch)):
      operation = geometry.integers(which, len(OPERATIONS) - 1)
      layers.append((operation, _magnitude(operation, magnitude, sign, table)))
    return layers

  return _policy(draw, interpolation, fill)


def trivial_augment(
  num_magnitude_bins: int = 31, interpolation: str = "nearest", fill: float = 0.0
) -> Operation:
  """Applies one of 14 operations at a random magnitude: TrivialAugment, wide (arXiv:2103.10158)."""
  name = "trivial_augment"
  checks.number(name, "num_magnitude_bins", num_magnitude_bins, 2, 1000, integer=True)
  _check_warp(name, interpolation, fill)

  def draw(key: jax.Array, shape: Shape) -> list[tuple[jax.Array, jax.Array]]:
    batch, height, width, _ = shape
    which, bin_, sign = jax.random.uniform(key, (3, batch))
    operation = geometry.integers(which, len(OPERATIONS) - 1)
    table = magnitudes(name, num_magnitude_bins, height, width)
    bin_ = geometry.integers(bin_, num_magnitude_bins)
    return [(operation, _magnitude(operation, bin_, sign, table))]

  return _policy(draw, interpolation, fill)


def auto_augment(
  policy: str = "imagenet", interpolation: str = "nearest", fill: float = 0.0
) -> Operation:
  """Applies one of 25 pairs of a learnt policy, each with its probabilities (arXiv:1805.09501).

  `policy` is "imagenet", "cifar10" or "svhn".
  """
  checks.one_of("policy of auto_augment", policy, POLICIES)
  _check_warp("auto_augment", interpolation, fill)
  pairs = POLICIES[policy]
  operations = np.stack([_indices(op for op, _, _ in pair) for pair in pairs])  # [25, 2]
  chances = np.array([[p for _, p, _ in pair] for pair in pairs], np.float32)
  bins = np.array([[bin_ or 0 for _, _, bin_ in pair] for pair in pairs], np.int32)

  def draw(key: jax.Array, shape: Shape) -> list[tuple[jax.Array, jax.Array]]:
    batch, height, width, _ = shape
    which, *drawn = jax.random.uniform(key, (5, batch))
    pair = geometry.integers(which, len(pairs))
    table, layers = magnitudes("rand_augment", 10, height, width), []
    for i, (chance, sign) in enumerate((drawn[:2], drawn[2:])):
      done = chance < jnp.asarray(chances)[pair, i]
      operation = jnp.where(done, jnp.asarray(operations)[pair, i], OPERATIONS.index("Identity"))
      layers.append((operation, _magnitude(operation, jnp.asarray(bins)[pair, i], sign, table)))
    return layers

  return _policy(draw, interpolation, fill)


def augmix(
  severity: int = 3,
  width: int = 3,
  depth: int = -1,
  alpha: float = 1.0,
  all_ops: bool = True,
  interpolation: str = "bilinear",
  fill: float = 0.0,
) -> Operation:
  """Mixes each image with `width` chains of operations on it (arXiv:1912.02781, algorithm 1).

  A chain has `depth` operations, or 1 to 3 for -1, of magnitudes below `severity` out of 10; its
  shares come from a Dirichlet, and the share of the image from a Beta distribution, of `alpha`.
  `all_ops` is as in torchvision; without it brightness, contrast, colour and sharpness are left
  out, as in the paper, which tests on images corrupted by them. Masks and boxes cannot follow
  several chains at once: a batch that has them is refused.
  """
  name = "augmix"
  checks.number(name, "severity", severity, 1, 10, integer=True)
  checks.number(name, "width", width, 1, 100, integer=True)
  if depth != -1:
    checks.number(name, "depth (-1: a random one)", depth, 1, 100, integer=True)
  checks.number(name, "alpha", alpha, 0.001, 1000)
  if not isinstance(all_ops, bool):
    raise UserError(f"augment: {name} takes all_ops, True or False, not {all_ops!r}")
  _check_warp(name, interpolation, fill)
  excluded = {"Identity", "Invert", *(() if all_ops else ENHANCEMENTS)}
  space = _indices(op for op in OPERATIONS if op not in excluded)

  def draw(key: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array, list]:
    batch = shape[0]
    image_key, shares_key, chains_key = jax.random.split(key, 3)
    image_share = jax.random.beta(image_key, alpha, alpha, (batch, 1, 1, 1))
    shares = jax.random.dirichlet(shares_key, jnp.full(width, alpha, jnp.float32), (batch,))
    deepest = 3 if depth == -1 else depth
    depths, *drawn = jax.random.uniform(chains_key, (1 + 3 * deepest, batch * width))
    depths = 1 + geometry.integers(depths, 3) if depth == -1 else depth
    table, layers = magnitudes(name, 10, *shape[1:3]), []
    for i in range(deepest):
      which, bin_, sign = drawn[3 * i : 3 * i + 3]
      operation = jnp.asarray(space)[geometry.integers(which, len(space))]
      operation = jnp.where(i < depths, operation, OPERATIONS.index("Identity"))
      bin_ = geometry.integers(bin_, severity)
      layers.append((operation, _magnitude(operation, bin_, sign, table)))
    return image_share, shares, layers

  def change(images: jax.Array, drawn: tuple[jax.Array, jax.Array, list]) -> jax.Array:
    image_share, shares, layers = drawn
    chains = jnp.repeat(images, width, axis=0)
    for operation, strength in layers:
      chains = layer(chains, operation, strength, interpolation, fill)
    chains = chains.reshape(-1, width, *images.shape[1:])
    mixed = (shares[:, :, None, None, None] * chains).sum(1)
    return color.blend(images, mixed, image_share)

  instead = dict.fromkeys(("mask", "boxes"), "take rand_augment or trivial_augment")
  return Operation(draw, {"image": change}, WITHOUT_PLACE, *color.WITH_COLOUR, instead=instead)
