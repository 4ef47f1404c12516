"""What the commands of `python -m cnnjax.checkpoints` print, to the number."""

import contextlib
import datetime
import re

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import checkpoints
from cnnjax.checkpoints import __main__ as command_line
from cnnjax.checkpoints import integrity, trained_on
from cnnjax.config import default, to_json
from cnnjax.data import history
from cnnjax.errors import UserError

METRIC = "validation/accuracy"


def items(scale, **averages):
  """A small model with batch statistics; `averages` by name."""
  params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3) * scale, "bias": jnp.ones(3)}}
  variables = {"params": params, "batch_stats": {"mean": jnp.full(2, scale, jnp.float32)}}
  found = {"variables": variables, "training": {"step": jnp.int32(scale)}}
  return {**found, "averages": averages} if averages else found


def make(folder, *saves):
  """A workdir with checkpoints, (step, score or None) each."""
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(to_json(default()))
  nothing = np.zeros(0, np.uint64)
  trained_on.write(folder, history.History("content", False, nothing, nothing, {}))
  keep = checkpoints.Keep(-1)
  with contextlib.closing(checkpoints.Checkpoints(folder, monitor=METRIC, keep=keep)) as saved:
    for step, score in saves:
      metrics = {} if score is None else {METRIC: score}
      saved.save_items(step, items(step), {"x": step, checkpoints.UNMEASURED: []}, metrics)
  return folder


def call(*words):
  return command_line.main([str(word) for word in words])


def test_the_list_has_time_size_score_and_place(tmp_path, capsys, monkeypatch):
  """In a row for each; a score that cannot be read is no best one, and a time may be unknown."""
  make(tmp_path, (1000, 0.5), (2000, 0.123456789), (3000, None), (4000, 0.9))
  folder = tmp_path / "checkpoints"
  (folder / "1000" / "more").write_bytes(bytes(3 * 2**20))
  (folder / "4000" / "metrics" / "metrics").write_text("{")
  (folder / "3000" / integrity.MANIFEST).unlink()
  (folder / "7.damaged").mkdir()
  time, unknown = checkpoints.Checkpoints.time, 4000
  known = lambda self, step: None if step == unknown else time(self, step)
  monkeypatch.setattr(checkpoints.Checkpoints, "time", known)
  reader = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  when = {
    step: str(datetime.datetime.fromtimestamp(int(reader.time(step))))
    for step in reader.steps()
    if step != unknown
  }
  assert call("list", tmp_path) == 0
  title, *rows, last = capsys.readouterr().out.splitlines()
  split = lambda row: re.split(r" {2,}", row.strip())
  assert split(title) == ["step", "written", "MiB", METRIC, "verified"]
  assert [split(row) for row in rows] == [
    ["1,000", when[1000], "3.0", "0.5", "best", "at saving"],
    ["2,000", when[2000], "0.0", "0.123457", "at saving"],
    ["3,000", when[3000], "0.0", "unverified"],
    ["4,000", "?", "0.0", "?", "last", "at saving"],
  ]
  assert last == f"set aside: {folder}/7.damaged"


def test_an_array_is_shown_with_its_shape_and_type(tmp_path, capsys):
  make(tmp_path, (1000, None), (2000, None))
  assert call("show", tmp_path) == 0
  out = capsys.readouterr().out.splitlines()
  assert [" ".join(line.split()) for line in out] == [
    "variables: 3 arrays, 11 values",
    "batch_stats/mean 2 float32",
    "params/dense/bias 3 float32",
    "params/dense/kernel 2x3 float32",
    "training: 1 arrays, 1 values",
    "step scalar int32",
    'step 2,000, 9 parameters, meta {"x": 2000, "unmeasured": []}',
  ]


def test_differences_are_absolute_and_of_the_norm():
  a = {
    "variables/params/w": np.array([3.0, 4.0]), "variables/params/same": np.ones(2),
    "variables/batch_stats/m": np.zeros(2), "averages/ema/w": np.ones(3),
    "training/step": np.int32(5), "variables/params/gone": np.ones(1),
  }  # fmt: skip
  b = {
    "variables/params/w": np.array([3.0, 3.0]), "variables/params/same": np.ones(2),
    "variables/batch_stats/m": np.array([0.0, -2.0]), "averages/ema/w": np.ones((1, 3)),
    "training/step": np.int32(5), "training/new": np.ones(1),
  }  # fmt: skip
  assert list(command_line.differences(a, b)) == [
    ("variables/params/gone", "only in A", ""),
    ("variables/params/w", "1", "0.2"),
    ("variables/batch_stats/m", "2", "A is 0"),
    ("averages/ema/w", "(3,) and (1, 3)", ""),
    ("training/new", "only in B", ""),
  ]
  minus = {"variables/params/w": -np.zeros(2)}, {"variables/params/w": np.zeros(2)}
  assert list(command_line.differences(*minus)) == [("variables/params/w", "0", "A is 0")]


def test_another_workdir_is_named_with_its_step(tmp_path, capsys):
  """Its step may be the same one; of equal ones no table is printed."""
  one, other = make(tmp_path / "a", (1000, None)), make(tmp_path / "b", (1000, None), (2000, None))
  assert call("diff", one, "1000", "1000", f"--with={other}") == 0
  words = "0 of 4 arrays differ: A is step 1,000, B is step 1,000 of"
  assert capsys.readouterr().out == f"{words} {other}\n"
  assert call("diff", one, f"--with={other}") == 1
  assert capsys.readouterr().out.endswith(
    f"3 of 4 arrays differ: A is step 1,000, B is step 2,000 of {other}\n"
  )


def test_a_mean_is_of_the_steps_that_are_named_each_once(tmp_path, capsys):
  run = make(tmp_path / "run", (1000, None), (2000, None), (4000, None))
  (tmp_path / "out").mkdir()  # an empty folder is none that is there
  assert call("average", run, "--steps=4000,1000,4000", f"--out={tmp_path / 'out'}") == 0
  said = capsys.readouterr().out.splitlines()
  assert said[0].startswith(f"the mean of steps 1,000, 4,000 is in {tmp_path / 'out'}, to be ")
  assert said[0].endswith(f"python -m cnnjax.evaluate --workdir={tmp_path / 'out'}")
  assert said[1].startswith("its batch statistics are means as well") and len(said) == 2
  made = checkpoints.Checkpoints(tmp_path / "out", monitor=METRIC, read_only=True)
  assert made.steps() == [4000]
  assert made.meta(4000) == {"x": 4000, "averaged": [1000, 4000], checkpoints.UNMEASURED: []}
  found = command_line._arrays(made, 4000)
  np.testing.assert_array_equal(found["variables/batch_stats/mean"], [2500, 2500])
  assert {x.dtype.name for x in found.values()} == {"float32"}
  assert call("average", run, "--last=3", f"--out={tmp_path / 'deep' / 'all'}") == 0
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="is there already; choose a new folder"):
    call("average", run, "--last=1", f"--out={tmp_path / 'file'}")


def test_no_accelerator_is_taken_from_a_run_that_trains(tmp_path, monkeypatch, capsys):
  asked = []
  monkeypatch.setattr(command_line.jax.config, "update", lambda *given: asked.append(given))
  call("list", make(tmp_path, (1, None)))
  assert asked[-1] == ("jax_platforms", "cpu")


def test_verify_reads_the_arrays_where_no_manifest_says_that_they_are_whole(
  tmp_path, capsys, monkeypatch
):
  """And nothing twice; it counts what is damaged."""
  make(tmp_path, (1000, None), (2000, None), (3000, None), (4000, None))
  folder, read = tmp_path / "checkpoints", []

  def arrays(saved, step):
    read.append(step)
    if step == 3000:
      raise UserError("it is torn")

  monkeypatch.setattr(command_line, "_arrays", arrays)
  assert call("verify", tmp_path) == 0 and read == []
  assert capsys.readouterr().out.splitlines() == [f"step {n},000: good" for n in (1, 2, 3, 4)]
  for step in (2000, 3000, 4000):
    (folder / str(step) / integrity.MANIFEST).unlink()
  (folder / "4000" / "meta" / "metadata").write_text("[]")
  assert call("verify", tmp_path) == 1 and read == [2000, 3000]
  assert capsys.readouterr().out.splitlines() == [
    "step 1,000: good",
    "step 2,000: can be read (unverified: no manifest)",
    "step 3,000: damaged", "  it is torn",
    "step 4,000: damaged", "  meta/metadata cannot be read: it is not what was written",
  ]  # fmt: skip
