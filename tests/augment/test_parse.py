"""The text of an augmentation, and what holds for a whole chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import pair

from cnnjax import augment, register
from cnnjax.augment import geometry
from cnnjax.errors import UserError
from cnnjax.runtime import sharding

CHAIN = (
  "pad_crop(2) | flip | cutout(3, p=0.5) | "
  "choice(mixup(0.4, mode='pair'), flip | cutmix(1.0), weights=(1, 2))"
)


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return (
    rng.random((16, 6, 6, 3), dtype=np.float32),
    np.eye(4, dtype=np.float32)[rng.integers(0, 4, 16)],
  )


@pytest.fixture(scope="module")
def jitted():
  return jax.jit(pair(augment.create(CHAIN)))


@pytest.mark.parametrize(
  "spec, names",
  [
    (None, []),
    ("", []),
    (" \n ", []),
    ("flip", ["flip"]),
    ("flip()", ["flip"]),
    ("flip(p=0.3)", ["flip(p=0.3)"]),
    (" pad_crop( 4 )|flip ", ["pad_crop(4)", "flip"]),
    ("\n  pad_crop(4)\n  | flip\n", ["pad_crop(4)", "flip"]),
    ("flip | flip | flip", ["flip", "flip", "flip"]),
    ("flip | (pad_crop(4) | flip)", ["flip", "pad_crop(4)", "flip"]),
    ("pad_crop(4, p=0.5)", ["pad_crop(4, p=0.5)"]),
    ("cutout(2, fill=(0.1, 0.2, 0.3))", ["cutout(2, fill=(0.1, 0.2, 0.3))"]),
  ],
)
def test_what_can_be_read(spec, names, batch):
  """As many operations, each of which does what it does alone."""
  read = augment.parse(spec)
  assert len(read) == len(names)
  for operation, name in zip(read, names, strict=True):
    (alone,) = augment.parse(name)
    for a, b in zip(*(pair(f)(jax.random.key(1), *batch) for f in (operation, alone)), strict=True):
      np.testing.assert_array_equal(a, b)


def test_pad_crop_and_flip_have_the_keys_of_their_places(batch):
  """So that a run of before goes on as it began."""
  key = jax.random.key(9)
  images, targets = pair(geometry.pad_crop(2))(jax.random.fold_in(key, 0), *batch)
  images, targets = pair(geometry.flip())(jax.random.fold_in(key, 1), images, targets)
  found, found_targets = pair(augment.create("pad_crop(2) | flip"))(key, *batch)
  np.testing.assert_array_equal(found, images)
  np.testing.assert_array_equal(found_targets, targets)


@pytest.mark.parametrize(
  "spec, near",
  [
    ("flop", "flip"),
    ("padcrop(4)", "pad_crop"),
    ("flip | mix_up(0.2)", "mixup"),
    ("cutmx(1)", "cutmix"),
    ("quux", None),
    ("choice(flip, chioce(mixpu(0.2)))", "choice"),
    ("choice(flip, choice(mixpu(0.2)))", "mixup"),
  ],
)
def test_an_unknown_operation_and_the_nearest(spec, near):
  with pytest.raises(UserError, match="unknown augmentation") as e:
    augment.parse(spec)
  assert near is None or f"Did you mean {near!r}?" in str(e.value)
  choices = str(e.value).split("Choose from: ")[1].split(", ")
  assert len(augment.OPERATIONS) > 60 or choices == sorted(augment.OPERATIONS)


@pytest.mark.parametrize(
  "spec, message",
  [
    ("pad_crop", r"missing a required argument: 'pixels'; write pad_crop\(pixels: int, \*, p:"),
    ("mixup()", r"write mixup\(alpha: float, mode: str = 'batch'"),
    ("cutmix(1, 'pair', 1, 2)", "too many positional"),
    ("flip(q=1)", "unexpected keyword argument 'q'"),
    ("flip(0.5, p=0.5)", "multiple values"),
    ("flip(**{'p': 1, 3: 4})", "flip"),
  ],
)
def test_wrong_arguments(spec, message):
  with pytest.raises(UserError, match=message):
    augment.parse(spec)


@pytest.mark.parametrize(
  "spec",
  [
    "flip(-0.1)",
    "flip(1.5)",
    "flip('a')",
    "flip(None)",
    "pad_crop(-1)",
    "pad_crop(1.5)",
    "pad_crop(True)",
    "pad_crop('4')",
    "mixup(-0.2)",
    "mixup(1e400)",
    "mixup(None)",
    "mixup(True)",
    "cutmix(-1)",
    "cutmix([1])",
    "pad_crop(4, p=-1)",
    "cutout(3, p='a')",
    "choice(flip, p=2)",
  ],
)
def test_wrong_values(spec):
  with pytest.raises(UserError, match=f"augment: {spec.split('(')[0]} takes"):
    augment.parse(spec)


@pytest.mark.parametrize(
  "spec",
  [
    "flip(",
    "flip flip",
    "4",
    "'flip'",
    "geometry.flip",
    "flip(x)",
    "flip(1+'a')",
    "flip(*[1])",
    "flip(open('/etc/passwd'))",
    "a.b(1)",
    "lambda: 0",
    "flip(0.5); flip",
    "[flip]",
    "flip, flip",
    "flip(\0)",
    "flip({[]: 1})",
    "\u00e9\u00e9(",
    "pad_crop(4)) | flip",
    "flip | | flip",
    "flip |",
    "flip & flip",
    "flip(flip)",
    "choice(flip, weights=flip)",
    "(" * 1000,
    "flip | " * 20000 + "flip,",
  ],
)
def test_garbage(spec):
  with pytest.raises(UserError, match="augment: cannot read"):
    augment.parse(spec)


@pytest.mark.parametrize("spec, expected", [("add(1) | times(2)", 4), ("times(2) | add(1)", 3)])
def test_operations_come_in_order_and_each_has_its_own_key(own_registry, spec, expected):
  keys = []

  def operation(function):
    def make(number):
      draw = lambda key, shape: keys.append(key)
      return augment.of_values(draw, lambda images, _: function(images, number))

    return make

  register("augmentation", "add")(operation(lambda x, y: x + y))
  register("augmentation", "times")(operation(lambda x, y: x * y))
  images, targets = pair(augment.create(spec))(
    jax.random.key(0), jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1))
  )
  assert images.item() == expected and targets.item() == 1
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 2


def test_no_augmentation_changes_nothing(batch):
  images, targets = pair(augment.create(""))(jax.random.key(0), *batch)
  assert (images == batch[0]).all() and targets is batch[1]


def test_a_chain_is_deterministic_and_the_same_on_eight_devices(batch, jitted):
  images, targets = jitted(jax.random.key(3), *batch)
  where = sharding.over_batch(sharding.make_mesh(8))
  over_devices = jitted(jax.random.key(3), *sharding.put(batch, where))
  for a, b in zip((images, targets), over_devices, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  again = jitted(jax.random.key(3), *batch)
  assert (again[0] == images).all() and (again[1] == targets).all()
  assert (jitted(jax.random.key(4), *batch)[0] != images).any()


def test_a_chain_is_the_same_jitted():
  operation = pair(augment.create("flip | choice(flip | flip, pad_crop(1)) | cutout(2, p=0.5)"))
  images, targets = np.random.default_rng(0).random((4, 6, 6, 1), dtype=np.float32), np.eye(4)
  arguments = jax.random.key(0), images, np.float32(targets)
  for a, b in zip(operation(*arguments), jax.jit(operation)(*arguments), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_chain_keeps_range_shape_and_type(batch, jitted):
  images, targets = jitted(jax.random.key(5), *batch)
  assert images.shape == batch[0].shape and images.dtype == targets.dtype == jnp.float32
  assert images.min() >= 0 and images.max() <= 1 + 1e-6
  np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(targets.sum(0), batch[1].sum(0), atol=1e-5)


@pytest.mark.parametrize("spec", ["pad_crop(3)", "flip"])
def test_geometry_on_eight_devices_is_the_same_to_the_bit(batch, spec):
  function = jax.jit(pair(augment.create(spec)))
  one = function(jax.random.key(0), *batch)[0]
  where = sharding.over_batch(sharding.make_mesh(8))
  np.testing.assert_array_equal(one, function(jax.random.key(0), *sharding.put(batch, where))[0])


def test_each_example_is_augmented_on_its_own():
  """Equal images in a batch come out differently."""
  images = jnp.broadcast_to(jnp.arange(1.0, 65.0).reshape(1, 8, 8, 1), (16, 8, 8, 1))
  for spec in ("pad_crop(4)", "flip"):
    out, _ = pair(augment.create(spec))(jax.random.key(0), images, jnp.ones((16, 1)))
    assert len({np.asarray(image).tobytes() for image in out}) > (2 if spec != "flip" else 1)
