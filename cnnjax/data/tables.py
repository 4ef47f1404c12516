"""Lists of images: a CSV or JSONL file of paths, labels and, if there is one, split.

Paths start at the folder of the list and may lead out of it: what lies there is decoded as an
image, and nothing else is done with it. Labels in a CSV file may be several, with ";" between them;
in JSONL a list, which may be empty.
"""

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from cnnjax.errors import UserError, listed

ENDINGS = (".csv", ".jsonl")
# What people call their columns, in any case.
KEYS = {
  "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
  "label": ("label", "labels", "class", "category"),
  "split": ("split", "subset"),
}
Pairs = list[tuple[str, tuple[str, ...]]]  # (file, its labels)


def read(path: str) -> dict[str, Pairs]:
  """The images of each split; of "" where there are no splits."""
  splits: dict[str, Pairs] = {}
  lines: dict[str, int] = {}  # by file
  missing = []
  for line, row in _rows(path):
    name, label, split = (next((row[k] for k in KEYS[key] if k in row), None) for key in KEYS)
    labels = label if isinstance(label, list) else [label]
    labels = [str(x).strip() if isinstance(x, str | int | float) else "" for x in labels]
    if not name or not isinstance(name, str) or not all(labels):
      what = "label" if name and isinstance(name, str) else "path"
      raise UserError(f"{path}, line {line}: no {what} in {str(row)[:200]}")
    file = os.path.join(os.path.dirname(path), name)
    if lines.setdefault(os.path.normpath(file), line) != line:
      raise UserError(
        f"{path}, line {line}: {name} is in line {lines[os.path.normpath(file)]} already; an image "
        "has one line, and several labels stand in it with ';' between (JSONL: a list)"
      )
    missing += [] if os.path.isfile(file) else [f"{file} (line {line})"]
    split = str(split or "").strip().lower()
    splits.setdefault(split, []).append((file, tuple(dict.fromkeys(labels))))
    if "" in splits and len(splits) > 1:
      raise UserError(
        f"{path}, line {line}: a split in some lines and none in others; give it to all"
      )
  if missing:
    raise UserError(
      f"{path}: {len(missing):,} of {len(lines):,} files are not there: {listed(missing)}; paths "
      "start at the folder of the table"
    )
  if not splits:
    raise UserError(f"{path} names no images: it has no lines with a path and a label")
  return splits


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  """(line, what is in it by column, in lower case), without blank lines."""
  try:
    data = pathlib.Path(path).read_bytes()
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as e:
    line = data.count(b"\n", 0, e.start) + 1
    raise UserError(f"{path}, line {line}: this is not UTF-8; save the file as UTF-8") from e
  except OSError as e:
    raise UserError(f"{path} cannot be read: {e.strerror}") from e
  return (_csv if path.lower().endswith(".csv") else _jsonl)(path, text)


def _csv(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
  rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
  header, line = [], 1
  try:
    for row in rows:
      cells = [cell.strip() for cell in row]
      if not header and any(cells):
        header = [cell.lower() for cell in cells]
        for key in ("path", "label"):
          if not {*KEYS[key]} & {*header}:
            raise UserError(
              f"{path}: the first line needs a column {key} (or {', '.join(KEYS[key][1:])}), with "
              f"commas between columns, and has {', '.join(cells)}"
            )
      elif any(cells):
        if len(cells) != len(header):
          raise UserError(
            f"{path}, line {line}: {len(cells)} columns, and the first line has {len(header)}"
          )
        values = dict(zip(header, cells, strict=True))
        label = next(key for key in KEYS["label"] if key in values)
        yield line, {**values, label: [name.strip() for name in values[label].split(";")]}
      line = rows.line_num + 1
  except csv.Error as e:
    raise UserError(f"{path}, line {line}: {e}; look at its quotes") from e


def _jsonl(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
  for line, row in enumerate(text.split("\n"), 1):
    if row.strip():
      try:
        values = json.loads(row)
      except (ValueError, RecursionError) as e:
        raise UserError(f"{path}, line {line}: not JSON: {getattr(e, 'msg', e)}") from e
      if not isinstance(values, dict):
        raise UserError(f'{path}, line {line}: it should be like {{"path": "a.jpg", "label": "b"}}')
      yield line, {key.lower(): value for key, value in values.items()}
