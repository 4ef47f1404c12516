"""Counts the files in a folder that are not read: other formats, litter of programs."""

import collections
import dataclasses
import re

from cnnjax.errors import listed

# Endings of pictures that are not read.
PHOTOS = (
  ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".psd", ".psb", ".xcf",
  ".tga", ".exr", ".hdr", ".dds", ".ico", ".pcx", ".eps", ".dcm", ".nef", ".nrw", ".cr2", ".cr3",
  ".crw", ".arw", ".srf", ".sr2", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw", ".3fr",
  ".iiq", ".x3f", ".kdc", ".dcr", ".erf", ".mrw", ".mef", ".mos", ".rwl",
)  # fmt: skip
# Folders and files that photo tools, archives, servers and systems leave, in lower case; others
# begin with a dot, as hidden files do.
_LITTER = {
  "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "$recycle.bin", "__macosx",
  "system volume information", "lost+found", "__pycache__", "thumbs.db", "ehthumbs.db",
  "desktop.ini", "icon\r",
}  # fmt: skip


def is_litter(name: str) -> bool:
  """Returns whether another program leaves files or folders of that name."""
  return name.lower() in _LITTER


@dataclasses.dataclass
class Leftovers:
  """Counts of the files in a folder that are not read, by kind."""

  files: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # by ending
  passed: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # by name
  outside: list[str] = dataclasses.field(default_factory=list)  # images that are in no class

  def pass_over(self, name: str, *, is_folder: bool) -> None:
    """Counts a file or folder that is hidden or litter."""
    by_name = is_folder or is_litter(name) or name == ".DS_Store"
    self.passed[name if by_name else "._*" if name.startswith("._") else "hidden files"] += 1

  def add_file(self, name: str) -> None:
    """Counts a file whose ending is not that of an image."""
    ending = re.search(r"\.\w{1,10}$", name.lower())
    self.files[ending.group() if ending else "without an ending"] += 1

  def add(self, other: "Leftovers") -> None:
    """Adds the counts of `other`."""
    self.files += other.files
    self.passed += other.passed
    self.outside += other.outside

  def photos(self) -> str:
    """Returns in words the pictures in formats that are not read; "" if there are none."""
    photos = {name: n for name, n in self.files.items() if name in PHOTOS}
    return f"{_counted(photos)}: convert them to JPEG or PNG" if photos else ""

  def remarks(self) -> dict[str, str]:
    """Returns the remarks on these files for the start of a run."""
    others = {name: n for name, n in self.files.items() if name not in PHOTOS}
    unread = [self.photos(), _counted(others)]
    if n := len(self.outside):
      unread.append(f"{n:,} image{'s' * (n > 1)} in no class, such as {self.outside[0]}")
    remarks = {"not read": "; ".join(filter(None, unread)), "passed over": _counted(self.passed)}
    return {key: text for key, text in remarks.items() if text}


def _counted(names: dict[str, int]) -> str:
  """Returns names with their counts in words, the most frequent first."""
  ordered = sorted(names.items(), key=lambda item: (-item[1], item[0]))
  return listed([f"{n:,} {name}" for name, n in ordered])
