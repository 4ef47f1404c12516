"""Models: `create("resnet50", num_classes=1000)`; `names("resnet*")`; `fields("resnet50")`.

Importing a family registers its variants. A fork adds its file to the imports below, or registers
from anywhere with `@models.register("my_net")`.
"""

from cnnjax.models import lenet, mlp, resnet, simple_cnn  # noqa: F401
from cnnjax.models.features import FeatureInfo, feature_info, features
from cnnjax.models.registry import Rate, Scale, Size, create, fields, lookup, names, register
from cnnjax.models.summary import Summary, summarize

__all__ = [
  "FeatureInfo", "Rate", "Scale", "Size", "Summary",
  "create", "feature_info", "features", "fields", "lookup", "names", "register", "summarize",
]  # fmt: skip
