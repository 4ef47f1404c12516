"""Colours against numpy, scipy and the standard library; their strengths by distribution."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest
import scipy.ndimage
import scipy.stats
from properties import pair

from cnnjax.augment import color
from cnnjax.errors import UserError

KEY = jax.random.key(0)


def images(batch=4, **options):
  return properties.images(batch, **options)


def spread(values):
  return jnp.asarray(values)[:, None, None, None]


def run(operation, x, key=KEY):
  return np.asarray(jax.jit(lambda key, x: pair(operation)(key, x, None)[0])(key, x))


@pytest.mark.parametrize(
  "operation, varies",
  [
    (color.brightness(0.5), True),
    (color.contrast(0.5), True),
    (color.saturation(0.5), True),
    (color.hue(0.3), True),
    (color.sharpness(0.9), True),
    (color.color_jitter(0.4, 0.4, 0.4, 0.1), True),
    (color.gaussian_noise(0.2), True),
    (color.gaussian_blur(3, (0.2, 2.0)), True),
    (color.grayscale(), False),
    (color.solarize(0.5), False),
    (color.posterize(3), False),
    (color.equalize(), False),
    (color.autocontrast(), False),
    (color.invert(), False),
  ],
)
def test_each_example_on_its_own(operation, varies):
  properties.assert_each_on_its_own(operation, varies)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
  "operation",
  [
    color.brightness(0),
    color.contrast(0),
    color.saturation(0),
    color.hue(0),
    color.sharpness(0),
    color.color_jitter(),
    color.gaussian_noise(0),
    color.gaussian_blur(1),
    color.gaussian_blur(5, (0, 0)),
    color.posterize(8),
  ],
)
def test_zero_strength_is_the_identity(operation, channels):
  x = images(channels=channels)
  np.testing.assert_allclose(run(operation, x), x, atol=1e-6)


@pytest.mark.parametrize("operation", [color.saturation(0.9), color.hue(0.5), color.grayscale()])
def test_grey_images_stay(operation):
  for x in (images(channels=1), np.repeat(images(channels=1), 3, axis=-1)):
    np.testing.assert_allclose(run(operation, x), x, atol=1e-6)


def test_other_channels_are_refused_where_colour_counts_and_taken_elsewhere():
  x = jnp.asarray(images(channels=4))
  for operation in (color.contrast(1), color.saturation(1), color.hue(0.5), color.grayscale()):
    with pytest.raises(UserError, match=r"1 or 3 channels \(grey or RGB\), not 4"):
      pair(operation)(KEY, x, None)
  for operation in (color.brightness(1), color.equalize(), color.sharpness(1), color.invert()):
    assert run(operation, x).shape == x.shape


FACTORS = {
  "brightness": (color.brightness, lambda out, x: out[:, 0, 0, 0] / x[:, 0, 0, 0]),
  "contrast": (color.contrast, lambda out, x: np.ptp(out, (1, 2, 3)) / np.ptp(x, (1, 2, 3))),
  "saturation": (
    color.saturation,
    lambda out, x: np.ptp(out, 3)[:, 0, 0] / np.ptp(x, 3)[:, 0, 0],
  ),
  "sharpness": (  # at the one inner pixel: 1 - f of the way to the smoothed value
    color.sharpness,
    lambda out, x: 1 - (out - x)[:, 1, 1, 0] / (color.smooth(jnp.asarray(x)) - x)[:, 1, 1, 0],
  ),
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("strength, low, high", [(0.4, 0.6, 1.4), (1.2, 0.0, 2.2)])
def test_factors_are_uniform(name, strength, low, high):
  operation, measure = FACTORS[name]
  x = np.full((4000, 3, 3, 3), 0.4, np.float32)
  x[:, :, :2] = [0.35, 0.4, 0.4]
  x[:, 1, 1] = 0.45
  if name == "saturation":
    x[:] = [0.4, 0.35, 0.42]
  factors = measure(run(operation(strength), x), x)
  assert low - 1e-3 < factors.min() and factors.max() < high + 1e-3
  assert scipy.stats.kstest(factors, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_hues_are_uniform():
  x = np.broadcast_to(np.float32([0.6, 0.3, 0.3]), (3000, 1, 1, 3))
  out = run(color.hue(0.2), x)[:, 0, 0]
  hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in out])
  hues = (hues + 0.5) % 1 - 0.5
  assert scipy.stats.kstest(hues, scipy.stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3


def test_hue_is_that_of_the_standard_library():
  rng = np.random.default_rng(0)
  pixels = rng.random((300, 3)).astype(np.float32)
  pixels[::7, 1] = pixels[::7, 0]  # ties
  pixels[:3] = [[0, 0, 0], [1, 1, 1], [1, 0, 0]]
  shifts = rng.uniform(-0.5, 0.5, 300)
  expected = []
  for pixel, shift in zip(pixels, shifts, strict=True):
    h, s, v = colorsys.rgb_to_hsv(*pixel)
    expected.append(colorsys.hsv_to_rgb((h + shift) % 1, s, v))
  ours = color.adjust_hue(jnp.asarray(pixels)[:, None, None], spread(shifts))
  np.testing.assert_allclose(ours[:, 0, 0], expected, atol=2e-6)


def test_the_jitter_comes_in_every_order(monkeypatch):
  """Each operation appends a digit; one order for all of a batch."""
  for digit, name in enumerate(("brightness", "contrast", "saturation", "hue"), 1):
    monkeypatch.setattr(color, f"adjust_{name}", lambda x, drawn, digit=digit: 10 * x + digit)
  jitter = color.color_jitter(0.1, 0.1, 0.1, 0.1)
  keys = jax.random.split(KEY, 2400)
  out = jax.jit(jax.vmap(lambda key: pair(jitter)(key, jnp.zeros((2, 1, 1, 3)), None)[0]))(keys)
  out = np.asarray(out).reshape(2400, -1)
  assert (out == out[:, :1]).all()
  orders, counts = np.unique(out[:, 0], return_counts=True)
  every = sorted(int("".join(order)) for order in itertools.permutations("1234"))
  np.testing.assert_array_equal(orders, every)
  assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_jitter_of_one_strength_is_that_operation_alone():
  x = images(6)
  out = run(color.color_jitter(hue=0.3), x)
  np.testing.assert_allclose(out.max(-1), x.max(-1), atol=1e-6)  # the value
  np.testing.assert_allclose(out.min(-1), x.min(-1), atol=1e-6)  # and the chroma stay
  assert np.abs(out - x).max() > 0.1


def test_saturation_and_grey_weigh_the_channels():
  x = images()
  grey = x @ np.float32([0.299, 0.587, 0.114])
  for channel in range(3):
    np.testing.assert_allclose(run(color.grayscale(), x)[..., channel], grey, atol=1e-6)
  np.testing.assert_allclose(
    color.adjust_saturation(x, spread([0.5, 1.5, 0.0, 1.0])),
    np.clip(
      grey[..., None]
      + np.reshape([0.5, 1.5, 0.0, 1.0], (4, 1, 1, 1)) * (x - grey[..., None]), 0, 1
    ),
    atol=1e-6,
  )  # fmt: skip
  means = np.asarray(color.adjust_contrast(x, 0.0))
  np.testing.assert_allclose(means[:, 0, 0, 0], grey.mean((1, 2)), atol=1e-6)
  assert (np.ptp(means, (1, 2, 3)) == 0).all()


@pytest.mark.parametrize("height, width", [(9, 8), (3, 3), (2, 5), (1, 1)])
def test_sharpness_moves_away_from_the_smoothed_image(height, width):
  x = images(3, height=height, width=width)
  smooth = x.copy()
  if min(height, width) > 2:
    weights = np.ones((1, 3, 3, 1)) / 13
    weights[0, 1, 1] = 5 / 13
    smooth[:, 1:-1, 1:-1] = scipy.ndimage.convolve(x, weights)[:, 1:-1, 1:-1]
  np.testing.assert_allclose(color.smooth(jnp.asarray(x)), smooth, atol=1e-6)
  ours = color.adjust_sharpness(jnp.asarray(x), spread([0.0, 0.6, 1.9]))
  factor = np.reshape([0.0, 0.6, 1.9], (3, 1, 1, 1))
  np.testing.assert_allclose(ours, np.clip(factor * x + (1 - factor) * smooth, 0, 1), atol=1e-6)


def test_blur_is_a_gaussian_of_each_examples_own_width(monkeypatch):
  x, sigmas = images(3), [0.3, 1.0, 2.5]
  ours = np.asarray(color.blurred(jnp.asarray(x), jnp.array(sigmas), 5))
  for image, blurred, sigma in zip(x, ours, sigmas, strict=True):
    weights = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    expected = image
    for axis in (0, 1):
      expected = scipy.ndimage.convolve1d(expected, weights / weights.sum(), axis, mode="mirror")
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
  monkeypatch.setattr(color, "blurred", lambda x, sigma, size: sigma)
  drawn = pair(color.gaussian_blur(5, (0.5, 1.5)))(KEY, jnp.zeros((3000, 1, 1, 1)), None)[0]
  assert scipy.stats.kstest(np.asarray(drawn), scipy.stats.uniform(0.5, 1).cdf).pvalue > 1e-3


def test_noise_is_normal_and_clipped():
  noise = run(color.gaussian_noise(0.1), np.full((20, 10, 10, 3), 0.5, np.float32)) - 0.5
  assert scipy.stats.kstest(noise.ravel(), scipy.stats.norm(0, 0.1).cdf).pvalue > 1e-3
  black = run(color.gaussian_noise(0.1), np.zeros((20, 10, 10, 3), np.float32))
  assert abs((black == 0).mean() - 0.5) < 0.05


@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_solarize(threshold):
  x = images()
  np.testing.assert_allclose(
    run(color.solarize(threshold), x), np.where(x >= np.float32(threshold), 1 - x, x)
  )


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_posterize_keeps_the_first_bits(bits):
  x = images()
  levels = np.round(x * 255).astype(np.uint8)
  expected = (levels >> (8 - bits) << (8 - bits)) / 255
  np.testing.assert_allclose(run(color.posterize(bits), x), expected, atol=1e-7)


def test_autocontrast_and_invert():
  x = images() / 2 + 0.2
  x[0, ..., 1] = 0.3  # a channel of one value stays
  out = run(color.autocontrast(), x)
  low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
  expected = (x - low) / np.where(high > low, high - low, 1)
  expected[0, ..., 1] = 0.3
  np.testing.assert_allclose(out, expected, atol=1e-6)
  np.testing.assert_allclose(run(color.invert(), x), 1 - x)


def equalized(channel):
  """Pillow's ImageOps.equalize, step by step."""
  counts = np.bincount(channel.ravel(), minlength=256)
  present = counts[counts > 0]
  step = (present.sum() - present[-1]) // 255
  if len(present) <= 1 or step == 0:
    return channel
  table, n = [], step // 2
  for count in counts:
    table.append(n // step)
    n += count
  return np.minimum(table, 255)[channel]


def test_equalize():
  rng = np.random.default_rng(0)
  x = rng.normal(100, 30, (4, 30, 40, 3)).clip(0, 255).astype(np.uint8)
  x[1] = 77  # one value
  x[2, ..., 0] = np.where(rng.random((30, 40)) < 0.5, 10, 250)  # two
  x[3, 2:] = x[3, 0, 0]  # too few others for a step
  expected = [[equalized(x[i, ..., c]) for c in range(3)] for i in range(4)]
  out = run(color.equalize(), x.astype(np.float32) / 255)
  np.testing.assert_allclose(out, np.moveaxis(expected, 1, -1) / 255, atol=1e-6)
  assert (out[1] == out[1, 0, 0]).all() and np.ptp(out[0]) == 1


def test_tables_give_what_the_operations_give():
  """A ramp of all levels through an operation is its table, for each image and channel."""
  x = images()
  levels = color.to_levels(jnp.asarray(x))
  np.testing.assert_array_equal(levels, np.round(255 * x))
  counts = np.asarray(color.histogram(levels))
  for i, c in itertools.product(range(4), range(3)):
    expected = np.bincount(np.asarray(levels)[i, ..., c].ravel(), minlength=256)
    np.testing.assert_array_equal(counts[i, :, 0, c], expected)
  low, high = color.extremes(x)
  table = color.stretch(color.RAMP, low, high)
  np.testing.assert_allclose(color.look_up(table, levels), color.stretch(x, low, high), atol=1e-6)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: color.brightness(-0.1), "brightness takes strength, a number of at least 0, not -0.1"),
    (lambda: color.contrast("1"), "contrast takes strength"),
    (lambda: color.saturation(None), "saturation takes strength"),
    (lambda: color.sharpness(float("inf")), "sharpness takes strength"),
    (lambda: color.hue(0.6), "hue takes strength, a number between 0 and 0.5, not 0.6"),
    (lambda: color.color_jitter(0.4, -1), "color_jitter takes contrast"),
    (lambda: color.color_jitter(hue=1), "color_jitter takes hue"),
    (lambda: color.gaussian_noise(-1), "gaussian_noise takes std"),
    (lambda: color.gaussian_blur(4), "kernel_size, an odd number, not 4"),
    (lambda: color.gaussian_blur(0), "gaussian_blur takes kernel_size, an integer of at least 1"),
    (lambda: color.gaussian_blur(3.0), "gaussian_blur takes kernel_size"),
    (lambda: color.gaussian_blur(3, (2, 1)), "gaussian_blur takes sigma"),
    (lambda: color.gaussian_blur(3, (-1, 1)), "gaussian_blur takes sigma"),
    (lambda: color.solarize(128), "solarize takes threshold, a number between 0 and 1, not 128"),
    (lambda: color.posterize(0), "posterize takes bits, an integer between 1 and 8, not 0"),
    (lambda: color.posterize(4.0), "posterize takes bits"),
  ],
)
def test_wrong_values(make, message):
  with pytest.raises(UserError, match=message) as e:
    make()
  assert "\n" not in str(e.value)
