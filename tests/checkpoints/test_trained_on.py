"""The record of the examples that a run was trained on."""

import json

import numpy as np
import pytest

from cnnjax import checkpoints
from cnnjax.checkpoints import trained_on
from cnnjax.data.history import History
from cnnjax.errors import UserError

IDS = np.array([3, 2**63 + 5], np.uint64)


def test_it_comes_back_as_it_was_written(tmp_path):
  of = History("content", False, IDS, IDS[:1], {"test": IDS[1:], "validation": IDS[:0]})
  trained_on.write(tmp_path, of)
  found = trained_on.read(tmp_path)
  assert (found.by, found.older) == ("content", False) and list(found.held) == [*of.held]
  for a, b in ((found.ids, of.ids), (found.shared, of.shared), *zip(
    found.held.values(), of.held.values(), strict=True
  )):  # fmt: skip
    np.testing.assert_array_equal(a, b)
    assert a.dtype == np.uint64
  assert [file.name for file in tmp_path.iterdir()] == [trained_on.FILE]


def test_a_kill_while_it_is_written_leaves_the_old_one(tmp_path, monkeypatch):
  old = History("content", False, IDS, IDS, {})
  trained_on.write(tmp_path, old)

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr("pathlib.Path.replace", killed)
  with pytest.raises(KeyboardInterrupt):
    trained_on.write(tmp_path, History("content", False, IDS[:0], IDS[:0], {}))
  np.testing.assert_array_equal(trained_on.read(tmp_path).ids, IDS)


@pytest.mark.parametrize("number, older", [(0, True), (1, True), (2, False)])
def test_a_run_that_kept_none_is_known_by_its_format(tmp_path, monkeypatch, number, older):
  monkeypatch.setattr(checkpoints, "newest_format", lambda workdir: number)
  if older:
    found = trained_on.read(tmp_path)
    assert (found.by, found.older, found.held) == ("", True, {})
    assert not len(found.ids) and not len(found.shared)
  else:
    with pytest.raises(UserError, match=rf"^put {tmp_path}/trained_on.json back: it says which"):
      trained_on.read(tmp_path)


@pytest.mark.parametrize(
  "change",
  [
    lambda found: "{",
    lambda found: "[]",
    lambda found: {**found, "ids": "xyz"},
    lambda found: {**found, "ids": "00"},
    lambda found: {**found, "held": [1]},
    lambda found: {k: v for k, v in found.items() if k != "older"},
    lambda found: "[" * 100_000,
    lambda found: {**found, "shared": "x" * 999},
  ],
)
def test_a_record_that_is_damaged_is_one_line(tmp_path, change):
  trained_on.write(tmp_path, History("content", False, IDS, IDS, {}))
  file = tmp_path / trained_on.FILE
  changed = change(json.loads(file.read_text()))
  file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
  with pytest.raises(
    UserError, match=rf"^cannot read {file}: .+; put a good one back, or"
  ) as error:
    trained_on.read(tmp_path)
  assert len(str(error.value)) < 300 + len(str(file)) and "\n" not in str(error.value)


def test_a_long_reason_is_cut(tmp_path, monkeypatch):
  trained_on.write(tmp_path, History("content", False, IDS, IDS, {}))

  def fail(_):
    raise ValueError("word\n" * 100)

  monkeypatch.setattr(trained_on.json, "loads", fail)
  with pytest.raises(UserError) as error:
    trained_on.read(tmp_path)
  reason = ("word " * 100)[:200]
  assert str(error.value).startswith(f"cannot read {tmp_path / trained_on.FILE}: {reason}; put")
