"""Measures the values of the training images: mean and deviation; finds blank images."""

import contextlib
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cnnjax.data import fields
from cnnjax.data.examples import Examples
from cnnjax.data.pixels import deep_values
from cnnjax.data.split import Arrays, Skipped, Split
from cnnjax.errors import UserError, warn
from cnnjax.runtime import processes

SAMPLE = 2048  # images that are read of a streamed split, evenly spread over it
GLANCE = 128  # the same, where mean and deviation are given
_ALPHA = "Set data.alpha={} for pictures that are drawn in transparency alone"
_SCAN = "`python -m cnnjax.data scan PATH`"
_RANGE = (
  f"Set data.range, such as 12, for 16-bit files that use fewer bits: {_SCAN} says how many they "
  "use"
)
_ARRAYS = {
  "uint8": "Multiply values from 0 to 1 by 255 before they become uint8",
  "uint16": "Set data.range to the values that are black and white, such as 12 for 12 bits",
  "float32": "Set data.range to the values that are black and white",
}
LOOKED_INTO = 16  # files, for advice
DARK = 1 / 4  # of white; images are dark if no value reaches it


@dataclasses.dataclass(frozen=True)
class Levels:
  """The values that images have in each channel, `[channels]` each.

  `counts`, of integers: how often each channel has each value, `[channels, 256]` or
  `[channels, 65536]`.
  """

  dtype: str
  mean: np.ndarray  # of images in [0, 1], as `std`
  std: np.ndarray
  low: np.ndarray  # the smallest value, as it is, and the largest
  high: np.ndarray
  counts: np.ndarray | None = None

  @classmethod
  def of(cls, images: np.ndarray) -> "Levels":
    """Returns the levels of images `[n, height, width, channels]` of a type of `fields`."""
    if images.dtype == np.float32:
      return cls._of_floats(images)
    # In parts: NumPy counts in 8 bytes a value.
    white = fields.WHITE[str(images.dtype)]
    counts = sum(
      np.stack([
        np.bincount(images[start : start + 1024, ..., channel].reshape(-1), minlength=white + 1)
        for channel in range(images.shape[-1])
      ])
      for start in range(0, len(images), 1024)
    )  # fmt: skip
    levels, share = np.arange(white + 1) / white, counts / counts.sum(1, keepdims=True)
    means = share @ levels
    deviations = np.sqrt((share * (levels - means[:, None]) ** 2).sum(1))
    low = (counts > 0).argmax(1)
    high = white - (counts > 0)[:, ::-1].argmax(1)
    return cls(str(images.dtype), means, deviations, low, high, counts)

  @classmethod
  def _of_floats(cls, images: np.ndarray) -> "Levels":
    parts = [images[start : start + 1024] for start in range(0, len(images), 1024)]
    number, axes = images[..., 0].size, (0, 1, 2)
    mean = sum(part.sum(axes, dtype=np.float64) for part in parts) / number
    squares = sum(((part - mean) ** 2).sum(axes) for part in parts)
    low, high = images.min(axes), images.max(axes)
    return cls("float32", mean, np.sqrt(squares / number), low, high)

  @property
  def single(self) -> np.ndarray:
    """True if each channel has one value everywhere, `[channels]` bool."""
    return self.low == self.high


def count(config: ConfigDict, train: Split) -> Levels:
  """Returns the levels of the training images, from a sample of a streamed split.

  Raises:
    UserError: all of them are one and the same colour.
  """
  given, total = None not in (config.mean, config.std), len(train)
  shape = Examples.of(config, train.fields).crops.shape(config.image_size)
  ready = isinstance(train.records, Arrays) and train.shape == shape
  images = (
    train.images if ready and not given else _some(config, train, GLANCE if given else SAMPLE)
  )
  levels = Levels.of(images)
  if levels.single.all():
    raise UserError(f"the training images are {_blank(images, total)}. {_advice(config, train)}")
  return levels


def _blank(images: np.ndarray, total: int) -> str:
  value = ", ".join(map(_text, images[0, 0, 0]))
  return f"blank: all {len(images):,} that were read, of {total:,}, have the single value {value}"


def _advice(config: ConfigDict, split: Split) -> str:
  """Returns advice against blank, dark or bright images, by the values in their files."""
  if isinstance(split.records, Arrays) and split.records.source is not None:
    split = split.records.source
  traits, files = set(), 0
  for i in range(min(len(split), LOOKED_INTO)):
    data = split[i]["image"]
    if isinstance(data, bytes):
      files += 1
      with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        traits |= {"alpha"} if image.has_transparency_data else set()
        traits |= {"depth"} if deep_values(image, data) is not None else set()
  if not files:
    return _ARRAYS[split.fields["image"].dtype]
  others = " or ".join(colour for colour in ("white", "black") if colour != config.alpha)
  words = [_ALPHA.format(others)] if "alpha" in traits else []
  if "depth" in traits:
    other = f"data.range={config.range} may not fit the files: {_SCAN} says how many bits"
    words.append(_RANGE if config.range is None else f"{other} they use")
  return ". ".join(words) or f"Look at the files: {_SCAN}"


def compare(config: ConfigDict, name: str, split: Split, mean: Sequence[float]) -> None:
  """Warns of a split that is blank, or unlike the training images, such as files of another range.

  A split is dark if no value reaches the `mean` of the training images, bright if all lie above it.
  """
  images = _some(config, split, GLANCE)
  low, high, white = images.min(), images.max(), fields.WHITE[str(images.dtype)]
  trained = lambda mean: (
    f"of {_text(white)}, and the mean of the training images is "
    + (f"{white * mean:.4g}" if isinstance(white, float) else f"{white * mean:.0f}")
  )
  if (images == images[0, 0, 0]).all():
    words = _blank(images, len(split))
  elif high / white < min(mean):
    words = f"dark: their largest value is {_text(high)} {trained(min(mean))}"
  elif low / white > max(mean):
    words = f"bright: their smallest value is {_text(low)} {trained(max(mean))}"
  else:
    return
  if processes.is_first():
    warn(f"the {name} images are {words}. {_advice(config, split)}")


def _some(config: ConfigDict, split: Split, number: int) -> np.ndarray:
  """Reads at most `number` images, evenly spread over the split; leaves out unreadable ones."""
  examples, spread = Examples.of(config, split.fields), np.linspace(0, len(split) - 1, number)
  image = dataclasses.replace(examples, fields=fields.of_kind(split.fields, "image"))
  some = split.with_fields("image").take(np.unique(spread.astype(int)))
  crop = lambda example: image.whole(example, config.image_size)
  return some.decoded(crop, Skipped(number)).images


def normalization(
  config: ConfigDict, levels: Levels, adapt: bool = False
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns (mean, std) per channel of images in [0, 1]: the config's, or those of `levels`.

  The deviation of a channel that has one value everywhere is 1. With `adapt` the config's may be
  for another number of channels: then one channel gets their means, and more get those of `levels`.
  """
  mean, std = config.mean, config.std
  if adapt and None not in (mean, std) and len(mean) != len(levels.mean):
    # Of weights for colour: a grey image is normalised by the means over the colours.
    grey = len(levels.mean) == 1
    mean, std = ((sum(v) / len(v),) if grey else None for v in (mean, std))
  mean = tuple(mean or levels.mean.tolist())
  std = tuple(std or np.where(levels.single, 1.0, levels.std).tolist())
  for key, values in (("mean", mean), ("std", std)):
    if len(values) != len(levels.mean):
      raise UserError(
        f"data.{key} has {len(values)} values, and the images have {len(levels.mean)} channels"
      )
  return mean, std


def describe(config: ConfigDict, train: Split, levels: Levels) -> str:
  """Returns the values of the training images in words, with remarks on odd ones."""
  low, high, white = levels.low.min(), levels.high.max(), fields.WHITE[levels.dtype]
  of = "float32 values" if levels.counts is None else ""
  if levels.counts is not None:
    of = f"{levels.counts.any(0).sum():,} of {white + 1:,} levels"
  words = f"{of}, from {_text(low)} to {_text(high)}"
  for channel in np.flatnonzero(levels.single):
    words += f"; channel {channel} has the single value {_text(levels.low[channel])}"
  if high < DARK * white:
    words += f": dark, since white is {_text(white)}. {_advice(config, train)}"
  return words


def _text(value: np.number | float) -> str:
  """Returns a value of an image in words."""
  return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
