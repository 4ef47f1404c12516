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
import time

HERE = pathlib.Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
sys.path.insert(0, str(HERE))
import peers  # noqa: E402

from cnnjax.models import ops  # noqa: E402

PEERS = ("keras", "torch", "torch_compile")
# XLA's count of what a step of DenseNet-BC-100-12 needs, batch 64 (arXiv:1707.06990).
MEMORY = {"plain": {}, "memory_efficient": {"memory_efficient": True}, "remat": {"remat": True}}
PACKAGES = ("jax", "flax", "torch", "torchvision", "keras")


def work(args: dict) -> None:
  """A peer's process: builds its step, then runs as many as each line of stdin asks for."""
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what frameworks print goes to stderr
  peer, arguments = args.pop("peer"), args
  if peer == "keras":
    run, facts = peers.keras(**arguments)
  elif peer in ("torch", "torch_compile"):
    run, facts = peers.torch(**arguments, compiled=peer == "torch_compile")
  else:
    run, facts = peers.ours(**arguments)
  run(2)
  say = lambda answer: print(json.dumps(answer), file=answers, flush=True)
  say(facts)
  for line in sys.stdin:
    began = time.perf_counter()
    run(int(line))
    say((time.perf_counter() - began) / int(line))


class Worker:
  """A peer's process, seen from the other side."""

  def __init__(self, **arguments):
    self.process = subprocess.Popen(
      [sys.executable, __file__, "--work", json.dumps(arguments)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE if not os.environ.get("VERBOSE") else None,
      text=True,
    )
    self.facts = self.answer()

  def answer(self):
    line = self.process.stdout.readline()
    if not line:
      errors = self.process.stderr.read() if self.process.stderr else ""
      raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else "it died")
    return json.loads(line)

  def time(self, steps: int) -> float:
    print(steps, file=self.process.stdin, flush=True)
    return self.answer()

  def stop(self):
    self.process.kill()
    self.process.wait()


def compare(name: str, args: argparse.Namespace) -> dict:
  """Times of every peer, and of ours without each choice, over ours."""
  size, examples = (32, 128) if name == "resnet20" else (args.size, args.batch)
  common = dict(size=size, examples=examples, dtype=args.dtype)
  mine = dict(peer="ours", name=peers.MODELS[name][0], **common)
  wanted = {"ours": mine}
  there = [p for p in args.peers if peers.MODELS[name][2 if p == "keras" else 1]]
  wanted |= {peer: dict(peer=peer, name=name, **common) for peer in there}
  wanted |= {f"without {choice}": {**mine, "without": [choice]} for choice in args.without}
  workers, failed = {}, {}
  for label, arguments in wanted.items():
    try:
      workers[label] = Worker(**arguments)
    except RuntimeError as e:
      failed[label] = str(e)
  if "ours" not in workers:
    raise SystemExit(f"{name} of ours does not run: {failed['ours']}")
  first = workers["ours"].time(1)
  steps = max(1, round(args.seconds / first))
  times = {label: [] for label in workers}
  for _ in range(args.rounds):
    for label, worker in workers.items():
      times[label].append(worker.time(steps))
  for worker in workers.values():
    worker.stop()
  ratios = {
    label: sorted(t / o for t, o in zip(times[label], times["ours"], strict=True))
    for label in times
    if label != "ours"
  }
  edge = max(0, args.rounds // 10)
  return {
    "size": size,
    "batch": examples,
    "milliseconds": round(1000 * statistics.median(times["ours"]), 1),
    "facts": workers["ours"].facts,
    # Times of others over ours: above 1, ours is faster.
    "ratios": {
      label: [round(statistics.median(r), 3), round(r[edge], 3), round(r[-1 - edge], 3)]
      for label, r in ratios.items()
    },
    "failed": failed,
    "rounds": args.rounds,
  }


def memory(dtype: str) -> dict:
  """FLOPs and temporary bytes of a step, by the way of training."""
  facts, setting = {}, dict(name="densenet_bc100_k12", size=32, examples=64, dtype=dtype)
  for label, overrides in MEMORY.items():
    worker = Worker(peer="ours", overrides=overrides, **setting)
    facts[label] = worker.facts
    worker.stop()
  return facts


def table(results: dict) -> str:
  """The tables of README.md, for each machine."""
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
        found = row["ratios"].get(label)
        cells.append(f"{found[0]:.2f} ({found[1]:.2f}-{found[2]:.2f})" if found else "")
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
  parser.add_argument("--seconds", type=float, default=2.0, help="of ours in each round")
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
