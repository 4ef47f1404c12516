"""Times training steps of cnnjax, of Keras on JAX and of torchvision in PyTorch, side by side.

python experiments/benchmarks/train_step/run.py [--models resnet50 ...] [--peers keras torch ...]

Every peer is a process of its own; they take turns, a few steps each, round after round, so that
what else the machine does falls on all alike. A ratio is the time of a peer over that of ours,
round by round: the median, and the middle 80 % of the rounds. The table is written to README.md
and everything to results.json, under a name of the device, the precision and jax's version; a run
with other peers or choices adds its columns to a row.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
sys.path[:0] = [str(HERE), str(HERE.parent)]
import peers  # noqa: E402
import turns  # noqa: E402

from cnnjax.models import ops  # noqa: E402

PEERS = ("keras", "torch", "torch_compile")
# XLA's count of what a step of DenseNet-BC-100-12 needs, batch 64 (arXiv:1707.06990).
MEMORY = {"plain": {}, "memory_efficient": {"memory_efficient": True}, "remat": {"remat": True}}
PACKAGES = ("jax", "flax", "torch", "torchvision", "keras")


def work(args: dict) -> None:
  """Runs the process of a peer."""

  def build():
    peer = args.pop("peer")
    if peer == "keras":
      run, facts = peers.keras(**args)
    elif peer in ("torch", "torch_compile"):
      run, facts = peers.torch(**args, compiled=peer == "torch_compile")
    else:
      run, facts = peers.ours(**args)
    run(1)  # a second one comes before the first is timed
    return run, lambda: facts

  turns.serve(build)


def compare(name: str, args: argparse.Namespace) -> dict:
  """Times of every peer, and of ours without each choice, over ours."""
  size, examples = (32, 128) if name == "resnet20" else (args.size, args.batch)
  common = dict(size=size, examples=examples, dtype=args.dtype)
  mine = dict(peer="ours", name=peers.MODELS[name][0], **common)
  wanted = {"ours": mine}
  there = [p for p in args.peers if peers.MODELS[name][2 if p == "keras" else 1]]
  wanted |= {peer: dict(peer=peer, name=name, **common) for peer in there}
  wanted |= {f"without {choice}": {**mine, "without": [choice]} for choice in args.without}
  workers, failed = turns.start(__file__, wanted)
  times = turns.measure(workers, args.rounds, args.seconds)
  facts = workers["ours"].facts
  for worker in workers.values():
    worker.stop()
  return {
    "size": size,
    "batch": examples,
    "milliseconds": round(1000 * statistics.median(times["ours"]), 1),
    "facts": facts,
    "ratios": turns.ratios(times),
    "failed": failed,
    "rounds": args.rounds,
  }


def memory(dtype: str) -> dict:
  """FLOPs and temporary bytes of a step, by the way of training."""
  facts, setting = {}, dict(name="densenet_bc100_k12", size=32, examples=64, dtype=dtype)
  for label, overrides in MEMORY.items():
    worker = turns.Worker(__file__, peer="ours", overrides=overrides, **setting)
    facts[label] = worker.facts
    worker.stop()
  return facts


def table(results: dict) -> str:
  """Returns the tables of README.md, for each machine."""
  text = ""
  for key, entry in results.items():
    labels = list(dict.fromkeys(name for row in entry["models"].values() for name in row["ratios"]))
    text += f"\n**{key}** ({', '.join(f'{k} {v}' for k, v in entry['versions'].items())})\n\n"
    header = ["model", "input", "ms", "FLOPs / 6 MACs", "temporary MB", *labels]
    text += f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n"
    for name, row in entry["models"].items():
      cells = [name, f"{row['batch']}x{row['size']}x{row['size']}", f"{row['milliseconds']:.0f}"]
      facts = row["facts"]
      cells += [f"{facts['flops_over_6_macs']:.2f}", f"{facts['temp_bytes'] / 1e6:.0f}"]
      for label in labels:
        cells.append(turns.cell(row["ratios"].get(label)))
      text += f"| {' | '.join(cells)} |\n"
    if "memory" in entry:
      text += "\n| DenseNet-BC-100-12, batch 64 | temporary MB | GFLOPs |\n|---|---|---|\n"
      plain = entry["memory"]["plain"]
      for label, facts in entry["memory"].items():
        size, flops = facts["temp_bytes"], facts["flops"]
        text += f"| {label} | {size / 1e6:.0f} ({size / plain['temp_bytes']:.0%}) "
        text += f"| {flops / 1e9:.0f} ({flops / plain['flops']:.0%}) |\n"
  return text


def write(results: dict) -> None:
  """results.json, and the tables of README.md."""
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  head, marker, _ = README.read_text().partition("<!-- table -->\n")
  README.write_text(head + marker + table(results))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--models", nargs="*", choices=peers.MODELS, default=list(peers.MODELS))
  parser.add_argument("--peers", nargs="*", choices=PEERS, default=["keras", "torch"])
  parser.add_argument("--without", nargs="*", choices=ops.CHOICES, default=[])
  parser.add_argument("--size", type=int, default=96)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
  parser.add_argument("--rounds", type=int, default=10)
  parser.add_argument("--seconds", type=float, default=2.0, help="of each in each round")
  parser.add_argument("--memory", action="store_true", help="also count the memory of a DenseNet")
  parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    work(args.work)
    return
  results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  device = subprocess.run(
    [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"],
    capture_output=True, text=True, check=True,
  ).stdout.strip()  # fmt: skip
  if device == "cpu":
    device = f"CPU, {os.cpu_count()} cores, {platform.machine()}"
  key = f"{device}, {args.dtype}, jax {versions['jax']}"
  entry = results.setdefault(key, {"models": {}})
  entry["versions"] = versions
  for name in args.models:
    row = compare(name, args)
    row["ratios"] = entry["models"].get(name, {"ratios": {}})["ratios"] | row["ratios"]
    entry["models"][name] = row
    print(name, json.dumps(row), flush=True)
    write(results)
  if args.memory:
    entry["memory"] = memory(args.dtype)
    write(results)


if __name__ == "__main__":
  main()
