"""Damaged checkpoints: what is restored is what was saved, or an older one that is named."""

import functools
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import optax
from fuzzing import fuzz, one_clear_line
from hypothesis import strategies as st

from cnnjax import checkpoints, models, tasks
from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.training import members, monitor, passes, state

METRIC, META = "validation/accuracy", {"mean": [0.5], "classes": ["a", "b"]}
OLD, NEW = 3, 7  # the steps that are saved


@functools.cache
def built(abstract=False):
  """The state of a tiny model."""
  model = models.create("simple_cnn", 3, conv_features=(2,), dense_features=(4,))
  config, optimizer = default(), optax.adam(1e-3)
  rest = lambda variables, seed: {
    "opt_state": optimizer.init(variables["params"]),
    "averages": {},
    "monitor": monitor.create(config),
    "loss_scale": None,
    "window": passes.no_metrics(tasks.create(config.task, 3)),
    "epoch": passes.no_metrics(tasks.create(config.task, 3)),
  }
  runs, mesh = members.create(config), sharding.make_mesh(1)
  return state.create(model, (8, 8, 1), rest, runs, mesh, config.mesh, abstract=abstract)


def at(step):
  """The state that is saved at a step: other numbers than at another one."""
  values = jax.tree.map(lambda x: x + step, built().params)
  variables = {**built().variables, "params": values}
  return built().replace(variables=variables, step=built().step * 0 + step)


@functools.cache
def workdir():
  """A folder with two checkpoints; it goes with the process."""
  place = tempfile.TemporaryDirectory()
  saved = checkpoints.Checkpoints(pathlib.Path(place.name), monitor=METRIC)
  for step in (OLD, NEW):
    saved.save(at(step), META, {METRIC: step / 10})
    saved.wait()
  saved.close()
  return place


def hurt(file, damage):
  """Deletes a file, or changes some of its bytes; returns whether it is another one then."""
  kind, start, put = damage
  data = before = bytearray(file.read_bytes())
  at = start % max(len(data), 1)
  if kind == "delete":
    file.unlink()
    return True
  if kind == "flip" and data:
    before = bytes(data)
    data[at] ^= 1 << put[0] % 8
  else:
    before = bytes(data)
    data[at : {"cut": None, "drop": at + len(put), "put": at}.get(kind, at)] = (
      put if kind == "put" else b""
    )
  file.write_bytes(data)
  return bytes(data) != before


def damaged(example):
  """Restores after damages to the newer checkpoint, and sometimes to the older one too."""
  damages, read_only = example
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place, "run")
    shutil.copytree(workdir().name, folder)
    hurt_steps = set()
    for newer, where, damage in damages:
      step = NEW if newer else OLD
      files = sorted(f for f in (folder / "checkpoints" / str(step)).rglob("*") if f.is_file())
      if files and hurt(files[where % len(files)], damage):
        hurt_steps.add(step)
    said = []
    try:
      saved = checkpoints.Checkpoints(folder, monitor=METRIC, read_only=read_only, say=said.append)
      found = saved.restore(built(abstract=True))
      meta = saved.meta(found.steps_done)
      saved.close()
    except UserError as e:
      one_clear_line(e)
      assert hurt_steps == {OLD, NEW}, e
      return "refused"
  step = found.steps_done
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(at(step)), strict=True):
    np.testing.assert_array_equal(a, b)
  assert meta == META
  if step == NEW:
    return "same"
  assert NEW in hurt_steps and any(f"step {NEW}" in line for line in said), said
  for line in said:
    one_clear_line(line)
  return "older"


DAMAGE = st.tuples(
  st.sampled_from(["flip", "flip", "cut", "delete", "drop", "put"]),
  st.integers(0, 10**6),
  st.binary(min_size=1, max_size=9),
)
WHERE = st.tuples(st.sampled_from([True, True, True, False]), st.integers(0, 10**4), DAMAGE)
test_damaged_checkpoints = fuzz(
  damaged,
  st.tuples(st.lists(WHERE, min_size=1, max_size=3), st.booleans()),
  few=6,
  many=150,
  ends=["older"],
  always=[([(True, 9352, ("delete", 0, b"\0"))] * 2, False)],  # _METADATA and the manifest
)
