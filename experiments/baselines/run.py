"""The first results: small networks on real images, each run by the command that its row shows.

python experiments/baselines/run.py [NAME ...]

Runs what is not done yet (a run that was stopped goes on), then writes results.json and the table
of README.md from the metrics that the runs left in runs/baselines/.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

from cnnjax import models
from cnnjax.runtime import strict_json

HERE = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/baselines")
# A narrow variant of every family, on 8x8 digits, enlarged where the network needs it.
FAMILIES = (
  "alexnet", "vgg", "squeezenet", "googlenet", "inception", "xception", "pyramidnet", "densenet",
  "convmixer", "vit", "mobilenet", "mnasnet", "shufflenet", "efficientnet", "regnet", "convnext",
  "nfnet",
)  # fmt: skip
# The other designs of these families, by the same recipes, two of them longer.
VARIANTS = {
  "seresnet20": "resnet.py --config.model.name=seresnet20",
  "cbam_resnet20": "resnet.py --config.model.attention=cbam",
  "eca_resnet20": "resnet.py --config.model.attention=eca",
  "resnet18d": "resnet.py --config.model.name=resnet18d --config.model.small_images=True"
  " --config.model.features=16 --config.model.stem_features=16",
  "mobilenetv1": "mobilenet.py --config.model.name=mobilenetv1_050 --config.epochs=80",
  "mobilenetv3": "mobilenet.py --config.model.name=mobilenetv3_small_050",
  "mobilenetv4": "mobilenet.py --config.model.name=mobilenetv4_conv_small_035",
  "efficientnet_lite": "efficientnet.py --config.model.name=efficientnet_lite0 --config.epochs=40",
}
# name: arguments of cnnjax.main
EXPERIMENTS = {
  **{f"resnet20-digits-{s}": f"--config=configs/resnet.py --config.seed={s}" for s in (0, 1, 2)},
  **{f"{name}-digits": f"--config=configs/{name}.py" for name in FAMILIES},
  **{f"{name}-digits": f"--config=configs/{rest}" for name, rest in VARIANTS.items()},
  "lenet5-mnist": "--config=configs/lenet.py:mnist --config.epochs=12",
  "simple_cnn-mnist": "--config=configs/simple_cnn.py:mnist",
  "simple_cnn-fashion_mnist": "--config=configs/simple_cnn.py:fashion_mnist",
  "resnet20-cifar10-short": "--config=configs/resnet.py:cifar10 --config.epochs=2"
  " --config.optim.schedule.name=cosine",
}


def run(name: str, before: dict) -> dict:
  """Trains to the end, and returns what the workdir says of it, and what was known `before`."""
  folder = RUNS / name
  command = ["-m", "cnnjax.main", *EXPERIMENTS[name].split(), f"--workdir={folder}"]
  began = time.monotonic()
  subprocess.run([sys.executable, *command], check=True)
  took = round(time.monotonic() - began)
  starts = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
  config = json.loads((folder / "config.json").read_text())
  last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
  return {
    "command": f"python -m cnnjax.main {EXPERIMENTS[name]}",
    "seed": config["seed"],
    "epochs": config["epochs"],
    "steps": last["step"],
    "test/accuracy": last["test/accuracy"],
    "test/loss": last["test/loss"],
    # Start-up included; None: not in one go.
    "seconds": took if len(starts) == 1 else before.get("seconds"),
    **{key: starts[-1][key] for key in ("versions", "devices", "machine", "cpus")},
    "config": config,
  }


def describe(model: dict) -> str:
  """Returns the variant and its keys of size that are not the usual ones, in words."""
  usual = models.fields(model["name"])
  shape = (
    "attention", "depth", "features", "growth_rate", "heads", "patch_size", "small_images",
    "stage_sizes", "stem_features", "width",
  )  # fmt: skip
  plain = lambda value: json.loads(json.dumps(value))
  own = [f"{k}={model[k]}" for k in shape if k in model and plain(usual.get(k)) != model[k]]
  return ", ".join([model["name"], *own])


def table(results: dict[str, dict]) -> str:
  """Returns the rows of README.md."""
  rows = ["| command | model | seed | test accuracy | time | jax |", "|---|---|---|---|---|---|"]
  for result in results.values():
    took = f"{result['seconds']} s" if result["seconds"] else "not in one go"
    rows.append(
      f"| `{result['command']}` | {describe(result['config']['model'])} | {result['seed']} "
      f"| {result['test/accuracy']:.2%} | {took} "
      f"| {result['versions']['jax']} |"
    )
  return "\n".join(rows) + "\n"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
  args = parser.parse_args()
  if wrong := set(args.names) - set(EXPERIMENTS):
    parser.error(f"unknown: {', '.join(sorted(wrong))}; choose from {', '.join(EXPERIMENTS)}")
  file, readme = HERE / "results.json", HERE / "README.md"
  results = json.loads(file.read_text()) if file.is_file() else {}
  for name in args.names or EXPERIMENTS:
    results[name] = run(name, results.get(name, {}))
    results = {key: results[key] for key in EXPERIMENTS if key in results}
    file.write_text(strict_json.dumps(results, indent=2) + "\n")
    head, marker, _ = readme.read_text().partition("<!-- table -->\n")
    readme.write_text(head + marker + table(results))


if __name__ == "__main__":
  main()
