"""A source: images of stripes, made up; their direction is the class.

--config.imports=stripes --config.data.source=stripes --config.data.directions=6
"""

import numpy as np

from cnnjax import Key, register
from cnnjax.data import Split
from cnnjax.errors import UserError

EXAMPLES = {"train": 512, "test": 128}
SIZE = 16  # pixels


def check(config):
  """Checks the group `data` of a config before anything is loaded."""
  for key in ("train", "test"):
    if isinstance(config[key], str) and config[key] not in EXAMPLES:
      raise UserError(f"data.{key}={config[key]!r}: stripes has the splits {', '.join(EXAMPLES)}")


@register(
  "source",
  "stripes",
  check=check,
  directions=Key(4, "stripes: so many classes", rule=(lambda v: 2 <= v <= 90, "from 2 to 90")),
)
def load(config, split):
  """Returns a split: images `[n, height, width, channels]` uint8 and labels `[n]` int32."""
  rng = np.random.default_rng([*EXAMPLES].index(split))
  labels = np.arange(EXAMPLES[split], dtype=np.int32) % config.directions
  angle, phase = np.pi * labels / config.directions, rng.uniform(0, 2 * np.pi, len(labels))
  y, x = np.mgrid[:SIZE, :SIZE]
  along = lambda a: x * np.cos(a) + y * np.sin(a)
  waves = np.stack([np.sin(along(a) + p) for a, p in zip(angle, phase, strict=True)])
  images = 127.5 + 80 * waves + rng.normal(0, 20, waves.shape)
  classes = tuple(f"{180 * i / config.directions:g} degrees" for i in range(config.directions))
  return Split.of(images.clip(0, 255).astype(np.uint8)[..., None], labels, classes)
