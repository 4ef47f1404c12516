"""Batch norms treated from outside, beside a batch norm in NumPy, flax's own and torch's."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import batch_stats, layers

BATCH = 12
MUTABLE = ["batch_stats", "moments"]


class Block(nn.Module):
  """A dense layer and its batch norm; [batch, 5] to [batch, 5], nothing else in between."""

  dtype: Any = jnp.float32
  use_scale: bool = True

  @nn.compact
  def __call__(self, x, *, train, drop_path=None):
    x = nn.Dense(5, dtype=self.dtype)(x)
    norm = layers.batch_norm(
      dtype=self.dtype, train=train, momentum=0.7, use_scale=self.use_scale, name="norm"
    )
    return nn.tanh(norm(x))


class Net(nn.Module):
  """Batch norm, a block, and more blocks, as `kind` says: one by one, by remat or by scan."""

  kind: str = "plain"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    x = layers.batch_norm(dtype=self.dtype, train=train, name="first")(x)
    x = Block(self.dtype, use_scale=False, name="middle")(x, train=train)
    block = Block(self.dtype, name="last")
    if self.kind == "scan":
      return layers.scan_blocks(block, x, train=train, remat=True, drop_path=[0.0, 0.0])
    return layers.run_block(block, x, train=train, remat=self.kind == "remat")


def inputs(dtype=jnp.float32):
  x = np.random.default_rng(0).normal(1.5, 2.0, (BATCH, 3, 2, 5))
  return jnp.asarray(x, dtype)


def variables_of(model, x):
  """Initial variables, moved at random so that no scale is 1, no statistic that of the start."""
  variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda v: v + jnp.asarray(rng.uniform(0.1, 0.5, v.shape), v.dtype), variables)


def apply(model, frozen=None, ghost=None, mutable=MUTABLE):
  """variables, x -> (output, updated collections), treated so."""

  def run(variables, x):
    with batch_stats.batch_norm_mode(frozen, ghost):
      return model.apply(variables, x, train=True, mutable=mutable)

  return run


def derivatives(run):
  """variables, x -> (output, updated, gradients by parameters and by x) of a weighted sum."""

  def loss(params, x, stats):
    y, updated = run({"params": params, "batch_stats": stats}, x)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)), (y, updated)

  def both(variables, x):
    grads, (y, updated) = jax.grad(loss, argnums=(0, 1), has_aux=True)(
      variables["params"], x, variables["batch_stats"]
    )
    return y, updated["batch_stats"], grads

  return jax.jit(both)


def same(a, b, **tolerance):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


def identical(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


class Plain(nn.Module):
  """One batch norm."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    return layers.batch_norm(dtype=self.dtype, train=train, momentum=0.8, name="norm")(x)


def by_groups(variables, x, *, ghost):
  """The definition of ghost batch norm: one batch norm a group, statistics of all."""
  parts = [
    Plain().apply(variables, x[i : i + ghost], train=True, mutable=["batch_stats"])
    for i in range(0, len(x), ghost)
  ]
  stats = jax.tree.map(lambda *s: sum(s) / len(s), *(updated for _, updated in parts))
  return jnp.concatenate([y for y, _ in parts]), stats


@pytest.mark.parametrize("ghost", [1, 4, BATCH])
def test_ghost_normalises_each_group_by_itself(ghost):
  x, model = inputs(), Plain()
  variables = variables_of(model, x)
  ours = derivatives(apply(model, ghost=ghost))(variables, x)
  same(ours, derivatives(functools.partial(by_groups, ghost=ghost))(variables, x), atol=2e-5)
  groups = np.asarray(x, np.float64).reshape(-1, ghost, 3, 2, 5)
  axes, norm = (1, 2, 3), variables["params"]["norm"]
  normal = groups - groups.mean(axes, keepdims=True)
  normal /= np.sqrt(groups.var(axes, keepdims=True) + 1e-5)
  same(ours[0], normal.reshape(x.shape) * norm["scale"] + norm["bias"], atol=1e-5)
  moved = 0.8 * variables["batch_stats"]["norm"]["var"] + 0.2 * groups.var(axes).mean(0)
  same(ours[1]["norm"]["var"], moved, rtol=1e-5)


def test_ghost_must_divide_the_batch():
  x = inputs()
  variables = variables_of(Plain(), x)
  with pytest.raises(UserError, match=r"ghost=5 does not divide the 12 examples.*do: 4 and 6"):
    apply(Plain(), ghost=5)(variables, x)
  with pytest.raises(UserError, match=r"nearest that do: 12$"):
    batch_stats.check_ghost(100, 12)


@pytest.mark.parametrize("kind", ["plain", "scan"])
def test_nothing_asked_changes_no_bit(kind):
  x, model = inputs(), Net(kind)
  variables = variables_of(model, x)
  plain = lambda variables, x: model.apply(variables, x, train=True, mutable=["batch_stats"])
  treated = apply(model, frozen=lambda path: False, mutable=["batch_stats"])
  identical(derivatives(treated)(variables, x), derivatives(plain)(variables, x))
  # Neither in evaluation nor in init, which would refuse groups of 5.
  with batch_stats.batch_norm_mode(ghost=5):
    evaluated = jax.jit(lambda v: model.apply(v, x, train=False))(variables)
    model.init(jax.random.key(0), x, train=True)
  identical(evaluated, jax.jit(lambda v: model.apply(v, x, train=False))(variables))


@pytest.mark.parametrize(
  ("kind", "dtype"),
  [
    ("plain", jnp.float32),
    ("remat", jnp.float32),
    ("scan", jnp.float32),
    ("plain", jnp.bfloat16),
    ("plain", jnp.float16),
  ],
)
def test_frozen_is_evaluation_and_keeps_its_statistics(kind, dtype):
  x, model = inputs(dtype), Net(kind, dtype)
  variables = variables_of(model, x)
  frozen = derivatives(apply(model, frozen=lambda path: True))(variables, x)
  evaluation = lambda variables, x: (
    model.apply(variables, x, train=False),
    {"batch_stats": variables["batch_stats"]},
  )
  identical(frozen, derivatives(evaluation)(variables, x))
  assert all(np.any(g) for g in jax.tree.leaves(frozen[2]))


@pytest.mark.parametrize("kind", ["plain", "remat", "scan"])
def test_one_frozen_module(kind):
  """By its path, inside transforms too; it leaves no moments, and the others move on."""
  x, model, seen = inputs(), Net(kind), set()
  variables = variables_of(model, x)
  frozen = lambda path: seen.add(path) or path == "last/norm"
  _, updated = jax.jit(apply(model, frozen))(variables, x)
  assert seen == {"first", "middle/norm", "last/norm"}
  old, new = flatten_dict(variables["batch_stats"]), flatten_dict(updated["batch_stats"])
  for path, value in old.items():
    assert np.array_equal(value, new[path]) == (path[0] == "last"), path
  moments = updated["moments"]
  assert set(moments) == {"first", "middle"}
  identical(
    batch_stats.updated(variables["batch_stats"], moments)["last"], variables["batch_stats"]["last"]
  )
  whole = batch_stats.pooled([moments], variables["batch_stats"])
  identical(whole["last"], variables["batch_stats"]["last"])
  assert jax.tree.structure(whole) == jax.tree.structure(variables["batch_stats"])
  assert set(batch_stats.pooled([moments])) == {"first", "middle"}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_moments_are_means_in_float32(dtype):
  x = inputs(dtype)
  variables = variables_of(Plain(dtype), x)
  _, updated = jax.jit(apply(Plain(dtype), ghost=4))(variables, x)
  found, exact = updated["moments"]["norm"], np.asarray(x, np.float64)
  assert {leaf.dtype for leaf in found.values()} == {jnp.dtype("float32")}
  np.testing.assert_allclose(found["mean"], exact.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(found["mean_square"], (exact**2).mean((0, 1, 2)), rtol=1e-5)
  assert found["momentum"].shape == () and np.isclose(found["momentum"], 0.8)


@pytest.mark.parametrize("kind", ["plain", "remat", "scan"])
def test_moved_is_the_update_of_flax(kind):
  x, model = inputs(), Net(kind)
  variables = variables_of(model, x)
  _, updated = jax.jit(apply(model))(variables, x)
  for moments in (
    updated["moments"],
    [updated["moments"]] * 2,
    jax.tree.map(lambda m: jnp.stack([m, m]), updated["moments"]),
  ):
    moved = jax.jit(batch_stats.updated)(variables["batch_stats"], moments)
    same(moved, updated["batch_stats"], rtol=1e-5)
  if kind == "scan":
    assert updated["moments"]["last"]["norm"]["momentum"].shape == (2,)


def test_moments_change_no_bit_of_the_rest():
  x, model = inputs(), Net()
  variables = variables_of(model, x)
  asked, not_asked = (derivatives(apply(model, mutable=m)) for m in (MUTABLE, MUTABLE[:1]))
  identical(asked(variables, x), not_asked(variables, x))


def test_pooled_is_the_whole_population():
  """Of the first module, whose input no batch norm has touched; of a list and stacked."""
  x, model = inputs(), Net()
  variables = variables_of(model, x)
  run = jax.jit(apply(model))
  moments = [run(variables, part)[1]["moments"] for part in jnp.split(x, 4)]
  exact = np.asarray(x, np.float64)
  for form in (moments, jax.tree.map(lambda *m: jnp.stack(m), *moments)):
    found = batch_stats.pooled(form)
    np.testing.assert_allclose(found["first"]["mean"], exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["first"]["var"], exact.var((0, 1, 2)), rtol=1e-5)
    assert jax.tree.structure(found) == jax.tree.structure(variables["batch_stats"])


def test_pooled_variance_is_not_negative():
  m = {"norm": {"mean": jnp.float32([3.3]), "mean_square": jnp.float32([10.88]), "momentum": 0.9}}
  assert batch_stats.pooled([jax.tree.map(jnp.asarray, m)])["norm"]["var"] == 0


def test_sharded_over_devices():
  """Groups and moments are those of the global batch."""
  x, model = jnp.tile(inputs(), (2, 1, 1, 1))[:16], Net()
  variables = variables_of(model, x)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
  run = jax.jit(apply(model, ghost=8))
  same(run(variables, spread), run(variables, x), atol=2e-5)


def test_frozen_modules_are_those_whose_parameters_all_are():
  model = models.create("resnet20", 10)
  shapes = jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )
  params, stats = shapes["params"], shapes["batch_stats"]
  scale = ("stage2_block1", "norm1", "scale")
  tree = jax.tree_util.tree_map_with_path(
    lambda path, _: path[0].key.startswith("stage2") and tuple(k.key for k in path) != scale, params
  )
  frozen = batch_stats.frozen_modules(params, stats, tree)
  paths = sorted({"/".join(path[:-1]) for path in flatten_dict(stats)})
  assert len(paths) == 19
  assert [p for p in paths if frozen(p)] == [
    "stage2_block1/norm2", "stage2_block2/norm1", "stage2_block2/norm2",
    "stage2_block3/norm1", "stage2_block3/norm2",
  ]  # fmt: skip


def test_frozen_module_without_parameters_follows_what_is_around_it():
  params = {"a": {"conv": {"kernel": 1}}, "b": {"kernel": 1}}
  stats = {"a": {"norm": {"mean": 1}}, "norm": {"mean": 1}}
  tree = {"a": {"conv": {"kernel": True}}, "b": {"kernel": False}}
  frozen = batch_stats.frozen_modules(params, stats, tree)
  assert frozen("a/norm") and not frozen("norm")


@pytest.mark.parity
def test_frozen_is_eval_mode_of_torch():
  import torch

  x = inputs()
  variables = variables_of(Plain(), x)
  ours = derivatives(apply(Plain(), frozen=lambda path: True))(variables, x)
  theirs = torch.nn.BatchNorm2d(5).eval()
  arrays = {**variables["params"]["norm"], **variables["batch_stats"]["norm"]}
  names = dict(scale="weight", bias="bias", mean="running_mean", var="running_var")
  state = {names[name]: torch.tensor(np.asarray(value)) for name, value in arrays.items()}
  theirs.load_state_dict(state, strict=False)
  tensor = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
  y = theirs(tensor).permute(0, 2, 3, 1)
  (y * torch.cos(torch.arange(y.numel())).reshape(y.shape)).sum().backward()
  same(ours[0], y.detach().numpy(), atol=1e-5)
  same(ours[2][1], tensor.grad.permute(0, 2, 3, 1).numpy(), atol=1e-5)
  same(ours[2][0]["norm"]["scale"], theirs.weight.grad.numpy(), atol=1e-4)
