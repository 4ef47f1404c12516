"""Whole runs with what recipes ask for: resumed to the bit, frozen to the bit, learning."""

import contextlib
import os
import signal

import event_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import build, checkpoints, evaluate, optim, train, trained, writers
from cnnjax.checkpoints import trained_on
from cnnjax.config import override
from cnnjax.data import History
from cnnjax.errors import Stopped, UserError
from cnnjax.training import members, resuming
from cnnjax.training.program import Program
from cnnjax.writers.groups import grouped


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def same_bits(a, b):
  pairs = list(zip(leaves(a), leaves(b), strict=True))
  return bool(pairs) and all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def metrics_of(workdir):
  """The lines of metrics.jsonl without what a clock says."""
  return [
    {k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")}
    for line in writers.read_metrics(workdir)
  ]


PLAIN = {"model.dropout": 0.0, "model.conv_dropout": 0.0}
VALIDATED = {"data.validation": 21, "batch_size": 8, "epochs": 3, "model.dropout": 0.2}
# Together they have every optimizer, and everything that is carried from step to step.
RECIPES = {
  "sgd_lookahead_ema_plateau": {
    **VALIDATED, "optim.lookahead": 3, "average.ema": 0.9, "optim.plateau.patience": 1,
    "optim.noise": 0.01, "optim.clip_norm": 1.0, "optim.nesterov": True, "health.every": "7 steps",
  },
  "adamw_sam_accumulated_swa": {
    **VALIDATED, "optim.name": "adamw", "optim.learning_rate": 0.01, "optim.sam_rho": 0.05,
    "accumulate": 2, "batch_norm.accumulated": "matched", "average.swa_start": 1,
    "average.swa_every": "3 steps", "augment": "flip | mixup(0.2)", "task.loss": "focal",
  },
  "float16_lamb_ghost_stopping": {
    **VALIDATED, "dtype": "float16", "optim.name": "lamb", "optim.learning_rate": 0.01,
    "batch_norm.ghost": 4, "early_stopping.patience": 2, "loss_scale.growth_steps": 3,
    "average.ema": 0.99, "average.ema_warmup": False, "batch_norm.precise": True,
    "batch_norm.batches": 2, "checkpoint_every": "13 steps",  # the signal comes while it measures
  },
  "schedule_free_precise": {
    **VALIDATED, "optim.name": "schedule_free_sgd", "optim.schedule.name": "constant",
    "batch_norm.precise": True, "batch_norm.batches": 3,
  },
  "muon_agc_frozen": {
    **VALIDATED, "optim.name": "muon", "optim.learning_rate": 0.02, "optim.agc": 0.01,
    "optim.freeze": ("^conv1",), "optim.layer_decay": 0.8, "optim.max_norm": 2.0,
    "model.conv_features": (4, 4),
  },
  "rmsprop_tf_multiplied": {
    **VALIDATED, "optim.name": "rmsprop_tf", "optim.learning_rate": 0.01, "optim.l1": 1e-5,
    "optim.multipliers": (("^head", 2.0),), "task.loss": "binary_cross_entropy",
    "optim.clip_value": 0.5, "optim.schedule.name": "trapezoid",
  },
  "seeds": {"batch_size": 8, "seeds": 2, "model.dropout": 0.2, "average.ema": 0.9},
}  # fmt: skip


def settings(recipe):
  return {"epochs": 3, "log_every": "5 steps", **RECIPES[recipe]}


# It has much of what a state can hold; the others are for the longer part.
QUICK = ("float16_lamb_ghost_stopping",)


@pytest.mark.parametrize(
  "recipe", [r if r in QUICK else pytest.param(r, marks=pytest.mark.slow) for r in RECIPES]
)
def test_stopped_and_resumed_is_bit_identical(tiny, tmp_path, stop_at, recipe):
  config = tiny(**settings(recipe))
  end, _, _ = train.train(config, tmp_path / "whole")
  with stop_at(13):
    _, _, stopped_by = train.train(config, tmp_path / "parts")
  assert stopped_by == signal.SIGTERM
  assert checkpoints.last_step(tmp_path / "parts") == 13
  resumed, _, _ = train.train(config, tmp_path / "parts")
  assert same_bits(resumed, end)
  assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
  for weights in ("raw", *(name for name in end.averages if name != "slow")):
    _, _, found = evaluate.evaluate_checkpoint(tmp_path / "parts", weights=weights)
    prefix = "test/" if weights == "raw" else f"test/{weights}_"
    line = writers.read_metrics(tmp_path / "whole")[-1]
    logged = {k: v for line in metrics_of(tmp_path / "whole") for k, v in line.items()}
    if config.early_stopping.patience is None:
      assert found["loss"] == pytest.approx(logged[f"{prefix}loss"], rel=1e-5), (weights, line)


def test_what_a_signal_left_no_time_to_measure_is_measured_by_the_reader(
  tiny, tmp_path, monkeypatch, capsys
):
  """So that evaluation and distillation find what an evaluation at that step finds in the run."""
  config = tiny(**{
    "optim.lookahead": 3, "batch_size": 15, "augment": None, "data.validation": 0.3,
    "average.swa_start": "1 steps",
  })  # fmt: skip
  nothing = np.zeros(0, np.uint64)
  older = History("", True, nothing, nothing, {})  # its validation split is drawn by another rule
  program = build.build(config, before=older)
  trained_on.write(tmp_path, program.inputs.history(older)[0])
  now = program.new_state()
  moved = jax.tree.map(lambda x: x + 1, now.opt_state)
  swa = {**now.averages["swa"], "count": jnp.int32(1)}
  swa["params"] = jax.tree.map(lambda x: x + 0.5, swa["params"])
  averages = {**now.averages, "swa": swa}
  now = now.replace(step=jnp.asarray(4), opt_state=moved, averages=averages)
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved:
    train.save(train.Run(program, saved, None, None, None), now)
    saved.wait()
    slow = saved.arrays(4, "averages", now.step.sharding)["slow"]["params"]
    assert same_bits(slow, optim.averaged(config.optim, moved, now.params))
  read = lambda *weights: trained.load(tmp_path, config, program.mesh, "last", *weights)
  found, measured = read(), program.with_measured_batch_stats(now)
  assert found.meta["unmeasured"] == ["raw", "swa"]
  assert same_bits(read("swa").variables, program.weights(measured)["swa"])
  assert same_bits(found.variables, measured.averages["slow"])
  assert same_bits(found.variables["params"], optim.averaged(config.optim, moved, now.params))
  assert not same_bits(found.variables["batch_stats"], now.batch_stats)

  def gone(*_, **__):
    raise UserError("the images are gone")

  monkeypatch.setattr(trained, "build", gone)
  with pytest.raises(UserError, match=r"not measured when step 4 .*are gone.*Go on with the run"):
    read()
  monkeypatch.setattr(checkpoints, "UNMEASURED", "noted by nobody, as before")
  assert same_bits(read().variables["batch_stats"], now.batch_stats)
  assert "raw weights may be of a step before 4" in capsys.readouterr().err


def test_what_a_signal_left_no_time_to_measure_is_measured_when_the_run_goes_on(
  tiny, tmp_path, monkeypatch
):
  config = tiny(**{
    "epochs": 1, "checkpoint_every": "4 steps", "keep.last": -1, "average.swa_start": "1 steps",
  })  # fmt: skip

  def interrupted(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    raise Stopped

  monkeypatch.setattr(Program, "with_measured_batch_stats", interrupted)
  train.train(config, tmp_path)
  store = lambda: checkpoints.Checkpoints(tmp_path, monitor=config.monitor, read_only=True)
  assert store().meta(4)["unmeasured"] == ["swa"]
  monkeypatch.undo()
  train.train(config, tmp_path)
  assert store().meta(4)["unmeasured"] == []


def test_a_run_from_before_slow_weights_were_evaluated_has_them_from_its_optimizer(tiny, tmp_path):
  config = tiny(**{"optim.lookahead": 3, "average.ema": 0.9, "optim.freeze": ("^conv1",)})
  program, said = build.build(config), []
  now = program.new_state()
  moved = jax.tree.map(lambda x: x + 1, now.opt_state)
  before = now.replace(averages={"ema": now.averages["ema"]}, opt_state=moved)
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved:
    saved.save(before, program.inputs.meta, {})
    saved.wait()
    saved.say = said.append
    after, _ = resuming.begin(program, saved)
  slow, variables = after.averages["slow"], after.variables
  assert same_bits(variables, now.variables)
  assert same_bits(slow["params"]["head"], jax.tree.map(lambda x: x + 1, now.params["head"]))
  assert same_bits(slow["params"]["conv1"], now.params["conv1"])
  assert same_bits(slow["batch_stats"], now.batch_stats)
  assert len(said) == 1 and "from here on the slow ones are" in said[0]


def test_frozen_parameters_and_statistics_do_not_move_by_a_bit(tiny, tmp_path):
  """Whatever else is on: decay, momentum, averages, noise, accumulated batches."""
  config = tiny(**{
    "model.conv_features": (4, 4), "epochs": 2, "optim.freeze": ("^(conv|norm)1",),
    "optim.weight_decay": 0.1, "optim.weight_decay_mask": "", "average.ema": 0.9,
    "average.swa_start": "1 steps", "average.swa_every": "1 steps", "optim.noise": 0.1,
    "accumulate": 2, "batch_norm.accumulated": "matched",
  })  # fmt: skip
  before = build.build(config).new_state()
  names = [name for name in before.params if name in ("conv1", "norm1")]
  assert len(names) == 2 and "norm1" in before.batch_stats
  end, _, _ = train.train(config, tmp_path)
  for name in names:
    assert same_bits(before.params[name], end.params[name])
    for average in end.averages.values():
      assert same_bits(before.params[name], average["params"][name])
  assert same_bits(before.batch_stats["norm1"], end.batch_stats["norm1"])
  assert not same_bits(before.batch_stats["norm2"], end.batch_stats["norm2"])
  assert not same_bits(before.params["conv2"], end.params["conv2"])


def test_early_stopping_restores_the_best_and_a_stopped_run_stays_so(tiny, tmp_path, capsys):
  config = tiny(**{
    "data.validation": 21, "epochs": 40, "optim.learning_rate": 1.0, "optim.momentum": 0.0,
    "early_stopping.patience": 2, "monitor": "validation/loss", "optim.schedule.name": "constant",
  })  # fmt: skip
  result, metrics, _ = train.train(config, tmp_path)
  losses = {
    line["step"]: line["validation/loss"]
    for line in metrics_of(tmp_path)
    if "validation/loss" in line
  }
  best, last = min(losses, key=losses.get), max(losses)
  assert last == best + 2 * 5 < 40 * 5  # two evaluations of five steps
  assert (
    result.steps_done
    == best
    == checkpoints.Checkpoints.of(tmp_path, config, read_only=True).step("best")
  )
  _, _, found = evaluate.evaluate_checkpoint(tmp_path, "test", "best")
  assert found["loss"] == pytest.approx(metrics["test/loss"], rel=1e-6)
  assert metrics["validation/loss"] == losses[best]  # of the same step as the test split
  assert [line["restored_step"] for line in metrics_of(tmp_path)[-2:]] == [best, best]
  printed = capsys.readouterr().out
  assert f"best step, {best:,}" in printed
  assert f"stopped early, at step {last:,} of 200\n" in printed
  lines = metrics_of(tmp_path)
  again, _, _ = train.train(config, tmp_path)
  assert "this run is finished" in capsys.readouterr().out
  assert metrics_of(tmp_path) == lines and same_bits(again, result)


def test_a_kill_between_the_last_save_and_the_test_split(tiny, tmp_path, monkeypatch):
  """The result is evaluated by the same command."""
  config = tiny(**{"data.validation": 21})
  monkeypatch.setattr(train, "conclude", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
  with pytest.raises(KeyboardInterrupt):
    train.train(config, tmp_path)
  assert not any("test/loss" in line for line in metrics_of(tmp_path))
  monkeypatch.undo()
  _, metrics, _ = train.train(config, tmp_path)
  assert "test/loss" in metrics


def test_distillation_learns_what_the_teacher_says(tiny, tmp_path):
  """A student that sees the teacher's predictions alone comes near them."""
  adam = {"optim.name": "adam", "optim.learning_rate": 0.02, "augment": None, **PLAIN}
  teacher = tiny(epochs=10, **adam)
  train.train(teacher, tmp_path / "teacher")
  student = tiny(epochs=20, seed=5, **adam, **{
    "distill.workdir": str(tmp_path / "teacher"), "distill.weight": 1.0,
  })  # fmt: skip
  _, metrics, _ = train.train(student, tmp_path / "student")
  lines = [line["train/loss"] for line in metrics_of(tmp_path / "student") if "train/loss" in line]
  assert metrics["train/accuracy"] > 0.6  # 0.1 by chance
  assert lines[-1] < lines[0]
  train.train(tiny(epochs=11, **adam), tmp_path / "teacher")
  override(student, "epochs", 21)
  with pytest.raises(UserError, match=r"from step 60 of its teacher .* is at step 66 now"):
    train.train(student, tmp_path / "student")
  override(student, "data.synthetic.channels", 3)
  with pytest.raises(UserError, match=r"teacher in .*images have 1 channels, .* this run have 3"):
    train.train(student, tmp_path / "coloured")
  override(student, "distill.workdir", str(tmp_path / "nowhere"))
  with pytest.raises(UserError, match=r"teacher in distill.workdir=.*nowhere: .* holds no run"):
    train.train(student, tmp_path / "other")


def test_members_are_the_runs_of_their_seeds(tiny, tmp_path, capsys):
  """On CPU to the bit, since they take turns; the mean is theirs, by Student's t."""
  import scipy.stats

  settings = {"epochs": 2, "optim.learning_rate": 0.02}
  together, metrics, _ = train.train(tiny(seed=3, seeds=3, **settings), tmp_path / "all")
  assert ", last step" in (said := capsys.readouterr().out) and "(mean, 95 % interval)" in said
  accuracies = []
  for i, seed in enumerate((3, 4, 5)):
    alone, one, _ = train.train(tiny(seed=seed, **settings), tmp_path / str(seed))
    assert same_bits(alone, jax.tree.map(lambda x: x[i], together))  # noqa: B023
    assert one["test/loss"] == metrics[f"test/loss/seed={seed}"]
    accuracies.append(one["test/accuracy"])
  assert metrics["test/accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-6)
  interval = scipy.stats.t.interval(0.95, 2, np.mean(accuracies), scipy.stats.sem(accuracies))
  if np.std(accuracies):
    assert metrics["test/accuracy_ci95"] == pytest.approx(interval[1] - np.mean(accuracies))
  _, examples, found = evaluate.evaluate_checkpoint(tmp_path / "all")
  assert examples == 37 and found["loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)


@pytest.mark.slow
def test_one_program_gives_what_turns_give(tiny, tmp_path, monkeypatch):
  """As on GPU and TPU, by vmap; to rounding."""
  config = tiny(seeds=2, epochs=1, **{"average.ema": 0.9, "batch_norm.precise": True})
  turns, of_turns, _ = train.train(config, tmp_path / "turns")
  monkeypatch.setattr(members, "in_turns", lambda: False)
  program, of_program, _ = train.train(config, tmp_path / "program")
  for a, b in zip(leaves(turns.params), leaves(program.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  for name in ("test/loss", "test/ema_loss", "test/loss_ci95", "test/loss/seed=1"):
    assert of_turns[name] == pytest.approx(of_program[name], rel=1e-3)


@pytest.mark.slow
def test_rates_are_runs_of_their_own(tiny, tmp_path, capsys):
  rates = (0.01, 0.05)
  settings = {"epochs": 1, "data.source": "synthetic", "optim.scale_from": 8}
  together, metrics, _ = train.train(tiny(rates=rates, **settings), tmp_path / "all")
  for i, rate in enumerate(rates):
    alone, one, _ = train.train(
      tiny(**settings, **{"optim.learning_rate": rate}), tmp_path / str(i)
    )
    for a, b in zip(leaves(alone.params), leaves(together.params), strict=True):
      np.testing.assert_allclose(a, b[i], rtol=1e-3, atol=1e-5)
    assert one["test/loss"] == pytest.approx(metrics[f"test/loss/rate={rate:g}"], rel=1e-3)
    assert one["learning_rate"] == pytest.approx(metrics[f"learning_rate/rate={rate:g}"])
  printed = capsys.readouterr().out
  assert f"rate=0.01  test accuracy {metrics['test/accuracy/rate=0.01']:.2%}, loss" in printed
  assert "no rate is chosen without a validation split" in printed


def test_a_rate_that_diverges_leaves_the_others_alone(tiny, tmp_path, capsys):
  settings = {"epochs": 2, "data.validation": 21}
  _, metrics, _ = train.train(tiny(rates=(0.01, 1e18), **settings), tmp_path / "both")
  printed = capsys.readouterr().out
  assert "learning rate 0.01 | 1e+18, " in printed
  assert "loss is inf" in printed and "the run diverges" in printed and "(rate=1e+18)" in printed
  best = metrics["validation/accuracy/rate=0.01"]
  assert f"best by validation: rate=0.01, accuracy {best:.2%}\n" in printed
  assert printed.count(", rate=0.01: test accuracy") == 1 and "rate=1e+18: test" not in printed
  _, alone, _ = train.train(tiny(**settings, **{"optim.learning_rate": 0.01}), tmp_path / "one")
  assert metrics["test/loss/rate=0.01"] == pytest.approx(alone["test/loss"], rel=1e-3)
  # No name is a mean over the rates, in none of the files.
  written = {name for line in metrics_of(tmp_path / "both") for name in line}
  bare = {name for name in written if not name.endswith(("/rate=0.01", "/rate=1e+18"))}
  assert bare == {"step", "epoch"} and written >= metrics.keys() - {"images_per_second"} > bare
  tags = {tag for tag, _, _ in event_files.events(tmp_path / "both")}
  assert tags - {"speed/images_per_second"} == {grouped(name) for name in written - bare}
  assert np.isnan(metrics["test/loss/rate=1e+18"])
  with pytest.raises(UserError, match="became NaN or infinite"):
    train.train(tiny(rates=(1e17, 1e18), **settings), tmp_path / "none")


def test_where_nan_begins_is_named(tiny, tmp_path):
  config = tiny(**{
    "optim.schedule.name": "multi_step", "optim.schedule.boundaries": ("5 steps",),
    "optim.schedule.factor": 1e18, "health.trace": True,
  })  # fmt: skip
  with pytest.raises(UserError, match=r"infinite in step 7.* began in"):
    train.train(config, tmp_path)


def test_float16_leaves_out_steps_that_overflow(tiny, tmp_path):
  """The scale begins too large, comes down, and the run learns."""
  config = tiny(**{
    "dtype": "float16", "loss_scale.initial": 2.0**40, "loss_scale.maximum": 2.0**40,
    "epochs": 20, "augment": None, "optim.name": "adam", "optim.learning_rate": 0.02, **PLAIN,
  })  # fmt: skip
  end, metrics, _ = train.train(config, tmp_path)
  scales = [line["loss_scale"] for line in metrics_of(tmp_path) if "loss_scale" in line]
  assert scales[0] < 2.0**40 and scales[-1] < 2.0**30
  assert metrics["train/accuracy"] > 0.8
  assert all(x.dtype == np.float32 for x in leaves(end.params))


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"accumulate": 3}, "accumulate=3 does not divide batch_size=16"),
    ({"batch_norm.ghost": 5}, "batch_norm.ghost=5 does not divide"),
    ({"batch_norm.ghost": 8, "accumulate": 4}, "batch_norm.ghost=8 does not divide the 4 examples"),
    ({"batch_norm.accumulated": "matched"}, "accumulate above 1"),
    ({"model.batch_norm": False, "batch_norm.ghost": 4}, "simple_cnn has no batch norm"),
    ({"distill.temperature": 2.0}, "distill.temperature=2.0 has no effect without distill.workdir"),
    ({"seeds": 2, "rates": (0.1, 0.2)}, "one sweep at a time"),
    ({"rates": (0.1, 0.2, 0.1)}, "rates gives a rate twice: rate=0.1, rate=0.2, rate=0.1"),
    ({"early_stopping.patience": 3}, "there is no validation split"),
    ({"optim.plateau.patience": 3}, "there is no validation split"),
    ({"monitor": "test/accuracy"}, "a metric of the validation split"),
    ({"monitor": "validation/acuracy"}, "Did you mean 'validation/accuracy'"),
    ({"average.swa_start": 10}, "average.swa_start=10 is step 60, and the run has 18"),
    ({"dtype": "float16", "loss_scale.initial": 2.0**30}, "above loss_scale.maximum"),
    ({"optim.freeze": ("nothing",)}, "nothing"),
    ({"augment": "flip | cutout(2, fill=(0.1, 0.2, 0.3))"}, "cutout takes images of 3 .* not 1 as"),
    (
      {"optim.name": "schedule_free_sgd", "optim.schedule.name": "constant", "average.ema": 0.9},
      "leave average.ema",
    ),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_contradicts_itself_is_refused(tiny, tmp_path, overrides, message):
  with pytest.raises(UserError, match=message):
    train.train(tiny(**overrides), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_out_of_memory_says_what_to_try(tiny, tmp_path, monkeypatch):
  def fail(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 80 GiB")

  program = build.build(tiny())
  now, feed = program.new_state(), program.inputs.train.feed(0)
  monkeypatch.setattr(Program, "compiled_step", fail)
  with pytest.raises(UserError, match=r"of 16.*accumulate=2 .*dtype=bfloat16.*batch_size=8"):
    program.train_step(now, feed, 1)


def drawn(seed):
  """A recipe put together at random from what goes together."""
  rng = np.random.default_rng(seed)
  pick = lambda *choices: choices[rng.integers(len(choices))]
  name = pick("sgd", "rmsprop", "adam", "adamw", "nadam", "lamb", "lars", "lion", "muon")
  recipe = {
    "data.validation": 21, "epochs": 3, "optim.name": name, "optim.learning_rate": 0.01,
    "optim.schedule.name": pick("constant", "cosine", "linear", "warm_restarts", "trapezoid"),
    "dtype": pick("float32", "bfloat16", "float16"), "accumulate": pick(1, 2),
    "augment": pick(None, "flip", "mixup(0.2)", "pad_crop(1) | cutmix(1.0)"),
    "task.loss": pick(None, "focal", "binary_cross_entropy"),
    pick("optim.clip_norm", "optim.clip_value", "optim.agc"): 0.1,
    "optim.sam_rho": pick(None, 0.05), "optim.lookahead": pick(None, 4),
    "optim.max_norm": pick(None, 1.0), "optim.noise": pick(0.0, 0.01),
    "average.ema": pick(None, 0.9), "average.swa_start": pick(None, 1),
    "batch_norm.ghost": pick(None, 4), "batch_norm.precise": pick(False, True),
    "optim.plateau.patience": pick(None, 1), "early_stopping.patience": pick(None, 2),
    "optim.freeze": pick((), ("norm1",)), "optim.layer_decay": pick(None, 0.8),
    "data.pipeline": pick("resident", "streaming"), "model.dropout": pick(0.0, 0.3),
  }  # fmt: skip
  return {**recipe, "log_every": "4 steps", "seed": seed}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_recipes_drawn_at_random_resume_to_the_bit(tiny, tmp_path, stop_at, seed):
  config = tiny(**drawn(seed))
  end, _, _ = train.train(config, tmp_path / "whole")
  with stop_at(int(np.random.default_rng((seed, 1)).integers(1, end.steps_done))):
    _, _, stopped_by = train.train(config, tmp_path / "parts")
  assert stopped_by == signal.SIGTERM
  resumed, _, _ = train.train(config, tmp_path / "parts")
  assert same_bits(resumed, end)
  assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
