"""Every operation gives the bits that it gave when `fixtures/augmented.json` was written.

The file holds what the operations gave before they acted on masks and boxes too, when they were
functions (key, images, targets). Its digests are compared where JAX and the processor are those
that it was written with; elsewhere a compiler rounds differently, and its sums are compared.
`python tests/augment/test_golden.py` writes the file anew: only for a recipe that is added.
"""

import hashlib
import json
import pathlib
import platform

import jax
import numpy as np
import pytest
from properties import pair

from cnnjax import augment
from cnnjax.training import passes

pytestmark = pytest.mark.optimised
FILE = pathlib.Path(__file__).parents[1] / "fixtures" / "augmented.json"
BATCH, HEIGHT, WIDTH, CHANNELS, CLASSES = 8, 9, 7, 3, 5
# One for each operation, with arguments that reach its branches; then recipes of several.
SPECS = (
  "flip",
  "pad_crop(2)",
  "vertical_flip(0.3)",
  "random_resized_crop((0.2, 0.9), interpolation='bicubic')",
  "rotate(40, fill=0.5)",
  "zoom(0.6, 1.5)",
  "translate((0.3, 0.2))",
  "shear((20, 10), 'nearest')",
  "affine(30, 0.2, (0.7, 1.3), 15, p=0.7)",
  "brightness(0.4)",
  "contrast(0.4)",
  "saturation(0.4)",
  "hue(0.2)",
  "color_jitter(0.4, 0.3, 0.2, 0.1)",
  "grayscale(p=0.5)",
  "gaussian_noise(0.1)",
  "gaussian_blur(3)",
  "solarize(0.5)",
  "posterize(3)",
  "equalize",
  "autocontrast",
  "sharpness(0.9)",
  "invert(p=0.5)",
  "auto_augment('imagenet')",
  "trivial_augment",
  "augmix",
  "mixup(0.4, 'pair')",
  "cutmix(1.0, 'elem', p=0.7)",
  "choice(mixup(0.8), cutmix(1.0), weights=(1, 2), p=0.9)",
  "cutout(4, fill=(0.1, 0.2, 0.3))",
  "random_erasing(0.7, fill='noise')",
  "grid_mask((2, 5), rotate=90, p=0.8)",
  "pad_crop(2) | flip | cutout(3, p=0.5) | choice(mixup(0.4, mode='pair'), flip | cutmix(1.0))",
  "flip | rand_augment(1, 9, 11, 'bilinear', 0.45, p=0.5) | random_erasing(0.25, fill='noise')",
  "flip | color_jitter(0.4, 0.4, 0.4) | rotate(15, 'nearest') | mixup(0.2, 'elem')",
)


def augmented(spec):
  """(images, targets) of two keys, stacked."""
  rng = np.random.default_rng(0)
  images = passes.to_float(rng.integers(0, 256, (BATCH, HEIGHT, WIDTH, CHANNELS), np.uint8))
  targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, BATCH)]
  operation = jax.jit(pair(augment.create(spec)))
  found = [operation(jax.random.key(seed), images, targets) for seed in (0, 1)]
  return tuple(map(np.stack, zip(*found, strict=True)))


def digest(arrays):
  return hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()[:16]


def sums(arrays):
  """Of each image and target, its values weighed by where they are: `[2 keys, batch]` of both."""
  weigh = lambda x: (
    x.reshape(*x.shape[:2], -1).astype(np.float64) @ np.sin(np.arange(np.prod(x.shape[2:])))
  )
  return [weigh(x).round(5).tolist() for x in arrays]


def where():
  """What decides how a compiled program rounds."""
  info = pathlib.Path("/proc/cpuinfo")
  text = info.read_text() if info.exists() else platform.processor()
  flags = next((line for line in text.splitlines() if line.startswith("flags")), text)
  processor = hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16]
  return {"jax": jax.__version__, "processor": processor}


def record():
  """Writes the file."""
  found = {spec: augmented(spec) for spec in SPECS}
  lines = {spec: {"digest": digest(x), "sums": sums(x)} for spec, x in found.items()}
  text = ",\n".join(f"{json.dumps(spec)}: {json.dumps(line)}" for spec, line in lines.items())
  FILE.write_text(f'{{"where": {json.dumps(where())}, "found": {{\n{text}\n}}}}\n')


@pytest.fixture(scope="module")
def recorded():
  return json.loads(FILE.read_text())


def test_every_operation_is_recorded(recorded):
  assert tuple(recorded["found"]) == SPECS
  for name in augment.OPERATIONS:
    assert any(name in spec for spec in SPECS), name


@pytest.mark.parametrize(
  "spec", [pytest.param(s, marks=pytest.mark.slow) if s == "augmix" else s for s in SPECS]
)
def test_the_bits_are_those_of_before(recorded, spec):
  before, now = recorded["found"][spec], augmented(spec)
  if recorded["where"] == where():
    assert digest(now) == before["digest"]
  for found, expected in zip(sums(now), before["sums"], strict=True):
    # A place halfway between two pixels may fall to either: so much for one image in sixteen.
    close = np.isclose(found, expected, atol=2e-4)
    assert close.mean() >= 0.9


if __name__ == "__main__":
  record()
