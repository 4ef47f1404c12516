"""Inception-v3, -v4, Inception-ResNet-v2: counts and numbers against torchvision, timm, Keras."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models, transfer
from cnnjax.errors import UserError
from cnnjax.models import inception_v3, inception_v4, layers

IMAGENET = (299, 299, 3)
NAMES = ("inception_v3", "inception_v4", "inception_resnet_v2")

# (name, overrides, {classes: parameters}, BN moving statistics, MACs at 1000 classes), counted in
# torchvision 0.28.0 and timm 1.0.31, MACs with torch.utils.flop_counter.
# fmt: off
COUNTS = [
  ("inception_v3", {}, {1000: 23834568, 10: 21806058, 100: 21990468}, 34432, 5713216096),
  ("inception_v3", {"aux_logits": True}, {1000: 27161264, 10: 24371444, 100: 24625064}, 36224,
   5713216096),
  ("inception_v4", {}, {1000: 42679816, 10: 41158186, 100: 41296516}, 63168, 12253974624),
  ("inception_resnet_v2", {}, {1000: 55843464, 10: 54321834, 100: 54460164}, 60544, 13155794016),
]
# fmt: on
counts = pytest.mark.parametrize(
  "name, overrides, parameters, statistics, macs",
  COUNTS,
  ids=["-".join([row[0], *row[1]]) for row in COUNTS],
)


@counts
def test_counts(check_counts, name, overrides, parameters, statistics, macs):
  check_counts(name, IMAGENET, {1000: parameters[1000]}, macs, statistics, **overrides)


@pytest.mark.slow  # a second for every trace of these
@counts
def test_counts_at_other_numbers_of_classes(
  check_counts, name, overrides, parameters, statistics, macs
):
  del statistics, macs
  check_counts(name, IMAGENET, {10: parameters[10], 100: parameters[100]}, **overrides)


def run(model, images, **options):
  """Shapes of model(images) and of what it keeps."""
  variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
  return jax.eval_shape(functools.partial(model.apply, **options), variables, images)


def tiny(name, **overrides):
  return models.create(name, 5, **{"stage_sizes": (1, 1, 1), "width": 0.1, **overrides})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("small_images, smallest", [(False, 75), (True, 7)])
def test_the_smallest_image_leaves_one_pixel(name, small_images, smallest):
  model = tiny(name, small_images=small_images)
  images = jnp.zeros((1, smallest, smallest, 3))
  _, kept = run(model, images, train=False, mutable=["features"])
  assert kept["features"]["stage3"].x.shape[1:3] == (1, 1)
  with pytest.raises(UserError, match=f"{smallest}x{smallest}"):
    run(model, images[:, 1:], train=False)


def test_the_auxiliary_head_takes_what_the_network_takes():
  model = tiny("inception_v3", small_images=True, aux_logits=True)
  init = functools.partial(model.init, train=False)
  train = functools.partial(
    model.apply, train=True, rngs={"dropout": jax.random.key(0)}, capture_intermediates=True,
    mutable=["batch_stats", "aux_logits", "intermediates"],
  )  # fmt: skip
  # Smaller maps are padded to the 5x5 of the kernel: its parameters do not depend on the image.
  variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  for image, left in {(7, 16): (1, 1), (64, 64): (5, 5)}.items():
    _, kept = jax.eval_shape(train, variables, jnp.zeros((2, *image, 3)))
    assert kept["aux_logits"]["aux1"].shape == (2, 5)
    assert kept["intermediates"]["aux1_head"]["conv2"]["__call__"][0].shape == (2, *left, 77)
  evaluate = functools.partial(model.apply, train=False, mutable=["aux_logits"])
  assert "aux_logits" not in jax.eval_shape(evaluate, variables, jnp.zeros((2, 7, 7, 3)))[1]


def test_width_and_depth_of_inception_v3():
  tables = inception_v3.v3_tables((3, 4, 2))
  # torchvision: pool_features of Mixed_5b to 5d, channels_7x7 of Mixed_6b to 6e.
  assert [table[-1][-1][0] for table in tables[0]] == [32, 64, 64]
  assert [table[1][0][0] for table in tables[1][1:]] == [128, 160, 160, 192]
  assert [len(stage) for stage in inception_v3.v3_tables((1, 1, 1))] == [1, 2, 2]
  half = models.feature_info(tiny("inception_v3", width=0.5), (75, 75, 3))
  assert [info.width for info in half.values()] == [32, 96, 128, 384, 1024]


@pytest.mark.parametrize("act", [True, False])
def test_residual_block_by_hand(act, random_variables):
  conv = functools.partial(layers.conv, dtype=jnp.float32)
  norm = functools.partial(layers.norm, epsilon=1e-3, dtype=jnp.float32)
  unit = functools.partial(layers.ConvNormAct, width=0.5, conv=conv, norm=norm)
  block = inception_v4.ResidualMixed(
    [[(16, 1)], [(16, 1)]], unit, conv, scale=0.3, drop_path=0.0, act=act
  )
  x = np.random.default_rng(0).normal(size=(2, 3, 3, 5)).astype(np.float32)
  variables = random_variables(block, x)
  params, stats = variables["params"], variables["batch_stats"]

  def branch(i):
    place = ("mixed", f"branch{i}_conv1")
    p, s = params[place[0]][place[1]], stats[place[0]][place[1]]["norm"]
    y = (x @ p["conv"]["kernel"][0, 0] - s["mean"]) / np.sqrt(s["var"] + 1e-3)
    return np.maximum(y * p["norm"]["scale"] + p["norm"]["bias"], 0)

  y = np.concatenate([branch(1), branch(2)], axis=-1)
  y = x + 0.3 * (y @ params["expand"]["kernel"][0, 0] + params["expand"]["bias"])
  expected = np.maximum(y, 0) if act else y
  actual = jax.jit(functools.partial(block.apply, train=False))(variables, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_scales_and_drop_path_of_the_residual_blocks():
  blocks = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, inception_v4.ResidualMixed):
      blocks.append(context.module)
    return call(*args, **kwargs)

  model = tiny("inception_resnet_v2", stage_sizes=(2, 1, 2), drop_path=0.5, small_images=True)
  with nn.intercept_methods(record):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 8, 8, 3)))
  assert [block.scale for block in blocks] == [0.17, 0.17, 0.1, 0.2, 1.0]
  assert [block.act for block in blocks] == [True, True, True, True, False]
  assert [block.drop_path for block in blocks] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_rejects_other_numbers_of_stages():
  with pytest.raises(UserError, match="sizes of 3 stages"):
    models.create("inception_v4", 5, stage_sizes=(1, 2))
  with pytest.raises(UserError, match="3 numbers"):
    models.create("inception_resnet_v2", 5, residual_scales=(0.1, 0.2))


@pytest.mark.parity
def test_inception_v3_as_in_torchvision():
  reference = parity.torchvision_model(
    "inception_v3", aux_logits=False, init_weights=False, transform_input=False, dropout=0.0
  )
  parity.same_logits("inception_v3", "torchvision", reference, size=75, train=True, dropout=0.0)


@pytest.mark.parity
def test_the_auxiliary_head_as_in_torchvision():
  """At 299x299, which its own takes at least; the head alone, on maps of 17x17 pixels."""
  parity.fits(
    "inception_v3",
    "torchvision",
    lambda: parity.torchvision_model("inception_v3", init_weights=False).state_dict(),
    aux_logits=True,
  )
  t = parity.torch()
  from torchvision.models import inception

  theirs = parity.randomize(inception.InceptionAux(24, 7))
  conv = functools.partial(layers.conv, dtype=jnp.float32)
  norm = functools.partial(layers.norm, epsilon=1e-3, dtype=jnp.float32)
  unit = functools.partial(layers.ConvNormAct, conv=conv, norm=norm)

  class Network(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return inception_v3.AuxiliaryHead(7, unit, conv, name="aux1_head")(x, train=train)

  x = np.random.default_rng(0).normal(size=(4, 17, 17, 24)).astype(np.float32)
  like = jax.eval_shape(functools.partial(Network().init, train=False), jax.random.key(0), x)
  weights = {f"AuxLogits.{k}": v for k, v in theirs.state_dict().items()}
  rules = transfer.rules_for("inception_v3", "torchvision")
  variables = transfer.convert(weights, like, rules)
  theirs_x = t.tensor(x.transpose(0, 3, 1, 2).copy())
  for train in (False, True):
    with t.no_grad():
      expected = theirs.train(train)(theirs_x).numpy()
    ours = jax.jit(functools.partial(Network().apply, train=train, mutable=["batch_stats"]))
    parity.assert_close(ours(variables, x)[0], expected, 1e-4, f"train={train}")


@pytest.mark.parity
@pytest.mark.parametrize("name", NAMES)
def test_as_in_timm(name):
  reference = parity.timm_model(name)
  parity.same_logits(name, "timm", reference, size=96)


@pytest.mark.parity
def test_inception_v3_as_in_keras():
  make = functools.partial(parity.keras_model, "InceptionV3", input_shape=(96, 96, 3))
  parity.same_logits_keras("inception_v3", make, size=96)


@pytest.mark.parity
def test_inception_resnet_v2_as_in_keras():
  make = functools.partial(parity.keras_model, "InceptionResNetV2", input_shape=(96, 96, 3))
  parity.same_logits_keras("inception_resnet_v2", make, size=96)


@pytest.mark.parametrize("classes, deviation", [(1000, 0.1), (6, (3 * 2048) ** -0.5)])
def test_the_head_of_few_classes_is_small(classes, deviation):
  """Normal of deviation 0.1 as published, else uniform in +-1 / sqrt(features)."""
  model = models.create("inception_v3", classes)
  init = model._initializers()[1]
  kernel = init(jax.random.key(0), (2048, classes), jnp.float32)
  assert np.std(kernel) == pytest.approx(deviation, rel=0.02)
