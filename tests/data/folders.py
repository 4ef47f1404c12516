"""Folders of images and lists of them, for tests: written, and read as a run reads them."""

import pathlib
import zlib

import numpy as np
from PIL import Image

from cnnjax import data
from cnnjax.config import default, override

SIZE = 4


def pixels(name):
  """What `put` writes under a name: another picture for each."""
  return np.random.default_rng(zlib.crc32(str(name).encode())).integers(
    0, 256, (SIZE, SIZE, 3), dtype=np.uint8
  )


def put(*names):
  """Pictures as PNG, whatever their endings say: files are read by their content."""
  for name in names:
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(name)).save(name, "PNG")
  return list(names)


def some(place, n=5):
  return [f"{place}/{i}.png" for i in range(n)]


def config(path="a", **overrides):
  c = default()
  for key, value in {
    "source": "folder", "path": str(path), "image_size": SIZE, **overrides
  }.items():  # fmt: skip
    override(c, f"data.{key}", value)
  return c.data


def load(path="a", **overrides):
  """{split: {(file, label), ...}} and the classes; files by their pictures, so as they are read."""
  c = config(path, **overrides)
  data.check(c)
  splits = {key: split for key, split in data.load(c).items() if split}
  (classes,) = {split.classes for split in splits.values()}
  written = {pixels(name).tobytes(): name for name in map(str, pathlib.Path().rglob("*"))}
  found = {}
  for key, split in splits.items():
    label = lambda row: tuple(classes[i] for i in (np.flatnonzero(row) if np.ndim(row) else [row]))
    pairs = zip(split.images, split.labels, strict=True)
    found[key] = [(written[image.tobytes()], label(row)) for image, row in pairs]
    assert len(set(found[key])) == len(found[key])
    found[key] = set(found[key])
  return found, classes


def by_folder(*names):
  """{(file, (class,))} of names that end in class/file."""
  return {(name, (name.split("/")[-2],)) for name in names}


def table(text, name="a.csv"):
  pathlib.Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
  return name
