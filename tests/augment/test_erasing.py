"""Cutout, random erasing and GridMask against the algorithms of their papers in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from PIL import Image
from properties import pair
from scipy import stats

from cnnjax import augment
from cnnjax.augment import erasing
from cnnjax.errors import UserError

KEY = jax.random.key(3)
N, HEIGHT, WIDTH = 4000, 5, 6
TARGETS = jnp.ones((N, 2)) / 2
PLAIN = jnp.full((N, HEIGHT, WIDTH, 1), 0.25)
ALL = ["cutout(3)", "random_erasing(p=0.8)", "grid_mask((2, 4), 0.5, rotate=45)"]


def erased(operation, images=PLAIN, key=KEY):
  """Which pixels of plain images are no longer what they were, `[example, row, column]`."""
  changed, targets = jax.jit(pair(operation))(key, images, TARGETS)
  assert changed.dtype == jnp.float32 and (targets == 0.5).all()
  changed = np.asarray(changed)
  assert set(np.unique(changed)) <= {0.25, 0.5}  # the fill is 0.5
  return changed[..., 0] == 0.5


def near(found, n, share):
  return (np.abs(found - n * share) <= 5 * np.sqrt(n * share * (1 - share))).all()


def counted(masks):
  """How often each mask occurs, by its bytes."""
  found, counts = np.unique(masks.reshape(len(masks), -1), axis=0, return_counts=True)
  return {mask.tobytes(): count for mask, count in zip(found, counts, strict=True)}


@pytest.mark.parametrize("size", [3, 4])
def test_cutout_is_a_square_centred_anywhere(size):
  """The authors' code for even sizes; every centre equally often."""
  expected = {}
  for row in range(HEIGHT):
    for column in range(WIDTH):
      mask = np.zeros((HEIGHT, WIDTH), bool)
      top, left = row - size // 2, column - size // 2
      mask[max(top, 0) : top + size, max(left, 0) : left + size] = True
      expected[mask.tobytes()] = 1 / (HEIGHT * WIDTH)
  assert len(expected) == HEIGHT * WIDTH
  found = counted(erased(erasing.cutout(size)))
  assert found.keys() == expected.keys()
  assert all(near(found[mask], N, share) for mask, share in expected.items())


def reference_rectangles(n, scale, ratio, height, width, rng):
  """The algorithm of arXiv:1708.04896 as torchvision has it, with ten tries; p is 1."""
  masks = np.zeros((n, height, width), bool)
  for mask in masks:
    for _ in range(10):
      area = height * width * rng.uniform(*scale)
      aspect = np.exp(rng.uniform(*np.log(ratio)))
      h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
      if h < height and w < width:
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        mask[top : top + h, left : left + w] = True
        break
  return masks


def same_rectangles(ours, theirs):
  """Two samples of masks have one distribution: heights, widths, places, and how many are empty."""
  n = len(ours)
  assert len(theirs) == n
  for of in (lambda m: m.any(2).sum(1), lambda m: m.any(1).sum(1), lambda m: m.sum((1, 2))):
    assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-4
  share = (ours.mean(0) + theirs.mean(0)) / 2  # of the images, by pixel
  limit = 5 * np.sqrt(2 * share * (1 - share) / n)
  assert (np.abs(ours.mean(0) - theirs.mean(0)) <= limit).all()
  for place in (lambda m: m.any(2).argmax(1), lambda m: m.any(1).argmax(1)):
    assert stats.ks_2samp(place(ours), place(theirs)).pvalue > 1e-4
  empty = [(~m.any((1, 2))).mean() for m in (ours, theirs)]
  spread = np.sqrt(2 * np.mean(empty) * (1 - np.mean(empty)) / n)
  assert abs(empty[0] - empty[1]) <= 5 * spread


# Of the last, one try in six fits.
RANGES = [((0.02, 0.33), (0.3, 3.3)), ((0.4, 0.9), (0.9, 2.0)), ((0.62, 0.92), (0.3, 3.3))]


@pytest.mark.parametrize("scale, ratio", RANGES)
def test_random_erasing_has_the_distribution_of_its_algorithm(scale, ratio):
  images = jnp.full((N, 16, 12, 1), 0.25)
  ours = erased(erasing.random_erasing(p=1.0, scale=scale, ratio=ratio), images)
  rows, columns = ours.any(2), ours.any(1)
  np.testing.assert_array_equal(ours, rows[..., None] & columns[:, None])
  for side in (rows, columns):  # a rectangle, in one piece
    assert (np.abs(np.diff(np.pad(side, ((0, 0), (1, 1))).astype(int))).sum(-1) <= 2).all()
  rng = np.random.default_rng(0)
  same_rectangles(ours, reference_rectangles(N, scale, ratio, 16, 12, rng))


@pytest.mark.parity
@pytest.mark.parametrize("scale, ratio", RANGES)
def test_random_erasing_has_torchvisions_distribution(scale, ratio):
  torch = parity.torch()
  from torchvision.transforms import RandomErasing

  images = jnp.full((N, 16, 12, 1), 0.25)
  ours = erased(erasing.random_erasing(p=0.5, scale=scale, ratio=ratio), images)
  torch.manual_seed(0)
  transform = RandomErasing(p=0.5, scale=scale, ratio=ratio, value=1)
  theirs = np.stack([transform(torch.zeros(1, 16, 12))[0].numpy() == 1 for _ in range(N)])
  same_rectangles(ours, theirs)


def test_random_erasing_tries_ten_times():
  """To a share that nine or eleven tries would miss by twice the limit."""
  n, scale, ratio, rng = 24000, (0.72, 0.92), (0.3, 3.3), np.random.default_rng(0)
  area, aspect = 16 * 12 * rng.uniform(*scale, 10**6), np.exp(rng.uniform(*np.log(ratio), 10**6))
  fits = (np.round(np.sqrt(area * aspect)) < 16) & (np.round(np.sqrt(area / aspect)) < 12)
  share = [1 - (1 - fits.mean()) ** tries for tries in (9, 10, 11)]
  assert min(np.diff(share)) > 2 * 5 * np.sqrt(0.25 / n)
  operation = erasing.random_erasing(p=1.0, scale=scale, ratio=ratio)
  changed, _ = jax.jit(pair(operation))(KEY, jnp.full((n, 16, 12, 1), 0.25), None)
  assert near((changed == 0.5).any((1, 2, 3)).sum(), n, share[1])


def test_random_erasing_erases_so_many():
  images = jnp.full((N, 16, 12, 1), 0.25)
  masks = erased(erasing.random_erasing(0.2, scale=(0.1, 0.3)), images)
  assert near(masks.any((1, 2)).sum(), N, 0.2)


def reference_grid(d, ratio, row, column, height, width):
  """The authors' loop (mode 1): bands are kept, the squares between them are erased."""
  band, kept = int(d * ratio + 0.5), np.zeros((height, width), bool)
  for i in range(-1, max(height, width) // d + 1):
    for start, axis in ((d * i + row, 0), (d * i + column, 1)):
      place = slice(max(start, 0), max(start + band, 0))
      kept[(place, slice(None)) if axis == 0 else (slice(None), place)] = True
  return ~kept


@pytest.mark.parametrize("ratio", [0.4, 0.6])
def test_grid_mask_is_one_of_the_grids_each_as_often(ratio):
  """Unit and offsets are uniform: so many of each mask, those that look alike together."""
  share = {}
  for d in (3, 4, 5):
    for row in range(d):
      for column in range(d):
        mask = reference_grid(d, ratio, row, column, HEIGHT, WIDTH).tobytes()
        share[mask] = share.get(mask, 0) + 1 / (3 * d * d)
  found = counted(erased(erasing.grid_mask((3, 5), ratio)))
  assert found.keys() <= share.keys()
  assert all(near(found.get(mask, 0), N, s) for mask, s in share.items())


@pytest.mark.parametrize("angle", [10.0, 30.0, 75.0])
def test_a_grid_is_turned_as_pillow_turns_it(angle):
  """Counterclockwise, as the authors did. Where a pixel falls on an edge, either may be right."""
  size, d, kept, row, column = 96, 24, 10, 3, 7
  plain = reference_grid(d, kept / d, row + 48, column + 48, 2 * size, 2 * size)  # no border inside
  turned = Image.fromarray(plain.astype(np.uint8)).rotate(angle)
  expected = np.asarray(turned)[48 : 48 + size, 48 : 48 + size] > 0
  one = lambda value: jnp.array([value])
  found = erasing.grid(one(d), one(kept), one(row), one(column), one(angle), size, size)[0]
  assert (found == expected).mean() > 0.98
  straight = erasing.grid(one(d), one(kept), one(row), one(column), None, size, size)[0]
  assert (found == straight).mean() < 0.8
  still = erasing.grid(one(d), one(kept), one(row), one(column), one(0.0), size, size)[0]
  np.testing.assert_array_equal(still, straight)


def test_rotated_grids_erase_as_much():
  masks = erased(erasing.grid_mask(6, 0.5, rotate=360.0), jnp.full((N, 9, 9, 1), 0.25))
  assert abs(masks.mean() - 0.25) < 0.01
  assert len(counted(masks)) > 1000  # 36 without


@pytest.mark.parametrize(
  "spec",
  [
    "cutout(0)",
    "random_erasing(p=0)",
    "random_erasing(p=1, scale=(0, 0))",
    "grid_mask(4, ratio=1)",
    "grid_mask(4, ratio=1, rotate=90)",
  ],
)
def test_zero_strength_is_the_identity(spec):
  images = np.random.default_rng(0).random((8, 7, 5, 3), dtype=np.float32)
  changed, _ = pair(augment.create(spec))(KEY, images, TARGETS[:8])
  np.testing.assert_array_equal(changed, images)


@pytest.mark.parametrize("spec", ALL)
def test_each_example_on_its_own_and_keys_decide(spec):
  operation = jax.jit(pair(augment.create(spec)))
  masks = [operation(jax.random.key(i), PLAIN[:64], TARGETS[:64])[0] for i in (1, 1, 2)]
  np.testing.assert_array_equal(masks[0], masks[1])
  assert (masks[0] != masks[2]).any()
  assert len(counted(np.asarray(masks[0]) == 0.5)) > 8


def test_fills():
  images = jnp.full((64, HEIGHT, WIDTH, 3), 0.25)
  fill = lambda value: np.asarray(pair(erasing.cutout(3, fill=value))(KEY, images, TARGETS[:64])[0])
  mask = fill(1)[..., 0] == 1
  assert 0 < mask.mean() < 1
  np.testing.assert_array_equal(fill(0)[mask], 0)
  np.testing.assert_array_equal(
    fill((0.1, 0.2, 0.3))[mask], np.tile(np.float32([0.1, 0.2, 0.3]), (mask.sum(), 1))
  )
  noise = fill("noise")
  np.testing.assert_array_equal(noise[~mask], 0.25)
  assert stats.kstest(noise[mask].reshape(-1), "uniform").pvalue > 1e-4
  assert noise.dtype == np.float32 and len(np.unique(noise[mask])) > 0.99 * noise[mask].size
  np.testing.assert_array_equal(fill((0.1, 0.2, 0.3))[~mask], 0.25)


def test_a_square_larger_than_the_image_erases_all():
  changed, _ = pair(erasing.cutout(100))(KEY, PLAIN[:8], TARGETS[:8])
  assert (changed == 0.5).all()


@pytest.mark.parametrize(
  "spec, message",
  [
    ("cutout(-1)", "cutout takes size in pixels, an integer of at least 0, not -1"),
    ("cutout(2.5)", "cutout takes size"),
    ("cutout(4, fill=2)", "cutout takes fill, a number between 0 and 1, not 2"),
    ("cutout(4, fill=(0, 'a'))", "cutout takes fill, each a .* not 'a'"),
    ("cutout(4, fill='black')", "cutout takes fill, .* or 'noise', not 'black'"),
    ("cutout(4, fill=None)", "cutout takes fill, .* not None"),
    ("random_erasing(p=1.5)", "random_erasing takes p, a number between 0 and 1, not 1.5"),
    ("random_erasing(scale=0.3)", "random_erasing takes scale, two numbers .* not 0.3"),
    ("random_erasing(scale=(0.3, 1.3))", r"takes scale, .* between 0 and 1, not \(0.3, 1.3\)"),
    ("random_erasing(ratio=(0, 1))", r"random_erasing takes ratio, .* not \(0, 1\)"),
    ("grid_mask(1)", "grid_mask takes d, in pixels, an integer of at least 2, not 1"),
    ("grid_mask((2, 3, 4))", r"grid_mask takes d.* not \(2, 3, 4\)"),
    ("grid_mask((2, 3.5))", "grid_mask takes d.* not 3.5"),
    ("grid_mask((4, 2))", r"grid_mask takes d as \(lowest, highest\), not \(4, 2\)"),
    ("grid_mask(4, ratio=1.1)", "grid_mask takes ratio, a number between 0 and 1, not 1.1"),
    ("grid_mask(4, rotate=400)", "grid_mask takes rotate, in degrees, .* not 400"),
  ],
)
def test_bad_arguments(spec, message):
  with pytest.raises(UserError, match=message) as e:
    augment.parse(spec)
  assert "\n" not in str(e.value)


def test_a_fill_of_other_channels_than_the_images():
  operation = erasing.cutout(2, fill=(0.1, 0.2, 0.3))
  with pytest.raises(UserError, match=r"of 3 channels \(as many as its fill has\), not 1 as"):
    pair(operation)(KEY, PLAIN[:2], TARGETS[:2])
