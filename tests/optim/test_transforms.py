"""The small transformations by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chains import settings

from cnnjax import optim
from cnnjax.optim import transforms

PARAMS = {"dense": {"kernel": jnp.array([[3.0, 0.3], [4.0, 0.4]]), "bias": jnp.array([6.0, 8.0])}}
GRADS = {"dense": {"kernel": jnp.array([[0.0, 3.0], [0.0, 4.0]]), "bias": jnp.array([0.0, 12.0])}}
DEPTHS = {"dense": 0}


def one_step(params=PARAMS, grads=GRADS, rate=0.1, depths=DEPTHS, seed=0, **overrides):
  """What a first step leads to, by SGD if not said otherwise; momentum acts from the second on."""
  config = settings(**overrides)
  optimizer = optim.create(config, lambda _: rate, params, depths, seed=seed)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  return optax.apply_updates(params, updates)


def close(found, kernel, bias):
  wanted = {"dense": {"kernel": np.array(kernel, "f4"), "bias": np.array(bias, "f4")}}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, wanted)


def test_plain():
  close(one_step(), [[3, 0], [4, 0]], [6, 6.8])


# Clipping.
@pytest.mark.parametrize("limit, factor", [(26.0, 1), (1.3, 0.1), (13.0, 1)])
def test_clip_by_norm(limit, factor):
  """The norm of the gradient is 13."""
  bias = [6, 8 - 1.2 * factor]
  close(one_step(clip_norm=limit), [[3, 0.3 - 0.3 * factor], [4, 0.4 - 0.4 * factor]], bias)


def test_clip_by_value():
  close(one_step(clip_value=3.5), [[3, 0], [4, 0.4 - 0.35]], [6, 8 - 0.35])


def test_adaptive_clipping_is_by_unit():
  """arXiv:2102.06171, equation 3: |g| <= 0.5 |w|, for each column and for the whole bias.

  The second unit has |w| 0.5 and |g| 5, so its gradient is scaled to 0.25; the bias |w| 10 and
  |g| 12, to 5.
  """
  found = one_step(agc=0.5, agc_mask=".")
  close(found, [[3, 0.3 - 0.1 * 0.15], [4, 0.4 - 0.1 * 0.2]], [6, 8 - 0.1 * 5])
  only = one_step(agc=0.5, agc_mask="kernel")
  close(only, [[3, 0.3 - 0.1 * 0.15], [4, 0.4 - 0.1 * 0.2]], [6, 8 - 0.1 * 12])


def test_adaptive_clipping_of_a_convolution_is_by_filter():
  kernel = jnp.stack([jnp.ones((3, 3, 2)), 10 * jnp.ones((3, 3, 2))], -1)
  params, grads = {"conv": {"kernel": kernel}}, {"conv": {"kernel": jnp.full((3, 3, 2, 2), 2.0)}}
  found = one_step(params, grads, agc=0.1, rate=1.0)["conv"]["kernel"]
  np.testing.assert_allclose(found[..., 0], 1 - 0.1, rtol=1e-5)  # 2 is clipped to 0.1 of 1
  np.testing.assert_allclose(found[..., 1], 10 - 1, rtol=1e-5)  # and to 0.1 of 10


# Noise.
def noises(steps, seed=0, **overrides):
  params = {"dense": {"kernel": jnp.zeros((60, 50)), "bias": jnp.zeros(50)}}
  config = settings(momentum=0.0, noise=0.04, noise_decay=0.5, **overrides)
  optimizer = optim.create(config, lambda _: 1.0, params, DEPTHS, seed=seed)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  zero, found = jax.tree.map(jnp.zeros_like, params), []
  for _ in range(steps):
    updates, state = update(zero, state, params)
    found.append(np.concatenate([x.ravel() for x in jax.tree.leaves(updates)]))
  return found


def test_noise_falls_and_is_a_function_of_seed_and_step():
  """Variance eta / (1 + t)^gamma, arXiv:1511.06807."""
  found = noises(9)
  for t, noise in enumerate(found):
    assert noise.std() == pytest.approx(np.sqrt(0.04 / (1 + t) ** 0.5), rel=0.05)
    assert noise.mean() == pytest.approx(0, abs=0.02)
  assert abs(np.corrcoef(found)[np.triu_indices(9, 1)]).max() < 0.1
  np.testing.assert_array_equal(noises(1)[0], found[0])
  assert abs(np.corrcoef(noises(1, seed=1)[0], found[0])[0, 1]) < 0.1


def test_noise_is_not_clipped():
  np.testing.assert_array_equal(noises(1, clip_norm=1e-3)[0], noises(1)[0])


def test_noise_is_not_the_bits_of_the_initial_parameters():
  initial = jax.random.normal(jax.random.key(0), (3050,))
  assert abs(np.corrcoef(noises(1)[0], initial)[0, 1]) < 0.1


# Decay.
def test_l1_pulls_by_the_sign():
  found = one_step(l1=2.0, grads=jax.tree.map(jnp.zeros_like, GRADS))
  close(found, [[2.8, 0.1], [3.8, 0.2]], [6, 8])
  below = jax.tree.map(lambda p: -p, PARAMS)
  close(one_step(below, jax.tree.map(jnp.zeros_like, GRADS), l1=2.0), [[-2.8, -0.1], [-3.8, -0.2]],
        [-6, -8])  # fmt: skip


def test_lars_by_hand():
  """Algorithm 1 of arXiv:1708.03888: |w| = 13, |g| = 5, so 0.5 * 13 / (5 + 0.1 * 13)."""
  params = {"dense": {"kernel": jnp.array([[5.0], [12.0]]), "bias": jnp.array([1.0])}}
  grads = {"dense": {"kernel": jnp.array([[4.0], [-3.0]]), "bias": jnp.array([2.0])}}
  found = one_step(params, grads, name="lars", trust_coefficient=0.5, weight_decay=0.1)
  rate = 0.1 * 0.5 * 13 / (5 + 0.1 * 13)
  close(found, [[5 - rate * (4 + 0.5)], [12 - rate * (-3 + 1.2)]], [1 - 0.1 * 2])


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_kernel_of_zeros_can_leave_them(name):
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  found = one_step(zeros, GRADS, name=name)["dense"]["kernel"]
  assert np.all(np.isfinite(found)) and np.all(found[:, 1] < 0)
  still = one_step(PARAMS, zeros, name=name)
  jax.tree.map(np.testing.assert_array_equal, still, PARAMS)


# Max-norm.
def test_max_norm_projects_the_units_that_are_too_long():
  """The columns have norms 5 and, after the step, 0: only the first is brought to 2."""
  close(one_step(max_norm=2.0), [[1.2, 0], [1.6, 0]], [6, 6.8])
  close(one_step(max_norm=5.0), [[3, 0], [4, 0]], [6, 6.8])


def test_max_norm_of_a_convolution_is_by_filter_and_looks_at_what_the_step_leads_to():
  kernel = jnp.stack([jnp.ones((3, 3, 1)), jnp.zeros((3, 3, 1))], -1)
  params, grads = {"conv": {"kernel": kernel}}, {"conv": {"kernel": -jnp.ones((3, 3, 1, 2))}}
  found = one_step(params, grads, rate=1.0, max_norm=4.5)["conv"]["kernel"]
  np.testing.assert_allclose(found[..., 0], 1.5, rtol=1e-6)  # 2 each, norm 6
  np.testing.assert_array_equal(found[..., 1], 1.0)  # norm 3


# Freezing.
def test_staying_keeps_the_sign_of_zero():
  """Outside jit as well, where XLA does not see that a sum is one with 0."""
  params = jnp.array([0.0, -0.0, -1.5, 3.0])
  updates, _ = transforms.STAY.update(jnp.array([1.0, np.nan, np.inf, 0.0]), None, params)
  after = np.asarray(optax.apply_updates(params, updates))
  np.testing.assert_array_equal(after.view(np.uint32), np.asarray(params).view(np.uint32))


# Lookahead.
def test_lookahead_by_hand():
  """k = 3 and alpha = 0.25 of arXiv:1907.08610, algorithm 1, over seven steps of SGD."""
  config = settings(momentum=0.5, lookahead=3, lookahead_rate=0.25)
  params = {"dense": {"kernel": jnp.array([[1.0]])}}
  optimizer = optim.create(config, lambda _: 0.1, params, DEPTHS)
  state, fast, slow, momentum = optimizer.init(params), 1.0, 1.0, 0.0
  for step in range(1, 8):
    grads = {"dense": {"kernel": jnp.array([[float(step)]])}}
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    momentum = 0.5 * momentum + step  # of the fast optimizer, kept over a synchronisation
    fast -= 0.1 * momentum
    if step % 3 == 0:
      slow += 0.25 * (fast - slow)
      fast = slow
    assert params["dense"]["kernel"].item() == pytest.approx(fast, rel=1e-5), step
    assert state.slow["dense"]["kernel"].item() == pytest.approx(slow, rel=1e-5), step


def test_the_slow_parameters_are_other_buffers():
  """As the train state is donated."""
  config = settings(lookahead=2)
  optimizer = optim.create(config, lambda _: 0.1, PARAMS, DEPTHS)
  state = optimizer.init(PARAMS)
  step = jax.jit(lambda s, p: optimizer.update(GRADS, s, p), donate_argnums=(0, 1))
  params = jax.tree.map(jnp.copy, PARAMS)
  updates, _ = step(state, params)
  assert np.all(np.isfinite(updates["dense"]["kernel"]))


# SAM.
def quadratic(params, _):
  """The gradient of sum(a p^2) / 2 with a = 1, 2, ... over all values."""
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  return unravel(jnp.arange(1, flat.size + 1) * flat)


@pytest.mark.parametrize("kind", ["l2", "decoupled"])
def test_sam_steps_by_the_gradient_uphill(kind):
  """arXiv:2010.01412, equations 2 and 3, in two steps with momentum; it decays where it stands."""
  rho, momentum, rate, decay = 0.5, 0.9, 0.1, np.array([0.0, 0.3, 0.3])
  config = settings(sam_rho=rho, momentum=momentum, weight_decay=0.3, weight_decay_kind=kind)
  params = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}}
  optimizer = optim.create(config, lambda _: rate, params, DEPTHS)
  state = optimizer.init(params)
  w, a, m = np.array([0.5, 1.0, -2.0]), np.array([1.0, 2.0, 3.0]), 0.0  # bias, kernel
  for _ in range(2):
    grads = quadratic(params, 0)
    updates, state = optimizer.update(grads, state, params, grad_fn=quadratic, rate_scale=1.0)
    params = optax.apply_updates(params, updates)
    g = a * w
    uphill = w + rho * g / np.linalg.norm(g)
    m = momentum * m + a * uphill + (decay * w if kind == "l2" else 0)
    w = w - rate * (m if kind == "l2" else m + decay * w)
    flat, _ = jax.flatten_util.ravel_pytree(params)
    np.testing.assert_allclose(flat, w, rtol=1e-5, atol=1e-6)


def test_sam_does_not_look_uphill_along_what_is_frozen():
  config = settings(sam_rho=0.5, momentum=0.0, freeze=("bias",))
  params = {"dense": {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.array([7.0])}}
  optimizer = optim.create(config, lambda _: 0.1, params, DEPTHS)
  seen = []

  def grad_fn(at, _):
    seen.append(at)
    return at

  updates, _ = optimizer.update(params, optimizer.init(params), params, grad_fn=grad_fn)
  (at,) = seen
  np.testing.assert_allclose(at["dense"]["kernel"], [[3.3, 4.4]], rtol=1e-6)
  np.testing.assert_array_equal(at["dense"]["bias"], [7.0])
  np.testing.assert_allclose(updates["dense"]["kernel"], [[-0.33, -0.44]], rtol=1e-5)


def test_sam_where_the_gradient_is_0():
  """There is no uphill: the gradient is asked for at the parameters."""
  optimizer = optim.create(settings(sam_rho=0.5, momentum=0.0), lambda _: 0.1, PARAMS, DEPTHS)
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = optimizer.update(zero, optimizer.init(PARAMS), PARAMS, grad_fn=lambda p, _: p)
  close(updates, [[-0.3, -0.03], [-0.4, -0.04]], [-0.6, -0.8])


def test_sam_needs_the_gradient_function():
  optimizer = optim.create(settings(sam_rho=0.5), lambda _: 0.1, PARAMS, DEPTHS)
  with pytest.raises(TypeError, match="grad_fn"):
    optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)


# Rates.
@pytest.mark.parametrize("scale", [{}, {"rate_scale": 1.0}, {"rate_scale": 0.25}])
def test_the_rate_follows_the_schedule_and_the_scale(scale):
  transform = transforms.scale_by_rate(lambda step: 0.5 / (1 + step))
  state = transform.init(GRADS)
  for step in range(3):
    updates, state = transform.update(GRADS, state, **scale)
    rate = 0.5 / (1 + step) * scale.get("rate_scale", 1.0)
    np.testing.assert_allclose(updates["dense"]["bias"], [0, -rate * 12], rtol=1e-6)
  assert int(state.count) == 3
  # Of a run that left steps out the rate is that of its own step, not of the updates so far.
  updates, _ = transform.update(GRADS, state, step=9, **scale)
  rate = 0.05 * scale.get("rate_scale", 1.0)
  np.testing.assert_allclose(updates["dense"]["bias"], [0, -rate * 12], rtol=1e-6)


def test_the_scale_may_be_traced():
  optimizer = optim.create(settings(momentum=0.0), lambda _: 0.1, PARAMS, DEPTHS)
  state = optimizer.init(PARAMS)
  steps = jax.vmap(lambda s: optimizer.update(GRADS, state, PARAMS, rate_scale=s)[0])(
    jnp.array([1.0, 3.0])
  )
  np.testing.assert_allclose(steps["dense"]["bias"][:, 1], [-1.2, -3.6], rtol=1e-6)
