"""A head on two scales of a backbone: frozen, and read; see test_proofs.py for a run of it."""

import pathlib

import jax
import numpy as np
import pytest

from cnnjax import build, models, optim, registry, train
from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.tools import plan
from cnnjax.training import state

ROOT = pathlib.Path(__file__).parents[2]
MODULE = "experiments.extending.multiscale"
CONFIG = "experiments/extending/multiscale_config.py"


@pytest.fixture(scope="module", autouse=True)
def registered(registry_of_file):
  """The module of the example, and a backbone that compiles quickly, with batch norm."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)

    @models.register("small_resnet")
    def small_resnet(num_classes, dtype):
      small = dict(stage_sizes=(1, 1), stem_features=4, features=4, small_images=True)
      return models.create("resnet18", num_classes, dtype=dtype, **small)

    registry.import_modules([MODULE])
    yield


def preset(name, **overrides):
  config = configs.load(f"{ROOT / CONFIG}:{name}")
  for key, value in {"mesh.data": 1, **overrides}.items():
    configs.override(config, key, value)
  return config


@pytest.fixture(name="two_scales")
def two_scales_fixture(tiny):
  """A function from overrides to the config of a quick run around the small backbone."""

  def make(**overrides):
    config = tiny(**{"batch_size": 16, **overrides})
    config.model = {"name": "two_scales", "backbone": "small_resnet", "width": 6}
    config.imports = (MODULE,)
    return config

  return make


def leaves(tree):
  return {jax.tree_util.keystr(path): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


def same(a, b):
  a, b = leaves(a), leaves(b)
  return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


def test_frozen_parameters_and_statistics_do_not_move(two_scales, tmp_path):
  config = two_scales(**{"optim.freeze": preset("frozen").optim.freeze, "epochs": 1})
  program = build.build(config)
  text, before = program.summary, program.new_state()
  assert text["frozen"] == "18 of 24 tensors: net"
  assert text["statistics"].startswith("6 of 7 batch norms are frozen")
  end, _, _ = train.train(config, tmp_path)
  for name in ("params", "batch_stats"):
    start, stop = before.variables[name], end.variables[name]
    assert same(start["net"], stop["net"])
    for part in start.keys() - {"net"}:
      assert not same(start[part], stop[part])


def test_read_from_outside(two_scales):
  """Features, rates by depth, sizes and the plan of a run look into the model around the net."""
  config = two_scales(**{"data.mean": (0.5,), "data.std": (0.5,)})
  model = models.create(**config.model, num_classes=10)
  strides = {name: info.stride for name, info in models.feature_info(model, (8, 8, 1)).items()}
  assert strides == {"net/stem": 1, "net/stage1": 1, "net/stage2": 2}
  variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), np.zeros((1, 8, 8, 1))))
  depths = state.depths(model, (8, 8, 1))
  config.optim.layer_decay = 0.5
  rates = optim.masks.paths(optim.masks.rates(config.optim, variables["params"], depths))
  order = ["net/stem_conv", "net/stem_norm", "net/stage1_block1", "net/stage2_block1", "fine",
           "coarse", "norm", "head"]  # fmt: skip
  for i, name in enumerate(order):
    found = {rate for path, rate in rates.items() if path.startswith(f"{name}/")}
    assert found == {0.5 ** (len(order) - 1 - i)}, name
  # The net without a head, two 1x1 convolutions, the last layer.
  net = models.summarize(models.create("small_resnet", 0), (8, 8, 1))
  whole = models.summarize(model, (8, 8, 1))
  assert whole.parameters == net.parameters + 4 * 6 + 8 * 6 + 2 * 6 + 6 * 10 + 10
  assert whole.macs == net.macs + 8 * 8 * 4 * 6 + 4 * 4 * 8 * 6 + 6 * 10
  planned = plan.plan(config)
  assert planned.macs == whole.macs
  assert planned.memory["parameters"] == 4 * whole.parameters


@pytest.mark.parametrize(
  "backbone, words",
  [
    ("mlp", "MLP has no feature maps: choose a model with some"),
    ("convmixer_256_8", "gives feature maps of 1 scales, and two_scales needs two"),
    ("resnet2O", "unknown model 'resnet2O'"),
  ],
)
def test_a_backbone_that_will_not_do(two_scales, backbone, words):
  config = two_scales(**{"data.mean": (0.5,), "data.std": (0.5,)})
  config.model.backbone = backbone
  with pytest.raises(UserError, match=words) as refused:
    build.build(config)
  assert "\n" not in str(refused.value)


def test_a_pattern_that_freezes_nothing(two_scales):
  with pytest.raises(UserError, match=r"optim.freeze '\^stage1' .*did you mean '\^net/stage1'"):
    build.build(two_scales(**{"optim.freeze": ("^stage1",)}))
