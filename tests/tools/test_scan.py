"""The scan of a folder: every kind of file it looks for is found, and no other."""

import io
import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import identity
from cnnjax.errors import UserError
from cnnjax.tools.scan import HARMFUL, KINDS, render, scan


def picture(seed, shape=(40, 50, 3)):
  return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def write(root, files):
  """Files by their path: an image is saved in the format of its ending, bytes as they are."""
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
      path.write_bytes(content)
    else:
      content.save(path)
  return root


def turned():
  exif = Image.Exif()
  exif[0x0112] = 6
  return encoded(picture(1), "JPEG", exif=exif)


def mpo():
  return encoded(picture(2), "MPO", save_all=True, append_images=[picture(3)])


JPEG = encoded(picture(10), "JPEG")
CASES = {
  "good.jpg": (picture(11), {}),
  "good.png": (picture(12), {}),
  "good.tiff": (picture(13), {}),
  "GOOD.JPG": (encoded(picture(14), "JPEG"), {}),
  "empty.jpg": (b"", {"empty": ""}),
  "cut.jpg": (JPEG[:-300], {"truncated": ": Premature end of JPEG file"}),
  "cut.png": (encoded(picture(15), "PNG")[:-300], {"truncated": ": image file is"}),
  "text.jpg": (b"404 not found", {"unreadable": ": no image in a known format"}),
  "float.tiff": (
    Image.fromarray(np.zeros((40, 40), np.float32)),
    {"unreadable": ": pixels of 32 bits"},
  ),
  "really_png.jpg": (encoded(picture(16), "PNG"), {"wrong ending": ": a PNG"}),
  "grey.jpg": (picture(17).convert("L"), {"grey": ""}),
  "bits.png": (picture(18).convert("1"), {"grey": ""}),
  "cmyk.jpg": (picture(19).convert("CMYK"), {"CMYK": ""}),
  "alpha.png": (picture(20, (40, 50, 4)), {"alpha": ""}),
  "grey_alpha.png": (picture(21).convert("LA"), {"grey": "", "alpha": ""}),
  "palette.png": (picture(22).convert("P"), {"palette": ""}),
  "deep.png": (
    Image.fromarray(np.random.default_rng(23).integers(0, 65536, (40, 50)).astype(np.uint16)),
    {"grey": "", "16 bits": ""},
  ),
  "animated.webp": (
    encoded(picture(24), "WEBP", save_all=True, append_images=[picture(25)]),
    {"several frames": ""},
  ),
  "phone.jpg": (mpo(), {"several frames": ""}),
  "turned.jpg": (turned(), {"turned": ""}),
  "small.png": (picture(26, (31, 40, 3)), {"small": ": 31x40"}),
  "long.png": (picture(27, (40, 161, 3)), {"elongated": ": 40x161"}),
  "not so large.png": (Image.new("L", (4096, 4096)), {"grey": ""}),
  "large.png": (Image.new("L", (4200, 4000)), {"grey": "", "large": ": 4000x4200"}),
  "photo": (encoded(picture(28), "JPEG"), {"ending unknown": ": JPEG"}),
  "labels.csv": (b"path,label\n", {"other files": ""}),
  ".hidden.jpg": (b"", {"hidden": ""}),
  "camera.HEIC": (b"ftypheic", {"other formats": ""}),
  "camera.nef": (b"MM", {"other formats": ""}),
  "Thumbs.db": (b"", {"litter": ""}),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
  """A folder with one file of every kind, and its report."""
  root = tmp_path_factory.mktemp("odd")
  return scan(write(root, {f"a/sub/{name}": content for name, (content, _) in CASES.items()}))


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_listed_under_its_kinds_and_no_others(odd, name):
  found = {
    kind: line.removeprefix(f"a/sub/{name}")
    for kind, lines in odd.findings.items()
    for line in lines
    if line.startswith(f"a/sub/{name}")
  }
  expected = CASES[name][1]
  assert found.keys() == expected.keys()
  for kind, detail in expected.items():
    assert found[kind].startswith(detail) and (detail or not found[kind])


def test_the_readable_are_counted(odd):
  lost = {"unreadable", "truncated", "empty", "ending unknown", "other files", "hidden"}
  lost |= {"other formats", "litter"}
  readable = [name for name, (_, kinds) in CASES.items() if not lost & kinds.keys()]
  assert odd.counts == {"": {"a": len(readable)}}
  assert odd.harmful


def test_all_kinds_are_explained_and_tested_here():
  compared = {
    "leaked",
    "conflicting",
    "to be parted",
    "bits unused",
    "duplicate",
    "classes that differ",
    "empty folder",
    "outside",
    "names",
  }
  assert set(KINDS) == compared.union(*(kinds for _, kinds in CASES.values()))
  assert all(KINDS.values()) and set(HARMFUL) < set(KINDS)


def paths(lines):
  """The files of lines such as `a = b (the same bytes)`."""
  return [set(line.split(" (")[0].split(" = ")) for line in lines]


def test_the_same_picture_is_found_by_bytes_and_by_pixels(tmp_path):
  one, two, three, four = (picture(seed) for seed in range(4))
  report = scan(
    write(
      tmp_path,
      {
        "train/cat/1.png": one,
        "train/cat/1.bmp": one,  # a duplicate by pixels
        "train/cat/2.png": two,
        "train/cat/2b.png": two,  # by bytes
        "train/cat/3.png": three,
        "val/cat/3.bmp": three,  # leaked
        "train/dog/4.png": four,
        "test/cat/4.png": four,  # leaked, and another class
        "train/dog/5.png": picture(5),
        "train/cow/5.tiff": picture(5),  # another class
        "val/dog/6.png": picture(6),
        "train/dog/7.png": picture(7).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "val/dog/7.png": picture(7),  # another picture
        "train/dog/8.png": picture(8, (40, 50, 3)),
        "val/dog/8.png": Image.fromarray(np.asarray(picture(8)).reshape(50, 40, 3)),  # another
        "notes/cat/1.png": one,  # beside the splits: not read
      },
    )
  )
  assert paths(report.findings["duplicate"]) == [
    {"train/cat/1.bmp", "train/cat/1.png"},
    {"train/cat/2.png", "train/cat/2b.png"},
  ]
  assert "pixels" in report.findings["duplicate"][0] and "bytes" in report.findings["duplicate"][1]
  assert sorted(paths(report.findings["leaked"]), key=min) == [
    {"test/cat/4.png", "train/dog/4.png"},
    {"train/cat/3.png", "val/cat/3.bmp"},
  ]
  assert sorted(paths(report.findings["conflicting"]), key=min) == [
    {"test/cat/4.png", "train/dog/4.png"},
    {"train/cow/5.tiff", "train/dog/5.png"},
  ]
  assert report.findings["outside"] == ("notes/cat/1.png",)
  assert report.harmful
  assert report.counts == {
    "test": {"cat": 1},
    "train": {"cat": 5, "cow": 1, "dog": 4},
    "val": {"cat": 1, "dog": 3},
  }
  assert report.findings["classes that differ"] == (
    "test lacks cow, dog",
    "val lacks cow",
  )


def test_thumbnails_are_no_copies_and_archives_no_classes(tmp_path):
  files = {
    "cat/1.png": picture(1), "cat/@eaDir/1.png": picture(1), "dog/2.png": picture(2),
    "__MACOSX/cat/1.png": picture(1), "#recycle/cat/1.png": picture(1),
  }  # fmt: skip
  report = scan(write(tmp_path, files))
  assert report.findings == {"litter": ("#recycle", "__MACOSX", "cat/@eaDir")}
  assert report.counts == {"": {"cat": 1, "dog": 1}}


def test_names_that_may_have_been_meant_otherwise_are_found(tmp_path):
  files = {
    "valid/caf\u00e9.png": picture(1), "invalid/1.png": picture(2), "cafe\u0301/1.png": picture(3),
    "caf\u00e9/1.png": picture(4),
  }  # fmt: skip
  report = scan(write(tmp_path, files))
  assert report.findings == {
    "names": (
      "labels: the folder 'valid' is a class, as are those beside it",
      r"'cafe\u0301' and 'caf\xe9' are one class",
    )
  }
  assert report.counts == {"": {"caf\u00e9": 2, "invalid": 1, "valid": 1}}
  (tmp_path / "list.csv").write_text("path,label,fold,n\nvalid/caf\u00e9.png,Cat,0,5\n"
                                     "invalid/1.png,cat,1,6\n")  # fmt: skip
  assert scan(tmp_path / "list.csv").findings["names"] == (
    "not used: columns 'fold', 'n'",
    "the column 'fold' has 0, 1",
    "'Cat' and 'cat' are separate classes, which differ in case, spaces or form alone",
  )


def test_a_clean_folder_has_no_findings(tmp_path):
  files = {f"{c}/{i}.png": picture(10 * i + j) for i in range(3) for j, c in enumerate("ab")}
  told = []
  report = scan(write(tmp_path, files), progress=lambda *done: told.append(done))
  assert report.findings == {} and not report.harmful
  assert report.counts == {"": {"a": 3, "b": 3}}
  assert told[-1] == (6, 6)
  assert "nothing harmful" in render(report)


def deep(largest, shape=(40, 50), seed=0):
  values = np.random.default_rng(seed).integers(0, largest + 1, shape).astype(np.uint16)
  values.flat[0] = largest
  return values


@pytest.mark.parametrize(
  "largest, bits", [(255, 8), (1023, 10), (4095, 12), (4096, 13), (16383, 14), (16384, None)]
)
def test_bits_that_no_file_of_16_uses_are_found(tmp_path, largest, bits):
  """Of all files together: a dark one alone says nothing."""
  files = {"a/1.png": Image.fromarray(deep(largest)), "a/2.png": Image.fromarray(deep(3))}
  write(tmp_path, {**files, "a/8.png": picture(1)})
  report = scan(tmp_path)
  assert len(report.findings["16 bits"]) == 2
  lines = (f"all 2 use {bits}, up to {largest:,}: set data.range={bits}",) if bits else ()
  assert report.findings.get("bits unused", ()) == lines and report.harmful == bool(bits)


def test_bits_of_colour_are_counted_without_transparency(tmp_path):
  colours = np.dstack([deep(900, (40, 50, 3)), np.full((40, 50), 65535, np.uint16)])
  write(tmp_path, {"a/1.png": cv2.imencode(".png", colours)[1].tobytes()})
  assert scan(tmp_path).findings["bits unused"] == ("all 1 use 10, up to 900: set data.range=10",)


def test_copies_are_harmful_where_a_hold_out_may_part_them(tmp_path, monkeypatch):
  """Not those that are the same to the byte: they are on one side, but of large sets."""
  report = scan(write(tmp_path, {"a/1.png": picture(0), "a/2.png": picture(0)}))
  assert list(report.findings) == ["duplicate"] and not report.harmful
  assert "data.group keeps them on one side" in render(report)
  with monkeypatch.context() as patched:
    patched.setattr(identity, "LARGE", sum(image.size for image in report.images) - 1)
    assert list(scan(tmp_path).findings) == ["to be parted"]
  report = scan(write(tmp_path, {"a/3.bmp": picture(0)}))
  assert paths(report.findings["to be parted"]) == [{"a/1.png", "a/2.png", "a/3.bmp"}]
  assert report.harmful and "duplicate" not in report.findings


def test_empty_class_folders_and_images_outside_are_found(tmp_path):
  files = {"a/1.png": picture(0), "loose.png": picture(1), "b/notes.txt": b"", ".git/x.png": b""}
  (tmp_path / "c" / "deeper").mkdir(parents=True)
  report = scan(write(tmp_path, files))
  assert report.findings["empty folder"] == ("b", "c")
  assert report.findings["outside"] == ("loose.png",)
  assert report.findings["hidden"] == (".git",)
  assert report.counts == {"": {"a": 1, "b": 0, "c": 0}}
  assert "all: 1 images, largest to smallest class 1 : 1" in render(report)


def test_a_test_split_without_classes_is_compared_all_the_same(tmp_path):
  files = {"Train/a/1.png": picture(0), "Train/b/1.png": picture(1), "test/1.png": picture(0)}
  report = scan(write(tmp_path, files))
  assert paths(report.findings["leaked"]) == [{"Train/a/1.png", "test/1.png"}]
  assert not report.findings.keys() & {"conflicting", "classes that differ"}


def test_links_are_followed_once(tmp_path):
  write(tmp_path, {"a/1.png": picture(0), "elsewhere/2.png": picture(1)})
  os.symlink(tmp_path / "elsewhere", tmp_path / "a" / "more")
  os.symlink(tmp_path, tmp_path / "a" / "loop")
  os.symlink(tmp_path / "nothing.png", tmp_path / "a" / "dangling.png")
  report = scan(tmp_path)
  assert [image.path for image in report.images if image.height] == [
    "a/1.png",
    "a/more/2.png",
    "elsewhere/2.png",
  ]
  assert report.findings["unreadable"] == ("a/dangling.png: No such file or directory",)


def test_the_report_is_plain_text_of_bounded_length(tmp_path):
  for i in range(30):
    write(tmp_path, {f"class{i:02}/{j}.jpg": b"" if j else picture(i) for j in range(2)})
  write(tmp_path, {f"class00/{j}.png": picture(100) for j in range(60)})
  report = scan(tmp_path)
  text, whole = render(report, limit=5), render(report, limit=None)
  assert text.isascii() and "\t" not in text
  assert text.startswith(f"{tmp_path}: 120 image files, 90 readable, 30 classes, no splits")
  assert "HARMFUL empty: 30" in text and "class04/1.jpg" in text and "class05/1.jpg" not in text
  assert "... 25 more" in text and len(text.splitlines()) < 40
  assert "largest to smallest class 61 : 1 = 61.0" in text
  assert "height   40 to 40 pixels, median 40" in text
  assert max(map(len, text.splitlines())) < 320 and "59.png" not in text
  assert "class29/1.jpg" in whole and "59.png" in whole


def test_names_that_are_no_text_can_be_printed(tmp_path):
  (tmp_path / "a").mkdir()
  with open(os.fsencode(tmp_path) + b"/a/\xff.jpg", "wb"):
    pass
  render(scan(tmp_path)).encode()


def table(root, rows):
  """A table of (path, label, split), as CSV and as JSONL."""
  (root / "list.csv").write_text(
    "\n".join(["path,label,split", *(f"{p},{';'.join(ls)},{s}" for p, ls, s in rows)])
  )
  lines = [json.dumps({"path": p, "label": ls, "split": s}) for p, ls, s in rows]
  (root / "list.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_is_scanned_as_a_folder_is(tmp_path, ending):
  """What it lists, with its own labels and splits; several labels count in each class."""
  write(
    tmp_path,
    {
      "x/1.png": picture(1), "x/2.jpg": JPEG[:-300], "3.png": picture(3), "x/4.png": picture(1),
      "5.bmp": picture(3), "x/6.png": picture(6), "x/not_listed.png": b"", "x/7.png": picture(6),
    },
  )  # fmt: skip
  rows = [
    ("x/1.png", ["cat"], "train"), ("x/2.jpg", ["cat"], "train"), ("3.png", ["dog"], "train"),
    ("x/4.png", ["dog"], "train"), ("x/6.png", ["cat", "dog"], "train"),
    ("x/7.png", ["dog", "cat"], "train"), ("5.bmp", ["dog"], "val"),
  ]  # fmt: skip
  table(tmp_path, rows)
  report = scan(tmp_path / f"list.{ending}")
  assert [image.path for image in report.images] == [path for path, _, _ in rows]
  assert report.counts == {"train": {"cat": 3, "dog": 4}, "val": {"dog": 1}}
  assert paths(report.findings["conflicting"]) == [{"x/1.png", "x/4.png"}]
  assert paths(report.findings["leaked"]) == [{"3.png", "5.bmp"}]
  assert paths(report.findings["duplicate"]) == [{"x/6.png", "x/7.png"}]
  assert report.findings["truncated"][0].startswith("x/2.jpg: Premature")
  assert report.findings["classes that differ"] == ("val lacks cat",)
  assert len(report.findings) == 5 and report.harmful
  text = render(report)
  assert f"list.{ending}: 7 image files, 6 readable, 2 classes, splits train, val" in text
  assert "train: 5 images, largest to smallest class 4 : 3 = 1.3" in text


def test_a_table_may_list_files_of_elsewhere_and_relative_to_here(tmp_path, monkeypatch):
  write(tmp_path, {"a/1.png": picture(1), "b/2.png": picture(2)})
  (tmp_path / "a" / "list.csv").write_text(f"path,label\n1.png,x\n{tmp_path / 'b/2.png'},y\n")
  monkeypatch.chdir(tmp_path / "a")
  report = scan("list.csv")
  assert [image.path for image in report.images] == ["1.png", "../b/2.png"]
  assert report.findings == {} and report.counts == {"": {"x": 1, "y": 1}}


def test_a_table_that_cannot_be_trained_on_is_refused(tmp_path):
  (tmp_path / "list.csv").write_text("path,label\nno.png,x\n")
  with pytest.raises(UserError, match=r"1 of 1 files are not there: .*no\.png"):
    scan(tmp_path / "list.csv")


def test_what_is_no_folder_of_images_is_refused(tmp_path):
  write(tmp_path, {"a/1.txt": b"x"})
  for path, why in [
    (tmp_path / "nothing", "is not a folder"),
    (tmp_path / "a" / "1.txt", "but a file, of which scan takes .csv and .jsonl"),
    (tmp_path, "no images in it"),
  ]:
    with pytest.raises(UserError, match=why):
      scan(path)


def test_images_without_labels_are_in_no_class_by_intent(tmp_path):
  """Unless others are in the folder of a class."""
  rng = np.random.default_rng(0)
  for i in range(4):
    pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{i}.png")
  assert "outside" not in scan(tmp_path).findings
  (tmp_path / "cat").mkdir()
  (tmp_path / "3.png").rename(tmp_path / "cat" / "3.png")
  assert len(scan(tmp_path).findings["outside"]) == 3
