"""What is asked of a model before it is trained."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import config as configs
from cnnjax import models, optim
from cnnjax.errors import UserError
from cnnjax.models import batch_stats
from cnnjax.runtime import sharding
from cnnjax.training import state


def test_parameters_are_counted():
  assert state.count({"a": np.zeros((2, 3)), "b": {"c": np.zeros(4)}}) == 10


def test_depths_are_the_order_of_the_forward_pass():
  """By whole blocks, for layer_decay: the parts of a block, last in the tree or not, share one."""
  found = state.depths(models.create("resnet20", 10), (32, 32, 3))
  blocks = [f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2, 3)]
  # The dropout in front of the head has a place, too.
  order = ["stem_conv", "stem_norm", *blocks, "dropout", "head"]
  assert found == {name: i for i, name in enumerate(order) if name != "dropout"}
  found = state.depths(models.create("simple_cnn", 10, batch_norm=True), (28, 28, 1))
  order = ["conv1", "norm1", "conv2", "norm2", "dense1", "head"]
  assert sorted(found, key=found.get) == order and len(set(found.values())) == len(order)


class Encoder(nn.Module):
  """A module that is not registered, around one that is."""

  def setup(self):
    small = dict(stage_sizes=(1, 1), stem_features=4, features=4, small_images=True)
    self.colours = nn.Conv(3, kernel_size=(1, 1))
    self.backbone = models.create("resnet18", 0, **small)

  def __call__(self, x, *, train):
    return self.backbone(self.colours(x), train=train)


class Wrapped(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(5, name="own_head")(Encoder(name="encoder")(x, train=train))


BLOCKS = ("stem_conv", "stem_norm", "stage1_block1", "stage2_block1")
GROUPS = ["encoder/colours", *(f"encoder/backbone/{name}" for name in BLOCKS), "own_head"]


@pytest.fixture(scope="module")
def wrapped():
  """The variables of a backbone inside two other modules, its depths, and images."""
  images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
  variables = jax.jit(functools.partial(Wrapped().init, train=False))(jax.random.key(0), images)
  return variables, state.depths(Wrapped(), (8, 8, 3)), images


def test_depths_see_through_what_is_around_a_registered_model(wrapped):
  _, depths, _ = wrapped
  assert sorted(depths, key=depths.get) == GROUPS and len({*depths.values()}) == len(GROUPS)


def test_layer_decay_muon_and_freeze_see_through(wrapped):
  variables, depths, images = wrapped
  params, config = variables["params"], configs.default().optim
  config.layer_decay = 0.5
  rates = optim.masks.paths(optim.masks.rates(config, params, depths))
  places = {name: depths[name] - depths["own_head"] for name in GROUPS}
  for path, rate in rates.items():
    (name,) = (name for name in GROUPS if path.startswith(f"{name}/"))
    assert rate == 0.5 ** -places[name]
  ends = optim.masks.paths(optim.masks.outermost(params, depths))
  assert {path for path, end in ends.items() if end} == {
    "encoder/colours/bias", "encoder/colours/kernel", "own_head/bias", "own_head/kernel"
  }  # fmt: skip
  config.update(layer_decay=None, freeze=("stage1|stem",))
  names = [f"encoder/backbone/{name}" for name in ("stage1_block1", "stem_conv", "stem_norm")]
  words = optim.describe(config, params, depths)["frozen"]
  assert words == f"9 of 22 tensors: {', '.join(names)}"
  frozen = optim.masks.frozen(config, params)
  still = batch_stats.frozen_modules(params, variables["batch_stats"], frozen)
  with batch_stats.batch_norm_mode(frozen=still):
    _, moved = Wrapped().apply(variables, images, train=True, mutable=["batch_stats"])
  before, after = (optim.masks.paths(tree["batch_stats"]) for tree in (variables, moved))
  for path, x in before.items():
    assert np.array_equal(x, after[path]) == ("stem" in path or "stage1" in path), path
  config.freeze = ("^(stem|stage1)",)
  with pytest.raises(UserError, match=r"did you mean '\^encoder/backbone/\(stem\|stage1\)'"):
    optim.masks.frozen(config, params)


def test_features_of_a_backbone_inside_another_module(wrapped):
  variables, _, images = wrapped
  info = models.feature_info(Wrapped(), (8, 8, 3))
  assert {name.removeprefix("encoder/backbone/"): found for name, found in info.items()} == {
    "stem": (1, 4), "stage1": (1, 4), "stage2": (2, 8)
  }  # fmt: skip
  maps = models.features(Wrapped(), variables, images)
  assert {name: x.shape for name, x in maps.items()} == {
    "encoder/backbone/stem": (4, 8, 8, 4), "encoder/backbone/stage1": (4, 8, 8, 4),
    "encoder/backbone/stage2": (4, 4, 4, 8),
  }  # fmt: skip
  head = variables["params"]["own_head"]
  logits = maps["encoder/backbone/stage2"].mean((1, 2)) @ head["kernel"] + head["bias"]
  expected = Wrapped().apply(variables, images, train=False)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


class Asked:
  """Members that note how the drawing of parameters is compiled."""

  several, arguments = False, (jnp.uint32(0), jnp.float32(1))

  def jit(self, function, in_axes, **options):
    self.options = options["compiler_options"]
    return jax.jit(function, out_shardings=options["out_shardings"])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_parameters_are_drawn_by_a_program_that_is_quick_to_compile(monkeypatch, backend):
  """On CPU; where shapes are asked for, nothing is compiled."""
  model, mesh, members = models.create("mlp", 3, features=(2,)), sharding.make_mesh(1), Asked()
  rest = {name: jnp.zeros(()) for name in ("opt_state", "averages", "window", "epoch")}
  rest |= {"monitor": None, "loss_scale": None}
  given = (model, (2, 2, 1), lambda variables, seed: rest, members, mesh, configs.default().mesh)
  shapes = state.create(*given, abstract=True)
  assert not hasattr(members, "options")
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  now = state.create(*given)
  expected = {"xla_backend_optimization_level": 1} if backend == "cpu" else None
  assert members.options == expected
  assert jax.tree.map(lambda x: (x.shape, x.dtype), now) == jax.tree.map(
    lambda x: (x.shape, x.dtype), shapes
  )
  assert int(now.step) == 0 and int(now.bad_step) == state.NEVER == 2**31 - 1
  assert isinstance(jax.tree.leaves(shapes)[0], jax.ShapeDtypeStruct)


def test_what_is_evaluated_and_whose_statistics_are_replaced():
  of = lambda x: {"params": x, "batch_stats": x}
  nothing = dict.fromkeys(("step", "seed", "opt_state", "window", "epoch", "bad_step"))
  made = lambda **averages: state.TrainState(
    variables=of(1), averages=averages, loss_scale=None, rate_factor=0.5,
    monitor=types.SimpleNamespace(plateau=None), **nothing,
  )  # fmt: skip
  plain, slow = made(ema=of(2)), made(ema=of(2), slow=of(3))
  assert plain.evaluated == of(1) and slow.evaluated == of(3)
  assert (plain.params, plain.batch_stats, plain.others) == (1, 1, {"batch_stats": 1})
  after = plain.with_statistics("raw", 9)
  assert after.variables == {"params": 1, "batch_stats": 9} and after.averages == plain.averages
  after = slow.with_statistics("raw", 9)
  assert after.variables == of(1)
  assert after.averages == {"ema": of(2), "slow": {"params": 3, "batch_stats": 9}}
  after = slow.with_statistics("ema", 9)
  assert after.averages == {"ema": {"params": 2, "batch_stats": 9}, "slow": of(3)}
  assert after.variables == of(1)
  assert plain.rate_scale == 0.5
  fallen = plain.replace(monitor=types.SimpleNamespace(plateau=types.SimpleNamespace(scale=0.1)))
  assert fallen.rate_scale == pytest.approx(0.05)
  assert plain.replace(step=np.array([7, 7])).steps_done == plain.replace(step=7).steps_done == 7


def test_an_image_size_that_a_model_cannot_take_is_said_in_one_line():
  model = models.create("mlp", 3, features=(2,))
  shapes = state.abstract_variables(model, (4, 4, 1), sharding.make_mesh(1))
  state.check_sizes(model, shapes, (4, 4, 1), (4,))
  words = (
    r"^MLP is made for images of 4 pixels, and would see some of 6 \(data\.eval_size, data\.pr"
  )
  with pytest.raises(UserError, match=words) as error:
    state.check_sizes(model, shapes, (4, 4, 1), (4, 6))
  assert "\n" not in str(error.value)
