"""Loads weights of other frameworks into our models, strictly, by a table for each family.

    weights = torchvision.models.resnet50(weights="DEFAULT").state_dict()
    model, variables = transfer.load("resnet50", weights, source="torchvision")

`weights` maps names to arrays: a torch state dict (a file of one is read by torch.load(file,
weights_only=True), which runs no code), or {w.path: w for w in model.weights} of Keras.
The source names the code that the weights come from, because the same names mean other paddings
and epsilons elsewhere: timm's tf_efficientnet_b0 is `source="timm_tf"`.
The tables are in `transfer/rules`, one file a family of cnnjax/models; the mechanism is
`transfer/mapping.py`.
"""

from cnnjax.transfer.mapping import Rules, convert, load, rules_for

__all__ = ["Rules", "convert", "load", "rules_for"]
