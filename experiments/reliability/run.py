"""One run, killed again and again in every way, against the same run left alone.

python experiments/reliability/run.py [--kills=100] [--seed=0] [--out=FOLDER]

Each attempt is the same command; it is ended at a moment drawn at random, and started once more. At
the end all arrays of the last checkpoint and all lines of metrics.jsonl have to be those of the
undisturbed run, bit for bit. Writes results.json and the table of README.md, or both to FOLDER.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# A run that carries all kinds of state: momentum, an average, a plateau, dropout, mixed images.
WORDS = [
  "--config=configs/simple_cnn.py", "--config.model.conv_features=(4,)",
  "--config.model.dense_features=(8,)", "--config.model.dropout=0.3",
  "--config.data.source=synthetic", "--config.data.synthetic.train_examples=256",
  "--config.data.synthetic.image_size=8", "--config.data.validation=64",
  "--config.batch_size=16", "--config.eval_batch_size=1", "--config.log_every=7 steps",
  "--config.eval_every=10", "--config.checkpoint_every=37 steps", "--config.optim.name=sgd",
  "--config.optim.learning_rate=0.02", "--config.optim.plateau.patience=3",
  "--config.average.ema=0.99", "--config.augment=pad_crop(1) | flip | mixup(0.2)",
]  # fmt: skip
WAYS = {  # how often, and what
  "SIGKILL, at any moment": 30,
  "SIGKILL, while it starts or compiles": 15,
  "SIGKILL, during a save": 20,
  "SIGKILL, during an evaluation": 10,
  "SIGTERM, at any moment": 15,
  "SIGTERM, then SIGKILL": 5,
  "the disk is full": 5,
}
CLOCKS = ("images_per_second", "data_wait")


def command(workdir: pathlib.Path, epochs: int) -> list[str]:
  """Returns the one command of the run."""
  words = [*WORDS, f"--config.epochs={epochs}", f"--workdir={workdir}"]
  return [sys.executable, "-m", "cnnjax.main", *words]


def begin(workdir: pathlib.Path, epochs: int, log: pathlib.Path) -> subprocess.Popen:
  """Starts the run as a process that prints into `log`."""
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
  return subprocess.Popen(
    command(workdir, epochs), cwd=ROOT, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT
  )


def wait_until(run: subprocess.Popen, seen, seconds: float) -> None:
  """Returns when `seen()` is true, the run has ended, or the time is over."""
  end = time.monotonic() + seconds
  while time.monotonic() < end and run.poll() is None and not seen():
    time.sleep(0.002)


def size_of(file: pathlib.Path) -> int:
  return file.stat().st_size if file.exists() else 0


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, mib: int) -> Iterator[bool]:
  """Mounts a disk in memory, if this machine allows it; yields whether it does."""
  folder.mkdir(parents=True)
  options = ["-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
  mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
  try:
    yield mounted
  finally:
    if mounted:
      subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: pathlib.Path) -> pathlib.Path:
  """Takes all the space that is left."""
  file = folder.parent / "filler"
  with contextlib.suppress(OSError), file.open("wb", buffering=0) as f:
    while True:
      f.write(bytes(1 << 12))
  return file


def attempt(way: str, workdir: pathlib.Path, epochs: int, log: pathlib.Path, draw: random.Random):
  """Starts the run and ends it in one way; returns its exit code."""
  run = begin(workdir, epochs, log)
  compiled = lambda: "compiled in" in log.read_text()
  if "starts or compiles" in way:
    wait_until(run, lambda: False, draw.uniform(0.2, 6))
  else:
    wait_until(run, compiled, 60)
    wait_until(run, lambda: False, draw.uniform(0, 2))
  if "save" in way:
    saving = lambda: any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    wait_until(run, saving, 20)
    wait_until(run, lambda: False, draw.uniform(0, 0.02))
  if "evaluation" in way:
    # The training metrics of an epoch are written just before its evaluation.
    lines = lambda: (workdir / "metrics.jsonl").read_text().splitlines()
    at_end = lambda: '"epoch": ' in (last := lines()[-1]) and re.search(r'"epoch": \d*0\.0,', last)
    wait_until(run, lambda: bool(at_end()), 20)
    wait_until(run, lambda: False, draw.uniform(0, 0.1))
  filler = fill(workdir) if "disk" in way else None
  try:
    if filler:
      wait_until(run, lambda: False, 60)
    elif "SIGTERM" in way:
      run.send_signal(signal.SIGTERM)
      wait_until(run, lambda: False, draw.uniform(0, 0.2) if "then" in way else 60)
    run.kill()
    return run.wait()
  finally:
    if filler:
      filler.unlink()


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
  """Returns the differences of two runs, compared to the bit."""
  from cnnjax import writers

  command = [sys.executable, "-m", "cnnjax.checkpoints", "diff", str(a), "--with", str(b)]
  found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  different = [found.stdout + found.stderr] if found.returncode else []
  lines = [
    [{k: v for k, v in line.items() if k not in CLOCKS} for line in writers.read_metrics(folder)]
    for folder in (a, b)
  ]
  return different + ([] if lines[0] == lines[1] else ["metrics.jsonl"])


def torture(work: pathlib.Path, kills: int, epochs: int, seed: int) -> dict:
  """Runs the whole experiment in the folder `work`."""
  draw, log = random.Random(seed), work / "log.txt"
  alone, disturbed = work / "alone", work / "disk" / "run"
  if code := begin(alone, epochs, log).wait():
    raise RuntimeError(f"the run left alone ended with {code}: {log.read_text()[-500:]}")
  rows, codes = collections.Counter(), collections.defaultdict(collections.Counter)
  with small_disk(work / "disk", 64) as own_disk:
    ways = [way for way in WAYS if own_disk or "disk" not in way]
    for at in range(1, kills + 1):
      first = ways[at - 1] if at <= len(ways) else None  # each way once, then at random
      way = first or draw.choices(ways, [WAYS[way] for way in ways])[0]
      code = attempt(way, disturbed, epochs, log, draw)
      text = log.read_text()
      if code == 0:
        raise RuntimeError(f"the run ended before kill {at}; give it more epochs")
      if "Traceback" in text or code not in (-9, -15, 143, 75):
        raise RuntimeError(f"kill {at}, {way}: exit code {code}\n{text[-3000:]}")
      rows[way] += 1
      codes[way][code] += 1
      step = re.findall(r"going on from step ([\d,]+)", text)
      print(
        f"{at} of {kills}: {way}, exit {code}, had begun at {step[0] if step else 0}", flush=True
      )
    began = begin(disturbed, epochs, log)
    if code := began.wait():
      raise RuntimeError(f"the last attempt ended with {code}: {log.read_text()[-3000:]}")
    found = differences(alone, disturbed)
  return {
    "kills": kills,
    "epochs": epochs,
    "seed": seed,
    "ways": {way: {"times": n, "exit codes": dict(codes[way])} for way, n in rows.items()},
    "differences": found,
  }


def table(result: dict) -> str:
  """Returns the results as Markdown."""
  lines = ["| ended by | times | exit codes |", "|---|---|---|"]
  for way, row in result["ways"].items():
    codes = ", ".join(f"{code}: {n}" for code, n in row["exit codes"].items())
    lines.append(f"| {way} | {row['times']} | {codes} |")
  versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
  lines.append(
    f"\n{result['kills']} kills, seed {result['seed']}, {result['epochs']} epochs of 12 steps, on "
    f"two CPU cores, {versions}. "
    f"Arrays or lines that differ: {len(result['differences']) or 'none'}."
  )
  return "\n".join(lines)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--epochs", type=int, default=1200)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--out", type=pathlib.Path, default=HERE)
  args = parser.parse_args()
  work = pathlib.Path(tempfile.mkdtemp())
  try:
    result = torture(work, args.kills, args.epochs, args.seed)
  finally:
    shutil.rmtree(work, ignore_errors=True)
  import jax
  import orbax.checkpoint

  result["versions"] = {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "orbax": orbax.checkpoint.__version__,
  }
  (args.out / "results.json").write_text(json.dumps(result, indent=1))
  if args.out == HERE:
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition("<!-- table -->\n")
    after = rest.partition("<!-- end -->")[2]
    readme.write_text(f"{before}<!-- table -->\n{table(result)}\n<!-- end -->{after}")
  print(f"{args.kills} kills; differences: {result['differences'] or 'none'}")
  return bool(result["differences"])


if __name__ == "__main__":
  sys.exit(main())
