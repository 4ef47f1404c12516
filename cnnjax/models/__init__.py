"""Creates models by name: `create("resnet50", num_classes=1000)`.

`names("resnet*")` lists the names, `fields("resnet50")` the options of one. Importing a family
registers its variants. A fork adds its file to the imports below, or registers from anywhere with
`@models.register("my_net")`.

This room imports registry alone: a model knows nothing of data, losses or optimizers.
"""

from cnnjax.models import (  # noqa: F401
  alexnet,
  convmixer,
  convnext,
  densenet,
  efficientnet,
  googlenet,
  inception_v3,
  inception_v4,
  lenet,
  mlp,
  mnasnet,
  mobilenet,
  mobilenet_v3,
  mobilenet_v4,
  nfnet,
  pyramidnet,
  regnet,
  resnet,
  shufflenet,
  simple_cnn,
  squeezenet,
  vgg,
  vit,
  xception,
)  # fmt: skip
from cnnjax.models.backbone import Backbone
from cnnjax.models.features import FeatureInfo, feature_info, features
from cnnjax.models.forward import ForwardPass, forward, forward_in_training, init
from cnnjax.models.registry import (
  Rate,
  Scale,
  Size,
  create,
  fields,
  is_registered,
  lookup,
  names,
  register,
)  # fmt: skip
from cnnjax.models.summary import Summary, summarize

__all__ = [
  "Backbone", "FeatureInfo", "ForwardPass", "Rate", "Scale", "Size", "Summary",
  "create", "feature_info", "features", "fields", "forward", "forward_in_training",
  "init", "is_registered", "lookup", "names", "register", "summarize",
]  # fmt: skip
