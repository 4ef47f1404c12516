"""Heads on pooled features: beside their formulas, at their first loss, and in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cnnjax import build, models, tasks, train
from cnnjax.config import default, override
from cnnjax.data import fields
from cnnjax.errors import UserError

DATA = {"image": fields.image(16, 16, 3), "label": fields.label(tuple("abcde"))}


def made(head, **settings):
  """A network with a head, its variables, and the pooled features of two images."""
  config = default()
  config.model.name = "simple_cnn"
  for key, value in {"task.head": head, **settings}.items():
    override(config, key, value)
  tasks.check(config.task)
  network = tasks.network(tasks.of_data(config.task, DATA), config)
  images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
  variables = network.init(jax.random.key(1), images, train=False)
  parts = {name: tree.get("backbone", {}) for name, tree in variables.items()}
  pooled = models.create("simple_cnn", 0).apply(parts, images, train=False)
  return network, variables, images, np.asarray(pooled)


def test_mlp_by_hand():
  network, variables, images, pooled = made("mlp", **{"task.head_hidden": (7, 6)})
  params = variables["params"]
  assert not network.apply(variables, images, train=False).any()  # the loss of guessing
  params["head"]["kernel"] = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
  expected = pooled
  for name in ("hidden1", "hidden2"):
    expected = np.maximum(expected @ params[name]["kernel"] + params[name]["bias"], 0)
  expected = expected @ params["head"]["kernel"] + params["head"]["bias"]
  found = network.apply(variables, images, train=False)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_alone():
  network, variables, images, _ = made("mlp", **{"task.head_dropout": 0.5})
  variables["params"]["head"]["kernel"] = jnp.ones((1024, 5))
  run = lambda seed, train: network.apply(
    variables, images, train=train, rngs={"dropout": jax.random.key(seed)}, mutable=["batch_stats"]
  )[0]
  assert np.abs(run(0, True) - run(1, True)).max() > 0
  np.testing.assert_array_equal(run(0, False), run(1, False))


def test_cosine_by_hand():
  network, variables, images, pooled = made("cosine", **{"task.head_scale": 4.0})
  kernel = np.asarray(variables["params"]["kernel"])
  unit = lambda x, axis: x / np.linalg.norm(x, axis=axis, keepdims=True)
  expected = 4 * unit(pooled, 1) @ unit(kernel, 0)
  found = network.apply(variables, images, train=False)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert np.abs(found).max() <= 4


@pytest.mark.parametrize(
  "settings, words",
  [
    ({"task.head": "mlp", "task.head_hidden": ()}, "must be widths of layers, above 0"),
    ({"task.head_hidden": (3,)}, r"task\.head_hidden"),
    ({"task.head": "mlp", "task.head_scale": 3.0}, r"task\.head_scale"),
    ({"task.head": "cosin"}, "Did you mean 'cosine'"),
    ({"task.head": "cosine", "task.name": "multi_label"}, "unknown head of multi_label"),
  ],
)
def test_what_is_refused(settings, words):
  config = default()
  for key, value in settings.items():
    override(config, key, value)
  with pytest.raises(UserError, match=words):
    build.validate(config)


@pytest.mark.parametrize("head", ["mlp", "cosine"])
def test_a_run_with_a_head_learns(tiny, tmp_path, head):
  settings = {"task.head": head, "model.name": "simple_cnn", "epochs": 2}
  end, line, _ = train.train(tiny(**settings), tmp_path)
  names = flatten_dict(end.params, sep="/")
  assert {name.split("/")[0] for name in names} > {"backbone"}
  assert np.isfinite(line["train/loss"])
