"""DenseNets: counts, layers by hand, the memory that recomputation saves, other frameworks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import layers, ops

IMAGENET, CIFAR = (224, 224, 3), (32, 32, 3)
SMALL = dict(stage_sizes=(3, 2), growth_rate=4, small_images=True)


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# (name, input shape, {classes: parameters}, MACs, moving statistics). ImageNet: torchvision 0.28.0
# (264 by its class DenseNet), MACs with torch.utils.flop_counter. CIFAR: torch re-builds of the
# paper, BC also pytorchcv 0.0.74. None: no reference.
# fmt: off
COUNTS = [
  ("densenet121", IMAGENET, {1000: 7978856, 10: 6964106, 100: 7056356}, 2834161664, 83648),
  ("densenet161", IMAGENET, {1000: 28681000, 10: 26494090, 100: 26692900}, 7727907072, 219936),
  ("densenet169", IMAGENET, {1000: 14149480, 10: 12501130, 100: 12650980}, 3359843328, 158400),
  ("densenet201", IMAGENET, {1000: 20013928}, 4291365888, 229056),
  ("densenet264", IMAGENET, {1000: 33337704}, 5751653376, 398528),
  ("densenet264_k48", IMAGENET, {1000: 72686632}, 12850693632, None),
  ("densenet40_k12", CIFAR, {10: 1019722, 100: 1060132}, 264812928, 18096),
  ("densenet100_k12", CIFAR, {10: 6979642, 100: 7084852}, 1769516448, 117216),
  ("densenet100_k24", CIFAR, {10: 27249082, 100: 27457972}, None, None),
  ("densenet_bc100_k12", CIFAR, {10: 769162, 100: 800032}, 287929692, 23988),
  ("densenet_bc250_k24", CIFAR, {10: 15324406, 100: 15480556}, 5418785724, 257976),
  ("densenet_bc190_k40", CIFAR, {10: 25624430, 100: 25821620}, None, None),
  ("densenet_bc40_k36", CIFAR, {10: 1542682, 100: 1578412}, 647298936, 15264),
  ("densenet_bc40_k48", CIFAR, {10: 2733130, 100: 2780740}, 1149867168, 20352),
  ("densenet_bc40_k60", CIFAR, {10: 4261690, 100: 4321180}, 1795836360, 25440),
]
# fmt: on


# The same code as the others, and long to trace.
LONG = {
  "densenet161", "densenet169", "densenet201", "densenet264", "densenet264_k48",
  "densenet100_k24", "densenet_bc250_k24", "densenet_bc190_k40",
}  # fmt: skip


@pytest.mark.parametrize(
  "row",
  [
    pytest.param(row, id=row[0], marks=[pytest.mark.slow] if row[0] in LONG else [])
    for row in COUNTS
  ],
)
def test_counts(check_counts, row):
  check_counts(*row)


def norm_relu(x, p, stats):
  scale = p["scale"] / np.sqrt(stats["var"] + 1e-5)
  return np.maximum((x - stats["mean"]) * scale + p["bias"], 0)


def conv(x, kernel):
  """Stride 1, same size."""
  k = kernel.shape[0]
  x = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2, (0, 0)))
  height, width = x.shape[1] - k + 1, x.shape[2] - k + 1
  return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(k) for j in range(k))


@pytest.mark.parametrize("memory_efficient", [False, True])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_by_hand(bottleneck, memory_efficient, random_variables):
  model = models.create(
    "densenet121", 5, **SMALL, bottleneck=bottleneck, memory_efficient=memory_efficient
  )
  x = normal(2, 5, 5, 3)
  variables = random_variables(model, x)
  p, stats = (jax.tree.map(np.asarray, variables[key]) for key in ("params", "batch_stats"))
  y = conv(x, p["stem_conv"]["kernel"])
  for stage, size in (1, 3), (2, 2):
    for layer in range(1, size + 1):
      inner_p, inner_stats = p[f"block{stage}"], stats[f"block{stage}"]
      new = y
      for name in [f"layer{layer}_bottleneck"] * bottleneck + [f"layer{layer}_growth"]:
        new = norm_relu(new, inner_p[name]["norm"], inner_stats[name]["norm"])
        new = conv(new, inner_p[name]["conv"]["kernel"])
      assert new.shape[-1] == 4
      y = np.concatenate([y, new], axis=-1)
    if stage == 1:  # 8 + 3 * 4 = 20 maps to 10, 5x5 to 2x2
      y = norm_relu(y, p["transition1"]["norm"], stats["transition1"]["norm"])
      y = conv(y, p["transition1"]["conv"]["kernel"])
      y = y[:, :4, :4].reshape(2, 2, 2, 2, 2, 10).mean(axis=(2, 4))
  y = norm_relu(y, p["final_norm"], stats["final_norm"]).mean(axis=(1, 2))
  expected = y @ p["head"]["kernel"] + p["head"]["bias"]
  actual = jax.jit(functools.partial(model.apply, train=False))(variables, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def training_step(model, variables, x):
  """Logits, new statistics and gradients, with dropout."""

  def loss(params):
    logits, updated = model.apply(
      {**variables, "params": params}, x, train=True, mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(1)},
    )  # fmt: skip
    return jnp.sum(logits[:, 0] ** 3), (logits, updated["batch_stats"])

  return jax.grad(loss, has_aux=True)(variables["params"])


# Quick to compile: nothing asked here depends on LLVM's optimisations.
COMPILER = {"xla_backend_optimization_level": 1}


@pytest.mark.slow
@pytest.mark.optimised
def test_memory_efficient_changes_nothing_but_memory(random_variables):
  x = normal(16, 16, 16, 3)
  results, memory = [], []
  for memory_efficient in (False, True):
    model = models.create(
      "densenet121", 5, stage_sizes=(5,), growth_rate=4, small_images=True, dropout=0.2,
      memory_efficient=memory_efficient,
    )  # fmt: skip
    variables = random_variables(model, x)
    lowered = jax.jit(functools.partial(training_step, model)).lower(variables, x)
    compiled = lowered.compile(compiler_options=COMPILER)
    results.append(compiled(variables, x))
    memory.append(compiled.memory_analysis().temp_size_in_bytes)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
  jax.tree.map(close, *results)
  plain, efficient = memory
  assert efficient < 0.6 * plain  # less, the deeper it is


def test_memory_efficient_drops_once():
  """What is computed again draws nothing: it is given no key."""
  options = dict(dropout=0.2, drop_block=0.4, drop_block_size=3, memory_efficient=True)
  model = models.create("densenet121", 5, **SMALL, **options)
  x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
  gradients, _ = jax.eval_shape(functools.partial(training_step, model), variables, x)
  assert jax.tree.structure(gradients) == jax.tree.structure(variables["params"])


@pytest.mark.slow
@pytest.mark.optimised
def test_memory_of_the_published_setting():
  """DenseNet-BC-100-12, batch 64: 40 % of the memory for 25 % more FLOPs at most.

  With the trainer's options: some orders of operations undo it.
  """

  def measure(memory_efficient):
    model = models.create("densenet_bc100_k12", 10, memory_efficient=memory_efficient)
    x = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), x)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(variables, momentum, x):
      gradients, (_, statistics) = training_step(model, variables, x)
      momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradients)
      params = jax.tree.map(lambda p, m: p - 0.1 * m, variables["params"], momentum)
      return {"params": params, "batch_stats": statistics}, momentum

    lowered = step.lower(variables, variables["params"], x)
    options = COMPILER | ops.compiler_options(model, variables["params"])
    compiled = lowered.compile(compiler_options=options)
    return compiled.memory_analysis().temp_size_in_bytes, compiled.cost_analysis()["flops"]

  (plain_memory, plain_flops), (memory, flops) = measure(False), measure(True)
  assert memory <= 0.4 * plain_memory
  assert flops <= 1.25 * plain_flops


def test_dropout_stands_behind_every_convolution_but_the_first():
  model = models.create("densenet121", 5, **SMALL, dropout=0.2)
  x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  shapes = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout) and context.module.rate == 0.2:
      shapes.append(args[0].shape)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
  layer = lambda size: [(2, size, size, 16), (2, size, size, 4)]
  assert shapes == [*layer(8) * 3, (2, 8, 8, 10), *layer(4) * 2]


def test_drop_block_and_dropout_of_whole_channels():
  options = dict(dropout=0.2, dropout_kind="channel", drop_block=0.4, drop_block_size=3)
  model = models.create("densenet121", 5, **SMALL, **options)
  x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  squares, axes = [], []

  def record(call, args, kwargs, context):
    if isinstance(context.module, layers.DropBlock) and context.module.rate:
      squares.append((context.module.rate, context.module.block_size, args[0].shape[1]))
    elif isinstance(context.module, nn.Dropout) and context.module.rate:
      axes.append(context.module.broadcast_dims)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
  assert squares == [(0.1, 3, 8)] * 6 + [(0.4, 3, 4)] * 4  # not the transition between
  assert axes == [(1, 2)] * 11


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"compression": 0.0}, "compression must be above 0 and at most 1"),
    ({"growth_rate": 0}, "growth_rate must be at least 1"),
    ({"stem_features": -1}, "stem_features must be at least 0"),
    (
      {"depth": 100},
      r"depth or from stage_sizes.*got depth=100 and stage_sizes=\(6, 12, 24, 16\)",
    ),
    ({"stage_sizes": ()}, r"depth or from stage_sizes.*got depth=0 and stage_sizes=\(\)"),
    ({"depth": 101, "stage_sizes": ()}, "multiple of 6, such as 100 or 106; got 101"),
    ({"depth": 101, "stage_sizes": (), "bottleneck": False}, "of 3, such as 100 or 103; got 101"),
    ({"depth": 4, "stage_sizes": ()}, "multiple of 6, such as 10 or 16; got 4"),
    ({"depth": 3, "stage_sizes": ()}, "multiple of 6, such as 10 or 16; got 3"),
    ({"depth": -6, "stage_sizes": ()}, "depth must be at least 0"),
  ],
)
def test_bad_fields(overrides, message):
  with pytest.raises(UserError, match=message):
    models.create("densenet121", 5, **overrides)


@pytest.mark.parametrize("name, overrides, sizes", [
  ("densenet_bc40_k36", {}, (6, 6, 6)),
  ("densenet_bc40_k36", dict(depth=22), (3, 3, 3)),
  ("densenet40_k12", dict(depth=10), (2, 2, 2)),
  ("densenet40_k12", dict(depth=0, stage_sizes=(1, 3)), (1, 3)),
  ("densenet121", dict(depth=16, stage_sizes=()), (2, 2, 2)),
])  # fmt: skip
def test_depth(name, overrides, sizes):
  """The convolutions are as many as the depth says, but for the last layer, which is dense."""
  model = models.create(name, 10, growth_rate=4, **overrides)
  init = functools.partial(model.init, train=False)
  params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
  layers_in = lambda block: sum(key.endswith("growth") for key in block)
  assert [layers_in(params[f"block{i + 1}"]) for i in range(len(sizes))] == [*sizes]
  kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
  if model.depth:
    assert len(kernels) + 1 == model.depth


@pytest.mark.parametrize("small_images, smallest", [(False, 29), (True, 8)])
def test_smallest_image(small_images, smallest):
  model = models.create("densenet121", 5, stage_sizes=(1,) * 4, small_images=small_images)
  init = lambda size: jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, size, size, 3))
  )
  init(smallest)
  with pytest.raises(UserError, match=f"{smallest}x{smallest}"):
    init(smallest - 1)


@pytest.mark.parity
def test_torchvision():
  reference = parity.torchvision_model("densenet121")
  parity.same_logits("densenet121", "torchvision", reference, size=64)


@pytest.mark.parity
@pytest.mark.parametrize("memory_efficient", [False, True])
def test_torchvision_in_training(memory_efficient):
  parity.torch()
  from torchvision.models import DenseNet

  parity.same_logits(
    "densenet121", "torchvision", DenseNet(8, (2, 3, 2, 2), 16, num_classes=10), size=64,
    num_classes=10, train=True, growth_rate=8, stage_sizes=(2, 3, 2, 2),
    memory_efficient=memory_efficient,
  )  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("name", ["densenet161", "densenet169", "densenet201"])
def test_torchvision_by_shapes(name):
  parity.fits(name, "torchvision", lambda: parity.torchvision_model(name).state_dict())


@pytest.mark.parity
@pytest.mark.parametrize("growth_rate, name", [(32, "densenet264"), (48, "densenet264_k48")])
def test_torchvision_264_by_shapes(growth_rate, name):
  parity.torch()
  from torchvision.models import DenseNet

  make = lambda: DenseNet(growth_rate, (6, 12, 64, 48), 2 * growth_rate)
  parity.fits(name, "torchvision", lambda: make().state_dict())


@pytest.mark.parity
@pytest.mark.parametrize("name", ["densenet121", "densenet161", "densenet169", "densenet201"])
def test_timm_by_shapes(name):
  parity.fits(name, "timm", lambda: parity.timm_model(name).state_dict())


@pytest.mark.parity
def test_pytorchcv_plain():
  reference = parity.pytorchcv_model("densenet40_k12_cifar10")
  parity.same_logits("densenet40_k12", "pytorchcv", reference, size=16, num_classes=10)


@pytest.mark.parity
def test_pytorchcv_bc():
  reference = parity.pytorchcv_model("densenet40_k36_bc_cifar10")
  parity.same_logits(
    "densenet_bc40_k36", "pytorchcv", reference, size=16, num_classes=10, train=True
  )


@pytest.mark.parity
@pytest.mark.parametrize(
  "name, theirs",
  [
    ("densenet_bc100_k12", "densenet100_k12_bc_cifar10"),
    ("densenet_bc190_k40", "densenet190_k40_bc_cifar10"),
    ("densenet_bc250_k24", "densenet250_k24_bc_cifar10"),
    ("densenet100_k24", "densenet100_k24_cifar10"),
  ],
)
def test_pytorchcv_by_shapes(name, theirs):
  make = lambda: parity.pytorchcv_model(theirs).state_dict()
  parity.fits(name, "pytorchcv", make, num_classes=10)


@pytest.mark.parity
def test_keras():
  make = lambda: parity.keras_model("DenseNet121", input_shape=(64, 64, 3))
  parity.same_logits_keras("densenet121", make, size=64)
