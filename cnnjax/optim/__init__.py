"""Builds the optimizer of a run from `config.optim`, in this order:

    SAM                     replaces the gradient by the one at a point uphill
      frozen parameters     leave here: no state, no step, no part in a norm
        lookahead, or schedule-free
          clipping          of the gradient of the data alone, one of: norm, value, adaptive
          noise             after clipping, which would change its size
          L1, L2            added to the gradient
          direction         SGD, Adam, ...: optimizers.py
          decoupled decay   added to the direction, so times the rate, as in torch
          trust ratio       LAMB
          multipliers, layer decay
          learning rate     schedule(step) * rate_scale (of a plateau, or a sweep of rates)
          momentum          of rmsprop_tf and LARS, which hold steps
          max-norm          projects the parameters after the step

`create(...).update` takes the extra arguments `rate_scale`, `step` (of the run) and, for SAM,
`grad_fn`. Lookahead takes means of projected parameters, so they keep the max-norm too if they
begin below it.

This room imports config and registry.
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cnnjax import registry
from cnnjax.errors import UserError
from cnnjax.optim import masks, optimizers, plateau, schedules, transforms
from cnnjax.optim.optimizers import kind, momentum
from cnnjax.optim.words import describe

__all__ = ["averaged", "check", "create", "describe", "masks", "schedules"]
CLIPPINGS = ("clip_norm", "clip_value", "agc")


def check(config: ConfigDict) -> None:
  """Raises UserError for unknown names and contradicting settings."""
  name = config.name
  rule = optimizers.lookup(name)
  if config.weight_decay_kind and config.weight_decay_kind not in rule.decay:
    raise UserError(f"optim: {name} takes weight_decay_kind={rule.decay[0]} alone: {rule.why}")
  if config.nesterov and name == "adam":
    raise UserError("optim.nesterov is not for adam: set it to False, or take optim.name=nadam")
  registry.check_idle("optimizer", (name,), config)
  if config.nesterov and not config.momentum:
    raise UserError("optim: Nesterov needs a momentum above 0")
  clippings = [key for key in CLIPPINGS if config[key] is not None]
  if len(clippings) > 1:
    raise UserError(
      f"optim: {' and '.join(clippings)} both clip the gradient; keep one, and set the others to "
      "None"
    )
  if name.startswith("schedule_free"):
    _check_schedule_free(config)
  for key, pattern in masks.patterns(config):
    masks.compile_pattern(pattern, key)
  schedules.check(config.schedule)
  plateau.check(config.plateau)


def _check_schedule_free(config: ConfigDict) -> None:
  """Raises UserError for keys that schedule-free (arXiv:2405.15682) cannot have.

  It averages steps of one learning rate.
  """
  if config.schedule.name != "constant":
    raise UserError(
      f"optim: {config.name} needs optim.schedule.name=constant, with or without a warm-up, not "
      f"{config.schedule.name}: it replaces a schedule"
    )
  if not config.b1:
    raise UserError(f"optim: {config.name} needs a b1 above 0, by which it interpolates")
  reasons = {
    "optim.plateau.patience": (config.plateau.patience, "lowers the rate that it keeps"),
    "optim.lookahead": (config.lookahead, "averages what it averages already"),
    "optim.max_norm": (config.max_norm, "holds the step, not the average that is evaluated"),
  }
  for key, (value, why) in reasons.items():
    if value is not None:
      raise UserError(f"optim: {key} {why}; leave it None with {config.name}")


def create(
  config: ConfigDict,
  schedule: optax.Schedule,
  params: Any,
  depths: Mapping[str, int] | None = None,
  *,
  seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """Returns the optimizer of `config.optim`, as a chain.

  Args:
    config: `config.optim` after `check`.
    schedule: step -> learning rate.
    params: the parameters, or their shapes.
    depths: of the groups of `params`, as of `state.depths`; layer_decay and muon need them.
    seed: of the gradient noise.

  Raises:
    UserError: a pattern matches nothing, or everything is frozen.
  """
  frozen = masks.frozen(config, params)
  free = masks.trained(params, frozen)
  optimizer = optax.chain(*_gradient(config, free, seed), *_step(config, schedule, free, depths))
  if config.name.startswith("schedule_free"):
    # optax counts the steps of its averages from 1, and those of the rate from 0.
    optimizer = optax.contrib.schedule_free(
      optimizer, lambda count: schedule(count - 1), b1=config.b1
    )
  if config.lookahead is not None:
    optimizer = transforms.lookahead(optimizer, config.lookahead, config.lookahead_rate)
  if config.freeze:
    labels = jax.tree.map(lambda stays: "frozen" if stays else "trained", frozen)
    optimizer = optax.partition({"frozen": transforms.STAY, "trained": optimizer}, labels)
  if config.sam_rho is not None:
    optimizer = transforms.sharpness_aware(optimizer, config.sam_rho, frozen)
  return optax.with_extra_args_support(optimizer)


def _gradient(config: ConfigDict, params: Any, seed: int) -> list[optax.GradientTransformation]:
  """Returns the chain that changes the gradient before the optimizer's own direction."""
  chain = []
  if config.clip_norm is not None:
    chain.append(optax.clip_by_global_norm(config.clip_norm))
  if config.clip_value is not None:
    chain.append(optax.clip(config.clip_value))
  if config.agc is not None:
    mask = masks.by_path(params, config.agc_mask, "optim.agc_mask")
    chain.append(optax.masked(optax.adaptive_grad_clip(config.agc), mask))
  if config.noise:
    chain.append(transforms.add_noise(config.noise, config.noise_decay, seed))
  if config.l1:
    mask = masks.by_path(params, config.weight_decay_mask, "optim.weight_decay_mask")
    chain.append(transforms.add_l1(config.l1, mask))
  if kind(config) == "l2" and not optimizers.lookup(config.name).decays_inside:
    chain.append(_weight_decay(config, params))
  return chain


def _step(
  config: ConfigDict,
  schedule: optax.Schedule,
  params: Any,
  depths: Mapping[str, int] | None,
) -> list[optax.GradientTransformation]:
  """Returns the chain from the gradient to the step."""
  rule = optimizers.lookup(config.name)
  chain = [rule.direction(config, params, depths)]
  if kind(config) == "decoupled":
    chain.append(_weight_decay(config, params))
  if rule.ratio:
    chain.append(rule.ratio(params))
  if (factors := masks.rates(config, params, depths)) is not None:
    chain.append(transforms.multiply(factors))
  chain.append(transforms.scale_by_rate(schedule))
  if rule.momentum_of_steps:
    chain.append(momentum(config))
  if config.max_norm is not None:
    chain.append(optax.masked(transforms.max_norm(config.max_norm), masks.kernels(params)))
  return chain


def _weight_decay(config: ConfigDict, params: Any) -> optax.GradientTransformation:
  mask = masks.by_path(params, config.weight_decay_mask, "optim.weight_decay_mask")
  return optax.add_decayed_weights(config.weight_decay, mask=mask)


def averaged(config: ConfigDict, opt_state: optax.OptState, params: Any) -> Any:
  """Returns the parameters to evaluate instead of `params`, the optimizer's own average.

  That is schedule-free's x, or Lookahead's slow weights; None for the others.
  """
  free = config.name.startswith("schedule_free")
  if not free and config.lookahead is None:
    return None
  kind = optax.contrib.ScheduleFreeState if free else transforms.LookaheadState
  is_state = lambda node: isinstance(node, kind)
  (state,) = filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state))

  def average(param: Any, z: Any) -> Any:
    if isinstance(z, optax.MaskedNode):  # frozen
      return param
    if not free:
      return z
    # b1 of the config: that of the state has one more axis where seeds are vmapped.
    return optax.contrib.schedule_free_eval_params(state._replace(z=z, b1=config.b1), param)

  return jax.tree.map(average, params, state.z if free else state.slow)
