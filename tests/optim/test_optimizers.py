"""The optimizer chain, step by step, against the definitions of torch.optim in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import optim
from cnnjax.config import default
from cnnjax.errors import UserError

STEPS = 6
RATES = [0.1, 0.05, 0.2, 0.1, 0.0, 0.3]  # a schedule is followed, not a constant
SHAPES = {"conv/kernel": (3, 2), "conv/bias": (2,), "norm/scale": (2,)}


def nested(flat):
  tree = {}
  for path, value in flat.items():
    module, name = path.split("/")
    tree.setdefault(module, {})[name] = value
  return tree


def start():
  rng = np.random.default_rng(0)
  return {path: rng.normal(size=shape) for path, shape in SHAPES.items()}


def gradients(scale=1.0):
  rng = np.random.default_rng(1)
  return [
    {path: scale * rng.normal(size=shape) for path, shape in SHAPES.items()} for _ in range(STEPS)
  ]


def settings(**overrides):
  c = default().optim
  c.update({"learning_rate": 0.1, **overrides})
  optim.check(c)
  return c


def run(config, grads):
  """The parameters after each step."""
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), nested(start()))
  optimizer = optim.create(config, lambda step: jnp.asarray(RATES)[step], params)
  state, trajectory = optimizer.init(params), []
  for grad in grads:
    updates, state = optimizer.update(
      jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), nested(grad)), state, params
    )
    params = optax.apply_updates(params, updates)
    trajectory.append(optim.masks.paths(params))
  return trajectory


def reference(c, grads, kind, decayed=lambda path: path.endswith("kernel")):
  """torch.optim.SGD, Adam and AdamW, clipping first as torch.nn.utils.clip_grad_norm_ does."""
  params, trajectory = start(), []
  first, second = {}, {}
  for t, (grad, rate) in enumerate(zip(grads, RATES, strict=True), 1):
    norm = np.sqrt(sum((g**2).sum() for g in grad.values()))
    clip = min(1.0, c.clip_norm / norm) if c.clip_norm else 1.0
    for path, p in params.items():
      g = clip * grad[path]
      decay = c.weight_decay if decayed(path) else 0.0
      if kind == "l2":
        g = g + decay * p
      if c.name == "sgd":
        first[path] = c.momentum * first.get(path, 0) + g
        step = g + c.momentum * first[path] if c.nesterov else first[path]
      else:
        first[path] = c.b1 * first.get(path, 0) + (1 - c.b1) * g
        second[path] = c.b2 * second.get(path, 0) + (1 - c.b2) * g**2
        step = first[path] / (1 - c.b1**t) / (np.sqrt(second[path] / (1 - c.b2**t)) + c.eps)
      if kind == "decoupled":
        p = p * (1 - rate * decay)
      params[path] = p - rate * step
    trajectory.append(dict(params))
  return trajectory


SGD, NESTEROV = {"momentum": 0.0}, {"nesterov": True}
CASES = [  # (settings, the kind of weight decay that they mean)
  ({"name": "sgd", **SGD}, "l2"),
  ({"name": "sgd"}, "l2"),
  ({"name": "sgd", **NESTEROV}, "l2"),
  ({"name": "sgd", **SGD, "weight_decay": 0.1}, "l2"),
  ({"name": "sgd", **NESTEROV, "weight_decay": 0.1}, "l2"),
  ({"name": "sgd", "weight_decay": 0.1, "weight_decay_kind": "decoupled"}, "decoupled"),
  ({"name": "adam", "b1": 0.8, "b2": 0.95}, "l2"),
  ({"name": "adam", "weight_decay": 0.1, "eps": 1e-3}, "l2"),
  ({"name": "adam", "weight_decay": 0.1, "weight_decay_kind": "decoupled"}, "decoupled"),
  ({"name": "adamw", "weight_decay": 0.1}, "decoupled"),
  ({"name": "adamw", "weight_decay": 0.1, "weight_decay_kind": "decoupled"}, "decoupled"),
  ({"name": "sgd", **NESTEROV, "weight_decay": 0.1, "clip_norm": 0.5}, "l2"),
  ({"name": "adamw", "weight_decay": 0.1, "clip_norm": 0.5}, "decoupled"),
]


@pytest.mark.smoke
@pytest.mark.parametrize("overrides, kind", CASES)
def test_every_step_is_that_of_torch(overrides, kind):
  config = settings(**overrides)
  for ours, theirs in zip(
    run(config, gradients()), reference(config, gradients(), kind), strict=True
  ):
    for path in SHAPES:
      np.testing.assert_allclose(ours[path], theirs[path], rtol=2e-5, atol=2e-6, err_msg=path)


def test_the_cases_differ():
  """Or the test above would not see which formula is used."""
  flat = lambda params: np.concatenate([value.reshape(-1) for value in params.values()])
  ends = [flat(reference(settings(**o), gradients(), kind)[-1]) for o, kind in CASES]
  for i, a in enumerate(ends):
    for j, b in enumerate(ends[:i]):
      same = (
        CASES[i][0] | {"weight_decay_kind": None, "name": ""}
        == (CASES[j][0] | {"weight_decay_kind": None, "name": ""})
        and CASES[i][1] == CASES[j][1]
      )
      assert same or np.abs(a - b).max() > 1e-3, (CASES[i], CASES[j])


@pytest.mark.parametrize(
  "pattern, decayed",
  [("bias$|scale$", lambda path: not path.endswith("kernel")), ("", lambda path: True)],
)
def test_the_mask_says_what_decays(pattern, decayed):
  config = settings(weight_decay=0.1, weight_decay_mask=pattern)
  ours, theirs = run(config, gradients()), reference(config, gradients(), "l2", decayed)
  for path in SHAPES:
    np.testing.assert_allclose(ours[-1][path], theirs[-1][path], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("scale, clipped", [(1e-3, False), (1e3, True)])
def test_clipping_is_by_the_global_norm(scale, clipped):
  config = settings(momentum=0.0, clip_norm=0.25)
  step = {
    path: (start()[path] - run(config, gradients(scale))[0][path]) / RATES[0] for path in SHAPES
  }
  norm = np.sqrt(sum((s**2).sum() for s in step.values()))
  assert norm == pytest.approx(
    0.25 if clipped else scale * np.sqrt(sum((g**2).sum() for g in gradients()[0].values())),
    rel=1e-2,
  )


def test_decay_is_not_clipped_away():
  """Clipping looks at the gradient alone: with none, the decay is whole however large it is."""
  config = settings(momentum=0.0, clip_norm=1e-3, weight_decay=0.5)
  after = run(config, gradients(0.0))[0]
  np.testing.assert_allclose(
    after["conv/kernel"], start()["conv/kernel"] * (1 - 0.5 * RATES[0]), rtol=1e-5
  )
  np.testing.assert_allclose(after["conv/bias"], start()["conv/bias"], rtol=1e-6)


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"name": "adamw", "weight_decay_kind": "l2"}, "adamw is Adam with decoupled.*optim.name=adam"),
    ({"name": "admw"}, "unknown optimizer 'admw'. Did you mean 'adamw'?"),
    ({"nesterov": True, "momentum": 0.0}, "Nesterov needs a momentum"),
    ({"weight_decay_mask": "["}, "is not a regular expression"),
    ({"schedule": {"name": "linear"}}, "unknown schedule 'linear'"),
  ],
)
def test_contradictions_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    settings(**overrides)


def test_a_mask_that_matches_nothing_is_refused_where_there_is_decay():
  params = nested(start())
  optim.create(settings(weight_decay_mask="weights"), lambda _: 0.1, params)
  for function in (
    lambda c: optim.create(c, lambda _: 0.1, params),
    lambda c: optim.describe(c, params),
  ):
    with pytest.raises(UserError, match="'weights' matches no parameter"):
      function(settings(weight_decay=0.1, weight_decay_mask="weights"))


@pytest.mark.parametrize(
  "overrides, optimizer, decay",
  [
    ({"momentum": 0.9}, "sgd (momentum 0.9)", "no weight decay"),
    (
      {"nesterov": True, "weight_decay": 5e-4, "clip_norm": 1.0},
      "sgd (momentum 0.9, Nesterov), gradient clipped to norm 1",
      "l2 0.0005 on 1 of 3 tensors (kernel); not on bias, scale",
    ),
    (
      {"name": "adamw", "weight_decay": 0.05, "weight_decay_mask": "."},
      "adamw (b1 0.9, b2 0.999, eps 1e-08)",
      "decoupled 0.05 on 3 of 3 tensors (bias, kernel, scale)",
    ),
    (
      {"name": "adam", "weight_decay": 0.1, "weight_decay_mask": "conv"},
      "adam (b1 0.9, b2 0.999, eps 1e-08)",
      "l2 0.1 on 2 of 3 tensors (bias, kernel); not on scale",
    ),
    (
      {"name": "sgd", "weight_decay": 0.1, "weight_decay_kind": "decoupled"},
      "sgd (momentum 0.9)",
      "decoupled 0.1 on 1 of 3 tensors (kernel); not on bias, scale",
    ),
  ],
)
def test_in_words(overrides, optimizer, decay):
  assert optim.describe(settings(**overrides), nested(start())) == {
    "optimizer": optimizer,
    "decay": decay,
  }


@pytest.mark.parity
@pytest.mark.parametrize("overrides, kind", CASES[:5] + CASES[6:8] + CASES[9:10] + CASES[11:])
def test_torch_itself(overrides, kind):
  torch = pytest.importorskip("torch")
  c = settings(**overrides)
  params = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in start().items()}
  groups = [
    {"params": [p], "weight_decay": c.weight_decay if path.endswith("kernel") else 0.0}
    for path, p in params.items()
  ]
  if c.name == "sgd":
    optimizer = torch.optim.SGD(groups, c.learning_rate, c.momentum, nesterov=c.nesterov)
  else:
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[c.name]
    optimizer = make(groups, lr=c.learning_rate, betas=(c.b1, c.b2), eps=c.eps)
  expected = reference(c, gradients(), kind)
  for i, (ours, grad) in enumerate(zip(run(c, gradients()), gradients(), strict=True)):
    for group in optimizer.param_groups:
      group["lr"] = RATES[i]
    for path, p in params.items():
      p.grad = torch.tensor(grad[path])
    if c.clip_norm:
      torch.nn.utils.clip_grad_norm_(params.values(), c.clip_norm)
    optimizer.step()
    for path, p in params.items():
      np.testing.assert_allclose(ours[path], p.detach().numpy(), rtol=2e-5, atol=2e-6)
      np.testing.assert_allclose(expected[i][path], p.detach().numpy(), rtol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize(
  "name, overrides, theirs",
  [
    (
      "step",
      {"boundaries": ("30 steps", "60 steps"), "factor": 0.1},
      lambda torch, o: torch.optim.lr_scheduler.MultiStepLR(o, [30, 60], 0.1),
    ),
    (
      "cosine",
      {"end_factor": 0.1},
      lambda torch, o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100, eta_min=0.01),
    ),
    (
      "warm_restarts",
      {"first_period": "10 steps", "multiplier": 2.0, "end_factor": 0.1},
      lambda torch, o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 2, eta_min=0.01),
    ),
  ],
)
def test_schedules_of_torch(name, overrides, theirs):
  torch = pytest.importorskip("torch")
  c = default().optim.schedule
  c.update({"name": name, **overrides})
  ours = optim.schedules.create(c, 0.1, 100, lambda text, _: int(str(text).split()[0]))
  optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
  scheduler = theirs(torch, optimizer)
  for step in range(100):
    assert float(ours(step)) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-7), step
    optimizer.step()
    scheduler.step()
