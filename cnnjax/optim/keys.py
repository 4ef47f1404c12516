"""The keys of optimizers, schedules, plateaus, averages. `registry` runs it without the room."""

from cnnjax.registry import (
  ABOVE_0,
  ABOVE_0_TO_1,
  AT_LEAST_0,
  AT_LEAST_1,
  FROM_0_TO_1,
  INSIDE_0_TO_1,
  SHARE,
  Key,
  Rule,
  declare,
  is_number,
)

PATTERNS: Rule = (lambda v: all(isinstance(x, str) for x in v), "patterns of parameters")


def _are_pairs(v: tuple) -> bool:
  return all(isinstance(x, tuple | list) and len(x) == 2 and is_number(x[1]) for x in v)


MULTIPLIERS: Rule = (
  lambda v: _are_pairs(v) and all(isinstance(x[0], str) and x[1] > 0 for x in v),
  'pairs of a pattern and a number above 0, such as (("^head", 10.0),)',
)
POINTS: Rule = (
  lambda v: _are_pairs(v) and all(0 <= x[1] <= 1 for x in v),
  "pairs of a duration and a share of the peak up to 1, such as ((0, 1.0), (30, 0.1))",
)

declare(
  "optim",
  name=Key("sgd", "or adam, adamw, lamb, lars, lion, muon, nadam, rmsprop, ...: cnnjax/optim"),
  learning_rate=Key(0.1, "the peak of the schedule", rule=ABOVE_0),
  scale_from=Key(
    None, "batch size of learning_rate, which is scaled to batch_size", types=int, rule=ABOVE_0
  ),
  scale_rule=Key("linear", "or sqrt", choices=("linear", "sqrt"), needs="optim.scale_from"),
)

declare(
  "optim",
  kind="optimizer",
  momentum=Key(0.9, "sgd, rmsprop, lars, muon", rule=SHARE),
  nesterov=Key(False, "sgd, lars"),
  b1=Key(0.9, "adam and its like, lion, schedule_free", rule=SHARE),
  b2=Key(0.999, "likewise", rule=SHARE),
  eps=Key(1e-8, "adam and its like, rmsprop", rule=ABOVE_0),
  decay=Key(0.9, "rmsprop: decay of the mean square; torch's alpha", rule=SHARE),
  trust_coefficient=Key(0.001, "lars: eta of arXiv:1708.03888", rule=ABOVE_0),
)

declare(
  "optim",
  sam_rho=Key(
    None,
    "of sharpness-aware minimisation, around any optimizer: arXiv:2010.01412",
    types=float,
    rule=ABOVE_0,
  ),
  lookahead=Key(
    None,
    "fast steps per slow step, around any optimizer: arXiv:1907.08610",
    types=int,
    rule=ABOVE_0,
  ),
  lookahead_rate=Key(0.5, "alpha", rule=ABOVE_0_TO_1, needs="optim.lookahead"),
  weight_decay=Key(0.0, "strength, times the learning rate; 0: none", rule=AT_LEAST_0),
  weight_decay_kind=Key(
    None,
    "l2 (added to the gradient), decoupled; None: the optimizer's",
    types=str,
    choices=("l2", "decoupled"),
    needs="optim.weight_decay",
  ),
  weight_decay_mask=Key("kernel$", "parameters that decay: a regular expression of paths"),
  l1=Key(0.0, "weight in the loss of the magnitudes of the parameters that decay", rule=AT_LEAST_0),
  max_norm=Key(
    None,
    "largest norm of a unit's weights: Srivastava et al. 2014, section 5.1",
    types=float,
    rule=ABOVE_0,
  ),
  clip_norm=Key(None, "clip the gradient to this global norm", types=float, rule=ABOVE_0),
  clip_value=Key(None, "clip each of its values to +- this", types=float, rule=ABOVE_0),
  agc=Key(None, "adaptive clipping, lambda of arXiv:2102.06171", types=float, rule=ABOVE_0),
  agc_mask=Key(
    "^(?!head)", "parameters to clip; the paper leaves the last layer out", needs="optim.agc"
  ),
  noise=Key(0.0, "Gaussian noise on the gradient, eta of arXiv:1511.06807", rule=AT_LEAST_0),
  noise_decay=Key(0.55, "gamma", rule=AT_LEAST_0, needs="optim.noise"),
  freeze=Key((), "patterns of parameters to keep, with their batch statistics", rule=PATTERNS),
  multipliers=Key(
    (), 'of the learning rate, by pattern: (("^head", 10.0), ("^stem", 0.1))', rule=MULTIPLIERS
  ),
  layer_decay=Key(
    None, "of the learning rate per layer away from the head: 0.75", types=float, rule=ABOVE_0_TO_1
  ),
)

declare(
  "optim.schedule",
  name=Key("cosine", "constant, step, multi_step, linear, ...: cnnjax/optim"),
  warmup=Key(0, "linear, before any schedule; a duration", duration=True, may_be_0=True),
  warmup_factor=Key(0.0, "its first rate, as a share of the peak", rule=FROM_0_TO_1),
)

declare(
  "optim.schedule",
  kind="schedule",
  boundaries=Key((), "multi_step: times of the drops; durations from the start"),
  factor=Key(0.1, "step, multi_step, exponential: factor of a drop", rule=ABOVE_0),
  period=Key(30, "step, exponential: time between drops; a duration", duration=True),
  power=Key(1.0, "polynomial", rule=ABOVE_0),
  end_factor=Key(0.0, "lowest rate, as a share of the peak", rule=FROM_0_TO_1),
  first_period=Key(10, "warm_restarts: length of the first period; a duration", duration=True),
  multiplier=Key(2.0, "warm_restarts: factor from period to period", rule=AT_LEAST_1),
  peak_decay=Key(1.0, "warm_restarts: factor from peak to peak", rule=ABOVE_0),
  start_factor=Key(0.04, "one_cycle: the first rate, as a share of the peak", rule=ABOVE_0_TO_1),
  peak_at=Key(0.3, "one_cycle: share of the run until the peak", rule=INSIDE_0_TO_1),
  cooldown=Key(0.2, "trapezoid: share of the run for the way down to end_factor", rule=FROM_0_TO_1),
  points=Key((), "piecewise: ((duration, share of the peak), ...), lines between", rule=POINTS),
)

declare(
  "optim.plateau",
  "lowers the learning rate when `monitor` stands still",
  patience=Key(
    None, "evaluations in a row without improvement; None: off", types=int, rule=AT_LEAST_0
  ),
  factor=Key(
    0.1, "of the learning rate at a fall", rule=INSIDE_0_TO_1, needs="optim.plateau.patience"
  ),
  min_delta=Key(
    1e-4,
    "smallest change that counts as improvement",
    rule=AT_LEAST_0,
    needs="optim.plateau.patience",
  ),
  cooldown=Key(
    0, "evaluations after a fall that do not count", rule=AT_LEAST_0, needs="optim.plateau.patience"
  ),
  min_scale=Key(
    0.0,
    "lower bound of the product of factors",
    rule=FROM_0_TO_1,
    needs="optim.plateau.patience",
  ),
)

declare(
  "",
  optimizers=Key((), 'beside optim: (("critic", {"params": "^critic/", "learning_rate": 1e-3}), )'),
)

declare(
  "average",
  "averages of the weights, evaluated beside them",
  ema=Key(
    None, "decay of an exponential moving average, such as 0.9999", types=float, rule=INSIDE_0_TO_1
  ),
  ema_warmup=Key(
    True, "decay min(ema, (1 + step) / (10 + step)), as in TensorFlow", needs="average.ema"
  ),
  swa_start=Key(
    None,
    "begin of the mean of the weights (arXiv:1803.05407); a duration",
    duration=True,
    may_be_0=True,
  ),
  swa_every=Key(
    1, "time between two weights in the mean; a duration", duration=True, needs="average.swa_start"
  ),
)
