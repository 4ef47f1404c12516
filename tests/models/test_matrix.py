"""What holds of every registered model, on a small form of each: few blocks, narrow, small."""

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
# Where a variant has them. The rates are high, so that no key lets everything through.
COMMON = {"dropout": 0.5, "drop_path": 0.5, "width": 0.1, "depth": 1.0}


def thin(rows):
  """The first of the first stages, where all kinds of blocks stand, each once and narrow."""
  return tuple(row._replace(features=8 * i, repeats=1) for i, row in enumerate(rows, 1))


# What makes a small network of a variant, by its builder: fields in, overrides out.
SMALL = {
  "AlexNet": lambda f: dict(features=(8,) * 5, hidden_features=16),
  "ConvMixer": lambda f: dict(features=8, depth=2, patch_size=2, kernel_size=3),
  "ConvNeXt": lambda f: dict(stage_sizes=(1, 1, 1, 1), features=(8, 8, 16, 16)),
  "DenseNet": lambda f: dict(
    stage_sizes=(2,) * len(f["stage_sizes"]), growth_rate=4, stem_features=8
  ),
  "EfficientNet": lambda f: dict(
    stages=thin([f["stages"][i] for i in (0, 1, 3)]), stem_features=8, head_features=16, width=1.0
  ),
  "GoogLeNet": lambda f: {},
  "InceptionResNetV2": lambda f: dict(stage_sizes=(1, 1, 1)),
  "InceptionV3": lambda f: dict(stage_sizes=(1, 1, 1)),
  "InceptionV4": lambda f: dict(stage_sizes=(1, 1, 1)),
  "LeNet5": lambda f: {},
  "LeNet51998": lambda f: {},
  "MLP": lambda f: dict(features=(8,)),
  "MNASNet": lambda f: dict(stages=thin(f["stages"][:4]), head_features=16, width=1.0),
  "MobileNetV1": lambda f: dict(stages=thin(f["stages"][:3]), width=1.0),
  "MobileNetV2": lambda f: dict(stages=thin(f["stages"][:3]), head_features=16, width=1.0),
  "MobileNetV3": lambda f: dict(blocks=f["blocks"][:4], hidden_features=16, width=0.5),
  "MobileNetV4": lambda f: dict(
    stages=tuple(stage[:2] for stage in f["stages"][:3]), head_features=16, hidden_features=16
  ),
  "NFNet": lambda f: dict(stage_sizes=(1, 1, 1, 1), features=(16, 16, 32, 32), group_size=4),
  "PyramidNet": lambda f: dict(stage_sizes=(1,) * len(f["stage_sizes"]), stem_features=8, alpha=12),
  "RegNet": lambda f: dict(depth=4, w_0=8, w_a=8.0, w_m=2.0, group_width=4, stem_features=8),
  "ResNet": lambda f: (
    dict(stage_sizes=(1, 1), features=16, stem_features=16)
    | ({"width_per_group": 32, "groups": min(f["groups"], 2)} if f["block"] == "bottleneck" else {})
  ),
  "ShuffleNetV2": lambda f: dict(
    stage_sizes=(2, 1, 1), stage_features=(8, 16, 32), stem_features=8, head_features=16
  ),
  "SimpleCNN": lambda f: {},
  "SqueezeNet": lambda f: dict(stage_sizes=(1, 1, 1), squeeze=(4,) * 3, stem_features=8),
  "VGG": lambda f: dict(stage_sizes=(1, 2, 1), features=8, hidden_features=16),
  "ViT": lambda f: dict(features=16, depth=2, heads=2, patch_size=4),
  "Xception": lambda f: dict(middle_blocks=1),
}
# Quick to compile: nothing asked here depends on LLVM's optimisations. At level 0 gradients of CBAM
# come out as NaN (jax 0.10 and 0.12), at level 1 and above they do not.
COMPILER = {"xla_backend_optimization_level": 1}


def small_form(name):
  entry = models.lookup(name)
  common = {key: value for key, value in COMMON.items() if key in entry.defaults}
  small = SMALL.get(entry.builder.__name__, lambda fields: {})
  return {**entry.defaults, **common, **small(models.fields(name))}


def distinct():
  """{name: fields}: one variant for each builder and set of switches that its variants have."""

  def kind(value):
    if isinstance(value, bool | str | None):
      return value
    return len(value) if isinstance(value, tuple) else value > 0

  found = {}
  for name in models.names():
    fields = small_form(name)
    key = {key: kind(value) for key, value in fields.items()}
    if "groups" in fields:
      key["groups"] = fields["groups"] > 1
    found.setdefault((models.lookup(name).builder, repr(sorted(key.items()))), (name, fields))
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
