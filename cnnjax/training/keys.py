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
  seed=Key(0, "every random choice of a run follows from it", rule=SEED),
  seeds=Key(
    1,
    "so many runs, of seed, seed + 1, ..., trained as one program; means are reported",
    rule=ABOVE_0,
  ),
  rates=Key((), "learning rates of so many runs, trained as one program", rule=NUMBERS_ABOVE_0),
  batch_size=Key(128, "examples per step, over all devices", rule=ABOVE_0),
  accumulate=Key(1, "micro-batches that a batch is taken in, to save memory", rule=ABOVE_0),
  epochs=Key(10, "how long to train; a duration", duration=True, may_change=True),
  dtype=Key(
    "float32",
    "what the model computes in, or bfloat16, float16; parameters are float32",
    choices=("float32", "bfloat16", "float16"),
  ),
  matmul_precision=Key(
    None,
    "of float32 products: default, tf32, highest; None: JAX's",
    types=str,
    choices=("default", "tf32", "highest"),
  ),
  deterministic=Key(False, "on GPU, the same bits in each run; slower"),
)

declare(
  "loss_scale",
  "float16: the loss is multiplied by it",
  initial=Key(2.0**15, "at the start", rule=ABOVE_0, needs="dtype=float16"),
  growth_steps=Key(
    2000,
    "finite steps before it is doubled; halved when one is not",
    rule=ABOVE_0,
    needs="dtype=float16",
  ),
  maximum=Key(2.0**24, "it is never above", rule=ABOVE_0, needs="dtype=float16"),
)

declare(
  "step",
  name=Key("standard", "how a step of training is taken; modules in imports may register more"),
)

declare(
  "",
  imports=Key(
    (),
    'modules to import first, such as a fork\'s that registers models: ("my_nets",)',
    names=True,
    rule=NAMES,
    may_change=True,
  ),
)

declare(
  "model",
  name=Key("resnet20", "any field of the model may stand beside it: model.drop_path=0.1"),
)

declare(
  "batch_norm",
  ghost=Key(
    None, "examples that are normalised together; None: the (micro-)batch", types=int, rule=ABOVE_0
  ),
  accumulated=Key(
    "each",
    "moving averages follow each micro-batch; matched: the batch",
    choices=("each", "matched"),
  ),
  precise=Key(False, "statistics of the raw weights measured afresh: arXiv:2105.07576"),
  batches=Key(100, "they are measured on: precise, SWA, schedule-free, Lookahead", rule=ABOVE_0),
)

declare(
  "mesh",
  data=Key(
    -1,
    "devices with the whole state, which share the batch; -1: all that are left",
    rule=ABOVE_0_OR_ALL,
    may_change=True,
  ),
  fsdp=Key(
    1,
    "devices that share the state as well, each with a part of each large array",
    rule=ABOVE_0_OR_ALL,
    may_change=True,
  ),
  fsdp_min_size=Key(
    4096, "values of an array below which it is not split", rule=AT_LEAST_0, may_change=True
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
  eval_batch_size=Key(500, "changes nothing but memory and speed", rule=ABOVE_0, may_change=True),
  eval_views=Key(
    None, 'predictions are means over views: "flip", "five_crop(0.9)"; cnnjax/augment', types=str
  ),
  log_every=Key(
    "100 steps", "a duration; an epoch's end is always logged", duration=True, may_change=True
  ),
  eval_every=Key(1, "a duration", duration=True, may_change=True),
  checkpoint_every=Key(1, "a duration", duration=True, may_change=True),
)

declare(
  "keep",
  last=Key(
    2, "checkpoints that stay, the newest; -1: all of them", rule=ABOVE_0_OR_ALL, may_change=True
  ),
  best=Key(1, "and the best ones by monitor", rule=AT_LEAST_0, may_change=True),
  every=Key(
    None, "and each at a multiple of this duration, for ever", duration=True, may_change=True
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
  "a jax.profiler trace, in the workdir",
  start=Key(
    None,
    "steps before it; 0: it shows compiling as well; None: no trace",
    types=int,
    rule=AT_LEAST_0,
    may_change=True,
  ),
  steps=Key(5, "that it shows", rule=ABOVE_0, may_change=True),
)

declare(
  "",
  monitor=Key(
    "validation/accuracy",
    "best checkpoint, early stopping and plateau go by it",
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
  min_delta=Key(0.0, "what counts as improvement", rule=AT_LEAST_0),
  restore_best=Key(True, "the result is that of the best checkpoint"),
)

declare(
  "health",
  every=Key(
    None, "norms and dead units of each layer, so often; a duration; None: never", duration=True
  ),
  trace=Key(False, "name the layer where NaN or infinity began, by going there once more"),
  warnings=Key(True, "say in words when a run diverges or stands still"),
)
