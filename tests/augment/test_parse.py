"""The text of an augmentation, and what holds for a whole chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import augment, sharding
from cnnjax.augment import mixing
from cnnjax.errors import UserError

CHAIN = "pad_crop(2) | flip | mixup(0.4) | cutmix(1.0)"


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return (
    rng.random((16, 6, 6, 3), dtype=np.float32),
    np.eye(4, dtype=np.float32)[rng.integers(0, 4, 16)],
  )


@pytest.fixture(scope="module", autouse=True)
def quick_ratio():
  """The beta distribution, which test_mixing.py looks at, takes seconds to compile."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mixing, "_ratio", lambda key, alpha: jax.random.uniform(key))
    yield


@pytest.fixture(scope="module")
def jitted():
  return jax.jit(augment.create(CHAIN))


@pytest.mark.parametrize(
  "spec, names",
  [
    (None, []),
    ("", []),
    ("   ", []),
    ("flip", ["flip"]),
    ("flip()", ["flip"]),
    ("flip(p=0.3)", ["flip"]),
    (" pad_crop( 4 )|flip ", ["pad_crop", "flip"]),
    ("flip | flip", ["flip", "flip"]),
    ("mixup(0.2) | cutmix(alpha=1)", ["mixup", "cutmix"]),
  ],
)
def test_what_can_be_read(spec, names):
  assert [op.__qualname__.split(".")[0] for op in augment.parse(spec)] == names


@pytest.mark.parametrize(
  "spec, near",
  [
    ("flop", "flip"),
    ("padcrop(4)", "pad_crop"),
    ("flip | mix_up(0.2)", "mixup"),
    ("cutmx(1)", "cutmix"),
    ("quux", None),
  ],
)
def test_an_unknown_operation_and_the_nearest(spec, near):
  with pytest.raises(UserError, match="unknown augmentation") as e:
    augment.parse(spec)
  assert near is None or f"Did you mean {near!r}?" in str(e.value)
  assert "Choose from: cutmix, flip, mixup, pad_crop" in str(e.value)


@pytest.mark.parametrize(
  "spec, message",
  [
    ("pad_crop", r"missing a required argument: 'pixels'; it takes pad_crop\(pixels: int\)"),
    ("mixup()", r"it takes mixup\(alpha: float\)"),
    ("cutmix(1, 2)", "too many positional"),
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
  ],
)
def test_garbage(spec):
  with pytest.raises(UserError, match="augment: cannot read"):
    augment.parse(spec)


@pytest.mark.parametrize("spec, expected", [("add(1) | times(2)", 4), ("times(2) | add(1)", 3)])
def test_operations_come_in_order_and_each_has_its_own_key(monkeypatch, spec, expected):
  keys = []

  def operation(function):
    def make(number):
      def apply(key, images, targets):
        keys.append(key)
        return function(images, number), targets

      return apply

    return make

  monkeypatch.setattr(
    augment,
    "OPERATIONS",
    {"add": operation(lambda x, y: x + y), "times": operation(lambda x, y: x * y)},
  )
  images, targets = augment.create(spec)(
    jax.random.key(0), jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1))
  )
  assert images.item() == expected and targets.item() == 1
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 2


def test_no_augmentation_changes_nothing(batch):
  images, targets = augment.create("")(jax.random.key(0), *batch)
  assert images is batch[0] and targets is batch[1]


def test_a_chain_is_deterministic_and_the_same_jitted_and_on_eight_devices(batch, jitted):
  eager = augment.create(CHAIN)(jax.random.key(3), *batch)
  mesh = sharding.make_mesh(8)
  where = sharding.over_batch(mesh)
  over_devices = jitted(jax.random.key(3), *sharding.put(batch, where))
  for other in (jitted(jax.random.key(3), *batch), over_devices):
    for a, b in zip(eager, other, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)
  again = jitted(jax.random.key(3), *batch)
  assert all((a == b).all() for a, b in zip(jitted(jax.random.key(3), *batch), again, strict=True))
  assert (jitted(jax.random.key(4), *batch)[0] != again[0]).any()


def test_a_chain_keeps_range_shape_and_type(batch, jitted):
  images, targets = jitted(jax.random.key(5), *batch)
  assert images.shape == batch[0].shape and images.dtype == targets.dtype == jnp.float32
  assert images.min() >= 0 and images.max() <= 1 + 1e-6
  np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(targets.sum(0), batch[1].sum(0), atol=1e-5)


@pytest.mark.parametrize("spec", ["pad_crop(3)", "flip"])
def test_geometry_on_eight_devices_is_the_same_to_the_bit(batch, spec):
  function = jax.jit(augment.create(spec))
  one = function(jax.random.key(0), *batch)[0]
  where = sharding.over_batch(sharding.make_mesh(8))
  np.testing.assert_array_equal(one, function(jax.random.key(0), *sharding.put(batch, where))[0])


def test_each_example_is_augmented_on_its_own():
  """Equal images in a batch come out differently."""
  images = jnp.broadcast_to(jnp.arange(1.0, 65.0).reshape(1, 8, 8, 1), (16, 8, 8, 1))
  for spec in ("pad_crop(4)", "flip"):
    out, _ = augment.create(spec)(jax.random.key(0), images, jnp.ones((16, 1)))
    assert len({np.asarray(image).tobytes() for image in out}) > (2 if spec != "flip" else 1)
