"""Mixup and CutMix: the targets say exactly what was done to the images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cnnjax.augment import mixing

BATCH, HEIGHT, WIDTH = 8, 6, 10
EYE = jnp.eye(BATCH)
DRAWS = 1000


@functools.cache
def many(name, alpha):
  """(images, targets) of `DRAWS` keys. Image i has the value i everywhere, and target i is e_i."""
  images = jnp.broadcast_to(
    jnp.arange(BATCH, dtype=jnp.float32)[:, None, None, None], (BATCH, HEIGHT, WIDTH, 1)
  )
  operation = jax.jit(getattr(mixing, name)(alpha))  # vmap would compile for longer than it saves
  drawn = [operation(key, images, EYE) for key in jax.random.split(jax.random.key(7), DRAWS)]
  return tuple(map(np.stack, zip(*jax.device_get(drawn), strict=True)))


def kept(targets):
  """The share of the first image, by draw; NaN where the permutation was the identity."""
  share = np.diagonal(targets, axis1=1, axis2=2).min(-1)
  return np.where((targets == np.eye(BATCH)).all((1, 2)), np.nan, share)


@pytest.mark.parametrize("name, alpha", [("mixup", 0.2), ("cutmix", 1.0)])
def test_targets_stay_distributions_and_no_label_is_lost(name, alpha):
  _, targets = many(name, alpha)
  assert targets.min() >= 0
  np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)  # of every example
  np.testing.assert_allclose(targets.sum(-2), 1, atol=1e-6)  # of every label, over the batch
  assert (targets > 0).sum(-1).max() == 2


def test_mixup_is_the_convex_combination_that_the_targets_say():
  images, targets = many("mixup", 0.2)
  assert (images == images[:, :, :1, :1]).all()
  np.testing.assert_allclose(images[:, :, 0, 0, 0], targets @ np.arange(BATCH), atol=1e-5)
  rng = np.random.default_rng(0)
  pixels = rng.random((BATCH, 3, 4, 2), dtype=np.float32)
  mixed, targets = mixing.mixup(1.0)(jax.random.key(1), pixels, EYE)
  assert 0 < targets[0, 0] < 1 or targets[1, 1] < 1
  np.testing.assert_allclose(mixed, np.tensordot(targets, pixels, 1), atol=1e-6)
  assert mixed.dtype == targets.dtype == jnp.float32


def test_mixup_ratios_have_the_beta_distribution():
  ratios = kept(many("mixup", 0.2)[1])
  ratios = ratios[~np.isnan(ratios)].astype(float)
  assert stats.kstest(ratios, stats.beta(0.2, 0.2).cdf).pvalue > 1e-4


def test_cutmix_ratio_is_the_area_that_was_pasted():
  images, targets = many("cutmix", 1.0)
  own = np.arange(BATCH)[:, None, None]
  foreign = images[..., 0] != own  # [draw, example, row, column]
  area = foreign.mean((2, 3))
  np.testing.assert_allclose(1 - np.diagonal(targets, axis1=1, axis2=2), area, atol=1e-6)
  for i in range(BATCH):  # and the label of what was pasted got it
    np.testing.assert_allclose((images[..., 0] == i).mean((2, 3)), targets[..., i], atol=1e-6)


def test_cutmix_pastes_one_box_a_batch():
  images, _ = many("cutmix", 1.0)
  foreign = images[..., 0] != np.arange(BATCH)[:, None, None]
  box = foreign.any(1)  # [draw, row, column]
  assert ((foreign == box[:, None]).all((2, 3)) | ~foreign.any((2, 3))).all()
  rows, columns = box.any(2), box.any(1)
  np.testing.assert_array_equal(box, rows[:, :, None] & columns[:, None, :])
  for side in (rows, columns):  # in one piece
    assert (np.abs(np.diff(np.pad(side, ((0, 0), (1, 1))).astype(int))).sum(1) <= 2).all()


def test_cutmix_areas_are_those_of_the_paper():
  """Against algorithm A1 of arXiv:1905.04899 in numpy, box clipped at the border."""
  rng = np.random.default_rng(0)
  areas = []
  for ratio, row, column in zip(
    rng.beta(1, 1, 20000),
    rng.integers(0, HEIGHT, 20000),
    rng.integers(0, WIDTH, 20000),
    strict=True,
  ):
    high, wide = (int(size * np.sqrt(1 - ratio)) for size in (HEIGHT, WIDTH))
    y1, y2 = np.clip([row - high // 2, row + high // 2], 0, HEIGHT)
    x1, x2 = np.clip([column - wide // 2, column + wide // 2], 0, WIDTH)
    areas.append((y2 - y1) * (x2 - x1) / (HEIGHT * WIDTH))
  images, _ = many("cutmix", 1.0)
  pasted = (images[..., 0] != np.arange(BATCH)[:, None, None]).any(1).mean((1, 2))
  assert abs(pasted.mean() - np.mean(areas)) < 5 * np.std(areas) / np.sqrt(DRAWS)
  assert abs(pasted.std() - np.std(areas)) < 0.1 * np.std(areas)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_partners_are_a_uniform_permutation(name):
  _, targets = many(name, {"mixup": 0.2, "cutmix": 1.0}[name])
  mixed = ~np.isnan(kept(targets)) & (kept(targets) < 1)
  fixed = np.diagonal(targets, axis1=1, axis2=2) == 1
  partner = np.where(fixed, np.arange(BATCH), (targets * (1 - np.eye(BATCH))).argmax(-1))[mixed]
  counts = np.stack([(partner == i).sum(0) for i in range(BATCH)])
  n, share = len(partner), 1 / BATCH
  assert np.abs(counts - n * share).max() < 5 * np.sqrt(n * share * (1 - share))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_alpha_zero_is_the_identity(name):
  images = np.random.default_rng(0).random((BATCH, 4, 4, 3), dtype=np.float32)
  changed, targets = getattr(mixing, name)(0)(jax.random.key(0), images, EYE)
  np.testing.assert_array_equal(changed, images)
  np.testing.assert_array_equal(targets, EYE)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [1e-4, 1e3])
def test_extreme_alphas_stay_finite(name, alpha):
  operation = getattr(mixing, name)(alpha)
  for seed in range(10):
    images, targets = operation(jax.random.key(seed), jnp.ones((BATCH, 4, 4, 1)), EYE)
    np.testing.assert_allclose(images, 1, atol=1e-6)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
