"""The registry: what a fork does, and every way a user can be wrong."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import build, config, models, registry
from cnnjax.checkpoints import workdir
from cnnjax.errors import UserError


@pytest.fixture(autouse=True)
def own_table(own_registry):
  """What a test registers is forgotten after it."""


class Net(nn.Module):
  num_classes: int
  width: models.Size = 8
  scale: float = 1.0
  dtype: object = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)) * self.scale)


@pytest.mark.smoke
def test_a_fork_adds_a_class_with_one_decorator():
  assert models.register("my_net")(Net) is Net
  model = models.create("my_net", 7, width=3, scale=2)
  assert (model.num_classes, model.width, model.scale) == (7, 3, 2.0)
  x = jnp.ones((2, 4, 4, 3))
  variables = model.init(jax.random.key(0), x, train=False)
  assert model.apply(variables, x, train=False).shape == (2, 7)


def test_a_fork_adds_a_function():
  @models.register("deep_mlp", input_shape=(28, 28, 1), reference="a note")
  def deep_mlp(num_classes, dtype, *, depth: int = 3, width: int = 64):
    return models.create("mlp", num_classes, dtype=dtype, features=(width,) * depth)

  assert models.fields("deep_mlp") == {"depth": 3, "width": 64}
  assert models.create("deep_mlp", 10, depth=2).features == (64, 64)
  entry = models.lookup("deep_mlp")
  assert (entry.builder, entry.input_shape) == (deep_mlp, (28, 28, 1))
  assert entry.reference == "a note"
  with pytest.raises(UserError, match=r"deep_mlp\.depth must be of type int, got '2'"):
    models.create("deep_mlp", 10, depth="2")


def test_variants_carry_their_own_defaults():
  models.register("net_wide", width=99)(Net)
  models.register("net")(Net)
  assert models.fields("net_wide") == {"width": 99, "scale": 1.0}
  assert models.create("net_wide", 10).width == 99
  assert models.create("net_wide", 10, width=5).width == 5
  assert models.create("net", 10).width == 8


def test_registering_wrongly():
  with pytest.raises(UserError, match="'resnet50' is already registered"):
    models.register("resnet50")(Net)
  with pytest.raises(UserError, match=r"unknown option of net 'widht'\. Did you mean 'width'"):
    models.register("net", widht=1)(Net)
  with pytest.raises(UserError, match=r"net\.width must be of type int, got 1\.5"):
    models.register("net", width=1.5)(Net)
  with pytest.raises(UserError, match="give depth a default"):
    models.register("net")(lambda num_classes, dtype, depth: Net(num_classes))
  assert "net" not in models.names()


def test_names_are_sorted_as_people_count():
  some = {"resnet1202", "resnet101", "resnet20", "resnet18"}
  in_order = [name for name in models.names("resnet*") if name in some]
  assert in_order == ["resnet18", "resnet20", "resnet101", "resnet1202"]
  assert models.names("no_such_*") == []
  assert set(models.names("wrn_*")) < set(models.names())


@pytest.mark.parametrize("name", models.names())
def test_every_entry_is_complete(name):
  entry = models.lookup(name)
  assert len(entry.input_shape) == 3 and entry.reference
  assert not {"num_classes", "dtype", "parent", "name"} & set(models.fields(name))
  model = models.create(name, 10, **models.fields(name))  # what fields() shows, create() takes
  assert model == models.create(name, 10)


@pytest.mark.parametrize(
  "name, overrides, message",
  [
    ("resnet5", {}, "unknown model 'resnet5'. Did you mean 'resnet"),
    ("mlp", {"droput": 0.1}, "unknown option of mlp 'droput'. Did you mean 'dropout'"),
    ("mlp", {"dropout": "0.1"}, "mlp.dropout must be of type float, got '0.1'"),
    ("mlp", {"dropout": True}, "mlp.dropout must be of type float, got True"),
    ("mlp", {"dropout": 1.0}, "mlp.dropout must be at least 0 and below 1, got 1.0"),
    ("mlp", {"dropout": float("nan")}, "mlp.dropout must be at least 0 and below 1, got nan"),
    ("mlp", {"features": 512}, r"mlp.features must be a tuple, such as \(512,\), got 512"),
    ("mlp", {"features": (512, 2.5)}, r"mlp.features\[1\] must be of type int, got 2.5"),
    ("mlp", {"features": (512, 0)}, r"mlp.features\[1\] must be at least 1, got 0"),
    ("simple_cnn", {"conv_features": ()}, r"simple_cnn.conv_features must not be empty, got \(\)"),
    ("resnet18", {"stage_sizes": []}, r"resnet18.stage_sizes must not be empty, got \[\]"),
    ("vgg11", {"stage_sizes": ()}, "vgg11.stage_sizes must not be empty"),
    ("efficientnet_b0", {"stages": ()}, "efficientnet_b0.stages must not be empty"),
    (
      "mobilenetv2_100",
      {"width": float("inf")},
      "width must be above 0 and below a million, got inf",
    ),
    (
      "convnext_tiny",
      {"layer_scale": float("nan")},
      "layer_scale must be at least 0, below a million",
    ),
    (
      "convnext_tiny",
      {"layer_scale": -1.0},
      "layer_scale must be at least 0, below a million",
    ),
    ("resnet18", {"stem_features": np.float32(64)}, "stem_features must be of type int, got 64.0"),
    ("resnet18", {"stem_features": 64.0}, "resnet18.stem_features must be of type int, got 64.0"),
    ("resnet18", {"stem_features": True}, "resnet18.stem_features must be of type int, got True"),
    ("resnet18", {"preact": 1}, "resnet18.preact must be of type bool, got 1"),
    ("resnet18", {"stem": "dep"}, "unknown resnet18.stem 'dep'. Did you mean 'deep'"),
    ("resnet18", {"groups": 32}, "need block='bottleneck'"),
    ("resnet18", {"drop_block": 1.0}, "resnet18.drop_block must be at least 0 and below 1, got 1"),
    ("resnet18", {"drop_block_size": 0}, "resnet18.drop_block_size must be at least 1, got 0"),
    ("resnet18", {"drop_path_mode": "lin"}, "unknown resnet18.drop_path_mode 'lin'. Did you mean"),
    ("vgg11", {"conv_dropout_kind": "chanel"}, "'chanel'. Did you mean 'channel'"),
    ("lenet5", {"activation": "tahn"}, "unknown lenet5.activation 'tahn'. Did you mean 'tanh'"),
    ("lenet5", {"parent": None}, "unknown option of lenet5 'parent'"),
    (["lenet5"], {}, r"unknown model \['lenet5'\]. Did you mean 'lenet5'"),
    ("lenet5", {"dtype": "float31"}, "unknown dtype 'float31'. Did you mean 'float32'"),
    ("lenet5", {"dtype": jnp.int32}, "unknown dtype 'int32'"),
    ("lenet5", {"dtype": None}, "unknown dtype"),
  ],
)
def test_wrong_input_is_one_clear_line(name, overrides, message):
  with pytest.raises(UserError, match=message) as error:
    models.create(name, 10, **overrides)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_classes", [-1, 10.0, True, "10", None])
def test_num_classes(num_classes):
  with pytest.raises(UserError, match=r"lenet5\.num_classes must be"):
    models.create("lenet5", num_classes)


# What a row of the tables of MobileNets and their like may not have, and what is said of it.
@pytest.mark.parametrize(
  "name, key, row, message",
  [
    ("mobilenetv1_100", "stages", dict(strides=0), "strides must be at least 1, got 0"),
    ("mobilenetv2_100", "stages", dict(strides=0), "strides must be at least 1, got 0"),
    ("mobilenetv2_100", "stages", dict(expand=0), "expand must be at least 1, got 0"),
    ("mobilenetv3_large_100", "blocks", dict(act="rulu"), "act 'rulu'. Did you mean 'relu'"),
    ("mobilenetv3_large_100", "blocks", dict(expanded=0), "expanded must be at least 1, got 0"),
    ("mnasnet_100", "stages", dict(kernel_size=0), "kernel_size must be odd and at least 1, got 0"),
    ("mnasnet_100", "stages", dict(se_ratio=-0.5), "se_ratio must be at least 0, below a million"),
    ("efficientnet_b0", "stages", dict(repeats=0), "repeats must be at least 1, got 0"),
  ],
)
def test_wrong_rows(name, key, row, message):
  first, *others = models.fields(name)[key]
  with pytest.raises(UserError, match=rf"{name}\.{key}\[0\]\.{message}"):
    models.create(name, 10, **{key: (first._replace(**row), *others)})


@pytest.mark.parametrize(
  "stages, message",
  [
    (((),), r"stages\[0\] must not be empty"),
    (((("uib", 3, -1, 2, 8),),), r"kernel_size2 must be at least 0, got -1"),
    (((("uib", 3, 3, 0, 8),),), "expand must be at least 1, got 0"),
  ],
)
def test_wrong_stages_of_mobilenet_v4(stages, message):
  with pytest.raises(UserError, match=message):
    models.create("mobilenetv4_conv_small", 10, stages=stages)


@pytest.mark.parametrize(
  "name, overrides, needs",
  [
    ("vgg11", {"pool": "gem"}, "small_images=True"),
    ("vgg11", {"hidden_features": 8, "small_images": True}, "small_images=False"),
    ("alexnet", {"pool": "gem"}, "small_images=True"),
    ("alexnet", {"hidden_features": 8, "small_images": True}, "small_images=False"),
    ("alexnet", {"stem_padding": 0, "small_images": True}, "small_images=False"),
    ("alexnet", {"dropout_first": False, "small_images": True}, "small_images=False"),
    ("alexnet", {"lrn_alpha": 2e-5}, "lrn=True"),
    ("googlenet", {"lrn": True, "small_images": True}, "small_images=False"),
    ("googlenet", {"aux_dropout": 0.5}, "aux_logits=True"),
    ("googlenet", {"aux_adaptive_pool": False}, "aux_logits=True"),
    ("bn_inception", {"last_pool": 3}, "layout='v1'"),
    ("resnet18", {"final_norm": False}, "preact=True"),
    ("squeezenet1_0", {"stem_kernel_size": 5, "small_images": True}, "small_images=False"),
  ],
)
def test_an_option_that_would_do_nothing(name, overrides, needs):
  key, value = next(iter(overrides.items()))
  with pytest.raises(UserError, match=f"{name}.{key}={value!r} does nothing without {needs}"):
    models.create(name, 10, **overrides)
  other, needed = needs.split("=")
  models.create(name, 10, **overrides | {other: ast.literal_eval(needed)})


@pytest.mark.parametrize(
  "name, key, value, other",
  [
    ("resnet18", "dropout_kind", "channel", "dropout"),
    ("resnet18", "drop_block_size", 5, "drop_block"),
    ("densenet121", "drop_block_size", 5, "drop_block"),
    ("vgg11", "conv_dropout_kind", "channel", "conv_dropout"),
    ("simple_cnn_small", "conv_dropout_kind", "channel", "conv_dropout"),
    ("vit_small_patch16_224", "drop_path_mode", "constant", "drop_path"),
  ],
)
def test_how_to_drop_does_nothing_without_a_rate(name, key, value, other):
  with pytest.raises(UserError, match=f"{name}.{key}={value!r} does nothing without {other} above"):
    models.create(name, 10, **{key: value})
  assert getattr(models.create(name, 10, **{key: value, other: 0.1}), key) == value


@pytest.mark.parametrize("name", ["alexnet_2012", "googlenet_2014", "squeezenet1_1"])
def test_what_a_variant_has_of_its_own_is_not_refused(name):
  """Nor is it in the config file of a run of it, which has every field."""
  models.create(name, 10, **{**models.fields(name), "small_images": True})


def test_numbers_of_numpy():
  model = models.create("mlp", np.int64(10), features=(np.int32(5),), dropout=np.float32(0.5))
  assert (model.num_classes, model.features, model.dropout) == (10, (5,), 0.5)
  assert [type(x) for x in (model.num_classes, *model.features, model.dropout)] == [int, int, float]
  assert models.create("resnet18", 10, preact=np.bool_(True)).preact is True


def test_what_is_converted():
  assert models.create("mlp", 10, features=[5, 6]).features == (5, 6)
  assert models.create("mlp", 10, features=()).features == ()
  assert isinstance(models.create("mlp", 10, dropout=0).dropout, float)
  assert models.create("alexnet", 10, weight_init=2012).weight_init == "2012"
  assert models.create("resnet18", 10, attention=None).attention == "none"
  for dtype in (jnp.bfloat16, "bfloat16", jnp.dtype("bfloat16")):
    assert models.create("mlp", 10, dtype=dtype).dtype == jnp.bfloat16
  assert models.create("mlp", 10).dtype == jnp.float32


def test_a_module_of_a_fork_registers_its_models(tmp_path, monkeypatch):
  """The config key `imports`, as a command and as a run that goes on use it."""
  (tmp_path / "my_nets_of_a_fork.py").write_text(
    "from cnnjax import models\n"
    "@models.register('my_fork_net')\n"
    "def build(num_classes, dtype, *, width: int = 8):\n"
    "  return models.create('mlp', num_classes, dtype=dtype, features=(width,))\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  settings = config.default()
  settings.data.source = "synthetic"
  settings.model.name = "my_fork_net"
  with pytest.raises(UserError, match="unknown model 'my_fork_net'"):
    build.validate(settings)
  settings.imports = ("my_nets_of_a_fork",)
  build.validate(settings)
  workdir.claim(tmp_path / "run", settings)
  assert workdir.load_config(tmp_path / "run").model.width == 8


@pytest.mark.parametrize("text, words", [
  (None, "cannot import 'a_fork_that_fails'.*ModuleNotFoundError.*PYTHONPATH"),
  ("1 / 0", "cannot import 'a_fork_that_fails'.*ZeroDivisionError"),
])  # fmt: skip
def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch, text, words):
  if text:
    (tmp_path / "a_fork_that_fails.py").write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UserError, match=words):
    registry.import_modules(["a_fork_that_fails"])


def test_what_every_model_has():
  class Bare(nn.Module):
    def __call__(self, x):
      return x

  with pytest.raises(UserError, match="'bare' lacks dtype, num_classes, train: "):
    models.register("bare")(Bare)
  with pytest.raises(UserError, match="'bare' lacks dtype: "):
    models.register("bare")(lambda num_classes: Bare())


def test_a_field_may_not_hide_a_method():
  class Hides(Net):
    init: str = "zeros"

  with pytest.raises(UserError, match="'init' hides the method"):
    models.register("hides")(Hides)
