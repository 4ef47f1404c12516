"""Builds programs from configs, where no run has to be trained to see it."""

import contextlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import build, models, trained
from cnnjax.checkpoints import integrity, workdir
from cnnjax.errors import UserError
from cnnjax.training import diagnose, members, resuming, state
from cnnjax.training.teacher import Teacher


def test_the_seed_of_a_run_is_that_of_its_gradient_noise(tiny):
  drawn = []
  for seed in (0, 1):
    program = build.build(tiny(**{"seed": seed, "optim.noise": 0.1}))
    shapes = state.abstract_variables(program.model, program.inputs.image_shape, program.mesh)
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes["params"])
    update, memory = jax.jit(program.optimizer.update), program.optimizer.init(params)
    drawn.append(update(params, memory, params, step=3)[0]["head"]["kernel"])
  assert (drawn[0] != drawn[1]).all()


def test_a_run_goes_on_with_what_was_saved_beside_its_state(tiny, tmp_path):
  """Of the step that was restored, where the last one could not be read."""
  program = build.build(tiny())
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved:
    for step in (6, 12):
      now = program.new_state().replace(step=jnp.int32(step))
      saved.save(now, {**program.inputs.meta, "of": step}, {})
  damaged = tmp_path / "checkpoints" / "12"
  shutil.rmtree(damaged / "training" / "d")
  (damaged / integrity.MANIFEST).unlink()
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved:
    now, meta = resuming.begin(program, saved)
  assert now.steps_done == meta["of"] == 6


def test_where_the_data_have_grown_the_rates_are_those_of_their_epochs(tiny):
  """From 10 steps an epoch to 30, of which the first was the warm-up, then half a cosine."""
  settings = {"epochs": 2, "optim.schedule.warmup": 1}
  small, large = (
    build.build(tiny(**settings, **{"data.synthetic.train_examples": n})) for n in (160, 480)
  )
  now = large.new_state().replace(step=jnp.int32(18))
  last, following = 0.1 * (1 + np.cos(np.pi * 0.7)) / 2, 0.1 * 18 / 30
  assert resuming.going_on(large, now, small.inputs.meta, 2, {}) == {
    "going on": f"the learning rate rises from {last:.3g} to {following:.3g}: an epoch was 10 "
    "steps and is 30 now, the run was 20 and is 60"
  }
  assert resuming.going_on(large, now, large.inputs.meta, 2, {}) == {}
  fewer = resuming.going_on(
    small, small.new_state().replace(step=jnp.int32(18)), large.inputs.meta, 2, {}
  )
  assert "the learning rate falls from 0.0567 to 0.00955: an epoch was 30" in fewer["going on"]
  # A checkpoint that does not say how long the run was: where an epoch is another, nobody knows.
  now, older = now.replace(step=jnp.int32(40)), {"classes": ()}
  said = [
    resuming.going_on(large, now, older, 1.5, {"step": 40, "epoch": e}) for e in (4.0, 1.333333)
  ]
  assert said[0] == resuming.going_on(large, now, older, 1.5, {}) == {}
  assert "was 45 steps and is 60 now" in said[1]["going on"]


def test_a_run_of_less_than_a_step_had_one(tiny):
  """As it has now, where an older checkpoint does not say how long the run was."""
  program = build.build(tiny(**{"epochs": 2, "optim.schedule.warmup": 0}))
  now, per_epoch = program.new_state().replace(step=jnp.int32(1)), 6
  line = {"step": 1, "epoch": 1 / per_epoch}
  found = resuming.going_on(program, now, {"classes": ()}, 0.01, line)
  assert "follows the length of the run, which was 1 steps and is 12 now" in found["going on"]


def test_the_dropout_of_the_model_is_that_of_a_step(tiny):
  """Where it leaves nothing of the hidden layer, nothing but the bias of the head learns."""
  config = tiny(augment=None, **{"optim.weight_decay": 0.0, "optim.schedule.warmup": 0})
  config.model = {"name": "mlp", "features": (4,), "dropout": 1 - 1e-7}
  program = build.build(config)
  now = program.new_state()
  before = jax.tree.map(np.array, now.params)
  after = program.train_step(now, program.inputs.train.feed(0), 1).params
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
  assert moved == {
    "dense1": {"kernel": False, "bias": False}, "head": {"kernel": False, "bias": True}
  }  # fmt: skip


@pytest.mark.parametrize("lookahead", [3, None])
def test_fast_weights_are_called_so_where_no_slow_ones_can_be_made(
  tiny, tmp_path, capsys, lookahead
):
  """Of a run of before slow weights were evaluated, whose data are away."""
  config = tiny(**{"optim.lookahead": lookahead, "batch_norm.precise": True})
  program = build.build(config)
  now = program.new_state().replace(averages={}, step=jnp.int32(6))
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved:
    saved.save(now, program.inputs.meta, {})
  config.data.update(source="folder", path=str(tmp_path / "away"))
  found = trained.load(tmp_path, config, program.mesh, "last")
  jax.tree.map(np.testing.assert_array_equal, found.variables, now.variables)
  said = capsys.readouterr().err
  assert ("evaluating Lookahead's fast weights" in said) == bool(lookahead)
  assert ("the raw weights may be of a step before 6" in said) == (not lookahead)


@pytest.mark.parametrize("sweep, ends", [({"seeds": 2}, True), ({"rates": (0.1, 0.2)}, False)])
def test_one_of_several_runs_that_diverges(tiny, tmp_path, sweep, ends):
  """It ends a run of seeds, of which a mean is asked; of rates the others go on."""
  program = build.build(tiny(**sweep))
  now = program.new_state().replace(bad_step=jnp.array([state.NEVER, 4], jnp.int32))
  ended = (
    pytest.raises(UserError, match="infinite in step 5;") if ends else contextlib.nullcontext()
  )
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved, ended:
    diagnose.check_finite(program, now, saved)


def test_a_teacher_is_asked_what_it_makes_of_the_images(tiny):
  teach = lambda variables, images: variables + images.mean((1, 2, 3))[:, None]
  teacher = Teacher(teach, jnp.arange(10.0), "a mean")
  program = build.build(tiny(augment=None), teacher=teacher)
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
  batch = {"image": jnp.asarray(images), "label": jnp.arange(4)}
  taught = program.prepare(0, 0, batch, program.constants).teacher_outputs
  expected = np.arange(10) + (images / 255).mean((1, 2, 3))[:, None]
  np.testing.assert_allclose(taught, expected, rtol=1e-6)


def test_a_teacher_has_the_weights_that_are_asked_for(tiny, tmp_path):
  """And sees the images as it saw them when it was trained."""
  config = tiny(**{"average.ema": 0.9, "data.mean": (0.2,), "data.std": (0.5,)})
  program = build.build(config)
  now = program.new_state()
  ema = jax.tree.map(lambda x: x + 0.1, now.averages["ema"])
  with contextlib.closing(resuming.open_checkpoints(program, tmp_path)) as saved:
    saved.save(now.replace(averages={"ema": ema}), program.inputs.meta, {})
  workdir.claim(tmp_path, config)
  config.distill.update(workdir=str(tmp_path), weights="ema")
  with pytest.raises(UserError, match=r"give build trained\.teacher\(config\)"):
    build.build(config)
  found = trained.teacher(config)
  jax.tree.map(np.testing.assert_array_equal, found.variables, ema)
  images = np.random.default_rng(0).uniform(size=(4, 8, 8, 1))
  expected = models.forward(program.model, ema, (images - 0.2) / 0.5)
  np.testing.assert_allclose(found.teach(found.variables, images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  "key, value",
  [
    ("optim.noise", 0.1), ("mesh.fsdp", 2), ("health.every", 1), ("health.trace", True),
    ("data.pipeline", "streaming"), ("early_stopping.patience", 2), ("optim.plateau.patience", 2),
  ],
)  # fmt: skip
def test_what_several_runs_cannot_have_is_refused(tiny, key, value):
  members.check(tiny(seeds=2))
  with pytest.raises(UserError, match=f"^{key}.* does not go with several runs in one program"):
    members.check(tiny(**{"seeds": 2, key: value}))


def test_building_a_run_computes_nothing(tiny, monkeypatch):
  """Shapes are traced alone; a model may take seconds to draw."""
  asked, create = [], state.create
  noted = lambda *given, abstract=False, **rest: (
    asked.append(abstract) or create(*given, abstract=abstract, **rest)
  )
  monkeypatch.setattr(state, "create", noted)
  for settings in ({}, {"seeds": 2}, {"step.name": "standard"}):
    program = build.build(tiny(**settings))
    program.check_step()
    now, batch = program.shapes
    assert batch["image"].shape == (16, 8, 8, 1) and now.step.shape == ()
  assert asked and all(asked)


def test_what_happens_now_and_then_happens_every_step_at_most(tiny):
  program = build.build(tiny(log_every="1 examples", eval_every=0.5, checkpoint_every=2))
  assert program.every == {"log": 1, "eval": 3, "checkpoint": 12}
  program = build.build(tiny(**{"health.every": "17 examples", "log_every": "33 examples"}))
  assert program.every == {"log": 2, "eval": 6, "checkpoint": 6, "health": 1}
  assert program.per_dispatch == 1  # on CPU
  assert build.build(tiny(steps_per_dispatch=5)).per_dispatch == 5


def test_when_a_run_is_finished(tiny):
  program = build.build(tiny(**{"data.validation": 20, "early_stopping.patience": 2}))
  total, fresh = program.inputs.length.total, program.new_state()
  at = lambda step, since=0: fresh.replace(
    step=jnp.int32(step), monitor=fresh.monitor.replace(since_best=jnp.int32(since))
  )
  found = [program.finished(now) for now in (at(0), at(total - 1), at(total), at(total + 1))]
  assert found == [False, False, True, True]
  assert [program.finished(at(3, since)) for since in (1, 2)] == [False, True]
  assert program.with_monitor(fresh, {"test/accuracy": 0.5}) is fresh
  moved = program.with_monitor(fresh, {"validation/accuracy": 0.5, "validation/loss": 9.0}).monitor
  assert float(moved.best) == 0.5


def test_metrics_of_training_are_named_after_their_time(tiny, monkeypatch):
  """What is no number is left out where a loss scale comes down, and told elsewhere."""
  found = {"loss": float("nan"), "accuracy": 0.5, "grad_norm": 2.0}
  monkeypatch.setattr(members.Members, "compute", lambda self, of: {k: v for k, v in found.items()})
  settings = {"optim.schedule.warmup": "4 steps", "optim.learning_rate": 0.8}
  for dtype, scale in (("float32", {}), ("float16", {"loss_scale": 32768.0})):
    program = build.build(tiny(dtype=dtype, **settings))
    now = program.new_state().replace(step=jnp.int32(3))
    said = program.training_metrics(now, of_epoch=True)
    nan = {name for name, value in said.items() if np.isnan(value)}
    assert nan == ({"train/loss", "train/epoch_loss"} if dtype == "float32" else set())
    numbers = {name: value for name, value in said.items() if name not in nan}
    expected = {"train/accuracy": 0.5, "grad_norm": 2.0, "train/epoch_accuracy": 0.5}
    expected |= {"train/epoch_grad_norm": 2.0, "learning_rate": 0.4, **scale}
    assert numbers == pytest.approx(expected)
    assert not any("epoch" in name for name in program.training_metrics(now))
