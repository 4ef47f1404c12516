"""Augments batches in JAX, by pure functions (key, batch, kinds) -> batch.

A batch is a dict of fields, and `kinds` gives the kind of each; see `cnnjax.data.fields`. Images
are float32 in [0, 1], `[batch, height, width, channels]`, not yet normalised; targets are
distributions over the classes, `[batch, num_classes]`. A config names the operations in order:
`"pad_crop(4) | flip | rotate(15, p=0.5) | choice(mixup(0.8), cutmix(1.0))"`. With `p`, an operation
acts on each example with that probability; operations that mix a batch define their own p.

An operation draws its numbers once and acts on each field by its kind: geometry on image, mask and
boxes alike, colour on images alone; mixing refuses kinds that it cannot mix. A registered function
makes an operation of its arguments, and checks them: `@register("augmentation", "invert")`. Views
of an image for evaluation are in `views`.

This room imports registry, and of data the fields alone.
"""

from collections.abc import Callable, Mapping

from cnnjax import registry
from cnnjax.augment import color, compose, erasing, geometry, mixing, parser, policies, views
from cnnjax.augment.operation import Kinds, Operation, of_places, of_values

__all__ = [
  "OPERATIONS", "Operation", "check", "create", "of_places", "of_values", "parse", "views",
]  # fmt: skip

OPERATIONS: dict[str, Callable] = {
  "flip": geometry.flip,
  "pad_crop": geometry.pad_crop,
  "vertical_flip": geometry.vertical_flip,
  "random_resized_crop": geometry.random_resized_crop,
  "rotate": geometry.rotate,
  "zoom": geometry.zoom,
  "translate": geometry.translate,
  "shear": geometry.shear,
  "affine": geometry.affine,
  "brightness": color.brightness,
  "contrast": color.contrast,
  "saturation": color.saturation,
  "hue": color.hue,
  "color_jitter": color.color_jitter,
  "grayscale": color.grayscale,
  "gaussian_noise": color.gaussian_noise,
  "gaussian_blur": color.gaussian_blur,
  "solarize": color.solarize,
  "posterize": color.posterize,
  "equalize": color.equalize,
  "autocontrast": color.autocontrast,
  "sharpness": color.sharpness,
  "invert": color.invert,
  "rand_augment": policies.rand_augment,
  "auto_augment": policies.auto_augment,
  "trivial_augment": policies.trivial_augment,
  "augmix": policies.augmix,
  "mixup": mixing.mixup,
  "cutmix": mixing.cutmix,
  "choice": compose.choice,
  "cutout": erasing.cutout,
  "random_erasing": erasing.random_erasing,
  "grid_mask": erasing.grid_mask,
}
for _name, _make in OPERATIONS.items():
  registry.register("augmentation", _name)(_make)


def parse(spec: str | None) -> list[Callable]:
  """Returns the operations that `spec` names, with their arguments; see parser.py.

  Raises:
    UserError: text that cannot be read, an unknown operation, or arguments that it does not take.
  """
  makers = {
    name: compose.with_probability(name, compose.named(name, part.value))
    for name, part in registry.parts("augmentation").items()
  }
  return parser.read(spec, makers, "augment", "augmentation", "pad_crop(4) | flip")


def create(spec: str | None) -> compose.Chain:
  """Returns one function (key, batch, kinds) -> batch of all operations in `spec`.

  `kinds` is {name: kind} of the fields to augment; all others stay.
  """
  return compose.Chain(parse(spec))


def check(spec: str | None, kinds: Kinds, channels: int | Mapping[str, int] | None = None) -> None:
  """Raises UserError if an operation of `spec` cannot act on such data.

  Args:
    spec: as of `create`.
    kinds: the kind of each field to augment, by its name.
    channels: of the images; by the name of the field if they differ; None if unknown.

  Raises:
    UserError: names the operation, the field, its kind or its channels, and the mend.
  """
  if isinstance(channels, int):
    channels = {name: channels for name, kind in kinds.items() if kind == "image"}
  create(spec).check(kinds, channels or {})
