"""The keys of pretrained weights. `registry` runs this file without the room."""

from cnnjax.registry import Key, Rule, declare

NOT_EMPTY: Rule = (lambda v: v != "", "a file, the workdir of a run, or hf://owner/name")

declare(
  "init",
  "begin with the weights of a trained network",
  **{
    "from": Key(
      None,
      "a file of torch, Keras or safetensors, the workdir of a run, hf://owner/name",
      types=str,
      rule=NOT_EMPTY,
    )
  },
  source=Key(
    None,
    "the code that wrote the file, such as timm_tf; None: found by its tensors",
    types=str,
    needs="init.from",
  ),
  checkpoint=Key(
    "best", "last; of a workdir, where there is a best one", choices=("best", "last"),
    needs="init.from",
  ),
  weights=Key(
    "raw",
    "ema, swa, schedule_free: an average that the run of a workdir kept",
    choices=("raw", "ema", "swa", "schedule_free"),
    needs="init.from",
  ),
  preprocessing=Key(
    "weights",
    "of images: that of the weights where keys of data are at their defaults; data: by data.*",
    choices=("weights", "data"),
    needs="init.from",
  ),
  head=Key(
    "auto",
    "keep the last layer, new (it starts at 0); auto: keep it for the same classes",
    choices=("auto", "keep", "new"),
    needs="init.from",
  ),
)  # fmt: skip
