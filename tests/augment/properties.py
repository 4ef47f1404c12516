"""What every operation keeps to that works on each example on its own."""

import jax
import jax.numpy as jnp
import numpy as np


def images(batch, height=9, width=8, channels=3, seed=0):
  """8-bit images as float32 in [0, 1], `[batch, height, width, channels]`."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (batch, height, width, channels)).astype(np.float32) / 255


def pair(operation):
  """`operation` as a function (key, images, targets) -> (images, targets); targets may be None."""

  def apply(key, images, targets):
    batch = {"image": jnp.asarray(images), "targets": targets}
    kinds = {"image": "image", "targets": "targets"}
    if targets is None:
      del batch["targets"], kinds["targets"]
    changed = operation(key, batch, kinds)
    return changed["image"], changed.get("targets")

  return apply


def assert_each_on_its_own(operation, varies=True, channels=3):
  """Range, type and shape stay, the key decides, and no example looks at another.

  With `varies`, equal images of a batch come out differently, and so do other keys.
  """
  batch = 24
  equal = np.repeat(images(1, channels=channels), batch, axis=0)
  targets = jnp.ones((batch, 2)) / 2

  @jax.jit
  def function(key, x):
    changed, same = pair(operation)(key, x, targets)
    assert same is targets
    return changed

  out = np.asarray(function(jax.random.key(1), equal))
  assert out.shape == equal.shape and out.dtype == np.float32
  assert out.min() >= 0 and out.max() <= 1
  np.testing.assert_array_equal(out, function(jax.random.key(1), equal))
  kinds = {image.tobytes() for image in out}
  assert len(kinds) > 4 if varies else len(kinds) == 1
  assert varies == (out != function(jax.random.key(2), equal)).any()

  half = batch // 2
  mixed = np.concatenate([equal[:half], images(half, channels=channels, seed=1)])
  other = np.asarray(function(jax.random.key(1), mixed))
  np.testing.assert_array_equal(out[:half], other[:half])
  assert (out[half:] != other[half:]).any()
