"""What holds of every registered model, on a small form of each: few blocks, narrow, small images."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.errors import UserError

CLASSES = 5
# What makes a small network of a variant, by its builder: fields in, overrides out.
ones = lambda fields, key: {key: (1,) * len(fields[key])}
as_it_is = lambda fields: {}
SMALL = {
  "LeNet5": as_it_is,
  "LeNet51998": as_it_is,
  "MLP": as_it_is,
  "SimpleCNN": as_it_is,
  "ResNet": lambda f: dict(stage_sizes=(1, 1), features=16, stem_features=16)
  | ({"width_per_group": 32, "groups": min(f["groups"], 2)} if f["block"] == "bottleneck" else {}),
}
# Quick to compile: nothing asked here depends on LLVM's optimisations. At level 0 gradients of CBAM
# come out as NaN (jax 0.10 and 0.12), at level 1 and above they do not.
COMPILER = {"xla_backend_optimization_level": 1}


def small_form(name):
  entry = models.lookup(name)
  small = SMALL.get(entry.builder.__name__, lambda fields: {})
  return {**entry.defaults, **small(models.fields(name))}


def distinct():
  """{name: fields}: the variants whose small forms differ."""
  found = {}
  for name in models.names():
    fields = small_form(name)
    key = models.lookup(name).builder, repr(sorted(fields.items()))
    found.setdefault(key, (name, fields))
  return dict(found.values())


FORMS = distinct()
every_form = pytest.mark.parametrize("name", FORMS)
# One of each builder, for what does not depend on the variant.
BUILDERS = {models.lookup(name).builder: name for name in reversed(FORMS)}
every_builder = pytest.mark.parametrize("name", BUILDERS.values())


def create(name, num_classes=CLASSES, **overrides):
  return models.create(name, num_classes, **{**FORMS[name], **overrides})


def abstract(size, channels=3):
  return jax.ShapeDtypeStruct((4, size, size, channels), jnp.float32)


def shapes(model, images):
  return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)


@functools.cache
def smallest(name):
  """The smallest image, by what the model says when it is given one pixel."""
  try:
    shapes(create(name), abstract(1))
  except UserError as e:
    return int(re.search(r"(\d+)x\1", str(e))[1])
  return 1


def compiled(function, *args):
  return jax.jit(function).lower(*args).compile(compiler_options=COMPILER)


def setting(name, random_variables, **overrides):
  """A small model, its variables, images that it takes."""
  model = create(name, **overrides)
  size = max(smallest(name), 12)
  images = np.random.default_rng(1).normal(size=(4, size, size, 3)).astype(np.float32)
  return model, random_variables(create(name), abstract(size)), images


def test_every_family_has_a_small_form():
  assert {builder.__name__ for builder in BUILDERS} == {*SMALL}


@pytest.mark.parametrize("name", models.names())
def test_fields_survive_the_config_file(name):
  """A run saves every field as JSON, and builds its model from it when it goes on."""
  saved = json.loads(json.dumps(models.fields(name)))
  assert models.create(name, 3, **saved) == models.create(name, 3)


@every_form
def test_shapes(name):
  size = smallest(name)
  model = create(name)
  if size > 1:
    with pytest.raises(UserError, match=f"{size}x{size}"):
      shapes(model, abstract(size - 1))
  run = lambda v, x: model.apply(v, x, train=False, mutable=["features"])

  def features_at(size):
    images = abstract(size)
    logits, kept = jax.eval_shape(run, shapes(model, images), images)
    assert (logits.shape, logits.dtype) == ((4, CLASSES), jnp.float32)
    return kept.get("features", {})

  info = models.feature_info(model, (size, size, 3))
  found = features_at(size)
  assert {key: (f.stride, f.x.shape[-1]) for key, f in found.items()} == info
  assert list(info) == sorted(info, key=lambda key: info[key].stride)
  # Moving the edge by some strides moves that of the map by as many pixels.
  step = 4 * max((f.stride for f in found.values()), default=1)
  if found:
    for key, larger in features_at(size + step).items():
      assert larger.x.shape[1] - found[key].x.shape[1] == step // larger.stride, key

  headless, grey = create(name, 0, dtype="bfloat16"), abstract(size, 1)
  pooled = jax.eval_shape(
    functools.partial(headless.apply, train=False), shapes(headless, grey), grey
  )
  assert pooled.dtype == jnp.float32 and pooled.ndim == 2


@every_form
def test_a_training_step_reaches_everything(name, random_variables):
  model, variables, images = setting(name, random_variables)
  weights = np.random.default_rng(2).normal(size=(4, CLASSES))

  def run(variables, images):
    def loss(params):
      logits, updated = model.apply(
        {**variables, "params": params}, images, train=True,
        mutable=["batch_stats", "aux_logits"], rngs={"dropout": jax.random.key(0)},
      )  # fmt: skip
      aux = sum(jnp.sum(a * weights) for a in jax.tree.leaves(updated.pop("aux_logits", {})))
      return jnp.sum(logits * weights) + aux, (logits, updated)

    gradients, (logits, updated) = jax.grad(loss, has_aux=True)(variables["params"])
    return gradients, logits, updated, model.apply(variables, images, train=False)

  gradients, logits, updated, evaluated = compiled(run, variables, images)(variables, images)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)
  before, after = variables.get("batch_stats", {}), updated.get("batch_stats", {})
  assert jax.tree.all(jax.tree.map(lambda a, b: np.not_equal(a, b).any(), before, after))
  drops = any(value for key, value in FORMS[name].items() if "drop" in key)
  same = np.allclose(logits, evaluated, rtol=1e-4, atol=1e-4)
  assert same == (not before and not drops)


@every_builder
def test_bfloat16_remat_and_the_key(name, random_variables):
  model, variables, images = setting(name, random_variables)
  remat = {"remat": True} if "remat" in FORMS[name] else {}
  other = create(name, **remat)
  half = create(name, dtype="bfloat16")

  def run(variables, images, key):
    def loss(params, model):
      logits, _ = model.apply(
        {**variables, "params": params}, images, train=True,
        mutable=["batch_stats"], rngs={"dropout": key},
      )  # fmt: skip
      return jnp.sum(jnp.sin(logits)), logits

    plain = jax.grad(loss, has_aux=True)(variables["params"], model)
    again = jax.grad(loss, has_aux=True)(variables["params"], other)
    evaluate = lambda model: model.apply(variables, images, train=False)
    return plain, again, evaluate(model), evaluate(half)

  key = jax.random.key(3)
  program = compiled(run, variables, images, key)
  plain, again, full, low = program(variables, images, key)
  close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-4)
  jax.tree.map(close, plain, again)
  assert np.abs(low - full).max() < 0.1 * np.abs(full).max()
  assert low.dtype == jnp.float32
  jax.tree.map(np.testing.assert_array_equal, plain, program(variables, images, key)[0])
  drops = any(value for key, value in FORMS[name].items() if "drop" in key)
  logits = program(variables, images, jax.random.key(4))[0][1]
  assert np.array_equal(logits, plain[1]) == (not drops)
