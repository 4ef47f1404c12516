"""The ResNet family: counts against other packages, blocks by hand, properties on tiny networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import layers, resnet

IMAGENET, CIFAR, MNIST = (224, 224, 3), (32, 32, 3), (28, 28, 1)


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# (name, overrides, input shape, {classes: parameters}, BN moving statistics, MACs at the first).
# Counted in torchvision 0.28.0 (ResNet v1.5, wide_resnet, ResNeXt), timm 1.0.31 (v2, BiT, D, SE
# bottlenecks, resnet200, ECA as block_args=dict(attn_layer="eca")) and pytorchcv 0.0.74 (v1, CBAM,
# other SE, resnext29; resnetv2_200 is its preresnet200b less the 128 of its stem norm); the CIFAR
# networks in torch re-builds of the papers, cross-checked with pytorchcv. seresnet20 is pytorchcv's
# 274,847 less its projections, 2,752. MACs with torch.utils.flop_counter. None: no reference.
# fmt: off
COUNTS = [
  ("resnet18", {}, IMAGENET, {1000: 11689512, 10: 11181642, 100: 11227812}, 9600, 1814073344),
  ("resnet34", {}, IMAGENET, {1000: 21797672, 10: 21289802, 100: 21335972}, 17024, 3663761408),
  ("resnet50", {}, IMAGENET, {1000: 25557032, 10: 23528522, 100: 23712932}, 53120, 4089184256),
  ("resnet101", {}, IMAGENET, {1000: 44549160, 10: 42520650, 100: 42705060}, 105344, 7801405440),
  ("resnet152", {}, IMAGENET, {1000: 60192808}, 151424, 11513626624),
  ("resnet200", {}, IMAGENET, {1000: 64673832}, 176000, 15007481856),
  ("resnet50_v1", {}, IMAGENET, {1000: 25557032, 10: 23528522}, 53120, 3857973248),
  # Keras: 26,560 and 52,672 biases more.
  ("resnet50_v1", {"conv_bias": True}, IMAGENET, {1000: 25583592}, 53120, None),
  ("resnet101_v1", {}, IMAGENET, {1000: 44549160}, 105344, 7570194432),
  ("resnet101_v1", {"conv_bias": True}, IMAGENET, {1000: 44601832}, 105344, None),
  ("resnet152_v1", {}, IMAGENET, {1000: 60192808}, 151424, 11282415616),
  ("resnetv2_18", {}, IMAGENET, {1000: 11687720}, 7808, 1814073344),
  ("resnetv2_34", {}, IMAGENET, {1000: 21795880}, 15232, 3663761408),
  ("resnetv2_50", {}, IMAGENET, {1000: 25549352, 10: 23520842, 100: 23705252}, 45440, 4089184256),
  ("resnetv2_101", {}, IMAGENET, {1000: 44541480}, 97664, 7801405440),
  ("resnetv2_152", {}, IMAGENET, {1000: 60185128, 10: 58156618, 100: 58341028}, 143744,
   11513626624),
  ("resnetv2_200", {}, IMAGENET, {1000: 64666152}, 168320, 15007481856),
  ("resnetv2_50x1_bit", {}, IMAGENET, {1000: 25549352, 10: 23520842, 100: 23705252}, 0,
   4089184256),
  ("resnetv2_101x1_bit", {}, IMAGENET, {1000: 44541480}, 0, 7801405440),
  ("wide_resnet50_2", {}, IMAGENET, {1000: 68883240, 10: 66854730, 100: 67039140}, 68224,
   11398021120),
  ("wide_resnet101_2", {}, IMAGENET, {1000: 126886696}, 137856, 22753050624),
  ("resnext50_32x4d", {}, IMAGENET, {1000: 25028904, 10: 23000394, 100: 23184804}, 68224,
   4230479872),
  ("resnext101_32x8d", {}, IMAGENET, {1000: 88791336}, 202880, 16414015488),
  ("resnext101_64x4d", {}, IMAGENET, {1000: 83455272}, 202880, 15460270080),
  ("resnet18d", {}, IMAGENET, {1000: 11708744}, 9728, 2053713920),
  ("resnet34d", {}, IMAGENET, {1000: 21816904}, 17152, 3903401984),
  ("resnet50d", {}, IMAGENET, {1000: 25576264, 10: 23547754}, 53248, 4328824832),
  ("resnet101d", {}, IMAGENET, {1000: 44568392}, 105472, 8041046016),
  ("resnet152d", {}, IMAGENET, {1000: 60212040}, 151552, 11753267200),
  ("seresnet18", {}, IMAGENET, {1000: 11778592}, 9600, 1814160384),
  ("seresnet34", {}, IMAGENET, {1000: 21958868}, 17024, 3663918592),
  ("seresnet50", {}, IMAGENET, {1000: 28088024, 10: 26059514, 100: 26243924}, 53120, 4091699200),
  ("seresnet101", {}, IMAGENET, {1000: 49326872}, 105344, 7806148608),
  ("seresnet152", {}, IMAGENET, {1000: 66821848}, 151424, 11520204800),
  ("seresnext50_32x4d", {}, IMAGENET, {1000: 27559896}, 68224, 4232994816),
  ("cbamresnet18", {}, IMAGENET, {1000: 11779392}, 9616, 1815063764),
  ("cbamresnet34", {}, IMAGENET, {1000: 21960468}, 17056, 3665434742),
  ("cbamresnet50", {}, IMAGENET, {1000: 28089624, 10: 26061114, 100: 26245524}, 53152,
   4095573110),
  ("cbamresnet101", {}, IMAGENET, {1000: 49330172}, 105410, 7812577278),
  ("cbamresnet152", {}, IMAGENET, {1000: 66826848}, 151524, 11529025510),
  ("ecaresnet18", {}, IMAGENET, {1000: 11689548}, 9600, 1814082688),
  ("ecaresnet34", {}, IMAGENET, {1000: 21797746}, 17024, 3663779904),
  ("ecaresnet50", {}, IMAGENET, {1000: 25557118, 10: 23528608, 100: 23713018}, 53120, 4089272064),
  ("ecaresnet101", {}, IMAGENET, {1000: 44549331}, 105344, 7801580288),
  ("ecaresnet152", {}, IMAGENET, {1000: 60193064}, 151424, 11513878272),
  ("resnext29_8x64d", {}, CIFAR, {10: 34426698, 100: 34518948}, 57472, 5387266048),
  ("resnext29_16x64d", {}, CIFAR, {10: 68155210, 100: 68247460}, 100480, 10688866304),
  ("resnet20", {}, CIFAR, {10: 269722, 100: 275572}, 1376, 40551040),
  ("resnet32", {}, CIFAR, {10: 464154, 100: 470004}, 2272, 68862592),
  ("resnet56", {}, CIFAR, {10: 853018, 100: 858868}, 4064, 125485696),
  ("resnet110", {}, CIFAR, {10: 1727962, 100: 1733812}, 8096, 252887680),
  ("seresnet20", {}, CIFAR, {10: 272095}, 1376, None),
  ("seresnet20", {"shortcut": "B"}, CIFAR, {10: 274847}, 1568, 40815200),
  ("resnet20", {"shortcut": "B"}, CIFAR, {10: 272474}, 1568, 40813184),
  ("resnet56", {"shortcut": "B"}, CIFAR, {10: 855770}, None, None),
  ("resnet110", {"shortcut": "B"}, CIFAR, {10: 1730714}, None, None),
  ("resnet1202", {"shortcut": "B"}, CIFAR, {10: 19424026, 100: 19429876}, 89824, 2829501056),
  ("preact_resnet110", {}, CIFAR, {10: 1730522, 100: 1736372}, None, 253149824),
  ("preact_resnet110_bottleneck", {}, CIFAR, {10: 1146842, 100: 1169972}, 16160, 167430656),
  ("preact_resnet164", {}, CIFAR, {10: 1703258, 100: 1726388}, 24224, 247646720),
  ("preact_resnet1001", {}, CIFAR, {10: 10327706, 100: 10350836}, 149216, 1490995712),
  ("preact_resnet18", {}, CIFAR, {10: 11171146, 100: 11217316}, 6784, 555422720),
  ("resnet18", {"small_images": True}, CIFAR, {10: 11173962, 100: 11220132}, 9600, 555422720),
  ("resnet18", {"small_images": True}, MNIST, {10: 11172810}, 9600, 455800832),
  ("wrn_16_4", {}, CIFAR, {10: 2748890, 100: 2772020}, 3616, 392612352),
  ("wrn_22_8", {}, CIFAR, {10: 17158106, 100: 17204276}, 10784, 2454115328),
  ("wrn_28_2", {}, CIFAR, {10: 1467610, 100: 1479220}, 3616, 214353152),
  ("wrn_28_10", {}, CIFAR, {10: 36479194, 100: 36536884}, 17952, 5243328768),
  ("wrn_28_12", {}, CIFAR, {10: 52517850, 100: 52587060}, 21536, 7543905792),
  ("wrn_28_20", {}, CIFAR, {10: 145815514, 100: 145930804}, 35872, 20919546368),
  ("wrn_40_4", {}, CIFAR, {10: 8949210, 100: 8972340}, 10784, 1298582016),
  ("wrn_40_8", {}, CIFAR, {10: 35748314, 100: 35794484}, 21536, 5172024320),
  ("wrn_40_10", {}, CIFAR, {10: 55841754, 100: 55899444}, 26912, 8074483968),
  ("wrn_28_10", {}, MNIST, {10: 36478906}, 17952, 4014199296),
  ("wrn_16_4", {}, MNIST, {10: 2748602}, 3616, 300368640),
  ("wrn_16_8", {}, MNIST, {10: 10961082}, 7200, 1185074432),
]
# fmt: on


def count(row):
  """The deeper variants of an ImageNet network only repeat what the others show."""
  name, overrides, input_shape, parameters, *_ = row
  deep = input_shape is IMAGENET and sum(models.fields(name)["stage_sizes"]) > 8
  repeats = deep and len(parameters) == 1 and not overrides
  name = "-".join(map(str, (name, *overrides.values(), input_shape[0])))
  return pytest.param(*row, id=name, marks=pytest.mark.slow if repeats else ())


@pytest.mark.parametrize(
  "name, overrides, input_shape, parameters, statistics, macs", [count(row) for row in COUNTS]
)
def test_counts(measure, check_counts, name, overrides, input_shape, parameters, statistics, macs):
  # Scanned, so that equal blocks are traced once; test_counts_do_not_depend_on_scan.
  overrides = {"scan": True, **overrides}
  check_counts(name, input_shape, parameters, macs, statistics, **overrides)
  assert macs in (None, measure(name, next(iter(parameters)), input_shape, **overrides).macs)


@pytest.mark.parametrize("name", ["seresnet50", "cbamresnet18", "preact_resnet110_bottleneck"])
def test_counts_do_not_depend_on_scan(measure, name):
  few = dict(stage_sizes=(2, 3, 1))
  plain = measure(name, 10, CIFAR, scan=False, **few)
  assert plain == measure(name, 10, CIFAR, scan=True, **few)
  assert plain.macs > 0


def test_every_variant_is_counted():
  counted = {row[0] for row in COUNTS} | {"resnet44", "resnet1202"}  # by the formula below
  assert counted == set(resnet.VARIANTS)


def test_counts_of_the_cifar_formula(measure):
  def parameters(n):
    """6n+2 layers: 3x3 kernels of 16, 32, 64 maps, gamma and beta a map, a head with bias."""
    kernels = 3 * 16 + 2 * n * 16**2 + (2 * n - 1) * (32**2 + 64**2) + 16 * 32 + 32 * 64
    return 9 * kernels + 2 * (16 + 2 * n * (16 + 32 + 64)) + 64 * 10 + 10

  assert measure("resnet20", 10, CIFAR)[0] == parameters(3)
  assert measure("resnet44", 10, CIFAR)[0] == parameters(7)
  # Table 6 of the paper says 19.4M of its 1202 layers.
  assert measure("resnet1202", 10, CIFAR, scan=True)[0] == parameters(200) == 19_421_274


QUICK = {"xla_backend_optimization_level": 1}  # to compile
TINY = dict(small_images=True, stage_sizes=(1, 1), stem_features=8, features=8)


def tiny(**overrides) -> resnet.ResNet:
  return models.create("resnet18", 5, **TINY | overrides)


def reference_norm(x, params, stats):
  scale = params["scale"] / jnp.sqrt(stats["var"] + 1e-5)
  return (x - stats["mean"]) * scale + params["bias"]


def reference_conv(x, params, *, strides, padding):
  return jax.lax.conv_general_dilated(
    x,
    params["kernel"],
    (strides, strides),
    [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def block_by_hand(x, params, stats):
  y = nn.relu(
    reference_norm(
      reference_conv(x, params["conv1"], strides=2, padding=1), params["norm1"], stats["norm1"]
    )
  )
  y = reference_conv(y, params["conv2"], strides=1, padding=1)
  y = reference_norm(y, params["norm2"], stats["norm2"])
  x = reference_conv(x, params["shortcut_conv"], strides=2, padding=0)
  return nn.relu(y + reference_norm(x, params["shortcut_norm"], stats["shortcut_norm"]))


def preact_block_by_hand(x, params, stats):
  x = nn.relu(reference_norm(x, params["norm1"], stats["norm1"]))
  y = reference_conv(x, params["conv1"], strides=2, padding=1)
  y = nn.relu(reference_norm(y, params["norm2"], stats["norm2"]))
  y = reference_conv(y, params["conv2"], strides=1, padding=1)
  return y + reference_conv(x, params["shortcut_conv"], strides=2, padding=0)


def make_block(block, *, features=4, strides=1, zero_init_gamma=False, name=None):
  return block(
    convs=(resnet.ConvSpec(features, 3, strides), resnet.ConvSpec(features, 3)),
    conv=functools.partial(layers.conv, dtype=jnp.float32),
    norm=functools.partial(layers.norm, "batch", dtype=jnp.float32),
    shortcut="B",
    attention="none",
    zero_init_gamma=zero_init_gamma,
    dropout=0.0,
    dtype=jnp.float32,
    name=name,
  )


@pytest.mark.parametrize(
  "block, by_hand",
  [(resnet.Block, block_by_hand), (resnet.PreActBlock, preact_block_by_hand)],
)
def test_blocks_by_hand(block, by_hand, random_variables):
  x = normal(2, 7, 7, 3)
  module = make_block(block, strides=2)
  variables = random_variables(module, x)
  expected = jax.jit(by_hand)(x, variables["params"], variables["batch_stats"])
  actual = jax.jit(functools.partial(module.apply, train=False))(variables, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [resnet.Block, resnet.PreActBlock])
def test_zero_init_gamma_starts_from_the_identity_and_learns(block):
  x = abs(normal(2, 5, 5, 4))  # >= 0, for the last relu
  last = ("norm2", "scale") if block is resnet.Block else ("conv2", "kernel")

  module = make_block(block, zero_init_gamma=True)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(x):
    variables = module.init(jax.random.key(1), x, train=False)

    def output(params):
      y, _ = module.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
      return y

    gradient = jax.grad(lambda params: jnp.sum(output(params) ** 3))(variables["params"])
    return output(variables["params"]), gradient[last[0]][last[1]]

  output, gradient = run(x)
  assert np.array_equal(output, x) and np.any(gradient)


def test_drop_path_grows_linearly_with_depth():
  rates = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, resnet.Block):
      rates.append(kwargs["drop_path"])
    return call(*args, **kwargs)

  model = tiny(stage_sizes=(2, 3), drop_path=0.5)
  with nn.intercept_methods(record):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 8, 8, 3)))
  assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])  # l / L * p_L


def modules_called(model, kind):
  """The modules of that kind that a training step calls, and the shapes of their inputs."""
  found = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, kind):
      found.append((context.module, args[0].shape))
    return call(*args, **kwargs)

  init = lambda x: model.init(
    {"params": jax.random.key(0), "dropout": jax.random.key(0)}, x, train=True
  )
  with nn.intercept_methods(record):
    jax.eval_shape(init, jnp.zeros((1, 16, 16, 3)))
  return found


@pytest.mark.parametrize("options, counts, widths", [
  (dict(), (3, 6), {32}),  # both convolutions and the shortcut
  (dict(preact=True), (2, 4), {32}),  # not the last convolution
  (dict(block="bottleneck"), (4, 8), {32, 128}),
], ids=str)  # fmt: skip
def test_drop_block_stands_where_it_should(options, counts, widths):
  model = tiny(stage_sizes=(1, 1, 2), drop_block=0.4, drop_block_size=3, **options)
  found = [(m, shape) for m, shape in modules_called(model, layers.DropBlock) if m.rate]
  assert {m.block_size for m, _ in found} == {3}
  assert tuple(sum(m.rate == rate for m, _ in found) for rate in (0.1, 0.4)) == counts
  assert {shape[-1] for m, shape in found if m.rate == 0.4} == widths


def test_dropout_of_whole_channels():
  def axes(**options):
    found = modules_called(tiny(stage_sizes=(1, 1), dropout=0.4, **options), nn.Dropout)
    return [m.broadcast_dims for m, _ in found if m.rate]

  assert axes(dropout_kind="channel") == [(1, 2)] * 2
  assert axes(dropout_kind="channel", preact=True, block="bottleneck") == [(1, 2)] * 4
  assert axes() == [()] * 2


@pytest.mark.parametrize("preact", [False, True])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(preact):
  model = tiny(preact=preact, dtype="bfloat16")
  x = jnp.zeros((2, 8, 8, 3))
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  logits, captured = jax.eval_shape(
    lambda v, x: model.apply(
      v, x, train=True, capture_intermediates=True, mutable=["intermediates", "batch_stats"]
    ),
    variables,
    x,
  )
  assert logits.dtype == captured["batch_stats"]["stage1_block1"]["norm1"]["var"].dtype == "float32"
  inner = captured["intermediates"]
  del inner["head"], inner["__call__"], inner["Dropout_0"]  # behind the pool, which is float32
  assert {leaf.dtype for leaf in jax.tree.leaves(inner)} == {jnp.dtype("bfloat16")}


@pytest.mark.smoke
@pytest.mark.parametrize("stem", [
  dict(small_images=True), dict(small_images=False), dict(stem="deep", shortcut="D"),
  dict(stem="deep", small_images=True),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (33, 17, 5), (32, 32, 3)])
def test_any_size_and_any_channels(stem, shape):
  model = tiny(**{**stem, "small_images": stem.get("small_images", False)})
  logits, _ = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False), jnp.zeros((2, *shape))
  )
  assert logits.shape == (2, 5) and logits.dtype == jnp.float32


def gradients_and_logits(model, variables, x):
  """In training, with the same key: (gradients, (logits, batch statistics))."""

  def loss(params):
    logits, updates = model.apply(
      variables | {"params": params}, x, train=True, mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(2)},
    )  # fmt: skip
    return -jax.nn.log_softmax(logits)[:, 3].mean(), (logits, updates)

  return jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(variables["params"])


def stacked(variables):
  """Variables of an unscanned network as those of the scanned one."""
  result = {}
  for collection, tree in variables.items():
    blocks, result[collection] = {}, {}
    for name, value in tree.items():
      stage, _, number = name.partition("_block")
      if number in ("", "1"):
        result[collection][name] = value
      else:
        blocks.setdefault(f"{stage}_rest", []).append(value)
    for name, values in blocks.items():
      result[collection][name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)
  return result


@pytest.mark.parametrize("kind", [
  dict(shortcut="A"),
  pytest.param(
    dict(preact=True, block="bottleneck", remat=True, attention="se"), marks=pytest.mark.slow
  ),
], ids=str)  # fmt: skip
def test_scan_is_the_same_network(kind, random_variables):
  kind = dict(stage_sizes=(3,), stem_features=4, **kind)
  x = normal(4, 8, 8, 3)
  plain, scanned = tiny(**kind), tiny(scan=True, **kind)
  variables = random_variables(plain, x)
  shapes = functools.partial(jax.tree.map, jnp.shape)
  assert shapes(random_variables(scanned, x)) == shapes(stacked(variables))
  gradients, (logits, updates) = gradients_and_logits(plain, variables, x)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
  actual = gradients_and_logits(scanned, stacked(variables), x)
  expected = stacked({"params": gradients})["params"], (logits, stacked(updates))
  jax.tree.map(close, actual, expected)
  evaluate = lambda model: jax.jit(functools.partial(model.apply, train=False))
  if "remat" not in kind:
    close(evaluate(scanned)(stacked(variables), x), evaluate(plain)(variables, x))


def test_a_scanned_program_does_not_grow_with_depth():
  """And so neither does the time to compile it; figures stand at ResNet.scan."""

  def operations(name, **overrides):
    model = models.create(name, 10, **overrides)
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    x = jax.ShapeDtypeStruct((2, *CIFAR), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    return jax.jit(apply).lower(variables, x).as_text().count("\n")

  deep, deeper = operations("resnet56", scan=True), operations("resnet1202", scan=True)
  assert deep == deeper < operations("resnet56") / 2


def test_scan_drops_each_block_with_its_own_rate_and_key(random_variables):
  """Kernels of zero behind the shortcut: what is left of a branch is its beta, or 0 if dropped."""
  x = jnp.zeros((2000, 1, 1, 4))

  class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
      block, rates = make_block(resnet.Block, name="rest"), [0.0, 0.25, 0.5]
      return layers.scan_blocks(block, x, train=True, remat=False, drop_path=rates)

  variables = jax.tree.map(jnp.zeros_like, jax.eval_shape(
    Scanned().init, {"params": jax.random.key(0), "dropout": jax.random.key(1)}, x
  ))  # fmt: skip
  # Block n adds 4^n / its chance to survive, so that the sum tells which of them did.
  betas = jnp.array([1.0, 4 * 0.75, 16 * 0.5])[:, None] * jnp.ones((3, 4))
  variables["params"]["rest"]["norm2"]["bias"] = betas
  y, _ = jax.jit(functools.partial(Scanned().apply, mutable=["batch_stats"]))(
    variables, x, rngs={"dropout": jax.random.key(2)}
  )
  assert (y == y[:, :, :, :1]).all()
  total = np.asarray(y[:, 0, 0, 0])
  np.testing.assert_allclose(np.unique(total), [1, 5, 17, 21])
  second, third = total % 16 > 4, total > 16
  # Standard deviations of the means: at most 0.5 / sqrt(2000) = 0.011.
  assert abs(second.mean() - 0.75) < 0.04 and abs(third.mean() - 0.5) < 0.04
  assert abs((second & third).mean() - 0.375) < 0.04  # independent


@pytest.mark.smoke
def test_parameter_names():
  def names(**overrides):
    model = tiny(stage_sizes=(2, 1), **overrides)
    init = lambda x: model.init(jax.random.key(0), x, train=False)
    params = jax.eval_shape(init, jnp.zeros((1, 8, 8, 3)))["params"]
    return {key: sorted(value) for key, value in params.items()}

  block = ["conv1", "conv2", "norm1", "norm2"]
  assert names() == {
    "stem_conv": ["kernel"],
    "stem_norm": ["bias", "scale"],
    "stage1_block1": block,
    "stage1_block2": block,
    "stage2_block1": [*block, "shortcut_conv", "shortcut_norm"],
    "head": ["bias", "kernel"],
  }
  assert names(preact=True) == {
    "stem_conv": ["kernel"],
    "stage1_block1": block,
    "stage1_block2": block,
    "stage2_block1": [*block, "shortcut_conv"],
    "final_norm": ["bias", "scale"],
    "head": ["bias", "kernel"],
  }


def test_deep_stem():
  """ResNet-C and D: 3 -> 32 -> 32 -> 64."""
  model = models.create("resnet50d", 0, stage_sizes=(1, 1))
  init = lambda x: model.init(jax.random.key(0), x, train=False)
  params = jax.eval_shape(init, jnp.zeros((1, 64, 64, 3)))["params"]
  shapes = [params[f"stem_conv{i}"]["kernel"].shape for i in (1, 2, 3)]
  assert shapes == [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64)]


def test_shortcut_d_is_not_for_preactivation():
  with pytest.raises(UserError, match="shortcut='D' is for networks that are not pre-activated"):
    tiny(preact=True, shortcut="D")


def test_option_a_cannot_drop_channels():
  model = tiny(shortcut="A", stem_features=32)
  with pytest.raises(UserError, match="option A shortcut cannot take 32 channels to 8"):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 8, 8, 3)))


def torch_resnet(stage_sizes, width, *, preact):
  """Basic blocks as the papers say, in plain torch: option A, or pre-activation and projections."""
  nn = parity.torch().nn
  relu, pad = nn.functional.relu, nn.functional.pad

  class Block(nn.Module):
    def __init__(self, before, after, stride):
      super().__init__()
      self.bn1 = nn.BatchNorm2d(before if preact else after)
      self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
      self.bn2 = nn.BatchNorm2d(after)
      self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
      self.missing = after - before
      if preact and self.missing:
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False))

    def forward(self, x):
      if preact:
        y = relu(self.bn1(x))
        x = self.shortcut(y) if self.missing else x
        return x + self.conv2(relu(self.bn2(self.conv1(y))))
      y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
      if self.missing:
        x = pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
      return relu(x + y)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
      if not preact:
        self.bn1 = nn.BatchNorm2d(width)
      before = width
      for i, size in enumerate(stage_sizes):
        blocks = []
        for j in range(size):
          blocks.append(Block(before, width * 2**i, 2 if i and not j else 1))
          before = width * 2**i
        setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
      self.linear = nn.Linear(before, 10)

    def forward(self, x):
      x = self.conv1(x)
      if not preact:
        x = relu(self.bn1(x))
      for i in range(len(stage_sizes)):
        x = getattr(self, f"layer{i + 1}")(x)
      return self.linear(x.mean((2, 3)))

  return Net()


ECA = dict(block_args=dict(attn_layer="eca"))
# (ours, source, theirs, their options, image size, with a training step)
PARITY = [
  ("resnet18", "torchvision", "resnet18", {}, 64, True),  # basic
  ("resnet50", "torchvision", "resnet50", {}, 64, False),  # v1.5
  ("wide_resnet50_2", "torchvision", "wide_resnet50_2", {}, 64, False),
  ("resnext50_32x4d", "torchvision", "resnext50_32x4d", {}, 64, False),
  ("resnetv2_18", "timm", "resnetv2_18", {}, 64, True),
  ("resnetv2_50", "timm", "resnetv2_50", {}, 64, False),
  ("resnetv2_50x1_bit", "timm", "resnetv2_50x1_bit", {}, 64, False),
  ("resnet18d", "timm", "resnet18d", {}, 72, True),  # odd maps, where the pool hangs over the edge
  ("resnet50d", "timm", "resnet50d", {}, 64, False),
  ("ecaresnet18", "timm", "resnet18", ECA, 64, True),
  ("ecaresnet50", "timm", "resnet50", ECA, 64, False),
  ("seresnet50", "timm", "seresnet50", {}, 64, False),
  ("seresnext50_32x4d", "timm", "seresnext50_32x4d", {}, 64, False),
  ("seresnet18", "pytorchcv", "seresnet18", {}, 64, True),
  # Compiled quickly, gradients of CBAM come out as NaN, on jax 0.10 and 0.12.
  pytest.param(
    "cbamresnet18", "pytorchcv", "cbam_resnet18", {}, 64, True, marks=pytest.mark.optimised
  ),
  ("cbamresnet50", "pytorchcv", "cbam_resnet50", {}, 64, False),
  ("resnet50_v1", "pytorchcv", "resnet50", {}, 64, False),  # the stride in the first 1x1
]


@pytest.mark.parity
@pytest.mark.parametrize("name, source, theirs, options, size, train", PARITY)
def test_parity(name, source, theirs, options, size, train):
  reference = getattr(parity, f"{source}_model")(theirs, **options)
  parity.same_logits(name, source, reference, size=size, train=train)


@pytest.mark.parity
@pytest.mark.parametrize("name, theirs", [
  ("resnet20", "resnet20"), ("seresnet20", "seresnet20"), ("preact_resnet110", "preresnet110"),
  ("preact_resnet164", "preresnet164bn"), ("resnext29_16x64d", "resnext29_16x64d"),
  ("wrn_16_4", "wrn"),
])  # fmt: skip
def test_parity_on_small_images(name, theirs):
  parity.torch()
  from pytorchcv.models.wrn_cifar import get_wrn_cifar

  wrn = theirs == "wrn"
  reference = (
    get_wrn_cifar(10, blocks=16, width_factor=4) if wrn
    else parity.pytorchcv_model(f"{theirs}_cifar10")
  )  # fmt: skip
  parity.same_logits(name, "pytorchcv", reference, size=32, num_classes=10)


@pytest.mark.parity
def test_parity_with_option_a():
  """Rows and channels of the shortcut, odd images as well."""
  reference = torch_resnet((3, 3, 3), 16, preact=False)
  parity.same_logits(
    "resnet20", "pytorch_resnet_cifar10", reference, size=30, num_classes=10, train=True
  )


@pytest.mark.parity
def test_parity_with_pytorch_cifar_preact_resnet18():
  reference = torch_resnet((2, 2, 2, 2), 64, preact=True)
  parity.same_logits("preact_resnet18", "pytorch_cifar", reference, size=32, num_classes=10)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_parity_with_pytorch_cifar(name):
  """torchvision's network with its stem and its names."""
  nn = parity.torch().nn
  reference = parity.torchvision_model(name, num_classes=10)
  reference.conv1, reference.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
  theirs = {"downsample": "shortcut", "fc": "linear"}
  rename = lambda key: "module." + ".".join(theirs.get(part, part) for part in key.split("."))
  state_dict = reference.state_dict
  reference.state_dict = lambda: {rename(key): value for key, value in state_dict().items()}
  parity.same_logits(name, "pytorch_cifar", reference, size=32, num_classes=10)


@pytest.mark.parity
def test_parity_with_keras():
  parity.same_logits_keras(
    "resnet50_v1", lambda: parity.keras_model("ResNet50", input_shape=(64, 64, 3)), size=64
  )


@pytest.mark.parity
@pytest.mark.parametrize("name, source, theirs, options", [
  *((name, "torchvision", name, {}) for name in (
    "resnet34", "resnet101", "resnet152", "wide_resnet101_2", "resnext101_32x8d",
    "resnext101_64x4d",
  )),
  *((name, "timm", name, {}) for name in (
    "resnet50", "resnet200", "resnetv2_34", "resnetv2_101", "resnetv2_152", "resnetv2_101x1_bit",
    "resnet34d", "resnet101d", "resnet152d", "seresnet101", "seresnet152",
  )),
  *((f"ecaresnet{n}", "timm", f"resnet{n}", ECA) for n in (34, 101, 152)),
  *((f"cbamresnet{n}", "pytorchcv", f"cbam_resnet{n}", {}) for n in (34, 101, 152)),
  ("seresnet34", "pytorchcv", "seresnet34", {}),
  ("resnet101_v1", "pytorchcv", "resnet101", {}), ("resnet152_v1", "pytorchcv", "resnet152", {}),
])  # fmt: skip
def test_their_weights_fit(name, source, theirs, options):
  make = getattr(parity, f"{source}_model")
  parity.fits(name, source, lambda: make(theirs, **options).state_dict())
