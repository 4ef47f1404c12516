"""Folders of images: what is read, how it is split, and what is refused."""

import contextlib
import itertools
import os
import pathlib
import pickle

import numpy as np
import pytest
from folders import SIZE, by_folder, config, load, pixels, put, some, table
from PIL import Image

from cnnjax import data, train
from cnnjax.config import default, override
from cnnjax.data import folder
from cnnjax.errors import UserError
from cnnjax.runtime import sharding

pytestmark = pytest.mark.usefixtures("here")

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
  found, _ = load(validation="val", test=2)
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
  splits = data.load(config())
  assert (splits["train"].note, splits["test"].note) == ("", "without x")
  assert "2 test (without x)" in data.describe(config(), {k: splits[k] for k in ("train", "test")})
  assert data.load(config(long_tail=2.0))["test"].note == "without x"


@pytest.mark.parametrize("overrides, held", [({}, 0.2), ({"test": 0.3}, 0.3), ({"test": 12}, 0.3)])
def test_without_splits_a_part_is_held_out(overrides, held):
  """Of each class its share, but for chance: within three deviations of a binomial."""
  images = put(*some("a/x", 10), *some("a/y", 30))
  found, _ = load(**overrides)
  assert found["train"] | found["test"] == by_folder(*images)
  assert not found["train"] & found["test"]
  assert overrides.get("test") != 12 or len(found["test"]) == 12
  for label, n in (("x", 10), ("y", 30)):
    number = sum(names == (label,) for _, names in found["test"])
    assert abs(number - n * held) <= 3 * np.sqrt(n * held * (1 - held))


def test_what_is_held_out_is_fixed_by_a_seed_of_its_own():
  put(*some("a/x", 20), *some("a/y", 20))
  first, again, other = (load(split_seed=seed)[0]["test"] for seed in (0, 0, 1))
  assert first == again != other
  assert load(validation=0.25)[0]["test"] == first
  c = config()
  data.check(c)
  alone = data.load(c, ("test",))["test"]
  assert {pixels(name).tobytes() for name, _ in first} == {i.tobytes() for i in alone.images}


@pytest.mark.parametrize(
  "folders",
  [
    ("bus", "train", "tram/red"), ("bus/2021", "train/2021"), ("invalid/2021", "valid/2021"),
    ("test/a", "test/b", "toast/a"), ("cats", "dogs", "eval"),
  ],
)  # fmt: skip
def test_one_name_of_a_split_among_others_is_a_class(folders):
  images = put(*itertools.chain(*(some(f"a/{place}") for place in folders)))
  found, classes = load()
  assert classes == tuple(sorted({place.split("/")[0] for place in folders}))
  assert found["train"] | found["test"] == {(name, (name.split("/")[1],)) for name in images}
  (odd,) = {*classes} & {"train", "valid", "test", "eval"}
  remarks = data.load(config())["train"].remarks
  assert remarks == {"labels": f"the folder {odd!r} is a class, as are those beside it"}


@pytest.mark.parametrize(
  "train, test", [("training_set", "test_set"), ("train2017", "val2017"), ("Train images", "test")]
)
def test_names_of_splits_may_say_that_they_are_sets(train, test):
  images = put(*some(f"a/{train}/x"), *some(f"a/{train}/y"))
  held = put(*some(f"a/{test}/x"), *some("a/notes/z"))[:5]
  found, classes = load()
  assert found == {"train": by_folder(*images), "test": by_folder(*held)} and classes == ("x", "y")
  assert data.load(config())["train"].remarks == {"not used": "folders beside the splits: notes"}


def test_folders_of_one_name_in_two_unicode_forms_are_one_class():
  images = put(*some("a/train/caf\u00e9"), *some("a/train/cafe\u0301"), *some("a/train/x"))
  put(*some("a/test/cafe\u0301"))
  found, classes = load()
  assert classes == ("caf\u00e9", "x")
  label = lambda name: ("x" if "/x/" in name else "caf\u00e9",)
  assert found["train"] == {(name, label(name)) for name in images} and len(found["test"]) == 5
  assert data.load(config())["train"].remarks == {
    "labels": r"'cafe\u0301' and 'caf\xe9' are one class"
  }


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


@pytest.mark.parametrize("root, test", [("a", 0.2), ("a/train", "test")])
def test_what_is_not_read_is_counted_and_litter_is_no_class(root, test):
  images = put(
    *some(f"{root}/x", 7), *some(f"{root}/y"), *some("a/test/x") if test == "test" else ()
  )
  put(*(f"{root}/x/IMG_{i}.HEIC" for i in range(15)), f"{root}/y/deep/clip.MOV")
  put(*some(f"{root}/x/@eaDir/0.png"), *some(f"{root}/y/@eaDir"), *some(f"{root}/__MACOSX/x"))
  put(*some(f"{root}/.ipynb_checkpoints"), *some(f"{root}/$RECYCLE.BIN/x"), f"{root}/x/Thumbs.db")
  put(
    f"{root}/x/._0.png", f"{root}/x/._1.png", f"{root}/y/.a.png", f"{root}/loose.png", "a/list.csv"
  )
  put(f"{root}/y/Thumbs.db", f"{root}/y/a.b.xml", f"{root}/y/noend")
  found, classes = load(test=test)
  assert classes == ("x", "y")
  assert set.union(*found.values()) == by_folder(*images)
  assert data.load(config(test=test))["train"].remarks == {
    "not read": "15 .heic: convert them to JPEG or PNG; 1 .csv, 1 .mov, 1 .xml, 1 without an ending"
    f"; 1 image in no class, such as {root}/loose.png",
    "passed over": "2 ._*, 2 @eaDir, 2 Thumbs.db, 1 $RECYCLE.BIN, 1 .ipynb_checkpoints and 2 more",
  }


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
  load(test=2)
  put(*some("a/z"))
  assert load(test=2)[1] == ("x", "y", "z")


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX alone")
def test_names_in_no_encoding_can_be_printed():
  put(*some("a/y"), *some("a/x"))
  os.rename("a/x", os.fsdecode(b"a/caf\xe9"))
  c = config()
  data.check(c)
  split = folder.load(c, "train")
  assert split.classes == ("caf\\xe9", "y")
  assert "a/caf\\xe9/" in split.name(0).encode().decode() and isinstance(split[0]["image"], bytes)


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


# What is wrong is told in one line, before anything is computed


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
    (["b/1.txt"], ["path=b"], "b has no images: data.path takes b/<class>/a.jpg, or a CSV or "),
    (["b/x/1.txt", "b/y/1.txt"], ["path=b"], "b has no images: data.path takes b/<class>/a.jpg"),
    (X, ["path=a"], "a has one class only, 'x'; training takes two or more\n"),
    (some("b/a/x") + some("b/a/y"), ["path=b"], "only, 'a'; training takes two or more; did "
     "you mean data.path=b/a?"),
    ([*X, *Y, "a/z/1.txt", "a/w/.1.png"], ["path=a"], "no image in the folder of w, z; fill it or"),
    ([*X, *Y, "a/z/1.heic", "a/w/@eaDir/1.png"], ["path=a"], "no image in the folder of w, z (1 "
     ".heic: convert them to JPEG or PNG); fill it or delete it"),
    (["b/x/1.heic", "b/y/1.HEIC"], ["path=b"], "b has no images, but 2 .heic: convert them to"),
    (X + Y, ["path=a", "validation=val"], "there are no splits in a; hold out a share, as --"),
    (X + Y, ["path=a", "validation=train"], "hold out a share, as --config.data.validation=0.1"),
    (X + Y, ["path=a", "test=tst"], "there are no splits in a; hold out a share, as --"),
    (X + Y, ["path=a", "train=trn"], "there are no splits in a; leave it at 'train'"),
    (X + Y, ["path=a", "test=train"], "hold out a share, as --config.data.test=0.1"),
    (TRAIN, ["path=a"], "unknown split of a in data.test 'test'. Choose from: train; or hold"),
    (TRAIN + some("a/val/y"), ["path=a", "train=trian"], "'trian'. Did you mean 'train'?"),
    (TRAIN + some("a/val/y"), ["path=a", "validation=val"], "data.validation='val' and "
     "data.test='test' are both its split 'val', and no image may serve two"),
    (TRAIN + some("a/val/y"), ["path=a", "test=train"], "are both its split 'train'"),
    (some("a/val/x") + some("a/val/y"), ["path=a"], "unknown split of a in data.train 'train'"),
    (TRAIN + some("a/test"), ["path=a"], "a/test has images, but no folders of classes: a split "
     "takes a/test/<class>/a.jpg, or a CSV or JSONL file of paths and labels; or hold out a share"),
    (TRAIN + some("a/test/z") + some("a/test/x"), ["path=a"], "'test' has classes that 'train' "
     "lacks, so that they cannot be learnt: z; add"),
    ([*TRAIN, *some("a/test/x"), "a/test/y/no.txt"], ["path=a"], "a/test: no image in the folder"),
    (some("a/train/x") + some("a/test/x"), ["path=a"], "a has one class only, 'x'"),
    (X + Y, ["path=a", "data_dir=b"], "'data.data_dir' is 'b' and has no effect with"),
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


@pytest.mark.parametrize(
  "root, path, slow",
  [
    ("a", "a/x/1.png", False), ("a/", "a/x/1.png", False), ("/b", "/b/x//1.png", False),
    (".", "./x/1.png", False), ("", "x/1.png", False), ("a", "a/./x/../y/1.png", False),
    ("a", "ab/1.png", True), ("a", "a/../a/1.png", True), ("", "/c/1.png", True),
    ("../a", "../a/1.png", False), ("", "../1.png", True), ("/", "/x/1.png", False),
  ],
)  # fmt: skip
def test_paths_below_the_root_are_those_of_relpath(root, path, slow, monkeypatch):
  """Which takes as long as all else that places need, so that few are left to it."""
  asked, relpath = [], os.path.relpath
  monkeypatch.setattr(os.path, "relpath", lambda *given: asked.append(given) or relpath(*given))
  files = folder.Files((path,), np.zeros(1, np.int32), root)
  assert files.relative(0) == relpath(path, root or None)
  assert bool(asked) == slow


# Images without labels, and masks


@pytest.mark.parametrize("names", [some("a"), some("a/train") + some("a/test", 2)])
def test_images_need_no_labels_unless_a_task_does(names):
  put(*names)
  c = default()
  for key, value in {"source": "folder", "path": "a", "image_size": 4, "test": "test"}.items():
    override(c, f"data.{key}", value)
  data.check(c.data)
  splits = data.load(c.data)
  found = {image.tobytes() for split in splits.values() if split for image in split.images}
  assert found == {pixels(name).tobytes() for name in names}
  assert [*splits["train"].fields] == ["image"] and splits["train"].classes == ()
  override(c, "batch_size", 8)
  with pytest.raises(UserError, match=r"^task.name=classification needs a field of the kind label"):
    train.build(c)


def masks(*names):
  """Masks as PNG of two classes, beside the pictures of `put`."""
  for name in names:
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(name)[..., 0] % 3).save(name, "PNG")
  return list(names)


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
@pytest.mark.parametrize(
  "folder_, pattern, of",
  [
    ("a/train/images", "{folder}/../masks/{name}.png", lambda i: f"a/train/masks/{i}.png"),
    ("a/train", "{folder}/{name}_mask.png", lambda i: f"a/train/{i}_mask.png"),
    ("a/train/deep", "../b/{folder}/{name}.png", lambda i: f"b/train/deep/{i}.png"),
    ("a", "{name}-m.png", lambda i: f"a/{i}-m.png"),
  ],
)
def test_the_mask_of_an_image_lies_where_the_pattern_says(folder_, pattern, of, pipeline):
  names = put(*some(folder_, 9))
  expected = {pixels(name).tobytes(): of(i) for i, name in enumerate(names)}
  masks(*map(of, range(9)))
  c = config("a", masks=pattern, pipeline=pipeline, test=0.3)
  data.check(c)
  splits = {key: split for key, split in data.load(c).items() if split}
  assert sum(map(len, splits.values())) == 9
  for split in splits.values():
    assert split.fields["mask"].classes == ("0", "1", "2") and "label" not in split.fields
    for batch, there in data.pipeline(split, c, sharding.make_mesh(1), data.Skipped(0)).once(4):
      for image, mask, is_one in zip(batch["image"], batch["mask"], there, strict=True):
        if is_one:
          file = expected[np.asarray(image).tobytes()]
          np.testing.assert_array_equal(mask, pixels(file)[..., 0] % 3)


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"masks": "{nam}.png"}, r"data.masks='\{nam\}.png' is a path below data.path with \{folder\}"),
    ({"masks": "m/{name}.png"}, r"9 of 9 images have no mask: that of a/0.png would be a/m/0.png"),
    ({"masks": "{name}_m.png", "classes": ("sky",)}, "the masks have 1 class besides 255"),
    ({"masks": "{name}_m.png", "classes": 2}, "a mask has the class 2, and there are 2 classes"),
  ],
)  # fmt: skip
def test_masks_that_are_not_right(overrides, words):
  put(*some("a", 9))
  if "_m" in overrides["masks"]:
    masks(*(f"a/{i}_m.png" for i in range(9)))
  c = config("a", test=0.3, **overrides)
  with pytest.raises(UserError, match=words):
    data.check(c)
    data.load(c)
