"""Parts of recipes compared: schedules, optimizers, regularisers, losses, averages, precision.

python experiments/recipes/run.py [GROUP ...]

Each row is one command, five seeds of it, by the trainer that everyone uses. Runs what is not done
yet, then writes results.json, the tables of README.md and a plot a group.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import matplotlib

from cnnjax import writers
from cnnjax.runtime import strict_json

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/recipes")
# A residual network of 8 layers; half of the training digits are held out, so that there is
# something to see: with all of them most recipes end near 99 %.
BASE = (
  "--config=configs/resnet.py --config.model.stage_sizes=(1,1,1) --config.data.validation=0.5"
  " --config.batch_size=32 --config.epochs=15"
)
SEEDS = "--config.seeds=5"
RATES = (0.3, 1.0, 3.0)  # times the one below, the best by validation accuracy of seed 100


def keys(**settings: object) -> str:
  """Overrides of the config; a double underscore is a dot."""
  pairs = ((key.replace("__", "."), value) for key, value in settings.items())
  return " ".join(f"--config.{key}={str(value).replace(' ', '')}" for key, value in pairs)


def schedule(name: str, **settings: object) -> str:
  return keys(
    optim__schedule__name=name, **{f"optim__schedule__{k}": v for k, v in settings.items()}
  )


def optimizer(name: str, rate: float, **settings: object) -> str:
  return keys(optim__name=name, optim__learning_rate=rate, **settings)


FREE = {"optim__schedule__name": "constant"}
GROUPS = {
  "schedules": {
    "constant": schedule("constant"),
    "step": schedule("step", period=5),
    "multi_step": schedule("multi_step", boundaries=(8, 12)),
    "exponential": schedule("exponential", period=4, factor=0.3),
    "linear": schedule("linear"),
    "polynomial, power 2": schedule("polynomial", power=2.0),
    "cosine": schedule("cosine"),
    "warm_restarts": schedule("warm_restarts", first_period=2),
    "one_cycle": schedule("one_cycle", warmup=0),
    "trapezoid": schedule("trapezoid", cooldown=0.4),
  },
  "optimizers": {
    "sgd": optimizer("sgd", 0.1),
    "rmsprop": optimizer("rmsprop", 0.003),
    "adam": optimizer("adam", 0.01),
    "adamw": optimizer("adamw", 0.01, optim__weight_decay=0.05),
    "nadam": optimizer("nadam", 0.01),
    "lamb": optimizer("lamb", 0.02),
    "lars": optimizer("lars", 3.0),
    "lion": optimizer("lion", 0.001, optim__b2=0.99, optim__weight_decay=0.05),
    "muon": optimizer("muon", 0.02),
    "schedule_free_sgd": optimizer("schedule_free_sgd", 1.0, **FREE),
    "schedule_free_adamw": optimizer("schedule_free_adamw", 0.01, **FREE),
    "sgd with SAM": optimizer("sgd", 0.1, optim__sam_rho=0.1),
    "sgd with Lookahead": optimizer("sgd", 0.1, optim__lookahead=5),
  },
  "regularisers": {
    "none": keys(optim__weight_decay=0, task__label_smoothing=0, augment=None),
    "weight decay": keys(task__label_smoothing=0, augment=None),
    "label smoothing": keys(optim__weight_decay=0, augment=None),
    "crops": keys(optim__weight_decay=0, task__label_smoothing=0),
    "Mixup": keys(optim__weight_decay=0, task__label_smoothing=0, augment="mixup(0.2)"),
    "Cutout": keys(optim__weight_decay=0, task__label_smoothing=0, augment="cutout(3)"),
    "dropout": keys(
      optim__weight_decay=0, task__label_smoothing=0, augment=None, model__dropout=0.2
    ),
    "stochastic depth": keys(
      optim__weight_decay=0, task__label_smoothing=0, augment=None, model__drop_path=0.2
    ),
    "weight decay, smoothing, crops": "",
  },
  "precision": {
    "float32": "",
    "bfloat16": keys(dtype="bfloat16"),
    "float16": keys(dtype="float16"),
    "4 micro-batches": keys(accumulate=4),
    "4 micro-batches, matched": keys(accumulate=4, batch_norm__accumulated="matched"),
    "ghost batches of 8": keys(batch_norm__ghost=8),
  },
}


def train(arguments: str, folder: pathlib.Path) -> dict[str, float]:
  """Trains or resumes the run of `arguments`; returns its newest metrics."""
  command = [sys.executable, "-m", "cnnjax.main", *BASE.split(), *arguments.split()]
  subprocess.run([*command, f"--workdir={folder}"], check=True, stdout=subprocess.DEVNULL)
  latest: dict[str, float] = {}
  for line in writers.read_metrics(folder):
    latest |= line
  return latest


def tuned(name: str, arguments: str) -> str:
  """Returns the arguments with the best rate of a sweep, by validation accuracy."""
  rate = float(arguments.split("optim.learning_rate=")[1].split()[0])
  rates = tuple(round(rate * factor, 10) for factor in RATES)
  swept = train(f"{arguments} {keys(rates=rates, seed=100)}", RUNS / "rates" / name)
  prefix = "schedule_free_" if name.startswith("schedule_free") else ""
  score = lambda rate: swept[f"validation/{prefix}accuracy/rate={rate:g}"]
  best = max(rates, key=score)
  return arguments.replace(f"learning_rate={rate}", f"learning_rate={best}")


def measure(group: str, name: str) -> dict:
  """Returns a row: the command, and the results of its seeds."""
  folder = name.replace(" ", "_").replace(",", "")
  arguments = GROUPS[group][name]
  if group == "optimizers":
    arguments = tuned(folder, arguments)
  found = train(f"{arguments} {SEEDS}", RUNS / group / folder)
  start = json.loads((RUNS / group / folder / "starts.jsonl").read_text().splitlines()[-1])
  prefix = "schedule_free_" if name.startswith("schedule_free") else ""
  row = {"arguments": arguments, "versions": start["versions"], "machine": start["devices"]}
  for split in ("validation", "test"):
    for metric in ("accuracy", "loss"):
      for suffix in ("", "_ci95"):
        row[f"{split}/{metric}{suffix}"] = found[f"{split}/{prefix}{metric}{suffix}"]
  return row


def table(rows: dict[str, dict]) -> str:
  """Returns the rows of a group in Markdown."""
  text = "| | what differs | validation accuracy | validation loss | test accuracy |\n"
  text += "|---|---|---|---|---|\n"
  for name, row in rows.items():
    shown = [
      f"{row[key]:{form}} ± {row[f'{key}_ci95']:{form}}"
      for key, form in (
        ("validation/accuracy", ".2%"), ("validation/loss", ".3f"), ("test/accuracy", ".2%")
      )
    ]  # fmt: skip
    differs = row["arguments"].replace("--config.", "") or "the default"
    text += f"| {name} | `{differs}` | {' | '.join(shown)} |\n"
  return text


def plot(group: str, rows: dict[str, dict]) -> None:
  """Draws validation accuracy with its interval, one row each, the best on top."""
  names = sorted(rows, key=lambda name: rows[name]["validation/accuracy"])
  key = "validation/accuracy"
  figure, axes = plt.subplots(figsize=(6.4, 0.6 + 0.32 * len(names)), layout="constrained")
  axes.errorbar(
    [100 * rows[name][key] for name in names], range(len(names)),
    xerr=[100 * rows[name][f"{key}_ci95"] for name in names], fmt="o", capsize=3,
  )  # fmt: skip
  axes.set_yticks(range(len(names)), names)
  axes.set_xlabel("validation accuracy, per cent; mean of 5 seeds, 95 % interval")
  axes.grid(axis="x", alpha=0.3)
  figure.savefig(HERE / f"{group}.png", dpi=110)
  plt.close(figure)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
  groups = parser.parse_args().groups or list(GROUPS)
  file = HERE / "results.json"
  results = json.loads(file.read_text()) if file.exists() else {}
  for group in groups:
    for name in GROUPS[group]:
      if name not in results.setdefault(group, {}):
        results[group][name] = measure(group, name)
        file.write_text(strict_json.dumps(results, indent=1) + "\n")
        print(group, name, {k: v for k, v in results[group][name].items() if "accuracy" in k})
    plot(group, results[group])
  readme = HERE / "README.md"
  head = readme.read_text().split("<!-- tables -->")[0]
  parts = [f"## {g.capitalize()}\n\n{table(results[g])}\n![{g}]({g}.png)\n" for g in results]
  readme.write_text(head + "<!-- tables -->\n" + "\n".join(parts))


if __name__ == "__main__":
  main()
