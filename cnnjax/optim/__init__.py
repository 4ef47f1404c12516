"""The optimizer: clip -> L2 -> direction -> decoupled decay -> learning rate, all of it optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cnnjax.errors import UserError, unknown
from cnnjax.optim import masks, schedules

# name: (the direction of a step given the gradient, the kind of weight decay that is its own)
OPTIMIZERS: dict[str, tuple[Callable[[ConfigDict], optax.GradientTransformation], str]] = {
  "sgd": (
    lambda c: (
      optax.trace(decay=c.momentum, nesterov=c.nesterov) if c.momentum else optax.identity()
    ),
    "l2",
  ),
  "adam": (lambda c: optax.scale_by_adam(b1=c.b1, b2=c.b2, eps=c.eps), "l2"),
  "adamw": (lambda c: optax.scale_by_adam(b1=c.b1, b2=c.b2, eps=c.eps), "decoupled"),
}


def check(config: ConfigDict) -> None:
  """Raises UserError for unknown names, and for settings that contradict each other."""
  if config.name not in OPTIMIZERS:
    raise unknown("optimizer", config.name, OPTIMIZERS)
  if config.name == "adamw" and config.weight_decay_kind == "l2":
    raise UserError(
      "optim: adamw is Adam with decoupled weight decay (arXiv:1711.05101); "
      "for l2 use optim.name=adam"
    )
  if config.name == "sgd" and config.nesterov and not config.momentum:
    raise UserError("optim: Nesterov needs a momentum above 0")
  masks.compile_pattern(config.weight_decay_mask)
  schedules.check(config.schedule)


def create(
  config: ConfigDict, schedule: optax.Schedule, params: Any
) -> optax.GradientTransformation:
  """The chain of `config.optim`; `params` are needed for their paths alone."""
  direction, own_kind = OPTIMIZERS[config.name]
  kind = config.weight_decay_kind or own_kind
  decay = []
  if config.weight_decay:
    mask = masks.by_path(params, config.weight_decay_mask)
    decay = [optax.add_decayed_weights(config.weight_decay, mask=mask)]
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
    *(decay if kind == "l2" else []),
    direction(config),
    *(decay if kind == "decoupled" else []),
    optax.scale_by_learning_rate(schedule),
  )


def describe(config: ConfigDict, params: Any) -> dict[str, str]:
  """The optimizer and the decay mask in words, for the start of a run."""
  details = {
    "sgd": f"momentum {config.momentum:g}" + (", Nesterov" if config.nesterov else ""),
    "adam": f"b1 {config.b1:g}, b2 {config.b2:g}, eps {config.eps:g}",
  }
  text = f"{config.name} ({details['sgd' if config.name == 'sgd' else 'adam']})"
  if config.clip_norm:
    text += f", gradient clipped to norm {config.clip_norm:g}"
  if not config.weight_decay:
    return {"optimizer": text, "decay": "no weight decay"}
  kind = config.weight_decay_kind or OPTIMIZERS[config.name][1]
  mask = masks.by_path(params, config.weight_decay_mask)
  decayed = sum(jax.tree.leaves(mask))
  last = lambda wanted: ", ".join(
    sorted({path.split("/")[-1] for path, chosen in masks.paths(mask).items() if chosen == wanted})
  )
  total = len(jax.tree.leaves(mask))
  text_decay = f"{kind} {config.weight_decay:g} on {decayed} of {total} tensors ({last(True)})"
  return {
    "optimizer": text,
    "decay": text_decay + (f"; not on {last(False)}" if decayed < total else ""),
  }
