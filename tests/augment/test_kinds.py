"""Masks and boxes beside their images: each operation acts on all of them by one draw.

The image tells where each of its pixels comes from: its channels are x, y and 1. What the mask and
the boxes ought to be follows from that.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest

from cnnjax import augment
from cnnjax.augment import color, geometry, policies
from cnnjax.errors import UserError
from cnnjax.runtime import sharding

KEY = jax.random.key(4)
BATCH, HEIGHT, WIDTH = 16, 40, 52
IGNORED = 255
KINDS = {"image": "image", "mask": "mask", "box": "boxes", "label": "label", "value": "value"}
BOXES = ((4, 6, 16, 20), (22, 8, 34, 18), (10, 30, 30, 46))  # ymin, xmin, ymax, xmax in pixels
MOVING = (
  "flip",
  "vertical_flip",
  "pad_crop(9)",
  "random_resized_crop((0.2, 0.9))",
  "rotate(60)",
  "zoom(0.5, 1.6)",
  "translate(0.4)",
  "shear((20, 10))",
  "affine(30, 0.2, (0.7, 1.3), 15)",
)
IMAGE, MASK, BOX = {"image": "image"}, {"seg": "mask"}, {"objects": "boxes"}
ERASING = ("cutout(25)", "random_erasing(1.0, (0.2, 0.5))", "grid_mask((6, 9), rotate=45)")


def scene(dtype=np.uint8):
  """A batch of one image with three rectangles and the boxes around them; the fourth is none."""
  y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
  image = np.stack([x / WIDTH, y / HEIGHT, np.ones_like(x)], -1).astype(np.float32)
  mask = np.zeros((HEIGHT, WIDTH), dtype)
  boxes = np.zeros((4, 4), np.float32)
  for i, (top, left, bottom, right) in enumerate(BOXES):
    mask[top:bottom, left:right] = i + 1
    boxes[i] = top / HEIGHT, left / WIDTH, bottom / HEIGHT, right / WIDTH
  one = {
    "image": image,
    "mask": mask,
    "box": boxes,
    "box_label": np.arange(4, dtype=np.int32),
    "box_valid": np.array([True, True, True, False]),
    "label": np.int32(1),
    "value": np.float32(0.5),
  }
  return {name: np.stack([array] * BATCH) for name, array in one.items()}


@functools.cache
def changed(spec):
  """What `spec` makes of the scene, as numpy, in one program."""
  operation = augment.create(spec)
  function = jax.jit(lambda key, batch: operation(key, batch, KINDS))
  found = jax.device_get(function(KEY, scene()))
  assert function._cache_size() == 1
  return found


def assert_mask_follows_image(found):
  """Each pixel has the class of the place that the image says it shows."""
  image, mask = found["image"], found["mask"]
  inside, outside = image[..., 2] > 0.9999, image[..., 2] == 0
  assert inside.mean() > 0.2
  assert (mask[outside] == IGNORED).all()
  x, y = image[..., 0] * WIDTH - 0.5, image[..., 1] * HEIGHT - 0.5
  off = lambda place: np.abs(place - np.floor(place) - 0.5)
  known = inside & (off(x) > 0.01) & (off(y) > 0.01)  # between two pixels either is the nearest
  row, column = np.rint(y[known]).astype(int), np.rint(x[known]).astype(int)
  np.testing.assert_array_equal(mask[known], scene()["mask"][0][row, column])


def assert_boxes_follow_mask(found):
  """Each is around what the mask shows of its rectangle, within a pixel."""
  boxes, valid = found["box"], found["box_valid"]
  assert boxes.min() >= 0 and boxes.max() <= 1 and not valid[:, 3].any()
  assert (boxes[~valid] == 0).all()
  for i in range(BATCH):
    for j, (top, left, bottom, right) in enumerate(BOXES):
      rows, columns = np.nonzero(found["mask"][i] == j + 1)
      if not valid[i, j]:
        assert len(rows) < 0.3 * (bottom - top) * (right - left)
        continue
      pixels = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
      apart = np.abs(boxes[i, j] * [HEIGHT, WIDTH, HEIGHT, WIDTH] - pixels)
      assert apart.max() < 1.01, (i, j)


@pytest.mark.parametrize("spec", MOVING)
def test_mask_and_boxes_move_as_the_image(spec):
  found, before = changed(spec), scene()
  assert_mask_follows_image(found)
  assert_boxes_follow_mask(found)
  assert len({mask.tobytes() for mask in found["mask"]}) > 1  # and not one way for all
  for name in ("box_label", "label", "value"):
    np.testing.assert_array_equal(found[name], before[name])
  for name, array in before.items():
    assert found[name].dtype == array.dtype and found[name].shape == array.shape


@pytest.mark.parametrize(
  "spec", ["translate(0.4)", "pad_crop(9)", "random_resized_crop((0.2, 0.9))"]
)
def test_boxes_leave_the_image(spec):
  """Some are cut, and some are gone: the case above has seen them."""
  found = changed(spec)
  rectangles = [(found["mask"] == j + 1).any((1, 2)) for j in range(3)]
  assert 0 < found["box_valid"][:, :3].sum() < 3 * BATCH or spec == "pad_crop(9)"
  touch = (found["box"] == 0) | (found["box"] == 1)
  assert (touch.any(-1) & found["box_valid"]).any()
  assert (np.stack(rectangles, 1) >= found["box_valid"][:, :3]).all()


@pytest.mark.parametrize(
  "make",
  [
    lambda: policies.rand_augment(1, 20),  # more would round the places of a mask more than once
    lambda: policies.trivial_augment(),
  ],
)
def test_mask_and_boxes_move_as_the_image_of_a_policy(monkeypatch, make):
  """Without the colours, which would hide where a pixel comes from."""
  monkeypatch.setattr(
    policies,
    "layer",
    lambda images, operation, magnitude, *_: geometry.warp(
      images, policies.warps(operation, magnitude, *images.shape[1:3])
    ),
  )
  found = jax.device_get(jax.jit(lambda batch: make()(KEY, batch, KINDS))(scene()))
  assert_mask_follows_image(found)
  assert_boxes_follow_mask(found)


def test_layers_follow_one_another():
  """What the first moves out of the image does not come back."""
  away = (jnp.array([policies.OPERATIONS.index("TranslateX")]), jnp.array([30.0]))
  back = away[0], -away[1]
  operation = policies._policy(
    lambda key, shape: [(a[0], a[1]) for a in (away, back)], "nearest", 0
  )
  batch = {name: array[:1] for name, array in scene().items()}
  found = jax.jit(lambda batch: operation(KEY, batch, KINDS))(batch)
  assert (found["mask"][0, :, WIDTH - 30 :] == IGNORED).all()
  np.testing.assert_array_equal(
    found["mask"][0, :, : WIDTH - 30], batch["mask"][0, :, : WIDTH - 30]
  )
  np.testing.assert_array_equal(found["box_valid"][0], [True, True, False, False])
  np.testing.assert_allclose(found["box"][0, :2], batch["box"][0, :2], atol=1e-4)


@pytest.mark.parametrize("spec", ERASING)
def test_erased_pixels_do_not_count_and_boxes_stay_that_are_seen(spec):
  found, before = changed(spec), scene()
  erased = (found["image"] == 0.5).all(-1)
  assert 0.05 < erased.mean() < 0.9
  np.testing.assert_array_equal(found["mask"] == IGNORED, erased)
  np.testing.assert_array_equal(found["mask"][~erased], before["mask"][~erased])
  for j, (top, left, bottom, right) in enumerate(BOXES):
    seen, area = (~erased[:, top:bottom, left:right]).sum((1, 2)), (bottom - top) * (right - left)
    np.testing.assert_array_equal(found["box_valid"][:, j], 10 * seen >= area)
    valid = found["box_valid"][:, j]
    np.testing.assert_array_equal(found["box"][valid, j], before["box"][valid, j])
    assert (found["box"][~valid, j] == 0).all()
  assert not found["box_valid"][:, 3].any()
  assert 0 < found["box_valid"].sum() < 3 * BATCH or spec.startswith("grid")


@pytest.mark.parametrize(
  "spec", ["flip", "pad_crop(3)", "rotate(30)", "zoom(0.5, 0.9)", "cutout(9)"]
)
def test_masks_of_16_bits_ignore_their_largest_value(spec):
  batch = {"image": scene()["image"][:4], "mask": scene(np.uint16)["mask"][:4] * 300}
  operation, kinds = augment.create(spec), {"image": "image", "mask": "mask"}
  found = np.asarray(jax.jit(lambda batch: operation(KEY, batch, kinds)["mask"])(batch))
  assert found.dtype == np.uint16
  classes = {0, 300, 600, 900}
  assert set(np.unique(found)) - classes == (set() if spec == "flip" else {65535})


@pytest.mark.parametrize("spec", ["rotate(60, p=0.5)", "pad_crop(9, p=0.5)", "cutout(25, p=0.5)"])
def test_p_is_of_all_kinds_of_an_example_together(spec):
  found, before = changed(spec), scene()
  axes = {"image": (1, 2, 3), "mask": (1, 2)}
  moved = {name: (found[name] != before[name]).any(axis) for name, axis in axes.items()}
  assert 0 < moved["image"].sum() < BATCH
  np.testing.assert_array_equal(moved["image"], moved["mask"])
  boxes = (np.abs(found["box"] - before["box"]) > 1e-4).any((1, 2))
  assert (boxes <= moved["image"]).all()
  if not spec.startswith("cutout"):
    np.testing.assert_array_equal(boxes, moved["image"])


@pytest.mark.parametrize("spec", ["affine(30, 0.2, (0.7, 1.3), 15)", "random_erasing(1.0)"])
def test_no_example_looks_at_another(spec):
  batch, half = scene(), BATCH // 2
  operation = augment.create(spec)
  function = jax.jit(lambda batch: operation(KEY, batch, KINDS))
  other = {name: array.copy() for name, array in batch.items()}
  other["mask"][half:] = np.random.default_rng(0).integers(0, 4, other["mask"][half:].shape)
  other["box"][half:, :3] *= 0.5
  other["image"][half:] *= 0.5
  found, among = jax.device_get(function(batch)), jax.device_get(function(other))
  for name, array in found.items():
    np.testing.assert_array_equal(array[:half], among[name][:half])
  assert (found["mask"][half:] != among["mask"][half:]).any()
  assert (found["box"][half:] != among["box"][half:]).any()


def test_fields_do_not_change_what_is_drawn():
  """The image is the same with and without a mask and boxes, to the bit."""
  spec = "pad_crop(4) | cutout(9, p=0.5) | choice(flip | translate(0.2, 'nearest'), vertical_flip)"
  operation, batch = augment.create(spec), scene()
  both = [IMAGE, KINDS]
  run = jax.jit(lambda batch: [operation(KEY, batch, kinds)["image"] for kinds in both])
  alone, among = run(batch)
  np.testing.assert_array_equal(alone, among)
  assert (alone != batch["image"]).any()


def test_one_warp_serves_all_fields(monkeypatch):
  """The matrices are made once, and a second key or a second batch compiles nothing."""
  calls, make = [], geometry.inverse_matrices
  monkeypatch.setattr(
    geometry, "inverse_matrices", lambda *args, **kwargs: calls.append(1) or make(*args, **kwargs)
  )
  operation = augment.create("rotate(20)")
  function = jax.jit(lambda key, batch: operation(key, batch, KINDS))
  for seed in (0, 1):
    function(jax.random.key(seed), scene())
  assert len(calls) == 1 and function._cache_size() == 1


def test_two_images_of_an_example_move_together():
  """Such as a photo and the depth of its pixels."""
  image = scene()["image"]
  kinds = {"depth": "image", "image": "image"}
  batch = {"image": image, "depth": image[..., :1]}
  operation = augment.create("rotate(60) | flip")
  found = jax.jit(lambda batch: operation(KEY, batch, kinds))(batch)
  np.testing.assert_allclose(found["depth"], found["image"][..., :1], atol=1e-6)


COLOURS = [name for name, make in augment.OPERATIONS.items() if make.__module__ == color.__name__]
ARGUMENTS = {"solarize": "0.5", "posterize": "3", "gaussian_blur": "3", "color_jitter": "0.4, 0.4"}
WITHOUT = ("grayscale", "equalize", "autocontrast", "invert")


@pytest.mark.parametrize("name", COLOURS)
def test_colour_and_noise_touch_images_alone(name):
  batch = {name: jnp.asarray(array) for name, array in scene().items()}
  given = "" if name in WITHOUT else ARGUMENTS.get(name, "0.4")
  found = augment.create(f"{name}({given})")(KEY, batch, KINDS)
  assert (found.pop("image") != batch.pop("image")).any()
  assert all(found[name] is batch[name] for name in batch)


def test_cutmix_pastes_the_mask_with_the_image():
  rng = np.random.default_rng(0)
  mask = rng.integers(0, 200, (BATCH, 9, 7)).astype(np.uint8)
  batch = {"image": np.float32(mask[..., None]) / 255, "mask": mask, "targets": np.eye(BATCH)}
  kinds = {"image": "image", "mask": "mask", "targets": "targets"}
  operation = augment.create("cutmix(1.0, 'elem')")
  found = jax.jit(lambda batch: operation(KEY, batch, kinds))(batch)
  np.testing.assert_array_equal(found["mask"], np.rint(found["image"][..., 0] * 255))
  assert (found["mask"] != mask).any()


def test_devices_do_not_wait_for_one_another():
  operation = augment.create("random_resized_crop((0.5, 1)) | rotate(20) | cutout(9)")
  function = jax.jit(lambda batch: operation(KEY, batch, KINDS))
  placed = sharding.put(scene(), sharding.over_batch(sharding.make_mesh(8)))
  compiled = function.lower(placed).compile()
  assert not any(
    word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all", "permute(")
  )
  one, eight = function(scene()), compiled(placed)
  for name in scene():
    np.testing.assert_allclose(one[name], eight[name], atol=1e-5)


@pytest.mark.parametrize(
  "spec, kinds, message",
  [
    ("mixup(0.2)", MASK, r"mixup .* field 'seg' of kind mask, only on image and targets: take cut"),
    ("cutmix(1.0)", BOX, r"cutmix .* 'objects' of kind boxes, only on image and mask and targets"),
    ("flip | mixup(0.2)", BOX, "mixup cannot act .* 'objects' of kind boxes.* leave mixup out"),
    ("flip | augmix(p=0.5)", MASK, "augmix cannot act .* 'seg' .* take rand_augment or trivial_au"),
    ("augmix", BOX, "augmix cannot act .* 'objects' of kind boxes"),
    ("choice(flip, flip | cutmix(1))", BOX, "cutmix cannot act"),
    ("mixup(0.2)", {"y": "value"}, "mixup cannot act on the field 'y' of kind value"),
    ("cutmix(1)", {"label": "label"}, "'label' of kind label.* targets that a task makes of it"),
  ],
)
def test_a_kind_that_an_operation_cannot_act_on(spec, kinds, message):
  with pytest.raises(UserError, match=message) as e:
    augment.check(spec, IMAGE | kinds)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "spec", ["mixup(0.2) | cutmix(1)", "choice(mixup(0.8), cutmix(1.0)) | augmix", None]
)
def test_image_and_targets_go_through_all(spec):
  augment.check(spec, {"image": "image", "targets": "targets"}, 3)


@pytest.mark.parametrize("name", [*COLOURS, "rand_augment", "augmix", "cutout"])
def test_images_of_other_bands(name):
  """Those that ask for a grey value or a hue are refused by name, and the others do."""
  given = "" if name in (*WITHOUT, "rand_augment", "augmix") else ARGUMENTS.get(name, "0.4")
  given = "4, fill=(0.1, 0.2, 0.3)" if name == "cutout" else given
  grey = {"contrast", "saturation", "hue", "color_jitter", "grayscale", "rand_augment", "augmix"}
  for channels in (2, 4, 13):
    if name not in grey | {"cutout"}:
      augment.check(f"{name}({given})", IMAGE, channels)
      continue
    with pytest.raises(UserError, match=f"augment: {name} takes images of .*not {channels} ") as e:
      augment.check(f"flip | {name}({given})", IMAGE, channels)
    assert "\n" not in str(e.value)
  augment.check(f"{name}({given})", IMAGE, 3)
  augment.check("color_jitter(0.4)", IMAGE, 4)  # brightness alone


def test_bands_of_several_images():
  kinds = {"image": "image", "depth": "image"}
  augment.check("contrast(0.4)", kinds, {"image": 3, "depth": 1})
  with pytest.raises(UserError, match="not 2 as the field 'depth' has"):
    augment.check("contrast(0.4)", kinds, {"image": 3, "depth": 2})


@pytest.mark.parametrize(
  "batch, kinds, message",
  [
    ({"image": np.zeros((2, 4, 4, 3), np.uint8)}, IMAGE, "'image' is uint8; .* float32 in"),
    (
      {"image": np.zeros((2, 4, 4, 3), np.float32), "seg": np.zeros((2, 4, 4), np.int32)},
      IMAGE | MASK,
      "'seg' is int32; a mask is uint8 or uint16",
    ),
    (
      {"image": np.zeros((2, 4, 4, 3), np.float32), "seg": np.zeros((2, 2, 4), np.uint8)},
      IMAGE | MASK,
      "flip acts on fields of one size; 'seg' is 2 x 4 pixels, and 'image' 4 x 4",
    ),
    ({"y": np.zeros((2, 3), np.float32)}, {"y": "targets"}, r"needs a field .* has y \(targets\)"),
  ],
)
def test_arrays_that_are_none_of_their_kind(batch, kinds, message):
  with pytest.raises(UserError, match=message) as e:
    augment.create("flip")(KEY, batch, kinds)
  assert "\n" not in str(e.value)


def test_colour_does_not_ask_for_masks_of_one_size():
  batch = {"image": properties.images(2), "seg": np.zeros((2, 2, 4), np.uint8)}
  assert augment.create("invert")(KEY, batch, IMAGE | MASK)["seg"] is batch["seg"]
