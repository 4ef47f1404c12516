"""The values of the training images: their mean and deviation, and whether there is a picture."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cnnjax.data.crops import Crops
from cnnjax.data.pixels import deep_values
from cnnjax.data.split import Arrays, Skipped, Split
from cnnjax.errors import UserError, warn
from cnnjax.runtime import processes

SAMPLE = 2048  # images of a streamed split that are read, evenly spread over it
GLANCE = 128  # and of any split whose mean and deviation are given
_ALPHA = "Set data.alpha={} for pictures that are drawn in transparency alone"
_SCAN = "`python -m cnnjax.data scan PATH`"
_RANGE = (
  f"Set data.range, such as 12, for 16-bit files that use fewer bits: {_SCAN} says how many they "
  "use"
)
_ARRAYS = "Multiply values from 0 to 1 by 255 before they become uint8"
_TRAINED = " of 255, and the mean of the training images is "
LOOKED_INTO = 16  # files, for advice
DARK = 64  # where no value is above it, a quarter of what 8 bits hold is in use


def count(config: ConfigDict, train: Split) -> np.ndarray:
  """Returns how often each channel of the training images has each value, [channels, 256].

  Raises:
    UserError: all of them are one and the same colour.
  """
  given, total = None not in (config.mean, config.std), len(train)
  shape = Crops.of(config, train.shape).shape(config.image_size)
  ready = isinstance(train.records, Arrays) and train.shape == shape
  images = (
    train.images if ready and not given else _some(config, train, GLANCE if given else SAMPLE)
  )
  # In parts: NumPy counts in 8 bytes a value.
  counts = sum(
    np.stack([
      np.bincount(images[start : start + 1024, ..., channel].reshape(-1), minlength=256)
      for channel in range(images.shape[-1])
    ])
    for start in range(0, len(images), 1024)
  )  # fmt: skip
  if not ((counts > 0).sum(1) > 1).any():
    raise UserError(f"the training images are {_blank(images, total)}. {_advice(config, train)}")
  return counts


def _blank(images: np.ndarray, total: int) -> str:
  value = ", ".join(map(str, images[0, 0, 0]))
  return f"blank: all {len(images):,} that were read, of {total:,}, have the single value {value}"


def _advice(config: ConfigDict, split: Split) -> str:
  """What may help where images are blank, dark or bright: it goes by what their files have."""
  if isinstance(split.records, Arrays) and split.records.source is not None:
    split = split.records.source
  found, files = set(), 0
  for i in range(min(len(split), LOOKED_INTO)):
    data, _ = split[i]
    if isinstance(data, bytes):
      files += 1
      with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        found |= {"alpha"} if image.has_transparency_data else set()
        found |= {"depth"} if deep_values(image, data) is not None else set()
  if not files:
    return _ARRAYS
  others = " or ".join(colour for colour in ("white", "black") if colour != config.alpha)
  words = [_ALPHA.format(others)] if "alpha" in found else []
  if "depth" in found:
    other = f"data.range={config.range} may not fit the files: {_SCAN} says how many bits"
    words.append(_RANGE if config.range is None else f"{other} they use")
  return ". ".join(words) or f"Look at the files: {_SCAN}"


def compare(config: ConfigDict, name: str, split: Split, mean: Sequence[float]) -> None:
  """Warns of a split that is blank, or unlike what is trained on, as of files of another range.

  It is dark where no value reaches the `mean` of that, and bright where none comes down to it.
  """
  images = _some(config, split, GLANCE)
  low, high = images.min(), images.max()
  if (images == images[0, 0, 0]).all():
    words = _blank(images, len(split))
  elif high / 255 < min(mean):
    words = f"dark: their largest value is {high}{_TRAINED}{255 * min(mean):.0f}"
  elif low / 255 > max(mean):
    words = f"bright: their smallest value is {low}{_TRAINED}{255 * max(mean):.0f}"
  else:
    return
  if processes.is_first():
    warn(f"the {name} images are {words}. {_advice(config, split)}")


def _some(config: ConfigDict, split: Split, number: int) -> np.ndarray:
  """Reads at most `number` images, evenly spread over the split; leaves out unreadable ones."""
  crops, spread = Crops.of(config, split.shape), np.linspace(0, len(split) - 1, number)
  image = lambda data: crops.whole(data, config.image_size)
  return split.take(np.unique(spread.astype(int))).decoded(image, Skipped(number)).images


def normalization(
  config: ConfigDict, counts: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns (mean, std) per channel of images in [0, 1]: the config's, or those of `counts`.

  The deviation of a channel that has one value everywhere is 1.
  """
  levels, share = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
  means = share @ levels
  deviations = np.sqrt((share * (levels - means[:, None]) ** 2).sum(1))
  deviations[(counts > 0).sum(1) == 1] = 1.0
  mean = tuple(config.mean or means.tolist())
  std = tuple(config.std or deviations.tolist())
  for key, values in (("mean", mean), ("std", std)):
    if len(values) != len(counts):
      raise UserError(
        f"data.{key} has {len(values)} values, and the images have {len(counts)} channels"
      )
  return mean, std


def describe(config: ConfigDict, train: Split, counts: np.ndarray) -> str:
  """Returns the values of the training images in words, and what is odd about them."""
  values = np.flatnonzero(counts.any(0))
  words = f"{len(values)} of 256 levels, from {values[0]} to {values[-1]}"
  for channel, found in enumerate(counts):
    if len(only := np.flatnonzero(found)) == 1:
      words += f"; channel {channel} has the single value {only[0]}"
  if values[-1] < DARK:
    words += f": dark, since white is 255. {_advice(config, train)}"
  return words
