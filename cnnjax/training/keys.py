"""The keys of a run that belong to no other room. `registry` runs it without the room."""

from cnnjax.registry import (
  ABOVE_0,
  AT_LEAST_0,
  SEED,
  Key,
  Rule,
  declare,
  is_number,
)

ABOVE_0_OR_ALL: Rule = (lambda v: v == -1 or v > 0, "above 0, or -1")
NOT_EMPTY: Rule = (lambda v: v != "", "a folder, auto or None")
NAMES: Rule = (lambda v: all(isinstance(name, str) for name in v), "names of modules")
NUMBERS_ABOVE_0: Rule = (lambda v: all(is_number(x) and x > 0 for x in v), "numbers above 0")
OF_VALIDATION: Rule = (
  lambda v: v.startswith("validation/"),
  "a metric of the validation split, such as validation/accuracy or validation/loss",
)

declare(
  "",
  seed=Key(0, "of every random choice in a run", rule=SEED),
  seeds=Key(
    1,
    "number of runs, of seed, seed + 1, ..., in one program, with their means",
    rule=ABOVE_0,
  ),
  rates=Key((), "learning rates to try, a run each, in one program", rule=NUMBERS_ABOVE_0),
  batch_size=Key(128, "examples per step, over all devices", rule=ABOVE_0),
  accumulate=Key(1, "micro-batches of a batch, to save memory", rule=ABOVE_0),
  epochs=Key(10, "length of the run; a duration", duration=True, may_change=True),
  dtype=Key(
    "float32",
    "of the computation, or bfloat16, float16; parameters are float32",
    choices=("float32", "bfloat16", "float16"),
  ),
  matmul_precision=Key(
    None,
    "of float32 products: default, tf32, highest; None: JAX's",
    types=str,
    choices=("default", "tf32", "highest"),
  ),
  deterministic=Key(False, "on GPU, the same bits in every run; slower"),
)

declare(
  "loss_scale",
  "float16: the factor of the loss",
  initial=Key(2.0**15, "at the start", rule=ABOVE_0, needs="dtype=float16"),
  growth_steps=Key(
    2000,
    "finite steps until it doubles; NaN or infinity halves it",
    rule=ABOVE_0,
    needs="dtype=float16",
  ),
  maximum=Key(2.0**24, "its upper bound", rule=ABOVE_0, needs="dtype=float16"),
)

declare(
  "step",
  name=Key("standard", "kind of training step; modules in imports may register more"),
)

declare(
  "",
  imports=Key(
    (),
    'modules to import, such as one that registers models: ("my_nets",)',
    names=True,
    rule=NAMES,
    may_change=True,
  ),
)

declare(
  "model",
  name=Key(
    "resnet20",
    "registered model; its fields are keys too: model.drop_path=0.1; auto: that of init.from",
  ),
)

declare(
  "batch_norm",
  ghost=Key(None, "examples normalised together; None: the (micro-)batch", types=int, rule=ABOVE_0),
  accumulated=Key(
    "each",
    "moving averages follow each micro-batch; matched: the batch",
    choices=("each", "matched"),
  ),
  precise=Key(False, "measure the raw weights' statistics anew: arXiv:2105.07576"),
  batches=Key(
    100, "for measuring statistics: precise, SWA, schedule-free, Lookahead", rule=ABOVE_0
  ),
)

declare(
  "mesh",
  data=Key(
    -1,
    "devices that hold the whole state and share the batch; -1: the rest",
    rule=ABOVE_0_OR_ALL,
    may_change=True,
  ),
  fsdp=Key(
    1,
    "devices that also split each large array of the state",
    rule=ABOVE_0_OR_ALL,
    may_change=True,
  ),
  fsdp_min_size=Key(
    4096, "arrays with fewer values are not split", rule=AT_LEAST_0, may_change=True
  ),
)

declare(
  "",
  steps_per_dispatch=Key(
    None,
    "steps in one program; None: 1 on CPU, 32 on GPU and TPU",
    types=int,
    rule=ABOVE_0,
    may_change=True,
  ),
  eval_batch_size=Key(
    500,
    "examples per batch in evaluation; results do not depend on it",
    rule=ABOVE_0,
    may_change=True,
  ),
  eval_views=Key(
    None, 'average predictions over views: "flip", "five_crop(0.9)"; cnnjax/augment', types=str
  ),
  log_every=Key(
    "100 steps",
    "time between training lines; a duration; each epoch's end has one",
    duration=True,
    may_change=True,
  ),
  eval_every=Key(1, "time between evaluations; a duration", duration=True, may_change=True),
  checkpoint_every=Key(1, "time between checkpoints; a duration", duration=True, may_change=True),
)

declare(
  "keep",
  last=Key(2, "newest checkpoints to keep; -1: all", rule=ABOVE_0_OR_ALL, may_change=True),
  best=Key(1, "best checkpoints to keep, by monitor", rule=AT_LEAST_0, may_change=True),
  every=Key(
    None,
    "also keep each one at a multiple of this duration; None: none",
    duration=True,
    may_change=True,
  ),
)

declare(
  "",
  compilation_cache=Key(
    "auto",
    "folder of compiled programs; auto: ~/.cache/cnnjax/xla; None: none",
    types=(str, None),
    rule=NOT_EMPTY,
    may_change=True,
  ),
)

declare(
  "profile",
  "a jax.profiler trace in the workdir",
  start=Key(
    None,
    "steps before the trace; 0: with compiling; None: no trace",
    types=int,
    rule=AT_LEAST_0,
    may_change=True,
  ),
  steps=Key(5, "length of the trace", rule=ABOVE_0, may_change=True),
)

declare(
  "",
  monitor=Key(
    "validation/accuracy",
    "metric for the best checkpoint, early stopping and plateau",
    rule=OF_VALIDATION,
  ),
)

declare(
  "early_stopping",
  patience=Key(
    None,
    "evaluations without improvement; None: never stop early",
    types=int,
    rule=ABOVE_0,
    may_change=True,
  ),
  min_delta=Key(0.0, "smallest change that counts as improvement", rule=AT_LEAST_0),
  restore_best=Key(True, "take the result from the best checkpoint"),
)

declare(
  "health",
  every=Key(
    None, "time between norms and dead units of layers; a duration; None: never", duration=True
  ),
  trace=Key(False, "on NaN or infinity, compute the step again and name the layer"),
  warnings=Key(True, "warn when a run diverges or stands still"),
)
