"""NFNet: counts and weights of the references; weights, variances and the block by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import nfnet

# (image size of the test, {classes: parameters}, MACs), counted in timm 1.0.31 on the meta device,
# MACs with torch.utils.flop_counter. A class more or less is a row of the head, in all of them.
# fmt: off
COUNTS = {
  "dm_nfnet_f0": (256, {1000: 71489284, 10: 68447014, 100: 68723584}, 12384198656),
  "dm_nfnet_f1": (320, {1000: 132634256}, 35538968576),
  "dm_nfnet_f2": (352, {1000: 193779228}, 62592978944),
  "dm_nfnet_f3": (416, {1000: 254924200}, 114763501568),
  "dm_nfnet_f4": (512, {1000: 316069172}, 215241187328),
  "dm_nfnet_f5": (544, {1000: 377214144}, 289757106176),
  "dm_nfnet_f6": (576, {1000: 438359116}, 377280307200),
}
# fmt: on
SMALL = dict(stage_sizes=(1, 2), features=(32, 64), group_size=8, small_images=True)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
  "name", ["dm_nfnet_f0", *(pytest.param(f"dm_nfnet_f{n}", marks=pytest.mark.slow) for n in (1, 6))]
)
def test_counts(check_counts, name):
  size, parameters, macs = COUNTS[name]
  check_counts(name, (size, size, 3), parameters, macs, 0)


def test_the_depths_of_the_others():
  """Equal steps in depth are equal steps in parameters."""
  step = 61_144_972
  assert set(models.names("dm_nfnet*")) == set(COUNTS)
  for number, (name, (size, parameters, _)) in enumerate(COUNTS.items()):
    assert models.lookup(name).input_shape == (size, size, 3)
    depth = tuple((number + 1) * n for n in (1, 2, 6, 3))
    rest = {key: models.fields("dm_nfnet_f0")[key] for key in ("features", "group_size")}
    assert models.fields(name).items() >= {**rest, "stage_sizes": depth}.items()
    assert parameters[1000] == COUNTS["dm_nfnet_f0"][1][1000] + number * step
  drops = [models.fields(name)["dropout"] for name in COUNTS]
  assert drops == [0.2, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5]  # arXiv:2102.06171 table 1


def test_without_skip_init(check_counts):
  """The parameters of timm's nfnet_f0: 12 blocks with one less. MACs at the size of training."""
  check_counts("dm_nfnet_f0", (192, 192, 3), {1000: 71489272}, 6977003520, 0, skip_init=False)


@pytest.mark.parametrize("floor", [True, False])
def test_weights_are_standardized(floor):
  module = nfnet.StandardizedConv(3, 3, groups=1, variance_floor=floor, dtype=jnp.float32)
  x = normal(1, 5, 5, 4)
  kernel, gain = 5 * normal(3, 3, 4, 3, seed=1) + 2, np.array([1.0, 0.0, -2.0], np.float32)
  kernel[..., 1] = 1.0  # of variance 0: no division by it
  params = {"kernel": kernel, "gain": gain, "bias": np.array([0, 0.5, 0], np.float32)}
  y = module.apply({"params": params}, x, train=False)
  assert np.isfinite(y).all()
  np.testing.assert_array_equal(y[..., 1], 0.5)
  for i in (0, 2):
    w = kernel[..., i]
    w = gain[i] * (w - w.mean()) / (w.std() * math.sqrt(w.size))
    np.testing.assert_allclose(y[0, 2, 2, i], np.sum(x[0, 1:4, 1:4] * w), rtol=1e-4)


@pytest.mark.parametrize("name", nfnet.ACTIVATIONS)
def test_activations_keep_the_variance(name):
  x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
  assert np.var(nfnet.ACTIVATIONS[name](x)) == pytest.approx(1, abs=0.01)


def test_betas_and_rates():
  """Each block divides by the deviation of what comes in: 1.04 after one block, and so on."""
  seen = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, nfnet.Block):
      seen.append((context.module.beta, kwargs["drop_path"]))
    return call(*args, **kwargs)

  model = models.create("dm_nfnet_f0", 5, **{**SMALL, "stage_sizes": (2, 3)}, drop_path=0.5)
  with nn.intercept_methods(record):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 8, 8, 3)))
  betas, rates = zip(*seen, strict=True)
  # The first block of a stage takes the sum of all before it, and starts again at 1.
  assert betas == pytest.approx([v**-0.5 for v in (1, 1.04, 1.08, 1.04, 1.08)])
  assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("skip_init", [True, False])
def test_branches_start_at_zero_and_learn(skip_init):
  block = nfnet.Block(
    features=4, strides=1, beta=1.0, alpha=0.2, group_size=2, activation="relu",
    skip_init=skip_init, variance_floor=True, dtype=jnp.float32,
  )  # fmt: skip
  x = normal(2, 3, 3, 4)

  def run(x):
    params = block.init(jax.random.key(0), x, train=False, drop_path=0.0)["params"]
    output = lambda params: block.apply({"params": params}, x, train=True, drop_path=0.0)
    return output(params), jax.grad(lambda params: jnp.sum(output(params) ** 3))(params)

  quick = {"xla_backend_optimization_level": 0}  # to compile
  y, gradient = jax.jit(run).lower(x).compile(compiler_options=quick)(x)
  np.testing.assert_array_equal(y, x)
  assert np.any(gradient["skip_gain"] if skip_init else gradient["conv4"]["gain"])


def test_small_images_keep_four_times_the_resolution():
  for small, strides in ((False, [4, 4, 8, 8]), (True, [1, 1, 2, 2])):
    model = models.create("dm_nfnet_f0", 10, **{**SMALL, "small_images": small})
    info = models.feature_info(model, (1, 1, 3))
    assert [stage.stride for stage in info.values()] == strides
    assert list(info) == ["stem", "stage1", "stage2", "head_conv"]


def test_features_and_stage_sizes_go_together():
  with pytest.raises(UserError, match="same length"):
    models.create("dm_nfnet_f0", 10, stage_sizes=(1, 2))


@pytest.mark.parity
def test_timm_and_training():
  reference = parity.timm_model("dm_nfnet_f0")
  parity.same_logits(
    "dm_nfnet_f0", "timm", reference, size=32, train=True, dropout=0.0, drop_path=0.0
  )


@pytest.mark.parity
@pytest.mark.parametrize("name", COUNTS)
def test_weights_fit(name):
  parity.fits(name, "timm", lambda: parity.timm_model(name).state_dict())
