"""Reads a file of weights, whoever wrote it: arrays by name, and what stands beside them.

The kind is seen from the content, not from the ending: safetensors, HDF5 and .keras of Keras, a zip
or a pickle of torch, npz. Nothing in a file is run; torch, Keras and TensorFlow are not needed.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnnjax.errors import UserError, listed

# Where a checkpoint of torch keeps weights beside an optimizer and more, averages first: they are
# what its author evaluates.
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
WEIGHTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
# What wrappers put before every name: data parallel, torch.compile, Lightning, self-supervision.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")


@dataclasses.dataclass(frozen=True)
class WeightFile:
  """The content of a file of weights."""

  kind: str  # "safetensors", "keras", "torch" or "npz"
  weights: dict[str, np.ndarray]
  metadata: dict[str, str] = dataclasses.field(default_factory=dict)  # of safetensors
  notes: tuple[str, ...] = ()  # what was chosen or taken off, in words


def read(path: pathlib.Path) -> WeightFile:
  """Returns the weights in a file.

  Raises:
    UserError: there is no such file, it is of no kind that is read, is damaged, or holds no
      weights.
  """
  try:
    with path.open("rb") as file:
      begins = file.read(64)
  except OSError as e:
    raise UserError(f"cannot read {path}: {e.strerror}") from e
  if begins.startswith(b"\x89HDF\r\n\x1a\n"):
    return _keras(path)
  if begins.startswith(b"PK"):
    return _zip(path)
  if begins[:2] == b"\x80\x02":
    return _torch(path)
  size = int.from_bytes(begins[:8], "little")
  if begins[8:9] == b"{" and size <= path.stat().st_size:
    return _safetensors(path)
  if begins.startswith((b"version https://git-lfs", b"<!DOCTYPE", b"<html", b"<?xml")):
    raise UserError(
      f"{path} is a page or a pointer that was downloaded instead of the weights "
      f"({begins.decode(errors='replace')!r}): fetch the file itself"
    )
  raise UserError(
    f"{path} is no file of weights: cnnjax reads safetensors, .h5, .weights.h5 and .keras of "
    "Keras, .pth and .pt of torch, and npz"
  )


def _zip(path: pathlib.Path) -> WeightFile:
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  except (zipfile.BadZipFile, OSError) as e:
    raise UserError(f"{path} is damaged or cut short ({e})") from e
  if "model.weights.h5" in names:
    return _keras(path)
  if names and all(name.endswith(".npy") for name in names):
    return _npz(path)
  return _torch(path)


def _needs_extra(path: pathlib.Path, error: ImportError) -> UserError:
  return UserError(f"to read {path}, {error.name} is missing: pip install 'cnnjax[weights]'")


def _keras(path: pathlib.Path) -> WeightFile:
  try:
    from cnnjax.transfer import keras_file  # late: h5py is of the extra `weights`
  except ImportError as e:
    raise _needs_extra(path, e) from e

  return WeightFile("keras", keras_file.read(path))


def _npz(path: pathlib.Path) -> WeightFile:
  try:
    with np.load(path, allow_pickle=False) as held:
      return WeightFile("npz", {name: held[name] for name in held.files})
  except (ValueError, OSError, zipfile.BadZipFile, EOFError) as e:
    raise UserError(f"{path} is damaged, or holds objects instead of numbers ({e})") from e


def _safetensors(path: pathlib.Path) -> WeightFile:
  try:
    import safetensors  # late, as h5py
    from safetensors import numpy as safe
  except ImportError as e:
    raise _needs_extra(path, e) from e

  try:
    with safetensors.safe_open(path, "np") as file:
      metadata = file.metadata() or {}
    weights = safe.load_file(path)
  except Exception as e:  # of its own types, and KeyError for a type of numbers
    raise UserError(f"{path} is damaged or cut short ({type(e).__name__}: {e})") from e
  weights, notes = _unprefixed(weights)
  return WeightFile("safetensors", weights, metadata, notes)


def _torch(path: pathlib.Path) -> WeightFile:
  from cnnjax.transfer import torch_file

  held, notes = _unwrapped(torch_file.read(path), path)
  weights, more = _unprefixed(held)
  return WeightFile("torch", weights, notes=(*notes, *more))


def _is_weights(held: Any) -> bool:
  """Returns whether it is a mapping from names to arrays, and nothing else but empty entries."""
  if not isinstance(held, Mapping) or not all(isinstance(name, str) for name in held):
    return False
  return any(isinstance(value, np.ndarray) for value in held.values()) and not any(
    isinstance(value, Mapping) and value for value in held.values()
  )


def _unwrapped(held: Any, path: pathlib.Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Returns the weights in what a file of torch holds, and a note where they were inside."""
  for _ in range(3):
    if _is_weights(held):
      return {k: v for k, v in held.items() if isinstance(v, np.ndarray)}, ()
    if not isinstance(held, Mapping):
      break
    inside = [name for name in (*AVERAGES, *WEIGHTS) if isinstance(held.get(name), Mapping)]
    if not inside:
      break
    name = next((n for n in inside if _is_weights(held[n])), inside[0])
    if _is_weights(held[name]):
      rest = [n for n in inside if n != name]
      note = f"its weights are in {name!r}" + (f", beside {listed(rest)}" if rest else "")
      return _unwrapped(held[name], path)[0], (note,)
    held = held[name]
  is_dict = isinstance(held, Mapping)
  what = f"a dict of {listed(sorted(map(str, held)))}" if is_dict else f"a {type(held).__name__}"
  raise UserError(f"{path} holds {what}, and no weights by name: save a state_dict")


def _unprefixed(
  weights: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Returns the weights without what stands before every name, and notes of it."""
  taken = ""
  while weights:
    prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), "")
    if not prefix:
      break
    taken += prefix
    weights = {name[len(prefix) :]: value for name, value in weights.items()}
  return dict(weights), ((f"every name began with {taken!r}",) if taken else ())
