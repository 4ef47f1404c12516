"""Brings weights of other frameworks and of other runs into the models here, and hands them out.

    weights = transfer.open_file("resnet50.h5")  # what it is, is found by its tensors
    weights.model, weights.variables, weights.preprocessing
    train.train(config, init=weights)

Weights in memory, as {name: array}, become a model by `load`: a torch state dict, or
{w.path: w for w in model.weights} of Keras. There `source` names the code that they come from: the
same names mean different paddings and epsilons in different code.

The tables of names are in `transfer/rules`, one file per family of cnnjax/models; `mapping.py`
applies them, `recognise.py` finds the one that fits, `files.py` reads files without the library
that wrote them, `preprocessing.py` knows what has to be done to images.

This room imports models, registry and runtime.
"""

from cnnjax.transfer.mapping import Rules, convert, load, rules_for
from cnnjax.transfer.preprocessing import Preprocessing
from cnnjax.transfer.pretrained import (
  HEAD,
  HUB,
  Pretrained,
  Start,
  adapt,
  backbone,
  open_file,
  save,
)

__all__ = [
  "HEAD", "HUB", "Preprocessing", "Pretrained", "Rules", "Start", "adapt", "backbone", "convert",
  "load", "open_file", "rules_for", "save",
]  # fmt: skip
