"""What the proofs of this folder come to, each trained by the command that its row shows.

python experiments/extending/run.py [NAME ...]

Runs what is not done yet (a run that was stopped goes on), then writes results.json, the tables of
README.md and the picture of samples. Two things no training measures: a classifier that never saw
the GAN judges its samples, and the networks of adversarial.py meet digits that are moved up their
loss.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import cnnjax
from cnnjax import build, models
from cnnjax.runtime import strict_json
from cnnjax.training import passes

HERE = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/extending")
SEEDS = (0, 1)
JUDGE = "--config=configs/simple_cnn.py"
MOVE = 0.25  # standard deviations of the pixels
SAMPLES = 2000
Measured = dict[str, float]


class Proof(NamedTuple):
  """A preset and the metrics of its table."""

  arguments: str
  shown: dict[str, tuple[str, float | None]]  # form, and the least that it must come to
  measure: Callable[[pathlib.Path], Measured] | None = None  # more metrics, of a run's folder


def folder_of(name: str, seed: int) -> pathlib.Path:
  return RUNS / f"{name.replace(', ', '_').replace(' ', '_')}-{seed}"


def test_digits(predictor: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns uint8 images and labels of the test split of a run."""
  split = build.build(predictor.trained.config).inputs.evaluations["test"].split
  return np.stack([np.asarray(split.images[i]) for i in range(len(split))]), np.array(split.labels)


def on_moved_images(folder: pathlib.Path) -> Measured:
  """Returns the accuracy on test images that are moved up the loss of the network, as evaluated."""
  found = cnnjax.load(folder, checkpoint="last")
  pixels, labels = test_digits(found)
  images = found.trained.normalize(passes.to_float(jnp.asarray(pixels)))
  logits = lambda x: models.forward(found.model, found.variables, x)
  targets = jax.nn.one_hot(labels, len(found.classes))
  gradient = jax.grad(lambda x: found.trained.task.loss(logits(x), targets).sum())(images)
  right = logits(images + MOVE * jnp.sign(gradient)).argmax(-1) == labels
  return {"moved_accuracy": float(right.mean())}


def judged(images: np.ndarray) -> Measured:
  """Returns what the frozen classifier says of uint8 images, and how far apart they are."""
  judge = cnnjax.load(RUNS / "judge", checkpoint="last")
  probabilities = judge.predict(images).probabilities
  classes = probabilities.argmax(-1)
  shares = np.bincount(classes, minlength=len(judge.classes)) / len(classes)
  flat, distances = images.reshape(len(images), -1) / 255, []
  for own in (flat[classes == label] for label in range(len(judge.classes))):
    apart = np.linalg.norm(own[:, None] - own[None], axis=-1)
    distances += [*apart[np.triu_indices(len(own), 1)]]
  return {
    "confidence": float(probabilities.max(-1).mean()),
    "rarest": float(shares.min()),
    "commonest": float(shares.max()),
    "distance": float(np.mean(distances)),
  }


def samples(gan: Any, variables: Any) -> np.ndarray:
  """Returns uint8 images that the generator draws."""
  noise = jax.random.normal(jax.random.key(0), (SAMPLES, gan.model.noise))
  drawn = jax.jit(lambda v, z: gan.model.apply(v, z, train=False, method="draw"))(variables, noise)
  pixels = passes.restorer(gan.trained.meta["mean"], gan.trained.meta["std"])(drawn)
  return np.asarray(jnp.round(255 * jnp.clip(pixels, 0, 1))).astype(np.uint8)


def judge_samples(folder: pathlib.Path) -> Measured:
  """Returns what the judge says of samples, of those of a generator that learnt nothing, and of
  the test digits.
  """
  train(JUDGE, RUNS / "judge")
  gan = cnnjax.load(folder, checkpoint="last")
  drawn = samples(gan, gan.variables)
  if folder == folder_of("GAN", SEEDS[0]):
    write_picture(drawn)
  key, shape = jax.random.key(0), gan.trained.meta["image_shape"]
  untrained = samples(gan, models.init(gan.model, key, jnp.zeros((1, *shape))))
  of = {"": drawn, "untrained_": untrained, "digits_": test_digits(gan)[0]}
  return {f"{of}{key}": x for of, images in of.items() for key, x in judged(images).items()}


def write_picture(drawn: np.ndarray) -> None:
  """Writes a square of 100 samples, each pixel 4 times as wide."""
  side = drawn.shape[1] + 1
  square = np.full((10 * side - 1, 10 * side - 1), 128, np.uint8)
  for i, image in enumerate(drawn[:100, ..., 0]):
    top, left = side * (i // 10), side * (i % 10)
    square[top : top + side - 1, left : left + side - 1] = image
  Image.fromarray(square.repeat(4, 0).repeat(4, 1)).save(HERE / "samples.png")


def preset(name: str) -> str:
  return f"--config=experiments/extending/{name}"


PARTS = ("poly1", "gamma", "stripes", "cautious", "inverse_root", "confident_errors")
PROOFS = {
  "parts": Proof(
    "--config=configs/mlp.py --config.imports="
    + ",".join(f"experiments.extending.{name}" for name in PARTS)
    + " --config.task.loss=poly1 --config.augment=gamma(0.5,2.0)|flip --config.data.source=stripes"
    " --config.optim.name=cautious_adamw --config.optim.schedule.name=inverse_root"
    " --config.task.metrics=confident_errors",
    {"accuracy": (".2%", None), "confident_errors": (".2%", None)},
  ),
  "two scales": Proof(preset("multiscale_config.py"), {"accuracy": (".2%", 0.95)}),
  "two scales, frozen": Proof(preset("multiscale_config.py:frozen"), {"accuracy": (".2%", 0.5)}),
  "segmentation": Proof(preset("segmentation_config.py"), {"miou": (".2%", 0.9)}),
  "SimCLR": Proof(
    preset("simclr_config.py"), {"knn": (".2%", 0.93), "spread": (".2f", 0.5)}
  ),
  "BYOL": Proof(
    preset("byol_config.py"), {"ema_knn": (".2%", 0.9), "ema_spread": (".2f", 0.5)}
  ),
  "mean teacher": Proof(preset("byol_config.py:mean_teacher"), {"ema_accuracy": (".2%", 0.95)}),
  "GAN": Proof(
    preset("gan_config.py"),
    {"confidence": (".2f", 0.65), "rarest": (".1%", 0.05), "taken_for_real": (".2%", None)},
    judge_samples,
  ),
  "without FGSM": Proof(
    preset("adversarial_config.py:plain"),
    {"accuracy": (".2%", 0.96), "moved_accuracy": (".2%", None)},
    on_moved_images,
  ),
  "FGSM": Proof(
    preset("adversarial_config.py"),
    {"accuracy": (".2%", 0.96), "moved_accuracy": (".2%", 0.86)},
    on_moved_images,
  ),
}  # fmt: skip


def train(arguments: str, folder: pathlib.Path) -> int:
  """Trains to the end, in a process of its own; returns its seconds, start-up included."""
  began = time.monotonic()
  command = [sys.executable, "-m", "cnnjax.main", *arguments.split(), f"--workdir={folder}"]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  return round(time.monotonic() - began)


def measure(name: str, seed: int) -> dict[str, Any]:
  """Trains a proof with a seed, and returns what its folder says of it."""
  proof, folder = PROOFS[name], folder_of(name, seed)
  arguments = f"{proof.arguments} --config.seed={seed}"
  seconds = train(arguments, folder)
  starts = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
  last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
  found = {key.removeprefix("test/"): x for key, x in last.items() if key.startswith("test/")}
  if proof.measure:
    found |= proof.measure(folder)
  return {
    "command": f"python -m cnnjax.main {arguments}",
    "seed": seed,
    "steps": last["step"],
    "seconds": seconds if len(starts) == 1 else None,  # None: not in one go
    "test": found,
    **{key: starts[-1][key] for key in ("versions", "devices", "machine", "cpus")},
    "config": json.loads((folder / "config.json").read_text()),
  }


def table(results: dict[str, list[dict]]) -> str:
  """Returns the rows of the proofs in Markdown."""
  head = [f"seed {seed}" for seed in SEEDS]
  rows = [
    f"| proof | of the test split | at least | {' | '.join(head)} | steps | seconds |",
    "|" + "---|" * (5 + len(SEEDS)),
  ]
  for name, runs in results.items():
    for i, (key, (form, least)) in enumerate(PROOFS[name].shown.items()):
      values = [f"{run['test'][key]:{form}}" for run in runs]
      asked = "" if least is None else f"{least:{form}}"
      took = ", ".join(str(run["seconds"] or "in parts") for run in runs)
      first, last = (name, [str(runs[0]["steps"]), took]) if i == 0 else ("", ["", ""])
      rows.append(f"| {' | '.join([first, key, asked, *values, *last])} |")
  return "\n".join(rows) + "\n"


def judged_table(runs: list[dict]) -> str:
  """Returns the judge's figures of the GAN as Markdown."""
  columns = [(f"seed {run['seed']}", run["test"], "") for run in runs]
  columns += [("untrained", runs[0]["test"], "untrained_"), ("digits", runs[0]["test"], "digits_")]
  rows = [f"| | {' | '.join(name for name, *_ in columns)} |", "|" + "---|" * (1 + len(columns))]
  for words, shown in (
    ("confidence of the judge, mean", "{confidence:.2f}"),
    ("share of the rarest and of the commonest class", "{rarest:.1%}, {commonest:.1%}"),
    ("distance of two images of a class, pixels in [0, 1]", "{distance:.2f}"),
  ):
    cells = []
    for _, found, prefix in columns:
      own = {k.removeprefix(prefix): x for k, x in found.items() if k.startswith(prefix)}
      cells.append(shown.format(**own))
    rows.append(f"| {words} | {' | '.join(cells)} |")
  return "\n".join(rows) + "\n"


def with_tables(text: str, results: dict[str, list[dict]]) -> str:
  """Returns the text of README.md with the tables of these results."""
  for marker, written in (("results", table(results)), ("judged", judged_table(results["GAN"]))):
    before, begin, rest = text.partition(f"<!-- {marker} -->\n")
    text = before + begin + written + rest[rest.index("<!-- end -->") :]
  return text


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROOFS))
  names = parser.parse_args().names or [*PROOFS]
  if wrong := {*names} - {*PROOFS}:
    parser.error(f"unknown: {', '.join(sorted(wrong))}; choose from {', '.join(PROOFS)}")
  file, readme = HERE / "results.json", HERE / "README.md"
  results = json.loads(file.read_text()) if file.is_file() else {}
  for name in names:
    done = {run["seed"]: run for run in results.get(name, [])}
    for seed in SEEDS:
      if seed not in done:
        done[seed] = measure(name, seed)
        shown = {key: done[seed]["test"][key] for key in PROOFS[name].shown}
        print(f"{name}, seed {seed}: {shown}, {done[seed]['seconds']} s", flush=True)
      results[name] = [done[seed] for seed in sorted(done)]
      results = {name: results[name] for name in PROOFS if name in results}
      file.write_text(strict_json.dumps(results, indent=1) + "\n")
  if "GAN" in results:
    readme.write_text(with_tables(readme.read_text(), results))


if __name__ == "__main__":
  main()
