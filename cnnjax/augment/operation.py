"""Operations: each draws numbers once for a batch, and changes the fields of each kind by them.

A batch is a dict of arrays, and `kinds` gives the kind of those to augment; see
`cnnjax.data.fields`. Images are float32 in [0, 1]. The change of each kind is a function of the
array and of the numbers drawn, so that image, mask and boxes of an example change together.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.data import fields
from cnnjax.errors import UserError

Batch = dict[str, jax.Array]
Kinds = Mapping[str, str]  # the kind of each field by its name
Shape = tuple[int, int, int, int]  # batch, height, width, channels of the images
Draw = Callable[[jax.Array, Shape], Any]  # (key, shape) -> parameters
WITHOUT_PLACE = frozenset({"label", "multi_label", "value", "targets"})  # no place in the image


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
  """A function (key, batch, kinds) -> batch; `of_values` and `of_places` make the usual ones.

  Args:
    draw: (key, shape) -> parameters, any tree of arrays; shape is (batch, height, width, channels)
      of the images.
    changes: by kind, (array, parameters) -> array. For boxes `array` is the pair (boxes, valid).
    leaves: the kinds that rightly stay as they are. Any other is refused.
    channels: the numbers of channels that an image may have; empty: any.
    why: the words for these numbers in errors, such as "grey or RGB".
    instead: the mend by refused kind, for errors; by default they say to leave this operation out.
    name: of the operation in a config.
  """

  draw: Draw
  changes: Mapping[str, Callable[[Any, Any], Any]]
  leaves: frozenset[str] = frozenset()
  channels: tuple[int, ...] = ()
  why: str = ""
  instead: Mapping[str, str] = dataclasses.field(default_factory=dict)
  name: str = "this operation"

  def __call__(self, key: jax.Array, batch: Batch, kinds: Kinds) -> Batch:
    images = {name: batch[name].shape[-1] for name, kind in kinds.items() if kind == "image"}
    self.check(kinds, images)
    parameters = self.draw(key, self._shape(batch, kinds))
    changed = dict(batch)
    for name, kind in kinds.items():
      if kind not in self.changes:
        continue
      change, valid = self.changes[kind], fields.valid_of(name)
      if kind == "boxes":
        changed[name], changed[valid] = change((batch[name], batch[valid]), parameters)
      else:
        changed[name] = change(batch[name], parameters)
    return changed

  def check(self, kinds: Kinds, channels: Mapping[str, int]) -> None:
    """Raises UserError unless it can act on these fields, of images with this many `channels`."""
    for name, kind in kinds.items():
      if kind not in self.changes and kind not in self.leaves:
        takes = " and ".join(k for k in fields.KINDS if k in self.changes)
        raise UserError(
          f"augment: {self.name} cannot act on the field {name!r} of kind {kind}, only on {takes}: "
          f"{self.instead.get(kind, f'leave {self.name} out')}"
        )
    for name, number in channels.items():
      if self.channels and number not in self.channels:
        allowed = " or ".join(map(str, self.channels))
        raise UserError(
          f"augment: {self.name} takes images of {allowed} channel{'s' * (allowed != '1')} "
          f"({self.why}), not {number} as the field {name!r} has: leave {self.name} out"
        )

  def _shape(self, batch: Batch, kinds: Kinds) -> Shape:
    """Returns the shape of the images, or of masks without images; all have one size."""
    shapes = {}
    for name, kind in kinds.items():
      array, floating = batch[name], jnp.issubdtype(batch[name].dtype, jnp.floating)
      if kind == "image" and not floating:
        raise UserError(
          f"augment: the field {name!r} is {array.dtype}; operations take images as float32 in "
          "[0, 1]: divide by the largest value of the type"
        )
      if kind == "mask" and array.dtype not in fields.DTYPES["mask"]:
        raise UserError(
          f"augment: the field {name!r} is {array.dtype}; a mask is uint8 or uint16, of which the "
          "largest value stands in pixels that do not count"
        )
      if kind in ("image", "mask"):
        shapes[name] = array.shape if kind == "image" else (*array.shape, 1)
    if not shapes:
      raise UserError(
        f"augment: {self.name} needs a field of kind image, and the batch has "
        f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items()) or 'none'}"
      )
    first = next((name for name in shapes if kinds[name] == "image"), next(iter(shapes)))
    for name, shape in shapes.items():
      if shape[:3] != shapes[first][:3] and kinds[name] in self.changes:
        sizes = [" x ".join(map(str, shapes[n][1:3])) for n in (name, first)]
        raise UserError(
          f"augment: {self.name} acts on fields of one size; {name!r} is {sizes[0]} pixels, and "
          f"{first!r} {sizes[1]}"
        )
    return shapes[first]


def of_values(
  draw: Draw,
  change: Callable[[jax.Array, Any], jax.Array],
  channels: tuple[int, ...] = (),
  why: str = "",
) -> Operation:
  """Returns an operation on the values of images, such as colour or noise; other fields stay.

  Args:
    draw: see `Operation`.
    change: (images, parameters) -> images.
    channels: see `Operation`, as `why`.
  """
  return Operation(draw, {"image": change}, frozenset(fields.KINDS) - {"image"}, channels, why)


def of_places(
  draw: Draw,
  image: Callable[[jax.Array, Any], jax.Array],
  mask: Callable[[jax.Array, Any], jax.Array],
  boxes: Callable[[jax.Array, jax.Array, Any, tuple[int, int]], tuple[jax.Array, jax.Array]],
  channels: tuple[int, ...] = (),
  why: str = "",
) -> Operation:
  """Returns an operation on places, such as a rotation, of images, masks and boxes alike.

  Args:
    draw: see `Operation`.
    image: (images, parameters) -> images.
    mask: (masks `[batch, height, width]`, parameters) -> masks, with `ignored` outside of the
      image.
    boxes: (boxes `[batch, m, 4]`, valid `[batch, m]`, parameters, (height, width)) -> (boxes,
      valid).
    channels: see `Operation`, as `why`.
  """

  def drawn(key: jax.Array, shape: Shape) -> tuple[Any, tuple[int, int]]:
    return draw(key, shape), shape[1:3]

  changes = {
    "image": lambda images, drawn: image(images, drawn[0]),
    "mask": lambda masks, drawn: mask(masks, drawn[0]),
    "boxes": lambda pair, drawn: boxes(*pair, *drawn),
  }
  return Operation(drawn, changes, WITHOUT_PLACE, channels, why)


def ignored(masks: jax.Array) -> int:
  """Returns the value of pixels of `masks` that do not count: 255 of uint8, 65535 of uint16."""
  return int(jnp.iinfo(masks.dtype).max)
