"""Norms, dead units, where NaN began, warnings."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnnjax.models import layers
from cnnjax.training import health

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 5, 5, 3)).astype(np.float32)
LABELS = np.arange(6) % 4


def norm(*arrays):
  return math.sqrt(sum((np.asarray(a, np.float64) ** 2).sum() for a in arrays))


# Norms

PARAMS = {
  "stem": {"kernel": RNG.normal(size=(3, 3, 1, 2)), "bias": RNG.normal(size=2)},
  "block1": {"conv1": {"kernel": RNG.normal(size=(3, 2))}, "gamma": RNG.normal(size=2)},
  "zero": {"kernel": np.zeros((2, 2))},
  "token": RNG.normal(size=3),
}
GRADS = jax.tree.map(lambda p: RNG.normal(size=p.shape), PARAMS)
UPDATES = jax.tree.map(lambda g: -0.1 * g, GRADS)
LAYERS = {
  "stem": lambda t: (t["stem"]["kernel"], t["stem"]["bias"]),
  "block1": lambda t: (t["block1"]["gamma"],),
  "block1/conv1": lambda t: (t["block1"]["conv1"]["kernel"],),
  "zero": lambda t: (t["zero"]["kernel"],),
  "token": lambda t: (t["token"],),
}


def test_norms_by_layer():
  found = jax.jit(health.by_layer)(PARAMS, GRADS, UPDATES)
  assert found.keys() == {f"{k}/{name}" for k in ("grad_norm", "update_ratio") for name in LAYERS}
  for name, of in LAYERS.items():
    assert found[f"grad_norm/{name}"] == pytest.approx(norm(*of(GRADS)), rel=1e-6)
    ratio = norm(*of(UPDATES)) / norm(*of(PARAMS)) if name != "zero" else 0
    assert found[f"update_ratio/{name}"] == pytest.approx(ratio, rel=1e-6)
  assert {x.dtype.name for x in found.values()} == {"float32"}


def test_norms_of_all():
  found = jax.jit(health.totals)(PARAMS, GRADS, UPDATES)
  p, g, u = (norm(*jax.tree.leaves(t)) for t in (PARAMS, GRADS, UPDATES))
  expected = {"grad_norm": g, "param_norm": p, "update_ratio": u / p}
  assert found == {name: pytest.approx(value, rel=1e-6) for name, value in expected.items()}


def test_norms_of_what_is_frozen_are_0():
  nothing = jax.tree.map(np.zeros_like, PARAMS)
  both = health.by_layer(PARAMS, nothing, nothing) | health.totals(PARAMS, nothing, nothing)
  assert {float(x) for name, x in both.items() if name != "param_norm"} == {0}
  assert health.totals(nothing, GRADS, UPDATES)["update_ratio"] == 0  # not infinite
  bad = {**PARAMS, "token": np.array([np.nan])}
  assert np.isnan(health.totals(bad, bad, bad)["update_ratio"])


def test_norms_of_half_precision_are_taken_in_float32():
  large = {"a": {"kernel": jnp.full((4,), 300, jnp.float16)}}  # whose squares float16 cannot hold
  assert health.by_layer(large, large, large)["grad_norm/a"] == 600


# Models made by hand


def conv(features, name, **options):
  return layers.conv(features, 3, padding=1, train=True, name=name, **options)


class Block(nn.Module):
  """conv1 with bias, norm, ReLU, conv2 around a shortcut, ReLU."""

  train: bool
  dtype: str

  @nn.compact
  def __call__(self, x):
    y = conv(4, "conv1", dtype=self.dtype, use_bias=True)(x)
    y = nn.relu(layers.batch_norm(dtype=self.dtype, train=self.train, name="norm")(y))
    return nn.relu(x + conv(4, "conv2", dtype=self.dtype)(y))


class Net(nn.Module):
  """A stem, two blocks, as they are or computed again or as a loop, and a head."""

  dtype: str = "float32"
  run: str = "plain"
  act: str = "relu"

  @nn.compact
  def __call__(self, x, *, train):
    x = layers.ACTIVATIONS[self.act](conv(4, "stem", dtype=self.dtype)(x))
    if self.run == "scan":
      loop = nn.scan(
        lambda block, x, _: (block(x), None),
        variable_axes={"params": 0, "batch_stats": 0, "dead": 0, "largest": 0},
        split_rngs={"params": True},
        length=2,
      )
      x = loop(Block(train, self.dtype, name="blocks"), x, None)[0]
    else:
      block = nn.remat(Block) if self.run == "remat" else Block
      for i in (1, 2):
        x = block(train, self.dtype, name=f"block{i}")(x)
    x = layers.global_pool(x)
    return layers.dense(4, dtype="float32", name="head")(x)


def init(model, images=IMAGES):
  return jax.jit(lambda: model.init(jax.random.key(0), images, train=True))()


@pytest.fixture(scope="module")
def initialised():
  """{run: variables}; a scan has those of its blocks stacked."""
  plain = init(Net())
  stack = lambda t: {
    **{k: v for k, v in t.items() if not k.startswith("block")},
    "blocks": jax.tree.map(lambda *x: jnp.stack(x), t["block1"], t["block2"]),
  }
  return {"plain": plain, "remat": plain, "scan": {k: stack(t) for k, t in plain.items()}}


def with_value(variables, path, value):
  """`variables` with what stands at `path` set to `value`; of blocks[1], the second only."""
  collection, *path = path.split("/")

  def put(tree, path):
    if not path:
      return jnp.broadcast_to(jnp.asarray(value, tree.dtype), tree.shape)
    name, _, turn = path[0].partition("[")
    if turn:
      one = put(jax.tree.map(lambda x: x[int(turn[:-1])], tree[name]), path[1:])
      both = jax.tree.map(lambda x, y: x.at[int(turn[:-1])].set(y), tree[name], one)
      return {**tree, name: both}
    return {**tree, name: put(tree[name], path[1:])}

  return {**variables, collection: put(variables[collection], path)}


# Dead units


def dead(model, variables, images=IMAGES):
  return health.counted(jax.jit(lambda *of: health.dead_units(model, *of))(variables, images))


class Dense(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = nn.relu(nn.Dense(8, name="one")(x.reshape(len(x), -1)))
    x = nn.relu(layers.dense(16, dtype="float32", name="two")(x))
    x = nn.gelu(nn.Dense(8, name="three")(x))
    return nn.Dense(4, name="four")(x)


def test_dead_units_of_dense_layers_against_numpy():
  model = Dense()
  params = jax.device_get(init(model))["params"]
  params["one"]["bias"] = np.array([-100, 0, -100, 100, -100, 0, -100, -1], np.float32)
  params["two"]["bias"] = np.full(16, -1.0, np.float32)
  found = dead(model, {"params": params})
  x, shares = IMAGES.reshape(6, -1), {}
  for layer, after in (("one", "two"), ("two", "three")):
    x = np.maximum(x @ params[layer]["kernel"] + params[layer]["bias"], 0)
    shares[f"dead/{after}"] = (x == 0).all(axis=0).mean()
  assert shares["dead/two"] >= 0.5 and 0 < shares["dead/three"] < 1
  mean = np.mean(list(shares.values()))
  assert found == {k: pytest.approx(v) for k, v in (shares | {"dead_relu": mean}).items()}


@pytest.mark.parametrize("run", ["plain", "remat", "scan"])
def test_a_layer_of_dead_relus(initialised, run):
  """norm's bias of -100 holds what conv2 of the second block is given at 0; all else lives."""
  block = "blocks[1]" if run == "scan" else "block2"
  variables = with_value(initialised[run], f"params/{block}/norm/bias", -100)
  found = dead(Net(run=run), variables)
  if run == "scan":  # the mean over its turns
    assert found["dead/blocks/conv2"] == 0.5 and found["dead/blocks/conv1"] == 0
  else:
    assert found["dead/block2/conv2"] == 1 and found["dead/block1/conv2"] == 0
    assert found["dead_relu"] == np.mean([v for k, v in found.items() if k != "dead_relu"])
  assert "dead/stem" not in found


def test_the_statistics_are_those_of_the_batch(initialised):
  """A norm whose running mean is far off is dead in evaluation, and alive while it is trained."""
  variables = with_value(initialised["plain"], "batch_stats/block1/norm/mean", 1e3)
  assert dead(Net(), variables)["dead/block1/conv2"] == 0


def test_one_living_pixel_is_enough(initialised):
  """Channels that are 0 for most, or behind another activation, or the images, do not count."""
  net, variables = Net(), with_value(initialised["plain"], "params/stem/kernel", 0)
  found = dead(net, variables)
  assert found["dead/block1/conv1"] == 1
  kernel = jnp.zeros((3, 3, 3, 4)).at[1, 1, 0].set(1)
  images = np.zeros_like(IMAGES)
  images[3, 2, 2, 0] = 1
  variables = with_value(variables, "params/stem/kernel", kernel)
  assert dead(net, variables, images)["dead/block1/conv1"] == 0
  assert "dead/block1/conv1" not in dead(Net(act="gelu"), variables, IMAGES)


def test_the_images_are_no_units(initialised):
  images = np.abs(IMAGES)
  images[..., 1] = 0
  assert "dead/stem" not in dead(Net(), initialised["plain"], images)


def test_a_net_without_relus_has_no_share():
  class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return nn.Dense(4)(nn.tanh(nn.Dense(4)(x.mean((1, 2)))))

  variables = init(Linear())
  assert dead(Linear(), variables) == {}


# Where NaN began


class Small(nn.Module):
  """Two dense layers and what stands between them, and a norm and an auxiliary head."""

  between: str | None = None

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Dense(4, name="one")(layers.global_pool(x))
    x = layers.batch_norm(dtype="float32", train=train, name="norm")(x)
    if self.between == "log":
      x = jnp.log(x - 1e3)
    if self.between == "root":
      x = x + jnp.sqrt(0 * x)  # finite, and its derivative is not
    layers.auxiliary(self, "aux", nn.Dense(4, name="aux_head")(x))
    return nn.Dense(4, name="head")(x)


@pytest.fixture(scope="module")
def small():
  return init(Small())


def cross_entropy(logits, labels, updated):
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  aux = jax.tree.leaves(updated.get("aux_logits", {}))
  return loss + sum(optax.softmax_cross_entropy_with_integer_labels(a, labels) for a in aux)


def trace(model, variables, images=IMAGES, loss_fn=cross_entropy, **options):
  return health.trace(model, loss_fn, variables, images, LABELS, **options)


@pytest.mark.parametrize(
  "path, words",
  [
    ("params/norm/scale", "NaN is in the parameter norm/scale before this step"),
    ("batch_stats/norm/var", "NaN is in the batch statistic norm/var before this step"),
  ],
)
def test_nan_in_what_a_step_begins_with(small, path, words):
  assert trace(Small(), with_value(small, path, np.nan)) == words


@pytest.mark.parametrize(
  "bad, words", [(np.nan, "NaN is in the images"), (-np.inf, "infinity (float32 ends at 3.4e+38)")]
)
def test_nan_and_infinity_in_the_images(small, bad, words):
  images = IMAGES.copy()
  images[1, 2, 3, 0] = bad
  assert trace(Small(), small, images).startswith(words)


def test_nan_in_what_the_loss_is_given(small):
  """Any tree; a key in it is let be."""
  weight = np.array([1, 1, np.nan, 1, 1, 1])
  targets = {"labels": LABELS, "weight": weight, "key": jax.random.key(0)}
  loss = lambda logits, t, updated: t["weight"] * cross_entropy(logits, t["labels"], updated)
  text = health.trace(Small(), loss, small, IMAGES, targets)
  assert text == "NaN is in what the loss is given: weight"


@pytest.mark.parametrize(
  "run, layer, of",
  [
    ("plain", "conv2", "kernel"),
    ("plain", "norm", "scale"),  # which XLA may well hand on in float32, finite
    ("remat", "conv2", "kernel"),
    ("scan", "conv2", "kernel"),
  ],
)
def test_an_overflow_of_float16_is_found_where_it_begins(initialised, run, layer, of):
  """Also in the first turn of a loop, whose second has NaN in layers that stand before it."""
  block = "blocks[0]" if run == "scan" else "block1"
  variables = with_value(initialised[run], f"params/{block}/{layer}/{of}", 6e4)
  text = trace(Net(dtype="float16", run=run), variables)
  name = "blocks" if run == "scan" else "block1"
  assert text.startswith(
    "infinity (float16 ends at 6.55e+04) began in the output of "
    f"{name}/{layer} (forward pass); its inputs (up to "
  )
  assert text.endswith("its parameters (up to 6e+04) are finite")


def test_nan_of_a_large_array_is_not_lost(initialised):
  """XLA on CPU leaves NaN out of the maximum of a large array; here one value of 160,000 is NaN."""
  images = np.ones((1, 160, 250, 4), np.float32)
  images[0, 77, 33, 2] = np.nan

  class Mean(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return nn.Dense(4)(x.mean((1, 2)))

  variables = init(Mean(), images)
  text = health.trace(Mean(), cross_entropy, variables, images, LABELS[:1])
  assert text.startswith("NaN is in the images")


@pytest.mark.parametrize(
  "between, words",
  [
    ("log", "NaN began between modules, behind norm, in the input of aux_head (forward pass);"),
    ("root", "NaN began in the gradient of norm/bias (backward pass); the loss (up to "),
  ],
)
def test_what_begins_outside_of_modules(small, between, words):
  """jnp.log of what is below 0; the derivative of a square root at 0, which two heads follow."""
  assert trace(Small(between), small).startswith(words)


def test_what_begins_behind_the_model(small):
  bad_loss = lambda *args: jnp.log(cross_entropy(*args) - 1e3)
  text = trace(Small(), small, loss_fn=bad_loss)
  assert text.startswith("NaN began in the loss; the model's outputs (up to")

  def updates(grads, state, params):
    return {**grads, "one": jax.tree.map(lambda g: g * state * state, grads["one"])}

  text = trace(Small(), small, update_fn=updates, opt_state=jnp.float32(1e30))
  assert text.startswith("infinity (float32 ends at 3.4e+38) began in the update of one/")
  assert "(optimizer); its gradient (up to" in text and text.endswith("is finite")


def test_an_auxiliary_head_is_looked_into(small):
  variables = with_value(small, "params/aux_head/kernel", 3e38)
  text = trace(Small(), variables)
  assert "began in the output of aux_head (forward pass)" in text


def test_a_step_that_is_finite_says_so(small):
  text = trace(Small(), small, update_fn=lambda grads, *_: grads)
  assert "every value of this step is finite" in text


# Warnings


def training(losses, every=10, **more):
  """Lines of training; `more` are other metrics, a sequence each."""
  lines = [{"step": every * (i + 1), "train/loss": float(x)} for i, x in enumerate(losses)]
  for name, values in more.items():
    for line, value in zip(lines, values, strict=True):
      line[name] = float(value)
  return lines


def evaluated(lines, accuracies):
  """Each line of training with one of evaluation behind it."""
  found = [
    {"step": s["step"], "validation/accuracy": float(a)}
    for s, a in zip(lines, accuracies, strict=True)
  ]
  return list(itertools.chain(*zip(lines, found, strict=True)))


def watch(lines, monitor="validation/accuracy", better="max", total=None, **options):
  """{step: warnings} of a run."""
  total = total or max(line["step"] for line in lines)
  watched = health.Watch(total, monitor, better, **options)
  found = {}
  for line in lines:
    for text in watched.see(line):
      found.setdefault(line["step"], []).append(text)
  return found


def cosine(n):
  return (1 + np.cos(np.pi * np.arange(n) / n)) / 2


def healthy(kind, seed):
  """A run of 100 epochs as they look, with noise: loss, accuracy, learning rate, gradient norm."""
  rng, n = np.random.default_rng(seed), 100
  t = np.arange(n) / n
  rate = {
    "cosine": cosine(n),
    "step": np.where(t < 0.5, 1, np.where(t < 0.75, 0.1, 0.01)),
    "restarts": np.concatenate([cosine(k) for k in (7, 14, 28, 51)]),
    "one_cycle": np.concatenate([np.linspace(0.04, 1, 30), cosine(70)]),
  }[kind]  # fmt: skip
  level = 0.02 + 0.5 * rate  # the noise of SGD holds the loss up
  loss = 0.01 + level * (0.4 + 0.6 / (1 + 10 * t)) + 1.7 * np.exp(-40 * t)
  loss = loss * rng.lognormal(0, 0.04, n)
  accuracy = 0.95 - 0.1 * level - 0.85 * np.exp(-30 * t) + rng.normal(0, 0.003, n)
  norms = rng.lognormal(0, 0.7, n) * np.where(t < 0.7, 1, 5 * (1 - t) / 1.5 + 0.05)
  return evaluated(training(loss, learning_rate=rate, grad_norm=norms), accuracy)


@pytest.mark.parametrize("kind", ["cosine", "step", "restarts", "one_cycle"])
def test_healthy_runs_are_left_in_peace(kind):
  for seed in range(20):
    assert watch(healthy(kind, seed)) == {}


def test_a_warm_restart_to_the_same_peak_begins_anew():
  """The loss comes back to its lowest only at the end of the second period, of three quarters."""
  rate = np.concatenate([cosine(25), cosine(75)])
  lines = evaluated(training(0.3 + rate, learning_rate=rate), 0.9 - 0.1 * rate)
  assert watch(lines) == {}
  lines = evaluated(training(0.3 + rate, learning_rate=np.ones(100)), 0.9 - 0.1 * rate)
  assert list(watch(lines)) != []  # the rate alone makes the difference


def test_divergence_is_said_once_an_episode():
  down = [2.3, 1.5, 1.0, 0.8]
  losses = [*down, 2.5, 9, 8, *down, 0.7, 30, 40, math.nan]
  found = watch(training(losses), total=10_000)
  assert list(found) == [50, 130]
  assert found[50] == [
    "the training loss is 2.5 (best 0.8): the run diverges. Try a lower optim.learning_rate, a "
    "longer optim.schedule.warmup, or optim.clip_norm=1"
  ]


@pytest.mark.parametrize(
  "losses",
  [
    [2.3, 2.6, 2.9, 2.4, 2.2],  # it begins roughly
    [2.3, 0.5, 0.01, 0.3, 0.02],  # far above its best, and most is kept
    [2.3, 1.2, 1.1, 2.2, 1.1],  # a spike, below where it began
  ],
)
def test_a_rough_loss_is_no_divergence(losses):
  assert watch(training(losses), total=10_000) == {}


LOG6 = math.log(6)


@pytest.mark.parametrize("kind", ["cosine", "step", "restarts", "one_cycle"])
def test_a_head_of_large_weights_begins_high_and_falls(kind):
  """As an EfficientNet-Lite0 with an initial head of +-1 / sqrt(6): 5.1, where guessing is 1.8."""
  high = 3.3 * np.exp(-20 * np.arange(100) / 100)
  for seed in range(20):
    lines = healthy(kind, seed)
    for line, more in zip(lines[::2], high, strict=True):
      line["train/loss"] += more
    first = {"step": 1, "train/loss": 5.1, "grad_norm": 30.0, "learning_rate": 0.0}
    assert watch([first, *lines], guessing=LOG6) == {}


@pytest.mark.parametrize(
  "losses, step",
  [
    ([5.1, 3.0, 2.0, 1.0, 4.2, 5.0], 50),  # falls first, then takes back all that was learnt
    ([1.8, 1.9, 30.0, 40.0], 30),
    ([0.05, 0.03, 0.3, 0.5, 0.8], None),  # begins with what was learnt elsewhere
  ],
)
def test_divergence_goes_by_where_a_run_began_and_by_guessing(losses, step):
  found = watch(training(losses), total=10_000, guessing=LOG6)
  assert list(found) == ([step] if step else [])


def test_what_is_nearly_solved_is_measured_by_what_it_began_with():
  """A norm that is 100 times nearly nothing, and a loss of 0.9 that began at 50."""
  norms = [2.0, *np.full(20, 1e-5), 0.05, 1e-5, 5.0]
  found = watch(training(np.ones(24), grad_norm=norms), total=10_000)
  assert list(found) == [240] and "its norm is 5, usual was 1e-05" in found[240][0]
  still = training([50.0, *np.full(59, 0.9)])
  assert len(watch(still, guessing=LOG6)) == 1


def test_the_first_step_is_one_batch():
  """It may be easy, and it is always waited for."""
  easy = {"step": 1, "train/loss": 1.0, "data_wait": 0.9}
  assert watch([easy, *training(2 * 0.97 ** np.arange(20))]) == {}


# Epochs of a ResNet-20 on digits, cosine from the learning rates 0.1 and 5: loss and accuracy.
FIRST = {"step": 1, "train/loss": 2.538}  # of both
AT_01 = (
  [1.135, 0.114, 0.045, 0.043, 0.037, 0.016, 0.005, 0.001, 0.001, 0.001, 0.001, 0.001],
  [0.279, 0.249, 0.734, 0.899, 0.939, 0.933, 0.936, 0.946, 0.949, 0.949, 0.949, 0.949],
)
AT_5 = (
  [10.366, 3.134, 2.486, 2.408, 3.923, 2.678, 2.424, 2.354, 2.306, 2.29, 2.278, 2.273],
  [0.111, 0.104, 0.104, 0.178, 0.104, 0.101, 0.111, 0.104, 0.094, 0.104, 0.104, 0.108],
)


def test_runs_as_they_were_measured():
  for losses, accuracies, steps in (*AT_01, []), (*AT_5, [10]):
    lines = evaluated(training(losses, learning_rate=cosine(12)), accuracies)
    found = watch([FIRST, *lines], guessing=math.log(10))
    assert list(found) == steps
  assert "10.37 (best 2.538, guessing gives 2.303)" in found[10][0]


def test_a_loss_that_creeps_is_not_enough_beside_a_metric_that_stands_still():
  losses, accuracies = AT_5
  assert list(watch(evaluated(training(losses), accuracies))) == [90]
  assert watch(training(losses)) == {}  # but enough alone


@pytest.mark.parametrize("monitored", [True, False])
def test_a_run_that_stands_still(monitored):
  """After a third of the run, not at its begin, and again after an episode has ended."""
  rng = np.random.default_rng(0)
  still = 2.3 + rng.normal(0, 0.003, 60)
  lines = training(still)
  if monitored:
    lines = evaluated(lines, [0.1, *np.full(59, 0.09)])
  ((step, (text,)),) = watch(lines).items()
  assert 200 <= step <= 220 and "stands still" in text
  assert ("validation/accuracy and the training loss" in text) == monitored
  losses = [*still[:40], 2.0, *(still[40:] - 0.2), *(still[40:] - 0.2)]
  assert [step for step in watch(training(losses), total=600)] == [210, 610]


def test_one_of_the_two_that_gets_better_is_enough():
  n = np.arange(60)
  falling, flat = 2 * 0.9**n, np.full(60, 1.5)
  assert watch(evaluated(training(falling), np.full(60, 0.5))) == {}
  assert watch(evaluated(training(flat), n / 60)) == {}
  assert len(watch(evaluated(training(flat), np.full(60, 0.5)))) == 1


def test_what_is_solved_may_stand_still():
  losses = [2.3, 0.5, *np.full(58, 0.01)]
  assert watch(evaluated(training(losses), np.full(60, 0.99))) == watch(training(losses)) == {}


@pytest.mark.parametrize("rate, said", [(cosine(60), 0), (np.ones(60), 1)], ids=["falls", "stays"])
def test_a_run_settles_while_the_rate_falls(rate, said):
  """As with smoothed labels, whose loss stays well above 0."""
  losses = np.maximum(2.3 * 0.9 ** np.arange(60), 0.51)
  accuracies = np.minimum(np.arange(60) / 20, 0.99)
  assert len(watch(evaluated(training(losses, learning_rate=rate), accuracies))) == said


def test_the_monitored_metric_may_be_a_loss():
  lines = training(np.full(60, 1.5))
  falling = [{"step": s["step"], "validation/loss": 0.9**i} for i, s in enumerate(lines)]
  both = list(itertools.chain(*zip(lines, falling, strict=True)))
  assert watch(both, "validation/loss", "min") == {}
  assert len(watch(both, "validation/loss", "max")) == 1


def test_short_runs_need_several_evaluations():
  assert watch(evaluated(training(np.full(4, 1.5)), np.full(4, 0.5))) == {}


def test_an_exploding_gradient():
  norms = [1, 2, 1, 3, 2, 1, 20, 1, 500, 600, 2, 1, math.inf, math.nan]
  losses = np.linspace(2, 1, len(norms))
  found = watch(training(losses, grad_norm=norms), total=10_000)
  assert list(found) == [90] and "its norm is 500, usual was 1.5" in found[90][0]
  assert not watch(training(losses[:2], grad_norm=[1e-3, 10]), total=10_000)  # nothing is usual yet


def test_dead_relus_and_the_loss_scale():
  found = watch(
    [{"step": i, "dead_relu": x} for i, x in enumerate([0.2, 0.6, 0.45, 0.7, 0.1, 0.8])]
  )
  assert list(found) == [1, 5] and found[1][0].startswith("60% of the ReLUs are dead")
  found = watch([{"step": i, "loss_scale": 2.0**x} for i, x in enumerate([15, 3, 0, 0, 1, 0])])
  assert list(found) == [2, 5] and "down at 1:" in found[2][0]
  found = watch([{"step": i, "loss_scale": x} for i, x in enumerate([1, 1, 2, 1, 0.5])])
  assert list(found) == [4]  # it began at 1


def test_a_run_that_goes_on_says_what_it_would_have_said():
  """The state of the watch follows from the lines of metrics.jsonl."""
  rng = np.random.default_rng(1)
  losses = np.concatenate([2.3 * 0.9 ** np.arange(10), np.full(25, 5.0), np.full(25, 0.9)])
  lines = evaluated(training(losses, grad_norm=rng.lognormal(0, 3, 60)), np.full(60, 0.3))
  lines = [json.loads(json.dumps(line)) for line in lines]
  total = lines[-1]["step"]
  whole = health.Watch(total, "validation/accuracy", "max")
  said = [whole.see(line) for line in lines]
  assert sum(map(len, said)) >= 3
  for cut in range(0, len(lines), 7):
    again = health.Watch(total, "validation/accuracy", "max")
    for line in lines[:cut]:
      again.see(line)
    assert [again.see(line) for line in lines[cut:]] == said[cut:]


def test_a_device_that_starves_is_said_once_an_episode():
  watch = health.Watch(1000, "validation/accuracy", "max")
  shares = [0.1, 0.49, 0.8, 0.9, 0.45, 0.7, 0.2, 0.6]
  said = [watch.see({"step": i, "data_wait": share}) for i, share in enumerate(shares)]
  assert [bool(found) for found in said] == [i in (2, 7) for i in range(8)]
  for words in ("80% of the time is spent waiting", "Raise data.threads", "data.workers"):
    assert words in said[2][0]
