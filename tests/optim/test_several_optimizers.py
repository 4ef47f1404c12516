"""Several optimizers side by side, against optax on each part of the parameters alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import build, checkpoints, train
from cnnjax.errors import UserError
from cnnjax.optim import joined

PARAMS = {
  "body": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)},
  "critic": {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.zeros(2)},
}
OWN = {
  "main": {"body": {"kernel": True, "bias": True}, "critic": {"kernel": False, "bias": False}},
  "critic": {"body": {"kernel": False, "bias": False}, "critic": {"kernel": True, "bias": True}},
}
# Clipping sees the norm of an optimizer's own parameters alone.
MADE = {
  "main": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, momentum=0.9)),
  "critic": optax.adam(0.01),
}


def grads(step):
  return jax.tree.map(lambda x: jnp.cos(x + step), PARAMS)


def run(moves, every=None):
  """The parameters and the state after updates that only those in `moves` take, in turn."""
  made = {name: optax.with_extra_args_support(one) for name, one in MADE.items()}
  optimizer = joined.join(made, OWN, every or {})
  params, state = PARAMS, optimizer.init(PARAMS)
  update = jax.jit(optimizer.update, static_argnames="only")
  for step, only in enumerate(moves):
    updates, state = update(grads(step), state, params, only=only, step=jnp.int32(step))
    params = optax.apply_updates(params, updates)
  return params, state


def alone(name, part, steps):
  params, state = PARAMS[part], MADE[name].init(PARAMS[part])
  for step in steps:
    updates, state = MADE[name].update(grads(step)[part], state, params)
    params = optax.apply_updates(params, updates)
  return params


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


@pytest.mark.parametrize(
  "moves, every, main, critic",
  [
    ([None] * 5, {}, range(5), range(5)),
    ([None] * 5, {"critic": 2}, range(5), [0, 2, 4]),
    (["critic", "critic", "main", "critic"], {}, [2], [0, 1, 3]),
    (["critic"] * 4, {"critic": 3}, [], [0, 3]),
  ],
)
def test_each_moves_its_own_parameters_in_its_own_rhythm(moves, every, main, critic):
  params, state = run(moves, every)
  close(params["body"], alone("main", "body", main))
  close(params["critic"], alone("critic", "critic", critic))
  assert state.keys() == {"main", "critic"}


def test_an_optimizer_that_is_not_there_is_named():
  with pytest.raises(UserError, match="no optimizer 'generator'; choose from main, critic"):
    run(["generator"])


HEAD = ("top", {"params": "^head/", "every": 2, "name": "adamw", "learning_rate": 0.01})


@pytest.mark.parametrize(
  "optimizers, words",
  [
    (("top",), "takes pairs of a name and settings, not 'top'"),
    ((("top", {}),), "top does not say which parameters are its own"),
    ((("main", {"params": "x"}),), "'main' is no name, or is taken"),
    ((HEAD, HEAD), "'top' is no name, or is taken"),
    ((("top", {"params": "("}),), "not a regular expression"),
    ((("top", {"params": "^head/", "every": 0}),), "every of top is 0"),
    ((("top", {"params": "^head/", "learning_rat": 1.0}),), "Did you mean 'optim.learning_rate'"),
    ((("top", {"params": "^head/", "learning_rate": -1.0}),), "top: .*learning_rate.*above 0"),
    ((("top", {"params": "^head/", "name": "adamm"}),), "top: unknown optimizer 'adamm'"),
    ((("top", {"params": "^head/", "sam_rho": 0.1}),), "optim.sam_rho \\(of top\\) goes with one"),
  ],
)
def test_entries_that_are_wrong_are_refused(tiny, optimizers, words):
  with pytest.raises(UserError, match=words):
    build.validate(tiny(optimizers=optimizers))


@pytest.mark.parametrize(
  "patterns, words",
  [
    (["^haed/"], "params of top0 '\\^haed/' matches no parameter; did you mean 'head'"),
    (
      ["^head/", "kernel$"],
      "top0 and top1 both claim the parameter head/kernel: narrow the params",
    ),
    (["."], "top0 takes all parameters, and none is left for optim"),
  ],
)
def test_each_parameter_has_one_optimizer(tiny, patterns, words):
  entries = tuple((f"top{i}", {"params": pattern}) for i, pattern in enumerate(patterns))
  with pytest.raises(UserError, match=words):
    build.build(tiny(optimizers=entries))


def test_a_run_with_two_is_saved_and_goes_on_as_it_was(tiny, tmp_path):
  """On eight devices; and each is said, and its rate is logged."""
  config = tiny(optimizers=(HEAD,), **{"epochs": 1, "mesh.data": 8})
  program = build.build(config)
  assert program.summary["top optimizer"].startswith("adamw")
  end, metrics, _ = train.train(config, tmp_path)
  assert end.opt_state.keys() == {"main", "top"}
  assert metrics["learning_rate_top"] < metrics["learning_rate"]
  longer = config.copy_and_resolve_references()
  longer.epochs = 2
  now, _, _ = train.train(longer, tmp_path)
  assert now.steps_done == 2 * end.steps_done == checkpoints.last_step(tmp_path)
  counts = [x for p, x in checkpoints.paths(now.opt_state["top"]).items() if p.endswith("count")]
  assert counts and all(int(x) == now.steps_done // 2 for x in counts)
