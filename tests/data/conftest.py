"""A fresh folder for tests of image files, and a command that fails on what lies there."""

import pathlib

import pytest

from cnnjax import errors, main, train
from cnnjax.data import folder

RESNET = pathlib.Path(__file__).parents[2] / "configs" / "resnet.py"


@pytest.fixture
def here(tmp_path, monkeypatch):
  """Paths in the tests are relative to a fresh folder."""
  monkeypatch.chdir(tmp_path)
  folder._listing.cache_clear()  # "a" was another folder in the last test
  return tmp_path


@pytest.fixture
def fails(capsys, monkeypatch):
  """A function from overrides of `data` to the one line of a command that ends with 2."""
  monkeypatch.setattr(train, "build", lambda *_: pytest.fail("reached `build`"))

  def fails(*overrides):
    argv = [f"--config={RESNET}", "--config.data.source=folder", "--config.data.image_size=4"]
    argv += [f"--config.data.{word}" for word in overrides]
    assert errors.run(lambda: main.main(argv)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    return printed.err

  return fails
