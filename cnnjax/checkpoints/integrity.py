"""Verifies the files of a checkpoint by a manifest of their sizes and hashes.

The manifest is JSON and lies among the files that it lists. A check reads the files that it finds:
a name in a manifest never opens one.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

MANIFEST = "manifest.json"
_NEW = f"{MANIFEST}.new"


def seal(folder: pathlib.Path) -> None:
  """Writes the manifest of the files in `folder`, once all of them are on disk.

  Raises:
    OSError: a file cannot be read, or the disk is full.
  """
  files = {}
  for name, path in _files(folder).items():
    with path.open("rb") as f:
      os.fsync(f.fileno())  # else a power cut could leave the manifest without its files
      digest = hashlib.file_digest(f, "sha256").hexdigest()
    files[name] = [path.stat().st_size, digest]
  with (folder / _NEW).open("w") as f:
    json.dump({"sha256": _digest(files), "files": files}, f, indent=1)
    f.flush()
    os.fsync(f.fileno())
  (folder / _NEW).replace(folder / MANIFEST)
  sync(folder)


def sync(folder: pathlib.Path) -> None:
  """Returns when the names in `folder` are on disk."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def is_sealed(folder: pathlib.Path) -> bool:
  """Returns whether there is a manifest; a writer that was killed leaves none."""
  return (folder / MANIFEST).exists()


def problems(folder: pathlib.Path, only: str | None = None) -> list[str]:
  """Returns in words what is wrong with the files in `folder`; nothing without a manifest."""
  if not is_sealed(folder):
    return []
  try:
    listed = _read(folder)
  except (OSError, ValueError) as e:
    return [f"{MANIFEST} cannot be read: {_reason(e)}"]
  there = _files(folder)
  found = []
  for name in sorted({*listed, *there}) if only is None else {only} & {*listed, *there}:
    if pathlib.PurePosixPath(name).is_absolute() or ".." in name.split("/"):
      found.append(f"{MANIFEST} names {name}, which is outside")
    elif name not in there:
      found.append(f"{name} is missing")
    elif name not in listed:
      found.append(f"{name} was added")
    elif problem := _problem(there[name], *listed[name]):
      found.append(f"{name} {problem}")
  return found


def _read(folder: pathlib.Path) -> dict[str, list]:
  """Reads the size and hash of each file; ValueError if the manifest has another form."""
  try:
    found = json.loads((folder / MANIFEST).read_bytes())
    files = found["files"]
    if found["sha256"] != _digest(files):
      raise ValueError("it has other bytes than were written")
    for size, digest in files.values():
      if not (isinstance(size, int) and isinstance(digest, str)):
        raise ValueError("it is no manifest")
  except (KeyError, TypeError, AttributeError, RecursionError) as e:
    raise ValueError("it is no manifest") from e
  return files


def _digest(files: Any) -> str:
  return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _problem(path: pathlib.Path, size: int, digest: str) -> str | None:
  try:
    if path.is_symlink() or not path.is_file():
      return "is not a plain file"
    if (now := path.stat().st_size) != size:
      return f"has {now:,} bytes instead of {size:,}"
    with path.open("rb") as f:
      if hashlib.file_digest(f, "sha256").hexdigest() != digest:
        return "has other bytes than were written"
  except OSError as e:
    return f"cannot be read: {_reason(e)}"
  return None


def _reason(error: Exception) -> str:
  return getattr(error, "strerror", None) or str(error)


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the files under `folder` by name with "/", without the manifest; follows no links."""
  found = {}
  for root, folders, names in os.walk(folder):
    links = [name for name in folders if os.path.islink(os.path.join(root, name))]
    for path in (pathlib.Path(root, name) for name in (*names, *links)):
      found[path.relative_to(folder).as_posix()] = path
  return {name: found[name] for name in sorted(found) if name not in (MANIFEST, _NEW)}
