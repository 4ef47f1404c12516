"""Runs that are stopped end where those left alone end; results do not know the devices."""

import contextlib
import functools
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from waiting import wait_for

from cnnjax import build, checkpoints, data, evaluate, train, writers
from cnnjax.checkpoints import trained_on
from cnnjax.config import default, override
from cnnjax.errors import Stopped, UserError
from cnnjax.training import resuming
from cnnjax.training.program import Program

METRIC = "validation/accuracy"
# 18 steps of 6 an epoch; a small step budget per line of the log, so that windows straddle stops.
RUN = """
import pathlib, sys
from cnnjax import config, train
settings = config.from_json(pathlib.Path(sys.argv[1]).read_text())
sys.exit(128 + int(train.train(settings, pathlib.Path(sys.argv[2]))[2] or -128))
"""


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def same_bits(a, b):
  assert len(leaves(a)) == len(leaves(b))
  return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def metrics_of(workdir):
  """The lines of metrics.jsonl without what a clock says."""
  return [
    {k: v for k, v in line.items() if k != "images_per_second"}
    for line in writers.read_metrics(workdir)
  ]


def start(config, workdir, tmp_path):
  """The run as a process of its own, and what it prints."""
  from cnnjax.config import to_json

  file = tmp_path / "wanted.json"
  file.write_text(to_json(config))
  env = {**compiling.environment(), "PYTHONUNBUFFERED": "1"}
  return subprocess.Popen(
    [sys.executable, "-c", RUN, str(file), str(workdir)],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
  """The config of a run, its workdir and its end, trained in one go."""
  config = tiny(**{
    "data.validation": 20,
    "batch_size": 8,
    "epochs": 20,
    "log_every": "7 steps",
    "eval_every": 2,
    "checkpoint_every": "11 steps",
    "augment": "pad_crop(1) | mixup(0.2)",
    "model.dropout": 0.3,
  })  # fmt: skip
  workdir = tmp_path_factory.mktemp("undisturbed")
  end, _, _ = train.train(config, workdir)
  return config, workdir, end


@pytest.mark.smoke
@pytest.mark.parametrize(
  "number",
  [
    signal.SIGKILL,
    pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, marks=pytest.mark.slow),
  ],
)
def test_stopped_and_resumed_is_bit_identical(undisturbed, tmp_path, number):
  """Stopped in mid-epoch, between two lines of the log; the same command goes on."""
  config, reference, end = undisturbed
  workdir = tmp_path / "run"
  process = start(config, workdir, tmp_path)
  wait_for(process, workdir, step=35)
  process.send_signal(number)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), output
  before = checkpoints.Checkpoints(workdir, monitor=METRIC, read_only=True).step()
  assert before is not None and before < 200
  if number != signal.SIGKILL:
    assert f"stopped by {signal.Signals(number).name} and saved at step" in output

  resumed, _, _ = train.train(config, workdir)
  assert same_bits(resumed, end)
  assert metrics_of(workdir) == metrics_of(reference)


@pytest.mark.slow
def test_killed_again_and_again(undisturbed, tmp_path):
  """Kills at moments that no one chose, compiling and saving included."""
  config, reference, end = undisturbed
  workdir, delays = tmp_path / "run", np.random.default_rng(0).uniform(3, 7, 4)
  for delay in delays:
    process = start(config, workdir, tmp_path)
    time.sleep(delay)
    process.kill()
    process.communicate()
  resumed, _, _ = train.train(config, workdir)
  assert same_bits(resumed, end)
  assert metrics_of(workdir) == metrics_of(reference)


@pytest.mark.smoke
def test_eight_devices_see_the_same_data_and_losses(tiny, tmp_path):
  ends = {}
  for devices in (1, 8):
    config = tiny(**{"mesh.data": devices, "epochs": 2, "log_every": "1 steps"})
    ends[devices] = train.train(config, tmp_path / str(devices))[0]
  one, eight = (metrics_of(tmp_path / str(n)) for n in (1, 8))
  assert [line["step"] for line in one] == [line["step"] for line in eight]
  for a, b in zip(one, eight, strict=True):
    for key in a:
      assert a[key] == pytest.approx(b[key], rel=2e-4, abs=2e-5), (key, a["step"])
  assert len(leaves(ends[8].params)[0].shape) and all(
    len(x.sharding.device_set) == 8 for x in jax.tree.leaves(ends[8].params)
  )


def test_several_steps_per_dispatch_change_nothing(tiny, tmp_path):
  """The loop that GPUs use; on CPU its convolutions take another path, so equal to rounding."""
  ends = []
  for n in (1, 5):
    config = tiny(steps_per_dispatch=n, epochs=2)
    ends.append(train.train(config, tmp_path / str(n))[0])
  assert int(ends[0].step) == int(ends[1].step)
  for a, b in zip(leaves(ends[0].params), leaves(ends[1].params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  steps = [[line["step"] for line in metrics_of(tmp_path / str(n))] for n in (1, 5)]
  assert steps[0] == steps[1] == [1, 4, 6, 6, 8, 12, 12]  # and the test split
  for n in (1, 5):  # each step of an epoch counts once, whatever the lines in between
    losses = {line["step"]: line for line in metrics_of(tmp_path / str(n)) if "train/loss" in line}
    for begin, end in ((0, 6), (6, 12)):
      ends = [begin, *(step for step in losses if begin < step <= end)]
      parts = [(b - a) * losses[b]["train/loss"] for a, b in itertools.pairwise(ends)]
      assert losses[end]["train/epoch_loss"] == pytest.approx(sum(parts) / 6, rel=1e-6)


def test_a_program_of_several_steps_ends_where_the_batches_change(tiny, tmp_path, monkeypatch):
  """At the end of an epoch, and where images of another size begin."""
  config = tiny(**{
    "steps_per_dispatch": 5, "epochs": 2, "log_every": 2, "eval_every": 2, "checkpoint_every": 2,
    "data.image_size": 8, "data.progressive": (4, 6),
  })  # fmt: skip
  config.model = {"name": "resnet20", "stage_sizes": (1,), "features": 4, "stem_features": 4}
  lengths = []

  def noted(_, now, feed, n):
    lengths.append(n)
    return now.replace(step=now.step + n)

  monkeypatch.setattr(Program, "train_step", noted)
  monkeypatch.setattr(train, "evaluate_split", lambda *_, **__: {})
  images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
  given = images, np.arange(100) % 3
  train.train(config, tmp_path, data.from_arrays(given, given))
  assert lengths == [1, 3, 2, 2, 4]  # the first line is of the first step


def test_seed_decides_and_seeds_differ(tiny, tmp_path):
  runs = [
    train.train(tiny(seed=seed, epochs=1), tmp_path / str(i))[0] for i, seed in enumerate((0, 0, 1))
  ]
  assert same_bits(runs[0], runs[1])
  assert not same_bits(runs[0].params, runs[2].params)


@pytest.mark.smoke
def test_finished_run_says_so_and_may_be_prolonged(tiny, tmp_path, capsys, monkeypatch):
  config = tiny(epochs=2)
  end, metrics, _ = train.train(config, tmp_path)
  lines = metrics_of(tmp_path)
  capsys.readouterr()
  again, metrics_again, _ = train.train(config, tmp_path)
  printed = capsys.readouterr().out
  assert "this run is finished: step 12 of 12" in printed
  assert f"test accuracy {metrics['test/accuracy']:.2%}" in printed
  assert same_bits(end, again) and metrics_of(tmp_path) == lines
  assert metrics_again["test/accuracy"] == metrics["test/accuracy"]

  override(config, "epochs", 3)
  longer, _, _ = train.train(config, tmp_path)
  assert int(longer.step) == 18
  printed = capsys.readouterr().out
  assert "going on from step 12" in printed
  # Behind 2 steps of warm-up: step 9 of 10, then step 10 of 16, of a cosine.
  last, following = (0.05 * (1 + np.cos(np.pi * x)) for x in (9 / 10, 10 / 16))
  assert f"the learning rate rises from {last:.3g} to {following:.3g}: cosine" in printed
  assert "was 12 steps and is 18 now" in printed

  # From a checkpoint that does not say how long the run was, as those of older versions.
  meta, keys = checkpoints.Checkpoints.meta, {"total_steps", "steps_per_epoch"}
  lacking = lambda *args: {k: v for k, v in meta(*args).items() if k not in keys}
  monkeypatch.setattr(checkpoints.Checkpoints, "meta", lacking)
  monkeypatch.setattr(train, "loop", lambda run, now, meta: now)
  override(config, "epochs", 4)
  train.train(config, tmp_path)
  printed = capsys.readouterr().out
  assert "the learning rate rises" in printed and "was 18 steps and is 24 now" in printed


def test_a_signal_during_an_evaluation_is_not_lost(tiny, tmp_path, monkeypatch):
  """It comes when the loop has decided already that this step is not saved."""

  def interrupted(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return evaluate.evaluate(*args)

  monkeypatch.setattr(train, "evaluate", interrupted)
  config = tiny(epochs=4, checkpoint_every=4)
  end, _, stopped_by = train.train(config, tmp_path)
  assert stopped_by == signal.SIGTERM and int(end.step) == 6
  assert checkpoints.last_step(tmp_path) == 6
  assert not any("test/loss" in line for line in metrics_of(tmp_path)), "it went on to its end"
  monkeypatch.undo()
  train.train(config, tmp_path)
  evaluated = [line["step"] for line in metrics_of(tmp_path) if "test/loss" in line]
  assert evaluated == [6, 12, 18, 24], "the one that was broken off is made up for"


def test_fewer_epochs_than_are_done_are_refused_and_nothing_changes(tiny, tmp_path):
  train.train(tiny(epochs=2), tmp_path)
  before = (tmp_path / "config.json").read_text()
  with pytest.raises(UserError, match=r"at step 12 already, and epochs=1 ends at step 6"):
    train.train(tiny(epochs=1), tmp_path)
  assert (tmp_path / "config.json").read_text() == before


def test_a_start_that_fails_leaves_nothing(tiny, tmp_path):
  with pytest.raises(UserError, match="larger than the training split"):
    train.train(tiny(batch_size=5000), tmp_path / "run")
  with pytest.raises(UserError, match=r"more than 2\*\*31 steps"):
    train.train(tiny(epochs=1e12), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_changed_config_is_refused(tiny, tmp_path):
  train.train(tiny(epochs=1), tmp_path)
  with pytest.raises(UserError, match=r"optim.learning_rate was 0.1 and is 0.2 now"):
    train.train(tiny(**{"epochs": 1, "optim.learning_rate": 0.2}), tmp_path)
  other = tiny(epochs=1)
  other.model.conv_features = (5,)
  with pytest.raises(UserError, match=r"model.conv_features was \[4\] and is \[5\] now"):
    train.train(other, tmp_path)


def test_divergence_stops_the_run_and_keeps_what_is_good(tiny, tmp_path):
  """The rate is multiplied by 1e18 after five steps, so that the gradient of step 7 overflows."""
  config = tiny(
    **{
      "optim.schedule.name": "multi_step",
      "optim.schedule.boundaries": ("5 steps",),
      "optim.schedule.factor": 1e18,
      "checkpoint_every": "1 steps",
    }
  )
  with pytest.raises(
    UserError, match=r"NaN or infinite in step 7; checkpoint: .* is of step 6.*optim.clip_norm"
  ):
    train.train(config, tmp_path)
  assert checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True).step() == 6
  assert all(line["step"] <= 6 for line in metrics_of(tmp_path))


def test_best_is_chosen_by_validation_and_never_by_test(tiny, tmp_path):
  config = tiny(**{"data.validation": 0.2, "epochs": 6})
  train.train(config, tmp_path)
  lines = metrics_of(tmp_path)
  scores = {
    line["step"]: line["validation/accuracy"] for line in lines if "validation/accuracy" in line
  }
  assert [line["step"] for line in lines if "test/accuracy" in line] == [max(scores)]
  best = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True).step("best")
  assert scores[best] == max(scores.values())


def test_without_validation_there_is_no_best(tiny, tmp_path):
  train.train(tiny(epochs=2), tmp_path)
  saved = checkpoints.Checkpoints(tmp_path, monitor=METRIC, read_only=True)
  assert saved.step("best") is None and saved.steps() == [6, 12]


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_it_learns_and_parameters_stay_float32(tiny, tmp_path, dtype):
  settings = {"optim.name": "adam", "optim.learning_rate": 0.02, "model.dropout": 0.0}
  config = tiny(dtype=dtype, epochs=20, augment=None, **settings, **{"model.conv_dropout": 0.0})
  end, metrics, _ = train.train(config, tmp_path)
  assert metrics["train/accuracy"] > 0.9
  assert all(x.dtype == np.float32 for x in leaves(end.params))


def test_images_that_the_model_cannot_take(tiny, tmp_path):
  config = tiny()
  config.model = {"name": "lenet5"}
  with pytest.raises(UserError, match="LeNet-5 takes images from 28x28 to 32x32"):
    train.train(config, tmp_path)


def test_batch_that_the_devices_cannot_divide(tiny, tmp_path):
  with pytest.raises(UserError, match=r"batch_size 12 cannot be divided over 8 devices.*8 or 16"):
    train.train(tiny(**{"mesh.data": 8, "batch_size": 12}), tmp_path)


@pytest.mark.smoke
def test_digits_reach_their_accuracy_quickly(tmp_path):
  """A narrow check of the main job on real images; the full one is in the README's table."""
  from cnnjax.config import load

  config = load("configs/lenet.py:digits")
  for key, value in {"epochs": 8, "mesh.data": 1}.items():
    override(config, key, value)
  _, metrics, _ = train.train(config, tmp_path)
  assert metrics["test/accuracy"] > 0.95


def test_a_fresh_run_gets_its_own_folder(tiny, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for _ in range(2):
    train.train(tiny(epochs=1))
  runs = sorted(p.name for p in pathlib.Path("runs").iterdir())
  assert len(runs) == 2 and all(name.startswith("simple_cnn-synthetic-") for name in runs)
  start_record = json.loads((tmp_path / "runs" / runs[0] / "starts.jsonl").read_text())
  assert {"jax", "flax", "cnnjax", "python"} <= set(start_record["versions"])


def test_what_is_trained_is_kept_when_the_data_fail(tiny, tmp_path, monkeypatch):
  def fail(*_):
    raise UserError("11 images cannot be read")

  monkeypatch.setattr(train, "evaluate", fail)
  config = tiny(epochs=2, checkpoint_every=2)
  with pytest.raises(UserError, match="11 images"):
    train.train(config, tmp_path / "run")
  monkeypatch.undo()
  assert checkpoints.last_step(tmp_path / "run") == 6  # an epoch
  _, metrics, _ = train.train(config, tmp_path / "run")
  assert metrics["step"] == 12
  evaluated = [line["step"] for line in metrics_of(tmp_path / "run") if "test/loss" in line]
  assert evaluated == [6, 12], "the one that failed is made up for"


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("what", ["checkpoint", "assess"])
def test_nothing_is_saved_once_another_run_has_the_workdir(
  tiny, tmp_path, monkeypatch, what, stopped
):
  """The lock may go while statistics are measured, or a split."""

  def measured(_, now, stop):
    if stopped:
      raise Stopped
    return now

  def check_lock():
    raise UserError("another run is in it")

  monkeypatch.setattr(Program, "with_measured_batch_stats", measured)
  monkeypatch.setattr(train, "evaluate_split", lambda *_: {})
  do = {"checkpoint": train.checkpoint, "assess": functools.partial(train.assess, keep=True)}[what]
  program = build.build(tiny())
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved:
    run = train.Run(program, saved, None, lambda: None, check_lock)
    with pytest.raises(UserError, match="another run is in it"):
      do(run, program.new_state())
    assert saved.steps() == []


def test_a_run_that_is_finished_trains_on_nothing_new(tiny, tmp_path, monkeypatch):
  """So that images that came after its end may be evaluated."""

  def done(run, now, meta):
    now = now.replace(step=jnp.int32(3))
    train.save(run, now)
    return now

  monkeypatch.setattr(train, "loop", done)
  monkeypatch.setattr(train, "conclude", lambda run, now: now)
  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 256, (70, 8, 8, 1), dtype=np.uint8), np.arange(70) % 2
  given = lambda n: data.from_arrays((images[:n], labels[:n]), (images[60:], labels[60:]))
  config = tiny(**{"epochs": "3 steps", "data.source": "arrays"})
  train.train(config, tmp_path, given(40))
  before = trained_on.read(tmp_path)
  train.train(config, tmp_path, given(60))
  after = trained_on.read(tmp_path)
  assert len(before.ids) == 40
  np.testing.assert_array_equal(before.ids, after.ids)


def test_nothing_is_kept_of_a_run_that_has_no_first_batch(tiny, tmp_path, monkeypatch):
  def fail(*_):
    raise UserError("11 images cannot be read")

  monkeypatch.setattr(data.Resident, "feed", fail)
  with pytest.raises(UserError, match="11 images"):
    train.train(tiny(), tmp_path)
  assert checkpoints.last_step(tmp_path) is None


def test_a_run_goes_on_with_its_own_classes_alone(tiny, tmp_path):
  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8), np.arange(40) % 2
  arrays = lambda *classes: data.from_arrays((images, labels), (images, labels), classes=classes)
  config = tiny(epochs=1, **{"data.source": "arrays", "optim.schedule.warmup": 0})
  train.train(config, tmp_path / "run", arrays("cat", "dog"))
  config.epochs = 2
  with pytest.raises(UserError, match="where it has 'cat' they have 'dog'"):
    train.train(config, tmp_path / "run", arrays("dog", "cat"))


# What is saved and evaluated, without training.
class Noted:
  """The checkpoints and writers of a run, which note what they are asked."""

  def __init__(self, best=None, has=()):
    self.log, self.best, self.there = [], best, has

  def save(self, *given, **more):
    self.log.append(("save", *given, more))

  def wait(self):
    self.log.append("wait")

  def find(self, which):
    return {"best": self.best}[which]

  def has(self, step, split):
    return (step, split) in self.there


def fake_run(noted, **settings):
  """A run of which no function is compiled, with the splits of an evaluation."""
  config = default()
  for key, value in settings.items():
    override(config, key, value)
  program = types.SimpleNamespace(
    config=config,
    inputs=types.SimpleNamespace(meta={"x": 1}, evaluations={"validation": 1, "test": 2}),
    to_measure=lambda now: [f"of {now.steps_done}"],
    with_optimizer_averages=lambda now: ("averaged", now.steps_done),
    with_measured_batch_stats=lambda now, stop: now.measured,
    with_monitor=lambda now, metrics: ("monitored", now, metrics),
  )
  locked = lambda: noted.log.append("lock")
  return train.Run(program, noted, noted, lambda: None, locked)


def at(step, **more):
  return types.SimpleNamespace(steps_done=step, **more)


def test_what_is_saved_says_what_is_due():
  noted = Noted()
  run = fake_run(noted)
  train.save(run, at(5), train.DUE, train.STATISTICS_DUE)
  train.save(run, at(6))
  train.save_measured(run, "state", {"m": 1.0})
  due = {"evaluation_due": True, "statistics_due": True}
  assert noted.log == [
    ("save", ("averaged", 5), {"x": 1, **due, "unmeasured": ["of 5"]}, {}, {}),
    ("save", ("averaged", 6), {"x": 1, "unmeasured": ["of 6"]}, {}, {}),
    ("save", "state", {"x": 1, "unmeasured": []}, {"m": 1.0}, {"replace": True}),
  ]
  assert run.program.inputs.meta == {"x": 1}


@pytest.mark.parametrize(
  "step, several, error, saved",
  [
    (5, False, UserError("no image"), True), (0, False, UserError("no image"), False),
    (5, True, UserError("no image"), False), (5, False, ValueError("a mistake"), None),
    (5, False, None, None),
  ],
)  # fmt: skip
def test_a_run_alone_saves_what_it_has_where_its_data_fail(
  monkeypatch, step, several, error, saved
):
  noted = Noted()
  monkeypatch.setattr(train.processes, "several", lambda: several)
  expected = pytest.raises(type(error)) if error else contextlib.nullcontext()
  with expected, train.saved_on_failure(fake_run(noted), at(step), train.DUE):
    if error:
      raise error
  meta = {"x": 1, "evaluation_due": True, "unmeasured": ["of 5"]}
  assert noted.log == ([("save", ("averaged", 5), meta, {}, {})] if saved else [])


def test_a_checkpoint_is_of_the_state_with_its_statistics():
  noted = Noted()
  run = fake_run(noted)
  assert train.checkpoint(run, at(5, measured="measured")) == "measured"
  assert noted.log == [
    "lock", ("save", "measured", {"x": 1, "unmeasured": []}, {}, {"replace": True})
  ]  # fmt: skip
  noted.log.clear()

  def stopped(now, stop):
    raise Stopped

  run.program.with_measured_batch_stats = stopped
  now = at(5)
  assert train.checkpoint(run, now) is now
  meta = {"x": 1, "statistics_due": True, "unmeasured": ["of 5"]}
  assert noted.log == ["lock", ("save", ("averaged", 5), meta, {}, {})]


@pytest.mark.parametrize(
  "job, due",
  [
    (train.checkpoint, "statistics_due"),
    (lambda run, now: train.assess(run, now, keep=True), "evaluation_due"),
  ],
)
def test_what_the_data_left_undone_is_due(job, due):
  noted = Noted()
  run = fake_run(noted)

  def fail(now, stop):
    raise UserError("no image")

  run.program.with_measured_batch_stats = fail
  with pytest.raises(UserError, match="no image"):
    job(run, at(5))
  meta = {"x": 1, due: True, "unmeasured": ["of 5"]}
  assert noted.log == [("save", ("averaged", 5), meta, {}, {})]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("metric", ["validation/accuracy", "validation/loss"])
def test_what_was_evaluated_is_saved_if_it_may_be_the_best(monkeypatch, keep, metric):
  noted, split = Noted(), []
  run, now = fake_run(noted), at(5, measured="measured")
  monkeypatch.setattr(train, "evaluate_split", lambda *given: split.append(given) or {metric: 0.5})
  after = ("monitored", "measured", {metric: 0.5})
  assert train.assess(run, now, keep=keep) == after
  assert split == [(run, "measured", "validation")]
  saved = "lock", ("save", after, {"x": 1, "unmeasured": []}, {metric: 0.5}, {"replace": True})
  assert noted.log == [*saved] * (keep or metric == "validation/accuracy")
  noted.log.clear()

  def stopped(*_):
    raise Stopped

  monkeypatch.setattr(train, "evaluate_split", stopped)
  assert train.assess(run, now, keep=keep) is now
  meta = {"x": 1, "evaluation_due": True, "unmeasured": ["of 5"]}
  assert noted.log == ["lock", ("save", ("averaged", 5), meta, {}, {})]


EARLY = {"early_stopping.patience": 2}


@pytest.mark.parametrize(
  "settings, best, has, result, splits",
  [
    ({}, 3, (), "now", ["validation", "test"]),
    ({**EARLY, "early_stopping.restore_best": False}, 3, (), "now", ["validation", "test"]),
    (EARLY, 9, (), "now", ["validation", "test"]),
    (EARLY, 3, (), "best", ["validation", "test"]),
    ({}, 3, [(9, "validation")], "now", ["test"]),
    (EARLY, 3, [(9, "validation")], "best", ["validation", "test"]),
    (EARLY, 3, [(9, "validation"), (9, "test")], "best", []),
    ({}, 3, [(9, "test")], "now", []),
    ({}, 3, [(3, "test"), (3, "validation")], "now", ["validation", "test"]),
  ],
)
def test_the_result_is_evaluated_where_it_was_not(monkeypatch, settings, best, has, result, splits):
  noted, asked, now = Noted(best, has), [], at(9)
  run = fake_run(noted, **settings)
  restored = lambda program, saved, which: {"best": at(3)}[which]
  monkeypatch.setattr(train.resuming, "restored", restored)
  evaluated = lambda run, state, split, at: asked.append((state, split, at))
  monkeypatch.setattr(train, "evaluate_split", evaluated)
  found = train.conclude(run, now)
  assert found.steps_done == {"now": 9, "best": 3}[result] and (found is now) == (result == "now")
  assert asked == [(found, split, 9) for split in splits]
  waits = settings.get("early_stopping.patience") and settings.get("early_stopping.restore_best", 1)
  assert noted.log == ["wait"] * bool(waits)

  def stopped(*_, **__):
    raise Stopped

  monkeypatch.setattr(train, "evaluate_split", stopped)
  assert train.conclude(run, now).steps_done == found.steps_done


@pytest.mark.parametrize("at_step, written", [(None, 5), (9, 9)])
def test_a_split_is_evaluated_by_all_its_weights_before_any_is_written(
  monkeypatch, at_step, written
):
  log = []
  noted = types.SimpleNamespace(
    write_pictures=lambda *given: log.append(("pictures", *given)),
    write_evaluation=lambda step, split, weights, metrics, of: (
      log.append(("write", step, split, weights, metrics, of)) or {f"{split}/{weights}": metrics}
    ),
  )
  run = fake_run(Noted(), eval_batch_size=7)._replace(out=noted, stop="stop")
  run.program.weights = lambda now: {"raw": "r", "ema": "e"}
  run.program.eval_step, run.program.task, run.program.members = "step", "task", "members"
  taken = lambda variables, seed, split: (
    log.append(("taken", variables, seed, split)) or f"p{variables}"
  )
  run.program.pictures = types.SimpleNamespace(taken=taken)
  sums = lambda *given: log.append(("evaluate", *given)) or f"sums of {given[1]}"
  monkeypatch.setattr(train, "evaluate", sums)
  monkeypatch.setattr(
    train, "compute_metrics", lambda task, members, summed: (task, members, summed)
  )
  found = train.evaluate_split(run, at(5, seed=3), "test", *([at_step] if at_step else []))
  of = lambda name: ("task", "members", f"sums of {name}")
  assert log == [
    ("evaluate", "step", "r", 2, 7, "stop"), ("taken", "r", 3, "test"),
    ("evaluate", "step", "e", 2, 7, "stop"), ("taken", "e", 3, "test"),
    ("pictures", written, "test", "raw", "pr"), ("write", written, "test", "raw", of("r"), 5),
    ("pictures", written, "test", "ema", "pe"), ("write", written, "test", "ema", of("e"), 5),
  ]  # fmt: skip
  assert found == {"test/raw": of("r"), "test/ema": of("e")}
  assert train.evaluate_split(run, at(5, seed=3), "test") and log[-1][1] == 5


class Loop:
  """A run of 14 steps of 6 an epoch that notes what its loop does, and computes nothing."""

  def __init__(self, monkeypatch, *, every, per_dispatch=100, total=14, stop_at=None):
    self.log, self.step, self.window = [], 0, "full"
    note = lambda name: lambda *given, **more: self.log.append((name, self.step, *given[1:], more))
    length = types.SimpleNamespace(total=total, steps_per_epoch=6, phase=total)
    feed = lambda step: self.log.append(("feed", step)) or f"feed {step}"
    waits = lambda: {"data_wait": 0.5}
    program = types.SimpleNamespace(
      every=every, per_dispatch=per_dispatch, finished=lambda now: now.steps_done >= total,
      train_step=self.train_step, training_metrics=self.metrics, no_metrics=lambda: "empty",
      inputs=types.SimpleNamespace(
        length=length, train=types.SimpleNamespace(feed=feed, waits=waits), skipped="skipped"
      ),
    )  # fmt: skip
    out = types.SimpleNamespace(
      trace=types.SimpleNamespace(left=lambda step: 10, of=lambda *_: contextlib.nullcontext()),
      progress=lambda step, read: self.log.append(("progress", step, read())),
      name_unreadable=lambda skipped: self.log.append(skipped),
      write_training=lambda step, found: self.log.append(("training", step, found)),
      write=lambda step, found: self.log.append(("health", step, found)),
      restart_clock=lambda step: self.log.append(("restart", step)),
    )
    stop = lambda: signal.SIGTERM if stop_at is not None and self.step >= stop_at else None
    lock = lambda: self.log.append(("lock", self.step))
    self.run = train.Run(program, "saved", out, stop, lock)
    monkeypatch.setattr(train.diagnose, "check_finite", note("finite"))
    monkeypatch.setattr(train.diagnose, "examine", lambda program, now, feed: {"of": feed})
    monkeypatch.setattr(train, "saved_on_failure", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(
      train, "save", lambda run, now, *due: self.log.append(("save", self.step, *due))
    )
    for name in ("assess", "checkpoint"):
      monkeypatch.setattr(train, name, self.noted(name))

  def noted(self, name):
    def call(run, now, **more):
      self.log.append((name, now.steps_done, *more.items()))
      return now

    return call

  def now(self, step):
    replace = lambda window: setattr(self, "window", window) or self.now(step)
    return types.SimpleNamespace(steps_done=step, replace=replace)

  def train_step(self, now, feed, n):
    assert feed == f"feed {now.steps_done}"
    self.step = now.steps_done + n
    return self.now(self.step)

  def metrics(self, now, of_epoch=None):
    return {"at": now.steps_done, **({} if of_epoch is None else {"of_epoch": of_epoch})}

  def __call__(self, step=0, meta=None):
    self.step = step
    end = train.loop(self.run, self.now(step), meta or {})
    return end.steps_done

  def of(self, *names):
    return [entry for entry in self.log if entry[0] in names]


def test_what_the_loop_does_at_which_step(monkeypatch):
  """Logs now and then, at the first step, the end of an epoch, and with each evaluation."""
  loop = Loop(monkeypatch, every={"log": 5, "eval": 8, "checkpoint": 9, "health": 7})
  assert loop() == 14 and loop.window == "empty"
  assert [step for _, step in loop.of("feed")] == [0, 1, 5, 6, 7, 8, 9, 10, 12]
  line = lambda step, epoch: ("training", step, {"at": step, "of_epoch": epoch, "data_wait": 0.5})
  assert loop.of("training") == [
    line(1, False), line(5, False), line(6, True), line(8, True), line(10, False), line(12, True),
    line(14, True),
  ]  # fmt: skip
  assert loop.of("health") == [("health", 7, {"of": "feed 6"})]  # not of the step after the last
  assert loop.of("assess", "checkpoint") == [
    ("assess", 8, ("keep", False)), ("checkpoint", 9), ("assess", 14, ("keep", True))
  ]  # fmt: skip
  due = [1, 5, 6, 7, 8, 9, 10, 12, 14]
  assert [step for _, step in loop.of("restart")] == due
  assert [entry[1] for entry in loop.of("finite")] == [*due, 14]
  assert [entry[1:] for entry in loop.of("progress")] == [(n, {"at": n}) for n in due]
  assert loop.log.count("skipped") == len(due)
  assert [step for _, step in loop.of("lock")] == [0, *due]
  assert loop.log[-1] == ("save", 14)


def test_a_dispatch_ends_at_its_limit_and_where_a_trace_ends(monkeypatch):
  loop = Loop(monkeypatch, every={"log": 99, "eval": 99, "checkpoint": 99}, per_dispatch=4)
  loop()
  assert [step for _, step in loop.of("feed")] == [0, 1, 5, 6, 10, 12]
  assert [entry[1] for entry in loop.of("training")] == [1, 6, 12, 14]
  assert loop.of("assess") == [("assess", 14, ("keep", True))] and not loop.of("checkpoint")
  loop = Loop(monkeypatch, every={"log": 99, "eval": 99, "checkpoint": 99})
  loop.run.out.trace.left = lambda step: 2
  loop(step=2)
  assert [step for _, step in loop.of("feed")] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
  "meta, first",
  [
    ({"evaluation_due": True, "statistics_due": True}, [("assess", 8, ("keep", True))]),
    ({"statistics_due": True}, [("checkpoint", 8)]),
    ({}, []),
  ],
)
def test_what_was_due_is_done_first(monkeypatch, meta, first):
  loop = Loop(monkeypatch, every={"log": 99, "eval": 99, "checkpoint": 99}, stop_at=8)
  assert loop(step=8, meta=meta) == 8
  assert loop.log[: len(first)] == first
  assert loop.log[len(first) :] == [("lock", 8), *loop.of("finite"), ("save", 8)]
  assert len(loop.of("finite")) == 1


def test_a_signal_ends_the_loop_after_the_step_and_saves_it(monkeypatch):
  loop = Loop(
    monkeypatch, every={"log": 99, "eval": 99, "checkpoint": 99}, per_dispatch=2, stop_at=3
  )
  assert loop() == 3 and loop.log[-1] == ("save", 3)
  assert [step for _, step in loop.of("feed")] == [0, 1] and not loop.of("assess", "restart")[2:]


def test_a_run_that_has_ended_saves_once_more_at_most(monkeypatch):
  loop = Loop(monkeypatch, every={"log": 99, "eval": 99, "checkpoint": 99})
  assert loop(step=14) == 14
  assert [entry[0] for entry in loop.log] == ["lock", "finite", "save"]


@pytest.mark.parametrize("error", [None, UserError("11 images cannot be read")])
def test_images_that_the_last_evaluation_could_not_read_are_named(
  tiny, tmp_path, monkeypatch, error
):
  """Also where there are too many."""

  def done(run, now, meta):
    return now.replace(step=jnp.int32(3))

  def conclude(run, now):
    run.program.inputs.skipped["late.png"] = "torn"
    if error:
      raise error
    return now

  monkeypatch.setattr(train, "loop", done)
  monkeypatch.setattr(train, "conclude", conclude)
  with pytest.raises(UserError) if error else contextlib.nullcontext():
    train.train(tiny(epochs="3 steps"), tmp_path)
  assert (tmp_path / writers.UNREADABLE).read_text() == "late.png\ttorn\n"
