"""Whole runs beside a loop of their own, in numpy and optax.

The loop has the network written out, and takes nothing from cnnjax but the initial parameters, who
stands in which batch, and the augmentation. So it sees a mistake that is a pure function of the
step, which a run that is compared with itself (resumed, on several devices) cannot show. What a run
learns to do is added as a row of ROWS and, if it is new, as a few lines of `Loop`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import augment, checkpoints, data, models, predict, train, writers
from cnnjax.training import resuming

BATCH, PER_EPOCH, EPOCHS, CLASSES, SMOOTHING, DECAY = 8, 5, 3, 3, 0.1, 0.01
MEAN, STD = (0.4, 0.5), (0.3, 0.2)
TOTAL, WARMUP = PER_EPOCH * EPOCHS, 2
LOG_EVERY, SAVE_EVERY, EVAL_EVERY, SWA_START, SWA_EVERY, EMA = 3, 4, 6, 6, 2, 0.5
SEED, PEAK, RHO, CLIP, HEALTH_EVERY = 3, 0.05, 0.5, 0.5, 9
LOOKAHEAD, SLOWER, B1 = 4, 0.25, 0.8
BASE = {
  # A convolution, batch norm, ReLU, the head.
  "model.dense_features": (), "model.pool": "none", "model.conv_dropout": 0.0,
  "batch_size": BATCH, "epochs": EPOCHS, "augment": None, "data.mean": MEAN, "data.std": STD,
  "seed": SEED, "log_every": f"{LOG_EVERY} steps", "checkpoint_every": f"{SAVE_EVERY} steps",
  "eval_every": f"{EVAL_EVERY} steps",
  "keep.last": -1, "monitor": "validation/accuracy", "task.label_smoothing": SMOOTHING,
  "optim.weight_decay": DECAY, "optim.learning_rate": PEAK,
  "optim.schedule.warmup": f"{WARMUP} steps",
}  # fmt: skip
AVERAGES = {
  "average.ema": EMA, "average.swa_start": f"{SWA_START} steps",
  "average.swa_every": f"{SWA_EVERY} steps",
}  # fmt: skip
# From a scale that leaves the first steps out; it grows again within the run.
FLOAT16 = {
  "dtype": "float16", "loss_scale.initial": 2.0**20, "loss_scale.growth_steps": 3,
  "optim.weight_decay": 0.0, "batch_norm.batches": 3, "batch_norm.ghost": 4,
}  # fmt: skip
MATCHED = {"accumulate": 2, "batch_norm.accumulated": "matched", "batch_norm.precise": True}
FREE = {"optim.name": "schedule_free_sgd", "optim.schedule.name": "constant", "optim.b1": B1}
ROWS = {
  "averages": {**AVERAGES, "augment": "flip"},
  "frozen, lookahead, micro-batches, plateau, clipped": {
    **AVERAGES,
    "optim.lookahead": LOOKAHEAD,
    "optim.lookahead_rate": SLOWER,
    "accumulate": 2,
    "optim.freeze": ("^conv1",),
    "optim.plateau.patience": 0,
    "optim.plateau.factor": 0.5,
    "optim.plateau.min_delta": 10.0,
    "optim.clip_norm": CLIP,
    "health.every": f"{HEALTH_EVERY} steps",
  },
  "schedule-free, sam, matched micro-batches, precise": {"optim.sam_rho": RHO, **FREE, **MATCHED},
  "float16, sam": {**FLOAT16, **AVERAGES, "optim.sam_rho": RHO},
}


def splits():
  """Images of three patterns under noise, some of them under a wrong label."""
  rng = np.random.default_rng(5)
  patterns = rng.uniform(60, 190, (CLASSES, 6, 6, 2))

  def make(n):
    labels = rng.integers(CLASSES, size=n)
    images = np.clip(patterns[labels] + rng.normal(0, 60, (n, 6, 6, 2)), 0, 255)
    wrong = rng.random(n) < 0.2
    return images.astype(np.uint8), np.where(wrong, rng.integers(CLASSES, size=n), labels)

  return {"train": make(PER_EPOCH * BATCH + 3), "validation": make(21), "test": make(19)}


def tree(function, *trees):
  return jax.tree.map(lambda *x: np.asarray(function(*x), np.float32), *trees)


@functools.partial(jax.jit, static_argnames=("dtype", "groups"))
def forward(params, images, dtype, groups, stats=None):
  """Logits, and mean and mean square of the batch norm's input, `[groups, channels]`.

  It normalises by those of each group, or by `stats`.
  """
  kernel = params["conv1"]["kernel"].astype(dtype)
  sizes = ("NHWC", "HWIO", "NHWC")
  x = jax.lax.conv_general_dilated(images.astype(dtype), kernel, (1, 1), "VALID",
                                   dimension_numbers=sizes)  # fmt: skip
  x = x.astype(jnp.float32).reshape(groups, -1, *x.shape[1:])
  moments = x.mean((1, 2, 3)), (x**2).mean((1, 2, 3))
  mean, var = (moments[0], moments[1] - moments[0] ** 2) if stats is None else stats
  mean, var = (jnp.reshape(v, (-1, 1, 1, 1, v.shape[-1])) for v in (mean, var))
  x = (x - mean) / jnp.sqrt(var + 1e-5) * params["norm1"]["scale"] + params["norm1"]["bias"]
  x = jnp.maximum(x.astype(dtype), 0).reshape(len(images), -1).astype(jnp.float32)
  return x @ params["head"]["kernel"] + params["head"]["bias"], moments


def cross_entropy(logits, targets):
  return -(targets * jax.nn.log_softmax(logits)).sum(-1)


@functools.partial(jax.jit, static_argnames=("dtype", "groups"))
def gradient(params, images, targets, scale, dtype, groups):
  """(gradient of the mean loss times scale, (logits, losses, moments))."""

  def loss(params):
    logits, moments = forward(params, images, dtype, groups)
    losses = cross_entropy(logits, targets)
    return losses.mean() * scale, (logits, losses, moments)

  return jax.grad(loss, has_aux=True)(params)


def norm(params):
  return math.sqrt(sum(float((np.asarray(x, float) ** 2).sum()) for x in jax.tree.leaves(params)))


class Loop:
  """A run of `config` on the examples `order[step]` of each step."""

  def __init__(self, config, arrays, order):
    self.config, self.order, self.dtype = config, order, config.dtype
    self.arrays = {name: (x / 255, np.eye(CLASSES)[y]) for name, (x, y) in arrays.items()}
    self.augment = augment.create(config.augment)
    model = models.create(**config.model, num_classes=CLASSES)
    images = jnp.zeros((1, *arrays["train"][0].shape[1:]))
    params = model.init(jax.random.key(SEED), images, train=False)["params"]
    self.params = tree(np.copy, params)
    self.stats = np.zeros(4), np.ones(4)
    decayed = {name: {key: key == "kernel" for key in leaves} for name, leaves in params.items()}
    self.free = config.optim.name.startswith("schedule_free")
    self.direction = optax.chain(
      optax.clip_by_global_norm(config.optim.clip_norm or np.inf),
      optax.add_decayed_weights(config.optim.weight_decay, mask=decayed),
      optax.identity() if self.free else optax.trace(0.9),
    )
    # Schedule-free's z and x, and Lookahead's slow weights, x as well.
    self.z, self.x, self.highest, self.weighed = self.params, (self.params, self.stats), 0.0, 0.0
    self.memory = self.direction.init(self.params)
    self.scale, self.finite = config.loss_scale.initial if self.dtype == "float16" else 1.0, 0
    self.ema, self.swa, self.counted = (self.params, self.stats), (self.params, self.stats), 0
    self.window, self.left_out = [], []
    self.saved, self.lines = {}, []

  def run(self):
    for step in range(TOTAL):
      self.train(step)
      done = step + 1
      evaluated = done % EVAL_EVERY == 0 or done == TOTAL
      of_epoch, found = evaluated or done % PER_EPOCH == 0, {}
      if done % LOG_EVERY == 0 or of_epoch or done == 1:
        self.lines.append({"step": done, **self.training_metrics(done, of_epoch)})
      if self.config.health.every and done % HEALTH_EVERY == 0:
        self.lines.append({"step": done, **self.by_layer(done)})
      if evaluated:
        self.measure(done)
        found = self.evaluate("validation")
        self.lines.append({"step": done, **found})
      elif done % SAVE_EVERY == 0:
        self.measure(done)  # what is saved is of its step
      if found or done % SAVE_EVERY == 0:
        self.save(done, found)
    self.lines.append({"step": TOTAL, **self.evaluate("test")})
    return self

  def rate(self, step):
    """Of the step after `step` others: a line, then half a cosine.

    On the plateau, which the second evaluation finds, it is halved.
    """
    fallen = step >= 2 * EVAL_EVERY and self.config.optim.plateau.patience == 0
    peak = PEAK * (0.5 if fallen else 1.0)
    if step < WARMUP:
      return peak * step / WARMUP
    if self.free:
      return peak
    return peak * (1 + math.cos(math.pi * (step - WARMUP) / (TOTAL - WARMUP))) / 2

  def batch(self, step):
    """Normalised images and targets."""
    images, targets = (x[self.order[step]] for x in self.arrays["train"])
    key, _ = jax.random.split(jax.random.fold_in(jax.random.key(SEED), step))
    batch = {"image": jnp.asarray(images, jnp.float32), "targets": targets}
    batch = self.augment(key, batch, {"image": "image", "targets": "targets"})
    return (np.asarray(batch["image"]) - MEAN) / STD, batch["targets"]

  def gradient(self, params, step):
    """(mean gradient of the micro-batches, (logits, losses, moments of each))."""
    images, targets = self.batch(step)
    targets = targets * (1 - SMOOTHING) + SMOOTHING / CLASSES
    n, found = self.config.accumulate, []
    for i in range(n):
      part = images[i::n], targets[i::n]
      groups = BATCH // n // self.config.batch_norm.ghost if self.config.batch_norm.ghost else 1
      found.append(gradient(params, *part, self.scale, self.dtype, groups))
    grads = tree(lambda *g: sum(np.asarray(x, np.float64) for x in g) / n / self.scale,
                 *(grads for grads, _ in found))  # fmt: skip
    if self.config.optim.freeze:
      grads["conv1"] = tree(np.zeros_like, grads["conv1"])
    logits, losses = (np.concatenate([seen[k] for _, seen in found]) for k in range(2))
    true = np.concatenate([targets[i::n] for i in range(n)])
    return grads, (logits, losses, true), [seen[2] for _, seen in found]

  def update(self, step):
    """(gradient, updates, memory of the optimizer, what is seen, moments); nothing moves."""
    grads, seen, moments = self.gradient(self.params, step)
    used = grads
    if rho := self.config.optim.sam_rho:
      length = norm(grads)
      with np.errstate(invalid="ignore"):  # where float16 overflows
        uphill = tree(lambda p, g: p + rho * g / length, self.params, grads)
      used, _, _ = self.gradient(uphill, step)
    direction, memory = self.direction.update(used, self.memory, self.params)
    updates = tree(lambda d: -self.rate(step) * d, direction)
    if self.config.optim.freeze:
      updates["conv1"] = tree(np.zeros_like, updates["conv1"])
    return grads, updates, memory, seen, moments

  def by_layer(self, step):
    """Norms of the layers in a step that is not taken."""
    grads, updates, *_ = self.update(step)
    ratio = {name: norm(updates[name]) / norm(self.params[name]) for name in grads}
    found = {f"update_ratio/{name}": value for name, value in ratio.items()}
    return found | {f"grad_norm/{name}": norm(grads[name]) for name in grads}

  def train(self, step):
    if step % PER_EPOCH == 0:
      self.epoch = []
    grads, updates, memory, seen, moments = self.update(step)
    if self.free:
      updates = self.interpolated(updates, self.rate(step))
    if self.config.optim.lookahead and (step + 1) % LOOKAHEAD == 0:
      slow = tree(lambda x, p, u: x + SLOWER * (p + u - x), self.x[0], self.params, updates)
      updates, self.x = tree(np.subtract, slow, self.params), (slow, self.x[1])
    finite = all(np.isfinite(x).all() for x in jax.tree.leaves((grads, updates, moments)))
    self.rescale(finite)
    if not finite:
      self.left_out.append(step)
      return
    size = norm(self.params)
    self.window.append((seen, (norm(grads), size, norm(updates) / size)))
    self.epoch.append(seen)
    self.params, self.memory = tree(np.add, self.params, updates), memory
    self.move(moments)
    self.average(step + 1)

  def interpolated(self, steps, rate):
    """Of y, the parameters: arXiv:2405.15682, equations 3 to 5, weighed by the highest rate."""
    self.highest = max(self.highest, rate)
    self.weighed += self.highest**2
    share = self.highest**2 / self.weighed if self.weighed else 0.0
    self.z = tree(np.add, self.z, steps)
    x = tree(lambda x, z: (1 - share) * x + share * z, self.x[0], self.z)
    self.x = x, self.x[1]
    return tree(lambda x, z, y: B1 * x + (1 - B1) * z - y, x, self.z, self.params)

  def rescale(self, finite):
    if self.dtype != "float16":
      assert finite
    elif not finite:
      self.scale, self.finite = self.scale / 2, 0
    elif self.finite + 1 == self.config.loss_scale.growth_steps:
      self.scale, self.finite = self.scale * 2, 0
    else:
      self.finite += 1

  def move(self, moments):
    """The running statistics go a tenth of the way: once, or with each micro-batch."""
    if self.config.batch_norm.accumulated == "matched":
      moments = [np.mean(moments, axis=0)]
    for mean, square in moments:
      towards = mean.mean(0), (square - mean**2).mean(0)
      self.stats = tree(lambda old, new: 0.9 * old + 0.1 * new, self.stats, towards)

  def average(self, done):
    decay = min(EMA, (1 + done) / (10 + done))
    self.ema = tree(lambda a, b: decay * a + (1 - decay) * b, self.ema, (self.params, self.stats))
    if done >= SWA_START and (done - SWA_START) % SWA_EVERY == 0:
      self.counted += 1
      n = self.counted
      mean = tree(lambda a, b: (n - 1) / n * a + b / n, self.swa[0], self.params)
      self.swa = mean, self.swa[1]

  def measured(self, params, done):
    """The statistics of the last batches that were trained on, as of one population."""
    n = min(self.config.batch_norm.batches, PER_EPOCH, done)
    images = [self.batch(step)[0] for step in range(done - n, done)]
    moments = [forward(params, batch, self.dtype, 1)[1] for batch in images]
    mean, square = np.mean(moments, axis=(0, 2))
    return mean, square - mean**2

  def measure(self, done):
    self.x = self.x[0], self.measured(self.x[0], done)
    if self.counted:
      self.swa = self.swa[0], self.measured(self.swa[0], done)
    if self.config.batch_norm.precise:
      self.stats = self.measured(self.params, done)

  @property
  def weights(self):
    found = {"": self.x if self.config.optim.lookahead else (self.params, self.stats)}
    if self.free:
      found["schedule_free_"] = self.x
    if self.config.average.ema is not None:
      found["ema_"] = self.ema
    if self.config.average.swa_start is not None and self.counted:
      found["swa_"] = self.swa
    return found

  def evaluate(self, split):
    images, targets = self.arrays[split]
    found = {}
    for name, (params, stats) in self.weights.items():
      logits, _ = forward(params, (images - MEAN) / STD, self.dtype, 1, stats)
      losses = cross_entropy(logits, targets)
      found |= {f"{split}/{name}{k}": v for k, v in metrics(logits, losses, targets).items()}
    return found

  def training_metrics(self, done, of_epoch):
    found = {"learning_rate": self.rate(done - 1)}
    if self.dtype == "float16":
      found["loss_scale"] = self.scale
    if self.window:
      norms = np.mean([norms for _, norms in self.window], axis=0)
      found |= dict(zip(("grad_norm", "param_norm", "update_ratio"), norms, strict=True))
      found |= summed("train/", [seen for seen, _ in self.window])
    if of_epoch and self.epoch:
      found |= summed("train/epoch_", self.epoch)
    self.window = []
    return found

  def save(self, done, found):
    self.saved[done] = self.weights, found

  @property
  def best(self):
    """The first of the best."""
    scores = {
      step: found["validation/accuracy"] for step, (_, found) in self.saved.items() if found
    }
    return max(scores, key=scores.get)


def summed(prefix, seen):
  """The metrics of several steps as of one batch."""
  whole = jax.tree.map(lambda *x: np.concatenate(x), *seen)
  return {f"{prefix}{name}": value for name, value in metrics(*whole).items()}


def metrics(logits, losses, targets):
  label, guess = targets.argmax(-1), np.asarray(logits).argmax(-1)
  recalls = [(guess == label)[label == k].mean() for k in np.unique(label)]
  return {
    "loss": float(np.mean(losses)), "accuracy": float((guess == label).mean()),
    "mean_class_accuracy": float(np.mean(recalls)),
  }  # fmt: skip


@pytest.fixture(autouse=True)
def quickly_compiled():
  """Programs that are run a few times."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def watched(monkeypatch):
  """Who stands in which batch of a run, and each state that it saves with its metrics."""
  seen = {"saved": {}}
  begin, save = resuming.begin, checkpoints.Checkpoints.save

  def note_begin(program, saved):
    now, meta = begin(program, saved)
    order = program.inputs.train.order
    seen["order"] = [order.at(step) for step in range(TOTAL)]
    return now, meta

  def note_save(self, now, meta, metrics, **options):
    seen["saved"].setdefault(now.steps_done, (jax.device_get(now), metrics))
    return save(self, now, meta, metrics, **options)

  monkeypatch.setattr(resuming, "begin", note_begin)
  monkeypatch.setattr(checkpoints.Checkpoints, "save", note_save)
  return seen


def variables(now):
  """(parameters, (mean, variance)) of the weights and their averages, as `Loop.weights`."""
  averages = {name: average for name, average in now.averages.items() if name != "slow"}
  found = {"": now.evaluated, **{f"{name}_": average for name, average in averages.items()}}
  return {
    name: (v["params"], tuple(v["batch_stats"]["norm1"][key] for key in ("mean", "var")))
    for name, v in found.items()
  }


@pytest.mark.parametrize("row", ROWS)
def test_a_run_is_what_the_loop_says(tiny, tmp_path, watched, row):
  arrays, config = splits(), tiny(**{**BASE, **ROWS[row]})
  tolerance = (
    dict(rtol=5e-3, atol=5e-4) if config.dtype == "float16" else dict(rtol=2e-4, atol=2e-5)
  )
  end, _, _ = train.train(config, tmp_path, data.from_arrays(**arrays))
  loop = Loop(config, arrays, watched["order"]).run()

  assert watched["saved"].keys() == loop.saved.keys()
  for step, (weights, found) in loop.saved.items():
    now, metrics = watched["saved"][step]
    for name, expected in weights.items():
      close = functools.partial(np.testing.assert_allclose, **tolerance, err_msg=f"{name}{step}")
      jax.tree.map(close, variables(now)[name], expected)
    assert metrics == pytest.approx(found, rel=1e-2, abs=1e-3), step
  lines = [
    {
      key: value
      for key, value in line.items()
      if key not in ("epoch", "images_per_second") and not key.startswith("dead")
    }
    for line in writers.read_metrics(tmp_path)
  ]
  merged = lambda lines: {
    step: {k: v for line in lines if line["step"] == step for k, v in line.items()}
    for step in sorted({line["step"] for line in lines})
  }
  found, expected = merged(lines), merged(loop.lines)
  assert found.keys() == expected.keys()
  for step, line in expected.items():
    assert found[step] == pytest.approx(line, rel=tolerance["rtol"], abs=tolerance["atol"]), step
  best = checkpoints.Checkpoints(tmp_path, monitor=config.monitor, read_only=True).step("best")
  assert best == loop.best and end.steps_done == TOTAL
  assert row != "averages" or best == 2 * EVAL_EVERY, "not at the end, and no equal before it"
  # What is read back, to predict and to evaluate, is what was saved.
  given = data.from_arrays(**arrays)
  for step in (best, TOTAL):
    for name, expected in loop.saved[step][0].items():
      read = predict.load(tmp_path, str(step), name.rstrip("_") or "raw", splits=given)
      norm = read.variables["batch_stats"]["norm1"]
      found = read.variables["params"], (norm["mean"], norm["var"])
      jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), found, expected)
      line = {k: v for k, v in merged(loop.lines)[step].items() if k.startswith("test/")}
      if f"test/{name}loss" in line:
        metrics = read.evaluate("test")
        for key in ("loss", "accuracy"):
          assert metrics[key] == pytest.approx(line[f"test/{name}{key}"], rel=1e-2, abs=1e-3)
  if config.dtype == "float16":
    assert 0 in loop.left_out and len(loop.left_out) < TOTAL / 2
