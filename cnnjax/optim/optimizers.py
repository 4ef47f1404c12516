"""The optimizers by name: each turns the gradient into the direction of a step, mostly by optax.

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

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.optim import masks, transforms
from cnnjax.registry import register

BOTH = ("l2", "decoupled")
ADAM = ("b1", "b2", "eps")
MUON_RMS = 0.2  # of a step, about that of AdamW, so that one rate serves both: arXiv:2502.16982


class Optimizer(NamedTuple):
  """A registered optimizer.

  `direction` takes the config, the trained parameters (or their shapes) and the depths of their
  groups. Decoupled weight decay, then `ratio`, then the learning rate follow it.
  """

  direction: Callable[[ConfigDict, Any, Mapping[str, int] | None], optax.GradientTransformation]
  decay: tuple[str, ...] = BOTH  # kinds of weight decay that it takes, its own first
  why: str = ""  # the reason if it takes one kind alone
  details: str = ""  # its keys in words, as a format; "": their names and values
  ratio: Callable[[Any], optax.GradientTransformation] | None = None
  momentum_of_steps: bool = False  # momentum adds up steps, the rate in them, not gradients
  decays_inside: bool = False  # the direction adds the l2 itself


def lookup(name: str) -> Optimizer:
  """Returns the optimizer of that name; UserError if there is none."""
  part = registry.part("optimizer", name)
  return Optimizer(part.value, **part.options)


def words(config: ConfigDict) -> str:
  """Returns in words the keys that the optimizer of a config reads, with their values."""
  details = lookup(config.name).details
  if details:
    return details.format(**config)
  return ", ".join(registry.part("optimizer", config.name).words(config))


def kind(config: ConfigDict) -> str | None:
  """Returns the kind of weight decay, l2 or decoupled; None without decay."""
  if not config.weight_decay:
    return None
  return config.weight_decay_kind or lookup(config.name).decay[0]


def momentum(config: ConfigDict) -> optax.GradientTransformation:
  """Adds up the updates so far, times `config.momentum` at each step."""
  if not config.momentum:
    return optax.identity()
  return optax.trace(decay=config.momentum, nesterov=config.nesterov)


def decays(config: ConfigDict, params: Any) -> Any:
  """Returns a tree like `params` of the weight decay of each."""
  if not config.weight_decay:
    return jax.tree.map(lambda _: 0.0, params)
  mask = masks.by_path(params, config.weight_decay_mask, "optim.weight_decay_mask")
  return jax.tree.map(lambda decayed: config.weight_decay if decayed else 0.0, mask)


def muon_kernels(params: Any, depths: Mapping[str, int] | None) -> Any:
  """Returns a tree like `params`, true for the kernels that Muon trains, between stem and head.

  Its author (github.com/KellerJordan/Muon) uses it for all convolutions except the first, and AdamW
  for everything else, the last layer too. Depthwise kernels are no matrices: Adam trains them.
  """
  return jax.tree.map(
    lambda kernel, end, p: kernel and not end and not (p.ndim == 4 and p.shape[2] == 1),
    masks.kernels(params),
    masks.outermost(params, depths),
    params,
  )


@register(
  "optimizer",
  "muon",
  uses=("momentum", "nesterov", *ADAM),
  decay=("decoupled",),
  why="an l2 is lost where the step is made orthogonal (arXiv:2502.16982)",
  details="momentum {momentum:g}; Adam b1 {b1:g}, b2 {b2:g}, eps {eps:g}",
)
def _muon(config, params, depths):
  """Returns optax.contrib.muon with Adam, not its Nesterov form, for other parameters."""

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


@register("optimizer", "sgd", uses=("momentum", "nesterov"))
def _sgd(config, *_):
  return momentum(config)


@register("optimizer", "rmsprop", uses=("decay", "momentum", "eps"))
def _rmsprop(config, *_):
  rms = optax.scale_by_rms(decay=config.decay, eps=config.eps, eps_in_sqrt=False)
  return optax.chain(rms, momentum(config))


@register(
  "optimizer",
  "rmsprop_tf",
  uses=("decay", "momentum", "eps"),
  decay=("l2",),
  why="its momentum adds up steps, and would add up a decoupled decay with them; take l2, as its "
  "recipes do, or optim.name=rmsprop",
  momentum_of_steps=True,
)
def _rmsprop_tf(config, *_):
  return optax.scale_by_rms(decay=config.decay, eps=config.eps, initial_scale=1.0)


@register("optimizer", "adam", uses=ADAM)
@register(
  "optimizer",
  "adamw",
  uses=ADAM,
  decay=("decoupled",),
  why="adamw is Adam with decoupled weight decay (arXiv:1711.05101); for l2 use optim.name=adam",
)
@register(
  "optimizer",
  "lamb",
  uses=ADAM,
  decay=("decoupled",),
  why="the decay is part of the step that its trust ratio scales (arXiv:1904.00962, algorithm 2)",
  ratio=lambda params: optax.masked(optax.scale_by_trust_ratio(), masks.kernels(params)),
)
def _adam(config, *_):
  return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


@register("optimizer", "nadam", uses=ADAM)
def _nadam(config, *_):
  return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, nesterov=True)


@register(
  "optimizer",
  "lars",
  uses=("momentum", "trust_coefficient", "nesterov"),
  decay=("l2",),
  why="the decay is part of its layer-wise rate (arXiv:1708.03888, algorithm 1)",
  momentum_of_steps=True,
  decays_inside=True,
)
def _lars(config, params, _):
  return transforms.scale_by_lars(
    config.trust_coefficient, decays(config, params), masks.kernels(params)
  )


@register(
  "optimizer",
  "lion",
  uses=("b1", "b2"),
  decay=("decoupled",),
  why="its step is a sign, in which an l2 is lost (arXiv:2302.06675)",
)
def _lion(config, *_):
  return optax.scale_by_lion(b1=config.b1, b2=config.b2)


@register("optimizer", "schedule_free_sgd", uses=("b1",))
def _schedule_free_sgd(*_):
  return optax.identity()


@register(
  "optimizer",
  "schedule_free_adamw",
  uses=ADAM,
  decay=("decoupled",),
  why="it is AdamW; for l2 use optim.name=schedule_free_sgd",
)
def _schedule_free_adamw(config, *_):
  return optax.scale_by_rms(
    decay=config.b2, eps=config.eps, eps_in_sqrt=False, bias_correction=True
  )
