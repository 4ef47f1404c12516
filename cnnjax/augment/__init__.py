"""Augmentation as batched JAX: pure functions (key, images, targets) -> (images, targets).

Images are float32 in [0, 1], `[batch, height, width, channels]`, not yet normalised; targets are
distributions over the classes, `[batch, num_classes]`. A config names the operations in order:
`"pad_crop(4) | flip | mixup(0.2)"`. An operation is made by a function of its arguments, which
checks them; a new one is that function and a line in `OPERATIONS`.
"""

import ast
import inspect
from collections.abc import Callable

import jax

from cnnjax.augment import geometry, mixing
from cnnjax.errors import UserError, unknown

OPERATIONS: dict[str, Callable] = {
  "flip": geometry.flip,
  "pad_crop": geometry.pad_crop,
  "mixup": mixing.mixup,
  "cutmix": mixing.cutmix,
}


def parse(spec: str | None) -> list[Callable]:
  """The operations that `spec` names, with their arguments bound.

  Raises:
    UserError: an unknown operation, or arguments that it does not take.
  """
  operations = []
  for part in filter(None, (part.strip() for part in (spec or "").split("|"))):
    try:
      node = ast.parse(part, mode="eval").body
      call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
      name = call.func.id
      args = [ast.literal_eval(arg) for arg in call.args]
      kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AttributeError, TypeError):
      raise UserError(
        f"augment: cannot read {part!r}; write it as name or name(number), "
        "such as 'pad_crop(4) | flip'"
      ) from None
    if name not in OPERATIONS:
      raise unknown("augmentation", name, OPERATIONS)
    try:
      inspect.signature(OPERATIONS[name]).bind(*args, **kwargs)
    except TypeError as e:
      signature = str(inspect.signature(OPERATIONS[name])).split(" ->")[0]
      raise UserError(f"augment: {part!r}: {e}; it takes {name}{signature}") from None
    operations.append(OPERATIONS[name](*args, **kwargs))
  return operations


def create(spec: str | None) -> Callable:
  """One function (key, images, targets) -> (images, targets) that does all that `spec` names."""
  operations = parse(spec)

  def augment(key: jax.Array, images: jax.Array, targets: jax.Array):
    for i, operation in enumerate(operations):
      images, targets = operation(jax.random.fold_in(key, i), images, targets)
    return images, targets

  return augment
