"""What the manifest of a checkpoint says of its files."""

import hashlib
import json
import pathlib

from cnnjax.checkpoints import integrity


def test_a_manifest_lists_sizes_that_are_numbers(tmp_path):
  (tmp_path / "file").write_bytes(bytes(2000))
  for files in ({"file": ["2000", "0"]}, {"file": [2000, 0]}, {"file": 3}):
    manifest = {"files": files, "sha256": integrity._digest(files)}
    (tmp_path / integrity.MANIFEST).write_text(json.dumps(manifest))
    assert integrity.problems(tmp_path) == ["manifest.json cannot be read: it is no manifest"]
  integrity.seal(tmp_path)
  assert integrity.problems(tmp_path) == []
  (tmp_path / "file").write_bytes(bytes(1000))
  assert integrity.problems(tmp_path) == ["file has 1,000 bytes instead of 2,000"]


def test_a_file_that_is_a_link_or_a_folder_or_closed_is_damage(tmp_path, monkeypatch):
  file = tmp_path / "a" / "file"
  file.parent.mkdir()
  file.write_text("x")
  (tmp_path / "other").write_text("x")
  integrity.seal(tmp_path)
  assert integrity.problems(tmp_path, "a/file") == integrity.problems(tmp_path, "nowhere") == []

  def denied(*_, **__):
    raise PermissionError(13, "Permission denied")

  with monkeypatch.context() as patch:
    patch.setattr(integrity.hashlib, "file_digest", denied)
    assert integrity.problems(tmp_path, "a/file") == ["a/file cannot be read: Permission denied"]
  file.unlink()
  file.symlink_to(tmp_path / "other")
  assert integrity.problems(tmp_path) == ["a/file is not a plain file"]
  file.unlink()
  file.symlink_to(tmp_path)
  assert integrity.problems(tmp_path) == ["a/file is not a plain file"]
  file.unlink()
  assert integrity.problems(tmp_path) == ["a/file is missing"]
  assert integrity.problems(tmp_path, "other") == []


def test_a_manifest_can_be_read_by_a_person(tmp_path):
  """A line for each number and hash, in the order of the names."""
  (tmp_path / "b").write_bytes(b"12")
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "c").write_bytes(b"")
  integrity.seal(tmp_path)
  text = (tmp_path / integrity.MANIFEST).read_text()
  digest = lambda data: hashlib.sha256(data).hexdigest()
  files = {"a/c": [0, digest(b"")], "b": [2, digest(b"12")]}
  whole = digest(json.dumps(files, sort_keys=True).encode())
  assert text == json.dumps({"sha256": whole, "files": files}, indent=1)
  assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b", integrity.MANIFEST]


def test_a_power_cut_leaves_no_manifest_without_its_files(tmp_path, monkeypatch):
  """Each file is on the disk before the manifest has its name, and then the folder."""
  (tmp_path / "file").write_bytes(b"12")
  synced = []
  monkeypatch.setattr(
    integrity.os,
    "fsync",
    lambda n: synced.append(pathlib.Path(f"/proc/self/fd/{n}").readlink().name),
  )
  integrity.seal(tmp_path)
  assert synced == ["file", f"{integrity.MANIFEST}.new", tmp_path.name]
