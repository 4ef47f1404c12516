"""What holds of every registered model, on a small form of each: few blocks, narrow, small."""

import functools
import json
import re

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import googlenet, layers, ops

CLASSES = 5
# Where a variant has them. The rates are high, so that no key lets everything through.
COMMON = {"dropout": 0.5, "drop_path": 0.5, "drop_block": 0.2, "width": 0.1, "depth": 1.0}


def thin(rows):
  """The first of the first stages, where all kinds of blocks stand, each once and narrow."""
  return tuple(row._replace(features=8 * i, repeats=1) for i, row in enumerate(rows, 1))


# What makes a small network of a variant, by its builder: fields in, overrides out.
SMALL = {
  "AlexNet": lambda f: dict(features=(8,) * 5, hidden_features=16),
  "ConvMixer": lambda f: dict(features=8, depth=2, patch_size=2, kernel_size=3),
  "ConvNeXt": lambda f: dict(stage_sizes=(1, 1, 1, 1), features=(8, 8, 16, 16)),
  "DenseNet": lambda f: dict(
    depth=0, stage_sizes=(2,) * (len(f["stage_sizes"]) or 3), growth_rate=4, stem_features=8
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
# One of each builder, for what does not depend on the variant.
BUILDERS = {models.lookup(name).builder: name for name in reversed(FORMS)}
every_builder = pytest.mark.parametrize("name", BUILDERS.values())
# What takes long: the first form of most builders, and the others in the slow part.
LARGE = {"bn_inception", "inception_resnet_v2", "inception_v4"}  # to trace and to compile
every_form_slowly = pytest.mark.parametrize(
  "name",
  [name if name in {*BUILDERS.values()} - LARGE else pytest.param(name, marks=pytest.mark.slow)
   for name in FORMS],
)  # fmt: skip


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


def compiled(name, function, *args):
  """Quick to compile: nothing asked here depends on LLVM's optimisations or on how operations are
  written for CPU (test_ops.py). At level 0, two thirds of the time of level 1, gradients of CBAM
  come out as NaN, on jax 0.10 and 0.12, and those of RegNet with remat 1.2e-4 off on some CPUs.
  """
  with ops.plain():
    lowered = jax.jit(function).lower(*args)
  cbam = FORMS[name].get("attention", "none").startswith("cbam")
  level = 1 if cbam or name.startswith("regnet") else 0
  return lowered.compile(compiler_options={"xla_backend_optimization_level": level})


def setting(name, random_variables):
  """Variables of a small form, images that it takes, and weights that make a loss of its logits."""
  size = max(smallest(name), 12)
  rng = np.random.default_rng(1)
  images = rng.normal(size=(4, size, size, 3)).astype(np.float32)
  return random_variables(create(name), abstract(size)), images, rng.normal(size=(4, CLASSES))


def training(model, weights):
  """(variables, images, key) to gradients, logits, new batch statistics."""

  def run(variables, images, key):
    def loss(params):
      logits, updated = model.apply(
        {**variables, "params": params}, images, train=True,
        mutable=["batch_stats", "aux_logits"], rngs={"dropout": key},
      )  # fmt: skip
      aux = sum(jnp.sum(a * weights) for a in jax.tree.leaves(updated.pop("aux_logits", {})))
      return jnp.sum(logits * weights) + aux, (logits, updated)

    gradients, (logits, updated) = jax.grad(loss, has_aux=True)(variables["params"])
    return gradients, logits, updated

  return run


def evaluation(model):
  return lambda variables, images: model.apply(variables, images, train=False)


@pytest.fixture(scope="module")
def trained(random_variables):
  """A function from a name to its setting and what `training` and `evaluation` give, run once."""

  @functools.cache
  def run(name, quickly):  # the tests compare what one way of compiling gives
    model, (variables, images, weights) = create(name), setting(name, random_variables)
    step, evaluate = training(model, weights), evaluation(model)
    both = lambda v, x, key: (step(v, x, key), evaluate(v, x))
    key = jax.random.key(0)
    program = compiled(name, both, variables, images, key)
    return variables, images, weights, functools.partial(program, variables, images)

  return lambda name: run(name, compiling.quickly)


@pytest.fixture(autouse=True)
def short_googlenet(monkeypatch):
  """It has no field for the number of modules: one of each kind is enough here."""
  short = lambda stages: tuple(dict(list(stage.items())[:2]) for stage in stages)
  layouts = {key: short(stages) for key, stages in googlenet.LAYOUTS.items()}
  monkeypatch.setattr(googlenet, "LAYOUTS", layouts)


def test_every_family_has_a_small_form():
  assert {builder.__name__ for builder in BUILDERS} == {*SMALL}


@pytest.mark.parametrize("name", models.names())
def test_fields_survive_the_config_file(name):
  """A run saves every field as JSON, and builds its model from it when it goes on."""
  saved = json.loads(json.dumps(models.fields(name)))
  assert models.create(name, 3, **saved) == models.create(name, 3)


@every_form_slowly
def test_shapes(name):
  size = smallest(name)
  model = create(name)
  if size > 1:
    with pytest.raises(UserError, match=f"{size}x{size}"):
      shapes(model, abstract(size - 1))

  def maps_of(model, images):
    """The outputs and the maps of the stages, while it is initialised: one trace for both."""
    run = functools.partial(model.init_with_output, train=False, method="logits_and_maps")
    return jax.eval_shape(run, jax.random.key(0), images)[0]

  def features_at(size):
    logits, maps = maps_of(model, abstract(size))
    assert (logits.shape, logits.dtype) == ((4, CLASSES), jnp.float32)
    return maps

  with ops.plain():
    info = models.feature_info(model, (size, size, 3))
  found = features_at(size)
  assert {key: (f.stride, f.x.shape[-1]) for key, f in found.items()} == info
  assert list(info) == sorted(info, key=lambda key: info[key].stride)
  assert found or name == "mlp"
  # Moving the edge by some strides moves that of the map by as many pixels; LeNet's field stays.
  step = 4 * max((f.stride for f in found.values()), default=1)
  if found and not name.startswith("lenet"):
    for key, larger in features_at(size + step).items():
      assert larger.x.shape[1] - found[key].x.shape[1] == step // larger.stride, key

  headless, grey = create(name, 0, dtype="bfloat16"), abstract(size, 1)
  with ops.plain():
    pooled, maps = maps_of(headless, grey)
  assert {key: (f.stride, f.x.shape[-1]) for key, f in maps.items()} == info
  assert all(f.x.dtype == jnp.bfloat16 for f in maps.values())
  assert pooled.dtype == jnp.float32 and pooled.ndim == 2 and pooled.shape[1] > 0


@every_builder
def test_every_batch_norm_has_the_fields_of_its_model(name, monkeypatch):
  """Other implementations differ in them: cnnjax/transfer/rules sets them."""
  fields, found, batch_norm = FORMS[name], [], layers.batch_norm
  images = abstract(max(smallest(name), 12))
  if "norm" not in fields:
    return
  record = lambda **options: found.append(options) or batch_norm(**options)
  monkeypatch.setattr(layers, "batch_norm", record)
  given = dict(norm_epsilon=0.25, norm_momentum=0.5) if fields["norm"] == "batch" else {}
  with ops.plain():
    shapes(create(name, **given), images)
  assert bool(found) == bool(given)
  for options in found:
    if not name.startswith("cbam"):  # the norm of its attention is the authors'
      assert (options["epsilon"], options["momentum"]) == (0.25, 0.5)


@every_builder
def test_feature_maps_while_initialising(name):
  """They need the parameters of the trunk alone, which are those of the whole network."""
  if name == "mlp":
    pytest.skip("it has no maps")
  model, images = create(name), abstract(max(smallest(name), 12))
  init = functools.partial(model.init_with_output, train=True, method="feature_maps")
  rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  with ops.plain():
    whole = shapes(model, images)
    maps, trunk = jax.eval_shape(init, rngs, images)
  assert maps
  whole, trunk = (flatten_dict(tree, sep="/") for tree in (whole, trunk))
  assert trunk.items() <= whole.items()


@every_form_slowly
def test_a_training_step_reaches_everything(name, trained):
  variables, _, _, program = trained(name)
  (gradients, logits, updated), evaluated = program(jax.random.key(0))
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)
  before, after = variables.get("batch_stats", {}), updated.get("batch_stats", {})
  assert jax.tree.all(jax.tree.map(lambda a, b: np.not_equal(a, b).any(), before, after))
  same = np.allclose(logits, evaluated, rtol=1e-4, atol=1e-4)
  assert same == (not before and not drops(name))


@every_form_slowly
def test_deterministic_given_a_key(name, trained):
  *_, program = trained(name)
  (once, _), (again, _), (other, _) = (program(jax.random.key(key)) for key in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, once, again)
  assert np.array_equal(once[1], other[1]) == (not drops(name))


def drops(name):
  return any(value for key, value in FORMS[name].items() if key in ("dropout", "drop_path"))


@pytest.mark.parametrize("name", [name for name in BUILDERS.values() if "drop_path" in FORMS[name]])
def test_stochastic_depth_is_linear_or_constant(name, monkeypatch):
  rates = []
  drop_path = lambda x, rate, *, train: rates.append(rate) or x
  monkeypatch.setattr(layers, "drop_path", drop_path)
  images, stages, more = abstract(max(smallest(name), 12)), FORMS[name].get("stages", [()]), {}
  if hasattr(stages[0], "repeats"):  # a branch is dropped where a block follows one of its width
    more = {"stages": tuple(row._replace(repeats=2) for row in stages)}

  def rates_of(mode):
    rates.clear()
    shapes(create(name, drop_path=0.25, drop_path_mode=mode, **more), images)
    return tuple(rates)

  linear, constant = rates_of("linear"), rates_of("constant")
  assert len(linear) == len(constant) >= 1 and set(constant) == {0.25}
  assert linear == tuple(sorted(linear)) != constant and max(linear) <= 0.25
  assert create(name) == create(name, drop_path_mode="linear")  # the default of all


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@every_builder
def test_a_training_step_in_half_precision(name, dtype, trained):
  """On the same key, so that dropout is the same.

  Logits in bfloat16 are 5 % off at most; 13 % in Inceptions, whose last norms see 4 values a
  channel.
  """
  variables, images, weights, program = trained(name)
  (_, full, _), _ = program(jax.random.key(0))
  step, key = training(create(name, dtype=dtype), weights), jax.random.key(0)
  gradients, low, updated = compiled(name, step, variables, images, key)(variables, images, key)
  for path, leaf in jax.tree_util.tree_leaves_with_path((gradients, updated)):
    assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all(), jax.tree_util.keystr(path)
  assert low.dtype == jnp.float32
  assert np.abs(low - full).max() < (0.25 if "inception" in name else 0.1) * np.abs(full).max()


# A family of each kind of norm, convolution and attention.
@pytest.mark.parametrize(
  "name", [BUILDERS[models.lookup(name).builder] for name in
           ("resnet18", "mobilenetv2_100", "convnextv2_tiny", "vit_small_patch16_224")],
)  # fmt: skip
def test_float16(name, random_variables):
  variables, images, _ = setting(name, random_variables)
  full, low = evaluation(create(name)), evaluation(create(name, dtype="float16"))
  both = lambda variables, images: (full(variables, images), low(variables, images))
  full, low = compiled(name, both, variables, images)(variables, images)
  assert low.dtype == jnp.float32 and np.isfinite(low).all() and not np.array_equal(low, full)
  # 8 times as near as bfloat16, which has 3 bits less.
  assert np.abs(low - full).max() < 0.0125 * np.abs(full).max()


@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
   for name in BUILDERS.values()],
)  # fmt: skip
def test_bfloat16(name, trained):
  variables, images, _, program = trained(name)
  _, full = program(jax.random.key(0))
  evaluate = evaluation(create(name, dtype="bfloat16"))
  low = compiled(name, evaluate, variables, images)(variables, images)
  assert low.dtype == jnp.float32
  assert np.abs(low - full).max() < 0.1 * np.abs(full).max()


# Of remat the numbers of some; of all that it is there, and that its training step can be traced.
REMAT = {name: name.startswith(("cbamresnet", "densenet", "efficientnet", "googlenet"))
         for name in BUILDERS.values() if "remat" in FORMS[name]}  # fmt: skip


@pytest.mark.parametrize("name", REMAT)
def test_remat_is_there(name):
  model, images = create(name, remat=True), abstract(max(smallest(name), 12))
  step = training(model, np.ones((4, CLASSES)))
  with ops.plain():
    traced = jax.make_jaxpr(step)(shapes(model, images), images, jax.random.key(0))
  assert {"remat2", "checkpoint"} & {equation.primitive.name for equation in traced.eqns}


@pytest.mark.parametrize(
  "name",
  [name if quick else pytest.param(name, marks=pytest.mark.slow) for name, quick in REMAT.items()
   if name != "xception"]
  + [pytest.param("xception", marks=[pytest.mark.slow, pytest.mark.optimised])],
)  # fmt: skip
def test_remat_changes_nothing(name, trained):
  variables, images, weights, program = trained(name)
  plain, _ = program(jax.random.key(0))
  step, key = training(create(name, remat=True), weights), jax.random.key(0)
  again = compiled(name, step, variables, images, key)(variables, images, key)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-4), plain, again)
