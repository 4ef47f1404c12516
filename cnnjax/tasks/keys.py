"""The keys of tasks, their losses, and of a teacher. `registry` runs this file without the room."""

from cnnjax.registry import (
  ABOVE_0,
  ABOVE_0_TO_1,
  AT_LEAST_0,
  SHARE,
  Key,
  Rule,
  declare,
)

TO_1E12: Rule = (lambda v: abs(v) <= 1e12, "between -1e12 and 1e12")
WIDTHS: Rule = (
  lambda v: len(v) > 0 and all(type(x) is int and x > 0 for x in v),
  "widths of layers, above 0",
)
NAMES: Rule = (lambda v: all(isinstance(name, str) for name in v), "names of metrics")

declare(
  "task",
  name=Key("classification", "multi_label, where an image may have several; regression of numbers"),
  loss=Key(
    None,
    "cross_entropy, binary_cross_entropy, focal; of regression mse, mae, huber; None: the task's",
    types=str,
  ),
  head=Key(None, "mlp, cosine, or a registered one; None: the model's own", types=str),
  metrics=Key((), 'registered ones that are measured as well: ("brier",)', names=True, rule=NAMES),
)

declare(
  "task",
  kind="task",
  label_smoothing=Key(0.0, "of labels: arXiv:1512.00567, section 7", rule=SHARE),
  class_weights=Key(
    None, "in the loss: auto (rare ones weigh more), effective_number, a list", types=(str, tuple)
  ),
  effective_beta=Key(
    0.999,
    "effective_number: beta of arXiv:1901.05555",
    rule=SHARE,
    needs="task.class_weights=effective_number",
  ),
  value_mean=Key(
    0.0, "of regression: the network learns (value - value_mean) / value_std", rule=TO_1E12
  ),
  value_std=Key(1.0, "as value_mean; best the standard deviation of the values", rule=ABOVE_0),
)

declare(
  "task",
  kind="loss",
  focal_gamma=Key(2.0, "focal: arXiv:1708.02002, equation 4", rule=AT_LEAST_0),
  target_threshold=Key(
    None, "binary_cross_entropy: mixed targets above are 1, others 0", types=float, rule=SHARE
  ),
  logit_adjustment=Key(
    0.0, "tau of arXiv:2007.07314, equation 10; 1 is the paper's", rule=AT_LEAST_0
  ),
  huber_delta=Key(
    1.0, "huber: where squares end, in deviations; 10.1214/aoms/1177703732", rule=ABOVE_0
  ),
)

declare(
  "task",
  kind="head",
  head_hidden=Key((1024,), "mlp: widths of its hidden layers", rule=WIDTHS),
  head_dropout=Key(0.0, "mlp: after each hidden layer", rule=SHARE),
  head_scale=Key(10.0, "cosine: of the cosines, at the start", rule=ABOVE_0),
)

declare(
  "task",
  aux_weight=Key(
    0.3, "of the loss of each auxiliary head; arXiv:1409.4842, section 5", rule=AT_LEAST_0
  ),
)

declare(
  "distill",
  "learn from the predictions of another run as well",
  workdir=Key(None, "where it is", types=str),
  teacher=Key(
    None,
    'in its place "ema": this run\'s own average, arXiv:1703.01780',
    types=str,
    choices=("ema",),
  ),
  checkpoint=Key("last", "best", choices=("last", "best")),
  weights=Key(
    "raw",
    "ema, swa, schedule_free: an average that it kept",
    choices=("raw", "ema", "swa", "schedule_free"),
  ),
  weight=Key(0.9, "share of the loss; arXiv:1503.02531, section 2", rule=ABOVE_0_TO_1),
  temperature=Key(4.0, "of both softmaxes; arXiv:1503.02531, section 2", rule=ABOVE_0),
)
