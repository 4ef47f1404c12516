"""Reads files that torch.save wrote, without torch: it runs nothing that a file names.

A pickle names functions and classes that make its objects. Here such a name stands for a function
of this module, which keeps numbers and shapes, or for a `Named` object, which keeps nothing; every
other name is refused. Both layouts are read: the zip file of torch 1.6 and newer, and the pickles
one after another of older ones. Tensors are mapped from the file, and read as they are used.
"""

import collections
import dataclasses
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from cnnjax.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {
  "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": ml_dtypes.bfloat16, "Long": "i8",
  "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip
# Of these modules checkpoints name what is no weight: settings, dates, counts. It is left out.
LEFT_OUT = {"argparse", "datetime", "numpy", "omegaconf", "pathlib", "typing"}


class Named:
  """An object of a class that is not looked up; it takes any content, and keeps none."""

  def __init__(self, *_: Any, **__: Any):
    pass

  def __setstate__(self, _: Any) -> None:
    pass

  def __setitem__(self, _: Any, __: Any) -> None:
    pass

  def append(self, _: Any) -> None:
    pass

  def extend(self, _: Any) -> None:
    pass


@dataclasses.dataclass(eq=False)
class Storage:
  """Numbers that tensors lie in; `array` is set as soon as their place in the file is known."""

  dtype: np.dtype
  size: int
  array: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class Tensor:
  """A view of a storage, in numbers of its type."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def read(self) -> np.ndarray:
    """Returns the array; ValueError unless it lies within its storage."""
    numbers = (self.offset, *self.shape, *self.strides)
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
      raise ValueError("negative sizes")
    if len(self.shape) != len(self.strides) or math.prod(self.shape) > self.storage.size:
      raise ValueError("a tensor larger than its storage")
    last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
    if math.prod(self.shape) and self.offset + last >= self.storage.size:
      raise ValueError("a tensor beyond its storage")
    width = self.storage.dtype.itemsize
    return np.lib.stride_tricks.as_strided(
      self.storage.array[self.offset :], self.shape, [n * width for n in self.strides],
      writeable=False,
    )  # fmt: skip


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
  return Tensor(storage, offset, tuple(shape), tuple(strides))


def _first(value: Any, *_: Any) -> Any:
  return value


def _of_type(make: Callable, _: Any, given: tuple, __: Any) -> Any:
  """A tensor of a subclass, made by one of the functions here."""
  if make not in (_tensor, _first):
    raise ValueError("a tensor that is made in an unknown way")
  return make(*given)


def _text(value: str, _: str = "") -> bytes:
  return value.encode("latin1")  # how pickles of Python 2 hold bytes


NAMES = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("collections", "defaultdict"): lambda *_: {},
  ("collections", "Counter"): lambda *_: {},
  ("torch._utils", "_rebuild_tensor"): _tensor,
  ("torch._utils", "_rebuild_tensor_v2"): _tensor,
  ("torch._utils", "_rebuild_parameter"): _first,
  ("torch._utils", "_rebuild_parameter_with_state"): _first,
  ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
  ("torch", "Size"): lambda sizes=(): tuple(sizes),
  ("torch", "device"): Named,
  ("torch.nn.parameter", "Parameter"): Named,
  ("torch", "Tensor"): Named,
  ("_codecs", "encode"): _text,
  ("builtins", "set"): lambda items=(): list(items),
  ("__builtin__", "set"): lambda items=(): list(items),
}


class _Unpickler(pickle.Unpickler):
  """Makes what `NAMES` says, and refuses every other name."""

  def __init__(self, file: BinaryIO, path: pathlib.Path, stored: Callable[[tuple], Storage]):
    super().__init__(file, encoding="latin1")
    self._path, self._stored = path, stored

  def find_class(self, module: str, name: str) -> Any:
    if made := NAMES.get((module, name)):
      return made
    kind = name.removesuffix("Storage")
    if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
      if kind in DTYPES:
        return np.dtype(DTYPES[kind])
      raise UserError(f"{self._path} holds tensors of the type {kind}, which are no weights here")
    if module == "torch" and name.islower():  # a type, such as torch.float32
      return Named
    if module.split(".")[0] in LEFT_OUT:
      return Named
    raise UserError(
      f"{self._path} names {module}.{name}, and no code of a file is run: it holds more than "
      "weights. Where it was made, write them alone: torch.save(model.state_dict(), FILE)"
    )

  def persistent_load(self, pid: Any) -> Any:
    if not isinstance(pid, tuple) or not pid or pid[0] not in ("storage", b"storage"):
      if isinstance(pid, tuple) and pid and pid[0] == "module":
        return pid[1]
      raise ValueError("a reference to something else than a storage")
    return self._stored(pid)


def read(path: pathlib.Path) -> Any:
  """Returns what a file of torch holds, its tensors as arrays, and what is no weight as `Named`.

  Raises:
    UserError: it is damaged or cut short, or names code.
  """
  try:
    held = _read_zip(path) if zipfile.is_zipfile(path) else _read_pickles(path)
    return _arrays(held)
  except (UserError, OSError):
    raise
  except Exception as e:  # a pickle that is damaged fails in many ways
    raise UserError(
      f"{path} is damaged or cut short, or no file of torch ({type(e).__name__}: {e})"
    ) from e


def _storage(pid: tuple) -> tuple[str, Storage]:
  """Returns the key and the storage that a pickle refers to."""
  _, dtype, key, _, size = pid[:5]
  if not isinstance(dtype, np.dtype) or not isinstance(size, int) or size < 0:
    raise ValueError("a storage without a type or a size")
  return str(key), Storage(dtype, size)


def _mapped(path: pathlib.Path, storage: Storage, offset: int, little: bool = True) -> None:
  """Maps the numbers of a storage from where they lie in the file."""
  if offset + storage.size * storage.dtype.itemsize > path.stat().st_size:
    raise ValueError("the file ends within a tensor")
  dtype = storage.dtype if little else storage.dtype.newbyteorder(">")
  shape = (storage.size,)
  storage.array = np.memmap(path, dtype, "r", offset, shape) if storage.size else np.empty(0, dtype)


def _read_zip(path: pathlib.Path) -> Any:
  stored: dict[str, Storage] = {}
  with zipfile.ZipFile(path) as archive:
    names = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in names:
      raise UserError(
        f"{path} is a zip file without weights of torch (a TorchScript file holds code: load it in "
        "torch and save its state_dict)"
      )
    little = "byteorder" not in names or archive.read(names["byteorder"]) == b"little"

    def place(pid: tuple) -> Storage:
      key, storage = _storage(pid)
      if key not in stored:
        info = names[f"data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
          raise ValueError("compressed tensors")
        with path.open("rb") as file:  # its own header may be longer than that of the directory
          file.seek(info.header_offset + 26)
          beside = sum(struct.unpack("<HH", file.read(4)))
        if info.file_size < storage.size * storage.dtype.itemsize:
          raise ValueError("a storage shorter than it says")
        _mapped(path, storage, info.header_offset + 30 + beside, little)
        stored[key] = storage
      return stored[key]

    with archive.open(names["data.pkl"]) as file:
      return _Unpickler(file, path, place).load()


def _read_pickles(path: pathlib.Path) -> Any:
  stored: dict[str, Storage] = {}

  def place(pid: tuple) -> Storage:
    key, storage = _storage(pid)
    first = stored.setdefault(key, storage)
    if len(pid) > 5 and pid[5] is not None:
      raise ValueError("a view of a storage, as torch 0.3 wrote it")
    return first

  with path.open("rb") as file:
    load = lambda: _Unpickler(file, path, place).load()
    if load() != MAGIC or load() != PROTOCOL:
      raise ValueError("another beginning")
    load()  # sizes of types where it was written
    held = load()
    for key in load():
      (size,) = struct.unpack("<q", file.read(8))
      storage = stored[str(key)]
      if size != storage.size:
        raise ValueError("a storage of another size than it says")
      _mapped(path, storage, file.tell())
      file.seek(size * storage.dtype.itemsize, 1)
  return held


def _arrays(held: Any, depth: int = 0) -> Any:
  """Returns `held` with arrays for tensors."""
  if depth > 20:
    raise ValueError("dicts in dicts without end")
  if isinstance(held, Tensor):
    return held.read()
  if isinstance(held, dict):
    return {key: _arrays(value, depth + 1) for key, value in held.items()}
  if isinstance(held, list | tuple):
    return [_arrays(value, depth + 1) for value in held]
  return held
