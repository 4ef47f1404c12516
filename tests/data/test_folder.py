"""Folders of images and tables of paths: what is read, how it is split, and what is refused."""

import contextlib
import csv
import io
import json
import os
import pathlib
import pickle
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax import data, errors, main, sharding, train
from cnnjax.config import default, override
from cnnjax.data import folder
from cnnjax.errors import UserError

RESNET = pathlib.Path(__file__).parents[2] / "configs" / "resnet.py"
SIZE = 4


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  """Paths in the tests are relative to a fresh folder."""
  monkeypatch.chdir(tmp_path)
  folder._listing.cache_clear()  # "a" was another folder in the last test
  return tmp_path


def pixels(name):
  """What `put` writes under a name: another picture for each."""
  return np.random.default_rng(zlib.crc32(str(name).encode())).integers(
    0, 256, (SIZE, SIZE, 3), dtype=np.uint8
  )


def put(*names):
  """Pictures as PNG, whatever their endings say: files are read by their content."""
  for name in names:
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(name)).save(name, "PNG")
  return list(names)


def some(place, n=5):
  return [f"{place}/{i}.png" for i in range(n)]


def config(path="a", **overrides):
  c = default()
  for key, value in {
    "source": "folder", "path": str(path), "image_size": SIZE, **overrides
  }.items():  # fmt: skip
    override(c, f"data.{key}", value)
  return c.data


def load(path="a", **overrides):
  """{split: {(file, label), ...}} and the classes; files by their pictures, so as they are read."""
  c = config(path, **overrides)
  data.check(c)
  splits = {key: split for key, split in data.load(c).items() if split}
  (classes,) = {split.classes for split in splits.values()}
  written = {pixels(name).tobytes(): name for name in map(str, pathlib.Path().rglob("*"))}
  found = {}
  for key, split in splits.items():
    label = lambda row: tuple(classes[i] for i in (np.flatnonzero(row) if np.ndim(row) else [row]))
    pairs = zip(split.images, split.labels, strict=True)
    found[key] = [(written[image.tobytes()], label(row)) for image, row in pairs]
    assert len(set(found[key])) == len(found[key])
    found[key] = set(found[key])
  return found, classes


def by_folder(*names):
  """{(file, (class,))} of names that end in class/file."""
  return {(name, (name.split("/")[-2],)) for name in names}


# Folders


@pytest.mark.smoke
def test_splits_and_classes_are_folders():
  images = {
    split: put(*(f"a/{split}/{label}/{i}.jpg" for label in "zyx" for i in range(n)))
    for split, n in (("train", 3), ("val", 2), ("test", 1))
  }
  found, classes = load(validation="val")
  assert classes == ("x", "y", "z")
  assert found == {
    "train": by_folder(*images["train"]),
    "validation": by_folder(*images["val"]),
    "test": by_folder(*images["test"]),
  }


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev", "Val"])
def test_without_a_test_split_the_validation_split_is_tested(name):
  put(*some("a/train/x"), *some("a/train/y"))
  held = put(*some(f"a/{name}/x", 2), *some(f"a/{name}/y", 2))
  assert load()[0]["test"] == by_folder(*held)
  found, _ = load(validation="val", test=0.2)
  assert found["validation"] == by_folder(*held)
  assert (len(found["train"]), len(found["test"])) == (8, 2)


@pytest.mark.parametrize("name", ["training", "Train", "TRAIN"])
def test_splits_go_by_several_names(name):
  images = put(*some(f"a/{name}/x"), *some(f"a/{name}/y"))
  put(*some("a/testing/x"), *some("a/testing/y"))
  assert load()[0]["train"] == by_folder(*images)


def test_a_split_may_have_a_name_of_its_own():
  put(*some("a/train/x"), *some("a/train/y"), *some("a/Eval/x"), *some("a/test/x"))
  assert load(test="Eval")[0]["test"] == by_folder(*some("a/Eval/x"))


def test_splits_that_the_config_does_not_name_are_left_alone():
  """A test split without labels, as of competitions, is in nobody's way. It is said."""
  put(*some("a/train/x"), *some("a/train/y"), *some("a/val/x"), *some("a/val/y"), *some("a/test"))
  data.check(config(test="val"))
  assert data.load(config(test="val"))["train"].note == "not used: test"
  assert load(test="val")[0]["test"] == by_folder(*some("a/val/x"), *some("a/val/y"))


def test_splits_other_than_train_may_lack_classes():
  put(*some("a/train/x"), *some("a/train/y"), *some("a/test/y", 2))
  found, classes = load()
  assert classes == ("x", "y") and found["test"] == by_folder(*some("a/test/y", 2))


@pytest.mark.parametrize("overrides, held", [({}, 0.2), ({"test": 0.3}, 0.3), ({"test": 12}, 0.3)])
def test_without_splits_a_part_of_each_class_is_held_out(overrides, held):
  images = put(*some("a/x", 10), *some("a/y", 30))
  found, _ = load(**overrides)
  assert found["train"] | found["test"] == by_folder(*images)
  assert not found["train"] & found["test"]
  for label, n in (("x", 10), ("y", 30)):
    assert sum(names == (label,) for _, names in found["test"]) == round(n * held)


def test_what_is_held_out_is_fixed_by_a_seed_of_its_own():
  put(*some("a/x", 20), *some("a/y", 20))
  first, again, other = (load(split_seed=seed)[0]["test"] for seed in (0, 0, 1))
  assert first == again != other
  assert load(validation=0.25)[0]["test"] == first
  c = config()
  data.check(c)
  assert data.load(c, ("test",))["test"].labels.tolist() == [0] * 4 + [1] * 4


def test_train_is_a_class_where_there_are_others():
  put(*some("a/train"), *some("a/bus"), *some("a/tram/red"))
  assert load()[1] == ("bus", "train", "tram")


def test_numbers_are_classes_in_their_order():
  for label in ("10", "9", "1", "02", "b", "A"):
    put(*some(f"a/{label}"))
  assert load()[1] == ("1", "02", "9", "10", "A", "b")


def test_images_at_any_depth_in_any_case_and_nothing_else():
  images = put(
    "a/x/1.JPG", "a/x/deep/er/2.Jpeg", "a/x/b.jpg/3.png", "a/x/4.webp", "a/y/5.tif", "a/y/e/6.bmp"
  )
  put("a/x/.7.jpg", "a/x/.hidden/8.jpg", "a/.git/9.jpg", "a/10.jpg", "a/y/11.txt", "a/y/12")
  pathlib.Path("a/y/Thumbs.db").touch()
  found, classes = load(test=2)
  expected = {(name, (name.split("/")[1],)) for name in images}
  assert found["train"] | found["test"] == expected and classes == ("x", "y")


def test_links_are_followed_and_loops_are_not():
  put(*some("store/one"), *some("store/two"), *some("a/y"), *some("a/x/in"))
  os.symlink("../store/one", "a/z")
  os.symlink("../../store/two", "a/y/more")
  os.symlink("..", "a/y/more/up")  # to `store`, and by its folder `two` back to here
  os.symlink("/", "a/x/in/root")
  os.symlink(".", "a/x/in/itself")
  os.symlink("../..", "a/x/in/whole")
  os.symlink("../../../store/one/0.png", "a/x/in/one.png")
  c = config(test=0.2)
  data.check(c)
  files = folder.load(c, "train").records.paths
  assert sorted(files) == sorted(
    [*some("a/x/in"), "a/x/in/one.png", *some("a/y"), *some("a/y/more"), *some("a/z")]
  )


@pytest.mark.parametrize("channels", [None, 1])
def test_all_modes_and_sizes_become_one(channels):
  """A folder of orange, and one of dark grey, in everything that Pillow writes."""
  orange, grey = Image.new("RGB", (9, 6), (250, 130, 20)), Image.new("L", (6, 8), 90)
  alpha = orange.convert("RGBA")
  alpha.putalpha(7)
  pathlib.Path("a/orange").mkdir(parents=True)
  pathlib.Path("a/grey").mkdir()
  for name, image in {
    "rgb.png": orange, "alpha.webp": alpha, "alpha.PNG": alpha, "palette.gif": orange.quantize(2),
    "cmyk.jpg": orange.convert("CMYK"), "cmyk.tif": orange.convert("CMYK"), "rgb.jpg": orange,
    "large.bmp": orange.resize((90, 41)), "wrong.png": orange,
  }.items():  # fmt: skip
    image.save(f"a/orange/{name}", **({"quality": 95} if name.endswith("jpg") else {}))
  Image.open("a/orange/rgb.jpg").save("a/orange/wrong.png", "JPEG")
  sixteen = Image.fromarray(np.full((7, 5), 90 * 256 + 200, np.uint16))
  for name, image in {
    "grey.png": grey, "grey.jpg": grey, "alpha.png": grey.convert("LA"), "sixteen.png": sixteen,
    "sixteen.tiff": sixteen, "grey.pgm": grey, "palette.gif": grey.quantize(2),
  }.items():  # fmt: skip
    image.save(f"a/grey/{name}")
  c = config(test=0.2, channels=channels, image_size=5)
  data.check(c)
  skipped = data.Skipped(0)
  for split in data.load(c, ("train", "test"), skipped).values():
    assert split.shape == (5, 5, channels or 3)
    colors = split.images.reshape(len(split), -1, channels or 3).astype(int)
    expected = {None: ((90, 90, 90), (250, 130, 20)), 1: ((90,), (153,))}[channels]
    np.testing.assert_allclose(
      colors, np.array(expected)[split.labels][:, None].repeat(25, 1), atol=8
    )
  assert not skipped


def test_an_image_that_cannot_be_read_is_skipped_and_named():
  put(*some("a/train/x"), *some("a/train/y"), *some("a/test/y"))
  pathlib.Path("a/train/x/empty.jpg").touch()
  os.symlink("nowhere.jpg", "a/train/y/broken.jpg")
  c = config()
  data.check(c)
  skipped = data.Skipped(2)
  data.load(c, skipped=skipped)
  assert set(skipped) == {"a/train/x/empty.jpg", "a/train/y/broken.jpg"}
  with pytest.raises(UserError, match=r"data\.max_unreadable is 1: a/train/x/empty\.jpg: the"):
    data.load(c, skipped=data.Skipped(1))


def test_files_that_came_since_are_seen():
  put(*some("a/x"), *some("a/y"))
  load()
  put(*some("a/z"))
  assert load()[1] == ("x", "y", "z")


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX alone")
def test_names_in_no_encoding_can_be_printed():
  put(*some("a/y"), *some("a/x"))
  os.rename("a/x", os.fsdecode(b"a/caf\xe9"))
  c = config()
  data.check(c)
  split = folder.load(c, "train")
  assert split.classes == ("caf\\xe9", "y")
  assert "a/caf\\xe9/" in split.name(0).encode().decode() and isinstance(split[0][0], bytes)


def test_worker_processes_get_a_copy():
  put(*some("a/x"), *some("a/y"))
  data.check(config())
  split = folder.load(config(), "train")
  copy = pickle.loads(pickle.dumps(split))
  assert copy[1] == split[1] and copy.name(1) == split.name(1) and copy.classes == split.classes


def random_layout(rng):
  """Writes one; returns {split: {(file, labels)}}, "" where there are none, and the classes."""
  splits = [["train", "val", "test"], ["train", "test"], ["training", "valid"], [""]][
    rng.integers(4)
  ]
  names = [str(n) for n in rng.permutation(12)[:3]] + ["Cat", "dog", "Émile", "a b", "x;y"]
  classes = [str(c) for c in rng.permutation(names)[: rng.integers(2, 9)]]
  images = {split: set() for split in splits}
  for split in splits:
    for label in classes:
      count = rng.integers(6, 12) if split in ("", "train", "training") else rng.integers(0, 3)
      for i in rng.permutation(100)[:count]:
        depth = "/".join(str(rng.choice(["p", "q", "val"])) for _ in range(rng.integers(3)))
        ending = rng.choice([".jpg", ".PNG", ".JPeG", ".gif", ".webp", ".tiff"])
        name = os.path.normpath(f"a/{split}/{label}/{depth}/{i}{ending}")
        put(name)
        images[split].add((name, (label,)))
  return {split: found for split, found in images.items() if found}, classes


@pytest.mark.parametrize("seed", range(12))
def test_every_image_is_in_one_split_with_the_label_of_its_folder(seed, monkeypatch):
  rng = np.random.default_rng(seed)
  images, classes = random_layout(rng)
  shares = {} if len(images) > 1 or "" in images else {"test": 0.4}
  if "val" in images:
    shares = {"validation": "val"} | ({} if "test" in images else {"test": 0.4})
  found, ordered = load(**shares)
  numbers = sorted((c for c in classes if c.isdecimal()), key=int)
  assert ordered == (*numbers, *sorted(set(classes) - set(numbers)))
  assert sum(map(len, found.values())) == sum(map(len, images.values()))
  assert set.union(*found.values()) == set.union(*images.values())
  for key, own in (("validation", "val"), ("test", "test")):
    if own in images:
      assert found[key] == images[own]

  first, scan = order(**shares), os.scandir

  def other_machine(path):
    with scan(path) as entries:
      entries = [*entries]
    return contextlib.nullcontext([entries[i] for i in rng.permutation(len(entries))])

  monkeypatch.setattr(os, "scandir", other_machine)
  assert order(**shares) == first


def order(**overrides):
  """Files and labels in their order."""
  c = config(**overrides)
  data.check(c)
  names = [c[key] for key in ("train", "validation", "test") if isinstance(c[key], str)]
  splits = {name: folder.load(c, name) for name in names}
  return {
    key: (split.classes, [split.name(i) for i in range(len(split))], split.labels.tolist())
    for key, split in splits.items()
  }


# Tables


def table(text, name="a.csv"):
  pathlib.Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
  return name


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
  found, classes = load(table(text))
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
    found, classes = load(file)
    assert classes == ("9", "10", "b")
    assert {n: set(row) for n, row in found["train"] | found["test"]} == expected
    c = config(file)
    split = folder.load(c, "train")
    assert split.labels.dtype == np.uint8 and split.labels.shape == (4, 3)
    np.testing.assert_array_equal(split[2][1], split.labels[2])


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


# What is wrong is told in one line, before anything is computed


@pytest.fixture
def fails(capsys, monkeypatch):
  """A function from overrides of `data` to the one line of a command that ends with 2."""
  monkeypatch.setattr(train.programs, "build", lambda *_: pytest.fail("reached `build`"))

  def fails(*overrides):
    argv = [f"--config={RESNET}", "--config.data.source=folder", "--config.data.image_size=4"]
    argv += [f"--config.data.{word}" for word in overrides]
    assert errors.run(lambda: main.main(argv)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    return printed.err

  return fails


X, Y = some("a/x"), some("a/y")
TRAIN = some("a/train/x") + some("a/train/y")


@pytest.mark.parametrize(
  "names, overrides, words",
  [
    ([], ["path="], "data.source=folder needs data.path"),
    ([], ["path=abc/d"], "there is no 'abc' in "),
    (X + Y, ["path=A"], "there is no 'A' in "),
    (["photos/x/1.png"], ["path=fotos"], "/photos'?"),
    (X + Y, ["path=a/x/0.png"], "'a/x/0.png' is neither a folder nor a .csv or .jsonl file"),
    (X + Y, ["path=a/x/0.png/z"], "there is no 'z' in "),
    (["b/1.txt"], ["path=b"], "b has no images: it takes b/<class>/a.jpg, or a CSV or JSONL file"),
    (["b/x/1.txt", "b/y/1.txt"], ["path=b"], "b has no images: it takes b/<class>/a.jpg"),
    (X, ["path=a/x"], "a/x has images, but no folders of classes: it takes a/x/<class>/a.jpg"),
    (X, ["path=a"], "a has one class only, 'x'; it takes two or more\n"),
    (some("b/a/x") + some("b/a/y"), ["path=b"], "one class only, 'a'; it takes two or more; did "
     "you mean data.path=b/a?"),
    ([*X, *Y, "a/z/1.txt", "a/w/.1.png"], ["path=a"], "no image in the folder of w, z; fill it or"),
    ([*X, "a/y/1.png"], ["path=a"], "a: one image only of y, and a part of each class is to be"),
    ([*X, "a/y/1.png"], ["path=a", "test=1"], "a: one image only of y"),
    (X + Y, ["path=a", "validation=val"], "there are no splits in a; hold out a share, as --"),
    (X + Y, ["path=a", "validation=train"], "hold out a share, as --config.data.validation=0.1"),
    (X + Y, ["path=a", "test=tst"], "there are no splits in a; hold out a share, as --"),
    (X + Y, ["path=a", "train=trn"], "there are no splits in a; leave it at 'train'"),
    (X + Y, ["path=a", "test=train"], "hold out a share, as --config.data.test=0.1"),
    (TRAIN, ["path=a"], "unknown split of a in data.test 'test'. Choose from: train; or hold"),
    (TRAIN + some("a/val/y"), ["path=a", "train=trian"], "'trian'. Did you mean 'train'?"),
    (TRAIN + some("a/val/y"), ["path=a", "validation=val"], "data.validation='val' and "
     "data.test='test' are both its split 'val', and what is trained on or chosen by cannot be"),
    (TRAIN + some("a/val/y"), ["path=a", "test=train"], "are both its split 'train'"),
    (some("a/val/x") + some("a/val/y"), ["path=a"], "unknown split of a in data.train 'train'"),
    (TRAIN + some("a/test"), ["path=a"], "a/test has images, but no folders of classes: it takes "
     "a/test/<class>/a.jpg, or a CSV or JSONL file of paths and labels; or hold out a share"),
    (some("a/train") + some("a/test"), ["path=a"], "a/train has images, but no folders of classes"),
    (TRAIN + some("a/test/z") + some("a/test/x"), ["path=a"], "'test' has classes that 'train' "
     "lacks, so that they cannot be learnt: z; add"),
    ([*TRAIN, *some("a/test/x"), "a/test/y/no.txt"], ["path=a"], "a/test: no image in the folder"),
    (some("a/train/x") + some("a/test/x"), ["path=a"], "a has one class only, 'x'"),
    (X + Y, ["path=a", "data_dir=b"], "data.data_dir='b' goes with data.source=tfds"),
    (X + Y, ["path=a", "train=train[:50%]"], "there are no splits in a"),
  ],
)  # fmt: skip
def test_bad_folders(fails, names, overrides, words):
  put(*names)
  assert words in fails(*overrides)


def test_images_of_many_sizes_need_one():
  put(*X, *Y)
  c = config(image_size=None)
  with pytest.raises(UserError, match=r"images of a may differ in size; set data\.image_size"):
    data.check(c)


def test_home_is_filled_in(fails, here, monkeypatch):
  monkeypatch.setenv("HOME", str(here / "home"))
  put(*some("home/a/x"), *some("home/a/y"))
  assert load("~/a")[1] == ("x", "y")
  assert f"'~/b': there is no 'b' in {here}/home" in fails("path=~/b")


def test_a_link_to_nowhere_is_not_proposed(fails):
  os.symlink("nowhere", "a")
  put(*some("b/x"))
  message = fails("path=a/x")
  assert "there is no 'a' in " in message and "Did you mean" not in message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(fails):
  put(*X, *some("a/y/deep"))
  table("path,label\n")
  for path, message in (
    ("a/y/deep", "a/y/deep cannot be read: Permission denied"),
    ("a", "a cannot be read: Permission denied"),
    ("a.csv", "a.csv cannot be read: Permission denied"),
  ):
    os.chmod(path, 0)
    try:
      assert message in fails(f"path={path.split('/')[0]}")
    finally:
      os.chmod(path, 0o755)


HEAD = "path,label,split\nin/0.png,x,train\nin/1.png,y,train\n"


@pytest.mark.parametrize(
  "text, words",
  [
    ("", "a.csv names no images"),
    ("path,label\n\n", "a.csv names no images"),
    ("in/0.png,x\nin/1.png,y\n", "a.csv: the first line needs a column path (or file, filename, "),
    ("path;label\nin/0.png;x\n", "commas between columns, and has path;label"),
    ("path,split\nin/0.png,x\n", "needs a column label (or labels, class, category), with commas"),
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
    (f"{HEAD}in/0.png,y,test\n", "a.csv, line 4: in/0.png is in line 2 already; an image has one"),
    (f"{HEAD}./in/1.png,y,train\n", "a.csv, line 4: ./in/1.png is in line 3 already"),
    (f"{HEAD}in/2.png,x,\n", "a.csv, line 4: a split in some lines and none in others"),
    (f"{HEAD}in/2.png,z,test\n", "a.csv: 'test' has classes that 'train' lacks, so that they "
     "cannot be learnt: z"),
    (HEAD, "unknown split of a.csv in data.test 'test'. Choose from: train; or hold out a share"),
    (HEAD.replace("train", "test"), "unknown split of a.csv in data.train 'train'"),
    ("path,label\nin/0.png,x\nin/1.png,x\n", "a.csv has one class only, 'x'"),
    ("path,label\nin/0.png,x\nin/1.png,x\nin/2.png,y\n", "a.csv: one image only of y"),
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
    ('["in/1.png", "x"]', 'a.jsonl, line 3: it should be like {"path": "a.jpg", "label": "b"}'),
    ('{"path": "in/1.png"}', "a.jsonl, line 3: no label in {'path'"),
    ('{"label": "x"}', "a.jsonl, line 3: no path in {'label'"),
    ('{"path": 1, "label": "x"}', "a.jsonl, line 3: no path in "),
    ('{"path": "in/1.png", "label": null}', "a.jsonl, line 3: no label in "),
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
  assert "no image that is trained on has a label" in fails(
    f"path={table(json.dumps({'path': 'in/0.png', 'label': []}), 'a.jsonl')}"
  )


# What is printed


def test_the_start_up_block_counts_the_classes():
  put(*some("a/train/cat", 9), *some("a/train/dog", 6), *some("a/train/emu", 3))
  put(*some("a/val/cat", 2), *some("a/val/dog", 1))
  c = default()
  for key, value in {
    "data.source": "folder", "data.path": "a", "data.image_size": SIZE, "batch_size": 8,
  }.items():  # fmt: skip
    override(c, key, value)
  data.check(c.data)
  summary = data.open_inputs(c, sharding.make_mesh(1)).summary
  assert summary["data"].startswith("a, 4x4x3, 3 classes: 18 train, 3 test")
  assert summary["classes"] == (
    "9 of cat (largest class) to 3 of emu (smallest), imbalance ratio 3"
  )
