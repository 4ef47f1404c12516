"""Files as they lie about: names of older versions of a library, and of other repositories.

The quick part looks at single names. The parity part takes the names of whole networks of today's
libraries, renames them as they were, and asks for the same places; today's are tested beside the
models. Where another library computes, logits are compared.
"""

import functools
import re

import jax
import numpy as np
import parity
import pytest

from cnnjax import models, transfer
from cnnjax.errors import UserError
from cnnjax.models import ops
from cnnjax.transfer import keras_names, mapping


@functools.cache
def rules_of(name, source):
  return [r for r in mapping.all_rules() if r.source == source and mapping._matches(name, r)]


@functools.cache
def shapes_of(name, size=None, num_classes=1000, **options):
  """The model, and the shapes of its variables."""
  model = models.create(name, num_classes, **options)
  shape = (size, size, 3) if size else models.lookup(name).input_shape
  images = jax.ShapeDtypeStruct((1, *shape), np.float32)
  with ops.plain():
    init = functools.partial(model.init, train=False)
    return model, jax.eval_shape(init, jax.random.key(0), images)


def load(name, source, weights, size=None, num_classes=1000):
  """Our model with the weights, by the rules that they fit; all of these give the same model."""
  fitting = []
  for rules in rules_of(name, source):
    model, like = shapes_of(name, size, num_classes, **rules.overrides)
    try:
      fitting.append((model, transfer.convert(weights, like, rules)))
    except UserError as e:
      problem = e
  assert fitting, problem
  assert all(model == fitting[0][0] for model, _ in fitting), "the weights fit unlike models"
  return fitting[0]


# (our model, source, a name there, our path): a name of each kind of layer. Names of Keras as in
# keras-team/keras and keras-team/keras-applications at the version given beside the rules.
NAMES = [
  ("alexnet", "torchvision", "features.module.3.weight", "params/conv2/kernel"),
  ("alexnet", "pretrainedmodels", "_features.0.weight", "params/conv1/kernel"),
  ("alexnet", "pretrainedmodels", "linear1.weight", "params/dense2/kernel"),
  ("convmixer_768_32", "convmixer", "2.running_mean", "batch_stats/patch_embed/norm/mean"),
  ("convmixer_768_32", "convmixer", "3.0.fn.0.weight", "params/block1/depthwise/conv/kernel"),
  ("convmixer_768_32", "convmixer", "34.1.bias", "params/block32/pointwise/conv/bias"),
  ("convmixer_768_32", "convmixer", "37.weight", "params/head/kernel"),
  ("convnext_tiny", "facebookresearch", "downsample_layers.0.0.weight", "params/stem_conv/kernel"),
  ("convnext_tiny", "facebookresearch", "downsample_layers.3.0.bias",
   "params/stage4_downsample_norm/bias"),
  ("convnext_tiny", "facebookresearch", "stages.2.8.pwconv1.weight",
   "params/stage3_block9/expand/kernel"),
  ("convnext_tiny", "facebookresearch", "stages.2.8.gamma", "params/stage3_block9/layer_scale"),
  ("convnext_tiny", "facebookresearch", "norm.weight", "params/head_norm/scale"),
  ("convnextv2_atto", "facebookresearch", "stages.0.1.grn.gamma",
   "params/stage1_block2/response_norm/scale"),
  ("convnext_tiny", "transformers", "convnext.encoder.stages.1.downsampling_layer.1.weight",
   "params/stage2_downsample_conv/kernel"),
  ("convnext_tiny", "transformers", "convnext.encoder.stages.0.layers.2.layer_scale_parameter",
   "params/stage1_block3/layer_scale"),
  ("convnext_tiny", "transformers", "convnext.layernorm.bias", "params/head_norm/bias"),
  ("densenet121", "torchvision", "features.denseblock1.denselayer2.norm.1.running_var",
   "batch_stats/block1/layer2_bottleneck/norm/var"),
  ("densenet121", "torchvision", "features.denseblock4.denselayer16.conv.2.weight",
   "params/block4/layer16_growth/conv/kernel"),
  ("densenet121", "keras", "conv1/bn/gamma", "params/stem_norm/scale"),
  ("densenet121", "keras", "fc1000/kernel", "params/head/kernel"),
  ("densenet121", "pytorchcv", "features.init_block.bn.weight", "params/stem_norm/scale"),
  ("efficientnet_b4", "efficientnet_pytorch", "_blocks.31._depthwise_conv.weight",
   "params/stage7_block2/depthwise/conv/kernel"),
  ("efficientnet_lite4", "efficientnet_pytorch", "_blocks.1._bn0.weight",
   "params/stage2_block1/expand/norm/scale"),
  ("efficientnet_b1", "pytorchcv", "features.stage4.unit5.conv2.conv.weight",
   "params/stage5_block1/depthwise/conv/kernel"),
  ("efficientnet_b1", "pytorchcv_tf", "features.stage5.unit7.se.conv2.bias",
   "params/stage7_block2/se/expand/bias"),
  ("efficientnet_b0", "keras", "probs/kernel", "params/head/kernel"),
  ("inception_v3", "torchvision", "AuxLogits.conv0.conv.weight",
   "params/aux1_head/conv1/conv/kernel"),
  ("mobilenetv1_100", "pytorchcv", "features.stage4.unit6.pw_conv.bn.bias",
   "params/stage4_block6/pointwise/norm/bias"),
  ("mobilenetv2_100", "pytorch_mobilenet_v2", "features.1.conv.3.weight",
   "params/stage1_block1/project/conv/kernel"),
  ("mobilenetv2_100", "pytorch_mobilenet_v2", "features.17.conv.4.running_mean",
   "batch_stats/stage7_block1/depthwise/norm/mean"),
  ("mobilenetv2_100", "pytorch_mobilenet_v2", "conv.0.weight", "params/conv_head/conv/kernel"),
  ("mobilenetv2_100", "pytorch_mobilenet_v2", "classifier.bias", "params/head/bias"),
  ("mobilenetv2_100", "keras", "mobl16_conv_16_expand/kernel",
   "params/stage7_block1/expand/conv/kernel"),
  ("mobilenetv2_100", "keras", "bn3_conv_3_bn_depthwise/moving_mean",
   "batch_stats/stage3_block1/depthwise/norm/mean"),
  ("mobilenetv2_100", "keras", "Logits/bias", "params/head/bias"),
  ("mobilenetv3_large_100", "keras", "Conv_1/BatchNorm/beta", "params/conv_head/norm/bias"),
  ("mobilenetv3_large_100", "keras", "expanded_conv/project/kernel",
   "params/stage1_block1/project/conv/kernel"),
  ("mobilenetv3_large_100", "keras", "expanded_conv_14/squeeze_excite/Conv_1/kernel",
   "params/stage6_block3/se/expand/kernel"),
  ("mobilenetv3_large_100", "keras", "Logits/kernel", "params/head/kernel"),
  ("regnety_004", "pycls", "s3.b4.f.b_bn.bias", "params/stage3_block4/conv2/norm/bias"),
  ("regnety_004", "pycls", "s2.b1.f.se.f_ex.2.weight", "params/stage2_block1/se/expand/kernel"),
  ("regnety_004", "pycls", "s4.b1.proj.weight", "params/stage4_block1/shortcut/conv/kernel"),
  ("regnety_004", "transformers", "regnet.encoder.stages.3.layers.5.layer.3.normalization.bias",
   "params/stage4_block6/conv3/norm/bias"),
  ("regnety_004", "transformers", "regnet.encoder.stages.0.layers.0.shortcut.convolution.weight",
   "params/stage1_block1/shortcut/conv/kernel"),
  ("resnet50_v1", "keras", "bn_conv1/moving_variance", "batch_stats/stem_norm/var"),
  ("resnet50_v1", "keras", "res2a_branch1/bias", "params/stage1_block1/shortcut_conv/bias"),
  ("resnet50_v1", "keras", "bn4f_branch2c/gamma", "params/stage3_block6/norm3/scale"),
  ("resnet101_v1", "keras", "res4b22_branch2b/kernel", "params/stage3_block23/conv2/kernel"),
  ("resnet50_v1", "keras", "fc1000/bias", "params/head/bias"),
  ("resnet50_v1", "keras", "probs/bias", "params/head/bias"),
  ("resnet50", "pretrainedmodels", "last_linear.weight", "params/head/kernel"),
  ("seresnet50", "pretrainedmodels", "layer1.0.se_module.fc1.weight",
   "params/stage1_block1/se/reduce/kernel"),
  ("seresnet50", "pretrainedmodels", "layer0.bn1.running_mean", "batch_stats/stem_norm/mean"),
  ("resnet50", "mmpretrain", "backbone.layer4.2.conv3.weight", "params/stage4_block3/conv3/kernel"),
  ("resnet50", "mmpretrain", "head.fc.bias", "params/head/bias"),
  ("resnet50", "pycls", "s3.b6.f.a.weight", "params/stage3_block6/conv1/kernel"),
  ("resnet50", "pycls", "s1.b1.bn.bias", "params/stage1_block1/shortcut_norm/bias"),
  ("resnet50", "transformers", "resnet.encoder.stages.3.layers.2.layer.1.convolution.weight",
   "params/stage4_block3/conv2/kernel"),
  ("resnet50", "transformers", "resnet.embedder.embedder.normalization.running_var",
   "batch_stats/stem_norm/var"),
  ("squeezenet1_1", "pretrainedmodels", "last_conv.weight", "params/head/kernel"),
  ("vgg11_bn", "torchvision", "features.module.1.weight", "params/block1/norm1/scale"),
  ("vgg11_bn", "pytorch_cifar", "classifier.weight", "params/head/kernel"),
  ("vgg16", "pytorchcv", "features.stage5.unit3.conv.bias", "params/block5/conv3/bias"),
  ("vgg16", "pretrainedmodels", "linear1.bias", "params/dense2/bias"),
  ("vit_base_patch16_224", "torchvision", "encoder.layers.encoder_layer_3.mlp.linear_2.weight",
   "params/block4/mlp2/kernel"),
  ("xception", "keras", "block13_sepconv2/block13_sepconv2_depthwise_kernel",
   "params/stage4_block1/conv2/depthwise/kernel"),
  ("xception", "pretrainedmodels", "last_linear.bias", "params/head/bias"),
]  # fmt: skip


@pytest.mark.parametrize("name, source, theirs, ours", NAMES, ids=[f"{r[1]}-{r[2]}" for r in NAMES])
def test_names(name, source, theirs, ours):
  """The tensor of another framework's shape is our variable, by one of the rules of its source."""
  axes = 4 if ours.endswith("/kernel") else 1
  shape = (3, 3, 1, 5) if "depthwise" in ours else (3, 3, 2, 5)
  like = np.zeros(shape[-axes:])
  if mapping.SOURCES[source] is not mapping.SOURCES["keras"]:
    value = like.transpose(3, 2, 0, 1) if axes == 4 else like
    value = value[None, None, None] if ".grn." in theirs else value
  else:
    value = like.transpose(0, 1, 3, 2) if theirs.endswith("depthwise_kernel") else like
  for part in reversed(ours.split("/")):
    like = {part: like}
  found, problems = [], []
  for rules in rules_of(name, source):
    try:
      transfer.convert({theirs: value}, like, rules)
      found.append(rules)
    except UserError as e:
      problems.append(str(e))
  assert found, problems


def test_any_rule_takes_any_name():
  """Of a network that is none of these, too: each is said to be unexpected."""
  names = {theirs for _, _, theirs, _ in NAMES}
  odd = {re.sub(r"\d+", number, name) for name in names for number in ("9", "777")}
  odd |= {"conv2d_500/kernel", "batch_normalization_500/gamma", "conv2d_5/kernel",
          "Conv2d_9a_3x3.conv.weight", "features.stage9.unit9.conv1.bn.weight"}  # fmt: skip
  for rules in mapping.all_rules():
    with pytest.raises(UserError, match="unexpected"):
      transfer.convert({name: np.zeros(1) for name in odd}, {}, rules)


def test_layers_that_a_session_counts():
  first = {f"conv2d{f'_{i}' if i else ''}/kernel": i for i in range(3)}
  assert keras_names.counted_from_zero(first) == first
  for offset in (1, 94, 9):
    later = {f"conv2d_{i + offset}/kernel": i for i in range(3)}
    assert keras_names.counted_from_zero(later) == first
  old = {
    "convolution2d_2/kernel": 1, "convolution2d_1/kernel": 0, "batchnormalization_7/beta": 5,
    "batchnormalization_7/gamma": 6, "conv2d_bn/kernel": 7, "block1_conv2d_3/kernel": 8,
  }  # fmt: skip
  assert keras_names.counted_from_zero(old) == {
    "conv2d_1/kernel": 1, "conv2d/kernel": 0, "batch_normalization/beta": 5,
    "batch_normalization/gamma": 6, "conv2d_bn/kernel": 7, "block1_conv2d_3/kernel": 8,
  }  # fmt: skip


def test_epsilon_by_the_age_of_a_keras_file():
  """The resnet50 of 2015 leaves Keras' default, that of 2019 does not."""
  names = {"fc1000/bias": 1e-3, "probs/bias": 1.001e-5, "predictions/bias": 1.001e-5}
  like = {"params": {"head": {"bias": np.zeros(1)}}}
  for name, epsilon in names.items():
    found = set()
    for rules in rules_of("resnet50_v1", "keras"):
      try:
        transfer.convert({name: np.zeros(1)}, like, rules)
        found.add(rules.overrides["norm_epsilon"])
      except UserError:
        pass
    assert found == {epsilon}, name


def renamed(weights, *pairs):
  """`weights` by other names: regular expressions and replacements in order, on each whole name."""

  def rename(name):
    for pattern, replacement in pairs:
      name = re.sub(pattern, replacement, name)
    return name

  found = {rename(name): value for name, value in weights.items()}
  assert len(found) == len(weights)
  return found


def numbered(shapes):
  """A tensor of each shape, all of whose values are its number: cheap, and told from the others."""
  shapes = {k: v for k, v in shapes.items() if not k.endswith("num_batches_tracked")}
  return {
    name: np.broadcast_to(np.float32(1 + i), shape)
    for i, (name, shape) in enumerate(shapes.items())
  }


def torch_shapes(make, name):
  with parity.torch().device("meta"):
    return {k: tuple(v.shape) for k, v in make(name).state_dict().items()}


@functools.cache
def of_keras(name):
  """The shapes of a Keras network by name, and the epsilon and the momentum of its norms."""
  model = parity.keras_model(name)
  norms = [n for n in model._flatten_layers() if type(n).__name__ == "BatchNormalization"]
  shapes = {w.path: tuple(w.shape) for w in model.weights}
  return shapes, {(n.epsilon, n.momentum) for n in norms}


def keras_shapes(name):
  return of_keras(name)[0]


def of_torchvision(name):
  options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
  return torch_shapes(functools.partial(parity.torchvision_model, **options), name)


of_timm = functools.partial(torch_shapes, parity.timm_model)
of_pytorchcv = functools.partial(torch_shapes, parity.pytorchcv_model)


def letters(match):
  """conv3_block2_1_bn of Keras today is bn3b_branch2a of 2015."""
  kind = "res" if match[4] == "conv" else "bn"
  branch = "1" if match[3] == "0" else f"2{'abc'[int(match[3]) - 1]}"
  return f"{kind}{match[1]}{chr(ord('a') + int(match[2]) - 1)}_branch{branch}/"


def keras_later(offset):
  """The numbers of a network of Keras 2 that another one with `offset` layers came before."""
  number = lambda match: f"{match[1]}_{int(match[2] or 0) + 1 + offset}/"
  return ((r"^(conv2d|batch_normalization)(?:_(\d+))?/", number),)


KERAS_1 = (
  *keras_later(0),
  (r"^conv2d", "convolution2d"),
  (r"^batch_normalization", "batchnormalization"),
  (r"^(block\d+_sepconv\d)/(\w+)_kernel$", r"\1/\1_\2_kernel"),
)
PYCLS = (
  (r"\.conv1\.conv", ".f.a"), (r"\.conv2\.conv", ".f.b"), (r"\.conv3\.conv", ".f.c"),
  (r"\.conv1\.bn", ".f.a_bn"), (r"\.conv2\.bn", ".f.b_bn"), (r"\.conv3\.bn", ".f.c_bn"),
  (r"\.downsample\.conv", ".proj"), (r"\.downsample\.bn", ".bn"),
  (r"\.se\.fc1", ".f.se.f_ex.0"), (r"\.se\.fc2", ".f.se.f_ex.2"),
)  # fmt: skip
PYCLS_RESNET = (
  (r"^conv1\.", "stem.conv."), (r"^bn1\.", "stem.bn."), (r"^fc\.", "head.fc."),
  (r"^layer(\d)\.(\d+)", lambda m: f"s{m[1]}.b{int(m[2]) + 1}"),
  (r"\.(conv|bn)(\d)\.",
   lambda m: f".f.{'abc'[int(m[2]) - 1]}{'_bn' if m[1] == 'bn' else ''}."),
  (r"\.downsample\.0", ".proj"), (r"\.downsample\.1", ".bn"),
)  # fmt: skip
CONVNEXT = (  # of timm to that of its authors; `test_the_names_of_convnext` asks timm
  (r"^stem\.", "downsample_layers.0."), (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
  (r"\.blocks\.", "."), (r"conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"),
  (r"mlp\.grn\.weight", "grn.gamma"), (r"mlp\.grn\.bias", "grn.beta"),
  (r"^head\.norm\.", "norm."), (r"^head\.fc\.", "head."),
)  # fmt: skip
CONVNEXT_TRANSFORMERS = (
  (r"^downsample_layers\.0\.0", "embeddings.patch_embeddings"),
  (r"^downsample_layers\.0\.1", "embeddings.layernorm"),
  (r"^downsample_layers\.(\d)", r"encoder.stages.\1.downsampling_layer"),
  (r"^stages\.(\d)", r"encoder.stages.\1.layers"), (r"(\d)\.norm\.", r"\1.layernorm."),
  (r"(\d)\.gamma$", r"\1.layer_scale_parameter"), (r"grn\.gamma", "grn.weight"),
  (r"grn\.beta", "grn.bias"), (r"^norm", "layernorm"), (r"^(?!head)", "convnext."),
  (r"^head\.", "classifier."),
)  # fmt: skip
RESNET_TRANSFORMERS = (
  (r"^conv1", "resnet.embedder.embedder.convolution"),
  (r"^bn1", "resnet.embedder.embedder.normalization"), (r"^fc", "classifier.1"),
  (r"^layer(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers."),
  (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
  (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
  (r"downsample\.0", "shortcut.convolution"), (r"downsample\.1", "shortcut.normalization"),
)  # fmt: skip
REGNET_TRANSFORMERS = (
  (r"^stem", "regnet.embedder.embedder"), (r"^head\.fc", "classifier.1"),
  (r"^s(\d)\.b(\d+)", lambda m: f"regnet.encoder.stages.{int(m[1]) - 1}.layers.{int(m[2]) - 1}"),
  (r"\.conv1\.", ".layer.0."), (r"\.conv2\.", ".layer.1."), (r"\.conv3\.", ".layer.3."),
  (r"\.se\.fc1", ".layer.2.attention.0"), (r"\.se\.fc2", ".layer.2.attention.2"),
  (r"\.downsample\.", ".shortcut."), (r"\.conv\.", ".convolution."), (r"\.bn\.", ".normalization."),
)  # fmt: skip


def tonylins(match):
  """conv.1.0 of a block, its depthwise convolution, is conv.3 where relus are counted, too."""
  block, part = match.groups()
  first = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
  others = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
  return f"features.{block}.conv.{(first if block == '1' else others)[part]}."


TONYLINS = (
  (r"^features\.(\d+)\.conv\.(\d(?:\.\d)?)\.(?=[a-z])", tonylins),
  (r"^features\.18\.", "conv."), (r"^classifier\.1", "classifier"),
)  # fmt: skip
MOBILENET_V3 = (
  (r"^conv(_\d)?_bn/", r"Conv\1/BatchNorm/"), (r"^conv(_\d)?/", r"Conv\1/"),
  (r"^logits/", "Logits/"), (r"^expanded_conv_(?!\d)", "expanded_conv/"),
  (r"^expanded_conv_(\d+)_", r"expanded_conv_\1/"), (r"squeeze_excite_c", "squeeze_excite/C"),
  (r"(expand|depthwise|project)_bn/", r"\1/BatchNorm/"),
)  # fmt: skip
MOBILENET_V2_2018 = (
  (r"^expanded_conv_", "block_0_"), (r"^block_(\d+)_([a-z]+)/", r"mobl\1_conv_\1_\2/"),
  (r"^block_(\d+)_([a-z]+)_BN/", r"bn\1_conv_\1_bn_\2/"), (r"^predictions", "Logits"),
)  # fmt: skip
LAST_LINEAR = (r"^(fc|classifier|classif|output)\.", "last_linear.")
PARALLEL = (r"^features\.", "features.module.")
# (our model, the source of today's names, whose shapes they have, the older source, renames).
RENAMED = [
  ("alexnet", "torchvision", of_torchvision, "torchvision", (PARALLEL,)),
  ("vgg11_bn", "torchvision", of_torchvision, "torchvision", (PARALLEL,)),
  # torchvision's loader turns them so: models/densenet.py, _load_state_dict.
  ("densenet121", "torchvision", of_torchvision, "torchvision",
   ((r"(denselayer\d+)\.(norm|conv)([12])", r"\1.\2.\3"),)),
  # MLPBlock._load_from_state_dict of models/vision_transformer.py.
  ("vit_base_patch32_224", "torchvision", lambda _: of_torchvision("vit_b_32"), "torchvision",
   ((r"mlp\.0", "mlp.linear_1"), (r"mlp\.3", "mlp.linear_2"))),
  ("mobilenetv2_100", "torchvision", lambda _: of_torchvision("mobilenet_v2"),
   "pytorch_mobilenet_v2", TONYLINS),
  ("resnet18", "torchvision", of_torchvision, "pretrainedmodels", (LAST_LINEAR,)),
  ("densenet121", "torchvision", of_torchvision, "pretrainedmodels", (LAST_LINEAR,)),
  ("squeezenet1_0", "torchvision", of_torchvision, "pretrainedmodels",
   ((r"^classifier\.1", "last_conv"),)),
  ("alexnet", "torchvision", of_torchvision, "pretrainedmodels",
   ((r"^features", "_features"), (r"^classifier\.1", "linear0"), (r"^classifier\.4", "linear1"),
    (r"^classifier\.6", "last_linear"))),
  ("vgg11", "torchvision", of_torchvision, "pretrainedmodels",
   ((r"^features", "_features"), (r"^classifier\.0", "linear0"), (r"^classifier\.3", "linear1"),
    (r"^classifier\.6", "last_linear"))),
  ("inception_v4", "timm", of_timm, "pretrainedmodels", ()),
  ("inception_resnet_v2", "timm", of_timm, "pretrainedmodels", (LAST_LINEAR,)),
  ("xception", "timm", lambda _: of_timm("legacy_xception"), "pretrainedmodels", (LAST_LINEAR,)),
  ("seresnext50_32x4d", "timm", of_timm, "pretrainedmodels",
   ((r"\.se\.fc", ".se_module.fc"), (r"^(conv1|bn1)", r"layer0.\1"), LAST_LINEAR)),
  ("resnext50_32x4d", "torchvision", of_torchvision, "mmpretrain",
   ((r"^fc\.", "head.fc."), (r"^(?!head)", "backbone."))),
  ("resnet50", "torchvision", of_torchvision, "pycls", PYCLS_RESNET),
  ("regnetx_002", "timm", of_timm, "pycls", PYCLS),
  ("regnety_002", "timm", of_timm, "pycls", PYCLS),
  ("regnety_002", "timm", of_timm, "transformers", REGNET_TRANSFORMERS),
  ("regnetx_002", "timm", of_timm, "transformers",
   (*REGNET_TRANSFORMERS, (r"\.layer\.3\.", ".layer.2."))),
  ("resnet18", "torchvision", of_torchvision, "transformers", RESNET_TRANSFORMERS),
  ("resnet50", "torchvision", of_torchvision, "transformers", RESNET_TRANSFORMERS),
  ("convnext_tiny", "timm", of_timm, "transformers", (*CONVNEXT, *CONVNEXT_TRANSFORMERS)),
  ("convnextv2_atto", "timm", of_timm, "transformers",
   (*CONVNEXT, *CONVNEXT_TRANSFORMERS, (r"^convnext\.", "convnextv2."))),
  ("convmixer_1536_20", "timm", of_timm, "convmixer",
   ((r"^stem\.", ""), (r"^blocks\.(\d+)", lambda m: str(int(m[1]) + 3)), (r"^head", "25"))),
  ("resnet20", "pytorchcv", lambda _: of_pytorchcv("resnet20_cifar10"), "pytorch_cifar_models",
   ((r"features\.init_block\.conv", "conv1"), (r"features\.init_block\.bn", "bn1"),
    (r"features\.stage(\d)\.unit(\d)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}"),
    (r"body\.conv(\d)\.conv", r"conv\1"), (r"body\.conv(\d)\.bn", r"bn\1"),
    (r"identity_conv\.conv", "downsample.0"), (r"identity_conv\.bn", "downsample.1"),
    (r"^output", "fc"))),
  ("resnet50_v1", "keras", lambda _: keras_shapes("ResNet50"), "keras",
   ((r"^conv1_conv", "conv1"), (r"^conv1_bn", "bn_conv1"), (r"^predictions", "fc1000"),
    (r"^conv(\d)_block(\d+)_(\d)_(conv|bn)/", letters))),
  ("resnet50_v1", "keras", lambda _: keras_shapes("ResNet50"), "keras",
   ((r"^predictions", "probs"),)),
  ("densenet121", "keras", lambda _: keras_shapes("DenseNet121"), "keras",
   ((r"^conv1_(conv|bn)", r"conv1/\1"), (r"^predictions", "fc1000"))),
  ("mobilenetv2_100", "keras", lambda _: keras_shapes("MobileNetV2"), "keras",
   ((r"^predictions", "Logits"),)),
  ("mobilenetv2_100", "keras", lambda _: keras_shapes("MobileNetV2"), "keras", MOBILENET_V2_2018),
  ("mobilenetv3_small_100", "keras", lambda _: keras_shapes("MobileNetV3Small"), "keras",
   MOBILENET_V3),
  ("inception_v3", "keras", lambda _: keras_shapes("InceptionV3"), "keras", keras_later(94)),
  ("xception", "keras", lambda _: keras_shapes("Xception"), "keras", KERAS_1),
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize(
  "name, today, shapes, source, renames", RENAMED,
  ids=[f"{r[0]}-{r[3]}-{i}" for i, r in enumerate(RENAMED)],
)  # fmt: skip
def test_older_names_are_the_same_tensors(name, today, shapes, source, renames):
  names = {k: k for k in shapes(name) if not mapping.is_ignored(k, rules_of(name, today)[0])}
  older = renamed(names, *renames)
  if source == "keras":
    older = keras_names.counted_from_zero(older)
  assert_same_tensors(name, today, source, older)


def assert_same_tensors(name, today, source, older):
  """Some rules of `source` take older names where rules take today's, which are the values."""
  places = lambda rules, names: [mapping.our_path(one, rules, {}) for one in names]
  expected = places(rules_of(name, today)[0], older.values())
  assert len(set(expected)) > 10
  assert expected in [places(rules, older) for rules in rules_of(name, source)]


@pytest.mark.parity
@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto"])
def test_the_names_of_convnext(name):
  """timm turns the authors' names into its own: ours of them are the right ones."""
  reference = parity.timm_model(name)
  weights = reference.state_dict()
  older = renamed(weights, *CONVNEXT)
  older = {k: v[None, None, None] if ".grn." in k else v for k, v in older.items()}
  from timm.models.convnext import checkpoint_filter_fn

  again = checkpoint_filter_fn(dict(older), reference)
  assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in weights.items()}
  assert all(again[k] is v or bool((again[k] == v).all()) for k, v in weights.items())
  _, expected = load(name, "timm", weights)
  _, found = load(name, "facebookresearch", older)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def of_efficientnet_pytorch(weights):
  """timm's weights by the names of lukemelas/EfficientNet-PyTorch, which counts blocks."""
  parts = dict(conv_pw="_expand_conv", bn1="_bn0", conv_dw="_depthwise_conv", bn2="_bn1",
               conv_pwl="_project_conv", bn3="_bn2", se="_se")  # fmt: skip
  first = parts | dict(bn1="_bn1", conv_pw="_project_conv", bn2="_bn2")
  ends = dict(conv_stem="_conv_stem", bn1="_bn0", conv_head="_conv_head", bn2="_bn1",
              classifier="_fc")  # fmt: skip
  places, found = {}, {}
  for name, value in weights.items():
    module, *rest = name.split(".")
    if module == "blocks":
      number = places.setdefault(tuple(rest[:2]), len(places))
      part = (parts if int(rest[0]) else first)[rest[2]]
      last = ".".join(rest[3:]).replace("conv_", "_") if part == "_se" else f".{rest[3]}"
      found[f"_blocks.{number}.{part}{last}"] = value
    else:
      found[f"{ends[module]}.{rest[0]}"] = value
  return found


@pytest.mark.parity
@pytest.mark.parametrize(
  "name", [*(f"efficientnet_b{i}" for i in range(8)), *(f"efficientnet_lite{i}" for i in range(5))]
)
def test_efficientnet_pytorch(name):
  names = {k: k for k in of_timm(f"tf_{name}") if not k.endswith("num_batches_tracked")}
  older = of_efficientnet_pytorch(names)
  assert len(older) == len(names)
  assert_same_tensors(name, "timm_tf", "efficientnet_pytorch", older)


# (our model, source, the reference): as tensors alone.
FITS = [
  ("vgg11_bn", "pytorchcv", "bn_vgg11b"), ("vgg11_bn", "pytorchcv", "bn_vgg11"),
  ("densenet169", "pytorchcv", "densenet169"), ("efficientnet_b1", "pytorchcv", "efficientnet_b1"),
  ("mobilenetv1_100", "pytorchcv", "mobilenet_w1"), ("resnet101", "pytorchcv", "resnet101b"),
  ("resnext101_64x4d", "pytorchcv", "resnext101_64x4d"),
  ("seresnext50_32x4d", "pytorchcv", "seresnext50_32x4d"),
  ("regnetx_032", "pytorchcv", "regnetx032"), ("regnety_320", "pytorchcv", "regnety320"),
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("name, source, theirs", FITS, ids=[row[2] for row in FITS])
def test_other_variants_fit(name, source, theirs):
  load(name, source, numbered(of_pytorchcv(theirs)))


def mnasnet_of_2019():
  """mnasnet0_5 before torchvision 0.5, as it builds it for weights of that version."""
  nn, reference = parity.torch().nn, parity.torchvision_model("mnasnet0_5", dropout=0.0)
  from torchvision.models import mnasnet

  norm = lambda features: nn.BatchNorm2d(features, momentum=mnasnet._BN_MOMENTUM)
  stem = [
    nn.Conv2d(3, 32, 3, padding=1, stride=2, bias=False), norm(32), nn.ReLU(inplace=True),
    nn.Conv2d(32, 32, 3, padding=1, stride=1, groups=32, bias=False), norm(32),
    nn.ReLU(inplace=True), nn.Conv2d(32, 16, 1, bias=False), norm(16),
    mnasnet._stack(16, 16, 3, 2, 3, 3, mnasnet._BN_MOMENTUM),
  ]  # fmt: skip
  for i, layer in enumerate(stem):
    reference.layers[i] = layer
  return reference


def vgg_of_pytorch_cifar():
  nn, reference = parity.torch().nn, parity.torchvision_model("vgg11_bn", num_classes=10)
  reference.avgpool, reference.classifier = nn.Identity(), nn.Linear(512, 10)
  return reference


# (our model, source, the reference, size, classes)
LOGITS = {
  "legacy_seresnet50": ("seresnet50", "pretrainedmodels", parity.timm_model, 64, 1000),
  "mnasnet0_5-2019": ("mnasnet_050", "torchvision", lambda _: mnasnet_of_2019(), 64, 1000),
  "vgg-cifar": ("vgg11_bn", "pytorch_cifar", lambda _: vgg_of_pytorch_cifar(), 32, 10),
  "densenet121": ("densenet121", "pytorchcv", parity.pytorchcv_model, 64, 1000),
  "efficientnet_b0": ("efficientnet_b0", "pytorchcv", parity.pytorchcv_model, 96, 1000),
  "efficientnet_b0b": ("efficientnet_b0", "pytorchcv_tf", parity.pytorchcv_model, 96, 1000),
  "mobilenet_wd4": ("mobilenetv1_025", "pytorchcv", parity.pytorchcv_model, 64, 1000),
  "regnety002": ("regnety_002", "pytorchcv", parity.pytorchcv_model, 64, 1000),
  "vgg11": ("vgg11", "pytorchcv", parity.pytorchcv_model, 224, 1000),
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("theirs", LOGITS)
def test_same_logits(theirs):
  name, source, make, size, num_classes = LOGITS[theirs]
  t, x = parity.torch(), parity.images(size)
  reference = parity.randomize(make(theirs)).eval()
  theirs_x = t.tensor(x.transpose(0, 3, 1, 2).copy())
  parity.settle(reference, theirs_x)
  model, variables = load(name, source, reference.state_dict(), size, num_classes)
  with t.no_grad():
    expected = reference(theirs_x).numpy()
  logits = jax.jit(functools.partial(model.apply, train=False))(variables, x)
  parity.assert_close(logits, expected, 1e-4, theirs)


# (our model, source, the reference): the epsilon and the momentum of its norms are the fields'.
NORMS = [
  *((name, "torchvision", name) for name in (
    "resnet18", "densenet121", "googlenet", "inception_v3", "shufflenet_v2_x1_0", "vgg11_bn")),
  ("mobilenetv2_100", "torchvision", "mobilenet_v2"),
  ("mobilenetv3_large_100", "torchvision", "mobilenet_v3_large"),
  ("mnasnet_050", "torchvision", "mnasnet0_5"),
  *((name, "timm", name) for name in (
    "resnet18", "resnet50d", "resnetv2_50", "seresnet50", "densenet121", "inception_v3",
    "inception_v4", "inception_resnet_v2", "mobilenetv1_100", "mobilenetv2_100",
    "mobilenetv3_large_100", "mobilenetv4_conv_small", "mnasnet_100", "regnetx_002", "vgg11_bn",
    "efficientnet_b0", "efficientnet_lite0", "convmixer_768_32")),
  ("xception", "timm", "legacy_xception"), ("seresnet50", "pretrainedmodels", "legacy_seresnet50"),
  *((name, "timm_tf", f"tf_{name}") for name in (
    "efficientnet_b0", "efficientnet_lite0", "efficientnetv2_s", "mobilenetv3_large_100")),
  *((name, "pytorchcv", theirs) for name, theirs in {
    "resnet50": "resnet50b", "cbamresnet18": "cbam_resnet18", "seresnet18": "seresnet18",
    "preact_resnet110": "preresnet110_cifar10", "densenet40_k12": "densenet40_k12_cifar10",
    "densenet121": "densenet121", "bn_inception": "bninception", "mobilenetv1_025": "mobilenet_wd4",
    "efficientnet_b0": "efficientnet_b0", "pyramidnet110_a48": "pyramidnet110_a48_cifar10",
    "regnetx_002": "regnetx002"}.items()),
  ("efficientnet_b0", "pytorchcv_tf", "efficientnet_b0b"),
  *((name, "keras", theirs) for name, theirs in {
    "resnet50_v1": "ResNet50", "densenet121": "DenseNet121", "inception_v3": "InceptionV3",
    "xception": "Xception", "mobilenetv2_100": "MobileNetV2",
    "mobilenetv3_small_100": "MobileNetV3Small"}.items()),
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize(
  "name, source, theirs", NORMS, ids=[f"{source}-{theirs}" for _, source, theirs in NORMS]
)
def test_norms(name, source, theirs):
  if source == "keras":
    found = set(of_keras(theirs)[1])
  else:
    library = {"timm_tf": "timm", "pretrainedmodels": "timm", "pytorchcv_tf": "pytorchcv"}
    options = {"init_weights": False} if theirs in ("inception_v3", "googlenet") else {}
    with parity.torch().device("meta"):
      make = getattr(parity, f"{library.get(source, source)}_model")
      modules = make(theirs, **(options if source == "torchvision" else {})).modules()
    kind = parity.torch().nn.modules.batchnorm._BatchNorm
    found = {(m.eps, 1 - m.momentum) for m in modules if isinstance(m, kind)}
  fields = models.fields(name) | dict(rules_of(name, source)[0].overrides)
  assert len(found) == 1
  np.testing.assert_allclose(
    found.pop(), (fields["norm_epsilon"], fields["norm_momentum"]), rtol=1e-6
  )
