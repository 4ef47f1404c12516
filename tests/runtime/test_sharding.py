"""The same run on any mesh: data parallel, fully sharded, and both."""

import functools

import jax
import numpy as np
import pytest

from cnnjax import build, evaluate, train, writers
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.training.compiler import Compiler

SLOW = pytest.mark.slow
MESHES = ((2, 4), pytest.param((1, 8), marks=SLOW))  # (8, 1): test_train
# Whatever a state can hold beside the parameters, and sums over the whole batch or parts of it.
FULL = {
  "optim.name": "adamw",
  "optim.clip_norm": 1.0,
  "average.ema": 0.9,
  "accumulate": 2,
  "batch_norm.ghost": 8,
  "batch_size": 16,
  "mesh.fsdp_min_size": 64,
  "augment": "pad_crop(1) | flip | mixup(0.2)",
}


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def built(tiny, data, fsdp, **overrides):
  config = tiny(**{"mesh.data": data, "mesh.fsdp": fsdp, **overrides})
  build.validate(config)
  return build.build(config)


@pytest.mark.parametrize(
  "shape, parts, axis",
  [
    ((3, 3, 64, 64), 8, 3),  # the last of equals
    ((3, 3, 128, 64), 8, 2),
    ((3, 3, 126, 64), 8, 3),  # the largest is not divisible
    ((7, 7, 3, 5), 8, None),
    ((10, 100), 8, None),  # too small
    ((3, 3, 64, 64), 1, None),
    ((8192,), 8, 0),
  ],
)
def test_the_largest_divisible_axis_is_split(shape, parts, axis):
  assert sharding.split_axis(shape, parts, min_size=4096) == axis


def test_minus_one_takes_what_is_left():
  assert dict(sharding.make_mesh(-1, 2).shape) == {"data": 4, "fsdp": 2}
  assert dict(sharding.make_mesh(2, -1).shape) == {"data": 2, "fsdp": 4}
  with pytest.raises(UserError, match="only one can be -1"):
    sharding.make_mesh(-1, -1)
  with pytest.raises(UserError, match="takes 12 devices, but there are 8"):
    sharding.make_mesh(3, 4)


@pytest.fixture(scope="module")
def end_on(tiny):
  """A function from a mesh to what three steps and an evaluation come to on it."""

  @functools.cache
  def run(data, fsdp):
    program = built(tiny, data, fsdp, **FULL)
    now = program.new_state()
    for step in range(3):
      now = program.train_step(now, program.inputs.train.feed(step), 1)
    sums = evaluate.evaluate(
      program.eval_step, now.variables, program.inputs.evaluations["test"], 9
    )
    return program, now, program.members.compute(sums)

  return run


@pytest.mark.smoke
@pytest.mark.parametrize("mesh", MESHES)
def test_the_same_on_every_mesh(end_on, mesh):
  (_, one, evaluated), (_, other, found) = end_on(1, 1), end_on(*mesh)
  for a, b in zip(leaves(one), leaves(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
  assert found == pytest.approx(evaluated, rel=1e-5)


@pytest.mark.parametrize("mesh", MESHES)
def test_parts_from_birth_to_the_end(end_on, mesh):
  program, end, _ = end_on(*mesh)
  wanted = program.new_state(abstract=True)
  for now in (program.new_state(), end):
    for x, shape in zip(jax.tree.leaves(now), jax.tree.leaves(wanted), strict=True):
      assert x.sharding.is_equivalent_to(shape.sharding, x.ndim)
      part = x.sharding.shard_shape(x.shape)
      assert all(shard.data.shape == part for shard in x.addressable_shards)
  parts = {path: part for path, shape, part, _ in sharding.table(wanted) if part != shape}
  of = {path.removeprefix("variables/").split("/")[0] for path in parts}
  # The parameters, the moments of the optimizer and the average are split; statistics are not.
  assert of == ({"params", "opt_state", "averages"} if mesh[1] > 1 else set())
  assert ("sharding" in program.summary) == (mesh[1] > 1)
  whole = sharding.bytes_per_device(end_on(1, 1)[0].new_state(abstract=True))
  assert sharding.bytes_per_device(wanted) < (whole / mesh[1] * 1.5 if mesh[1] > 1 else whole + 1)


def test_a_step_is_asked_for_the_layout_that_its_state_has(tiny, monkeypatch):
  """XLA may choose another for what it returns, and the next step would be compiled anew."""
  asked = []
  monkeypatch.setattr(Compiler, "jit", lambda self, *_, **options: asked.append(options))
  programs = [built(tiny, *mesh, **{"mesh.fsdp_min_size": 64}) for mesh in ((1, 1), (1, 2))]
  for program in programs:
    assert program.compiled_step is None  # of this `jit`
  wanted = jax.tree.map(lambda x: x.sharding, programs[1].new_state(abstract=True))
  assert asked[0] == {"donate_argnums": 0}
  assert asked[1] == {"donate_argnums": 0, "out_shardings": wanted}


@pytest.fixture(scope="module")
def compiled(tiny):
  """The program of a step without accumulation, by mesh."""
  found = {}
  for mesh in ((2, 1), (8, 1), (1, 2), (1, 8)):
    program = built(tiny, *mesh, **{"mesh.fsdp_min_size": 64, "batch_size": 16})
    args = program.new_state(abstract=True), program.inputs.train.feed(0), 1, program.constants
    found[mesh] = (
      program,
      sharding.collectives(program.compiled_step.lower(*args).compile().as_text()),
    )
  return found


@pytest.mark.slow
def test_gradients_are_summed_once(compiled):
  """Data parallel: one sum of the gradients, and the few of batch norm and metrics."""
  for devices in (2, 8):
    program, found = compiled[devices, 1]
    gradients = sum(4 * x.size for x in jax.tree.leaves(program.new_state(abstract=True).params))
    assert set(found) == {"all-reduce"}
    assert gradients <= found["all-reduce"][1] <= gradients + 1000
  assert compiled[2, 1][1] == compiled[8, 1][1]  # nothing grows with the number of devices


@pytest.mark.slow
def test_parameters_are_collected_at_most_twice(compiled):
  """Fully sharded: once for the forward pass and once for the backward pass."""
  for devices in (2, 8):
    program, found = compiled[1, devices]
    split = [
      4 * np.prod(shape)
      for _, shape, part, _ in sharding.table(program.new_state(abstract=True).params)
      if part != shape
    ]
    assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert sum(split) <= found["all-gather"][1] <= 2 * sum(split)
  kinds = [{kind: n for kind, (n, _) in compiled[1, devices][1].items()} for devices in (2, 8)]
  assert kinds[0] == kinds[1]


def test_collectives_are_counted_as_the_program_has_them():
  text = """
    %a = f32[4,2]{1,0} all-reduce(f32[4,2] %x), to_apply=%sum
    %b = (f32[8]{0}, bf16[3]{0}) all-reduce-start(%y, %z), to_apply=%sum
    %c = f32[16]{0} all-gather(f32[2]{0} %w), dimensions={0}
    %d = f32[16]{0} fusion(%all-reduce.1), kind=kLoop
  """
  assert sharding.collectives(text) == {"all-reduce": (2, 70), "all-gather": (1, 64)}


@pytest.mark.slow
@pytest.mark.parametrize("then", [(1, 1), (2, 4)])
def test_saved_on_eight_devices_resumed_on_others(tiny, tmp_path, then):
  """Fully sharded over eight, then elsewhere: as the run that stayed on one."""
  lines = {}
  for name, mesh in (("moved", (1, 8)), ("stayed", (1, 1))):
    for stop, (data, fsdp) in (("8 steps", mesh), ("12 steps", then if name == "moved" else mesh)):
      config = tiny(**{**FULL, "epochs": stop, "log_every": "1 steps", "eval_every": "4 steps"})
      config.optim.schedule.name, config.mesh.data, config.mesh.fsdp = "constant", data, fsdp
      train.train(config, tmp_path / name)
    lines[name] = writers.read_metrics(tmp_path / name)
  for a, b in zip(lines["moved"], lines["stayed"], strict=True):
    for key in a.keys() - {"images_per_second"}:
      assert a[key] == pytest.approx(b[key], rel=3e-4, abs=3e-5), (key, a["step"])


def test_several_runs_are_not_split(tiny):
  with pytest.raises(UserError, match=r"mesh\.fsdp does not go with several runs"):
    built(tiny, 1, 2, seeds=2)
