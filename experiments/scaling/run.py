"""What a training step says to other devices, and what it keeps on each, by XLA's own count.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python experiments/scaling/run.py

Compiles the step of ResNet-50 for meshes of 1 to 8 simulated CPU devices and counts in the compiled
program; nothing is run. Writes results.json and the tables of README.md.
"""

import json
import pathlib
import platform
import sys
import time

import jax

from cnnjax import build
from cnnjax import config as configs
from cnnjax.runtime import sharding

HERE = pathlib.Path(__file__).parent
EACH = 8  # images on a device: weak scaling
MIB = 2**20
MESHES = [(n, 1) for n in (1, 2, 4, 8)] + [(1, n) for n in (2, 4, 8)] + [(2, 4)]
GHOST = [(8, 1), (1, 8)]


def config_of(data: int, fsdp: int, ghost: bool):
  """Returns the config: ResNet-50 with SGD and momentum, and an average of its weights."""
  config = configs.default()
  for key, value in {
    "model.name": "resnet50",
    "data.source": "synthetic",
    "data.synthetic.num_classes": 1000,
    "data.synthetic.image_size": 64,
    "batch_size": EACH * data * fsdp,
    "average.ema": 0.9999,
    "mesh.data": data,
    "mesh.fsdp": fsdp,
    "batch_norm.ghost": EACH if ghost else None,
    "optim.schedule.name": "constant",
  }.items():
    configs.override(config, key, value)
  build.validate(config)
  return config


def measure(data: int, fsdp: int, ghost: bool) -> dict:
  """Returns a row: the collectives of a step and the memory of a device."""
  program = build.build(config_of(data, fsdp, ghost))
  now, began = program.new_state(abstract=True), time.monotonic()
  args = now, program.inputs.train.feed(0), 1, program.constants
  compiled = program.compiled_step.lower(*args).compile()
  return {
    "data": data,
    "fsdp": fsdp,
    "ghost": ghost,
    "collectives": sharding.collectives(compiled.as_text()),
    "parameters": sharding.bytes_per_device(now.params),
    "optimizer": sharding.bytes_per_device(now.opt_state),
    "averages": sharding.bytes_per_device(now.averages),
    "temporary": compiled.memory_analysis().temp_size_in_bytes,
    "compile_seconds": round(time.monotonic() - began),
  }


def table(rows: list[dict]) -> str:
  """Returns the rows as Markdown."""
  lines = [
    "| data x fsdp | batch norm over | all-reduce | all-gather | reduce-scatter | parameters "
    "| optimizer | average | together, of one device | temporary |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ]
  kept = lambda row: row["parameters"] + row["optimizer"] + row["averages"]
  for row in rows:
    counts = [
      f"{row['collectives'][kind][0]}, {row['collectives'][kind][1] / MIB:.1f} MiB"
      if kind in row["collectives"]
      else "0"
      for kind in ("all-reduce", "all-gather", "reduce-scatter")
    ]
    sizes = [f"{row[key] / MIB:.1f} MiB" for key in ("parameters", "optimizer", "averages")]
    less = f"1/{kept(rows[0]) / kept(row):.2f}"
    group = f"{EACH} images" if row["ghost"] else "the batch"
    mesh = f"{row['data']} x {row['fsdp']}"
    cells = [mesh, group, *counts, *sizes, less, f"{row['temporary'] / MIB:.0f} MiB"]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def main() -> int:
  if jax.device_count() < 8:
    print("set XLA_FLAGS=--xla_force_host_platform_device_count=8", file=sys.stderr)
    return 2
  asked = [(*mesh, False) for mesh in MESHES] + [(*mesh, True) for mesh in GHOST]
  rows = []
  for at, row in enumerate(asked, 1):
    rows.append(measure(*row))
    print(f"{at} of {len(asked)}: {json.dumps(rows[-1])}", flush=True)
  versions = {"jax": jax.__version__, "python": platform.python_version()}
  (HERE / "results.json").write_text(json.dumps({"versions": versions, "rows": rows}, indent=1))
  readme = HERE / "README.md"
  before, _, rest = readme.read_text().partition("<!-- table -->\n")
  after = rest.partition("<!-- end -->")[2]
  readme.write_text(f"{before}<!-- table -->\n{table(rows)}\n<!-- end -->{after}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
