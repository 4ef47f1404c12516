"""Flips, crops and warps: every image that they may give, scipy, and their distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest
import scipy.ndimage
import scipy.stats
from properties import pair

from cnnjax.augment import geometry
from cnnjax.errors import UserError

KEY = jax.random.key(0)
TARGETS = jnp.ones((4, 2)) / 2


def distinct(batch, height, width, channels=1):
  """Images whose pixels are all different, and none of them zero."""
  n = height * width * channels
  image = (np.arange(1, n + 1) / n).reshape(height, width, channels)
  scale = np.linspace(0.5, 1, batch)[:, None, None, None]
  return (image * scale).astype(np.float32)


@pytest.mark.parametrize("operation, axis", [(geometry.flip, 2), (geometry.vertical_flip, 1)])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_flips_mirror_so_many(p, operation, axis):
  images = distinct(4000, 2, 3)
  flipped, targets = pair(operation(p))(KEY, images, TARGETS)
  same = (flipped == images).all((1, 2, 3))
  mirrored = (flipped == np.flip(images, axis)).all((1, 2, 3))
  assert (same ^ mirrored).all(), "an image is neither as it was nor mirrored"
  sigma = np.sqrt(p * (1 - p) / len(images))
  assert abs(mirrored.mean() - p) <= 5 * sigma
  assert flipped.dtype == jnp.float32 and targets is TARGETS


@pytest.mark.smoke
@pytest.mark.parametrize("pixels, shape", [(1, (3, 4, 2)), (2, (4, 3, 1))])
def test_pad_crop_takes_every_crop_equally_often(pixels, shape):
  """Each image on its own: all (2 pixels + 1)^2 corners, rows and columns independent."""
  n = 5000
  images = distinct(n, *shape)
  cropped, targets = jax.jit(pair(geometry.pad_crop(pixels)))(KEY, images, jnp.ones((n, 2)))
  padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
  side, (height, width, _) = 2 * pixels + 1, shape
  counts = np.zeros((side, side), int)
  found = np.zeros(n, int)
  for row in range(side):
    for column in range(side):
      crop = padded[:, row : row + height, column : column + width]
      equal = (np.asarray(cropped) == crop).all((1, 2, 3))
      counts[row, column], found = equal.sum(), found + equal
  assert (found == 1).all(), "an image is not exactly one of its crops"
  share = 1 / side**2
  assert np.abs(counts - n * share).max() < 5 * np.sqrt(n * share * (1 - share))
  assert cropped.dtype == jnp.float32 and (targets == 1).all()


@pytest.mark.parametrize(
  "operation",
  [
    geometry.flip(0),
    geometry.vertical_flip(0),
    geometry.pad_crop(0),
    geometry.random_resized_crop((1, 1), (1, 1)),
    geometry.random_resized_crop((1, 1), (1, 1), "bicubic"),
    geometry.affine(),
    geometry.rotate(0, "nearest"),
    geometry.rotate(0, fill=0.5),
    geometry.zoom(1, 1),
    geometry.translate(0),
    geometry.shear(0),
  ],
)
def test_zero_strength_is_the_identity(operation):
  images = distinct(4, 6, 6, 3)
  np.testing.assert_array_equal(jax.jit(pair(operation))(KEY, images, TARGETS)[0], images)


@pytest.mark.parametrize("operation", [geometry.flip(), geometry.pad_crop(2)])
def test_keys_decide(operation):
  images = distinct(64, 4, 4)
  first, again, other = (
    pair(operation)(jax.random.key(seed), images, TARGETS)[0] for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


@pytest.mark.parametrize(
  "operation",
  [
    geometry.random_resized_crop((0.2, 0.8)),
    geometry.affine(20, 0.3, (0.8, 1.2), (10, 5)),
    geometry.rotate(180, "nearest"),
    geometry.translate(0.5),
  ],
)
def test_each_example_on_its_own(operation):
  properties.assert_each_on_its_own(operation)


@pytest.mark.parametrize(
  "method, theirs", [("nearest", "nearest"), ("bilinear", "linear"), ("bicubic", "cubic")]
)
def test_a_resized_crop_is_the_crop_resized(method, theirs):
  images = properties.images(3, 12, 10)
  boxes = np.array([[3, 2, 5, 7], [11, 0, 1, 10], [2, 9, 8, 1]])
  ours = jax.jit(geometry.resized_crop, static_argnums=5)(images, *boxes.T, method)
  for image, result, (top, left, height, width) in zip(images, ours, boxes, strict=True):
    crop = image[top : top + height, left : left + width]
    expected = jax.image.resize(crop, image.shape, theirs)
    np.testing.assert_allclose(result, np.clip(expected, 0, 1), atol=1e-5)


@pytest.mark.parametrize("scale, ratio", [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.3, 0.5), (0.5, 2.0))])
def test_boxes_have_the_areas_and_ratios_asked_for(scale, ratio):
  size, n = 224, 4000
  boxes = geometry._boxes(KEY, n, size, size, scale, ratio)
  top, left, height, width = (np.asarray(x) for x in boxes)
  assert min(top.min(), left.min()) >= 0
  assert max((top + height).max(), (left + width).max()) <= size
  area, shape = height * width / size**2, width / height
  assert scale[0] - 0.01 < area.min() and area.max() < scale[1] + 0.01
  assert ratio[0] - 0.02 < shape.min() and shape.max() < ratio[1] + 0.03
  if scale[1] == 0.5:  # so small that every draw of these ratios fits: nothing is rejected
    uniform = scipy.stats.uniform
    areas = uniform(scale[0], scale[1] - scale[0])
    assert scipy.stats.kstest(area, areas.cdf).pvalue > 1e-3
    shapes = uniform(np.log(ratio[0]), np.log(ratio[1] / ratio[0]))
    assert scipy.stats.kstest(np.log(shape), shapes.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(area, np.log(shape))[0, 1]) < 5 / np.sqrt(n)
  for start, length in ((top, height), (left, width)):
    free = size - length > 20
    place = (start / (size - length + 1))[free]
    assert scipy.stats.kstest(place, "uniform").pvalue > 1e-4


def test_every_place_of_a_box_is_drawn_equally_often():
  """The last row and column as well, where they are some of few: boxes of 3x4 on 5x8 pixels."""
  n, area, ratio = 6000, (12 / 40,) * 2, (4 / 3,) * 2
  boxes = jax.jit(geometry._boxes, static_argnums=range(1, 6))
  top, left, height, width = boxes(KEY, n, 5, 8, area, ratio)
  assert (height == 3).all() and (width == 4).all()
  counts = np.zeros((3, 5), int)
  np.add.at(counts, (np.asarray(top), np.asarray(left)), 1)
  assert scipy.stats.chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize(
  "height, width, ratio, box",
  [
    (10, 60, (3 / 4, 4 / 3), (0, 23, 10, 13)),
    (60, 10, (3 / 4, 4 / 3), (23, 0, 13, 10)),
    (8, 8, (1.5, 2.0), (1, 0, 5, 8)),
    (8, 8, (0.5, 0.6), (0, 1, 8, 5)),
  ],
)
def test_where_no_box_fits_the_largest_in_the_centre_is_taken(height, width, ratio, box):
  boxes = np.stack(geometry._boxes(KEY, 50, height, width, (1.0, 1.0), ratio), 1)
  assert (boxes == box).all()


@pytest.mark.parametrize("height, width, scale", [(40, 40, (0.9, 1.0)), (20, 64, (0.3, 1.0))])
def test_the_first_draw_of_ten_that_fits_counts(height, width, scale):
  """The rule as torchvision writes it; with these areas few draws fit."""
  rng, boxes, n = np.random.default_rng(0), [], 2000
  for _ in range(n):
    for _ in range(10):
      area = height * width * rng.uniform(*scale)
      ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
      w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
      if w <= width and h <= height:
        break
    else:
      h, w = height, min(width, round(height * 4 / 3))
    boxes.append((h, w))
  ours = geometry._boxes(KEY, n, height, width, scale, (3 / 4, 4 / 3))[2:]
  for found, expected in zip(ours, np.transpose(boxes), strict=True):
    assert scipy.stats.ks_2samp(found, expected).pvalue > 1e-3


def reference_matrix(degrees, translate, scale, shear, center):
  """As torchvision writes it: the forward map, composed and inverted in float64."""
  move = lambda x, y: np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
  a, sx, sy = np.radians([degrees, *shear])
  turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
  shears = np.array([[1, 0, 0], [-np.tan(sy), 1, 0], [0, 0, 1]])
  shears = shears @ np.array([[1, -np.tan(sx), 0], [0, 1, 0], [0, 0, 1]])
  grow = np.diag([scale, scale, 1])
  x, y = center
  return np.linalg.inv(move(*translate) @ move(x, y) @ turn @ grow @ shears @ move(-x, -y))[:2]


CASES = [
  (0, (0, 0), 1, (0, 0), (0, 0)),
  (30, (2, -1), 0.7, (10, -20), (0, 0)),
  (-100, (0, 3), 1.5, (0, 35), (-4, 2)),
]


def test_matrices_undo_the_maps():
  for case in CASES:
    np.testing.assert_allclose(
      geometry.inverse_matrices(*case), reference_matrix(*case), atol=2e-5, err_msg=str(case)
    )


@pytest.mark.parametrize("method, order", [("nearest", 0), ("bilinear", 1)])
@pytest.mark.parametrize("fill", [0.0, 0.6])
def test_a_warp_samples_as_scipy(method, order, fill):
  images = properties.images(len(CASES), 11, 8, 2)
  matrices = np.stack([reference_matrix(*case) for case in CASES])
  ours = np.asarray(geometry.warp(images, jnp.asarray(matrices, jnp.float32), method, fill))
  y, x = np.mgrid[:11, :8]
  points = np.stack([(x - 3.5).ravel(), (y - 5).ravel(), np.ones(88)])
  for image, result, matrix in zip(images, ours, matrices, strict=True):
    place = np.add((matrix @ points)[::-1], [[5], [3.5]])
    for channel in range(2):
      expected = scipy.ndimage.map_coordinates(
        image[..., channel], place, order=order, mode="grid-constant", cval=fill
      )
      np.testing.assert_allclose(result[..., channel].ravel(), expected, atol=1e-4)


def test_a_positive_angle_and_move_go_clockwise_right_and_down():
  images = properties.images(1, 7, 7)
  turned = geometry.warp(images, geometry.inverse_matrices(90)[None])
  np.testing.assert_allclose(turned, np.rot90(images, -1, (1, 2)), atol=1e-5)
  moved = geometry.warp(images, geometry.inverse_matrices(translate=(2, 3))[None])
  np.testing.assert_array_equal(moved[:, 3:, 2:], images[:, :-3, :-2])
  assert (moved[:, :3] == 0).all() and (moved[:, :, :2] == 0).all()


@pytest.fixture
def drawn(monkeypatch):
  """The angle, translation, zoom and shear of 4000 examples of 20x10, from their matrices."""
  monkeypatch.setattr(geometry, "warp", lambda images, matrices, *rest: matrices)

  def draw(operation):
    inverse = np.asarray(pair(operation)(KEY, jnp.zeros((4000, 20, 10, 1)), None)[0], np.float64)
    bottom = np.broadcast_to([0.0, 0.0, 1.0], (4000, 1, 3))
    forward = np.linalg.inv(np.concatenate([inverse, bottom], 1))
    zoom = np.sqrt(np.linalg.det(forward[:, :2, :2]))
    angle = np.degrees(np.arctan2(forward[:, 1, 0], forward[:, 0, 0]))  # where y is not sheared
    across = forward[:, 0, 1] * np.cos(np.radians(angle)) + forward[:, 1, 1] * np.sin(
      np.radians(angle)
    )
    return {
      "angle": angle,
      "x": forward[:, 0, 2],
      "y": forward[:, 1, 2],
      "zoom": zoom,
      "shear": np.degrees(np.arctan(-across / zoom)),
    }

  return draw


def assert_uniform(values, low, high):
  assert low - 1e-3 <= values.min() and values.max() <= high + 1e-3
  if low == high:
    return
  assert scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
  "operation, limits",
  [
    (geometry.rotate(30), {"angle": (-30, 30)}),
    (geometry.zoom(0.5, 1.25), {"zoom": (0.5, 1.25)}),
    (geometry.shear(20), {"shear": (-20, 20)}),
    (
      geometry.affine(15, 0, (0.8, 1.0), (10, 0)),
      {"angle": (-15, 15), "zoom": (0.8, 1.0), "shear": (-10, 10)},
    ),
  ],
)
def test_strengths_are_uniform(drawn, operation, limits):
  found = drawn(operation)
  nothing = {"angle": (0, 0), "x": (0, 0), "y": (0, 0), "zoom": (1, 1), "shear": (0, 0)}
  for name, (low, high) in {**nothing, **limits}.items():
    assert_uniform(found[name], low, high)
  varying = np.stack([found[name] for name in limits])
  off_diagonal = np.corrcoef(varying) - np.eye(len(limits)) if len(limits) > 1 else np.zeros(1)
  assert np.abs(off_diagonal).max() < 5 / np.sqrt(4000), "two strengths are drawn together"


@pytest.mark.parametrize("fraction, limits", [(0.2, (2, 4)), ((0.5, 0.1), (5, 2))])
def test_translations_are_whole_pixels_of_a_share_of_the_size(drawn, fraction, limits):
  found = drawn(geometry.translate(fraction))
  for name, limit in zip("xy", limits, strict=True):
    values = found[name]
    np.testing.assert_allclose(values, np.round(values), atol=1e-4)
    counts = np.unique(np.round(values), return_counts=True)
    np.testing.assert_array_equal(counts[0], np.arange(-limit, limit + 1))
    inner = counts[1][1:-1]  # the outermost are reached by half as much
    assert np.abs(inner - 4000 / (2 * limit)).max() < 5 * np.sqrt(4000 / (2 * limit))


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: geometry.vertical_flip(2), "vertical_flip takes a probability"),
    (lambda: geometry.random_resized_crop((0.08, 1.5)), "takes scale, two numbers .*0.0001 and 1"),
    (lambda: geometry.random_resized_crop((0.0, 1.0)), "takes scale"),
    (lambda: geometry.random_resized_crop((0.9, 0.5)), r"\(lowest, highest\)"),
    (lambda: geometry.random_resized_crop(0.5), "takes scale"),
    (lambda: geometry.random_resized_crop(ratio=(-1, 2)), "takes ratio"),
    (lambda: geometry.random_resized_crop(interpolation="linear"), "Did you mean 'bilinear'"),
    (lambda: geometry.random_resized_crop(interpolation=["bilinear"]), "unknown interpolation"),
    (lambda: geometry.rotate(-10), "rotate takes degrees, a number between 0 and 360, not -10"),
    (lambda: geometry.rotate(float("nan")), "rotate takes degrees"),
    (lambda: geometry.rotate(True), "rotate takes degrees"),
    (lambda: geometry.rotate(10, "bicubic"), "Choose from: bilinear, nearest"),
    (lambda: geometry.rotate(10, fill=255), "rotate takes fill, a number between 0 and 1"),
    (lambda: geometry.zoom(0, 1), "zoom takes the lowest and the highest zoom"),
    (lambda: geometry.zoom(1.2, 0.8), "zoom takes"),
    (lambda: geometry.translate(1.5), "translate takes a fraction of the size"),
    (lambda: geometry.translate((0.1, 0.2, 0.3)), "a number or two"),
    (lambda: geometry.shear(90), "shear takes shear in degrees"),
    (lambda: geometry.affine(translate="a"), "affine takes a fraction"),
  ],
)
def test_wrong_values(make, message):
  with pytest.raises(UserError, match=message) as e:
    make()
  assert "\n" not in str(e.value)
