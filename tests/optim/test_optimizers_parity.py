"""Optimizers beside those of torch and timm, step by step, kernels in the layout of each."""

import numpy as np
import parity
import pytest
from chains import KERNELS, MUON, RATES, SHAPES, gradients, random, run, settings, start

pytestmark = pytest.mark.parity
CONSTANT = 0.1


def to_torch(x):
  """[height, width, in, out] and [in, out] as [out, in, height, width] and [out, in]."""
  order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[np.ndim(x)]
  return parity.torch().tensor(np.ascontiguousarray(np.transpose(x, order)))


def torch_run(make, grads, rates=RATES, weight_decay=0.0, before=lambda params: None, paths=SHAPES):
  """The parameters after each step. `make` takes two groups: what decays, and the rest."""
  torch = parity.torch()
  params = {path: torch.nn.Parameter(to_torch(start()[path])) for path in paths}
  groups = [
    {
      "params": [p for path, p in params.items() if (path in KERNELS) == decays],
      "weight_decay": weight_decay if decays else 0.0,
    }
    for decays in (True, False)
  ]
  optimizer, trajectory = make([group for group in groups if group["params"]]), []
  for grad, rate in zip(grads, rates, strict=True):
    for group in optimizer.param_groups:
      group["lr"] = rate
    for path, p in params.items():
      p.grad = to_torch(grad[path])
    before(list(params.values()))
    optimizer.step()
    trajectory.append({path: p.detach().clone() for path, p in params.items()})
  return trajectory


def compare(ours, theirs, paths=SHAPES, rtol=2e-5, atol=1e-5):
  for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
    for path in paths:
      np.testing.assert_allclose(
        to_torch(a[path]), b[path], rtol=rtol, atol=atol, err_msg=f"{path}, step {step}"
      )


def torch_optim(name, **options):
  return lambda groups: getattr(parity.torch().optim, name)(groups, **options)


def timm_optim(name, **options):
  def make(groups):
    parity.torch()
    import timm.optim

    return getattr(timm.optim, name)(groups, **options)

  return make


BETAS = {"betas": (0.8, 0.95)}
B = {"b1": 0.8, "b2": 0.95}
CASES = {
  "SGD": ({"name": "sgd", "momentum": 0.0}, torch_optim("SGD", lr=1.0)),
  "momentum": ({"name": "sgd"}, torch_optim("SGD", lr=1.0, momentum=0.9)),
  "Nesterov": (
    {"name": "sgd", "nesterov": True},
    torch_optim("SGD", lr=1.0, momentum=0.9, nesterov=True),
  ),
  "RMSprop": (
    {"name": "rmsprop", "decay": 0.8, "eps": 0.1},
    torch_optim("RMSprop", alpha=0.8, eps=0.1, momentum=0.9),
  ),
  "RMSpropTF": (
    {"name": "rmsprop_tf", "decay": 0.8, "eps": 0.1},
    timm_optim("RMSpropTF", alpha=0.8, eps=0.1, momentum=0.9),
  ),
  "Adam": ({"name": "adam", "eps": 1e-3, **B}, torch_optim("Adam", eps=1e-3, **BETAS)),
  "AdamW": ({"name": "adamw", "eps": 1e-3, **B}, torch_optim("AdamW", eps=1e-3, **BETAS)),
  "NAdam": (  # its schedule of the momentum, at its end
    {"name": "nadam", **B},
    torch_optim("NAdam", eps=1e-8, momentum_decay=1e6, **BETAS),
  ),
  "NAdamW": (
    {"name": "nadam", "weight_decay_kind": "decoupled", **B},
    torch_optim("NAdam", momentum_decay=1e6, decoupled_weight_decay=True, **BETAS),
  ),
  "LAMB": (
    {"name": "lamb", "eps": 1e-6, **B},
    timm_optim("Lamb", eps=1e-6, max_grad_norm=None, **BETAS),
  ),
  "Lion": ({"name": "lion", **B}, timm_optim("Lion", **BETAS)),
}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_every_step_is_theirs(name, clip):
  torch = parity.torch()
  overrides, make = CASES[name]
  config = settings(**overrides, weight_decay=0.1, clip_norm=clip)

  def before(params):
    if clip:
      torch.nn.utils.clip_grad_norm_(params, clip)

  theirs = torch_run(make, gradients(), weight_decay=0.1, before=before)
  compare(run(config, gradients())[0], theirs)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_that_of_timm_at_one_rate(nesterov):
  """Where the rate changes, the paper's momentum has it inside, and timm's does not."""
  config = settings(name="lars", weight_decay=0.1, trust_coefficient=0.02, nesterov=nesterov)
  ours, _ = run(config, gradients(), lambda _: CONSTANT)
  make = timm_optim("Lars", momentum=0.9, nesterov=nesterov, trust_coeff=0.02, eps=0.0)
  theirs = torch_run(make, gradients(), [CONSTANT] * len(RATES), weight_decay=0.1)
  compare(ours, theirs)


def test_muon_is_that_of_timm_in_the_first_step():
  """Later the bias correction of optax weighs momentum and gradient otherwise.

  timm iterates in bfloat16, and leaves what has less than four outputs to AdamW.
  """
  paths = [path for path in MUON if SHAPES[path][-1] > 3]
  make = timm_optim(
    "Muon", nesterov=True, ns_coefficients="original", adjust_lr_fn="match_rms_adamw"
  )
  theirs = torch_run(make, gradients(steps=1), [CONSTANT], weight_decay=0.1, paths=paths)
  config = settings(name="muon", momentum=0.95, weight_decay=0.1)
  compare(run(config, gradients(steps=1))[0], theirs, paths, rtol=0, atol=2e-3)


def test_lookahead_is_that_of_timm():
  overrides, make = CASES["Nesterov"]

  def around(groups):
    import timm.optim

    lookahead = timm.optim.Lookahead(make(groups), alpha=0.25, k=4)
    # Otherwise the slow parameters begin where the fast ones are at the first synchronisation.
    for group in groups:
      for p in group["params"]:
        p.grad = p.detach().clone()
    lookahead.sync_lookahead()
    return lookahead

  config = settings(**overrides, weight_decay=0.1, lookahead=4, lookahead_rate=0.25)
  theirs = torch_run(around, gradients(), weight_decay=0.1)
  compare(run(config, gradients())[0], theirs)


def test_adaptive_clipping_is_that_of_timm():
  parity.torch()
  from timm.utils import adaptive_clip_grad

  config = settings(momentum=0.0, agc=0.05, agc_mask="kernel$", eps=1e-8)
  grads = gradients()

  def before(params):
    adaptive_clip_grad([p for p in params if p.ndim > 1], clip_factor=0.05)

  compare(run(config, grads)[0], torch_run(CASES["SGD"][1], grads, before=before))


def test_frozen_is_as_without_a_gradient():
  """What torch leaves out, `requires_grad` being false, counts in no norm either."""
  torch = parity.torch()
  rest = [path for path in SHAPES if not path.startswith("block")]
  config = settings(name="adamw", weight_decay=0.1, clip_norm=0.5, freeze=("^block",), **B)
  theirs = torch_run(
    torch_optim("AdamW", **BETAS), gradients(), weight_decay=0.1, paths=rest,
    before=lambda params: torch.nn.utils.clip_grad_norm_(params, 0.5),
  )  # fmt: skip
  compare(run(config, gradients())[0], theirs, rest)


def test_rates_by_pattern_are_groups():
  torch = parity.torch()
  config = settings(name="adamw", weight_decay=0.1, multipliers=(("^head", 10.0),), **B)
  params = {path: torch.nn.Parameter(to_torch(x)) for path, x in start().items()}
  optimizer = torch.optim.AdamW(
    [
      {
        "params": [p],
        "lr": CONSTANT * (10 if path.startswith("head") else 1),
        "weight_decay": 0.1 if path in KERNELS else 0.0,
      }
      for path, p in params.items()
    ],
    **BETAS,
  )
  ours, _ = run(config, gradients(), lambda _: CONSTANT)
  for a, grad in zip(ours, gradients(), strict=True):
    for path, p in params.items():
      p.grad = to_torch(grad[path])
    optimizer.step()
    compare([a], [{path: p.detach() for path, p in params.items()}])


def test_the_layouts_are_told_apart():
  """Or a norm by unit would pass on the wrong axis."""
  x = random(3)["block/conv/kernel"]
  assert to_torch(x).shape == (6, 4, 3, 3)
  assert to_torch(x)[5, 2, 0, 1] == x[0, 1, 2, 5]
