"""Attention layers: each by its formula, in numpy, and CBAM as its two parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.models.attention import attend


class Attend(nn.Module):
  """What a family does: one line at the end of a branch."""

  kind: str
  dtype: object = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    return attend(self.kind, x, train=train, dtype=self.dtype, reduction=4)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def perceptron(x, params):
  hidden = np.maximum(x @ params["reduce"]["kernel"] + params["reduce"]["bias"], 0)
  return hidden @ params["expand"]["kernel"] + params["expand"]["bias"]


def se(x, params, stats):
  return x * sigmoid(perceptron(x.mean((1, 2)), params["se"]))[:, None, None]


def eca(x, params, stats):
  kernel = np.ravel(params["eca"]["kernel"])
  y = np.stack([np.correlate(means, kernel, mode="same") for means in x.mean((1, 2))])
  return x * sigmoid(y)[:, None, None]


def cbam_channel(x, params, stats):
  y = sum(perceptron(pooled, params["channel"]) for pooled in (x.mean((1, 2)), x.max((1, 2))))
  return x * sigmoid(y)[:, None, None]


def cbam_spatial(x, params, stats):
  kernel, norm = params["spatial"]["conv"]["kernel"], params["spatial"]["norm"]
  maps = np.stack([x.max(-1), x.mean(-1)], -1)
  maps = np.pad(maps, ((0, 0), (3, 3), (3, 3), (0, 0)))
  y = np.empty(x.shape[:3])
  for i, j in np.ndindex(x.shape[1:3]):
    y[:, i, j] = np.tensordot(maps[:, i : i + 7, j : j + 7], kernel[..., 0], 3)
  stats = stats["spatial"]["norm"]
  y = (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
  return x * sigmoid(y)[..., None]


def cbam(x, params, stats):
  return cbam_spatial(cbam_channel(x, params, stats), params, stats)


@pytest.mark.parametrize("formula", [se, eca, cbam_channel, cbam_spatial, cbam])
def test_attention_by_its_formula(formula, random_variables):
  x = np.random.default_rng(0).normal(size=(2, 5, 6, 8)).astype(np.float32)
  module = Attend(formula.__name__)
  variables = random_variables(module, x)
  variables = jax.tree.map(np.asarray, {"batch_stats": {}} | variables)
  expected = formula(x, variables["params"], variables["batch_stats"])
  y = module.apply(variables, x, train=False)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
  assert np.std(y / x) > 0.01  # the weights differ


def test_none_is_the_identity():
  x = jnp.ones((1, 2, 2, 3))
  assert Attend("none").apply({}, x, train=True) is x


@pytest.mark.parametrize("kind", ["se", "eca", "cbam"])
def test_bfloat16_stays(kind):
  module = Attend(kind, dtype=jnp.bfloat16)
  x = jnp.ones((1, 3, 3, 8), jnp.bfloat16)
  init = lambda x: module.init_with_output(jax.random.key(0), x, train=False)
  y, variables = jax.eval_shape(init, x)
  assert y.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("channels, size", [(64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)])
def test_eca_kernel_sizes(channels, size):
  """Equation 12 of the paper; at 128 (4.0) the odd number above, as in the authors' code."""
  x = jnp.zeros((1, 1, 1, channels))
  variables = jax.eval_shape(lambda x: Attend("eca").init(jax.random.key(0), x, train=False), x)
  assert variables["params"]["eca"]["kernel"].shape == (size, 1, 1)


def test_the_parts_of_cbam_in_a_network():
  def parts(kind):
    model = models.create("cbamresnet18", 0, attention=kind, stage_sizes=(1,))
    x = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)["params"]
    return set(params["stage1_block1"]) - {"conv1", "conv2", "norm1", "norm2"}

  assert parts("cbam") == {"channel", "spatial"}
  assert parts("cbam_channel") == {"channel"}
  assert parts("cbam_spatial") == {"spatial"}
  assert parts("none") == set()
