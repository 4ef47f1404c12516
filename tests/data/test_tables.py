"""Lists of images in CSV and JSONL: what is read, how it is split, and what is refused."""

import csv
import io
import json
import pathlib
import re

import numpy as np
import pytest
from folders import by_folder, config, load, pixels, put, some, table
from PIL import Image

from cnnjax import data
from cnnjax.config import default, override
from cnnjax.data import folder, tables
from cnnjax.errors import UserError
from cnnjax.runtime import sharding

pytestmark = pytest.mark.usefixtures("here")

ROWS = [(f"in/{i}.png", "yx"[i % 2]) for i in range(10)]
LINES = "".join(f"{name},{label}\n" for name, label in ROWS)
PAIRS = {(name, (label,)) for name, label in ROWS}


@pytest.mark.parametrize(
  "text",
  [
    f"path,label\n{LINES}",
    b"\xef\xbb\xbf" + f"path,label\n{LINES}".encode(),
    f"\nFile_Name , Class\r\n \r\n{LINES}\r\n,\r\n".replace("\n", "\r\n").replace("\r\r", "\r"),
    'label,other,filename\n"' + "".join(f'{b}", "a, ""b""\n", {a}\n"' for a, b in ROWS)[:-1],
    f"path,label,split\n{LINES}".replace("x\n", "x,\n").replace("y\n", "y,\n"),
  ],
  ids=["plain", "byte order mark", "Windows, blank lines", "quotes", "an empty split"],
)
def test_csv(text):
  put(*(name for name, _ in ROWS))
  found, classes = load(table(text), test=2)
  assert classes == ("x", "y") and len(found["test"]) == 2
  assert found["train"] | found["test"] == PAIRS and not found["train"] & found["test"]


def test_jsonl():
  put(*(name for name, _ in ROWS))
  rows = [{"Image": name, "label": label, "n": None} for name, label in ROWS]
  text = "\ufeff" + "\n\n".join(map(json.dumps, rows))
  found, classes = load(table(text, "a.JSONL"))
  assert classes == ("x", "y") and found["train"] | found["test"] == PAIRS


def test_paths_start_at_the_folder_of_the_table(here):
  names = put(*some("b/in/x"), *some("b/in/y"))
  absolute = put("c/0.png", "c/1.png")
  rows = [f"{name[2:]},{name[5]}" for name in names]
  rows += [f"{here}/{name},z" for name in absolute]
  found, classes = load(table("path,label\n" + "\n".join(rows), "b/a.csv"))
  assert classes == ("x", "y", "z")
  expected = by_folder(*names) | {(name, ("z",)) for name in absolute}
  assert found["train"] | found["test"] == expected


def test_the_splits_of_a_table_go_by_several_names():
  names = put(*some("in", 6))
  splits = ["train", "Train ", "VAL", "val", "tests", ""]
  labels = "xyxyxx"
  rows = [",".join(row) for row in zip(names, labels, splits, strict=True)][:-1]
  found, _ = load(table("path,label,subset\n" + "\n".join(rows)), validation="valid", test="tests")
  assert found == {
    "train": {(names[0], ("x",)), (names[1], ("y",))},
    "validation": {(names[2], ("x",)), (names[3], ("y",))},
    "test": {(names[4], ("x",))},
  }


TRAIN, HELD = ("train",) * 4, ("validation", "test")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
  "column, cells, splits",
  [
    ("set", ("train",) * 4 + ("dev", "TEST"), (*TRAIN, "dev", "test")),
    ("Usage", ("Training",) * 4 + ("PublicTest", "PrivateTest"),  # FER2013's
     ("training",) * 4 + ("publictest", "privatetest")),
    ("Data-Split", (*TRAIN, *HELD), (*TRAIN, *HELD)),
    ("fold", (*TRAIN, *HELD), (*TRAIN, *HELD)),
    ("partition", (*TRAIN, "extra", "extra"), (*TRAIN, "extra", "extra")),
    ("used as", (*TRAIN, "val", "test"), (*TRAIN, "val", "test")),
    ("is_valid", (False,) * 4 + (True,) * 2, (*TRAIN, *("validation",) * 2)),
    ("Is Test", (0, 0, 0, 0, 1, 1), (*TRAIN, "test", "test")),
    ("is_train", ("yes",) * 4 + ("no",) * 2, (*TRAIN, "test", "test")),
    ("test", (0, 0, 0, 0, 1, 1), (*TRAIN, "test", "test")),
    ("val", (0, 0, 0, 0, 1, 1), (*TRAIN, *("validation",) * 2)),
    ("Train", (1, 1, 1, 1, 0, 0), (*TRAIN, "test", "test")),
  ],
)  # fmt: skip
def test_a_split_is_taken_for_what_its_column_says(ending, column, cells, splits):
  names, labels = put(*some("in", 6)), "xyxyxy"
  rows = [
    {"path": n, "label": label, "n": 1, column: cell}
    for n, label, cell in zip(names, labels, cells, strict=True)
  ]
  text = "\n".join(map(json.dumps, rows))
  if ending == "csv":
    text = "\n".join(",".join(map(str, row)) for row in (rows[0], *(r.values() for r in rows)))
  found = tables.read(table(text, f"a.{ending}"))
  assert {file: split for split, pairs in found.splits.items() for file, _ in pairs} == dict(
    zip(names, splits, strict=True)
  )
  column = re.sub("[ -]", "_", column.lower())
  assert found.remarks == {"splits": f"by the column {column!r}", "not used": "columns 'n'"}


def flagged(cells):
  """A list of images whose splits are said by columns of true and false."""
  names = put(*some("in", 6))
  n = len(next(iter(cells.values())))
  lines = zip(names[:n], "xyxyxy", *cells.values(), strict=False)
  return table("\n".join(",".join(map(str, line)) for line in (("path", "label", *cells), *lines)))


@pytest.mark.parametrize(
  "cells, expected",
  [
    ({"is_test": (0, 0, 0, 0, 0, 1), "is_valid": (0, 0, 0, 0, 1, 0)}, (*TRAIN, *HELD)),
    ({"train": (1, 1, 1, 1, 0, 0), "valid": (0, 0, 0, 0, 1, 0), "test": (0, 0, 0, 0, 0, 1)},
     (*TRAIN, *HELD)),
    ({"is_train": (1, 1, 1, 1, 0, 0), "is_test": (0, 0, 0, 0, 1, 1)}, (*TRAIN, "test", "test")),
    ({"is_test": (0, 0, 0, 0, 1, 1), "test": ("no",) * 4 + ("yes",) * 2},
     (*TRAIN, "test", "test")),
    ({"is_test": (0, 0, 0, 0, "", 1), "is_valid": (0, 0, 0, 0, 1, "")}, (*TRAIN, *HELD)),
  ],
)  # fmt: skip
def test_columns_of_true_and_false_are_one_split_together(cells, expected):
  found = tables.read(flagged(cells))
  splits = {file: split for split, pairs in found.splits.items() for file, _ in pairs}
  assert tuple(splits.values()) == expected
  columns = " and ".join(map(repr, cells))
  assert found.remarks == {"splits": f"by the columns {columns}"}


@pytest.mark.parametrize(
  "cells, words",
  [
    ({"is_test": (0, 0, 1), "is_valid": (0, 0, 1)}, "line 4: is_test=1, is_valid=1 contradict"),
    ({"test": (0, 1), "is_test": (0, 0)}, "a.csv, line 3: test=1, is_test=0 contradict each"),
    ({"is_train": (1, 0), "is_test": (0, 0)}, "is_train=0, is_test=0 leave it without a split; "
     "mend the line, or delete a column"),
    ({"is_test": (0, 1, 0), "is_valid": (0, 0, "")}, "line 4: some lines have a split and others"),
    ({"is_test": (0, 1), "set": ("train", "test")}, "'set' and 'is_test' each give the split"),
  ],
)  # fmt: skip
def test_columns_of_true_and_false_that_contradict_are_refused(fails, cells, words):
  assert words in fails(f"path={flagged(cells)}")


def test_valid_alone_may_mean_that_an_image_is():
  found = tables.read(flagged({"valid": (1, 1, 0, 1)}))
  assert [*found.splits] == [""] and found.remarks == {"not used": "columns 'valid'"}


def test_spellings_of_a_split_are_one_split():
  names = put(*some("in", 8))
  cells = "train", "trainset", "Training", "val", "dev", "test", "test_images", "val2017"
  lines = "".join(f"{n},{i % 2},{c}\n" for i, (n, c) in enumerate(zip(names, cells, strict=True)))
  file = table(f"path,label,set\n{lines}")
  found = tables.read(file)
  assert {key: [n for n, _ in pairs] for key, pairs in found.splits.items()} == {
    "train": names[:3], "val": [names[3]], "dev": [names[4]], "test": names[5:7],
    "val2017": [names[7]],
  }  # fmt: skip
  words = "'train' and 'trainset' and 'training' are one split; 'test' and 'test_images' are one"
  assert found.remarks == {"splits": f"by the column 'set'; {words} split"}
  assert {n for n, _ in load(file)[0]["train"]} == {*names[:3]}


def test_the_splits_of_a_column_are_those_of_the_run():
  names = put(*some("in", 6))
  cells = ("Training",) * 3 + ("PrivateTest",) * 2 + ("PublicTest",)
  lines = "".join(f"{c},{n},{y}\n" for c, n, y in zip(cells, names, "xyxyxy", strict=True))
  file = table(f"Usage,path,label\n{lines}")
  found, _ = load(file)
  assert {key: {name for name, _ in part} for key, part in found.items()} == {
    "train": {*names[:3]}, "test": {*names[3:5]}
  }  # fmt: skip
  assert load(file, validation="val")[0]["validation"] == {(names[5], ("y",))}


@pytest.mark.parametrize("column", ["set", "fold", "weather"])
def test_a_column_that_says_nothing_of_splits_is_named(column):
  put(*(name for name, _ in ROWS))
  lines = "".join(f"{name},{label},{'wet' if i % 2 else 'dry'}\n" for i, (name, label) in
                  enumerate(ROWS))  # fmt: skip
  found = tables.read(table(f"path,label,{column}\n{lines}"))
  assert [*found.splits] == [""] and found.remarks == {"not used": f"columns {column!r}"}
  c = default()
  for key, value in {
    "data.source": "folder", "data.path": "a.csv", "data.image_size": 4, "batch_size": 4,
  }.items():  # fmt: skip
    override(c, key, value)
  data.check(c.data)
  summary = data.open_inputs(c, sharding.make_mesh(1)).summary
  assert summary["not used"] == f"columns {column!r}"


@pytest.mark.parametrize("column", ["fold", "set", "K Fold"])
def test_folds_are_refused_unless_a_share_is_held_out(fails, column):
  put(*(name for name, _ in ROWS))
  lines = "".join(f"{name},{label},{i % 3}\n" for i, (name, label) in enumerate(ROWS))
  table(f"path,label,{column}\n{lines}")
  message = fails("path=a.csv")
  assert f"a.csv: the column '{column.lower().replace(' ', '_')}' has 0, 1, 2, which" in message
  assert "write train and test there; or hold out a share, as --config.data.test=0.1" in message
  found, _ = load("a.csv", test=0.2)
  assert found["train"] | found["test"] == PAIRS
  lines = lines.replace(",0\n", ",0,test\n").replace(",1\n", ",1,train\n")
  lines = lines.replace(",2\n", ",2,train\n")
  table(f"path,label,{column},split\n{lines}")
  assert len(load("a.csv")[0]["test"]) == 4  # of ten, those of fold 0


def test_several_labels():
  names = put(*some("in", 6))
  labels = [["b", "10"], ["9"], ["10", "b", "b"], ["9", "10", "b"], ["9"], ["b"]]
  expected = {name: set(row) for name, row in zip(names, labels, strict=True)}
  lines = "".join(f"{name}, {' ; '.join(row)}\n" for name, row in zip(names, labels, strict=True))
  rows = [{"path": n, "labels": row} for n, row in zip(names, labels, strict=True)]
  rows[1]["labels"], rows[4]["labels"] = 9, [9]
  for file in (
    table(f"path,labels\n{lines}"),
    table("\n".join(map(json.dumps, rows)), "a.jsonl"),
  ):
    found, classes = load(file, test=2)
    assert classes == ("9", "10", "b")
    assert {n: set(row) for n, row in found["train"] | found["test"]} == expected
    c = config(file)
    split = folder.load(c, "train")
    assert split.labels.dtype == np.uint8 and split.labels.shape == (6, 3)
    np.testing.assert_array_equal(split[2]["label"], split.labels[2])


def test_an_image_of_several_labels_may_have_none():
  names = put(*some("in", 6))
  labels = [["x"], [], ["y"], ["y"], ["x"], "y"]
  rows = [{"path": n, "label": row} for n, row in zip(names, labels, strict=True)]
  found, _ = load(table("\n".join(map(json.dumps, rows)), "a.jsonl"))
  assert (names[1], ()) in found["train"] | found["test"]


@pytest.mark.parametrize("seed", range(6))
def test_every_line_is_in_one_split_with_its_labels(seed):
  rng = np.random.default_rng(seed)
  several, split = rng.integers(2, size=2)
  alphabet = ["1", "20", "3", "é\u2028e", 'q"u', "c,d", "x y"]
  classes = [*alphabet[: rng.integers(2, 8)]]
  names = put(*(f"in/{i}, {rng.choice(['a', 'é'])}.png" for i in rng.permutation(70)))
  draw = lambda i: sorted({classes[i % len(classes)], *rng.choice(classes, several)})
  rows = [(name, draw(i), ("train", "test")[int(i > 50)]) for i, name in enumerate(names)]
  file, text = ("a.csv", io.StringIO()) if rng.integers(2) else ("a.jsonl", io.StringIO())
  if file == "a.csv":
    csv.writer(text).writerows(
      [("path", "split", "label")[:: 1 if split else 2]]
      + [(name, part, ";".join(found))[:: 1 if split else 2] for name, found, part in rows]
    )
  else:
    for name, found, part in rows:
      row = {"path": name, "label": found} | ({"split": part} if split else {})
      text.write(json.dumps(row, ensure_ascii=False) + "\n")
  found, _ = load(table(text.getvalue(), file))
  everything = {(name, frozenset(labels)) for name, labels, _ in rows}
  got = {key: {(name, frozenset(labels)) for name, labels in part} for key, part in found.items()}
  assert got["train"] | got["test"] == everything and not got["train"] & got["test"]
  if split:
    assert {name for name, _ in got["test"]} == {name for name, _, part in rows if part == "test"}


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
  "labels, classes, remark",
  [
    ((1, 1.0, "1", "1.00", 2), ("1", "2"), "'1' and '1.0' and '1.00' are one class"),
    ((10.0, -1, 9.5, -2, "b"), ("-2", "-1", "9.5", "10.0", "b"), None),
    ((1.0, 2.0, 10.0), ("1.0", "2.0", "10.0"), None),
    ((NFC, NFD, "dog"), (NFC, "dog"), "'cafe\\u0301' and 'caf\\xe9' are one class"),
    ((NFD, "dog"), (NFC, "dog"), None),
    ((True, False), ("False", "True"), None),
    (("Cat", "cat", "dog"), ("Cat", "cat", "dog"), "'Cat' and 'cat' are separate classes, which "
     "differ in case, spaces or form alone"),
    (("cat", "c\u200bat", "x"), ("cat", "c\u200bat", "x"), "'cat' and 'c\\u200bat' are separate"),
    (("a  b", "a b", "dog"), ("a  b", "a b", "dog"), "'a  b' and 'a b' are separate classes"),
    (("01", "1", "2"), ("01", "1", "2"), "'01' and '1' are separate classes, which differ in "
     "leading zeros alone"),
    (("NA", "none", "cat"), ("NA", "cat", "none"), "'NA' is a class, not a missing label"),
    (("a", "b", "a|b"), ("a", "a|b", "b"), "'a|b' is a separate class beside 'a' and 'b'"),
    (("1.1", "1.10", "1.9"), ("1.1", "1.10", "1.9"), None),  # of versions
  ],
)  # fmt: skip
def test_labels_are_taken_for_what_they_say(labels, classes, remark):
  names = put(*(f"in/{i}.png" for i in range(len(labels) * 5)))
  rows = [{"path": n, "label": labels[i % len(labels)]} for i, n in enumerate(names)]
  found, ordered = load(table("\n".join(map(json.dumps, rows)), "a.jsonl"))
  assert ordered == classes
  assert sum(map(len, found.values())) == len(names)
  remarks = data.load(config("a.jsonl"), ("train",))["train"].remarks
  assert [*remarks] == ["labels"] * bool(remark) and remarks.get("labels", "").startswith(
    remark or ""
  )


def test_spellings_of_several_labels_are_one():
  names = put(*some("in", 6))
  lines = "".join(f"{n},{c}\n" for n, c in zip(names, ("1;1.0", "2", "1;2") * 2, strict=True))
  found, classes = load(table(f"path,label\n{lines}"))
  assert classes == ("1", "2") and (names[0], ("1",)) in found["train"] | found["test"]


@pytest.mark.parametrize("labels", [("x", "x;y", "y", "x"), ("x", "y", "y", "x")])
def test_all_images_of_a_list_have_their_labels_whatever_their_split(labels):
  names = put(*some("in", 4))
  lines = zip(names, labels, ("train", "test", "train", "test"), strict=True)
  split = folder.whole(config(table("path,label,split\n" + "\n".join(map(",".join, lines)))))
  several = "x;y" in labels
  assert split.classes == ("x", "y")
  assert split.label.kind == ("multi_label" if several else "label")
  found = {split.name(i): split.labels[i].tolist() for i in range(len(split))}
  one = lambda text: [int(c in text) for c in "xy"] if several else "xy".index(text)
  assert found == {name: one(text) for name, text in zip(names, labels, strict=True)}


# What is wrong is told in one line, before anything is computed


HEAD = "path,label,split\nin/0.png,x,train\nin/1.png,y,train\n"


@pytest.mark.parametrize(
  "text, words",
  [
    ("", "a.csv names no images"),
    ("path,label\n\n", "a.csv names no images"),
    ("in/0.png,x\nin/1.png,y\n", "a.csv: the first line needs a column path (or file, filename, "),
    ("path;label\nin/0.png;x\n", "commas between columns, and has path;label: replace its "
     "semicolons with commas, in every line"),
    ("path\tlabel\nin/0.png\tx\n", "label: replace its tabs with commas, in every line"),
    *((f"{HEAD}in/2.png,x;{label},test\n", f"a.csv, line 4: the label '{label}' is how programs "
       "write a missing one; delete the line, or give the class another name")
      for label in ("nan", "None", "<NA>", "NULL", "NA")),
    ("path,lable\nin/0.png,x\n", "needs a column label (or labels, class, category), with commas"),
    (f"{HEAD}\nin/2.png,x\n", "a.csv, line 5: 2 columns, and the first line has 3"),
    (f"{HEAD}in/2.png,x,test,\n", "a.csv, line 4: 4 columns"),
    (f'{HEAD}"in/2\n.png",x\n', "a.csv, line 4: 2 columns"),
    (f"{HEAD},x,test\n", "a.csv, line 4: no path in {'path': ''"),
    (f"{HEAD}in/2.png,,test\n", "a.csv, line 4: no label in "),
    (f"{HEAD}in/2.png,x;,test\n", "a.csv, line 4: no label in "),
    (f'{HEAD}in/2.png,"x,test\nin/3.png,x,test\n', "a.csv, line 4: unexpected end of data; look"),
    (f'{HEAD}in/2.png,"x"y,test\n', "a.csv, line 4: ',' expected after"),
    (f"{HEAD}in/2.png,é,test\n".encode("latin-1"), "a.csv, line 4: this is not UTF-8; save"),
    (HEAD.encode("utf-16"), "a.csv, line 1: this is not UTF-8; save"),
    (f"{HEAD}in/8.png,x,test\nin,x,test\n", "2 of 4 files are not there: in/8.png (line 4), in ("
     "line 5); paths start at the folder of the table"),
    (HEAD + "".join(f"in/{i}.png,x,test\n" for i in range(8, 2008)), "2,000 of 2,002 files are not "
     "there: in/8.png (line 4), in/9.png (line 5), in/10.png (line 6), in/11.png (line 7), "
     "in/12.png (line 8) and 1,995 more;"),
    (f"{HEAD}in\\2.png,x,test\n", "not there: in\\2.png (line 4); paths start at the folder of the "
     "table, and have / between folders"),
    (f"{HEAD}in/0.png,y,test\n", "a.csv, line 4: in/0.png is in line 2 already; an image has one"),
    (f"{HEAD}./in/1.png,y,train\n", "a.csv, line 4: ./in/1.png is in line 3 already"),
    (f"{HEAD}in/2.png,x,\n", "a.csv, line 4: some lines have a split and others have none"),
    (HEAD.replace("split\n", "split,is_valid\n").replace("train\n", "train,0\n"),
     "a.csv: the columns 'split' and 'is_valid' each give the split of a line; keep one, and"),
    (HEAD.replace("split", "Label"), "a.csv, line 1: two columns are named 'label'; rename or"),
    (HEAD.replace("path,label,split", "path,label,image path,image-path"), "named 'image_path'"),
    (f"{HEAD}in/2.png,z,test\n", "a.csv: 'test' has classes that 'train' lacks, so that they "
     "cannot be learnt: z"),
    (HEAD, "unknown split of a.csv in data.test 'test'. Choose from: train; or hold out a share"),
    (HEAD.replace("train", "test"), "unknown split of a.csv in data.train 'train'"),
    ("path,label\nin/0.png,x\nin/1.png,x\n", "a.csv has one class only, 'x'"),
  ],
)  # fmt: skip
def test_bad_csv(fails, text, words):
  put(*some("in", 4))
  assert words in fails(f"path={table(text)}")


@pytest.mark.parametrize(
  "row, words",
  [
    ("[", "a.jsonl, line 3: not JSON: Expecting value"),
    ("[" * 100_000, "a.jsonl, line 3: not JSON: "),
    ('{"path": "in/1.png" "label": "x"}', "a.jsonl, line 3: not JSON: Expecting ',' delimiter"),
    ('{"path": "in/1.png", "label": "x", "label": "y"}', "line 3: two columns are named 'label'"),
    ('{"path": "in/1.png", "label": "x", "Label": "y"}', "line 3: two columns are named 'label'"),
    ('["in/1.png", "x"]', 'a.jsonl, line 3: it should be like {"path": "a.jpg", "label": "b"}'),
    ('{"path": "in/1.png"}', "a.jsonl, line 3: no label in {'path'"),
    ('{"label": "x"}', "a.jsonl, line 3: no path in {'label'"),
    ('{"path": 1, "label": "x"}', "a.jsonl, line 3: no path in "),
    ('{"path": "in/1.png", "label": null}', "a.jsonl, line 3: no label in "),
    ('{"path": "in/1.png", "label": NaN}', "a.jsonl, line 3: no label in "),
    ('{"path": "in/1.png", "label": [1, -Infinity]}', "a.jsonl, line 3: no label in "),
    ('{"path": "in/1.png", "label": 1e999}', "a.jsonl, line 3: no label in "),
    ('{"path": "in/1.png", "label": "\\ud800"}', "a.jsonl, line 3: no label in "),
    ('{"path": "in/1.png", "label": {"a": 1}}', "a.jsonl, line 3: no label in "),
    ('{"path": "in/1.png", "label": ["x", ""]}', "a.jsonl, line 3: no label in "),
    ('{"path": "in/1.png", "label": ["x", ["y"]]}', "a.jsonl, line 3: no label in "),
    ('{"path": "in/9.png", "label": "x"}', "1 of 2 files are not there: in/9.png (line 3)"),
    ("", "a.jsonl has one class only, 'x'"),
  ],
)
def test_bad_jsonl(fails, row, words):
  put("in/0.png", "in/1.png")
  text = f'\n{{"path": "in/0.png", "label": "x"}}\n{row}\n'
  assert words in fails(f"path={table(text, 'a.jsonl')}")


def test_no_labels_at_all(fails):
  put("in/0.png")
  assert "no training image has a label" in fails(
    f"path={table(json.dumps({'path': 'in/0.png', 'label': []}), 'a.jsonl')}"
  )


# Other fields


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_masks_and_values_stand_in_columns(kind):
  names = put(*some("in", 9))
  masks = [f"m/{i}.png" for i in range(9)]
  pathlib.Path("m").mkdir()
  for name in masks:
    Image.fromarray(pixels(name)[..., 0] % 3).save(name)
  values = [(i / 4, -i) for i in range(9)]
  if kind == "csv":
    rows = [f"{n},{m},{a};{b}" for n, m, (a, b) in zip(names, masks, values, strict=True)]
    file = table("path,mask,value\n" + "\n".join(rows))
  else:
    rows = [
      {"path": n, "mask": m, "value": v} for n, m, v in zip(names, masks, values, strict=True)
    ]
    file = table("\n".join(map(json.dumps, rows)), "a.jsonl")
  c = config(file, test=0.3)
  data.check(c)
  splits = [split for split in data.load(c).values() if split]
  assert [*splits[0].fields] == ["image", "mask", "value"] and not splits[0].remarks
  found = {}
  for split in splits:
    columns = (split.arrays[name] for name in ("image", "mask", "value"))
    found |= {image.tobytes(): (mask, value) for image, mask, value in zip(*columns, strict=True)}
  for name, mask, value in zip(names, masks, values, strict=True):
    np.testing.assert_array_equal(found[pixels(name).tobytes()][0], pixels(mask)[..., 0] % 3)
    np.testing.assert_array_equal(found[pixels(name).tobytes()][1], np.float32(value))


@pytest.mark.parametrize("odd", ["a", "", "nan", "1;-inf", "1e999"])
def test_a_column_of_values_that_are_no_numbers_is_not_used(odd):
  names = put(*some("in", 4))
  rows = [f"{n},{'xy'[i % 2]},{odd if i else 1}" for i, n in enumerate(names)]
  c = config(table("path,label,value\n" + "\n".join(rows)))
  split = folder.load(c, "train")
  assert [*split.fields] == ["image", "label"] and split.remarks["not used"] == "columns 'value'"


@pytest.mark.parametrize(
  "text, words",
  [
    ("path,mask\nin/0.png,in/9.png\n", r"1 of 2 files are not there: in/9.png \(line 2\)"),
    ("path,mask\nin/0.png,\n", "line 2: no mask in"),
    ("path,value\nin/0.png,1\nin/1.png,1;2\n", "line 3: 2 values, and the first image has 1"),
  ],
)
def test_masks_and_values_that_are_missing(text, words):
  put(*some("in", 2))
  with pytest.raises(UserError, match=words):
    data.check(config(table(text)))
