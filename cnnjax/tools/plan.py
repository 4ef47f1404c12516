"""Plans the training step of a run by XLA's own analysis: trains and downloads nothing.

python -m cnnjax.plan --config=configs/resnet.py:imagenet --devices=8 --memory=16

The step that the run would take is compiled for its mesh. --devices simulates one that is not here,
on CPU. XLA plans memory for the devices that it compiles for: parameters, optimizer and input take
the same anywhere, while temporary memory and FLOPs are those of this backend. On a GPU or TPU they
differ, since other things are fused there and convolutions have work space: plan on one for the
last word. Evaluation takes memory as well (eval_batch_size), and is not planned.
"""

import argparse
import dataclasses
import math
import os
import re
import time
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import data, models, trained
from cnnjax.build import build, validate
from cnnjax.errors import ArgumentParser, UserError
from cnnjax.runtime import compiling, sharding
from cnnjax.tools import shapes
from cnnjax.training.program import Program

GIB = 2**30
TRIES = 6  # compilations at most for the largest batch


@dataclasses.dataclass(frozen=True)
class Plan:
  """The costs of the training step of a run; memory is in bytes of one device."""

  program: Program
  data: str  # in words
  macs: int  # of the forward pass, for one image
  flops: float  # of a step, on each device, as XLA counts
  memory: dict[str, int]  # bytes by purpose
  seconds: float  # of compiling

  @property
  def total(self) -> int:
    return sum(self.memory.values())

  def lines(self) -> dict[str, str]:
    """Returns the plan in words, by name."""
    summary, batch = {**self.program.summary, "data": self.data}, self.program.config.batch_size
    train = 6 * self.macs * batch  # a MAC is 2 FLOPs; the backward pass takes twice the forward's
    texts = {name: summary[name] for name in ("model", "data", "input", "devices")} | {
      "MACs": f"{_short(self.macs)} in the forward pass of an image",
      "FLOPs": f"{_short(self.flops)} a step on each device by XLA's count; 6 x MACs x batch are "
      f"{_short(train)} on all",
      "compiling": f"{self.seconds:.1f} s",
      "memory": "on each device:",
    }
    rows = {**self.memory, "in all": self.total}
    return texts | {f"  {k}": f"{sharding.size_text(v, self.total):>12}" for k, v in rows.items()}


def _short(number: float) -> str:
  """Returns a number in words: 1.82e9 as "1.82 G"."""
  power = min(max(int(math.log10(number or 1)) // 3, 0), 5)
  return f"{number / 1000**power:.3g} {' kMGTP'[power]}".rstrip()


def plan(config: ConfigDict, *, examples: int | None = None, classes: int | None = None) -> Plan:
  """Compiles the training step of a run; `examples` and `classes` stand for missing data.

  Raises:
    UserError: the config is wrong, or a property of the data is not known.
  """
  if config.seeds > 1 or config.rates:
    raise UserError("several runs in one program (seeds, rates) cannot be planned: leave them out")
  config, splits, text = shapes.stand_in(config, examples, classes)
  config, init = trained.with_init(config)
  validate(config)
  program = build(config, splits, trained.teacher(config), pretrained=init)
  last = program.inputs.train.shapes(program.inputs.length.total - 1)  # progressive sizes grow
  now = program.new_state(abstract=True)
  began = time.monotonic()
  compiled = program.compiled_step.lower(now, last, 1, program.constants).compile()
  seconds = time.monotonic() - began
  bytes_of, analysis = sharding.bytes_per_device, compiled.memory_analysis()
  memory = {
    "parameters": bytes_of(now.params),
    "optimizer": bytes_of(now.opt_state),
    "averages": bytes_of(now.averages),
  }
  # Other batches are on the device, or on their way there, while a step is taken.
  ahead = data.streaming.ON_DEVICE if isinstance(program.inputs.train, data.Streaming) else 0
  unaliased = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  memory |= {
    "other state": bytes_of(now) - sum(memory.values()),
    "input": (1 + ahead) * bytes_of(last) + bytes_of(program.constants),
    "temporary": analysis.temp_size_in_bytes,
    "results, code": max(unaliased, 0) + analysis.generated_code_size_in_bytes,
  }
  macs = models.summarize(program.model, program.inputs.image_shape).macs
  return Plan(program, text, macs, compiled.cost_analysis()["flops"], memory, seconds)


def largest_batch(
  total: Callable[[int], int], memory: float, unit: int, first: int, most: int
) -> tuple[int, int] | None:
  """Returns (batch size, its bytes) of the largest batch that fits into `memory`, if one does.

  Memory grows nearly as a line with the batch size. The size where the line through two sizes meets
  `memory` is measured, then that of the line through the last two, until it stays or after `TRIES`.
  `total` takes a batch size, compiles, and gives bytes; sizes are multiples of `unit`, `most` at
  most, and the search begins with `first`.
  """
  step = lambda size: min(max(int(size) // unit, 1), most // unit) * unit
  known: dict[int, int] = {}
  candidate = step(first)
  while candidate not in known and len(known) < TRIES:
    known[candidate] = total(candidate)
    fits = max((size for size, taken in known.items() if taken <= memory), default=0)
    over = min((size for size, taken in known.items() if taken > memory), default=most + unit)
    if len(known) == 1:
      candidate = step(2 * fits or over // 2)
      continue
    a, b = [*known][-2:]  # the nearest, mostly: a bracket with a far end would stand still
    slope = (known[a] - known[b]) / (a - b)
    meets = a + (memory - known[a]) / slope if slope > 0 else most * bool(fits)
    candidate = step(min(max(meets, fits), over - unit))
  return (fits, known[fits]) if fits else None


def _simulate(devices: int) -> None:
  """Simulates CPU devices. Call it before JAX is asked for devices."""
  flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
  os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
  jax.config.update("jax_platforms", "cpu")


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(
    prog="python -m cnnjax.plan",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--config", metavar="FILE[:PRESET]", help="as in cnnjax.main, with overrides")
  parser.add_argument("--devices", type=int, help="that are simulated; default: those here")
  parser.add_argument("--memory", type=float, metavar="GIB", help="find the largest batch for it")
  parser.add_argument("--examples", type=int, help="of the training split, if it is not here")
  parser.add_argument("--classes", type=int, help="of the data, if they are not here")
  args, words = parser.parse_known_args(argv)
  given = {f"--{name}": value for name, value in vars(args).items() if name != "config"}
  if wrong := [flag for flag, value in given.items() if value is not None and value <= 0]:
    raise UserError(f"{wrong[0]}={given[wrong[0]]}: it must be above 0")
  config = configs.from_arguments(args.config, words, list(given))
  if args.devices:
    _simulate(args.devices)
  compiling.use_cache(None)  # to time it, and since a cached program lacks a part of the analysis

  def planned(batch_size: int) -> Plan:
    wanted = config.copy_and_resolve_references()
    wanted.batch_size = batch_size
    return plan(wanted, examples=args.examples, classes=args.classes)

  current = planned(config.batch_size)
  for name, text in current.lines().items():
    print(f"  {name:<17}{text}")
  if jax.default_backend() == "cpu":
    print("FLOPs, temporary memory and results are of XLA's CPU compiler; others differ")
  if current.program.mesh.shape["fsdp"] > 1:
    print("parameters, each of their shape and with its part on a device:")
    for path, shape, part, where in sharding.table(current.program.new_state(abstract=True).params):
      print(f"  {path}  {shape}  {part}  {where}")
  if args.memory:
    print(_largest(current, planned, args.memory))
  return 0


def _largest(current: Plan, planned: Callable[[int], Plan], gib: float) -> str:
  """Returns the largest batch in words; `current` is the plan of the config as it is."""
  config, size = current.program.config, current.program.mesh.size
  unit = config.accumulate * math.lcm(size, config.batch_norm.ghost or 1)
  most = len(current.program.inputs.train.split)
  total = lambda batch: current.total if batch == config.batch_size else planned(batch).total
  if (fits := largest_batch(total, gib * GIB, unit, config.batch_size, most)) is None:
    return f"not even a batch of {unit} fits into {gib:g} GiB"
  batch, taken = fits
  end = ", which is all that there is" if batch + unit > most else ""
  return (
    f"largest batch that fits into {gib:g} GiB: batch_size={batch}{end}, {batch // size} on each "
    f"device, with {sharding.size_text(taken)}"
  )
