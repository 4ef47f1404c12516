"""The picture of a batch, and the command line of the data tools."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax import augment, tasks
from cnnjax import data as datas
from cnnjax.data import fields
from cnnjax.errors import UserError
from cnnjax.runtime import console, sharding
from cnnjax.tools import data as command
from cnnjax.tools import show
from cnnjax.training import passes


@pytest.fixture
def drawn(monkeypatch):
  """What is drawn, [(pixels, title)]."""
  from matplotlib.axes import Axes

  found = []
  monkeypatch.setattr(Axes, "imshow", lambda axis, pixels, **_: found.append([pixels]))
  monkeypatch.setattr(Axes, "set_title", lambda axis, text, **_: found[-1].append(text))
  return found


def test_it_draws_what_training_sees(tiny, tmp_path, drawn):
  config = tiny(augment="flip | mixup(1.0)")
  show.show(config, tmp_path / "a.png", step=7, images=3)
  inputs = datas.open_inputs(config, sharding.make_mesh(1))
  batch = inputs.train.take(inputs.train.feed(7), 7)
  task = tasks.create(config.task, 10)
  operations = augment.create(config.augment)
  images, targets, _ = jax.jit(
    lambda batch: passes.augmented(task, operations, config.seed, 7, batch)
  )(batch)
  assert len(drawn) == 6
  for i in range(3):
    (before, label), (after, title) = drawn[2 * i : 2 * i + 2]
    np.testing.assert_array_equal(before, batch["image"][i, ..., 0])
    np.testing.assert_allclose(after, images[i, ..., 0], atol=1e-6)
    assert label == str(batch["label"][i])
    shares = dict(line.split() for line in title.split("\n") if " " in line)
    for name, share in shares.items():
      assert float(share) == pytest.approx(float(targets[i, int(name)]), abs=0.006)
  assert (tmp_path / "a.png").stat().st_size > 1000


def test_masks_boxes_and_values_are_drawn(tiny, tmp_path, monkeypatch):
  """A mask over its picture, boxes as frames; what an augmentation cannot mix is left out."""
  from matplotlib.axes import Axes

  calls = []
  for name in ("imshow", "plot", "text", "set_title"):
    keep = lambda axis, *args, name=name, **_: calls.append((name, args))
    monkeypatch.setattr(Axes, name, keep)
  rng, n = np.random.default_rng(0), 16
  given = {
    "image": rng.integers(0, 2**16, (n, 8, 8, 5), np.uint16),
    "label": np.arange(n) % 2,
    "mask": rng.integers(0, 2, (n, 8, 8), np.uint8),
    "boxes": np.tile(np.float32([[0.25, 0.5, 1, 0.75], [0, 0, 0, 0]]), (n, 1, 1)),
    "boxes_label": np.ones((n, 2), int),
    "value": np.full(n, 0.5),
  }
  given["mask"][:, 0, 0] = 255
  splits = datas.from_arrays(given, classes=["cat", "dog"])
  declared = {**splits["train"].fields, "boxes": fields.boxes(2, ("paw", "tail"))}
  splits["train"] = dataclasses.replace(splits["train"], declared=declared)
  monkeypatch.setattr(datas, "load", lambda *_, **__: splits)
  config = tiny(**{"data.source": "arrays", "data.test": 0.2, "batch_size": 8, "augment": None})
  order = np.random.default_rng((config.seed, 0)).permutation(n)
  show.show(config, tmp_path / "a.png", images=1)
  drawn = [args[0] for name, args in calls if name == "imshow"]
  assert len(drawn) == 4 and drawn[0].shape == (8, 8, 3)
  np.testing.assert_allclose(drawn[0], given["image"][order[0], ..., :3] / 65535, atol=1e-6)
  np.testing.assert_array_equal(drawn[1].filled(255), given["mask"][order[0]])
  frames = [args[:2] for name, args in calls if name == "plot"]
  assert len(frames) == 2
  assert frames[0] == ([3.5, 5.5, 5.5, 3.5, 3.5], [1.5, 1.5, 7.5, 7.5, 1.5])
  assert {args for name, args in calls if name == "text"} == {(3.5, 1.5, "tail")}
  titles = [args[0] for name, args in calls if name == "set_title"]
  assert titles[0] == f"{('cat', 'dog')[order[0] % 2]}\nvalue 0.5"
  calls.clear()
  config.augment = "mixup(1.0)"
  show.show(config, tmp_path / "a.png", images=1)
  assert len([name for name, _ in calls if name == "imshow"]) == 2
  assert not any(name == "plot" for name, _ in calls)


def photos(root, unreadable=()):
  """A folder of two classes in two splits."""
  rng = np.random.default_rng(0)
  for i in range(16):
    path = root / ("test" if i < 4 else "train") / "ab"[i % 2] / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    if path.parent.parent.name in unreadable:
      path.write_bytes(b"no image")
  return root


@pytest.fixture
def folder(tiny):
  """A function from a folder of `photos` to a config."""
  return lambda root, **overrides: tiny(
    **{
      "data.source": "folder", "data.path": str(root), "data.image_size": 8,
      "data.max_unreadable": 0, "batch_size": 4, **overrides,
    }
  )  # fmt: skip


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_splits_that_are_evaluated_are_not_read(folder, tmp_path, drawn, pipeline):
  config = folder(photos(tmp_path / "set", unreadable=["test"]), **{"data.pipeline": pipeline})
  words = show.show(config, tmp_path / "a.png", images=4)
  assert "12 training examples of 2 classes: 4 of step 0 of 9, 8x8x3" in words
  assert len(drawn) == 8


def test_the_pipeline_is_closed_whatever_happens(folder, tmp_path, monkeypatch):
  config = folder(photos(tmp_path), **{"data.pipeline": "streaming"})
  told = []
  close, feed = datas.Streaming.close, datas.Streaming.feed
  monkeypatch.setattr(datas.Streaming, "close", lambda self: (told.append("close"), close(self)))
  monkeypatch.setattr(
    datas.Streaming, "feed", lambda self, step: (feed(self, step), told.append("fed"))[0]
  )
  monkeypatch.setattr(passes, "augmented_fields", lambda *_, **__: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    show.show(config, tmp_path / "a.png", images=1)
  assert told[-2:] == ["fed", "close"]


def test_a_step_past_the_end_is_refused(tiny, tmp_path):
  with pytest.raises(UserError, match="step 18 is past the end of the run, which has 18 steps"):
    show.show(tiny(), tmp_path / "a.png", step=18)


def test_a_picture_that_cannot_be_written(tiny, tmp_path):
  for name in ("no/folder.png", "a.notanimage"):
    with pytest.raises(UserError, match="cannot write"):
      show.show(tiny(), tmp_path / name, images=1)


def test_show_as_a_command(tmp_path, capsys):
  argv = ["show", "--config=configs/resnet.py", "--images=2", f"--out={tmp_path / 'b.png'}"]
  assert command.main([*argv, "--config.data.source=synthetic"]) == 0
  assert "synthetic" in capsys.readouterr().out
  assert cv2.imread(str(tmp_path / "b.png")).std() > 1
  for wrong, message in (
    ("--config.augment=flop", "Did you mean 'flip'"),
    ("--config.dat.name=a", "unknown config key"),
    ("--ot=a.png", "Did you mean '--out'"),
  ):
    with pytest.raises(UserError, match=message):
      command.main([*argv, wrong])


def test_scan_as_a_command(tmp_path, capsys):
  for label in "ab":
    (tmp_path / label).mkdir()
    pixels = np.random.default_rng(ord(label)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / label / "1.png")
  assert command.main(["scan", str(tmp_path)]) == 0
  assert "2 image files, 2 readable" in capsys.readouterr().out
  (tmp_path / "a" / "2.png").write_bytes(b"no image")
  assert command.main(["scan", str(tmp_path)]) == 1
  assert "a/2.png" in capsys.readouterr().out
  table = tmp_path / "list.csv"
  table.write_text("path,label\na/1.png,x\nb/1.png,y\n")
  assert command.main(["scan", str(table)]) == 0
  assert "2 image files, 2 readable, 2 classes" in capsys.readouterr().out
  with pytest.raises(UserError):
    command.main(["scan", str(tmp_path / "nowhere")])


def test_a_scan_shows_how_far_it_is_on_a_terminal_alone(tmp_path, capsys, monkeypatch):
  photos(tmp_path)
  command.main(["scan", str(tmp_path)])
  assert capsys.readouterr().err == ""
  for name in ("is_terminal", "animated"):
    monkeypatch.setattr(console.Console, name, True)
  command.main(["scan", str(tmp_path)])
  out, err = capsys.readouterr()
  assert "reading images" in err and "100%" in err and "reading images" not in out
