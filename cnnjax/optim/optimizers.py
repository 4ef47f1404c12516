"""The optimizers by name: the direction of a step given the gradient, almost all of it optax.

| name | source | |
|---|---|---|
| sgd | Sutskever et al. 2013 as in torch | plain, with momentum, or Nesterov |
| rmsprop | Hinton 2012 as in torch | eps beside the root |
| rmsprop_tf | TensorFlow 1, as in timm's RMSpropTF | eps in the root, mean square from 1, \
momentum holds steps |
| adam, adamw | arXiv:1412.6980, arXiv:1711.05101 | |
| nadam | Dozat 2016, algorithm 2 | torch's, without its momentum schedule |
| lamb | arXiv:1904.00962 | trust ratio on kernels alone, as in timm where these alone decay |
| lars | arXiv:1708.03888 | layer-wise rate of kernels alone |
| lion | arXiv:2302.06675 | |
| muon | kellerjordan.github.io/posts/muon, arXiv:2502.16982 | hidden kernels; else Adam |
| schedule_free_sgd, schedule_free_adamw | arXiv:2405.15682 | b1 interpolates |
"""

import functools
import math
import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from cnnjax.optim import masks, transforms

MUON_RMS = 0.2  # of a step, about that of AdamW, so that one rate serves both: arXiv:2502.16982


class Optimizer(NamedTuple):
  """One row of the table.

  `direction` takes the config, the trained parameters (or their shapes) and the depths of their
  groups. Decoupled weight decay, then `ratio`, then the learning rate come behind it.
  """

  direction: Callable[[ConfigDict, Any, Mapping[str, int] | None], optax.GradientTransformation]
  kinds: tuple[str, ...]  # of weight decay that it takes, its own first
  details: str  # what it reads of the config, as a format
  why: str = ""  # it takes one kind alone
  ratio: Callable[[Any], optax.GradientTransformation] | None = None
  momentum_of_steps: bool = False  # momentum adds up steps, the rate in them, not gradients
  nesterov: bool = False  # it looks at optim.nesterov
  decays_inside: bool = False  # the direction adds the l2 itself

  @property
  def takes(self) -> set[str]:
    """The keys of `config.optim` that it reads, of those that only some do; and nesterov."""
    return {key for _, key, _, _ in string.Formatter().parse(self.details) if key}


def kind(config: ConfigDict) -> str | None:
  """The kind of weight decay, l2 or decoupled; None without one."""
  if not config.weight_decay:
    return None
  return config.weight_decay_kind or OPTIMIZERS[config.name].kinds[0]


def momentum(config: ConfigDict) -> optax.GradientTransformation:
  """The sum of what came before, each time `config.momentum` of it."""
  if not config.momentum:
    return optax.identity()
  return optax.trace(decay=config.momentum, nesterov=config.nesterov)


def decays(config: ConfigDict, params: Any) -> Any:
  """A tree like `params` of the weight decay of each."""
  if not config.weight_decay:
    return jax.tree.map(lambda _: 0.0, params)
  mask = masks.by_path(params, config.weight_decay_mask, "optim.weight_decay_mask")
  return jax.tree.map(lambda decayed: config.weight_decay if decayed else 0.0, mask)


def muon_kernels(params: Any, depths: Mapping[str, int] | None) -> Any:
  """A tree like `params`, true where Muon is used: the kernels between stem and head.

  As its author says (github.com/KellerJordan/Muon): all convolutions except the first, and
  AdamW for everything else, the last layer too. Depthwise kernels are no matrices: Adam.
  """
  return jax.tree.map(
    lambda kernel, end, p: kernel and not end and not (p.ndim == 4 and p.shape[2] == 1),
    masks.kernels(params),
    masks.outermost(params, depths),
    params,
  )


def _muon(config, params, depths):
  """optax.contrib.muon, but with Adam, not its Nesterov form, for the rest."""

  def numbers(tree: Any) -> Any:  # [..., in, out]: all axes but the last are summed over
    return jax.tree.map(
      lambda x: optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1), tree
    )

  rms = optax.stateless_with_tree_map(
    lambda u, _: u * (MUON_RMS * math.sqrt(max(u.size // u.shape[-1], u.shape[-1])))
  )
  labels = jax.tree.map(lambda chosen: "muon" if chosen else "adam", muon_kernels(params, depths))
  muon = optax.contrib.scale_by_muon(beta=config.momentum, weight_dimension_numbers=numbers)
  return optax.partition({"muon": optax.chain(muon, rms), "adam": _adam(config)}, labels)


def _adam(config, *_, nesterov=False):
  return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, nesterov=nesterov)


def _lars(config, params, _):
  return transforms.scale_by_lars(
    config.trust_coefficient, decays(config, params), masks.kernels(params)
  )


def _rmsprop(config, *_):
  rms = optax.scale_by_rms(decay=config.decay, eps=config.eps, eps_in_sqrt=False)
  return optax.chain(rms, momentum(config))


BOTH = ("l2", "decoupled")
ADAM = "b1 {b1:g}, b2 {b2:g}, eps {eps:g}"
RMSPROP = "decay {decay:g}, momentum {momentum:g}, eps {eps:g}"

OPTIMIZERS = {
  "sgd": Optimizer(lambda c, *_: momentum(c), BOTH, "momentum {momentum:g}", nesterov=True),
  "rmsprop": Optimizer(_rmsprop, BOTH, RMSPROP),
  "rmsprop_tf": Optimizer(
    lambda c, *_: optax.scale_by_rms(decay=c.decay, eps=c.eps, initial_scale=1.0),
    ("l2",),
    RMSPROP,
    why="its momentum adds up steps, and would add up a decoupled decay with them; take l2, as "
    "its recipes do, or optim.name=rmsprop",
    momentum_of_steps=True,
  ),
  "adam": Optimizer(_adam, BOTH, ADAM),
  "adamw": Optimizer(
    _adam,
    ("decoupled",),
    ADAM,
    why="adamw is Adam with decoupled weight decay (arXiv:1711.05101); for l2 use optim.name=adam",
  ),
  "nadam": Optimizer(functools.partial(_adam, nesterov=True), BOTH, ADAM),
  "lamb": Optimizer(
    _adam,
    ("decoupled",),
    ADAM,
    why="the decay is part of the step that its trust ratio scales (arXiv:1904.00962, algorithm 2)",
    ratio=lambda params: optax.masked(optax.scale_by_trust_ratio(), masks.kernels(params)),
  ),
  "lars": Optimizer(
    _lars,
    ("l2",),
    "momentum {momentum:g}, trust coefficient {trust_coefficient:g}",
    why="the decay is part of its layer-wise rate (arXiv:1708.03888, algorithm 1)",
    momentum_of_steps=True,
    nesterov=True,
    decays_inside=True,
  ),
  "lion": Optimizer(
    lambda c, *_: optax.scale_by_lion(b1=c.b1, b2=c.b2),
    ("decoupled",),
    "b1 {b1:g}, b2 {b2:g}",
    why="its step is a sign, in which an l2 is lost (arXiv:2302.06675)",
  ),
  "muon": Optimizer(
    _muon,
    ("decoupled",),
    "momentum {momentum:g}; Adam " + ADAM,
    why="an l2 is lost where the step is made orthogonal (arXiv:2502.16982)",
  ),
  "schedule_free_sgd": Optimizer(lambda *_: optax.identity(), BOTH, "b1 {b1:g}"),
  "schedule_free_adamw": Optimizer(
    lambda c, *_: optax.scale_by_rms(
      decay=c.b2, eps=c.eps, eps_in_sqrt=False, bias_correction=True
    ),
    ("decoupled",),
    ADAM,
    why="it is AdamW; for l2 use optim.name=schedule_free_sgd",
  ),
}
