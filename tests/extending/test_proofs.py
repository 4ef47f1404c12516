"""What holds of every proof of experiments/extending, and what they came to.

A small form of each is trained on eight devices and on one, killed, resumed, and evaluated.
"""

import importlib
import json
import multiprocessing
import os
import pathlib
import re
import signal
import time

import compiling
import jax
import numpy as np
import pytest

from cnnjax import checkpoints, evaluate, train, writers
from cnnjax import config as configs

ROOT = pathlib.Path(__file__).parents[2]
CLOCK = ("images_per_second", "data_wait", "time")
ALL = {"epochs": "5 steps", "batch_size": "16", "log_every": "1 steps"}
SMALL = {"model.conv_features": "(4,)", "model.dense_features": "(8,)"}
# Steps that Adam takes along a gradient near 0 are as large as any: rounding becomes a difference.
SGD = {"optim.name": "sgd", "optim.learning_rate": "0.05", "optim.schedule.warmup": "1 steps"}
PARTS = ("poly1", "gamma", "stripes", "cautious", "inverse_root", "confident_errors")
# By name: the config, what makes it small, and the step of the checkpoint that a kill leaves.
PROOFS = {
  "parts": (
    "configs/mlp.py",
    {
      "imports": ",".join(f"experiments.extending.{part}" for part in PARTS),
      "task.loss": "poly1", "augment": "gamma(0.5, 2.0) | flip", "data.source": "stripes",
      "optim.name": "cautious_adamw", "optim.schedule.name": "inverse_root",
      "task.metrics": "confident_errors", "model.features": "(16,)",
    },
    2,
  ),
  "two scales": (
    "multiscale_config.py",
    {"model.backbone": "simple_cnn_small", "model.width": "6", "optim.schedule.warmup": "1 steps"},
    2,
  ),
  "segmentation": (
    "segmentation_config.py",
    {"model.name": "simple_cnn", "model.conv_features": "(4, 4)", **SGD},
    3,
  ),
  "simclr": ("simclr_config.py", {**SMALL, **SGD}, 3),
  "byol": ("byol_config.py", {**SMALL, **SGD}, 2),
  "mean teacher": ("byol_config.py:mean_teacher", {**SMALL, **SGD}, 3),
  "gan": (
    "gan_config.py",
    {
      "optim.name": "sgd", "optim.b1": "0.9", "optim.momentum": "0.5", "average.ema": "0.9",
      "optim.learning_rate": "0.02",
      "optimizers": '(("critic", {"params": "^critic/", "every": 2, "learning_rate": 0.05}),)',
    },
    3,  # the critic rests in the step that follows
  ),
  "fgsm": ("adversarial_config.py", {**SMALL, "optim.schedule.warmup": "1 steps"}, 2),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def importable(registry_of_file):
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    yield


@pytest.fixture(name="run")
def run_fixture():
  return importlib.import_module("experiments.extending.run")


@pytest.fixture(name="results")
def results_fixture(run):
  return json.loads((run.HERE / "results.json").read_text())


def test_what_was_asked_for_is_reached_by_every_seed(run, results):
  assert results.keys() == run.PROOFS.keys()
  for name, proof in run.PROOFS.items():
    runs = results[name]
    assert [one["seed"] for one in runs] == [*run.SEEDS]
    for one in runs:
      assert one["config"]["seed"] == one["seed"] and one["versions"]["jax"] and one["machine"]
      assert proof.arguments in one["command"]
      for metric, (_, least) in proof.shown.items():
        assert least is None or one["test"][metric] >= least, (name, metric, one["seed"])
  asked = {(name, m): least for name, p in run.PROOFS.items() for m, (_, least) in p.shown.items()}
  of_issue = asked["segmentation", "miou"], asked["SimCLR", "knn"], asked["BYOL", "ema_knn"]
  assert of_issue == (0.9, 0.93, 0.9)


def test_the_tables_are_those_of_the_results(run, results):
  readme = (run.HERE / "README.md").read_text()
  assert run.with_tables(readme, results) == readme
  other = json.loads(json.dumps(results))
  other["BYOL"][1]["test"]["ema_knn"] += 0.01
  assert run.with_tables(readme, other) != readme


def test_results_are_of_the_presets_as_they_are(run, results):
  """A preset that sets another value has to be trained anew."""
  plain = lambda value: json.loads(json.dumps(value))
  for name, proof in run.PROOFS.items():
    file, *words = proof.arguments.replace("--config=", f"--config={ROOT}/", 1).split()
    preset = configs.from_arguments(file.removeprefix("--config="), words, [])
    usual = configs.flatten(configs.default())  # with the keys of parts that are imported by now
    own = {k: v for k, v in configs.flatten(preset).items() if k not in usual or usual[k] != v}
    assert own
    for one in results[name]:
      trained = configs.flatten(one["config"])
      assert plain({key: trained[key] for key in own}) == plain(own), name


def test_each_is_as_short_as_the_readme_says(run):
  text = (run.HERE / "README.md").read_text()
  said = {
    file: int(n) for file, n in re.findall(r"^\| \[(\w+\.py)\].* (\d+) \|$", text, re.MULTILINE)
  }
  apart = {"run.py", *(file.name for file in run.HERE.glob("*_config.py"))}
  files = [file for file in run.HERE.glob("*.py") if file.name not in apart]
  assert said == {file.name: len(file.read_text().splitlines()) for file in files}
  assert max(said.values()) <= 120


def config_of(name, devices):
  file, values, saved = PROOFS[name]
  file = ROOT / (file if file.startswith("configs") else f"experiments/extending/{file}")
  words = {**ALL, "checkpoint_every": f"{saved} steps", "mesh.data": devices, **values}
  return configs.from_arguments(str(file), [f"--config.{k}={v}" for k, v in words.items()], [])


def train_until_killed(name, folder):
  """Trains; the process kills itself in the step after its first checkpoint, which lies there."""
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  compiling.quickly = True
  saved, progress = PROOFS[name][-1], writers.Writers.progress

  def killed(self, step, read):
    progress(self, step, read)
    if step == saved + 1:
      while checkpoints.last_step(folder) != saved:
        time.sleep(0.01)
      os.kill(os.getpid(), signal.SIGKILL)

  writers.Writers.progress = killed
  train.train(config_of(name, 8), folder)


@pytest.fixture(scope="module")
def processes():
  """Starts each process as a fork of one that has imported all of it, and computed nothing."""
  found = multiprocessing.get_context("forkserver")
  found.set_forkserver_preload(["cnnjax.train", "cnnjax.build", __name__])
  return found


def lines(folder):
  found = writers.read_metrics(folder)
  return [{k: v for k, v in line.items() if k not in CLOCK} for line in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROOFS)
def test_it_is_trained_killed_and_evaluated_and_devices_agree(name, processes, tmp_path):
  whole, _, _ = train.train(config_of(name, 8), tmp_path / "whole")
  assert whole.steps_done == 5

  process = processes.Process(
    target=train_until_killed, args=(name, tmp_path / "killed"), daemon=True
  )
  process.start()
  process.join(timeout=300)
  assert process.exitcode == -signal.SIGKILL
  assert checkpoints.last_step(tmp_path / "killed") == PROOFS[name][-1]
  resumed, _, _ = train.train(config_of(name, 8), tmp_path / "killed")
  expected, found = checkpoints.paths(whole), checkpoints.paths(resumed)
  assert expected.keys() == found.keys()
  for path, leaf in expected.items():
    assert np.asarray(leaf).tobytes() == np.asarray(found[path]).tobytes(), path
  logged = lines(tmp_path / "whole")
  assert lines(tmp_path / "killed") == logged

  _, _, evaluated = evaluate.evaluate_checkpoint(tmp_path / "killed")
  in_training = {}
  for line in logged:
    in_training |= {k.removeprefix("test/"): v for k, v in line.items() if k.startswith("test/")}
  assert {*evaluated} <= {*in_training} and evaluated
  for key, value in evaluated.items():
    assert value == pytest.approx(in_training[key], rel=1e-4, abs=1e-6), key

  one, _, _ = train.train(config_of(name, 1), tmp_path / "one")
  losses = [
    [line["train/loss"] for line in run if "train/loss" in line]
    for run in (logged, lines(tmp_path / "one"))
  ]
  assert len(losses[0]) == 5
  np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-5)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)
  jax.tree.map(close, jax.device_get(one.variables), jax.device_get(whole.variables))
