"""What is held out stays held out: each example's side follows from the example alone."""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.config import default
from cnnjax.data import files, folder, holdout, identity
from cnnjax.errors import UserError

SHARE = 0.25


def split_of(ids, labels=None, classes=4, groups=None):
  """An image of four pixels for each id; the same id is the same picture."""
  images = np.asarray(ids, "<u4").view(np.uint8).reshape(-1, 2, 2, 1)
  labels = np.arange(len(images)) % classes if labels is None else np.asarray(labels)
  split = data.Split.of(images, labels.astype(np.int32), tuple("abcdefgh"[:classes]))
  if groups is None:
    return split
  names = [identity.fingerprint(group.encode()) if group else 0 for group in groups]
  names = np.array(names, np.uint64)

  class Grouped(type(split.records)):
    groups = names

  return dataclasses.replace(split, records=Grouped(split.records.arrays))


def held(split, amount=SHARE, key="test", seed=0):
  """The ids that are held out, once they are seen to be a part of the whole."""
  kept, out = holdout.carve(split, amount, key, seed, identity.CONTENT)
  ids = lambda part: part.images.reshape(len(part), 4).copy().view("<u4")[:, 0].tolist()
  assert sorted(ids(kept) + ids(out)) == sorted(ids(split))
  assert not {*ids(kept)} & {*ids(out)}, "copies are on both sides"
  assert {*kept.labels} == {*split.labels}, "a class is not trained on"
  return {*ids(out)}


def test_what_comes_goes_is_relabelled_or_sorted_moves_nothing_else():
  rng = np.random.default_rng(0)
  ids, labels = np.arange(300), np.arange(300) % 4
  before = held(split_of(ids, labels))
  order = rng.permutation(300)
  assert held(split_of(ids[order], labels[order])) == before
  assert held(split_of(ids, rng.integers(0, 4, 300))) == before
  assert held(split_of(np.arange(350))) & {*range(300)} == before
  gone = {*rng.choice(300, 40, replace=False).tolist()}
  rest = np.array([i for i in ids if i not in gone])
  assert held(split_of(rest, labels[rest])) == before - gone
  assert held(split_of(np.repeat(ids, 2))) == before


@pytest.mark.parametrize("share", [0.1, 0.25, 0.8])
def test_the_shares_are_those_of_a_binomial_in_each_class(share):
  ids = np.arange(4000)
  for seed in range(3):
    found = np.array(sorted(held(split_of(ids), share, seed=seed)))
    for label in range(4):
      number = np.sum(found % 4 == label)
      assert abs(number - 1000 * share) < 4 * np.sqrt(1000 * share * (1 - share))


def test_seeds_and_uses_are_independent():
  """A fourth of each other's; were they the same draw, all of it or nothing."""
  split = split_of(np.arange(4000))
  parts = [held(split), held(split, seed=1), held(split, key="validation")]
  for i, one in enumerate(parts):
    for other in parts[:i]:
      assert abs(len(one & other) - 250) < 60


def test_the_draw_is_pinned():
  """Another one would draw anew what runs have trained on. Written out, beside hashlib."""
  image = np.array([1, 2, 3, 4], np.uint8).reshape(1, 2, 2, 1)
  split = data.Split.of(image, np.zeros(1, np.int32), ("a",))
  number = lambda *parts: int.from_bytes(
    hashlib.blake2b(
      b"".join(len(p).to_bytes(8, "little") + p for p in parts), digest_size=8
    ).digest(),
    "little",
  )
  (found,) = split.ids(identity.CONTENT)
  assert int(found) == number(bytes([1, 2, 3, 4]))
  (drawn,) = identity.drawn(split.ids(identity.CONTENT), "test", 7)
  assert int(drawn) == number(int(found).to_bytes(8, "little"), b"test 7")


def test_a_number_is_that_many_and_one_more_example_moves_at_most_one():
  before = held(split_of(np.arange(200)), 30)
  assert len(before) == 30
  moved = [len(held(split_of(np.arange(200 + n)), 30) ^ before) for n in range(1, 30)]
  assert all(after - one in (0, 2) for one, after in zip([0, *moved], moved, strict=False))
  assert 0 < moved[-1] <= 58
  assert {*before} == held(split_of(np.arange(200)), 30)
  smaller = held(split_of(np.arange(200)), 10)
  assert len(smaller) == 10 and smaller < before


def test_copies_under_two_labels_go_with_their_picture():
  ids = np.repeat(np.arange(100), 3)
  assert held(split_of(ids, np.arange(300) % 4)) == held(split_of(np.arange(100)))
  found = held(split_of(ids), 40)
  assert 3 * len(found) in (39, 40), "at most so many, and no set of copies is parted"
  kept, _ = holdout.carve(split_of(ids), 0.2, "test", 0, identity.CONTENT)
  assert kept.remarks["copies"].startswith("200 images are copies of others, and on the same side")
  kept, _ = holdout.carve(split_of([*range(99), 0]), 0.2, "test", 0, identity.CONTENT)
  assert kept.remarks["copies"] == "1 image is a copy of another, and on the same side as that"


def test_examples_of_a_group_are_on_one_side():
  ids, groups = np.arange(400), [f"patient {i // 5}" for i in range(400)]
  found = held(split_of(ids, groups=groups))
  whole = {i // 5 for i in found}
  assert found == {i for i in range(400) if i // 5 in whole}
  assert abs(len(whole) - 20) < 16
  more = held(
    split_of(np.arange(500), groups=[*groups, *(f"patient {i // 5}" for i in range(100))])
  )
  assert more & {*range(400)} == found, "the group decides, not its examples"


def test_images_without_a_group_are_each_on_a_side_of_their_own():
  ids = np.arange(200)
  found = held(split_of(ids, groups=[*("g" * 100), *([""] * 100)]))
  assert found & {*range(100, 200)} == held(split_of(ids)) & {*range(100, 200)}
  assert 5 < len(found & {*range(100, 200)}) < 50


def test_groups_that_share_a_picture_are_on_one_side():
  """A chain of ten groups: each has an image of the one before."""
  ids = [i for group in range(40) for i in (10 * group, 10 * group + 1)]
  chained = [*ids, *(10 * group for group in range(9))]
  groups = [f"g{i // 10}" for i in ids] + [f"g{group + 1}" for group in range(9)]
  for seed in range(6):
    found = held(split_of(chained, groups=groups), seed=seed)
    assert len({i in found for i in ids if i < 100}) == 1
    assert len({i in found for i in ids if i >= 100}) == 2


def test_a_class_keeps_the_example_that_comes_last():
  ids, labels = np.arange(60), np.repeat(np.arange(4), [50, 5, 4, 1])
  split = split_of(ids, labels)
  numbers = identity.drawn(split.ids(identity.CONTENT), "test", 0)
  found = held(split, 0.9)
  for label in range(1, 4):
    own = ids[labels == label]
    below = numbers[own] < 0.9 * 2.0**64
    expected = {*own[below]} - ({own[numbers[own].argmax()]} if below.all() else set())
    assert found & {*own} == expected
  _, out = holdout.carve(split, 0.9, "test", 0, identity.CONTENT)
  assert out.note == "held out of train, by chance without d"


def test_several_labels_keep_an_example_of_each():
  images = np.arange(40, dtype="<u4").view(np.uint8).reshape(-1, 2, 2, 1)
  labels = np.zeros((40, 3), np.uint8)
  labels[:, 0], labels[:2, 1], labels[5, 2] = 1, 1, 1
  split = data.Split.of(images, labels, ("a", "b", "c"))
  for seed in range(5):
    kept, out = holdout.carve(split, 0.8, "test", seed, identity.CONTENT)
    assert kept.labels.any(0).all() and len(out) > 20


def test_groups_of_which_none_is_held_out_are_refused_with_the_mend():
  split = split_of(np.arange(100), groups=["a"] * 50 + ["b"] * 50)
  words = r"\(--config\.data\.test=0\.5\).*another data\.split_seed: copies and groups form 2 units"
  with pytest.raises(UserError, match=words):
    held(split, 49)
  assert len(held(split, 50)) == 50
  with pytest.raises(UserError, match=words.replace("2", "1")):
    held(split_of(np.arange(100), groups=["a"] * 100))


@pytest.mark.parametrize("amount", [0.3, 9])
def test_what_a_run_trained_on_and_held_out_stays_with_what_is_bound_to_it(amount):
  """Group 0 was trained on, 1 held out; a picture then makes one of 2 and 3, which were parted."""
  known = lambda ids: split_of(ids).ids(identity.CONTENT)
  ids = [*range(40), *range(40, 44), 20]  # one more of each of the four groups; 20 is of 3 also
  groups = [f"g{i // 10}" for i in range(40)] + ["g0", "g1", "g2", "g3", "g3"]
  split = split_of(ids, np.array([i // 10 for i in range(40)] + [0, 1, 2, 3, 2]), groups=groups)
  never, always = known([*range(10), *range(20, 30)]), known([*range(10, 20), *range(30, 40)])
  for seed in range(5):
    kept, out = holdout.carve(split, amount, "test", seed, identity.CONTENT, never, always)
    found = {int(i) for i in out.ids(identity.CONTENT)}
    assert found == {*map(int, known([*range(10, 20), *range(30, 40), 41]))}
    assert {1, 3} & {*kept.labels.tolist()} == {3}, "of class 1 all was held out before"


def test_a_share_holds_out_the_first_and_leaves_each_class_its_last():
  """Of a set that is small, or asked for nearly nothing, or for nearly all of it."""
  split = split_of(np.arange(40))
  order = np.argsort(identity.drawn(split.ids(identity.CONTENT), "test", 0))
  assert held(split, 1e-9) == {order[0]}
  last = {order[order % 4 == label][-1] for label in range(4)}
  assert held(split, 0.999999) == {*range(40)} - last


# Through the sources


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """60 pictures of two classes, in `tmp_path / "a"`."""
  monkeypatch.chdir(tmp_path)
  folder._listing.cache_clear()
  for i in range(60):
    write(f"a/{'xy'[i % 2]}/{i}.png", i)
  return tmp_path / "a"


def write(path, number):
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels(number)).save(path)


def pixels(number):
  return np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)


def sides(path="a", **settings):
  """{picture: split}; the same of both pipelines."""
  found = []
  for pipeline in ("resident", "streaming"):
    c = default().data
    c.update({"source": "folder", "path": path, "image_size": 4, "pipeline": pipeline, **settings})
    data.check(c)
    splits = data.load(c).items()
    found.append(
      {int(i): name for name, split in splits if split for i in split.ids(identity.CONTENT)}
    )
  assert found[0] == found[1]
  return found[0]


def test_files_that_are_added_renamed_relabelled_or_gone_move_nothing(photos):
  before = sides(validation=0.2)
  assert {*before.values()} == {"train", "validation", "test"} and len(before) == 60
  assert {i for i, s in sides().items() if s == "test"} == {
    i for i, s in before.items() if s == "test"
  }, "the test split is the same without a validation split"
  for i in range(60, 80):
    write(f"a/x/{i}.png", i)
  os.rename("a/x/0.png", "a/x/zzz.png")
  os.rename("a/x/2.png", "a/y/2.png")
  os.rename("a/y", "a/w")
  gone = sides("a", validation=0.2)
  assert {i: gone[i] for i in before} == before and len(gone) == 80
  os.remove("a/x/4.png")
  after = sides(validation=0.2)
  assert len(after) == 79 and after.items() <= gone.items()
  lines = [
    f"a/{f.parent.name}/{f.name},{f.parent.name}\n" for f in pathlib.Path("a").rglob("*.png")
  ]
  pathlib.Path("list.csv").write_text("path,label\n" + "".join(lines[::-1]))
  assert sides("list.csv", validation=0.2) == after


GROUPED = "path,label,Patient ID\n" + "".join(
  f"a/{'xy'[i % 2]}/{i}.png,{'xy'[i % 2]},{f'p{i // 6}' if i < 54 else ''}\n" for i in range(60)
)


@pytest.mark.parametrize(
  "path, group, of, words",
  [
    ("list.csv", "Patient ID", lambda i: f"p{i // 6}" if i < 54 else i,
     "9 by 'Patient ID', each on one side of a hold-out; 6 images are in none"),
    ("list.csv", r"/(\d)[0-9]?[.]png$", lambda i: str(i)[0], r"10 by '/(\d)[0-9]?[.]png$', each"),
    ("a", "[0-9]", lambda i: str(i)[0], "10 by '[0-9]', each on one side of a hold-out"),
  ],
)  # fmt: skip
def test_groups_of_a_list_or_of_paths_are_not_parted(photos, path, group, of, words):
  pathlib.Path("list.csv").write_text(GROUPED)
  c = default().data
  c.update({"source": "folder", "path": path, "image_size": 4, "group": group, "test": 0.4})
  data.check(c)
  splits = data.load(c, ("train", "test"))
  remarks = splits["train"].remarks
  assert words in remarks["groups"] and ("not used" in remarks) == ("png" in group)
  number = lambda split, i: int(pathlib.Path(split.name(i)).stem)
  train, test = ({of(number(s, i)) for i in range(len(s))} for s in splits.values())
  assert train and test and not train & test
  assert ("not used" in folder.whole(c).remarks) == ("not used" in remarks)


def test_another_list_needs_no_groups_to_be_evaluated(photos):
  pathlib.Path("new.csv").write_text("path,label\na/x/0.png,x\na/y/1.png,y\n")
  c = default().data
  c.update({"source": "folder", "path": "new.csv", "group": "patient"})
  assert len(folder.whole(c)) == 2 and not folder.whole(c).remarks


@pytest.mark.parametrize(
  "path, settings, words",
  [
    ("list.csv", {"group": "patient"}, "unknown column of list.csv in data.group 'patient'. Did "
     "you mean 'patient_id'"),
    ("a", {"group": "patient"}, "it matches no path, such as 'x/0.png'. Name a column of a list"),
    ("a", {"group": "("}, "data.group='(' is no regular expression: "),
    ("a", {"group": r"\.jpg"}, r"data.group='\.jpg' finds no groups: "),
    ("split.csv", {"group": "y"}, "data.group='y' has no effect: split.csv has splits, and"),
    (None, {"group": "a", "source": "digits"}, "=digits: set data.source=folder, or leave it"),
  ],
)  # fmt: skip
def test_groups_that_are_none_are_refused(photos, path, settings, words):
  pathlib.Path("list.csv").write_text(GROUPED)
  pathlib.Path("split.csv").write_text(
    "path,label,split,y\n" + "".join(f"a/{'xy'[i % 2]}/{i}.png,{i % 2},{s},1\n"
                                     for i, s in ((0, "train"), (1, "train"), (2, "test")))
  )  # fmt: skip
  c = default().data
  c.update({"source": "folder", "path": path, "image_size": 4, **settings})
  with pytest.raises(UserError) as e:
    data.check(c)
  assert words in str(e.value)


def test_large_sets_go_by_path_and_size_and_say_nothing_of_content(photos, monkeypatch):
  """They are known by where they lie below the root, wherever that is."""
  read = []
  monkeypatch.setattr(identity, "LARGE", 1000)
  monkeypatch.setattr(files, "read", lambda path: read.append(path) or b"")

  def tested(path):
    c = default().data
    c.update({"source": "folder", "path": path, "image_size": 4, "pipeline": "streaming"})
    data.check(c)
    splits = data.load(c)
    split = splits["test"]
    words = "examples are known by path and size, not by content: copies are not kept together"
    assert split.by == identity.PLACE and words in splits["train"].remarks["held out"]
    return {os.path.relpath(split.name(i), path) for i in range(len(split))}

  before = tested("a")
  assert 0 < len(before) < 30 and not read
  os.rename("a", "b")
  assert tested("b") == before
  write("b/x/100.png", 100)
  assert tested("b") - {"x/100.png"} == before


def test_a_file_that_cannot_be_read_is_known_by_its_name(photos):
  os.remove("a/x/0.png")
  os.symlink("nowhere", "a/x/0.png")
  os.symlink("nowhere", "a/x/02.png")
  c = default().data
  c.update({"source": "folder", "path": "a", "image_size": 4, "pipeline": "streaming"})
  data.check(c)
  splits = data.load(c, ("train", "test"))
  ids = np.concatenate([split.ids(identity.CONTENT) for split in splits.values()])
  assert len(np.unique(ids)) == 61


def test_what_stands_in_for_an_unreadable_image_is_known_as_itself(photos):
  """What a resident split was decoded from says what its examples are."""
  pathlib.Path("a/x/0.png").write_bytes(b"no image")
  c = default().data
  c.update({"source": "folder", "path": "a", "image_size": 4, "pipeline": "resident"})
  data.check(c)
  for name, split in data.load(c, ("train", "test")).items():
    numbers = {pixels(i).tobytes(): i for i in range(60)}
    files = [pathlib.Path(f"a/{'xy'[i % 2]}/{i}.png") for i in range(60)]
    for image, found in zip(split.images, split.ids(identity.CONTENT), strict=True):
      file = files[numbers[image.tobytes()]]
      assert int(found) == identity.fingerprint(file.read_bytes()), name
