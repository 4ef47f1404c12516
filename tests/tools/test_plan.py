"""What a plan says, against the run that it is of; and the search for the largest batch."""

import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from cnnjax import build, register, tasks
from cnnjax.config import to_json
from cnnjax.errors import UserError
from cnnjax.runtime import sharding
from cnnjax.tools import plan, shapes

GIVEN = {"data.mean": (0.5,), "data.std": (0.5,)}  # a plan knows no pixels


def step_of(config, splits=None, feed=lambda train: train.feed(0)):
  """The training step as it goes to XLA."""
  program = build.build(config, splits)
  now = program.new_state(abstract=splits is not None)
  lowered = program.compiled_step.lower(now, feed(program.inputs.train), 1, program.constants)
  program.inputs.train.close()
  return lowered.as_text()


@pytest.mark.parametrize(
  "overrides",
  [
    {},
    {"data.pipeline": "streaming"},
    {"mesh.data": 4},
    pytest.param(
      {"data.source": "digits", "data.image_size": 12, "data.progressive": (8,)},
      marks=pytest.mark.slow,
      id="progressive",
    ),
    {"mesh.data": 2, "mesh.fsdp": 2, "mesh.fsdp_min_size": 8, "average.ema": 0.9},
    {"mesh.data": 4, "data.shard_resident": True, "data.validation": 20},
    {"mesh.data": 2, "data.pipeline": "streaming", "accumulate": 2, "dtype": "float16"},
  ],
  ids=lambda overrides: ",".join(overrides) or "plain",
)
def test_it_is_the_step_that_the_run_takes(overrides, tiny):
  config = tiny(**GIVEN, **overrides)
  if "data.progressive" in overrides:
    config.model = {"name": "resnet20"}  # which takes images of any size
  config_of_plan, splits, _ = shapes.stand_in(config)
  planned = step_of(config_of_plan, splits, lambda train: train.shapes(0))
  assert planned == step_of(config)


def test_what_it_counts(tiny):
  """Against XLA's own sum of the arguments, and the layers of the model by hand."""
  config = tiny(**{"mesh.data": 2, "average.ema": 0.9, "data.shard_resident": True})
  found = plan.plan(config)
  taken, program = found.memory, found.program
  parameters = 3 * 3 * 4 + 2 * 4 + (6 * 6 * 4 * 8 + 8) + (8 * 10 + 10)
  assert taken["parameters"] == 4 * parameters
  assert taken["optimizer"] == 4 * parameters + 4  # momentum, and a counter
  assert taken["averages"] >= taken["parameters"]
  assert taken["input"] == (102 // 2) * (64 + 4) + 6 * (16 // 2) * 4  # images, labels, the order
  assert found.macs == 36 * 9 * 4 + 144 * 8 + 80
  last = program.inputs.train.shapes(0)
  now = program.new_state(abstract=True)
  compiled = program.compiled_step.lower(now, last, 1, None).compile()
  sizes = compiled.memory_analysis()
  own = sum(taken[name] for name in ("parameters", "optimizer", "averages", "other state", "input"))
  assert own == pytest.approx(sizes.argument_size_in_bytes, rel=0.01)
  assert found.total == own + taken["temporary"] + taken["results, code"]
  assert sizes.temp_size_in_bytes == taken["temporary"] > 0
  assert 1 < found.flops / (2 * found.macs * 8) < 20 and found.seconds > 0
  assert not any(isinstance(x, jax.Array) for x in jax.tree.leaves((now, last)))


def test_parts_of_parameters_take_less(tiny):
  """As the state of the run itself."""
  settings = {"mesh.data": 1, "mesh.fsdp": 4, "mesh.fsdp_min_size": 8}
  settings["data.pipeline"] = "streaming"
  found = plan.plan(tiny(**settings))
  real = build.build(tiny(**settings)).new_state()
  on_first = lambda tree: sum(
    shard.data.nbytes
    for x in jax.tree.leaves(tree)
    for shard in x.addressable_shards
    if shard.device == jax.devices()[0]
  )
  assert found.memory["parameters"] == on_first(real.params) < 4 * 1294 / 2
  assert found.memory["optimizer"] == on_first(real.opt_state)
  assert sharding.bytes_per_device(real) == on_first(real)
  batch = (16 // 4) * (8 * 8 + 4)
  assert found.memory["input"] == 3 * batch  # two are on their way while one is trained on


# The largest batch


@pytest.mark.parametrize(
  "total",
  [
    lambda size: 1000 + 7 * size,
    lambda size: 1000 + 7 * size + 300 * (size > 100),
    lambda size: 500 + 5 * size + 0.002 * size**2,
    lambda size: 1000 + 64 * math.ceil(size / 16) * 2,
  ],
)
@pytest.mark.parametrize("first, unit, memory", [(8, 8, 9000), (512, 8, 3000), (3, 1, 5000)])
def test_largest_batch(total, first, unit, memory):
  tried = []
  size, taken = plan.largest_batch(
    lambda s: (tried.append(s), total(s))[1], memory, unit, first, 10**6
  )
  best = max(s for s in range(unit, 2000, unit) if total(s) <= memory)
  assert taken == total(size) <= memory and size % unit == 0
  assert 0.97 * best - unit <= size <= best
  assert len(tried) == len(set(tried)) <= plan.TRIES
  if total(200) - total(1) == 199 * 7:  # a line
    assert size == best and len(tried) <= 4


def test_largest_batch_at_the_ends():
  line = lambda size: 100 + size
  assert plan.largest_batch(line, 107, 8, 64, 1000) is None
  assert plan.largest_batch(line, 108, 8, 64, 1000) == (8, 108)
  assert plan.largest_batch(line, 10**9, 8, 64, 1003) == (1000, 1100)  # all that there is
  assert plan.largest_batch(lambda size: 100, 100, 1, 5, 77) == (77, 100)


# Without the data


def test_data_sets_that_are_not_here(tiny, tmp_path):
  """TFDS knows their shapes and classes, and nothing is downloaded."""
  config = tiny(**{
    "data.source": "tfds", "data.name": "imagenet2012", "data.data_dir": str(tmp_path),
    "data.image_size": 32, "model.name": "simple_cnn", "batch_size": 8,
  })  # fmt: skip
  made, splits, text = shapes.stand_in(config)
  train = splits["train"]
  assert train.shape == (32, 32, 3) and len(train.classes) == 1000
  assert "imagenet2012, 32x32x3, 1000 classes, an unknown number" in text
  assert made.data.pipeline == "streaming" and config.data.source == "tfds"
  assert len(shapes.stand_in(config, examples=5000)[1]["train"]) == 5000
  assert train.images.strides[0] == 0  # no memory
  config.data.pipeline = "resident"
  with pytest.raises(UserError, match=r"number of examples of imagenet2012 .* --examples=N"):
    shapes.stand_in(config)
  assert not list(tmp_path.iterdir())


def test_data_that_nobody_knows(tiny):
  config = tiny(**{"data.source": "folder", "data.path": "/nowhere"})
  with pytest.raises(
    UserError, match=r"--classes=N --examples=N --config\.data\.image_size=PIXELS"
  ):
    plan.plan(config)
  with pytest.raises(UserError, match=r"set data\.image_size"):
    plan.plan(config, classes=3)
  config.data.image_size, config.data.test, config.data.validation = 8, 0.2, 0.1
  made, splits, text = shapes.stand_in(config, examples=40, classes=3)
  assert text == "/nowhere, 8x8x3, 3 classes, 40 examples"
  assert made.data.validation == "validation" in splits
  config.task.name = "multi_label"
  labels = shapes.stand_in(config, 40, 3)[1]["train"].labels
  assert labels.shape == (40, 3) and labels.dtype == np.uint8


@pytest.mark.parametrize("kind, dims", [(tasks.MultiLabel, 2), (tasks.Classification, 1)])
def test_the_labels_are_those_of_the_kind_of_task(tiny, kind, dims, own_registry):
  """Whatever the task is called."""
  register("task", "mine")(kind)
  config = tiny(**{"task.name": "mine", "data.image_size": 8})
  assert shapes.stand_in(config, 40, 3)[1]["train"].labels.ndim == dims


def test_several_runs_are_refused(tiny):
  with pytest.raises(UserError, match="several runs"):
    plan.plan(tiny(seeds=2))


# The command line


def config_file(config, tmp_path):
  """A config file with the config."""
  (tmp_path / "config.json").write_text(to_json(config))
  file = tmp_path / "made.py"
  file.write_text(
    "import pathlib\nfrom cnnjax import config\n"
    f"get_config = lambda: config.from_json(pathlib.Path({str(tmp_path)!r}, 'config.json')"
    ".read_text())\n"
  )
  return f"--config={file}"


def test_the_command_in_words(tiny, tmp_path, capsys, monkeypatch):
  file = config_file(tiny(**{"mesh.fsdp": 2, "mesh.fsdp_min_size": 8}), tmp_path)
  monkeypatch.setattr(plan, "largest_batch", lambda *_: (32, 2**29))
  assert plan.main([file, "--memory=0.6"]) == 0
  lines = capsys.readouterr().out.splitlines()
  shown = {line.split()[0]: line for line in lines}
  assert shown["model"].endswith("simple_cnn, 1,294 parameters, float32")
  assert shown["data"].endswith("synthetic, 8x8x1, 10 classes, 101 examples")
  assert shown["devices"].endswith("2 x cpu (data 1, fsdp 2), batch 16, 8 on each")
  assert shown["in"].endswith(" MiB") and shown["MACs"].split()[1:3] == ["2.53", "k"]
  assert "  conv1/kernel  (3, 3, 1, 4)  (3, 3, 1, 2)  axis 3 over fsdp" in lines
  assert any("are of XLA's CPU compiler" in line for line in lines)
  assert lines[-1] == (
    "largest batch that fits into 0.6 GiB: batch_size=32, 16 on each device, with 512.000 MiB"
  )


@pytest.mark.parametrize("word", ["--devices=0", "--memory=-1", "--examples=0", "--clases=3"])
def test_wrong_flags(word, tiny, tmp_path):
  with pytest.raises(UserError, match=word.split("=")[0]):
    plan.main([config_file(tiny(), tmp_path), word])


@pytest.mark.slow
def test_a_mesh_that_is_larger_than_the_machine(tiny, tmp_path):
  """Whatever the environment says; and nothing is written."""
  file = config_file(tiny(**{"mesh.data": -1, "batch_size": 64}), tmp_path)
  flags = "--xla_force_host_platform_device_count=2"
  done = subprocess.run(
    [sys.executable, "-m", "cnnjax.plan", file, "--devices=32", "--memory=0.003"],
    env={**os.environ, "XLA_FLAGS": flags, "HOME": str(tmp_path / "home")},
    capture_output=True,
    text=True,
    check=False,
  )
  assert not done.returncode, done.stderr
  assert "32 x cpu, batch 64, 2 on each" in done.stdout
  assert "largest batch that fits into 0.003 GiB: batch_size=96, which is all" in done.stdout
  assert not (tmp_path / "home").exists()
