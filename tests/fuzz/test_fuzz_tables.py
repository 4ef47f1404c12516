"""Damaged CSV and JSONL lists of images and boxes, and lists that name anything else."""

import contextlib
import csv
import io
import json
import os
import pathlib
import tempfile

from fuzzing import corrupted, fuzz, one_clear_line
from hypothesis import strategies as st

from cnnjax.config import default, override
from cnnjax.data import folder
from cnnjax.data.images import UnreadableImage, decode
from cnnjax.errors import UserError
from cnnjax.tools import scan

NAMES = [f"{label}{i}.png" for label in "ab" for i in range(3)]
CSV = "path,label,split\n" + "".join(
  f"{name},{name[0]},{'test' if '2' in name else 'train'}\n" for name in NAMES
)
JSONL = "".join(
  json.dumps({"path": name, "label": name[0], "split": "test" if "2" in name else "train"}) + "\n"
  for name in NAMES
)
ODD = [
  "", "\0", "..", "../../etc/passwd", "/etc/passwd", "/dev/zero", "~", ".", "a0.png", "./a0.png",
  "x/../a0.png", "b0.png\0", "a" * 300, "9" * 5000, "x" * 200_000, '"', '""', "a;b", ";", "é",
  "\u202e", "train", " ", "\x1b[2J", "-1", "nan", "null", "'; --", "\ud800",
]  # fmt: skip
CELLS = st.sampled_from(ODD) | st.text(max_size=6) | st.sampled_from([*NAMES, "a", "b"])
VALUES = st.recursive(
  CELLS | st.none() | st.booleans() | st.integers() | st.floats(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELLS, inner, max_size=2),
  max_leaves=4,
)


@st.composite
def tables(draw):
  """(ending, bytes): with damaged bytes, in another encoding, or with odd cells or lines."""
  ending = draw(st.sampled_from([".csv", ".jsonl"]))
  text = CSV if ending == ".csv" else JSONL
  kind = draw(st.sampled_from(["bytes", "bytes", "encoding", "cell", "cell", "line"]))
  if kind == "bytes":
    return ending, draw(corrupted(text.encode()))
  if kind == "encoding":
    text = text.replace("b", draw(st.sampled_from("éb\u4e2d\0")))
    code = draw(st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "utf-7", "cp1252", "utf-8"]))
    return ending, text.encode(code, "replace")
  lines = text.splitlines()
  at = draw(st.integers(0, len(lines) - 1))
  if kind == "line":
    lines.insert(at, draw(CELLS | st.sampled_from(["[" * 50_000, "{" * 900, "{}", "[]", ",,"])))
  elif ending == ".csv":
    cells = lines[at].split(",")
    cells[draw(st.integers(0, 2))] = draw(CELLS)
    lines[at] = ",".join(cells)
  else:
    key = draw(st.sampled_from(["path", "label", "split"]))
    lines[at] = json.dumps({**json.loads(lines[at]), key: draw(VALUES)})
  end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
  return ending, end.join(lines).encode("utf-8", "surrogatepass")


@contextlib.contextmanager
def listed(example, **settings):
  """(the file of a list beside the images that it may name, a config that reads it)."""
  ending, data = example
  with tempfile.TemporaryDirectory() as place:
    for name in NAMES:
      pathlib.Path(place, name).touch()
    file = pathlib.Path(place, f"list{ending}")
    file.write_bytes(data)
    config = default()
    settings = {"source": "folder", "path": str(file), "image_size": 8, **settings}
    for key, value in settings.items():
      override(config, f"data.{key}", value)
    yield file, config


def table(example):
  """It is refused in one line that names it, or lists files that are there, with their classes."""
  with listed(example) as (file, config):
    try:
      folder.check(config.data)
      splits = [folder.load(config.data, key) for key in ("train", "test")]
    except UserError as e:
      one_clear_line(e)
      assert str(file) in str(e), e
      return "refused"
    scan.scan(file)
    found = [split.name(i) for split in splits for i in range(len(split))]
    classes = splits[0].classes
    # Also outside of its folder: a list is trusted to say where pictures lie, and what is there is
    # decoded as one, and else counted as unreadable.
    assert all(map(os.path.isfile, found)), found
    for split in splits:
      for i in range(len(split)):
        name = split.name(i)
        assert name.endswith(tuple(NAMES)) or _no_image(split[i]["image"]), name
  assert len({*map(os.path.normpath, found)}) == len(found) <= len(NAMES)
  assert len({*classes}) == len(classes) >= 2
  "".join(classes).encode()  # they can be printed and saved
  return "read"


def _no_image(data):
  try:
    decode(data, 3)
  except UnreadableImage:
    return True
  return False


OUTSIDE = CSV.replace("a0.png", "../../etc/passwd").encode()
LONG = CSV.replace(",a,", f",{'9' * 5000},").encode()  # a class, and a number to Python
test_lists_of_images = fuzz(
  table,
  tables(),
  few=30,
  many=200,
  ends=["refused", "read"],
  always=[(".csv", LONG), (".csv", OUTSIDE)],
)


BOXED = {
  ".csv": "path,boxes,boxes_label,height,width,split\n"
  + "".join(f'{n},"[[0, 0, 2, 3], [1, 1, 4, 4]]",a;b,4,5,train\n' for n in NAMES),
  ".lines.csv": "path,ymin,xmin,ymax,xmax,label,split\n"
  + "".join(f"{n},0,0.5,1,1,{n[0]},train\n{n},,,,,,train\n" for n in NAMES),
  ".jsonl": "".join(
    json.dumps({"path": n, "boxes": [[0, 0, 1, 0.5]], "boxes_label": [n[0]], "split": "train"})
    + "\n"
    for n in NAMES
  ),
}
SIDES = st.sampled_from([
  "[]", "[[]]", "[0,0,1,1]", "[[0,0,1,1]]", "[[0,0,1e999,1]]", "[[[0]]]", "[" * 9000, "1e-320", "4",
])  # fmt: skip


@st.composite
def boxed_tables(draw):
  """(ending, bytes): with damaged bytes, or with one odd cell."""
  ending = draw(st.sampled_from([*BOXED]))
  lines = BOXED[ending].splitlines()
  if draw(st.booleans()):
    return ending, draw(corrupted(BOXED[ending].encode()))
  at = draw(st.integers(0, len(lines) - 1))
  if ending == ".jsonl":
    row = json.loads(lines[at])
    box = st.lists(st.integers(0, 1) | st.floats() | VALUES, max_size=4)
    row[draw(st.sampled_from([*row][1:]))] = draw(VALUES | SIDES | st.lists(box, max_size=2))
    lines[at] = json.dumps(row)
  else:
    rows = [*csv.reader(lines)]
    rows[at][draw(st.integers(1, len(rows[at]) - 1))] = draw(SIDES | CELLS)
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return ending, out.getvalue().encode("utf-8", "surrogatepass")
  return ending, "\n".join(lines).encode("utf-8", "surrogatepass")


def boxed(example):
  """It is refused in one line that names it, or each box lies in its image and has a class."""
  with listed(example, test=0.5) as (file, config):
    try:
      folder.check(config.data)
      split = folder.load(config.data, "train")
    except UserError as e:
      one_clear_line(e)
      assert str(file) in str(e), e
      return "refused"
    if "boxes" not in split.fields:
      return "without boxes"
    most, classes = split.fields["boxes"].shape[0], split.fields["boxes"].classes
    for i in range(len(split)):
      boxes, labels = split[i]["boxes"], split[i]["boxes_label"]
      assert len(boxes) == len(labels) <= most and (labels < len(classes)).all()
      assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, 2:] > boxes[:, :2]).all()
  return "read"


test_lists_of_boxes = fuzz(boxed, boxed_tables(), few=30, many=200, ends=["refused", "read"])
