"""Models: `create("resnet50", num_classes=1000)`; `names("resnet*")`; `fields("resnet50")`.

Importing a family registers its variants. A fork adds its file to the imports below, or registers
from anywhere with `@models.register("my_net")`.
"""

from cnnjax.models import lenet, mlp, resnet, simple_cnn  # noqa: F401
from cnnjax.models.registry import Rate, Size, create, fields, lookup, names, register

__all__ = ["Rate", "Size", "create", "fields", "lookup", "names", "register"]
