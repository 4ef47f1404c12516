"""Boxes in lists: a column of them or a line for each, in shares or pixels, and what is refused."""

import json

import numpy as np
import pytest
from folders import config, load, pixels, put, some, table

from cnnjax import data
from cnnjax.data import fields, folder
from cnnjax.errors import UserError
from cnnjax.runtime import sharding

pytestmark = pytest.mark.usefixtures("here")

# The boxes of 6 images, ymin, xmin, ymax, xmax, and their classes.
BOXES = [
  [(0.25, 0.5, 0.75, 1.0, "dog")],
  [],
  [(0.0, 0.0, 0.5, 0.5, "cat"), (0.5, 0.25, 1.0, 0.375, "dog"), (0.125, 0.0, 1.0, 1.0, "cat")],
  [(0.0, 0.125, 0.5, 1.0, "ant"), (0.0, 0.0, 0.25, 0.25, "ant")],
  [(0.5, 0.5, 1.0, 1.0, "dog")],
  [(0.25, 0.0, 0.5, 0.125, "cat")],
]
CLASSES = ("ant", "cat", "dog")
HEIGHT, WIDTH = 40, 80  # that the lists in pixels give
NAMES = some("in", 6)


def sides(boxes, in_pixels=False):
  scale = (HEIGHT, WIDTH, HEIGHT, WIDTH) if in_pixels else (1, 1, 1, 1)
  return [[side * k for side, k in zip(box[:4], scale, strict=True)] for box in boxes]


def of_images(ending, in_pixels=False, label="boxes_label"):
  """A list with a line for each image."""
  rows = [
    {"path": name, "boxes": sides(boxes, in_pixels), label: [box[4] for box in boxes]}
    | ({"width": WIDTH, "height": HEIGHT} if in_pixels else {})
    for name, boxes in zip(NAMES, BOXES, strict=True)
  ]
  if ending == "jsonl":
    return table("\n".join(map(json.dumps, rows)), "a.jsonl")
  as_cells = lambda path, boxes, labels, *size: (path, f'"{boxes}"', ";".join(labels), *size)
  lines = [",".join(map(str, as_cells(*row.values()))) for row in rows]
  return table("\n".join((",".join(rows[0]), *lines)))


def of_boxes(in_pixels=False, order=lambda lines: lines):
  """A list with a line for each box."""
  size = [WIDTH, HEIGHT] if in_pixels else []
  lines = []
  for name, boxes in zip(NAMES, BOXES, strict=True):
    for box, (top, left, bottom, right) in zip(boxes, sides(boxes, in_pixels), strict=True):
      lines.append([name, *size, box[4], left, top, right, bottom])
    if not boxes:
      lines.append([name, *size, *[""] * 5])
  head = f"filename,{'width,height,' if in_pixels else ''}class,xmin,ymin,xmax,ymax"
  return table("\n".join((head, *(",".join(map(str, line)) for line in order(lines)))))


LISTS = {
  "CSV": lambda: of_images("csv"),
  "JSONL": lambda: of_images("jsonl"),
  "CSV in pixels": lambda: of_images("csv", in_pixels=True),
  "JSONL in pixels": lambda: of_images("jsonl", in_pixels=True),
  "the column of labels": lambda: of_images("jsonl", label="labels"),
  "a line for each box": of_boxes,
  "a line for each box in pixels": lambda: of_boxes(in_pixels=True),
  "lines in any order": lambda: of_boxes(order=lambda lines: sorted(lines, key=str)),
}


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
@pytest.mark.parametrize("name", LISTS)
def test_boxes_come_as_the_list_has_them(name, pipeline):
  """With room for as many as an image has at most, whatever the split."""
  put(*NAMES)
  c = config(LISTS[name](), pipeline=pipeline, test=2)
  data.check(c)
  splits = {key: split for key, split in data.load(c).items() if split}
  found = {}
  for split in splits.values():
    assert split.fields["boxes"] == fields.boxes(3, CLASSES)
    for batch, there in data.pipeline(split, c, sharding.make_mesh(1), data.Skipped(0)).once(2):
      for row in np.flatnonzero(there):
        boxes, labels, valid = (
          np.asarray(batch[key][row]) for key in ("boxes", "boxes_label", "boxes_valid")
        )
        assert not boxes[~valid].any() and valid.tolist() == sorted(valid.tolist(), reverse=True)
        found[np.asarray(batch["image"][row]).tobytes()] = {
          (*box.tolist(), CLASSES[label])
          for box, label in zip(boxes[valid], labels[valid], strict=True)
        }
  assert found == {
    pixels(name).tobytes(): {*boxes} for name, boxes in zip(NAMES, BOXES, strict=True)
  }


@pytest.mark.parametrize(
  "name, boxes, labels",
  [
    ("CSV", "1 image of 6 without any", False),
    ("JSONL in pixels", "pixels, divided by the columns height and width; 1 image of 6 without any",
     False),
    ("the column of labels", "1 image of 6 without any", True),
    ("a line for each box in pixels",
     "pixels, divided by the columns height and width; 1 image of 6 without any", True),
  ],
)  # fmt: skip
def test_what_a_run_says_of_its_boxes(name, boxes, labels):
  """The labels of an image are those of its boxes, where they stand in the column of labels."""
  put(*NAMES)
  split = folder.load(config(LISTS[name](), test=0.4), "train")
  assert split.remarks == {"boxes": boxes}
  assert [*split.fields] == ["image", *(["label"] if labels else []), "boxes"]
  if labels:
    assert split.fields["label"].classes == CLASSES
    expected = [[name in {box[4] for box in boxes} for name in CLASSES] for boxes in BOXES]
    np.testing.assert_array_equal(split.labels, expected)


def test_without_classes_all_boxes_are_of_one():
  put(*NAMES)
  lines = [f"{name},[]" for name in NAMES[1:]]
  c = config(table("\n".join(("path,bboxes", f'{NAMES[0]},"[[0, 0, 1, 0.5]]"', *lines))), test=0.4)
  split = folder.load(c, "train")
  assert split.fields["boxes"] == fields.boxes(1, ["0"])
  assert split.remarks["boxes"] == (
    "all of one class, as there is no column boxes_label; 5 images of 6 without any"
  )


def test_labels_of_images_stay_beside_boxes():
  """Labels that are fewer than the boxes are of the image alone."""
  put(*NAMES)
  rows = [
    {"path": name, "label": "xy"[i % 2], "boxes": sides(BOXES[2])} for i, name in enumerate(NAMES)
  ]
  split = folder.load(config(table("\n".join(map(json.dumps, rows)), "a.jsonl"), test=0.4), "train")
  assert split.fields["label"].kind == "label" and split.labels.tolist() == [0, 1] * 3
  assert split.fields["boxes"].classes == ("0",)


def test_classes_of_boxes_are_sorted_and_spelled_as_labels_are():
  put(*NAMES)
  rows = [
    {"path": name, "boxes": [[0, 0, 1, 1]], "box_label": [label]}
    for name, label in zip(NAMES, (10, "9", 9.0, "a", "B", 2), strict=True)
  ]
  split = folder.load(config(table("\n".join(map(json.dumps, rows)), "a.jsonl"), test=0.4), "train")
  assert split.fields["boxes"].classes == ("2", "9", "10", "B", "a")
  assert [split[i]["boxes_label"].tolist() for i in range(6)] == [[2], [1], [1], [4], [3], [0]]
  assert split.remarks["boxes"] == "'9' and '9.0' are one class"


@pytest.mark.parametrize("one_class", [False, True])
def test_a_list_of_labels_stays_one_where_it_also_has_boxes(one_class):
  """One line an image, with its class: what trained a classifier trains it still."""
  put(*NAMES)
  lines = [f"{name},{'x' if one_class else 'xy'[i % 2]},0,0,1,1" for i, name in enumerate(NAMES)]
  c = config(table("\n".join(("path,label,xmin,ymin,xmax,ymax", *lines))), test=0.4)
  split = folder.load(c, "train")
  assert split.fields["boxes"].classes == (("x",) if one_class else ("x", "y"))
  assert [*split.fields] == ["image", *([] if one_class else ["label"]), "boxes"]


def test_columns_of_a_list_of_labels_that_are_no_boxes_are_not_used():
  put(*NAMES)
  lines = [f"{name},{'xy'[i % 2]},3,3,9,9" for i, name in enumerate(NAMES)]
  found, classes = load(file := table("\n".join(("path,label,xmin,ymin,xmax,ymax", *lines))))
  assert classes == ("x", "y") and sum(map(len, found.values())) == 6
  remarks = folder.load(config(file, test=0.4), "train").remarks
  assert remarks["boxes"].startswith("not used: a.csv, line 2: the box [3.0, 3.0, 9.0, 9.0] is not")
  assert remarks["not used"] == "columns 'xmin', 'ymin', 'xmax', 'ymax'"
  with pytest.raises(
    UserError, match=r"^task.name=x needs .*; the boxes of these data are not used"
  ):
    data.load(config(file, test=0.4), needs=("boxes",), who="task.name=x")


def test_room_for_more_boxes_than_an_image_has():
  put(*NAMES)
  c = config(of_images("csv"), test=2, max_boxes=7)
  data.check(c)
  batch = data.load(c)["train"].arrays
  assert batch["boxes"].shape == (4, 7, 4) and batch["boxes_valid"].shape == (4, 7)


ONE = "path,boxes,boxes_label\nin/0.png,{},{}\nin/1.png,[],\n"
EACH = "path,xmin,ymin,xmax,ymax,class\nin/0.png,0,0,1,1,x\nin/0.png,{},x\n"


@pytest.mark.parametrize(
  "text, words",
  [
    (ONE.format('"[[0, 0, 312, 1]]"', "x"), "a.csv, line 2: the box [0.0, 0.0, 312.0, 1.0] is not "
     "ymin, xmin, ymax, xmax from 0 to 1, shares of the height and width of the image: divide "
     "pixels by these, or add columns height and width"),
    (ONE.format('"[[0, -0.5, 1, 1]]"', "x"), "line 2: the box [0.0, -0.5, 1.0, 1.0] is not ymin"),
    (ONE.format('"[[0.5, 0, 0.5, 1]]"', "x"), "line 2: the box [0.5, 0.0, 0.5, 1.0] has no area: "
     "it is ymin, xmin, ymax, xmax, the larger ones last"),
    (ONE.format('"[[0, 0, 1]]"', "x"), "line 2: boxes are [[ymin, xmin, ymax, xmax], ...] of "
     "numbers, not '[[0, 0, 1]]'"),
    (ONE.format('"[0, 0, 1, 1]"', "x"), "line 2: boxes are [[ymin, xmin, ymax, xmax], ...]"),
    (ONE.format('"[[0, 0, 1, NaN]]"', "x"), "line 2: boxes are [[ymin, xmin, ymax, xmax], ...]"),
    (ONE.format("0.1 0.2 0.3 0.4", "x"), "line 2: boxes are [[ymin, xmin, ymax, xmax], ...]"),
    (ONE.format('"[[0, 0, 1, 1]]"', "x;y"), "line 2: the number of boxes is 1, and that of labels "
     "in the column 'boxes_label' 2: give one to each box, in CSV with ';' between them"),
    (ONE.format('"[[0, 0, 1, 1]]"', ""), "line 2: the number of boxes is 1, and that of label"),
    (ONE.format('"[[0, 0, 1, 1]]"', "nan"), "line 2: the labels of boxes in the column "
     "'boxes_label' are names, in CSV with ';' between them as in cat;dog"),
    (ONE.format('"[[0, 0, 1, 1]]"', "['x']"), "in JSONL a list, not \"['x']\""),
    (ONE.format("[]", ""), "a.csv has columns of boxes, and no line with a box"),
    (EACH.format("0,0,9,9"), "a.csv, line 3: the box [0.0, 0.0, 9.0, 9.0] is not ymin, xmin, ymax"),
    (EACH.format("0,0,1,"), "line 3: the sides of a box are four numbers, or none, not ymin='0', "
     "xmin='0', ymax='', xmax='1'"),
    (EACH.replace("path,", "path,width,height,").replace("png,", "png,8,6,").format("0,0,9,6"),
     "line 2: the box [0.0, 0.0, 1.0, 1.0] has shares of the image, and that of line 3 pixels"),
    ("path,width,height,boxes\nin/0.png,8,6,\"[[0, 0, 8, 6]]\"\n", "a.csv, line 2: the box [0.0, "
     "0.0, 8.0, 6.0] is not ymin, xmin, ymax, xmax pixels within the image, which has height=6.0 "
     "and width=8.0"),
    ("path,width,height,boxes\nin/0.png,8,,\"[[0, 0, 6, 8]]\"\n", "line 2: height and width are "
     "above 0, not height=None and width=8.0"),
    (EACH.replace("class", "class,split").replace(",x\n", ",x,train\n", 1)
     .replace("},x\n", "},x,test\n").format("0,0,1,1"), "a.csv, line 3: in/0.png is of the split "
     "'test', and in line 2 of 'train': give all lines"),
    ("path,split,boxes,boxes_label\nin/0.png,train,\"[[0, 0, 1, 1]]\",x\n"
     "in/1.png,test,\"[[0, 0, 1, 1]]\",y\n", "a.csv: 'test' has classes that 'train' lacks, so "
     "that they cannot be learnt: y"),
    ("path,split,boxes\nin/0.png,train,\nin/1.png,test,\"[[0, 0, 1, 1]]\"\n",
     "a.csv: no training image has a box"),
  ],
)  # fmt: skip
def test_bad_boxes(fails, text, words):
  put(*some("in", 4))
  assert words in fails(f"path={table(text)}")


@pytest.mark.parametrize(
  "most, text, words",
  [
    (2, None, "data.max_boxes=2 is too small: an image of a.csv has 3 boxes"),
    (2, "path,label\nin/0.png,x\nin/1.png,y\n", "data.max_boxes=2 has no effect: a.csv has no box"),
  ],
)
def test_room_that_is_wrong(fails, most, text, words):
  put(*NAMES)
  file = of_images("csv") if text is None else table(text)
  assert words in fails(f"path={file}", "test=0.5", f"max_boxes={most}")
