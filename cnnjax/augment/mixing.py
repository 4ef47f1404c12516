"""Mixes each example with another of its batch, and their targets: Mixup and CutMix.

Both have the modes of timm's `Mixup`: "batch" draws once per batch, "pair" once for two examples
that are each other's partner, "elem" once per example. `p` is the probability that a batch, a pair
or an example is mixed. Partners are drawn for each batch. In modes "batch" and "pair" the sum of
the targets over the batch stays; in mode "elem" it does on average.

Both mix images and targets; CutMix mixes masks too. Another field would no longer describe the
image, so a batch with such a field is refused.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.augment import checks, erasing
from cnnjax.augment.operation import Operation, Shape

MODES = ("batch", "pair", "elem")
_OF_TARGETS = "mix the field of targets that a task makes of it"
_INSTEAD = {"label": _OF_TARGETS, "multi_label": _OF_TARGETS}


def _check(name: str, alpha: float, mode: str, p: float) -> None:
  checks.number(name, "alpha", alpha, 0)
  checks.number(name, "p", p, 0, 1)
  checks.one_of(f"mode of {name}", mode, MODES)


def beta(key: jax.Array, alpha: float, shape: tuple[int, ...]) -> jax.Array:
  """Draws samples of Beta(alpha, alpha), exact for every alpha above 0.

  `cos(pi v) sqrt(u**(-1 / alpha) - 1)` is Student's t with 2 alpha degrees of freedom, over the
  root of them (Bailey, Mathematics of Computation 62, 1994), and (1 + t / sqrt(1 + t**2)) / 2 of
  that is beta (Devroye, One line of code, 1996). `jax.random.beta` rejects in loops, which
  take longer to compile on CPU: experiments/benchmarks/input/README.md.
  """
  radius, angle = jax.random.uniform(key, (2, *shape))
  power = jnp.log1p(-radius) / alpha  # log u**(1 / alpha)
  cosine = jnp.cos(jnp.pi * angle)
  u, rest = jnp.exp(power), -jnp.expm1(power)  # for digits: no difference of nearly equal numbers
  below = u / (u + rest * cosine**2)  # 1 - t**2 / (1 + t**2)
  smaller = 0.5 * below / (1 + jnp.sqrt(1 - below))
  return jnp.where(cosine < 0, smaller, 1 - smaller)


def _ratios(key: jax.Array, alpha: float, p: float, n: int) -> jax.Array:
  """Draws the shares of the first image, `[n]`; 1 where nothing is mixed, and at alpha 0."""
  if not alpha:
    return jnp.ones(n)
  ratio_key, chosen_key = jax.random.split(key)
  ratio = beta(ratio_key, alpha, (n,))
  return ratio if p == 1 else jnp.where(jax.random.bernoulli(chosen_key, float(p), (n,)), ratio, 1)


def _partners(key: jax.Array, batch: int, mode: str) -> tuple[jax.Array, jax.Array | slice]:
  """Draws the partner of each example, `[batch]`; returns it with the draw that each one uses."""
  place = jax.random.permutation(key, batch)
  if mode != "pair":
    return place, slice(None)
  opposite = batch - 1 - place  # of an odd batch, one is its own partner
  return jnp.argsort(place)[opposite], jnp.minimum(place, opposite)


def _blend(ratio: jax.Array, x: jax.Array, partner: jax.Array) -> jax.Array:
  ratio = ratio.reshape(-1, *[1] * (x.ndim - 1))
  return ratio * x + (1 - ratio) * x[partner]


def mixup(alpha: float, mode: str = "batch", p: float = 1.0) -> Operation:
  """Mixes convexly with a ratio from Beta(alpha, alpha) (arXiv:1710.09412, section 2)."""
  _check("mixup", alpha, mode, p)

  def draw(key: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array]:
    batch = shape[0]
    ratio_key, partner_key = jax.random.split(key)
    partner, draws = _partners(partner_key, batch, mode)
    return _ratios(ratio_key, alpha, p, 1 if mode == "batch" else batch)[draws], partner

  def change(x: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> jax.Array:
    ratio, partner = drawn
    return _blend(ratio, x, partner)

  instead = {**_INSTEAD, "mask": "take cutmix, which pastes masks too, or leave mixup out"}
  return Operation(draw, {"image": change, "targets": change}, instead=instead)


def boxes(
  ratio: jax.Array, row: jax.Array, column: jax.Array, height: int, width: int
) -> jax.Array:
  """Returns masks `[n, height, width]` of boxes about (`row`, `column`), clipped at the border.

  Before clipping their area is about 1 - `ratio` of the image (arXiv:1905.04899, algorithm A1).
  """
  side = jnp.sqrt(1 - ratio)
  half_height, half_width = ((size * side).astype(jnp.int32) // 2 for size in (height, width))
  return erasing.rectangles(
    row - half_height, row + half_height, column - half_width, column + half_width, height, width
  )


def cutmix(alpha: float, mode: str = "batch", p: float = 1.0) -> Operation:
  """Pastes a box from another image (arXiv:1905.04899, section 3.1).

  The box is clipped at the border; targets are mixed by the area after clipping.
  """
  _check("cutmix", alpha, mode, p)

  def draw(key: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array]:
    batch, height, width, _ = shape
    n = 1 if mode == "batch" else batch
    ratio_key, partner_key, box_key = jax.random.split(key, 3)
    partner, draws = _partners(partner_key, batch, mode)
    ratio = _ratios(ratio_key, alpha, p, n)
    centres = jax.random.randint(box_key, (n, 2), 0, np.array([height, width]))[draws]
    return boxes(ratio[draws], centres[:, 0], centres[:, 1], height, width), partner

  def paste(x: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> jax.Array:
    box, partner = drawn
    return jnp.where(box.reshape(*box.shape, *[1] * (x.ndim - 3)), x[partner], x)

  def blend(targets: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> jax.Array:
    box, partner = drawn
    return _blend(1 - box.mean((1, 2)), targets, partner)

  changes = {"image": paste, "mask": paste, "targets": blend}
  return Operation(draw, changes, instead=_INSTEAD)
