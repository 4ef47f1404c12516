"""Policies: what they draw, how often and how strong, and that a layer is its operations."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest
import scipy.stats
from properties import pair

from cnnjax import augment
from cnnjax.augment import color, geometry, policies
from cnnjax.errors import UserError
from cnnjax.runtime import sharding

KEY = jax.random.key(0)
N = 6000
INDEX = {name: i for i, name in enumerate(policies.OPERATIONS)}
IDENTITY = INDEX["Identity"]
DATA_DRIVEN = {"AutoContrast", "Equalize", "Invert"}  # these have no magnitude


@pytest.fixture(scope="module")
def layer():
  """policies.layer on a batch of 30, compiled once for each interpolation."""
  compiled = jax.jit(policies.layer, static_argnums=3)

  def run(images, operation, magnitude, interpolation="nearest", fill=0.0):
    assert images.shape == (30, 24, 23, 3)
    arguments = np.int32(operation), np.float32(magnitude)
    return np.asarray(compiled(np.float32(images), *arguments, interpolation, fill))

  return run


@pytest.fixture
def drawn(monkeypatch):
  """What a policy draws in each layer, for N examples: [(operation, magnitude)], as numpy."""

  def draw(policy):
    layers = []

    def record(images, operation, magnitude, interpolation, fill):
      layers.append((operation, magnitude))
      return images

    monkeypatch.setattr(policies, "layer", record)
    # These take seconds to compile, and nothing that is looked at here depends on them.
    monkeypatch.setattr(jax.random, "beta", lambda key, a, b, shape: jnp.ones(shape))
    monkeypatch.setattr(jax.random, "dirichlet", lambda key, alpha, shape: jnp.ones((N, 1)))
    images = jnp.zeros((N, 16, 16, 1))
    return jax.tree.map(np.asarray, jax.jit(lambda: pair(policy)(KEY, images, None) and layers)())

  return draw


def assert_shares(found, expected):
  """Counts of `found` are near the shares `expected`, by value; all others are 0."""
  values, counts = np.unique(found, return_counts=True)
  assert set(values.tolist()) == {value for value, share in expected.items() if share > 0}
  for value, count in zip(values.tolist(), counts, strict=True):
    share = expected[value]
    assert abs(count - len(found) * share) <= 5 * np.sqrt(len(found) * share * (1 - share)), value


def assert_magnitudes(operation, magnitude, table, bins):
  """Each operation has the magnitudes of these bins alike, and either sign where it has two."""
  for name, index in INDEX.items():
    chosen = magnitude[operation == index]
    if not len(chosen):
      continue
    values = np.float32(table[index, bins])
    expected = collections.Counter()
    for value in np.concatenate([values, -values]) if name in policies.SIGNED else values:
      expected[float(value) + 0.0] += 1
    total = sum(expected.values())
    assert_shares(chosen + 0.0, {value: n / total for value, n in expected.items()})


@pytest.mark.parametrize("num_ops, magnitude, bins", [(2, 9, 31), (3, 4, 5), (0, 9, 31)])
def test_rand_augment_draws_14_alike_at_one_magnitude(drawn, num_ops, magnitude, bins):
  layers = drawn(policies.rand_augment(num_ops, magnitude, bins))
  assert len(layers) == num_ops
  table = policies.magnitudes("rand_augment", bins, 16, 16)
  for operation, strength in layers:
    assert_shares(operation, {i: 1 / 14 for name, i in INDEX.items() if name != "Invert"})
    assert_magnitudes(operation, strength, table, [magnitude])
  for first, second in itertools.pairwise(layers):
    assert abs((first[0] == second[0]).mean() - 1 / 14) < 0.02, "the layers draw the same"


def test_trivial_augment_draws_one_of_14_and_any_magnitude(drawn):
  [(operation, strength)] = drawn(policies.trivial_augment(4))
  assert_shares(operation, {i: 1 / 14 for name, i in INDEX.items() if name != "Invert"})
  table = policies.magnitudes("trivial_augment", 4, 16, 16)
  assert_magnitudes(operation, strength, table, [0, 1, 2, 3])


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_auto_augment_draws_pairs_with_their_chances(drawn, policy):
  (first, first_strength), (second, second_strength) = drawn(policies.auto_augment(policy))
  both = collections.Counter()
  for (a, p, _), (b, q, _) in policies.POLICIES[policy]:
    for one, share in ((INDEX[a], p), (IDENTITY, 1 - p)):
      for other, other_share in ((INDEX[b], q), (IDENTITY, 1 - q)):
        both[one * 100 + other] += share * other_share / 25
  assert_shares(first * 100 + second, {k: v for k, v in both.items() if v > 1e-9})
  table = policies.magnitudes("rand_augment", 10, 16, 16)
  for place, operation, strength in ((0, first, first_strength), (1, second, second_strength)):
    for name in policies.SIGNED | {"Solarize", "Posterize"}:
      allowed = {
        float(table[INDEX[name], bin_])
        for pair in policies.POLICIES[policy]
        for op, p, bin_ in [pair[place]]
        if op == name and p > 0
      }
      found = strength[operation == INDEX[name]]
      assert set(np.abs(found).tolist()) == allowed, name
      if name in policies.SIGNED and max(allowed, default=0) > 0:
        found = found[found != 0]
        assert abs((found < 0).mean() - 0.5) < 2.5 / np.sqrt(len(found))


@pytest.mark.parametrize("all_ops", [True, False])
def test_augmix_draws_chains_of_one_to_three(drawn, all_ops):
  layers = drawn(policies.augmix(severity=3, width=2, all_ops=all_ops))
  operations = np.stack([operation for operation, _ in layers])
  depth = (operations != IDENTITY).sum(0)  # which no chain draws: the rest of a short one
  assert operations.shape == (3, 2 * N)
  assert_shares(depth, {1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
  assert (np.sort(operations == IDENTITY, axis=0) == (operations == IDENTITY)).all()
  left_out = {"Identity", "Invert", *(() if all_ops else policies.ENHANCEMENTS)}
  rest = {i: 1 / (15 - len(left_out)) for name, i in INDEX.items() if name not in left_out}
  assert_shares(operations[0], rest)
  table = policies.magnitudes("augmix", 10, 16, 16)
  assert_magnitudes(operations[0], layers[0][1], table, [0, 1, 2])


def test_augmix_of_a_given_depth(drawn):
  layers = drawn(policies.augmix(width=1, depth=4))
  assert len(layers) == 4 and all((operation != IDENTITY).all() for operation, _ in layers)


def test_augmix_mixes_by_dirichlet_and_beta(monkeypatch):
  """Chain j is 1 in channel j alone, and the image 0: the result is the shares of the chains."""
  n, alpha = 2000, 0.4
  monkeypatch.setattr(
    policies, "layer", lambda images, *_: jnp.tile(jnp.eye(3), (n, 1))[:, None, None]
  )
  mixed = jax.jit(lambda images: pair(policies.augmix(alpha=alpha))(KEY, images, None)[0])
  out = np.asarray(mixed(jnp.zeros((n, 1, 1, 3)))[:, 0, 0])
  assert out.min() >= 0
  total = out.sum(1)
  assert scipy.stats.kstest(total, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3
  out, total = out[total > 1e-4], total[total > 1e-4]
  for share in (out / total[:, None]).T:
    assert scipy.stats.kstest(share, scipy.stats.beta(alpha, 2 * alpha).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(share, total)[0, 1]) < 5 / np.sqrt(len(total))


def test_magnitudes():
  """A few of torchvision's; test_parity.py compares all."""
  table = policies.magnitudes("rand_augment", 31, 331, 662)
  assert table.shape == (15, 31)
  row = lambda name: table[INDEX[name]]
  np.testing.assert_allclose(row("ShearX")[[0, 10, 30]], [0, 0.1, 0.3], rtol=1e-6)
  np.testing.assert_allclose(row("TranslateX")[-1], 300)
  np.testing.assert_allclose(row("TranslateY")[-1], 150)
  np.testing.assert_allclose(row("Posterize")[[0, 9, 15, 30]], [8, 7, 6, 4])
  np.testing.assert_allclose(row("Solarize")[[0, 15, 30]], [1, 0.5, 0])
  for name in ("Identity", *DATA_DRIVEN):
    assert (row(name) == 0).all()
  assert policies.magnitudes("trivial_augment", 31, 9, 9)[INDEX["TranslateX"], -1] == 32
  assert policies.magnitudes("augmix", 10, 9, 9)[INDEX["Posterize"], 0] == 4


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_bin_0_is_the_identity(layer, interpolation):
  names = [name for name in policies.OPERATIONS if name not in DATA_DRIVEN]
  operation = np.resize([INDEX[name] for name in names], 30)
  images = properties.images(30, height=24, width=23)
  images = np.minimum(images, 254 / 255)  # solarize inverts pure white even there
  magnitude = policies.magnitudes("rand_augment", 31, 24, 23)[:, 0]
  out = layer(images, operation, magnitude[operation], interpolation)
  np.testing.assert_allclose(out, images, atol=1e-6)


def expected_layer(name, x, m):
  """The operations one at a time, from geometry.py and color.py, which have their own tests."""
  height, width = x.shape[1:3]
  warped = lambda *matrix: geometry.warp(x, jnp.array([matrix]).reshape(1, 2, 3), "nearest")
  middle_x, middle_y, turn = (width - 1) / 2, (height - 1) / 2, np.radians(m)
  cos, sin = np.cos(turn), np.sin(turn)
  levels = color.to_levels(x)
  return {
    "Identity": lambda: x,
    # About the corner, half a pixel beyond the first: the row y has its centre at y + 1/2.
    "ShearX": lambda: warped(1, m, m * (middle_y + 0.5), 0, 1, 0),
    "ShearY": lambda: warped(1, 0, 0, m, 1, m * (middle_x + 0.5)),
    "TranslateX": lambda: warped(1, 0, -int(m), 0, 1, 0),
    "TranslateY": lambda: warped(1, 0, 0, 0, 1, -int(m)),
    "Rotate": lambda: warped(cos, -sin, 0, sin, cos, 0),
    "Brightness": lambda: color.adjust_brightness(x, 1 + m),
    "Color": lambda: color.adjust_saturation(x, 1 + m),
    "Contrast": lambda: color.adjust_contrast(x, 1 + m),
    "Sharpness": lambda: color.adjust_sharpness(x, 1 + m),
    "Posterize": lambda: color.posterize_to(x, int(m)),
    "Solarize": lambda: color.solarize_from(x, m),
    "AutoContrast": lambda: color.stretch(x, *color.extremes(x)),
    "Equalize": lambda: color.look_up(color.equalizing_table(levels), levels),
    "Invert": lambda: 1 - x,
  }[name]()


def test_a_layer_does_to_each_example_its_own_operation(layer):
  """All 15 twice in one batch, at two magnitudes, in both directions."""
  images = np.round(180 * properties.images(30, height=24, width=23) + 40) / np.float32(255)
  table = policies.magnitudes("rand_augment", 31, 24, 23)
  operation = np.tile(np.arange(15), 2)
  magnitude = np.concatenate([table[:, 25], table[:, 13]])
  signed = np.array([name in policies.SIGNED for name in policies.OPERATIONS] * 2)
  magnitude[15:] *= np.where(signed[15:], -1, 1)
  out = layer(images, operation, magnitude)
  for i in range(30):
    name, strength = policies.OPERATIONS[operation[i]], float(magnitude[i])
    expected = expected_layer(name, jnp.asarray(images[i : i + 1]), strength)
    wrong = np.abs(out[i] - expected[0]).max(-1) > 1e-5
    assert wrong.mean() < 0.02, f"{name}({strength}): {wrong.mean():.0%} of the pixels"
    assert name == "Identity" or (np.abs(out[i] - images[i]) > 1e-3).any(), name


def test_fill_comes_in_from_outside(layer):
  moved = np.full(30, INDEX["TranslateX"])
  out = layer(np.zeros((30, 24, 23, 3)), moved, np.full(30, 3.0), fill=0.5)
  assert (out[:, :, :3] == 0.5).all() and (out[:, :, 3:] == 0).all()


@pytest.mark.parametrize(
  "policy, channels",
  [
    (policies.rand_augment(1), 3),
    (policies.trivial_augment(interpolation="bilinear", fill=0.5), 1),
    (policies.auto_augment("cifar10"), 3),
    (policies.augmix(width=2, depth=1), 3),
  ],
)
def test_each_example_on_its_own(policy, channels):
  properties.assert_each_on_its_own(policy, channels=channels)


def test_two_channels_are_refused():
  with pytest.raises(UserError, match="not 2"):
    jax.eval_shape(pair(policies.rand_augment()), KEY, jnp.zeros((2, 8, 8, 2)), None)


def test_devices_do_not_wait_for_one_another():
  """Each example stays on its device: tables and warps are gathers over the batch."""
  images, targets = properties.images(16), np.ones((16, 2), np.float32)
  function = jax.jit(pair(augment.create("rand_augment(num_ops=1)")))
  where = sharding.over_batch(sharding.make_mesh(8))
  placed = sharding.put((images, targets), where)
  compiled = function.lower(KEY, *placed).compile()
  assert not any(
    word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all", "permute(")
  )
  np.testing.assert_allclose(
    compiled(KEY, *placed)[0], function(KEY, images, targets)[0], atol=1e-6
  )


@pytest.mark.parametrize(
  "spec",
  [
    "rand_augment",
    "rand_augment(2, 9, p=0.5)",
    "auto_augment('svhn')",
    "trivial_augment",
    "augmix(3, all_ops=False)",
    "vertical_flip | random_resized_crop((0.2, 1)) | rotate(15) | zoom(0.8, 1.2, fill=0.5)",
    "translate(0.1) | shear(10, p=0.3) | affine(10, (0.1, 0.2), (0.9, 1.1), (5, 5), 'nearest')",
    "brightness(0.4) | contrast(0.4) | saturation(0.4) | hue(0.1) | color_jitter(0.4, p=0.8)",
    "grayscale(p=0.2) | gaussian_noise(0.1) | gaussian_blur(3) | solarize(0.5, p=0.2)",
    "posterize(4) | equalize | autocontrast | sharpness(0.5) | invert(p=0.1)",
  ],
)
def test_all_can_be_written_in_a_config(spec):
  assert augment.parse(spec)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: policies.auto_augment("cifar"), "unknown policy.*Did you mean 'cifar10'"),
    (lambda: policies.auto_augment(10), "Choose from: cifar10, imagenet, svhn"),
    (lambda: policies.rand_augment(magnitude=31), "magnitude, an integer between 0 and 30, not 31"),
    (lambda: policies.rand_augment(2, 10, 10), "between 0 and 9, not 10"),
    (lambda: policies.rand_augment(magnitude=9.5), "rand_augment takes magnitude"),
    (lambda: policies.rand_augment(-1), "rand_augment takes num_ops"),
    (lambda: policies.rand_augment(num_magnitude_bins=1), "rand_augment takes num_magnitude_bins"),
    (lambda: policies.rand_augment(interpolation="cubic"), "unknown interpolation"),
    (lambda: policies.trivial_augment(0), "trivial_augment takes num_magnitude_bins"),
    (lambda: policies.trivial_augment(fill=128), "trivial_augment takes fill"),
    (lambda: policies.augmix(0), "augmix takes severity, an integer between 1 and 10, not 0"),
    (lambda: policies.augmix(width=0), "augmix takes width"),
    (lambda: policies.augmix(depth=0), "augmix takes depth"),
    (lambda: policies.augmix(alpha=0), "augmix takes alpha"),
    (lambda: policies.augmix(all_ops=3), "augmix takes all_ops"),
  ],
)
def test_wrong_values(make, message):
  with pytest.raises(UserError, match=message) as e:
    make()
  assert "\n" not in str(e.value)
