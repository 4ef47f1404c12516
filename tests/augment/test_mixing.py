"""Mixup and CutMix in every mode: the targets say exactly what was done to the images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from properties import pair
from scipy import stats

from cnnjax.augment import mixing
from cnnjax.errors import UserError

BATCH, HEIGHT, WIDTH = 8, 6, 10
EYE = np.eye(BATCH, dtype=np.float32)
DRAWS = 1000
NAMES, ALPHAS = ("mixup", "cutmix"), {"mixup": 0.2, "cutmix": 1.0}


@functools.cache
def many(name, mode="batch", p=1.0):
  """(images, targets) of `DRAWS` keys. Image i has the value i everywhere, and target i is e_i."""
  images = jnp.broadcast_to(
    jnp.arange(BATCH, dtype=jnp.float32)[:, None, None, None], (BATCH, HEIGHT, WIDTH, 1)
  )
  operation = getattr(mixing, name)(ALPHAS[name], mode=mode, p=p)
  operation = jax.jit(pair(operation))  # vmap would compile for longer than it saves
  drawn = [operation(key, images, EYE) for key in jax.random.split(jax.random.key(7), DRAWS)]
  return tuple(map(np.stack, zip(*jax.device_get(drawn), strict=True)))


def kept(targets):
  """The share of its own that each example has, `[draw, example]`."""
  return np.diagonal(targets, axis1=1, axis2=2)


def partners(targets):
  """Whom each example is mixed with, `[draw, example]`; itself where it is as it was."""
  others = targets * (1 - EYE)
  return np.where(others.any(-1), others.argmax(-1), np.arange(BATCH))


def near(found, n, share):
  """So many of n, each with probability `share`, within 5 standard deviations."""
  return (np.abs(found - n * share) <= 5 * np.sqrt(n * share * (1 - share))).all()


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 4.0, 30.0])
def test_beta_samples_have_the_beta_distribution(alpha):
  """The lower half, and the upper as its mirror: float32 rounds near 1, a tenth at alpha 0.1."""
  n, reference = 20000, stats.beta(alpha, alpha)
  samples = np.asarray(mixing.beta(jax.random.key(1), alpha, (n,)), np.float64)
  lower, upper = samples[samples < 0.5], 1 - samples[samples >= 0.5]
  assert near(len(lower), n, 0.5)
  assert stats.kstest(lower, lambda x: 2 * reference.cdf(x)).pvalue > 1e-4
  assert stats.ks_2samp(lower[lower > 1e-4], upper[upper > 1e-4]).pvalue > 1e-4


@pytest.mark.parametrize("mode", mixing.MODES)
@pytest.mark.parametrize("name", NAMES)
def test_targets_stay_distributions_and_no_label_is_lost(name, mode):
  _, targets = many(name, mode)
  assert targets.min() >= 0
  np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)  # of every example
  assert (targets > 0).sum(-1).max() == 2
  mass = targets.sum(-2)  # of every label, over the batch
  if mode == "elem":  # on average
    assert np.abs(mass - 1).max() > 0.1
    assert np.abs(mass.mean(0) - 1).max() < 5 * mass.std() / np.sqrt(DRAWS)
  else:
    np.testing.assert_allclose(mass, 1, atol=1e-6)


@pytest.mark.parametrize("mode", mixing.MODES)
def test_mixup_is_the_convex_combination_that_the_targets_say(mode):
  images, targets = many("mixup", mode)
  assert (images == images[:, :, :1, :1]).all()
  np.testing.assert_allclose(images[:, :, 0, 0, 0], targets @ np.arange(BATCH), atol=1e-5)


def test_mixup_treats_every_pixel_alike():
  pixels = np.random.default_rng(0).random((BATCH, 3, 4, 2), dtype=np.float32)
  mixed, targets = pair(mixing.mixup(1.0))(jax.random.key(1), pixels, EYE)
  assert 0 < targets[0, 0] < 1 or targets[1, 1] < 1
  np.testing.assert_allclose(mixed, np.tensordot(targets, pixels, 1), atol=1e-6)
  assert mixed.dtype == targets.dtype == jnp.float32


@pytest.mark.parametrize("mode", mixing.MODES)
def test_mixup_ratios_have_the_beta_distribution(mode):
  targets = many("mixup", mode)[1]
  mixed = partners(targets) != np.arange(BATCH)  # a partner whose share was rounded to 0 as well
  if mode == "batch":
    ratios = [
      own.min() for own, any_mixed in zip(kept(targets), mixed.any(1), strict=True) if any_mixed
    ]
  else:  # in a pair both have the same: the first alone
    first = mixed & ((partners(targets) > np.arange(BATCH)) | (mode == "elem"))
    ratios = kept(targets)[first]
  ratios = np.asarray(ratios, np.float64)
  lower = ratios[ratios < 0.5]
  assert len(lower) > 400
  assert stats.kstest(lower, lambda x: 2 * stats.beta(0.2, 0.2).cdf(x)).pvalue > 1e-4


@pytest.mark.parametrize("mode", mixing.MODES)
def test_lambda_of_cutmix_is_the_area_that_was_pasted(mode):
  """To the pixel, and the label of what was pasted got it."""
  images, targets = many("cutmix", mode)
  pixels = np.stack([(images[..., 0] == i).sum((2, 3)) for i in range(BATCH)], axis=-1)
  assert (pixels.sum(-1) == HEIGHT * WIDTH).all() and pixels.min() == 0
  np.testing.assert_allclose(targets * (HEIGHT * WIDTH), pixels, atol=1e-4)


@pytest.mark.parametrize("mode", mixing.MODES)
def test_cutmix_pastes_one_box_a_draw(mode):
  images, targets = many("cutmix", mode)
  foreign = images[..., 0] != np.arange(BATCH)[:, None, None]  # [draw, example, row, column]
  rows, columns = foreign.any(3), foreign.any(2)
  np.testing.assert_array_equal(foreign, rows[..., None] & columns[:, :, None])
  for side in (rows, columns):  # in one piece
    assert (np.abs(np.diff(np.pad(side, ((0, 0), (0, 0), (1, 1))).astype(int))).sum(-1) <= 2).all()
  if mode == "batch":
    box = foreign.any(1, keepdims=True)
    assert ((foreign == box).all((2, 3)) | ~foreign.any((2, 3))).all()
  if mode == "pair":
    partner = partners(targets)
    np.testing.assert_array_equal(
      foreign, np.take_along_axis(foreign, partner[..., None, None], axis=1)
    )
  if mode != "batch":
    sizes = foreign.sum((2, 3))
    assert (np.array([len(set(draw)) for draw in sizes]) > 2).mean() > 0.9


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
  images, _ = many("cutmix")
  pasted = (images[..., 0] != np.arange(BATCH)[:, None, None]).any(1).mean((1, 2))
  assert abs(pasted.mean() - np.mean(areas)) < 5 * np.std(areas) / np.sqrt(DRAWS)
  assert abs(pasted.std() - np.std(areas)) < 0.1 * np.std(areas)


@pytest.mark.parametrize("mode", mixing.MODES)
@pytest.mark.parametrize("name", NAMES)
def test_partners(name, mode):
  """A uniform permutation; in pairs, one that goes back and forth."""
  targets = many(name, mode)[1]
  partner, own = partners(targets), np.arange(BATCH)
  if mode == "pair":
    assert (np.take_along_axis(partner, partner, axis=1) == own).all()
    mixed, share = partner != own, (1 - EYE) / (BATCH - 1)
  elif mode == "batch":  # of a draw that mixed nothing, the order is not known
    mixed = np.broadcast_to((kept(targets) < 1).any(1, keepdims=True), partner.shape)
    assert (np.sort(partner[mixed[:, 0]]) == own).all()
    share = np.full((BATCH, BATCH), 1 / BATCH)
  else:
    mixed, share = partner != own, (1 - EYE) / (BATCH - 1)
  for i in range(BATCH):
    counts = np.bincount(partner[mixed[:, i], i], minlength=BATCH)
    assert near(counts, mixed[:, i].sum(), share[i])


def test_modes_share_ratios_as_they_say():
  for mode in mixing.MODES:
    targets = many("mixup", mode)[1]
    own, partner = kept(targets), partners(targets)
    mixed = partner != np.arange(BATCH)
    among = np.array([len(set(o[m])) for o, m in zip(own, mixed, strict=True)])
    if mode == "batch":
      assert among.max() == 1
      continue
    assert (among > BATCH // 4).mean() > 0.5  # pairs have different ones
    same = np.isclose(own, np.take_along_axis(own, partner, axis=1)) | ~mixed
    assert same.all() if mode == "pair" else same.mean() < 0.3


@pytest.mark.parametrize(
  "name, mode", [("mixup", "batch"), ("mixup", "pair"), ("mixup", "elem"), ("cutmix", "pair")]
)
def test_p_is_the_share_of_what_is_mixed(name, mode):
  """Compared with p = 1, where the same keys draw the same ratios and partners."""
  p = 0.3
  always, at_times = (many(name, mode, p=q)[1] for q in (1.0, p))
  moved = (always != EYE).any(-1)  # [draw, example]
  mixed = (at_times != EYE).any(-1)
  assert (mixed <= moved).all()
  np.testing.assert_array_equal(at_times[mixed], always[mixed])
  if mode == "batch":
    assert (mixed.any(1)[:, None] & moved == mixed).all()  # all or none
    assert near(mixed.any(1).sum(), moved.any(1).sum(), p)
  else:
    if mode == "pair":
      partner = partners(always)
      np.testing.assert_array_equal(np.take_along_axis(mixed, partner, axis=1), mixed)
    each = moved & ((partners(always) > np.arange(BATCH)) | (mode == "elem"))
    assert near(mixed[each].sum(), each.sum(), p)
    assert (mixed.any(1) & (mixed < moved).any(1)).mean() > 0.5  # each on its own


@pytest.mark.parametrize("name", NAMES)
def test_in_an_odd_batch_of_pairs_one_stays_alone(name):
  images = np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((1, 6, 6, 1), np.float32)
  operation = jax.jit(pair(getattr(mixing, name)(1.0, mode="pair")))
  for seed in range(20):
    mixed, targets = operation(jax.random.key(seed), images, np.eye(5, dtype=np.float32))
    np.testing.assert_allclose(targets.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert (np.diagonal(targets) == 1).sum() % 2
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), targets @ np.arange(5), atol=1e-5)


@pytest.mark.parametrize(
  "strength", [{"alpha": 0}, *({"alpha": 1.0, "p": 0.0, "mode": mode} for mode in mixing.MODES)]
)
@pytest.mark.parametrize("name", NAMES)
def test_zero_strength_is_the_identity(name, strength):
  images = np.random.default_rng(0).random((BATCH, 4, 4, 3), dtype=np.float32)
  changed, targets = pair(getattr(mixing, name)(**strength))(jax.random.key(0), images, EYE)
  np.testing.assert_array_equal(changed, images)
  np.testing.assert_array_equal(targets, EYE)


@pytest.mark.parametrize("name, alpha", [("mixup", 1e-4), ("mixup", 1e3), ("cutmix", 1e-4)])
def test_extreme_alphas_stay_finite(name, alpha):
  operation = jax.jit(pair(getattr(mixing, name)(alpha)))
  for seed in range(10):
    images, targets = operation(jax.random.key(seed), jnp.ones((BATCH, 4, 4, 1)), EYE)
    np.testing.assert_allclose(images, 1, atol=1e-6)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"alpha": -1}, "takes alpha, a number of at least 0, not -1"),
    ({"alpha": float("nan")}, "takes alpha"),
    ({"alpha": True}, "takes alpha"),
    ({"alpha": 1, "p": 1.1}, "takes p, a number between 0 and 1, not 1.1"),
    ({"alpha": 1, "mode": "pairs"}, "unknown mode of .* Did you mean 'pair'. .*batch, elem, pair"),
    ({"alpha": 1, "mode": None}, "unknown mode"),
  ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name, arguments, message):
  with pytest.raises(UserError, match=message) as e:
    getattr(mixing, name)(**arguments)
  assert name in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parity
def test_boxes_are_torchvisions(monkeypatch):
  torch = parity.torch()
  from torchvision.transforms import v2

  rng = np.random.default_rng(0)
  n, height, width = 300, 13, 20
  ratio = rng.uniform(size=n).astype(np.float32)
  rows, columns = rng.integers(0, height, n), rng.integers(0, width, n)
  masks = np.asarray(mixing.boxes(ratio, rows, columns, height, width))
  transform = v2.CutMix(num_classes=2)
  image = torch.zeros(1, 3, height, width)
  for r, row, column, mask in zip(ratio, rows, columns, masks, strict=True):
    centre = iter([torch.tensor([column]), torch.tensor([row])])  # theirs is drawn along x first
    monkeypatch.setattr(torch, "randint", lambda *_, centre=centre, **__: next(centre))
    transform._dist = type("Fixed", (), {"sample": lambda self, _, r=r: torch.tensor(float(r))})()
    params = transform.make_params([image])
    x1, y1, x2, y2 = params["box"]
    expected = np.zeros((height, width), bool)
    expected[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(1 - mask.mean(), params["lam_adjusted"], atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("mode", mixing.MODES)
def test_mixup_has_timms_distribution(mode):
  """How many are mixed, and the lower half of their own shares, p being 0.3."""
  torch = parity.torch()
  from timm.data.mixup import Mixup

  np.random.seed(0)
  transform = Mixup(mixup_alpha=0.2, prob=0.3, mode=mode, label_smoothing=0, num_classes=BATCH)
  theirs = np.stack(
    [transform(torch.zeros(BATCH, 1, 1, 1), torch.arange(BATCH))[1].numpy() for _ in range(DRAWS)]
  )
  ours = many("mixup", mode, p=0.3)[1]
  shares = []
  for targets in (ours, theirs):
    own = kept(targets)
    if mode == "batch":
      own = own.min(1, keepdims=True)
    elif mode == "pair":  # theirs are the first with the last, and so on
      np.testing.assert_allclose(targets.sum(1), 1, atol=1e-5)
      own = np.where(partners(targets) >= np.arange(BATCH), own, 1)
    shares.append(own[own < 0.5])
  # Half of the ratios; in mode elem ours has an example in eight that is its own partner.
  n = DRAWS * {"batch": 1, "pair": BATCH // 2, "elem": BATCH}[mode]
  fixed = 1 / BATCH if mode == "elem" else 0
  assert near(len(shares[0]), n, 0.15 * (1 - fixed)) and near(len(shares[1]), n, 0.15)
  assert stats.ks_2samp(*shares).pvalue > 1e-4
