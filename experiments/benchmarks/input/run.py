"""Times the input pipelines of cnnjax, tf.data, torch's DataLoader and Keras, side by side.

python experiments/benchmarks/input/run.py --photos FOLDER [--parts streaming resident step]

FOLDER holds class folders of photos, which are made into 500x375 JPEG files first. CIFAR-10 has to
be prepared for TFDS. Needs tensorflow, torch, torchvision, keras and psutil; a peer that is not
there is left out. Tables are written to README.md, everything to results.json.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
sys.path[:0] = [str(HERE), str(HERE.parent)]
import peers  # noqa: E402
import turns  # noqa: E402

PARTS = {"streaming": peers.STREAMING, "resident": peers.RESIDENT, "step": peers.STEP}
PACKAGES = ("cnnjax", "jax", "grain", "simplejpeg", "tensorflow", "torch", "torchvision", "keras")


def compare(part: str, path: str, args: argparse.Namespace) -> dict:
  """Returns the times of every peer of a part."""
  wanted = {label: {"part": part, "peer": label, "path": path} for label in PARTS[part]}
  if part == "streaming" and args.workers:
    wanted["ours, processes"] = {**wanted["ours"], "workers": args.workers}
  workers, failed = turns.start(__file__, wanted)
  times = turns.measure(workers, args.rounds, args.seconds)
  peers_found = {
    label: {
      "images_per_second_per_core": round(
        peers.BATCH / statistics.median(times[label]) / peers.CORES
      ),
      "seconds_to_first_batch": round(worker.launch_s, 1),
      **worker.facts,
    }
    for label, worker in workers.items()
  }
  for worker in workers.values():
    worker.stop()
  return {"peers": peers_found, "ratios": turns.ratios(times), "failed": failed}


def table(results: dict) -> str:
  """Returns the tables of README.md."""
  text = ""
  for key, entry in results.items():
    versions = ", ".join(f"{k} {v}" for k, v in entry["versions"].items())
    text += f"\n**{key}** ({versions})\n"
    for part in PARTS.keys() & entry.keys():
      found = entry[part]
      text += f"\n| {part} | images/s per core | time over ours | MiB | s to the first batch |\n"
      text += "|---|---|---|---|---|\n"
      for label, facts in found["peers"].items():
        text += f"| {label} | {facts['images_per_second_per_core']:,} "
        text += f"| {turns.cell(found['ratios'].get(label))} | {facts['mib']:,} "
        text += f"| {facts['seconds_to_first_batch']} |\n"
  return text


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--photos", help="class folders of photos; needed for streaming")
  parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
  parser.add_argument("--workers", type=int, default=0, help="also ours with so many processes")
  parser.add_argument("--rounds", type=int, default=10)
  parser.add_argument("--seconds", type=float, default=3.0, help="of each in each round")
  parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    part, peer = args.work.pop("part"), args.work.pop("peer")
    turns.serve(lambda: PARTS[part][peer](**args.work), drain=0 if part == "step" else 10)
    return
  if "streaming" in args.parts and not args.photos:
    parser.error("streaming needs --photos")
  results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
  versions = {}
  for name in PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  entry = results.setdefault(f"CPU, {os.cpu_count()} cores, {platform.machine()}", {})
  entry["versions"] = versions
  with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/photos"
    if "streaming" in args.parts:
      entry["photos"] = peers.photos(args.photos, path)
    for part in args.parts:
      entry[part] = compare(part, path, args)
      print(part, json.dumps(entry[part]), flush=True)
      RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  head, marker, _ = README.read_text().partition("<!-- table -->\n")
  README.write_text(head + marker + table(results))


if __name__ == "__main__":
  main()
