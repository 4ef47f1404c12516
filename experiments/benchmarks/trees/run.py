"""Times the trainer of this tree beside that of an older commit, whole runs taking turns.

python experiments/benchmarks/trees/run.py COMMIT [--rounds 8] [--steps 300]

Each round trains once with either tree, in the other order than the round before, so that what else
the machine does falls on both alike. Nothing is read from a compilation cache. A ratio is this tree
over the commit, round by round: the median, and the middle 80 % of the rounds. The table is written
to README.md and everything to results.json.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
ROOT, RESULTS, README = HERE.parents[2], HERE / "results.json", HERE / "README.md"
CONFIG = "configs/resnet.py"
WORDS = {
  "first line": "first line of output, s",
  "wall": "the whole run, s",
  "cpu": "the whole run, s of CPU",
  "compiling": "compiling, s",
  "step": "a step in the median, ms",
}


def run(tree: pathlib.Path, steps: int) -> dict[str, float]:
  """Returns what one training run with the code of `tree` took."""
  command = [sys.executable, "-m", "cnnjax.main", f"--config={CONFIG}"]
  command += [f"--config.epochs={steps} steps", f"--config.eval_every={steps}"]
  with tempfile.TemporaryDirectory() as folder:
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
      [*command, f"--workdir={folder}/run"], cwd=tree, env=environment, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    first = process.stdout.readline()
    first_line = time.perf_counter() - began
    text = first + process.stdout.read()
    code, wall = process.wait(), time.perf_counter() - began
  found = re.search(r"\(compiling ([\d.]+) s; a step ([\d.]+) ms", text)
  if code or not found:
    raise SystemExit(f"{tree} does not train:\n{text[-2000:]}")
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  compiling, step = map(float, found.groups())
  return {
    "first line": first_line, "wall": wall, "cpu": cpu, "compiling": compiling, "step": step,
  }  # fmt: skip


def compare(base: pathlib.Path, rounds: int, steps: int) -> dict[str, dict]:
  """Returns times and ratios by what is measured, of runs that take turns."""
  times = {tree: [] for tree in (base, ROOT)}
  for tree in times:
    run(tree, steps)  # the first one reads files that the others find in memory
  for i in range(rounds):
    for tree in (base, ROOT)[:: -1 if i % 2 else 1]:
      times[tree].append(run(tree, steps))
    print(i + 1, times[base][-1], times[ROOT][-1], flush=True)
  found = {}
  for what in WORDS:
    before, after = ([one[what] for one in times[tree]] for tree in (base, ROOT))
    each = sorted(b / a for a, b in zip(before, after, strict=True))
    edge = max(0, len(each) // 10)
    found[what] = {
      "before": [round(x, 3) for x in before],
      "after": [round(x, 3) for x in after],
      "ratio": [round(x, 3) for x in (statistics.median(each), each[edge], each[-1 - edge])],
    }
  return found


def table(entries: list[dict]) -> str:
  """Returns the tables of README.md."""
  text = ""
  for entry in entries:
    text += f"\n**{entry['commit']} beside {entry['base']}**: {CONFIG}, {entry['steps']} steps, "
    text += f"seed 0, {entry['rounds']} rounds, {entry['machine']}, jax {entry['jax']}\n\n"
    text += "| | before | after | after / before (middle 80 %) |\n|---|---|---|---|\n"
    for what, row in entry["times"].items():
      before, after = (f"{statistics.median(row[which]):.3g}" for which in ("before", "after"))
      ratio = "{:.3f} ({:.3f} to {:.3f})".format(*row["ratio"])
      text += f"| {WORDS[what]} | {before} | {after} | {ratio} |\n"
  return text


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("commit")
  parser.add_argument("--rounds", type=int, default=8)
  parser.add_argument("--steps", type=int, default=300)
  args = parser.parse_args()
  git = lambda *words: subprocess.run(
    ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
  ).stdout.strip()
  with tempfile.TemporaryDirectory() as folder:
    base = pathlib.Path(folder) / "base"
    git("worktree", "add", "--detach", str(base), args.commit)
    try:
      times = compare(base, args.rounds, args.steps)
    finally:
      git("worktree", "remove", "--force", str(base))
  entries = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
  entries.append({
    "base": git("rev-parse", "--short", args.commit),
    "commit": git("rev-parse", "--short", "HEAD"),
    "steps": args.steps,
    "rounds": args.rounds,
    "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    "jax": importlib.metadata.version("jax"),
    "times": times,
  })  # fmt: skip
  RESULTS.write_text(json.dumps(entries, indent=1) + "\n")
  head, marker, _ = README.read_text().partition("<!-- table -->\n")
  README.write_text(head + marker + table(entries))


if __name__ == "__main__":
  main()
