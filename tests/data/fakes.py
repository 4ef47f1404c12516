"""Records for tests: images as files or pixels, some of which cannot be read, and who read them."""

import functools
import io

import numpy as np
from PIL import Image

from cnnjax import data
from cnnjax.data import identity


class Records:
  """As `data.split.Records`; `read` has the places that were read, in the order of time."""

  large, groups = False, None

  def __init__(self, images, labels):
    self.images, self.labels = list(images), np.asarray(labels)
    self.read = []

  def __len__(self):
    return len(self.images)

  def __getitem__(self, i):
    self.read.append(i)
    label = self.labels[i]
    return self.images[i], label if self.labels.ndim == 2 else int(label)

  @property
  def contents(self):
    raw = [x if isinstance(x, bytes) else x.tobytes() for x in self.images]
    return identity.fingerprints(lambda at: [raw[i] for i in at], len(raw))

  places = contents

  def name(self, i):
    return f"file {i}"


class Lazy(Records):
  """Whose labels stand in the records, so that all of them are read for `labels`; as of TFDS."""

  def __init__(self, images, labels):
    super().__init__(images, labels)
    self._stored = self.__dict__.pop("labels")

  def __getitem__(self, i):
    self.read.append(i)
    return self.images[i], self._stored[i]

  @functools.cached_property
  def labels(self):
    return np.stack([self[i][1] for i in range(len(self))])


def photos(n, seed=0, channels=3):
  """Images of different sizes, near 12x16; no two are alike."""
  rng = np.random.default_rng(seed)
  sizes = rng.integers(10, 18, (n, 2))
  return [rng.integers(0, 256, (*size, channels), np.uint8) for size in sizes]


def png(image):
  """The file of an image; PNG keeps every pixel."""
  out = io.BytesIO()
  Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(out, "PNG")
  return out.getvalue()


def split_of_files(n, broken=(), classes=5, labels=None):
  """A split of PNG files of different sizes; those at `broken` cannot be read."""
  files = [png(image) for image in photos(n)]
  for i in broken:
    files[i] = files[i][: len(files[i]) // 2]
  labels = np.arange(n, dtype=np.int32) % classes if labels is None else labels
  number = labels.shape[1] if labels.ndim == 2 else classes
  return data.Split(Records(files, labels), tuple(map(str, range(number))), (None, None, 3))
