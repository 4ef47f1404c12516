"""Colours, warps, crops and policies beside Pillow's and torchvision's, in 8-bit levels."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import scipy.stats
from properties import pair

from cnnjax import augment
from cnnjax.augment import boxes, color, geometry, policies

pytestmark = pytest.mark.parity
HEIGHT, WIDTH = 30, 26
SPACES = {
  "rand_augment": ("RandAugment", 31),
  "trivial_augment": ("TrivialAugmentWide", 31),
  "augmix": ("AugMix", 10),
}


def photos():
  """Three 8-bit images `[3, height, width, 3]`: waves in colour, noise, and a narrow range."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:HEIGHT, :WIDTH] / 8
  waves = np.stack([np.sin(x + y), np.cos(x - 2 * y), np.sin(3 * x) * np.cos(y)], -1)
  noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3))
  images = np.stack([127 + 127 * waves, noise, 90 + noise / 4])
  return images.astype(np.uint8)


IMAGES = photos()
GREYS = IMAGES[..., :1]


def floats(images):
  return jnp.asarray(images, jnp.float32) / 255


def spread(value):
  return jnp.full((len(IMAGES), 1, 1, 1), value)


def transforms():
  """torchvision.transforms.v2, beside any build of torch."""
  parity.torch()
  import torchvision.transforms.v2

  return torchvision.transforms.v2


def tensors(images):
  """As torch has them, `[batch, channels, height, width]`."""
  return parity.torch().tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())


def back(tensor):
  return tensor.numpy().transpose(0, 2, 3, 1)


def pillow(change, images):
  from PIL import Image

  one = lambda image: np.asarray(change(Image.fromarray(image.squeeze()))).reshape(image.shape)
  return np.stack([one(image) for image in images])


def enhance(name, factor):
  def change(image):
    from PIL import ImageEnhance

    return getattr(ImageEnhance, name)(image).enhance(factor)

  return change


def image_op(name, *args):
  def change(image):
    from PIL import ImageOps

    return getattr(ImageOps, name)(image, *args)

  return change


def fixed(operation):
  return lambda x: pair(operation)(jax.random.key(0), x, None)[0]


@pytest.mark.parametrize("images", [IMAGES, GREYS], ids=["rgb", "grey"])
@pytest.mark.parametrize(
  "ours, theirs, levels",
  [
    *(
      (lambda x, adjust=adjust, f=f: adjust(x, spread(f)), enhance(name, f), levels)
      for f in (0.0, 0.3, 1.0, 1.7)
      for name, adjust, levels in (
        ("Brightness", color.adjust_brightness, 1),
        ("Contrast", color.adjust_contrast, 1.5),  # Pillow rounds the mean
        ("Color", color.adjust_saturation, 2),  # and grey: here by up to 0.7 levels more
        ("Sharpness", color.adjust_sharpness, 1.5),  # and the smoothed image
      )
    ),
    *((fixed(color.solarize(t / 255)), image_op("solarize", t), 0.01) for t in (0, 100, 255)),
    *((fixed(color.posterize(b)), image_op("posterize", b), 0.01) for b in (1, 4, 8)),
    (fixed(color.equalize()), image_op("equalize"), 0.01),
    (fixed(color.autocontrast()), image_op("autocontrast"), 1),  # Pillow rounds down
    (fixed(color.invert()), image_op("invert"), 0.01),
    (
      fixed(color.grayscale()),
      lambda image: image.convert("L").convert(image.mode),
      0.6,  # Pillow rounds
    ),
  ],
)
def test_colours_are_pillows(ours, theirs, levels, images):
  ours = 255 * np.asarray(ours(floats(images)))
  assert np.abs(ours - pillow(theirs, images)).max() <= levels + 1e-3


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.05, 0.4])
def test_hue_is_torchvisions(shift):
  theirs = transforms().functional.adjust_hue(tensors(floats(IMAGES)), shift)
  np.testing.assert_allclose(
    color.adjust_hue(floats(IMAGES), spread(shift)), back(theirs), atol=1e-5
  )


@pytest.mark.parametrize("kernel_size, sigma", [(3, 0.1), (5, 0.8), (9, 2.0)])
def test_blur_is_torchvisions(kernel_size, sigma):
  theirs = transforms().functional.gaussian_blur(tensors(floats(IMAGES)), kernel_size, sigma)
  ours = color.blurred(floats(IMAGES), jnp.full(len(IMAGES), sigma), kernel_size)
  np.testing.assert_allclose(ours, back(theirs), atol=1e-5)


def close_but_for(ours, theirs, share, atol):
  """Nearest sampling at the middle between two pixels falls to either side."""
  wrong = np.abs(np.asarray(ours) - theirs).max(-1) > atol
  assert wrong.mean() <= share, f"{wrong.mean():.1%} of the pixels differ"


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize(
  "degrees, translate, scale, shear",
  [
    (0, (0, 0), 1, (0, 0)),
    (33, (0, 0), 1, (0, 0)),
    (-170, (0, 0), 1, (0, 0)),
    (0, (5, -3), 1, (0, 0)),
    (0, (0, 0), 1.27, (0, 0)),
    (0, (0, 0), 0.6, (0, 0)),
    (0, (0, 0), 1, (20, 0)),
    (0, (0, 0), 1, (0, -15)),
    (25, (2, 4), 0.8, (10, -12)),
  ],
)
def test_warps_are_torchvisions(degrees, translate, scale, shear, interpolation):
  v2 = transforms()
  mode = v2.InterpolationMode(interpolation)
  matrices = geometry.inverse_matrices(degrees, translate, scale, shear)
  matrices = jnp.broadcast_to(matrices, (len(IMAGES), 2, 3))
  theirs = v2.functional.affine(
    tensors(floats(IMAGES)), degrees, list(translate), scale, list(shear), interpolation=mode
  )
  ours = geometry.warp(floats(IMAGES), matrices, interpolation)
  share = 0.01 if interpolation == "nearest" else 0
  close_but_for(ours, back(theirs), share, 1e-4)


@pytest.mark.parametrize("degrees", [90, 7.5, -40])
def test_rotation_turns_as_torchvisions_rotate(degrees):
  """Which is the other way round than its affine, and the way of the policies."""
  v2 = transforms()
  theirs = v2.functional.rotate(
    tensors(floats(IMAGES)), degrees, interpolation=v2.InterpolationMode.BILINEAR
  )
  matrices = jnp.broadcast_to(geometry.inverse_matrices(-degrees), (len(IMAGES), 2, 3))
  np.testing.assert_allclose(geometry.warp(floats(IMAGES), matrices), back(theirs), atol=1e-4)


def test_a_fill_is_torchvisions():
  v2 = transforms()
  theirs = v2.functional.affine(tensors(floats(IMAGES)), 30.0, [0, 0], 0.7, [0.0, 0.0], fill=0.3)
  matrices = jnp.broadcast_to(geometry.inverse_matrices(30, (0, 0), 0.7), (len(IMAGES), 2, 3))
  ours = geometry.warp(floats(IMAGES), matrices, "nearest", 0.3)
  close_but_for(ours, back(theirs), 0.01, 1e-4)


@pytest.mark.parametrize("interpolation", ["nearest-exact", "bilinear", "bicubic"])
def test_resized_crops_are_torchvisions(interpolation):
  v2 = transforms()
  boxes = [(0, 0, HEIGHT, WIDTH), (3, 5, 11, 7), (29, 0, 1, 26)]  # top, left, height, width
  theirs = [
    v2.functional.resized_crop(
      tensors(floats(IMAGES[i : i + 1])), *box, size=[HEIGHT, WIDTH],
      interpolation=v2.InterpolationMode(interpolation), antialias=True,
    )
    for i, box in enumerate(boxes)
  ]  # fmt: skip
  theirs = np.clip(np.concatenate([back(x) for x in theirs]), 0, 1)
  ours = geometry.resized_crop(
    floats(IMAGES), *jnp.array(boxes).T, interpolation.removesuffix("-exact")
  )
  close_but_for(ours, theirs, 0.01 if interpolation == "nearest-exact" else 0, 1e-5)


@pytest.mark.parametrize("height, width", [(32, 32), (20, 64), (64, 11)])
def test_boxes_are_drawn_as_torchvisions(height, width):
  """Long images fall back to the centre in some of the draws or in all."""
  scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
  torch, v2 = parity.torch(), transforms()
  torch.manual_seed(0)
  transform, image = v2.RandomResizedCrop(8, scale, ratio), torch.zeros(3, height, width)
  draws = [transform.make_params([image]) for _ in range(3000)]
  theirs = np.array([[d[k] for k in ("top", "left", "height", "width")] for d in draws])
  ours = np.stack(geometry._boxes(jax.random.key(0), 3000, height, width, scale, ratio), 1)
  for column in range(4):
    assert scipy.stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
  area = [boxes[:, 2] * boxes[:, 3] for boxes in (ours, theirs)]
  assert scipy.stats.ks_2samp(*area).pvalue > 1e-3


@pytest.mark.parametrize("space", SPACES)
def test_magnitudes_are_torchvisions(space):
  name, bins = SPACES[space]
  theirs = getattr(transforms(), name)._AUGMENTATION_SPACE
  ours = policies.magnitudes(space, bins, HEIGHT, WIDTH)
  excluded = {"Identity", "Invert"} if space == "augmix" else {"Invert"}
  assert set(theirs) == set(policies.OPERATIONS) - excluded
  for operation, (make, signed) in theirs.items():
    values = make(bins, HEIGHT, WIDTH)
    values = np.zeros(bins) if values is None else values.numpy()
    row = ours[policies.OPERATIONS.index(operation)]
    np.testing.assert_allclose(row, values, rtol=1e-6, atol=1e-6, err_msg=operation)
    assert signed == (operation in policies.SIGNED), operation


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_learnt_policies_are_torchvisions(policy):
  v2 = transforms()
  transform = v2.AutoAugment(v2.AutoAugmentPolicy(policy))
  assert transform._policies == list(policies.POLICIES[policy])
  theirs = v2.AutoAugment._AUGMENTATION_SPACE  # and magnitudes those of RandAugment, of 10 bins
  ours = policies.magnitudes("rand_augment", 10, HEIGHT, WIDTH)
  for operation, (make, signed) in theirs.items():
    values = make(10, HEIGHT, WIDTH)
    if values is not None:
      row = ours[policies.OPERATIONS.index(operation)]
      np.testing.assert_allclose(row, values.numpy(), rtol=1e-6, atol=1e-6)
    assert signed == (operation in policies.SIGNED)


@pytest.fixture(scope="module")
def layer():
  return jax.jit(policies.layer, static_argnames="interpolation")


@pytest.mark.parametrize("images", [IMAGES, GREYS], ids=["rgb", "grey"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("operation", policies.OPERATIONS)
def test_a_layer_does_what_torchvisions_does(layer, operation, interpolation, images):
  """Every operation at three magnitudes, both ways, on 8-bit images."""
  v2 = transforms()
  transform = v2.RandAugment()
  mode = v2.InterpolationMode(interpolation)
  index = policies.OPERATIONS.index(operation)
  table = policies.magnitudes("rand_augment", 31, HEIGHT, WIDTH)[index]
  for bin_ in (0, 9, 27):
    for sign in (1, -1) if operation in policies.SIGNED else (1,):
      magnitude = sign * float(table[bin_])
      theirs = transform._apply_image_or_video_transform(
        tensors(images), operation, magnitude, mode, transform._fill
      )
      ours = layer(
        floats(images), jnp.full(3, index), jnp.full(3, magnitude), interpolation=interpolation
      )
      # torchvision rounds the result of a blend down, and grey before it: 1 + 0.81 levels.
      close_but_for(255 * ours, back(theirs), 0.01, 1.85)


PLACED = np.array([[6, 5, 12, 17], [14, 16, 24, 22], [3, 18, 8, 23]])  # ymin, xmin, ymax, xmax


def of_kinds():
  """(mask `[3, height, width]`, boxes `[3, 1, 4]` in [0, 1]): one rectangle an example."""
  mask = np.zeros((3, HEIGHT, WIDTH), np.uint8)
  for one, (top, left, bottom, right) in zip(mask, PLACED, strict=True):
    one[top:bottom, left:right] = 1
  boxes = PLACED / np.array([HEIGHT, WIDTH, HEIGHT, WIDTH])
  return mask, jnp.asarray(boxes[:, None], jnp.float32)


def theirs_of_kinds(change):
  """What torchvision's `change` makes of the same: (masks, boxes in pixels, not clamped)."""
  torch = parity.torch()
  from torchvision import tv_tensors

  masks, found = [], []
  for one, (top, left, bottom, right) in zip(of_kinds()[0], PLACED, strict=True):
    box = torch.tensor([[left, top, right, bottom]], dtype=torch.float32)
    box = tv_tensors.BoundingBoxes(
      box, format="XYXY", canvas_size=(HEIGHT, WIDTH), clamping_mode=None
    )
    masks.append(change(tv_tensors.Mask(torch.tensor(one)[None]))[0].numpy())
    found.append(change(box).numpy()[0, [1, 0, 3, 2]])
  return np.stack(masks), np.stack(found)


def assert_as_theirs(ours, theirs, share=0.01):
  """Masks but for the middle between two pixels; boxes where torchvision need not clamp them."""
  (masks, (boxes, valid)), (their_masks, their_boxes) = ours, theirs
  assert (np.asarray(masks) != their_masks).mean() <= share
  size = np.array([HEIGHT, WIDTH, HEIGHT, WIDTH])
  inside = ((their_boxes >= 0) & (their_boxes <= size)).all(1)
  assert inside.any() and valid[inside].all()
  np.testing.assert_allclose((boxes[:, 0] * size)[inside], their_boxes[inside], atol=2e-3)
  clamped = np.clip(their_boxes, 0, size)  # theirs may be larger where a corner is cut off
  assert (boxes[:, 0, :2] * size[:2] >= clamped[:, :2] - 2e-3)[valid[:, 0]].all()
  assert (boxes[:, 0, 2:] * size[2:] <= clamped[:, 2:] + 2e-3)[valid[:, 0]].all()


@pytest.mark.parametrize(
  "degrees, translate, scale, shear",
  [
    (33, (0, 0), 1, (0, 0)),
    (-90, (2, 0), 1, (0, 0)),
    (0, (5, -3), 1, (0, 0)),
    (0, (0, 0), 1.27, (0, 0)),
    (0, (0, 0), 1, (20, 0)),
    (25, (2, 4), 0.8, (10, -12)),
  ],
)
def test_masks_and_boxes_are_warped_as_torchvisions(degrees, translate, scale, shear):
  v2 = transforms()
  theirs = theirs_of_kinds(
    lambda x: v2.functional.affine(x, degrees, list(translate), scale, list(shear), fill=255)
  )
  matrices = geometry.inverse_matrices(degrees, translate, scale, shear)
  matrices = jnp.broadcast_to(matrices, (3, 2, 3))
  mask, found = of_kinds()
  moved = boxes.moved(found, jnp.ones((3, 1), bool), matrices, (HEIGHT, WIDTH))
  assert_as_theirs((geometry.warp_nearest(mask, matrices), moved), theirs)


@pytest.mark.parametrize("name, theirs", [("flip", "hflip"), ("vertical_flip", "vflip")])
def test_masks_and_boxes_are_mirrored_as_torchvisions(name, theirs):
  operation = augment.create(f"{name}(1)")
  theirs = theirs_of_kinds(getattr(transforms().functional, theirs))
  mask, found = of_kinds()
  batch = {"m": mask, "b": found, "b_valid": jnp.ones((3, 1), bool)}
  out = operation(jax.random.key(0), batch, {"m": "mask", "b": "boxes"})
  assert_as_theirs((out["m"], (out["b"], out["b_valid"])), theirs, share=0)


@pytest.mark.parametrize("box", [(3, 2, 24, 21), (0, 0, HEIGHT, WIDTH), (1, 0, 13, 26)])
def test_masks_and_boxes_are_cropped_as_torchvisions(monkeypatch, box):
  """torchvision takes the pixel at the upper left for masks; here, as Pillow, the nearest."""
  v2 = transforms()
  size = [HEIGHT, WIDTH]
  _, their_boxes = theirs_of_kinds(lambda x: v2.functional.resized_crop(x, *box, size=size))
  nearest = v2.InterpolationMode.NEAREST_EXACT
  mask, found = of_kinds()
  tensor = parity.torch().tensor(mask)[:, None]
  their_masks = v2.functional.resized_crop(tensor, *box, size=size, interpolation=nearest)
  monkeypatch.setattr(geometry, "_boxes", lambda *_: tuple(jnp.full(3, v) for v in box))
  batch = {"m": mask, "b": found, "b_valid": jnp.ones((3, 1), bool)}
  kinds = {"m": "mask", "b": "boxes"}
  out = geometry.random_resized_crop()(jax.random.key(0), batch, kinds)
  theirs = their_masks[:, 0].numpy(), their_boxes
  assert_as_theirs((out["m"], (out["b"], out["b_valid"])), theirs, share=0)
