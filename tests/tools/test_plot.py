"""The picture of the learning rate, and the command that draws it."""

import sys

import cv2
import numpy as np
import pytest

from cnnjax.data import tfds
from cnnjax.data.split import Split
from cnnjax.errors import UserError
from cnnjax.tools import optim as command
from cnnjax.tools import plot

CONFIG = """
from cnnjax.config import default

def get_config(preset="short"):
  c = default()
  c.model.name = "simple_cnn"
  c.epochs = {"short": 4, "long": 20}[preset]
  c.batch_size = 64
  c.optim.schedule.name = "linear"
  return c
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "net.py"
  path.write_text(CONFIG)
  return path


@pytest.fixture
def drawn(monkeypatch):
  """What is drawn, [(x, y, name)]."""
  from matplotlib.axes import Axes

  found, draw = [], Axes.plot
  monkeypatch.setattr(
    Axes, "plot", lambda axis, x, y, **k: found.append((x, y, k["label"])) or draw(axis, x, y, **k)
  )
  return found


def test_it_draws_the_rates_of_the_run(tiny, tmp_path, drawn):
  config = tiny(**{"epochs": 20, "optim.schedule.name": "linear", "optim.scale_from": 8})
  (curve,) = plot.curves(config, "net")  # 101 images: 6 steps of 16 an epoch
  plot.draw([curve], tmp_path / "a.png")
  ((x, y, name),) = drawn
  assert name == "net"
  assert curve.text == (
    "learning rate 0.2 (0.1 for 8, linear, batch 16), linear to 0, warm-up 2 steps"
  )
  np.testing.assert_allclose(x * 6, np.arange(120), atol=1e-6)
  steps = np.arange(120)
  expected = np.where(steps < 2, steps / 2, 1 - (steps - 2) / 118)
  np.testing.assert_allclose(y, 2 * 0.1 * expected, atol=1e-6)
  image = cv2.imread(str(tmp_path / "a.png"))
  assert image.shape[0] > 400 and image.std() > 5


def test_the_table_is_short_and_exact(tiny):
  """Also where a curve has fewer points than steps, at the very step of a fall."""
  settings = {
    "optim.schedule.name": "multi_step",
    "optim.schedule.boundaries": (30, 60),
    "optim.schedule.warmup": 5,
    "epochs": 90,
  }
  (curve,) = plot.curves(tiny(**settings), "net", examples=16 * 1001)
  assert len(curve.steps) < 90 * 1001 / 10
  assert {0, 30 * 1001, 60 * 1001, 90 * 1001 - 1} <= {*curve.steps.tolist()}
  rows = [line.split() for line in curve.table().splitlines()[1:]]
  assert [row[0] for row in rows] == [f"{e:.2f}" for e in range(0, 91, 10)]
  assert [row[1] for row in rows[:2]] == ["0", "10,010"] and rows[-1][1] == "90,089"
  assert [float(row[2]) for row in rows] == [0, 0.1, 0.1] + [0.01] * 3 + [0.001] * 4


@pytest.mark.parametrize("epochs, rows", [(1, 6), ("1 step", 1), (3, 10), (5, 6), (1000, 11)])
def test_tables_of_short_and_long_runs(tiny, epochs, rows):
  config = tiny(**{"epochs": epochs, "optim.schedule.warmup": 0})
  (curve,) = plot.curves(config, "net")
  table = curve.table().splitlines()[1:]
  assert len(table) == rows
  steps = [int(line.split()[1].replace(",", "")) for line in table]
  assert steps[0] == 0 and steps[-1] == curve.steps[-1] and sorted(set(steps)) == steps


def test_a_sweep_has_a_curve_for_each_rate(tiny):
  found = plot.curves(tiny(rates=(0.1, 0.3), **{"optim.scale_from": 1}), "net")
  assert [curve.name for curve in found] == ["net, rate 0.1", "net, rate 0.3"]
  assert [curve.rates.max() for curve in found] == pytest.approx([0.1, 0.3])
  np.testing.assert_allclose(found[1].rates, 3 * found[0].rates, rtol=1e-5)


@pytest.mark.parametrize(
  "settings, steps",
  [
    ({}, 6),
    ({"data.remainder": "pad"}, 7),
    ({"data.validation": 51}, 3),
    ({"data.sampling": "oversample"}, 6),
  ],
)
def test_the_length_of_an_epoch_is_that_of_training(tiny, settings, steps, monkeypatch):
  """Found without decoding an image."""
  monkeypatch.setattr(Split, "decoded", lambda *_, **__: pytest.fail("it decodes"))
  (curve,) = plot.curves(tiny(**settings), "net")
  assert curve.per_epoch == steps


@pytest.mark.parametrize("remainder, steps", [("drop", 6), ("pad", 7)])
def test_data_that_are_not_here(tiny, monkeypatch, remainder, steps):
  """Nothing is downloaded; the number of examples is enough."""
  monkeypatch.setattr(tfds, "load", lambda *_: pytest.fail("it loads"))
  for found in (True, False):  # TensorFlow, with which a run would prepare the data
    monkeypatch.setattr(tfds, "_has_tensorflow", lambda found=found: found)
    config = tiny(
      **{
        "data.source": "tfds",
        "data.name": "emnist",
        "data.data_dir": "nowhere",
        "data.remainder": remainder,
      }
    )
    with pytest.raises(UserError, match=r"emnist is not .* without the data, .*--examples=50000"):
      plot.curves(config, "net")
    (curve,) = plot.curves(config, "net", examples=101)
    assert curve.per_epoch == steps


def test_too_few_examples(tiny):
  with pytest.raises(UserError, match="--examples=3 is less than batch_size=16"):
    plot.curves(tiny(), "net", examples=3)


def test_what_is_wrong_is_said_before_the_data_are_looked_for(tiny):
  config = tiny(**{"data.source": "tfds", "data.name": "emnist", "optim.schedule.name": "cosin"})
  with pytest.raises(UserError, match=r"unknown schedule 'cosin'. Did you mean 'cosine'\?"):
    plot.curves(config, "net")
  with pytest.raises(UserError, match=r"warmup 5 is 30 steps, and the whole run is 18"):
    plot.curves(tiny(**{"optim.schedule.warmup": 5}), "net")


def test_a_plateau_is_named(tiny):
  config = tiny(**{"optim.plateau.patience": 5, "data.validation": 0.2})
  (curve,) = plot.curves(config, "net")
  assert curve.text.endswith(
    "; not drawn: x0.1 when validation/accuracy stands still for more than 5 evaluations"
  )


def test_a_picture_that_cannot_be_written(tiny, tmp_path):
  found = plot.curves(tiny(), "net")
  for name in ("no/folder.png", "a.notanimage"):
    with pytest.raises(UserError, match="cannot write"):
      plot.draw(found, tmp_path / name)


def test_without_matplotlib(tiny, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
  with pytest.raises(UserError, match=r"pictures need matplotlib: pip install -e '.\[plots\]'"):
    plot.draw(plot.curves(tiny(), "net"), tmp_path / "a.png")


def test_two_configs_as_a_command(file, tmp_path, capsys, drawn):
  out = tmp_path / "rates.png"
  argv = ["plot", f"--config={file}", f"--config={file}:long", f"--out={out}", "--log"]
  assert command.main([*argv, "--config.optim.learning_rate=0.3"]) == 0
  text = capsys.readouterr().out
  assert "net: learning rate 0.3, linear to 0" in text and "net:long: learning rate 0.3" in text
  assert text.endswith(f"written: {out}\n")
  assert [name for _, _, name in drawn] == ["net", "net:long"]
  assert [round(x[-1]) for x, _, _ in drawn] == [4, 20]
  assert cv2.imread(str(out)).std() > 5


@pytest.mark.parametrize(
  "argv, message",
  [
    ([], "give a config:"),
    (["--out=a.png", "--config=none.py"], "unknown config file 'none.py'"),
    (["--config=FILE", "--ot=a.png"], r"unknown argument '--ot'. Did you mean '--out'\?"),
    (["--config=FILE", "--config.optim.lr=1"], r"Did you mean 'optim.learning_rate'\?"),
    (["--config=FILE", "--examples=many"], "invalid int value: 'many'"),
  ],
)
def test_wrong_arguments(file, tmp_path, monkeypatch, argv, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message):
    command.main(["plot", *(word.replace("FILE", str(file)) for word in argv)])
  assert not list(tmp_path.glob("*.png"))
