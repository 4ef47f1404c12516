"""Registers models: a name, its builder, and the defaults of the variant.

Families and forks use one decorator. A fork decorates a linen Module class, or a function that
returns a module:

    @models.register("my_net", input_shape=(32, 32, 3), reference="my notebook, page 3")
    class MyNet(nn.Module):
      num_classes: int
      width: registry.Size = 64
      dtype: Any = jnp.float32

A family calls it for each row of its variant table, with the row as defaults. The signature says
which options a variant takes: every argument but `num_classes` and `dtype` has a default, and its
annotation says which values `create` accepts: bool, int, float, str, `tuple[int, ...]` (at least
one number; `tuple[int, ...] | tuple[()]` accepts none), `Literal["max", "avg"]`, a NamedTuple of
these, or one of `Rate`, `Size`, `Count`, `Odd`, `Scale` and `Factor` below. Values with any other
annotation are not checked.

An option may have no effect unless another one has a certain value. The class says so by that value
or a Check, `NEEDS = (("lrn_alpha", "lrn", True),)`, and `create` refuses an option that would be
ignored.
"""

import dataclasses
import fnmatch
import inspect
import re
from collections.abc import Callable
from typing import (
  Annotated,
  Any,
  Literal,
  NamedTuple,
  TypeVar,
  get_args,
  get_origin,
  get_type_hints,
)

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax import registry
from cnnjax.errors import UserError, unknown


class Check(NamedTuple):
  """A condition on a value, and its description for errors."""

  holds: Callable[[Any], bool]
  text: str


Rate = Annotated[float, Check(lambda rate: 0 <= rate < 1, "at least 0 and below 1")]
Size = Annotated[int, Check(lambda size: size >= 1, "at least 1")]
Count = Annotated[int, Check(lambda count: count >= 0, "at least 0")]
Odd = Annotated[int, Check(lambda size: size >= 1 and size % 2 == 1, "odd and at least 1")]
Scale = Annotated[float, Check(lambda scale: 0 < scale < 1e6, "above 0 and below a million")]
Factor = Annotated[float, Check(lambda factor: 0 <= factor < 1e6, "at least 0, below a million")]
ABOVE_0 = Check(lambda value: value > 0, "above 0")  # for NEEDS
HAS_NORM = Check(lambda norm: norm != "none", "other than 'none'")  # for NEEDS
Classes = Annotated[int, Check(lambda classes: classes >= 0, "at least 0 (0: pooled features)")]

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])
DTYPES = ("float32", "bfloat16", "float16")
RESERVED = {"num_classes", "dtype", "parent", "name"}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A registered variant."""

  builder: Callable[..., nn.Module]  # a linen Module class, or a function that returns a module
  defaults: dict[str, Any]  # the options, with their values in this variant
  input_shape: tuple[int, int, int]  # the usual [height, width, channels]
  reference: str  # paper or code, one line


_CLASSES: set[type] = set()  # of modules that `create` has made


def register(
  name: str,
  *,
  input_shape: tuple[int, int, int] = (32, 32, 3),
  reference: str = "",
  **defaults: Any,
) -> Callable[[Builder], Builder]:
  """Returns a decorator that registers a linen Module class, or a function returning a module.

  `defaults` replace the defaults of the builder in this variant.

  Raises:
    UserError: the name is taken, the builder does not accept the defaults, it takes no num_classes
      or dtype, or the Module is not called with `train`.
  """

  def decorator(builder: Builder) -> Builder:
    if taken := sorted({"init", "apply"} & set(inspect.signature(builder).parameters)):
      raise UserError(f"model {name!r}: a field named {taken[0]!r} hides the method of the module")
    lacking = {"num_classes", "dtype"} - set(inspect.signature(builder).parameters)
    if inspect.isclass(builder):
      lacking |= {"train"} - set(inspect.signature(builder.__call__).parameters)
    if lacking:
      raise UserError(
        f"model {name!r} lacks {', '.join(sorted(lacking))}: a model has fields num_classes and "
        "dtype, and is called as __call__(self, x, *, train)"
      )
    own = {key: parameter.default for key, parameter in _parameters(builder).items()}
    merged = own | _checked_overrides(name, builder, defaults)
    if missing := [key for key, value in merged.items() if value is inspect.Parameter.empty]:
      raise UserError(f"model {name!r}: give {', '.join(missing)} a default value")
    entry = Entry(builder, merged, tuple(input_shape), reference)
    registry.add("model", name, registry.Part(entry, {}, (), builder.__module__))
    return builder

  return decorator


def create(name: str, num_classes: int, *, dtype: Any = jnp.float32, **overrides) -> nn.Module:
  """Builds a registered model.

  Args:
    name: a registered name, see `names`.
    num_classes: the number of logits; 0 leaves out the last layer, so that the model returns pooled
      features, float32 [batch, width].
    dtype: the dtype of the computation, float32, bfloat16 or float16, as a jnp dtype or a string.
      Parameters, batch statistics and logits are always float32.
    **overrides: any of `fields(name)`.

  Returns:
    A linen module. Call it as `apply(variables, x, train=...)` with x normalised, float
    [batch, height, width, channels]; it returns float32 logits [batch, num_classes].

  Raises:
    UserError: a name or an option is unknown, a value has the wrong type, is out of range, or has
      no effect beside the other values.
  """
  entry = lookup(name)
  values = entry.defaults | _checked_overrides(name, entry.builder, overrides)
  for key, other, needed in getattr(entry.builder, "NEEDS", ()):
    by_check = isinstance(needed, Check)
    fits = needed.holds(values[other]) if by_check else values[other] == needed
    # Values of the variant itself are accepted: a saved run repeats them.
    if values[key] != entry.defaults[key] and not fits:
      without = f"{other} {needed.text}" if by_check else f"{other}={needed!r}"
      raise UserError(f"{name}.{key}={values[key]!r} does nothing without {without}")
  model = entry.builder(
    num_classes=_checked(f"{name}.num_classes", num_classes, Classes),
    dtype=_dtype(dtype),
    **values,
  )
  _CLASSES.add(type(model))
  return model


def is_registered(module: nn.Module) -> bool:
  """Returns whether `module` is a model that was registered here."""
  builders = {part.value.builder for part in registry.parts("model").values()}
  return type(module) in {*_CLASSES, *builders}


def lookup(name: str) -> Entry:
  """Returns the entry of `name`: its builder, defaults, usual input shape and reference."""
  return registry.part("model", name).value


def names(pattern: str = "*") -> list[str]:
  """Returns the registered names that match a shell pattern, in natural order."""

  def natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

  return sorted(fnmatch.filter(registry.parts("model"), pattern), key=natural)


def fields(name: str) -> dict[str, Any]:
  """Returns the options of `create(name, ...)` with the defaults of that variant."""
  return dict(lookup(name).defaults)


def _parameters(builder: Callable[..., nn.Module]) -> dict[str, inspect.Parameter]:
  parameters = inspect.signature(builder).parameters
  return {key: value for key, value in parameters.items() if key not in RESERVED}


def _checked_overrides(
  name: str, builder: Callable[..., nn.Module], overrides: dict[str, Any]
) -> dict[str, Any]:
  accepted = _parameters(builder)
  for key in overrides:
    if key not in accepted:
      raise unknown(f"option of {name}", key, accepted)
  return {
    key: _checked(f"{name}.{key}", value, accepted[key].annotation)
    for key, value in overrides.items()
  }


def _checked(what: str, value: Any, annotation: Any) -> Any:
  """Returns `value` converted to its `annotation`; raises UserError where it does not fit.

  Lists become tuples, ints floats where a float is asked, and numpy scalars Python's.
  """
  origin, args = get_origin(annotation), get_args(annotation)
  if isinstance(value, np.generic):
    value = value.item()
  if origin is Annotated:
    value = _checked(what, value, args[0])
    for check in args[1:]:
      if not check.holds(value):
        raise UserError(f"{what} must be {check.text}, got {value!r}")
    return value
  if origin is Literal:
    if (type(value), value) in [(type(arg), arg) for arg in args]:  # 3.0 is not 3, nor True 1
      return value
    if not isinstance(value, str) and str(value).lower() in args:
      return str(value).lower()  # the command line reads none as None, and 2012 as a number
    raise unknown(what, value, args)
  if tuple[()] in args:
    empty = isinstance(value, tuple | list) and not value
    return () if empty else _checked(what, value, args[0])
  if origin is tuple and args[1:] == (Ellipsis,):
    if not isinstance(value, tuple | list):
      raise UserError(f"{what} must be a tuple, such as ({value!r},), got {value!r}")
    if not value:
      raise UserError(f"{what} must not be empty, got {value!r}")
    return tuple(_checked(f"{what}[{i}]", item, args[0]) for i, item in enumerate(value))
  if isinstance(annotation, type) and hasattr(annotation, "_fields"):  # a NamedTuple
    return _row(what, value, annotation)
  if annotation is float and type(value) is int:
    return float(value)
  if annotation in (bool, int, float, str) and type(value) is not annotation:
    raise UserError(f"{what} must be of type {annotation.__name__}, got {value!r}")
  return value


def _row(what: str, value: Any, kind: type) -> Any:
  """Returns `value` as the NamedTuple `kind`; in a saved config it is a list."""
  names = kind._fields
  needed = len(names) - len(kind._field_defaults)
  if not isinstance(value, tuple | list) or not needed <= len(value) <= len(names):
    raise UserError(f"{what} must be a row ({', '.join(names)}), got {value!r}")
  hints = get_type_hints(kind, include_extras=True)
  return kind(*(_checked(f"{what}.{n}", v, hints[n]) for n, v in zip(names, value, strict=False)))


def _dtype(dtype: Any) -> Any:
  try:
    name = jnp.dtype(dtype).name
  except TypeError:
    name = str(dtype)
  if name not in DTYPES:
    raise unknown("dtype", name, DTYPES)
  return jnp.dtype(name)
