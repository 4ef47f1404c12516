"""Loads weights of other frameworks into the models here, by a table for each family.

    weights = torchvision.models.resnet50(weights="DEFAULT").state_dict()
    model, variables = transfer.load("resnet50", weights, source="torchvision")

`weights` maps names to arrays: a torch state dict (read its file by torch.load(file,
weights_only=True), which runs no code), or {w.path: w for w in model.weights} of Keras. A tensor
that is missing, unexpected or of another shape is an error.

`source` names the code that the weights come from, because the same names mean different paddings
and epsilons in different code: timm's tf_efficientnet_b0 needs `source="timm_tf"`.

The tables are in `transfer/rules`, one file per family of cnnjax/models; `transfer/mapping.py`
applies them.

This room imports models alone.
"""

from cnnjax.transfer.mapping import Rules, convert, load, rules_for

__all__ = ["Rules", "convert", "load", "rules_for"]
