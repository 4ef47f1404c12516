"""Boxes that move, beside many points of each that are moved one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.augment import boxes, geometry

HEIGHT, WIDTH = 30, 44
CASES = [  # degrees, translate, scale, shear
  (0, (0, 0), 1, (0, 0)),
  (30, (0, 0), 1, (0, 0)),
  (-90, (3, 0), 1, (0, 0)),
  (180, (0, 0), 1.3, (0, 0)),
  (0, (17, -9), 1, (0, 0)),
  (0, (0, 0), 3.0, (0, 0)),
  (0, (0, 0), 0.2, (0, 0)),
  (45, (10, 5), 2.5, (20, -15)),
  (77, (-12, 4), 4.0, (0, 30)),
]


def forward(degrees, translate, scale, shear):
  """Where a point (x, y, 1) goes: torchvision's map written out, in float64."""
  a, sx, sy = np.radians([degrees, *shear])
  turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
  shears = np.array([[1, 0], [-np.tan(sy), 1]]) @ np.array([[1, -np.tan(sx)], [0, 1]])
  return np.column_stack([scale * turn @ shears, translate])


def reference(box, matrix, side=401):
  """(box around what is left, share of it), by a grid of points in the box."""
  y, x = (np.linspace(box[i], box[i + 2], side) for i in (0, 1))
  x, y = ((v - 0.5) * size for v, size in zip(np.meshgrid(x, y), (WIDTH, HEIGHT), strict=True))
  x, y = matrix @ np.stack([x.ravel(), y.ravel(), np.ones(side**2)])
  inside = (np.abs(x) <= WIDTH / 2) & (np.abs(y) <= HEIGHT / 2)
  if not inside.any():
    return np.zeros(4), 0.0
  bounds = lambda x, y: np.array([y.min(), x.min(), y.max(), x.max()])
  area = lambda b: (b[2] - b[0]) * (b[3] - b[1])
  left = bounds(x[inside], y[inside])
  share = area(left) / area(bounds(x, y))
  return left / [HEIGHT, WIDTH, HEIGHT, WIDTH] + 0.5, share


@pytest.fixture(scope="module")
def moved():
  return jax.jit(boxes.moved, static_argnums=3)


@pytest.mark.parametrize("case", CASES)
def test_a_box_is_around_what_is_left_of_it(moved, case):
  rng = np.random.default_rng(0)
  corners = rng.uniform(0, 1, (60, 2, 2))
  found = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
  found[:3] = [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.4, 0.45, 0.6, 0.55]]
  matrices = geometry.inverse_matrices(*case)[None]
  new, valid = moved(found[None], np.ones((1, 60), bool), matrices, (HEIGHT, WIDTH))
  matrix, seen = forward(*case), 0
  for box, ours, kept in zip(found, new[0], valid[0], strict=True):
    expected, share = reference(box, matrix)
    if abs(share - 0.1) < 0.02:
      continue
    assert kept == (share > 0.1)
    pixels = np.abs(ours - (expected if kept else 0)) * [HEIGHT, WIDTH, HEIGHT, WIDTH]
    # Points of the grid are up to so far apart.
    step = case[2] * np.hypot(*(box[2:] - box[:2]) * [HEIGHT, WIDTH]) / 400 * 2
    assert pixels.max() <= step + 0.01
    seen += kept
  assert seen > 3


def test_the_least_that_is_left_is_a_tenth(moved):
  """Of a box of 20 pixels along x, moved to the left."""
  found = jnp.tile(jnp.array([[[0.2, 0.0, 0.8, 20 / WIDTH]]]), (20, 1, 1))
  matrices = geometry.inverse_matrices(translate=(-jnp.arange(20.0), jnp.zeros(20)))
  new, valid = moved(found, jnp.ones((20, 1), bool), matrices, (HEIGHT, WIDTH))
  np.testing.assert_array_equal(valid[:, 0], np.arange(20) <= 18)
  np.testing.assert_allclose(new[:19, 0, 3] * WIDTH, 20 - np.arange(19), atol=2e-3)


def test_none_comes_of_none(moved):
  """Padding stays padding, and a box without an area is none."""
  found = np.array([[[0, 0, 0, 0], [0.1, 0.1, 0.5, 0.5], [0.3, 0.3, 0.3, 0.6]]], np.float32)
  valid = np.array([[False, False, True]])
  new, still = moved(found, valid, geometry.inverse_matrices(10)[None], (HEIGHT, WIDTH))
  assert not still.any() and (new == 0).all()


def test_what_is_covered_is_counted_by_parts_of_pixels():
  """A box of 2.5 pixels along x and 10 along y; the erased band takes 2.3 of the former."""
  erased = np.zeros((2, HEIGHT, WIDTH), bool)
  erased[0, :, :7], erased[1, :, :6] = True, True
  box = np.array([[[0, 4.7 / WIDTH, 10 / HEIGHT, 7.2 / WIDTH]]] * 2, np.float32)
  new, valid = boxes.covered(jnp.asarray(box), jnp.ones((2, 1), bool), jnp.asarray(erased))
  np.testing.assert_array_equal(valid[:, 0], [False, True])
  np.testing.assert_array_equal(new[1], box[1])
