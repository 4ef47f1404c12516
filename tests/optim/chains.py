"""Small parameters, their gradients, and the formulas of the papers in float64 numpy."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import optim
from cnnjax.config import default

RATES = [0.1, 0.05, 0.2, 0.1, 0.0, 0.3, 0.1, 0.02, 0.1, 0.1, 0.15, 0.1]  # a schedule, no constant
STEPS = len(RATES)
SHAPES = {
  "stem/kernel": (3, 3, 2, 4),
  "norm/scale": (4,),
  "norm/bias": (4,),
  "block/conv/kernel": (3, 3, 4, 6),
  "block/narrow/kernel": (1, 1, 6, 3),
  "block/depthwise/kernel": (3, 3, 1, 6),
  "dense/kernel": (6, 5),
  "dense/bias": (5,),
  "head/kernel": (5, 3),
  "head/bias": (3,),
}
DEPTHS = {"stem": 0, "norm": 1, "block": 2, "dense": 3, "head": 4}
KERNELS = [path for path in SHAPES if path.endswith("kernel")]
MUON = ["block/conv/kernel", "block/narrow/kernel", "dense/kernel"]  # what it is to be used on


def nested(flat):
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def in_float32(flat):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), nested(flat))


def random(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return {path: scale * rng.normal(size=shape) for path, shape in SHAPES.items()}


def start():
  return random(0)


def gradients(scale=1.0, steps=STEPS):
  return [random(1 + step, scale) for step in range(steps)]


def settings(**overrides):
  c = default().optim
  c.update({"learning_rate": 0.1, **overrides})
  optim.check(c)
  return c


def schedule(step):
  return jnp.asarray(RATES)[step]


def build(config, rates=schedule, **options):
  return optim.create(config, rates, in_float32(start()), DEPTHS, **options)


def stepper(optimizer, pull=lambda params, grads: grads):
  """The jitted (params, state, grads, extra) -> (params, state); compiled with little care.

  `pull(params, grads)` is the gradient at `params`.
  """

  def step(params, state, grads, extra):
    updates, state = optimizer.update(
      pull(params, grads), state, params, grad_fn=lambda p, _: pull(p, grads), **extra
    )
    return optax.apply_updates(params, updates), state

  return jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})


def run(config, grads, rates=schedule, **extra):
  """The parameters after each step, by path, and the last state of the optimizer."""
  params = in_float32(start())
  optimizer = build(config, rates)
  step, state, trajectory = stepper(optimizer), optimizer.init(params), []
  for grad in grads:
    params, state = step(params, state, in_float32(grad), extra)
    trajectory.append(optim.masks.paths(params))
  return trajectory, state


def orthogonal(g):
  """Five quintic Newton-Schulz iterations, kellerjordan.github.io/posts/muon."""
  matrix = g.reshape(-1, g.shape[-1])
  x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
  x = x / (np.linalg.norm(x) + 1e-8)
  for _ in range(5):
    a = x @ x.T
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
  return (x if matrix.shape[0] <= matrix.shape[1] else x.T).reshape(g.shape)


def average(state, key, decay, value, begin=0.0):
  state[key] = decay * state.get(key, begin) + (1 - decay) * value
  return state[key]


def total(state, decay, value):
  state["momentum"] = decay * state.get("momentum", 0.0) + value
  return state["momentum"]


def sgd(c, path, g, p, t, rate, state):
  m = total(state, c.momentum, g)
  return rate * (g + c.momentum * m if c.nesterov else m)


def rmsprop(c, path, g, p, t, rate, state):
  v = average(state, "v", c.decay, g**2)
  return rate * total(state, c.momentum, g / (np.sqrt(v) + c.eps))


def rmsprop_tf(c, path, g, p, t, rate, state):
  v = average(state, "v", c.decay, g**2, begin=1.0)
  return total(state, c.momentum, rate * g / np.sqrt(v + c.eps))


def adam(c, path, g, p, t, rate, state):
  m, v = average(state, "m", c.b1, g), average(state, "v", c.b2, g**2)
  return rate * (m / (1 - c.b1**t)) / (np.sqrt(v / (1 - c.b2**t)) + c.eps)


def nadam(c, path, g, p, t, rate, state):
  m, v = average(state, "m", c.b1, g), average(state, "v", c.b2, g**2)
  ahead = c.b1 * m / (1 - c.b1 ** (t + 1)) + (1 - c.b1) * g / (1 - c.b1**t)
  return rate * ahead / (np.sqrt(v / (1 - c.b2**t)) + c.eps)


def lamb(c, path, g, p, t, rate, state):
  """Its decay is inside the trust ratio."""
  u = adam(c, path, g, p, t, 1.0, state) + (c.weight_decay * p if path in KERNELS else 0)
  ratio = np.linalg.norm(p) / np.linalg.norm(u) if path in KERNELS else 1.0
  return rate * ratio * u


def lars(c, path, g, p, t, rate, state):
  """Its decay too."""
  decay = c.weight_decay if path in KERNELS else 0.0
  below = np.linalg.norm(g) + decay * np.linalg.norm(p)
  ratio = c.trust_coefficient * np.linalg.norm(p) / below if path in KERNELS else 1.0
  step = rate * ratio * (g + decay * p)
  m = total(state, c.momentum, step)
  return step + c.momentum * m if c.nesterov else m


def lion(c, path, g, p, t, rate, state):
  u = np.sign(c.b1 * state.get("m", 0.0) + (1 - c.b1) * g)
  average(state, "m", c.b2, g)
  return rate * u


def muon(c, path, g, p, t, rate, state):
  if path not in MUON:
    return adam(c, path, g, p, t, rate, state)
  m = average(state, "m", c.momentum, g)
  ahead = c.momentum * m / (1 - c.momentum ** (t + 1))
  ahead = ahead + (1 - c.momentum) * g / (1 - c.momentum**t)
  rows = g.size // g.shape[-1]
  return rate * 0.2 * np.sqrt(max(rows, g.shape[-1])) * orthogonal(ahead)


def schedule_free_sgd(c, path, g, p, t, rate, state):
  """arXiv:2405.15682, equations 3 to 5; p is y, and weights are squares of the highest rate."""
  return _interpolated(c, p, t, rate, state, rate * g)


def schedule_free_adamw(c, path, g, p, t, rate, state):
  v = average(state, "v", c.b2, g**2)
  u = g / (np.sqrt(v / (1 - c.b2**t)) + c.eps)
  return _interpolated(
    c, p, t, rate, state, rate * (u + (c.weight_decay * p if path in KERNELS else 0))
  )


def _interpolated(c, y, t, rate, state, step):
  x, z = state.get("x", y), state.get("z", y)
  state["highest"] = max(state.get("highest", 0.0), rate)
  state["weights"] = state.get("weights", 0.0) + state["highest"] ** 2
  share = state["highest"] ** 2 / state["weights"]
  z = z - step
  x = (1 - share) * x + share * z
  state["x"], state["z"] = x, z
  return y - ((1 - c.b1) * z + c.b1 * x)


FORMULAS = {
  f.__name__: f
  for f in (
    sgd, rmsprop, rmsprop_tf, adam, nadam, lamb, lars, lion, muon,
    schedule_free_sgd, schedule_free_adamw,
  )
} | {"adamw": adam}  # fmt: skip
DECAYS_INSIDE = ("lamb", "lars", "schedule_free_adamw")


def reference(c, grads, kind, decayed=lambda path: path.endswith("kernel")):
  """The trajectory and what each formula keeps; clipping first, as clip_grad_norm_ of torch."""
  params, trajectory = start(), []
  states = {path: {} for path in SHAPES}
  for t, (grad, rate) in enumerate(zip(grads, RATES, strict=True), 1):
    norm = np.sqrt(sum((g**2).sum() for g in grad.values()))
    clip = min(1.0, c.clip_norm / norm) if c.clip_norm else 1.0
    for path, p in params.items():
      decay = c.weight_decay if decayed(path) and c.name not in DECAYS_INSIDE else 0.0
      g = clip * grad[path] + (decay * p if kind == "l2" else 0)
      step = FORMULAS[c.name](c, path, g, p, t, rate, states[path])
      params[path] = p - step - (rate * decay * p if kind == "decoupled" else 0)
    trajectory.append(dict(params))
  return trajectory, states
