"""The training step, by hand."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnnjax import optim, tasks
from cnnjax.config import default
from cnnjax.models import batch_stats, layers
from cnnjax.optim import averaging
from cnnjax.training import loss_scale, monitor, passes, state, stepping
from cnnjax.training.teacher import Teacher


class WithAuxiliaryHead(nn.Module):
  """Two linear heads on the mean of an image."""

  @nn.compact
  def __call__(self, x, *, train):
    x = x.mean(axis=(1, 2))
    if train or self.is_initializing():
      layers.auxiliary(self, "aux1", nn.Dense(3, name="aux1_head")(x))
    return nn.Dense(3, name="head")(x)


def state_of(variables, optimizer, task, scale=None):
  """A fresh state, its loss times `scale`."""
  config = default()
  config.loss_scale.update(initial=scale or 1.0)
  return state.TrainState(
    step=jnp.int32(0), seed=jnp.uint32(0), variables={"batch_stats": {}, **variables},
    opt_state=optimizer.init(variables["params"]), averages={}, rate_factor=jnp.float32(1),
    monitor=monitor.create(config), window=passes.no_metrics(task), epoch=task.no_metrics(),
    bad_step=jnp.int32(state.NEVER),
    loss_scale=loss_scale.create(config.loss_scale, "float16" if scale else "float32"),
  )  # fmt: skip


def step_of(model, task, optimizer):
  """The jitted (state, batch) -> state, on images as they are."""
  prepare = passes.preparer(task, lambda _, batch, kinds: batch, lambda images: images)
  step = stepping.create(parts_of(model, task, optimizer, prepare))
  return jax.jit(lambda now, batch: step(now, batch, None))


def parts_of(model, task, optimizer, prepare=None):
  """What the standard step is made from."""
  averages = averaging.Averaging(default().optim, None, False, None, 1)
  take = passes.gradients(model, passes.losses(task))
  return stepping.StepContext(
    default(), model, task, take, optimizer, prepare, averages, steps_per_epoch=4
  )


def test_auxiliary_heads_learn_by_their_weight():
  """arXiv:1409.4842 section 5: loss + 0.3 * the loss of each auxiliary head."""
  config = default()
  config.task.aux_weight = 0.25
  task = tasks.create(config.task, 3)
  rng = np.random.default_rng(0)
  images = rng.integers(256, size=(5, 2, 2, 3), dtype=np.uint8)
  labels = np.array([0, 1, 2, 2, 1])
  model, optimizer = WithAuxiliaryHead(), optax.with_extra_args_support(optax.sgd(1.0))
  variables = model.init(jax.random.key(0), images / 255.0, train=False)
  assert variables.keys() == {"params"}
  before = state_of(variables, optimizer, task)
  after = step_of(model, task, optimizer)(before, {"image": images, "label": labels})

  x = (images / 255.0).mean(axis=(1, 2))
  for head, weight in (("head", 1.0), ("aux1_head", 0.25)):
    params = variables["params"][head]
    logits = x @ params["kernel"] + params["bias"]
    by_logits = weight * (jax.nn.softmax(logits) - np.eye(3)[labels]) / len(labels)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(after.params[head]["kernel"], params["kernel"] - x.T @ by_logits)
    close(after.params[head]["bias"], params["bias"] - by_logits.sum(axis=0))


class Small(nn.Module):
  """A convolution, and batch norm if it may."""

  norm: bool = False

  @nn.compact
  def __call__(self, x, *, train):
    x = layers.conv(4, 3, padding=1, dtype=jnp.float32, train=train, name="conv")(x)
    if self.norm:
      x = layers.batch_norm(dtype=jnp.float32, train=train, name="norm")(x)
    return nn.Dense(3, name="head")(nn.relu(x).mean(axis=(1, 2)))


@pytest.fixture(scope="module")
def examples():
  rng = np.random.default_rng(1)
  images = rng.normal(size=(12, 5, 5, 2)).astype(np.float32)
  targets = rng.dirichlet(np.ones(3), size=12).astype(np.float32)  # as mixed ones are
  return passes.Examples(jnp.asarray(images), jnp.asarray(targets), jax.random.key(0))


def grads_of(model, examples, variables, **options):
  task = tasks.create(default().task, 3)
  take = jax.jit(passes.gradients(model, passes.losses(task), **options))
  return take(variables["params"], {"batch_stats": variables.get("batch_stats", {})}, examples, 1.0)


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_micro_batches_give_the_gradient_of_the_batch(examples, accumulate):
  model = Small()
  variables = model.init(jax.random.key(0), examples.images, train=False)
  whole, seen = grads_of(model, examples, variables)
  parts, seen_in_parts = grads_of(model, examples, variables, accumulate=accumulate)
  close(whole, parts)
  close(seen.losses, seen_in_parts.losses)  # each at its place
  close(seen.outputs, seen_in_parts.outputs)


def test_statistics_of_micro_batches(examples):
  """Matched: those of the first norm move as by the whole batch. Each: one after another."""
  model = Small(norm=True)
  variables = model.init(jax.random.key(0), examples.images, train=False)
  _, whole = grads_of(model, examples, variables)
  _, matched = grads_of(model, examples, variables, accumulate=3, matched=True)
  close(whole.collections, matched.collections)
  _, each = grads_of(model, examples, variables, accumulate=3)
  stats = variables["batch_stats"]
  for i in range(3):
    part = jax.tree.map(lambda x: x[i::3], examples.replace(key=None))  # noqa: B023
    part = part.replace(key=examples.key)
    _, seen = grads_of(model, part, {**variables, "batch_stats": stats})
    stats = seen.collections["batch_stats"]
  close(stats, each.collections["batch_stats"])


def test_no_gradient_of_what_is_frozen(examples):
  model = Small()
  variables = model.init(jax.random.key(0), examples.images, train=False)
  frozen = jax.tree.map(lambda _: False, variables["params"])
  frozen["conv"] = jax.tree.map(lambda _: True, frozen["conv"])
  grads, _ = grads_of(model, examples, variables, frozen=frozen)
  whole, _ = grads_of(model, examples, variables)
  assert not np.any(grads["conv"]["kernel"])
  close(grads["head"], whole["head"])


class InBfloat16(nn.Module):
  """Whose heads leave their logits in bfloat16, as a user's may."""

  @nn.compact
  def __call__(self, x, *, train):
    x = x.mean(axis=(1, 2))
    if train or self.is_initializing():
      layers.auxiliary(self, "aux1", nn.Dense(3, name="aux1_head", dtype=jnp.bfloat16)(x))
    return nn.Dense(3, name="head", dtype=jnp.bfloat16)(x)


def test_what_is_made_of_logits_is_float32_whatever_the_model_computes_in():
  """Losses in training, of auxiliary heads, toward a teacher, metrics, means over views."""
  config = default()
  task, model = tasks.create(config.task, 3), InBfloat16()
  rng = np.random.default_rng(0)
  images = rng.integers(256, size=(64, 4, 4, 3), dtype=np.uint8)
  labels = rng.integers(3, size=64)
  x = passes.to_float(images)
  variables = jax.tree.map(lambda p: 20 * p, model.init(jax.random.key(0), x, train=False))

  def entropy(head):  # in float64, of the logits as they left the model
    layer = nn.Dense(3, dtype=jnp.bfloat16)
    logits = layer.apply({"params": variables["params"][head]}, x.mean(axis=(1, 2)))
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(64), labels], logits

  (by_head, logits), (by_auxiliary, _) = entropy("head"), entropy("aux1_head")
  plain = lambda images: images
  close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6)
  teacher = Teacher.of(model, variables, (0.0,) * 3, (1.0,) * 3)
  prepare = passes.preparer(task, lambda _, batch, kinds: batch, plain, teacher.teach)
  take = passes.gradients(model, passes.losses(task))
  predicted = passes.predicted_outputs(model, task, plain, lambda images: [images, images])
  evaluate = passes.eval_step(task, predicted)

  @jax.jit
  def found(variables, batch):
    examples = prepare(0, 0, batch, variables)
    _, seen = take(variables["params"], {}, examples.replace(teacher_outputs=None), 1.0)
    return examples.teacher_outputs, seen, evaluate(variables, batch, jnp.ones(64, bool))

  taught, seen, measured = found(variables, {"image": images, "label": labels})
  assert {taught.dtype, seen.outputs.dtype, measured.sums.loss.total.dtype} == {
    jnp.dtype("float32")
  }
  close(taught, logits)
  close(seen.losses, by_head + config.task.aux_weight * by_auxiliary)
  close(measured.sums.loss.compute(), by_head.mean())


def test_distillation_weighs_both_losses(examples):
  task = tasks.create(default().task, 3)
  config = default().distill
  config.update(weight=0.25, temperature=3.0)
  logits, taught = np.random.default_rng(2).normal(size=(2, 12, 3)).astype(np.float32)
  found = passes.losses(task, config)(logits, examples.replace(teacher_outputs=taught), {})
  soft = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  p, q = soft(taught / 3.0), soft(logits / 3.0)
  toward = 9.0 * (p * (np.log(p) - np.log(q))).sum(-1)
  plain = -(np.asarray(examples.targets) * np.log(soft(logits))).sum(-1)
  np.testing.assert_allclose(found, 0.75 * plain + 0.25 * toward, rtol=1e-4)


def test_the_scale_of_the_loss_changes_no_update(examples):
  """Nor that of SAM, which takes two gradients: a power of two rounds nothing."""
  config = default().optim
  config.update(sam_rho=0.5)
  model, task = WithAuxiliaryHead(), tasks.create(default().task, 3)
  variables = model.init(jax.random.key(0), examples.images, train=False)
  optimizer = optim.create(config, lambda _: 0.1, variables["params"])
  parts = parts_of(model, task, optimizer)
  moves = lambda moved: (moved.grads, moved.updates)
  one = jax.jit(lambda now: moves(stepping.update(parts, now, examples)))
  plain = one(state_of(variables, optimizer, task))
  scaled = one(state_of(variables, optimizer, task, 2.0**10))
  close(plain, scaled)


class Overflowing(nn.Module):
  """A linear head, and a statistic that is infinite after a step of training."""

  @nn.compact
  def __call__(self, x, *, train):
    x = x.mean(axis=(1, 2))
    moving = self.variable("batch_stats", "mean", lambda: jnp.zeros(()))
    if train:
      moving.value = jnp.float32(jnp.inf)
    return nn.Dense(3, name="head")(x)


@pytest.mark.parametrize("scale, bad", [(None, 0), (2.0, state.NEVER), (1.0, 0)])
def test_a_statistic_that_overflows_ends_the_run_or_lowers_the_scale(scale, bad):
  """With loss scaling the step is left out, as long as the scale can come down."""
  model, task = Overflowing(), tasks.create(default().task, 3)
  optimizer = optax.with_extra_args_support(optax.sgd(1.0))
  batch = {"image": jnp.full((6, 2, 2, 3), 99, jnp.uint8), "label": jnp.arange(6) % 3}
  variables = model.init(jax.random.key(0), batch["image"] / 255, train=False)
  before = state_of(variables, optimizer, task, scale)
  after = step_of(model, task, optimizer)(before, batch)
  assert int(after.bad_step) == bad and int(after.step) == 1
  if scale is not None:
    assert float(after.loss_scale.scale) == 1.0
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)


def test_dropout_and_augmentation_draw_from_keys_of_their_own():
  task, taken = tasks.create(default().task, 3), []

  def augment(key, batch, kinds):
    taken.append(key)
    return batch

  batch = {"image": jnp.zeros((2, 4, 4, 1), jnp.uint8), "label": jnp.zeros(2, jnp.int32)}
  for seed, step in ((0, 0), (0, 1), (1, 0)):
    taken.append(passes.augmented(task, augment, seed, step, batch)[2])
  assert len({tuple(jax.random.key_data(key).tolist()) for key in taken}) == 6


class Dropping(nn.Module):
  """64 ones, half of them dropped."""

  @nn.compact
  def __call__(self, x, *, train):
    ones = jnp.ones((len(x), 64)) * self.param("one", nn.initializers.ones, ())
    return nn.Dropout(0.5, deterministic=not train)(ones)


def test_every_step_and_micro_batch_drops_others(examples):
  model = Dropping()
  params = model.init(jax.random.key(0), examples.images, train=False)["params"]
  take = jax.jit(passes.gradients(model, lambda logits, *_: logits.sum(-1), accumulate=3))
  seen = [take(params, {}, examples.replace(key=jax.random.key(k)), 1.0)[1] for k in (0, 1)]
  kept = [np.asarray(one.outputs[i::3] > 0).tobytes() for one in seen for i in range(3)]
  assert len(set(kept)) == 6


class Normalised(nn.Module):
  """A batch norm behind dropout."""

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.BatchNorm(use_running_average=not train, name="norm")(x)


def test_statistics_are_measured_under_the_dropout_of_their_step():
  model, task = Normalised(), tasks.create(default().task, 3)
  augment = lambda _, batch, kinds: batch
  images = np.random.default_rng(0).integers(256, size=(4, 3, 3, 2), dtype=np.uint8)
  batch = {"image": jnp.asarray(images), "label": jnp.arange(4) % 3}
  variables = model.init(jax.random.key(0), images / 255, train=False)
  prepare = passes.preparer(task, augment, lambda images: images)
  measure = jax.jit(passes.moments_step(model, prepare, batch_stats.batch_norm_mode))
  means = []
  for seed, step in ((0, 0), (0, 1), (1, 1)):
    rngs = {"dropout": passes.augmented(task, augment, seed, step, batch)[2]}
    with batch_stats.batch_norm_mode():
      _, found = model.apply(
        variables, images / 255, train=True, rngs=rngs, mutable=["batch_stats", "moments"]
      )
    means.append(measure(variables, seed, step, batch, None)["norm"]["mean"])
    np.testing.assert_allclose(means[-1], found["moments"]["norm"]["mean"], rtol=1e-5)
  assert len({tuple(mean.tolist()) for mean in means}) == 3


def test_statistics_are_measured_on_the_examples_that_a_step_is_given():
  """With all that prepares them: a teacher has variables of its own."""
  given = []

  def prepare(*args):
    given.extend(args)
    return passes.Examples(images, None, jax.random.key(0))

  model, images = Normalised(), jnp.ones((2, 3, 3, 2))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  measure = passes.moments_step(model, prepare, batch_stats.batch_norm_mode)
  run = lambda variables: measure(variables, 5, 6, {"image": 7}, "of the teacher")
  assert jax.eval_shape(run, variables)["norm"]["mean"].shape == (2,)
  assert given == [5, 6, {"image": 7}, "of the teacher"]


@pytest.mark.optimised
def test_micro_batches_take_less_memory():
  """By XLA's own count. Without a loop it would begin all of them at once, and save nothing."""
  images = jnp.zeros((64, 16, 16, 2))
  model, task = Small(), tasks.create(default().task, 3)
  variables = model.init(jax.random.key(0), images, train=False)
  batch = passes.Examples(images, jnp.zeros((64, 3)), jax.random.key(0))
  needed = []
  for accumulate in (1, 8):
    take = jax.jit(passes.gradients(model, passes.losses(task), accumulate=accumulate))
    compiled = take.lower(variables["params"], {}, batch, 1.0).compile()
    needed.append(compiled.memory_analysis().temp_size_in_bytes)
  assert needed[1] < needed[0] / 2, needed


@pytest.mark.parametrize("dtype, white", [("uint8", 255), ("uint16", 65535)])
def test_levels_become_floats_up_to_1(dtype, white):
  found = passes.to_float(jnp.array([0, 1, white], dtype))
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, [0, 1 / white, 1], rtol=1e-6)
  floats = jnp.array([0.5, 3.0], jnp.float32)
  assert passes.to_float(floats) is floats


def test_normalising_and_its_inverse():
  images = jnp.array([[0.5, 0.25], [1.0, 0.0]])
  found = passes.normalizer((0.5, 0.25), (0.5, 0.125))(images)
  assert found.tolist() == [[0, 0], [1, -2]]
  assert passes.restorer((0.5, 0.25), (0.5, 0.125))(found).tolist() == images.tolist()


def test_views_are_taken_at_once_and_come_apart_again():
  images = jnp.arange(2 * 3 * 4 * 5 * 1.0).reshape(2, 3, 4, 5, 1)
  shapes = []

  def apply(x):
    shapes.append(x.shape)
    return {"mean": x.mean((1, 2, 3)), "pixels": x}

  found = passes.of_views(apply, images)
  assert shapes == [(6, 4, 5, 1)]
  np.testing.assert_allclose(found["mean"], images.mean((2, 3, 4)), rtol=1e-6)
  assert np.array_equal(found["pixels"], images)
  one = passes.of_views(apply, images[0])
  assert shapes[1:] == [(3, 4, 5, 1)] and np.array_equal(one["pixels"], images[0])


def test_each_view_draws_numbers_of_its_own():
  """The first those of a step of one view; only images become floats."""
  keys = []
  augment = lambda key, batch, kinds: keys.append(jax.random.key_data(key)) or batch
  batch = {"image": jnp.full((2, 1, 1, 1), 51, jnp.uint8), "mask": jnp.ones((2, 1, 1), jnp.uint8)}
  kinds = {"image": "image", "mask": "mask"}
  for view in (0, 1, 2):
    found, dropout = passes.augmented_fields(augment, 3, 5, batch, kinds, view=view)
    keys.append(jax.random.key_data(dropout))
    np.testing.assert_allclose(found["image"].ravel(), 0.2)
    assert found["mask"].dtype == jnp.uint8
  expected, of_dropout = jax.random.split(jax.random.fold_in(jax.random.key(3), 5))
  assert np.array_equal(keys[0], jax.random.key_data(expected))
  assert all(np.array_equal(key, jax.random.key_data(of_dropout)) for key in keys[1::2])
  assert len({tuple(key.tolist()) for key in keys[::2]}) == 3
  default_view = passes.augmented_fields(augment, 3, 5, batch, kinds)
  assert np.array_equal(keys[6], keys[0]) and len(default_view) == 2


def evaluated(values, valid, runs=()):
  """What an evaluation finds of a batch; of several runs with a leading axis."""
  stack = lambda x: np.broadcast_to(x, (*runs, *np.shape(x)))
  task = tasks.create(default().task, 3)
  return passes.Evaluated(
    task.no_metrics(), stack(np.int32(sum(valid))),
    {"score": stack(np.float32(values)), "valid": stack(np.array(valid))},
  )  # fmt: skip


def test_what_is_collected_of_a_split_is_in_its_order_and_without_padding():
  found = evaluated([1, 2, 3], [True, True, False]).merge(evaluated([4, 5], [False, True]))
  assert int(found.examples) == 3
  assert {name: x.tolist() for name, x in found.of_split().items()} == {"score": [1, 2, 5]}
  runs = evaluated([1, 2], [True, True], (2,)).merge(evaluated([3], [True], (2,)))
  assert runs.collected["score"].tolist() == [[1, 2, 3]] * 2 and runs.examples.tolist() == [3, 3]
  assert passes.Evaluated(found.sums, found.examples, {}).of_split() == {}


def test_steps_in_one_program_are_those_one_after_another():
  """Each takes the batch of its step, and the constants."""
  now = types.SimpleNamespace(step=4, found=())
  step = lambda s, batch, constants: types.SimpleNamespace(
    step=s.step + 1, found=(*s.found, (batch, constants))
  )
  take = lambda feed, step: (feed, step)
  once = passes.several(step, take, loop=False)
  assert once(now, "feed").found == ((("feed", 4), None),)
  assert once(now, "feed", 1, "c").found == ((("feed", 4), "c"),)
  count = lambda s, batch, constants: {"step": s["step"] + 1, "sum": s["sum"] + batch * constants}

  class State(dict):
    step = property(lambda self: self["step"])

  jax.tree_util.register_pytree_node(
    State, lambda s: ((s["step"], s["sum"]), None), lambda _, x: State(step=x[0], sum=x[1])
  )
  many = passes.several(
    lambda s, b, c: State(count(s, b, c)), lambda feed, step: feed[step], loop=True
  )
  begin, feed = State(step=jnp.int32(1), sum=jnp.float32(0)), jnp.array([1.0, 2, 4, 8, 16])
  found = many(begin, feed, 3, jnp.float32(10))
  assert (int(found["step"]), float(found["sum"])) == (4, 140.0)


class Scaled(nn.Module):
  """One parameter times the mean of an image."""

  @nn.compact
  def __call__(self, x, *, train):
    return self.param("one", nn.initializers.ones, ()) * x.mean((1, 2, 3))[:, None]


def test_a_gradient_that_overflows_leaves_the_next_images_as_they_are():
  """The value by which one micro-batch waits for the other is never taken."""
  images = jnp.arange(1.0, 5).reshape(4, 1, 1, 1)
  batch = passes.Examples(images, None, jax.random.key(0))
  take = passes.gradients(Scaled(), lambda outputs, *_: outputs[:, 0], accumulate=2)
  grads, result = take({"one": jnp.float32(1)}, {}, batch, jnp.float32(np.inf))
  assert np.isinf(grads["one"]) and result.losses.tolist() == [1, 2, 3, 4]
  grads, result = take({"one": jnp.float32(1)}, {}, batch, 2.0)
  assert float(grads["one"]) == 5.0 and result.outputs.tolist() == [[1], [2], [3], [4]]


def test_a_task_that_needs_a_teacher_learns_from_it_alone():
  task = types.SimpleNamespace(
    NEEDS_TEACHER=True, distill_loss=lambda outputs, teacher, t: (outputs - teacher) ** 2 * t
  )
  distill = types.SimpleNamespace(temperature=3.0)
  batch = passes.Examples(None, None, None, jnp.array([1.0, 2.0]))
  loss = passes.losses(task, distill)(jnp.array([2.0, 2.0]), batch, {})
  assert loss.tolist() == [3.0, 0.0]


def test_a_teacher_without_variables_is_not_asked():
  """Nor where there is none; of several views it sees each."""
  task = types.SimpleNamespace(
    encode=lambda batch: batch, kinds={"image": "image"}, VIEWS=2,
    targets_of=lambda batch: {"first": batch["image"][:, 0, 0, 0]},
  )  # fmt: skip
  augment = lambda key, batch, kinds: {"image": batch["image"] + jax.random.uniform(key)}
  batch = {"image": jnp.zeros((3, 2, 2, 1), jnp.uint8)}
  teach = lambda constants, images: constants * images.mean((1, 2, 3))
  normalize = lambda images: images * 2
  made = passes.preparer(task, augment, normalize, teach)(0, 0, batch, 10.0)
  assert made.images.shape == (3, 2, 2, 2, 1) and made.targets["first"].shape == (3, 2)
  first, second = np.asarray(made.images[0, :, 0, 0, 0])
  assert first != second
  np.testing.assert_allclose(made.targets["first"], [[first / 2, second / 2]] * 3)
  np.testing.assert_allclose(made.teacher_outputs, [[5 * first, 5 * second]] * 3, rtol=1e-6)
  _, key = passes.augmented_fields(augment, 0, 0, batch, task.kinds)
  assert np.array_equal(jax.random.key_data(made.key), jax.random.key_data(key))
  refuse = lambda *_: pytest.fail("it was asked")
  assert (
    passes.preparer(task, augment, normalize, refuse)(0, 0, batch, None).teacher_outputs is None
  )
  assert passes.preparer(task, augment, normalize)(0, 0, batch, 10.0).teacher_outputs is None
