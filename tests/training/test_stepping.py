"""A step that a module of somebody else registers, and a teacher that is the run's own average."""

import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from cnnjax import build, checkpoints, evaluate, models, train, writers
from cnnjax.errors import UserError
from cnnjax.training import stepping

SIZE = 0.05  # of what is added to an image


def adversarial(context):
  """FGSM (arXiv:1412.6572): each image is moved up its own loss before it is learnt from."""

  def step(state, batch, constants):
    examples = context.examples(state, batch, constants)

    def loss(images):
      passed = models.forward_in_training(context.model, state.variables, images, examples.key)
      return context.task.loss(passed.outputs, examples.targets).sum()

    images = examples.images + SIZE * jnp.sign(jax.grad(loss)(examples.images))
    return stepping.advance(
      context, state, stepping.update(context, state, examples.replace(images=images))
    )

  return step


def queue(context, variables, key):
  """The logits of the last 12 examples, noise at first, as of momentum contrast."""
  return {
    "queue": jax.random.normal(key, (12, context.task.num_classes)),
    "turns": jnp.zeros((), int),
  }


def queued(context):
  def step(state, batch, constants):
    examples = context.examples(state, batch, constants)
    moved = stepping.update(context, state, examples)
    new = jax.nn.one_hot(batch["label"][:4], context.task.num_classes)
    rows = jnp.concatenate([new, state.extra["queue"][:-4]])
    extra = {"queue": rows, "turns": state.extra["turns"] + 1}
    return stepping.advance(context, state, moved._replace(extra=extra))

  return step


def standing(context):
  """Forgets that it has taken a step."""
  one = stepping.standard(context)
  return lambda state, batch, constants: one(state, batch, constants).replace(step=state.step)


def changing(context):
  """Returns a parameter of another kind than it was."""
  one = stepping.standard(context)

  def step(state, batch, constants):
    after = one(state, batch, constants)
    return after.replace(bad_step=after.bad_step.astype(jnp.float32))

  return step


def losing(context):
  return lambda state, batch, constants: state.variables


def hurrying(context):
  """Ends two steps in one."""
  one = stepping.standard(context)
  return lambda state, batch, constants: one(one(state, batch, constants), batch, constants)


def dropping(context):
  """Returns the parameters alone; the model has no other variables, but an empty collection."""
  one = stepping.standard(context)

  def step(state, batch, constants):
    after = one(state, batch, constants)
    return after.replace(variables={"params": after.params})

  return step


def freezing(context):
  """Returns the parameters as they were, in another container."""
  one = stepping.standard(context)

  def step(state, batch, constants):
    after = one(state, batch, constants)
    return after.replace(variables={**after.variables, "params": freeze(after.params)})

  return step


def alone(context):
  return lambda state, batch, constants: state.replace(step=state.step + 1)


def making_none(context):
  pass


def asking_less(context):
  return lambda state, batch: state


@pytest.fixture(autouse=True)
def registered(own_registry):
  stepping.register("queued", extra=queue)(queued)
  wrong = standing, changing, losing, hurrying, dropping, freezing, making_none, asking_less
  for step in (adversarial, alone, *wrong):
    stepping.register(step.__name__)(step)


def resumed(config, folder, stop_at, last):
  """The end of a run that was stopped after `last` steps, and that of one that was not."""
  whole, _, _ = train.train(config, folder / "whole")
  with stop_at(last):
    _, _, stopped_by = train.train(config, folder / "parts")
  assert stopped_by == signal.SIGTERM and checkpoints.last_step(folder / "parts") == last
  parts, _, _ = train.train(config, folder / "parts")
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(parts), strict=True
  ):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path
  return parts


def test_what_a_step_carries_along_is_saved_and_resumed_to_the_bit(tiny, tmp_path, stop_at):
  """On eight devices, for two seeds."""
  config = tiny(
    **{"step.name": "queued", "mesh.data": 8, "seeds": 2, "epochs": 1, "data.validation": 0.2}
  )
  now = resumed(config, tmp_path, stop_at, 3)
  assert now.extra["queue"].shape == (2, 12, 10) and (now.extra["turns"] == 5).all()
  assert (now.extra["queue"].sum(-1) == 1).all()  # 20 labels went through it
  assert len(now.extra["queue"].sharding.device_set) == 8
  program = build.build(config)
  first, second = program.new_state().extra["queue"]
  assert (first != second).all()  # each seed has its own noise
  lines = [line for line in writers.read_metrics(tmp_path / "parts") if "test/loss" in line]
  _, _, found = evaluate.evaluate_checkpoint(tmp_path / "parts")
  assert found["loss"] == pytest.approx(lines[-1]["test/loss"], rel=1e-5)


def test_an_adversarial_step_learns_from_images_moved_up_their_loss(tiny):
  settings = {"augment": None, "dtype": "float32", "optim.weight_decay": 0.0}
  config = tiny(**settings, **{"step.name": "adversarial"})
  program = build.build(config)
  now, feed = program.new_state(), program.inputs.train.feed(0)
  batch = program.inputs.train.take(feed, now.step)
  examples = program.context.examples(now, batch, None)

  def loss(images):
    passed = models.forward_in_training(program.model, now.variables, images, examples.key)
    return program.task.loss(passed.outputs, examples.targets)

  up = examples.images + SIZE * jnp.sign(jax.grad(lambda x: loss(x).mean())(examples.images))
  expected = loss(up).mean()
  assert expected > loss(examples.images).mean() + 1e-3
  after = program.train_step(now, feed, 1)
  assert program.training_metrics(after)["train/loss"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
  "name, words",
  [
    ("standing", "step 'standing' does not count: .*step=state.step \\+ 1"),
    ("changing", r"step 'changing' must return .*: bad_step is int32\[\] before, and float32\[\]"),
    ("losing", "step 'losing' returns a dict, and must return the state"),
  ],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_step_that_returns_no_state_one_step_on_is_refused(tiny, name, words, seeds):
  with pytest.raises(UserError, match=words):
    build.build(tiny(**{"step.name": name, "seeds": seeds}))


def test_a_step_is_made_by_a_function_of_its_context(tiny):
  stepping.register("direct")(lambda state, batch, constants: state)
  config = tiny(**{"step.name": "direct"})
  words = (
    r"step 'direct' must be a function of a StepContext .*, and takes \(state, batch, constants\)"
  )
  with pytest.raises(UserError, match=words):
    build.validate(config)


@pytest.mark.parametrize(
  "name, words",
  [
    ("hurrying", "step 'hurrying' counts from 7 to 9: let it call `advance` once"),
    ("dropping", "'dropping' must.* variables/batch_stats is an empty dict before, and not there"),
    ("freezing", "step 'freezing' must .*: variables is built of other containers"),
    ("making_none", r"must make a function \(state, batch, constants\).*, and made a NoneType"),
    ("asking_less", r"must make a function .*, and made one of \(state, batch\)"),
  ],
)
def test_a_step_that_is_none_or_changes_more_than_it_may_is_refused(tiny, name, words):
  config = tiny(**{"step.name": name})
  config.model = {"name": "mlp", "features": (4,)}
  with pytest.raises(UserError, match=words):
    build.build(config)


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"step.name": "adversary"}, "unknown step 'adversary'. Did you mean 'adversarial'"),
    ({"step.name": "queued", "health.trace": True}, "health.trace looks into the standard step"),
    ({"step.name": "queued", "health.every": 1}, "health.every looks into the standard step"),
    ({"distill.teacher": "ema"}, "distill.teacher='ema' is the moving average.*set average.ema"),
    ({"distill.teacher": "swa"}, "'swa'.*Choose from: ema"),
    (
      {"distill.teacher": "ema", "average.ema": 0.9, "distill.workdir": "run"},
      "both name a teacher",
    ),
  ],
)
def test_what_does_not_go_together_is_refused(tiny, overrides, words):
  with pytest.raises(UserError, match=words):
    build.validate(tiny(**overrides))


def test_a_batch_is_split_only_for_a_step_that_asks_for_its_gradients(tiny):
  with pytest.raises(UserError, match=r"step 'alone' takes gradients of its own, .*accumulate=2"):
    build.build(tiny(**{"step.name": "alone", "accumulate": 2}))
  build.build(tiny(**{"step.name": "alone"}))
  build.build(tiny(**{"step.name": "adversarial", "accumulate": 2}))


def test_a_name_is_registered_once():
  with pytest.raises(UserError, match="'queued' is already registered"):
    stepping.register("queued")(queued)


def test_the_teacher_is_the_average_as_it_is_in_the_step(tiny):
  config = tiny(**{"distill.teacher": "ema", "average.ema": 0.5, "augment": "flip"})
  program = build.build(config)
  now = program.new_state()
  other = jax.tree.map(lambda x: x + 0.1, now.variables)
  now = now.replace(averages={"ema": other})
  batch = program.inputs.train.take(program.inputs.train.feed(0), now.step)
  examples = program.context.examples(now, batch, program.constants)
  expected = program.model.apply(other, examples.images, train=False)
  np.testing.assert_allclose(examples.teacher_outputs, expected, rtol=1e-5, atol=1e-6)
  assert program.summary["teacher"].startswith("the moving average (ema) of this run; weight 0.9")


@pytest.mark.slow
@pytest.mark.parametrize(
  "overrides",
  [
    {"mesh.data": 8, "seeds": 2},
    {"mesh.data": 4, "mesh.fsdp": 2, "mesh.fsdp_min_size": 8, "accumulate": 2},
    {"batch_norm.precise": True, "health.every": "2 steps"},
  ],
)
def test_a_run_that_is_its_own_teacher_resumes_to_the_bit(tiny, tmp_path, stop_at, overrides):
  overrides = {"distill.teacher": "ema", "average.ema": 0.9, "epochs": 1, **overrides}
  now = resumed(tiny(**overrides), tmp_path, stop_at, 3)
  plain, _, _ = train.train(tiny(**{**overrides, "distill.teacher": None}), tmp_path / "plain")
  assert (np.asarray(plain.params["head"]["bias"]) != np.asarray(now.params["head"]["bias"])).any()


def counted(step, place=1):
  """The step after 7 of a function of (a, step, b), if it follows from that alone."""
  return stepping._counted(jax.make_jaxpr(step)(1.0, jnp.int32(0), 2.0), place, begin=7)


@pytest.mark.parametrize(
  "step, after",
  [
    (lambda a, n, b: (a, n + 1, b), 8),
    (lambda a, n, b: (b, n + 2, a), 9),
    (lambda a, n, b: (a, jnp.int32(3), b), 3),  # whatever it was before
    (lambda a, n, b: (a, n + jnp.int32(a), b), None),
    (lambda a, n, b: (a, n + jnp.int32(b), b), None),
    (lambda a, n, b: (a, jnp.int32(b), b), None),
  ],
)
def test_how_far_a_step_counts(step, after):
  assert counted(step) == after


@pytest.mark.parametrize(
  "step, takes",
  [
    (lambda a, b, c: 0, True), (lambda a, b: 0, False), (lambda a, b, c, d=1: 0, True),
    (lambda *a: 0, True), (lambda a, b, c, d: 0, False), (None, False), (3, False),
  ],
)  # fmt: skip
def test_what_takes_three_arguments(step, takes):
  assert stepping._takes(step, 3) == takes


def test_a_tree_in_words():
  tree = {"a": (jnp.zeros((2, 3)), {}), "b": {"c": jnp.int32(0)}, "d": ()}
  arrays = {"a/0": "float32[2, 3]", "b/c": "int32[]"}
  assert stepping._described(tree, empty=False) == arrays
  more = {"a/1": "an empty dict", "d": "an empty tuple"}
  assert stepping._described(tree) == {**arrays, **more}
  assert stepping._described({"x": "text"}) == {"x": "an empty str"}


def test_what_is_finite():
  good, bad = jnp.ones(3), jnp.array([1.0, jnp.inf])
  assert stepping._all_finite({"a": good, "n": jnp.int32(3)})
  assert not stepping._all_finite({"a": good, "b": bad})
  assert not stepping._all_finite((bad * 0, good))


def test_which_optimizers_are_moved_is_noted():
  moved, given = set(), []
  optimizer = types.SimpleNamespace(
    init="init", update=lambda *args, **more: given.append((args, more)) or "updates"
  )
  noting = stepping.noting(optimizer, moved)
  assert noting.init == "init"
  assert noting.update(1, 2, only="critic", step=3) == noting.update(4, step=5) == "updates"
  assert moved == {"critic", None}
  assert given == [((1, 2), {"only": "critic", "step": 3}), ((4,), {"step": 5})]


def test_what_a_step_carries_along_begins_by_a_key_of_no_step(tiny):
  context = types.SimpleNamespace(config=tiny(**{"step.name": "queued"}))
  asked = []
  stepping.register("noted", extra=lambda *given: asked.append(given) or {"a": 1})(queued)
  context.config.step.name = "noted"
  assert stepping.extra(context, {"params": 1}, 3) == {"a": 1}
  ((of, variables, key),) = asked
  assert of is context and variables == {"params": 1}
  expected = jax.random.fold_in(jax.random.key(3), 2**31 - 1)
  assert np.array_equal(jax.random.key_data(key), jax.random.key_data(expected))
  context.config.step.name = "standard"
  assert stepping.extra(context, {"params": 1}, 3) == {}
