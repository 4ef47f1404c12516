"""Reads weights that Keras saved, by h5py alone: .h5 of 2015 on, .weights.h5 and .keras.

Names come out as Keras has them today, LAYER/VARIABLE, such as "conv1_conv/kernel".
"""

import io
import json
import pathlib
import re
import zipfile
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from cnnjax.errors import UserError

WEIGHTS_IN_ZIP = "model.weights.h5"
LARGEST = 2**36  # bytes of an array
# Variables of a layer by their order, for a kind of layer as Keras 3 names groups.
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_NORM_UNSCALED = ("beta", "moving_mean", "moving_variance")
_VARIABLES = {
  "batch_normalization": _NORM,
  "layer_normalization": ("gamma", "beta"),
  "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
  "normalization": ("mean", "variance", "count"),
  "layer_scale": ("gamma",),
}
# How Keras 1 and 2.0 end a name. Its running_std holds variances.
_OLD = {
  "W": "kernel", "b": "bias", "gamma": "gamma", "beta": "beta", "running_mean": "moving_mean",
  "running_std": "moving_variance",
}  # fmt: skip


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the weights in a file of Keras by name.

  Raises:
    UserError: it is damaged, or holds no weights.
  """
  try:
    if not zipfile.is_zipfile(path):
      with h5py.File(path) as file:
        return _read(file, path)
    with zipfile.ZipFile(path) as archive:
      names = _layer_names(json.loads(archive.read("config.json")))
      with h5py.File(io.BytesIO(archive.read(WEIGHTS_IN_ZIP))) as file:
        return _read(file, path, names)
  except UserError:
    raise
  except Exception as e:  # h5py's errors are of many types
    raise UserError(f"{path} is damaged or cut short ({type(e).__name__}: {e})") from e


def _read(
  file: h5py.File, path: pathlib.Path, names: dict[str, str] | None = None
) -> dict[str, np.ndarray]:
  held = file.get("model_weights", file)  # of a whole model
  if "layer_names" in held.attrs or "layer_names0" in held.attrs:
    return _of_layers(held, path)
  if "layers" in file or "_layer_checkpoint_dependencies" in file:
    return _of_groups(file, path, names or {})
  raise UserError(f"{path} is an HDF5 file without weights of Keras")


def _of_layers(held: h5py.Group, path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the weights of the layout of Keras 1 and 2, a group for each layer."""
  if _as_text(held.attrs.get("backend", "tensorflow")) == "theano":
    raise UserError(
      f"{path} was saved with the backend Theano, whose kernels are turned by 180 degrees: take "
      "the file for TensorFlow (..._tf_dim_ordering_tf_kernels.h5)"
    )
  weights = {}
  for layer in _list(held, "layer_names"):
    group = held[layer]
    for name in _list(group, "weight_names"):
      *before, last = name.split(":")[0].split("/")
      if match := re.fullmatch(rf"{re.escape(layer)}_({'|'.join(_OLD)})(_\d+)?", last):
        last = _OLD[match[1]]
      weights["/".join([*(before or [layer]), last])] = _array(group[name], held.file, path, name)
  return weights


def _of_groups(file: h5py.File, path: pathlib.Path, names: dict[str, str]) -> dict[str, np.ndarray]:
  """Returns the weights of the layout of Keras 3: groups by kind and count, variables by number.

  A group carries the name of its layer; where it does not (before Keras 3.4), `names` gives it.
  """
  weights = {}

  def visit(name: str, item: Any) -> None:
    place, _, variables = name.rpartition("/")
    if variables != "vars" or not isinstance(item, h5py.Group):
      return
    group = place.split("/")[-1]
    if group in ("optimizer", "metrics") or place.startswith("optimizer"):
      return
    layer = _as_text(item.attrs.get("name", "")) or names.get(place, group)
    kind = re.sub(r"_\d+$", "", group)
    known = _VARIABLES.get(kind, ("kernel", "bias"))
    if kind == "batch_normalization" and len(item) == len(_NORM_UNSCALED):
      known = _NORM_UNSCALED
    for number, variable in enumerate(sorted(item, key=int)):
      leaf = known[number] if number < len(known) else variable
      weights[f"{layer}/{leaf}"] = _array(item[variable], file, path, f"{name}/{variable}")

  file.visititems(visit)
  return weights


def _layer_names(config: dict) -> dict[str, str]:
  """Returns the name of each layer by the place of its weights, from the config of a .keras."""
  names: dict[str, str] = {}

  def visit(model: dict, place: str) -> None:
    counts: dict[str, int] = {}
    for layer in model.get("config", {}).get("layers", []):
      kind = _snake_case(layer["class_name"])
      number = counts[kind] = counts.get(kind, -1) + 1
      here = f"{place}layers/{kind}" + (f"_{number}" if number else "")
      names[here] = layer["config"].get("name", "")
      visit(layer, f"{here}/")

  visit(config, "")
  return names


def _snake_case(name: str) -> str:
  name = re.sub(r"\W+", "", name)
  name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
  return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _list(group: h5py.Group, name: str) -> list[str]:
  """Returns the texts of an attribute, which large models have in pieces NAME0, NAME1, ..."""
  pieces = [name] if name in group.attrs else []
  while f"{name}{len(pieces)}" in group.attrs and name not in group.attrs:
    pieces.append(f"{name}{len(pieces)}")
  return [_as_text(text) for piece in pieces for text in group.attrs[piece]]


def _as_text(value: Any) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def _array(item: Any, file: h5py.File, path: pathlib.Path, name: str) -> np.ndarray:
  """Returns the numbers of a dataset that lies in the file itself."""
  inside = isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual
  if not inside or item.file.filename != file.filename or item.nbytes > LARGEST:
    raise UserError(f"{path}: {name} is no array of this file, or is larger than 64 GiB")
  array = item[()]
  if _as_text(item.attrs.get("dtype", "")) == "bfloat16":
    return array.view(ml_dtypes.bfloat16)
  return array
