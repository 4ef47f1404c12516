"""Scans every image of a folder or a table before training.

    PATH/train/<class>/*.jpg, PATH/val/..., PATH/test/...    splits
    PATH/<class>/*.jpg                                       no splits
    PATH.csv, PATH.jsonl                                     of a table, the files that it lists

Files are decoded as in training, so unreadable ones are those that training would skip.
"""

import collections
import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from cnnjax.data import identity, images, names, tables, walk
from cnnjax.data.leftovers import PHOTOS, is_litter
from cnnjax.data.pixels import Reading, deep_values
from cnnjax.errors import UserError
from cnnjax.runtime.paths import PathLike, to_path

# The kinds of findings with their meaning. The first ones are harmful: they lose examples, or make
# results wrong.
HARMFUL = {
  "empty": "files of 0 bytes",
  "truncated": "files that end early",
  "unreadable": "files that cannot be decoded, or not opened",
  "leaked": "the same picture in two splits",
  "conflicting": "the same picture in two classes",
  "to be parted": "the same picture in files that differ, or of more than "
  f"{identity.LARGE // 2**30} GiB in any: a hold-out may train on one and test the other; delete "
  "all but one",
  "bits unused": "16-bit files that use fewer: without data.range they are dark, or black",
  "other formats": "pictures in formats that are not read: convert them to JPEG or PNG",
}
KINDS = {
  **HARMFUL,
  "duplicate": "the same picture twice, in one split and class; files that are the same to the "
  f"byte are on one side of a hold-out, of up to {identity.LARGE // 2**30} GiB",
  "classes that differ": "a split lacks classes that another one has",
  "empty folder": "class folders without images",
  "outside": "images that are in no class folder: not read",
  "wrong ending": "read all the same, by their content",
  "ending unknown": "images by their content, whose ending is not one of an image: not read",
  "other files": "neither images by their ending nor by their content: not read",
  "hidden": "names that begin with a dot: not read",
  "litter": "what photo tools, archives and systems leave: not read",
  "names": "of splits, columns and classes, that may have been meant otherwise",
  "grey": "read with three equal channels where data.channels is 3",
  "CMYK": "converted to RGB without a colour profile",
  "alpha": "transparency is dropped; data.alpha=white or black puts a colour behind it",
  "palette": "converted to RGB",
  "16 bits": "the upper 8 are read; data.range says which values are black and white",
  "several frames": "animated, or several pages: the first is read",
  "turned": "by EXIF, and read so; data.orientation=ignore reads them as stored",
  "small": "a side of less than 32 pixels",
  "large": "over 16 million pixels: slow to decode",
  "elongated": "a side over 4 times the other: crops see little of it",
}
HOLD_OUT = (
  "no splits: a part will be held out. Pictures that are alike and not the same (of one patient, "
  "recording or scene; resized) are not looked for: data.group keeps them on one side"
)
File = tuple[str, str, tuple[str, ...]]  # (path, split, classes)
FEW_BITS = 14  # of 16: the upper 8 then have 64 levels at most
_CHUNK = 512  # files that are in the hands of the threads at a time


@dataclasses.dataclass(frozen=True, slots=True)
class ScannedImage:
  """The properties of one image file; `height` is 0 if it cannot be read."""

  path: str  # relative to the folder, or to that of the table
  split: str  # "" where there are no splits
  labels: tuple[str, ...]  # () outside of class folders; a table may give more than one
  notes: tuple[tuple[str, str], ...]  # of KINDS, and details
  height: int = 0
  width: int = 0
  size: int = 0  # in bytes
  content: bytes = b""  # a hash of the file
  pixels: bytes = b""  # a hash of the decoded pixels
  largest: int | None = None  # of the values of a file with 16 bits


@dataclasses.dataclass(frozen=True)
class Report:
  """The report of `scan`.

  `findings` has lines by kind, see KINDS; `classes` those of each split.
  """

  root: str
  images: tuple[ScannedImage, ...]
  findings: dict[str, tuple[str, ...]]
  classes: dict[str, tuple[str, ...]]

  @property
  def harmful(self) -> bool:
    """True if training would lose examples, or its results would mislead."""
    return any(kind in HARMFUL for kind in self.findings)

  @property
  def counts(self) -> dict[str, dict[str, int]]:
    """The number of readable images by split and class."""
    counted = collections.Counter(
      (image.split, label) for image in self.images if image.height for label in image.labels
    )
    return {
      split: {label: counted[split, label] for label in labels}
      for split, labels in self.classes.items()
    }


def scan(path: PathLike, progress: Callable[[int, int], None] | None = None) -> Report:
  """Scans every file in the folder `path`, or of the CSV or JSONL file `path`.

  `progress` gets the number of files done and of all files.

  Raises:
    UserError: there is no such folder or table, no image in it, or a line of it is wrong.
  """
  path = to_path(path)
  findings = {kind: [] for kind in KINDS}
  listed = path.is_file() and path.name.lower().endswith(tables.ENDINGS)
  if not (listed or path.is_dir()):
    but = (
      f", but a file, of which scan takes {' and '.join(tables.ENDINGS)}" if path.is_file() else ""
    )
    raise UserError(f"{str(path)!r} is not a folder{but}")
  root = path.parent if listed else path
  try:
    files, classes = (_listed if listed else _walk)(path, findings)
  except OSError as e:
    raise UserError(f"cannot read {e.filename}: {e.strerror}") from e
  if not files:
    raise UserError(
      f"{path} has no images in it: no file ends in {', '.join(images.IMAGE_ENDINGS)}"
    )
  called = names.classes(label for labels in classes.values() for label in labels)
  findings["names"] += [doubts] if (doubts := names.doubts(called)) else []
  files = [(file, split, tuple(map(called.get, labels))) for file, split, labels in files]
  classes = {split: tuple(sorted({*map(called.get, labels)})) for split, labels in classes.items()}
  scanned = []
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    for start in range(0, len(files), _CHUNK):
      scanned += pool.map(lambda file: _scan_file(root, *file), files[start : start + _CHUNK])
      if progress:
        progress(len(scanned), len(files))
  for image in scanned:
    for kind, detail in image.notes:
      findings[kind].append(f"{image.path}: {detail}" if detail else image.path)
  if largest := [image.largest for image in scanned if image.largest is not None]:
    bits = max(max(largest).bit_length(), 1)
    if bits <= FEW_BITS:
      line = f"all {len(largest):,} use {bits}, up to {max(largest):,}: set data.range={bits}"
      findings["bits unused"].append(line)
  _compare(scanned, findings)
  _compare_classes(scanned, classes, findings)
  nonempty = {kind: tuple(lines) for kind, lines in findings.items() if lines}
  return Report(str(path), tuple(scanned), nonempty, classes)


def _listed(
  table: pathlib.Path, findings: dict[str, list[str]]
) -> tuple[list[File], dict[str, tuple[str, ...]]]:
  """Returns (the files of a table, its classes by split)."""
  contents = tables.read(str(table))
  splits = contents.splits
  findings["names"] += [f"{key}: {text}" for key, text in contents.remarks.items()]
  findings["names"] += [contents.folds] if contents.folds else []
  files = [
    (os.path.relpath(file, table.parent), split, labels)
    for split, pairs in splits.items()
    for file, labels in pairs
  ]
  classes = {
    split: tuple({label for _, labels in pairs for label in labels})
    for split, pairs in splits.items()
  }
  return files, classes


def _walk(
  root: pathlib.Path, findings: dict[str, list[str]]
) -> tuple[list[File], dict[str, tuple[str, ...]]]:
  """Returns (the files with an image's ending, the class folders by split)."""
  visible = lambda folder: [d.name for d in os.scandir(folder) if d.is_dir() and not passed(d.name)]
  passed = lambda name: "hidden" if name.startswith(".") else "litter" if is_litter(name) else ""
  splits = sorted(by_split := walk.split_folders(str(root)))
  findings["names"] += [f"{key}: {text}" for key, text in walk.beside(str(root), by_split).items()]
  files = []

  def unopened(e: OSError) -> None:
    findings["unreadable"].append(f"{os.path.relpath(e.filename, root)}: {e.strerror}")

  for folder, below, inside in os.walk(root, followlinks=True, onerror=unopened):
    real = os.path.realpath(folder)
    hidden = sorted(filter(passed, (*below, *inside)))
    for name in hidden:
      findings[passed(name)].append(_relative(root, folder, name))
    below[:] = sorted(
      name
      for name in below
      if name not in hidden
      and not f"{real}/".startswith(f"{os.path.realpath(os.path.join(folder, name))}/")  # a loop
    )
    for name in sorted(set(inside) - set(hidden)):
      path = _relative(root, folder, name)
      if not name.lower().endswith(images.IMAGE_ENDINGS):
        kind = _format(os.path.join(folder, name))
        other = "other formats" if name.lower().endswith(PHOTOS) else "other files"
        findings["ending unknown" if kind else other].append(f"{path}: {kind}" if kind else path)
        continue
      parts = path.split("/")[:-1]
      split = parts.pop(0) if splits and parts and parts[0] in splits else ""
      label = parts[0] if parts and bool(split) == bool(splits) else ""
      if not label:
        findings["outside"].append(path)
      files.append((path, split, (label,) if label else ()))
  if not any(labels for *_, labels in files):  # images without labels
    findings["outside"].clear()
  return files, {split: tuple(visible(root / split)) for split in splits or [""]}


def _relative(root: pathlib.Path, folder: str, name: str) -> str:
  return pathlib.PurePath(os.path.relpath(os.path.join(folder, name), root)).as_posix()


def _format(file: str) -> str:
  """Returns the format of an image by its header; "" for other files."""
  try:
    with Image.open(file, formats=tuple(images.FORMATS)) as image:
      return image.format
  except Exception:  # each of Pillow's readers raises its own
    return ""


def _scan_file(root: pathlib.Path, path: str, split: str, labels: tuple[str, ...]) -> ScannedImage:
  """Returns the properties of an image file, also of one that cannot be read."""
  data = None
  try:
    data = images.read(root / path)
    pixels = images.decode(data, 3, reading=Reading(upright=True))
  except OSError as e:
    return ScannedImage(path, split, labels, (("unreadable", e.strerror or str(e)),))
  except images.UnreadableImage as e:
    if data == b"":
      return ScannedImage(path, split, labels, (("empty", ""),))
    kind = "truncated" if str(e).startswith("truncated") else "unreadable"
    reason = str(e).removeprefix("truncated: ")
    return ScannedImage(path, split, labels, ((kind, reason),), size=len(data or b""))
  height, width = pixels.shape[:2]
  notes = list(_notes(data, pathlib.PurePath(path).suffix.lower()))
  size, is_deep = f"{height}x{width}", any(kind == "16 bits" for kind, _ in notes)
  notes += [("small", size)] * (min(height, width) < 32)
  notes += [("large", size)] * (height * width > 2**24)
  notes += [("elongated", size)] * (max(height, width) > 4 * min(height, width))
  digest = lambda *parts: hashlib.blake2b(b"".join(parts), digest_size=16).digest()
  return ScannedImage(
    path, split, labels, tuple(notes), height, width, len(data),
    digest(data), digest(size.encode(), pixels.data), _largest(data) if is_deep else None,
  )  # fmt: skip


def _largest(data: bytes) -> int | None:
  """Returns the largest value of a file with 16 bits, without transparency; None if unknown."""
  with contextlib.suppress(images.UnreadableImage), Image.open(io.BytesIO(data)) as image:
    values = deep_values(image, data)
    return None if values is None else int((values if values.ndim == 2 else values[..., :3]).max())
  return None


def _notes(data: bytes, ending: str) -> Iterator[tuple[str, str]]:
  """Returns the findings of a header as (kind, detail)."""
  try:
    with Image.open(io.BytesIO(data), formats=tuple(images.FORMATS)) as image:
      kind = {"MPO": "JPEG"}.get(image.format, image.format)  # several JPEGs in one file
      if ending not in images.FORMATS[kind]:
        yield "wrong ending", f"a {kind}"
      mode, raw = image.mode, str([tile.args for tile in image.tile])
      if mode in ("1", "L", "LA", "I") or mode.startswith("I;16"):
        yield "grey", ""
      if mode == "CMYK":
        yield "CMYK", ""
      if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        yield "alpha", ""
      if mode in ("P", "PA"):
        yield "palette", ""
      if mode == "I" or ";16" in raw.replace("BGR;16", ""):  # which is 5, 6 and 5 bits
        yield "16 bits", ""
      if getattr(image, "is_animated", False):
        yield "several frames", ""
      if image.getexif().get(0x0112, 1) not in (0, 1):  # Orientation
        yield "turned", ""
  except Exception:  # a broken EXIF block, or a JPEG that simplejpeg alone reads: nothing to note
    return


def _compare(scanned: Sequence[ScannedImage], findings: dict[str, list[str]]) -> None:
  """Finds the same picture in more than one file, among those in a split or a class."""
  groups = collections.defaultdict(list)
  large = sum(image.size for image in scanned) > identity.LARGE  # known by path, not by content
  for image in scanned:
    if image.height and (image.split or image.labels):
      groups[image.pixels].append(image)
  for group in groups.values():
    if len(group) == 1:
      continue
    differ = len({image.content for image in group}) > 1
    paths = " = ".join(image.path for image in group)
    line = f"{paths} (the same {'pixels' if differ else 'bytes'})"
    leaked = len({image.split for image in group}) > 1
    conflicting = len({frozenset(image.labels) for image in group} - {frozenset()}) > 1
    parted = (differ or large) and not group[0].split
    for kind, holds in (
      ("leaked", leaked),
      ("conflicting", conflicting),
      ("to be parted", parted),
      ("duplicate", not (leaked or conflicting or parted)),
    ):
      findings[kind] += [line] * holds


def _compare_classes(
  scanned: Iterable[ScannedImage],
  classes: dict[str, tuple[str, ...]],
  findings: dict[str, list[str]],
) -> None:
  """Finds empty class folders, and classes that some splits lack."""
  filled = {(image.split, label) for image in scanned for label in image.labels}
  every = {label for labels in classes.values() for label in labels}
  for split, labels in classes.items():
    for label in labels:
      if (split, label) not in filled:
        findings["empty folder"].append(f"{split}/{label}" if split else label)
    lacking = sorted(every - set(labels))
    if labels and lacking:
      findings["classes that differ"].append(f"{split} lacks {', '.join(lacking)}")


def render(report: Report, limit: int | None = 20) -> str:
  """Returns the report as plain text, with at most `limit` lines of each kind and of classes."""
  readable = [image for image in report.images if image.height]
  classes = sorted({label for labels in report.classes.values() for label in labels})
  mib = sum(image.size for image in report.images) / 2**20
  splits = ", ".join(filter(None, report.classes))
  lines = [
    f"{report.root}: {len(report.images):,} image files, {len(readable):,} readable, "
    f"{len(classes):,} classes, {f'splits {splits}' if splits else 'no splits'}, {mib:,.1f} MiB"
  ]
  for what in ("height", "width") if readable else ():
    values = [getattr(image, what) for image in readable]
    median = statistics.median_low(values)
    lines.append(f"{what:8} {min(values)} to {max(values)} pixels, median {median}")
  if classes:
    lines += ["", *_table(report.counts, classes, limit)]
  for split, labels in report.counts.items():
    if some := [n for n in labels.values() if n]:
      of_classes = sum(image.split == split and image.labels != () for image in readable)
      lines.append(
        f"{split or 'all'}: {of_classes:,} images, largest to smallest class "
        f"{max(some):,} : {min(some):,} = {max(some) / min(some):.1f}"
      )
  for kind, findings in report.findings.items():
    lines += ["", f"{'HARMFUL ' * (kind in HARMFUL)}{kind}: {len(findings):,} ({KINDS[kind]})"]
    lines += [f"  {line}" for line in _some(findings, limit)]
  lines += ["", "nothing harmful found"] if not report.harmful else []
  if not splits:
    lines += ["", HOLD_OUT]
  return "\n".join(lines).encode(errors="replace").decode()  # so that any name can be printed


def _table(counts: dict[str, dict[str, int]], classes: list[str], limit: int | None) -> list[str]:
  """Returns the images by class and split in columns."""
  rows = [["class", *(split or "images" for split in counts)]]
  rows += [[label, *(f"{c.get(label, 0):,}" for c in counts.values())] for label in classes]
  first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
  lines = [
    "  ".join([f"{row[0]:{first}}", *(f"{n:>{w}}" for n, w in zip(row[1:], others, strict=True))])
    for row in rows
  ]
  return [lines[0], *_some(lines[1:], limit)]


def _some(lines: Sequence[str], limit: int | None) -> list[str]:
  if limit is None:
    return list(lines)
  shown = [line if len(line) < 300 else f"{line[:300]} ..." for line in lines[:limit]]
  return [*shown, f"... {len(lines) - limit:,} more"] if len(lines) > limit else shown
