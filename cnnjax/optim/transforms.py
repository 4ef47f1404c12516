"""Parts of optimizers that optax lacks, or has in a form that the chain cannot take."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# p + -0.0 is p for every p, bit for bit; -0.0 + 0.0 is 0.0.
STAY = optax.stateless_with_tree_map(lambda g, _: jnp.full_like(g, -0.0))


def scale_by_rate(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
  """Multiplies by -schedule(step) and the extra argument `rate_scale` ([] float32, default 1).

  The extra argument `step` ([] int32) is that of the run; without it, updates are counted. This is
  optax.scale_by_learning_rate with a factor for plateaus and sweeps of rates.
  """

  def init(params: Any) -> optax.ScaleByScheduleState:
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates, state, params=None, *, rate_scale=1.0, step=None, **extra_args):
    rate = -schedule(state.count if step is None else step) * rate_scale
    updates = jax.tree.map(lambda u: jnp.asarray(rate, u.dtype) * u, updates)
    return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init, update)


def multiply(factors: Any) -> optax.GradientTransformation:
  """Multiplies by `factors`, a tree of numbers like the parameters."""
  return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))


def add_l1(weight: float, mask: Any) -> optax.GradientTransformation:
  """Adds the gradient of `weight` times the sum of magnitudes of the parameters in `mask`."""
  return optax.masked(optax.stateless_with_tree_map(lambda g, p: g + weight * jnp.sign(p)), mask)


def add_noise(variance: float, decay: float, seed: int) -> optax.GradientTransformation:
  """Adds noise (arXiv:1511.06807) that is a function of (seed, step), unlike optax.add_noise.

  The state is therefore the step, a plain number, where optax keeps a typed key.
  """
  # Folded, so that the bits differ from those of the initial parameters, which have the same seed.
  key = jax.random.fold_in(jax.random.key(seed), 0x6E6F6973)
  # As one vector, since XLA compiles the random bits of each tensor by themselves on CPU:
  # experiments/benchmarks/train_step/README.md.
  noise = optax.flatten(optax.add_noise(variance, decay, key))

  def update(updates, step, params=None):
    state = optax.AddNoiseState(count=step, rng_key=jax.random.fold_in(key, step))
    updates, state = noise.update(updates, state)
    return updates, state.count

  return optax.GradientTransformation(lambda _: jnp.zeros([], jnp.int32), update)


def scale_by_lars(
  coefficient: float, weight_decay: Any, adapted: Any
) -> optax.GradientTransformation:
  """Scales by layer-wise rates, arXiv:1708.03888 algorithm 1, with L2 weight decay inside.

  (g + d w) c |w| / (|g| + d |w|). optax.lars divides by |g + d w|, which makes steps up to sqrt(2)
  times larger for weights before a normalisation, whose gradient is orthogonal to them.

  Args:
    coefficient: c, the paper's eta.
    weight_decay: a tree like the parameters, d of each.
    adapted: a tree of bools; where false, or where a norm is 0, the step is g + d w.
  """

  def scale(g, w, decay, layer_wise):
    decayed = g + decay * w
    if not layer_wise:
      return decayed
    w_norm, g_norm = jnp.linalg.norm(w.ravel()), jnp.linalg.norm(g.ravel())
    usable = (w_norm > 0) & (g_norm > 0)
    below = jnp.where(usable, g_norm + decay * w_norm, 1.0)
    return decayed * jnp.where(usable, coefficient * w_norm / below, 1.0)

  return optax.stateless(
    lambda updates, params: jax.tree.map(scale, updates, params, weight_decay, adapted)
  )


def max_norm(limit: float) -> optax.GradientTransformation:
  """Projects the weights of each unit onto |w| <= limit after the step.

  Srivastava et al. 2014 (jmlr.org/papers/v15/srivastava14a.html), section 5.1. Units are along the
  last axis of a kernel. It comes last in a chain, as it projects parameters plus updates.
  """

  def project(update, param):
    after = param + update
    norm = jnp.linalg.norm(after.reshape(-1, after.shape[-1]), axis=0)
    return jnp.where(norm > limit, after * (limit / jnp.maximum(norm, limit)) - param, update)

  return optax.stateless_with_tree_map(project)


class LookaheadState(NamedTuple):
  """The state of optax.lookahead, and the slow parameters."""

  optimizer: optax.LookaheadState
  slow: optax.Params


def lookahead(
  fast: optax.GradientTransformationExtraArgs, period: int, rate: float
) -> optax.GradientTransformationExtraArgs:
  """Returns Lookahead (arXiv:1907.08610) with the slow parameters in its state.

  Unlike optax.lookahead it takes plain parameters, and passes extra arguments to `fast`.
  """

  def around(optimizer):
    return optax.lookahead(optimizer, period, rate)

  def init(params: Any) -> LookaheadState:
    state = around(fast).init(optax.LookaheadParams.init_synced(params))
    # A copy: the train state is donated, and may not hold one buffer twice.
    return LookaheadState(state, jax.tree.map(jnp.copy, params))

  def update(updates, state, params, **extra_args):
    bound = optax.GradientTransformation(fast.init, lambda *args: fast.update(*args, **extra_args))
    moves, inner = around(bound).update(
      updates, state.optimizer, optax.LookaheadParams(fast=params, slow=state.slow)
    )
    return moves.fast, LookaheadState(inner, optax.apply_updates(state.slow, moves.slow))

  return optax.GradientTransformationExtraArgs(init, update)


def sharpness_aware(
  optimizer: optax.GradientTransformationExtraArgs, rho: float, frozen: Any
) -> optax.GradientTransformationExtraArgs:
  """Returns SAM, arXiv:2010.01412 algorithm 1: steps by the gradient at params + rho g / |g|.

  The extra argument `grad_fn(params, 0)` computes that gradient. optax.contrib.sam refuses other
  extra arguments, divides by a norm of 0, and would move `frozen` (a tree of bools).
  """

  def update(grads, state, params, *, grad_fn, **extra_args):
    free = jax.tree.map(lambda stays, g: jnp.zeros_like(g) if stays else g, frozen, grads)
    scale = rho / (optax.tree.norm(free) + 1e-12)
    raised = jax.tree.map(lambda p, g: p + scale * g, params, free)
    return optimizer.update(grad_fn(raised, 0), state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(optimizer.init, update)
