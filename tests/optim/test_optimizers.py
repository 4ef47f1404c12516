"""The optimizer chain: each direction step by step against its formula, and the whole of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from chains import (
  DEPTHS,
  KERNELS,
  MUON,
  RATES,
  SHAPES,
  build,
  gradients,
  in_float32,
  nested,
  random,
  reference,
  run,
  settings,
  start,
  stepper,
)

from cnnjax import optim, registry
from cnnjax.errors import UserError

CONSTANT = {"schedule": {"name": "constant"}}
L2, DECOUPLED = {"weight_decay_kind": "l2"}, {"weight_decay_kind": "decoupled"}
CASES = [  # (settings, the kind of weight decay that they mean)
  ({"name": "sgd", "momentum": 0.0}, "l2"),
  ({"name": "sgd"}, "l2"),
  ({"name": "sgd", "nesterov": True}, "l2"),
  ({"name": "sgd", "momentum": 0.0, "weight_decay": 0.1}, "l2"),
  ({"name": "sgd", "nesterov": True, "weight_decay": 0.1}, "l2"),
  ({"name": "sgd", "weight_decay": 0.1, **DECOUPLED}, "decoupled"),
  ({"name": "sgd", "nesterov": True, "weight_decay": 0.1, "clip_norm": 0.5}, "l2"),
  ({"name": "rmsprop", "weight_decay": 0.1, "decay": 0.8, "eps": 0.1}, "l2"),
  ({"name": "rmsprop", "weight_decay": 0.1, "momentum": 0.0, **DECOUPLED}, "decoupled"),
  ({"name": "rmsprop_tf", "weight_decay": 0.1, "decay": 0.8, "eps": 0.1}, "l2"),
  ({"name": "rmsprop_tf", "momentum": 0.0, "eps": 1.0}, "l2"),
  ({"name": "adam", "b1": 0.8, "b2": 0.95}, "l2"),
  ({"name": "adam", "weight_decay": 0.1, "eps": 1e-3}, "l2"),
  ({"name": "adam", "weight_decay": 0.2, **DECOUPLED}, "decoupled"),
  ({"name": "adamw", "weight_decay": 0.1}, "decoupled"),
  ({"name": "adamw", "weight_decay": 0.1, "eps": 0.1, "clip_norm": 0.5}, "decoupled"),
  ({"name": "nadam", "weight_decay": 0.1, "b1": 0.8}, "l2"),
  ({"name": "nadam", "weight_decay": 0.1, "b1": 0.8, **DECOUPLED}, "decoupled"),
  ({"name": "lamb", "weight_decay": 0.1, "eps": 1e-6}, "decoupled"),
  ({"name": "lars", "weight_decay": 0.1, "trust_coefficient": 0.02}, "l2"),
  ({"name": "lars", "nesterov": True, "trust_coefficient": 0.02}, "l2"),
  ({"name": "lion", "weight_decay": 0.1, "b2": 0.99}, "decoupled"),
  ({"name": "muon", "weight_decay": 0.1, "momentum": 0.95}, "decoupled"),
  ({"name": "schedule_free_sgd", "weight_decay": 0.1, **CONSTANT}, "l2"),
  ({"name": "schedule_free_sgd", "b1": 0.95, **CONSTANT}, "l2"),
  ({"name": "schedule_free_adamw", "weight_decay": 0.1, **CONSTANT}, "decoupled"),
]
name_of = lambda case: "-".join(str(x) for x in case[0].values() if not isinstance(x, dict))


def close(ours, theirs, rtol=2e-5, atol=1e-5):
  for path in SHAPES:
    np.testing.assert_allclose(ours[path], theirs[path], rtol=rtol, atol=atol, err_msg=path)


@pytest.mark.smoke
@pytest.mark.parametrize("overrides, kind", CASES, ids=map(name_of, CASES))
def test_every_step_is_that_of_the_formula(overrides, kind):
  config = settings(**overrides)
  tolerance = {"rtol": 1e-4, "atol": 1e-4} if config.name == "muon" else {}
  ours, _ = run(config, gradients())
  for step, (a, b) in enumerate(zip(ours, reference(config, gradients(), kind)[0], strict=True)):
    if RATES[step]:  # nothing moves where the rate is 0, but for the momentum of steps
      assert all(np.any(a[path] != start()[path].astype(np.float32)) for path in SHAPES)
    close(a, b, **tolerance)


def test_every_optimizer_has_a_case():
  assert {c["name"] for c, _ in CASES} == set(registry.parts("optimizer"))


def test_the_cases_differ():
  """Or the test above would not see which formula is used."""
  flat = lambda params: np.concatenate([value.reshape(-1) for value in params.values()])
  ends = [flat(reference(settings(**o), gradients(), kind)[0][-1]) for o, kind in CASES]
  for i, a in enumerate(ends):
    for j, b in enumerate(ends[:i]):
      assert np.abs(a - b).max() > 1e-3, (CASES[i], CASES[j])


@pytest.mark.parametrize("frozen", [(), ("^block",)])
@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
def test_schedule_free_is_evaluated_at_its_average(name, frozen):
  config = settings(name=name, weight_decay=0.1, freeze=frozen, **CONSTANT)
  trajectory, state = run(config, gradients())
  kind = "l2" if name.endswith("sgd") else "decoupled"
  _, states = reference(config, gradients(), kind)
  found = optim.masks.paths(
    jax.jit(lambda s, p: optim.averaged(config, s, p))(state, nested(trajectory[-1]))
  )
  for path in SHAPES:
    wanted = start()[path] if frozen and path.startswith("block") else states[path]["x"]
    np.testing.assert_allclose(found[path], wanted, rtol=1e-4, atol=1e-5, err_msg=path)
  assert optim.averaged(settings(), state, trajectory[-1]) is None


def test_a_rate_of_0_does_not_spoil_the_average():
  """As in the first step of a warm-up."""
  config = settings(name="schedule_free_sgd", **CONSTANT)
  rates = lambda step: jnp.asarray([0.0, 0.0, 0.1])[step]
  trajectory, state = run(config, gradients(steps=3), rates)
  close(trajectory[1], start(), rtol=1e-6)
  wanted = {path: start()[path] - 0.1 * gradients()[2][path] for path in SHAPES}
  close(optim.masks.paths(optim.averaged(config, state, nested(trajectory[-1]))), wanted)


# Muon.
@functools.cache
def muon_step():
  """The first step of a rate of 1, by path."""
  config = settings(name="muon")
  trajectory, _ = run(config, gradients(steps=1), lambda _: 1.0)
  return {path: start()[path] - trajectory[0][path] for path in SHAPES}


@pytest.mark.parametrize("path", MUON)
def test_kernels_in_the_middle_take_orthogonal_steps(path):
  step = muon_step()[path]
  rows, columns = step.size // step.shape[-1], step.shape[-1]
  values = np.linalg.svd(step.reshape(rows, columns), compute_uv=False)
  size = 0.2 * np.sqrt(max(rows, columns))
  assert np.all((values / size > 0.6) & (values / size < 1.3)), values / size
  of_gradient = np.linalg.svd(gradients()[0][path].reshape(rows, columns), compute_uv=False)
  assert of_gradient.max() / of_gradient.min() > 1.5  # it was not orthogonal before
  assert np.sqrt((step**2).mean()) == pytest.approx(0.2, rel=0.3)  # as those of Adam, about


def test_all_else_takes_those_of_adam():
  steps = muon_step()
  for path in SHAPES.keys() - set(MUON):
    np.testing.assert_allclose(np.abs(steps[path]), 1, rtol=1e-4, err_msg=path)
  assert optim.describe(settings(name="muon"), in_float32(start()), DEPTHS)["optimizer"] == (
    "muon (momentum 0.9; Adam b1 0.9, b2 0.999, eps 1e-08), Muon on 3 of 10 tensors, Adam on the "
    "others"
  )


# Around any.
EVERYTHING = {
  "weight_decay": 0.1, "l1": 0.01, "noise": 0.1, "clip_norm": 1.0, "sam_rho": 0.1,
  "multipliers": (("bias$", 2.0), ("^head", 0.5)), "layer_decay": 0.9,
}  # fmt: skip
BESIDES = {"lookahead": 2, "max_norm": 2.0}  # what schedule-free refuses


def everything(name):
  free = name.startswith("schedule_free")
  return {"name": name, **EVERYTHING, **(CONSTANT if free else BESIDES)}


def bits(x):
  return np.asarray(x).view(np.uint32)


@pytest.mark.parametrize("name", registry.parts("optimizer"))
def test_what_is_frozen_does_not_move_by_a_bit(name):
  """With all that there is around it, and a gradient that is not finite, inside jit."""
  config = settings(**everything(name), freeze=("^stem", "norm/bias", "conv/kernel$"))
  held = ["stem/kernel", "norm/bias", "block/conv/kernel"]
  params = in_float32(start())
  params["stem"]["kernel"] = params["stem"]["kernel"].at[0, 0, 0].set(-0.0)
  first = optim.masks.paths(params)
  optimizer = build(config, lambda _: 0.1)
  state = optimizer.init(params)

  step = stepper(optimizer, lambda params, grads: jax.tree.map(jnp.add, params, grads))
  for i, grads in enumerate(gradients(steps=4)):
    if i == 2:
      grads["stem/kernel"] = np.full(SHAPES["stem/kernel"], np.nan)
    params, state = step(params, state, in_float32(grads), {})
  for path, value in optim.masks.paths(params).items():
    same = np.array_equal(bits(value), bits(first[path]))
    assert same == (path in held), path
    assert np.all(np.isfinite(value)), path
  sizes = [np.shape(leaf) for leaf in jax.tree.leaves(state)]
  assert SHAPES["stem/kernel"] not in sizes  # no state for it
  assert SHAPES["head/kernel"] in sizes


def test_frozen_parameters_do_not_count_in_the_norm():
  config = settings(momentum=0.0, clip_norm=1.0, freeze=("^(?!head/bias)",))
  after = run(config, gradients(100.0, steps=1))[0][0]
  moved = np.linalg.norm((start()["head/bias"] - after["head/bias"]) / RATES[0])
  assert moved == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", registry.parts("optimizer"))
def test_shapes_are_enough_and_the_state_is_plain(name):
  config = settings(**everything(name), freeze=("^stem",))
  shapes = jax.eval_shape(lambda: in_float32(start()))
  optimizer = optim.create(config, lambda _: 0.1, shapes, DEPTHS)
  abstract = jax.eval_shape(optimizer.init, shapes)
  state = jax.jit(optimizer.init)(in_float32(start()))
  assert jax.tree.structure(abstract) == jax.tree.structure(state)
  for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
    assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
    np.asarray(leaf)  # no typed keys


@pytest.mark.parametrize("name", ["muon", "schedule_free_adamw"])
def test_it_goes_on_from_a_checkpoint(name, tmp_path):
  """With everything on, the last steps are the same, bit for bit, from what Orbax wrote."""
  config = settings(**everything(name), freeze=("^stem",))
  optimizer = build(config, lambda _: 0.1)

  step = stepper(optimizer)
  params = in_float32(start())
  carry = jax.device_put((params, optimizer.init(params)), jax.devices()[0])
  for grads in gradients(steps=3):
    carry = step(*carry, in_float32(grads), {})
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "state", carry)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: carry))
  for grads in gradients(steps=5)[3:]:
    carry, restored = (step(*c, in_float32(grads), {}) for c in (carry, restored))
  assert jax.tree.structure(carry) == jax.tree.structure(restored)
  jax.tree.map(np.testing.assert_array_equal, carry, restored)


def test_on_a_mesh_it_is_the_same():
  config = settings(name="lamb", weight_decay=0.1, lookahead=2, freeze=("^stem",))
  optimizer = build(config, lambda _: 0.1)
  mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  put = lambda tree: jax.device_put(
    tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  )
  params, grads = in_float32(start()), in_float32(random(1))
  step = stepper(optimizer)
  alone = step(params, optimizer.init(params), grads, {})
  shared = step(put(params), put(optimizer.init(params)), put(grads), {})
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, shared)


@pytest.mark.parametrize("name", ["lars", "schedule_free_sgd"])
def test_the_scale_of_the_rate_is_one_of_the_steps(name):
  """rate_scale=0.5 is a schedule of half the height, with everything around it."""
  free = name.startswith("schedule_free")
  config = settings(name=name, weight_decay=0.1, **(CONSTANT if free else BESIDES))
  half = lambda step: 0.5 * 0.1
  a, _ = run(config, gradients(steps=4), lambda _: 0.1, rate_scale=jnp.float32(0.5))
  b, _ = run(config, gradients(steps=4), half)
  close(a[-1], b[-1], rtol=1e-5, atol=1e-6)


# Weight decay.
@pytest.mark.parametrize(
  "pattern, decayed",
  [("bias$|scale$", lambda path: not path.endswith("kernel")), ("", lambda path: True)],
)
def test_the_mask_says_what_decays(pattern, decayed):
  config = settings(weight_decay=0.1, weight_decay_mask=pattern)
  close(run(config, gradients())[0][-1], reference(config, gradients(), "l2", decayed)[0][-1])


@pytest.mark.parametrize("scale, clipped", [(1e-3, False), (1e3, True)])
def test_clipping_is_by_the_global_norm(scale, clipped):
  config = settings(momentum=0.0, clip_norm=0.25)
  after = run(config, gradients(scale, steps=1))[0][0]
  norm = np.sqrt(sum((((start()[path] - after[path]) / RATES[0]) ** 2).sum() for path in SHAPES))
  whole = scale * np.sqrt(sum((g**2).sum() for g in gradients()[0].values()))
  assert norm == pytest.approx(0.25 if clipped else whole, rel=1e-2)


@pytest.mark.parametrize("clipping", [{"clip_norm": 1e-3}, {"clip_value": 1e-4}, {"agc": 1e-4}])
def test_decay_is_not_clipped_away(clipping):
  """Clipping looks at the gradient alone: with none, the decay is whole however large it is."""
  config = settings(momentum=0.0, weight_decay=0.5, **clipping)
  after = run(config, gradients(0.0, steps=1))[0][0]
  np.testing.assert_allclose(
    after["stem/kernel"], start()["stem/kernel"] * (1 - 0.5 * RATES[0]), rtol=1e-5
  )
  np.testing.assert_allclose(after["dense/bias"], start()["dense/bias"], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_l1_is_in_the_gradient_of_what_decays(name):
  """So SGD moves by its sign, and for AdamW it is a part of the moments."""
  config = settings(name=name, l1=0.3)
  plain = settings(name=name)
  grad = gradients(steps=1)[0]
  with_l1 = {p: g + 0.3 * np.sign(start()[p]) * (p in KERNELS) for p, g in grad.items()}
  close(run(config, [grad])[0][0], run(plain, [with_l1])[0][0], rtol=1e-6, atol=1e-7)


# Rates.
def test_rates_by_pattern_and_by_depth_multiply():
  config = settings(
    momentum=0.0, multipliers=(("^head", 10.0), ("bias$", 2.0)), layer_decay=0.5, weight_decay=0.1
  )
  after = run(config, gradients(steps=1))[0][0]
  for path in SHAPES:
    factor = (10 if path.startswith("head") else 1) * (2 if path.endswith("bias") else 1)
    factor *= 0.5 ** (4 - DEPTHS[path.split("/")[0]])
    g = gradients()[0][path] + (0.1 * start()[path] if path in KERNELS else 0)
    np.testing.assert_allclose(
      after[path], start()[path] - RATES[0] * factor * g, rtol=1e-5, atol=1e-6, err_msg=path
    )


def test_a_trust_ratio_does_not_undo_a_multiplier():
  config = settings(name="lamb", multipliers=(("^head", 3.0),))
  after = run(config, gradients(steps=1))[0][0]["head/kernel"]
  moved = np.linalg.norm(after - start()["head/kernel"])
  assert moved == pytest.approx(3 * RATES[0] * np.linalg.norm(start()["head/kernel"]), rel=1e-5)


def test_depths_are_asked_for():
  for overrides in ({"layer_decay": 0.5}, {"name": "muon"}):
    with pytest.raises(ValueError, match="need the depth"):
      optim.create(settings(**overrides), lambda _: 0.1, in_float32(start()))


# Words.
@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"name": "adamw", **L2}, "adamw is Adam with decoupled.*optim.name=adam"),
    ({"name": "lamb", **L2}, "lamb takes weight_decay_kind=decoupled alone"),
    ({"name": "lion", **L2}, "lion takes weight_decay_kind=decoupled alone"),
    ({"name": "muon", **L2}, "muon takes weight_decay_kind=decoupled alone"),
    ({"name": "lars", **DECOUPLED}, "lars takes weight_decay_kind=l2 alone"),
    ({"name": "rmsprop_tf", **DECOUPLED}, "rmsprop_tf takes weight_decay_kind=l2 alone"),
    ({"name": "schedule_free_adamw", **L2, **CONSTANT}, "optim.name=schedule_free_sgd"),
    ({"name": "admw"}, "unknown optimizer 'admw'. Did you mean 'adamw'?"),
    ({"nesterov": True, "momentum": 0.0}, "Nesterov needs a momentum"),
    ({"name": "adam", "nesterov": True}, "not for adam: set it to False, or take optim.name=nadam"),
    (
      {"name": "lion", "nesterov": True},
      "no effect with .*=lion: set .*=.*sgd or .*lars",
    ),
    ({"b1": 0.8}, "b1' is 0.8 and has no effect with optim.name=sgd: set .*adam or .* at 0.9$"),
    (
      {"name": "adam", "decay": 0.5, "b2": 0.9},
      "decay' is 0.5 .*=adam: set .*=rmsprop or rmsprop_tf, or",
    ),
    ({"clip_norm": 1.0, "clip_value": 1.0}, "clip_norm and clip_value both clip the gradient"),
    ({"clip_norm": 1.0, "agc": 0.01}, "clip_norm and agc both clip the gradient"),
    (
      {"name": "schedule_free_sgd"},
      "schedule.name=constant, with or without a warm-up, not cosine",
    ),
    ({"name": "schedule_free_sgd", "b1": 0.0, **CONSTANT}, "needs a b1 above 0"),
    ({"name": "schedule_free_sgd", "lookahead": 5, **CONSTANT}, "optim.lookahead averages"),
    ({"name": "schedule_free_sgd", "max_norm": 3.0, **CONSTANT}, "optim.max_norm holds the step"),
    (
      {"name": "schedule_free_sgd", "plateau": {"patience": 3}, **CONSTANT},
      "optim.plateau.patience lowers the rate",
    ),
    ({"weight_decay_mask": "["}, r"weight_decay_mask '\[' is not a regular expression"),
    ({"agc_mask": "["}, r"agc_mask '\[' is not a regular expression"),
    ({"freeze": ("stem", "[")}, r"freeze '\[' is not a regular expression"),
    ({"multipliers": (("[", 2.0),)}, r"multipliers '\[' is not a regular expression"),
    ({"schedule": {"name": "cosin"}}, "unknown schedule 'cosin'"),
  ],
)
def test_contradictions_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    settings(**overrides)


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"weight_decay": 0.1, "weight_decay_mask": "weights"}, "_mask 'weights' matches no parameter"),
    ({"l1": 0.1, "weight_decay_mask": "weights"}, "_mask 'weights' matches no parameter"),
    ({"agc": 0.1, "agc_mask": "^haed"}, r"agc_mask '\^haed' matches no.*did you mean 'head'"),
    ({"freeze": ("^stem", "^blocks")}, r"optim.freeze '\^blocks' matches no.*mean 'block'"),
    ({"freeze": (".",)}, "freezes every parameter: nothing is left to train"),
    ({"multipliers": (("^heads", 2.0),)}, r"optim.multipliers '\^heads' matches no.*'head'"),
    (
      {"freeze": ("^head",), "multipliers": (("^head", 2.0),)},
      r"multipliers '\^head' matches no parameter that is trained",
    ),
    (
      {"freeze": ("kernel$",), "weight_decay": 0.1},
      r"weight_decay_mask 'kernel\$' matches no parameter that is trained",
    ),
  ],
)
def test_every_pattern_must_match(overrides, message):
  config = settings(**overrides)
  for function in (lambda: build(config), lambda: optim.describe(config, in_float32(start()))):
    with pytest.raises(UserError, match=message):
      function()


def test_a_mask_that_is_not_used_may_match_nothing():
  build(settings(weight_decay_mask="weights", agc_mask="weights"))


@pytest.mark.parametrize(
  "overrides, optimizer, decay",
  [
    ({"momentum": 0.9}, "sgd (momentum 0.9)", "no weight decay"),
    (
      {"nesterov": True, "weight_decay": 5e-4, "clip_norm": 1.0},
      "sgd (momentum 0.9, Nesterov), gradient clipped to norm 1",
      "l2 0.0005 on 6 of 10 tensors (kernel); not on bias, scale",
    ),
    (
      {"name": "adamw", "weight_decay": 0.05, "weight_decay_mask": "."},
      "adamw (b1 0.9, b2 0.999, eps 1e-08)",
      "decoupled 0.05 on 10 of 10 tensors (bias, kernel, scale)",
    ),
    (
      {"name": "adam", "weight_decay": 0.1, "weight_decay_mask": "norm", "l1": 0.01},
      "adam (b1 0.9, b2 0.999, eps 1e-08)",
      "l2 0.1 and l1 0.01 on 2 of 10 tensors (bias, scale); not on bias, kernel",
    ),
    (
      {"name": "sgd", "weight_decay": 0.1, **DECOUPLED},
      "sgd (momentum 0.9)",
      "decoupled 0.1 on 6 of 10 tensors (kernel); not on bias, scale",
    ),
    (
      {"name": "lars", "l1": 0.1, "agc": 0.01, "noise": 0.3, "lookahead": 5, "sam_rho": 0.05},
      "lars (momentum 0.9, trust coefficient 0.001), SAM with rho 0.05, gradient clipped to 0.01 "
      "of the weights on 8 of 10 tensors, gradient noise 0.3 / (1 + step)^0.55, lookahead every 5 "
      "steps by 0.5",
      "l1 0.1 on 6 of 10 tensors (kernel); not on bias, scale",
    ),
  ],
)
def test_in_words(overrides, optimizer, decay):
  assert optim.describe(settings(**overrides), in_float32(start())) == {
    "optimizer": optimizer,
    "decay": decay,
  }


def test_what_is_frozen_and_has_its_own_rate_in_words():
  config = settings(freeze=("^norm", "depthwise"), multipliers=(("^head", 10.0),), layer_decay=0.5)
  found = optim.describe(config, in_float32(start()), DEPTHS)
  assert found["frozen"] == "3 of 10 tensors: block (1 of 3), norm"
  assert found["rates"] == (
    "x10 on 2 of 7 tensors (^head), x0.5 for each layer before the head: from x0.0625 to x10"
  )
