"""The parts of experiments/extending, which `imports` brings: together in one run, and alone."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from cnnjax import build, errors, evaluate, main, registry, writers
from cnnjax import config as configs
from cnnjax.tools import data as data_tools
from cnnjax.tools import optim as optim_tools
from cnnjax.tools import plan

ROOT = pathlib.Path(__file__).parents[2]
PARTS = ("poly1", "gamma", "stripes", "cautious", "inverse_root", "confident_errors")
CHOSEN = {
  "task.loss": "poly1", "task.epsilon": "2",
  "augment": "gamma(0.5, 2.0) | flip",
  "data.source": "stripes", "data.directions": "6",
  "optim.name": "cautious_adamw", "optim.caution": "0.5",
  "optim.schedule.name": "inverse_root", "optim.schedule.timescale": "2 steps",
  "task.metrics": "confident_errors", "task.confidence": "0.3",
  "monitor": "validation/confident_errors",
}  # fmt: skip
RUN = {
  "model.features": "(16,)", "batch_size": "64", "epochs": "6 steps", "log_every": "1 steps",
  "data.validation": "0.25", "eval_every": "3 steps", "checkpoint_every": "3 steps",
  "keep.last": "-1", "compilation_cache": "none",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def imported(registry_of_file):
  """The parts are there for this file alone."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    yield


def imports(*names):
  return f"--config.imports={','.join(f'experiments.extending.{name}' for name in names)}"


def words(values, *names):
  return [
    f"--config={ROOT}/configs/mlp.py",
    imports(*(names or PARTS)),
    *(f"--config.{key}={value}" for key, value in values.items()),
  ]


def train(folder, **values):
  assert main.main([*words({**RUN, **CHOSEN, **values}), f"--workdir={folder}"]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run of six steps with all of the parts, on eight devices."""
  folder = tmp_path_factory.mktemp("parts") / "run"
  train(folder)
  return folder


def metrics(folder):
  return [
    {k: v for k, v in line.items() if "per_second" not in k and "time" not in k}
    for line in writers.read_metrics(folder)
  ]


def test_a_run_has_the_keys_of_its_parts(trained):
  saved = json.loads((trained / "config.json").read_text())
  assert saved["task"]["epsilon"] == 2 and saved["optim"]["caution"] == 0.5
  assert saved["optim"]["schedule"]["timescale"] == "2 steps"
  assert saved["data"]["directions"] == 6 and saved["task"]["confidence"] == 0.3
  line = next(line for line in metrics(trained) if "test/confident_errors" in line)
  assert 0 <= line["test/confident_errors"] <= 1
  rates = [line["learning_rate"] for line in metrics(trained) if "learning_rate" in line]
  np.testing.assert_allclose(rates, 0.001 / np.sqrt(1 + np.arange(6) / 2), rtol=1e-5)


def test_it_is_evaluated(trained):
  step, examples, found = evaluate.evaluate_checkpoint(trained)
  line = next(line for line in metrics(trained) if "test/confident_errors" in line)
  assert (step, examples) == (6, 128)
  for name in ("confident_errors", "accuracy", "loss"):
    assert found[name] == pytest.approx(line[f"test/{name}"], rel=1e-5)


def test_another_value_of_a_key_is_another_run(trained):
  with pytest.raises(errors.UserError, match=r"task\.epsilon was 2\.0 and is 3\.0 now"):
    train(trained, **{"task.epsilon": "3"})


def test_the_tools_see_the_parts(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  given = words({**RUN, **CHOSEN})
  assert plan.main([*given, "--devices=1"]) == 0
  assert optim_tools.main(["plot", *given]) == 0
  assert data_tools.main(["show", *given, "--images=4"]) == 0
  shown = capsys.readouterr().out
  assert "inverse_root, timescale 2 steps" in shown and "training examples of 6 classes" in shown


def test_help_shows_the_keys_of_what_is_imported(capsys):
  with pytest.raises(SystemExit):
    main.main(["--help", imports("poly1")])
  shown = capsys.readouterr().out
  assert "--config.task.epsilon = 1.0  # " in shown
  assert "# loss 'poly1' of experiments.extending.poly1" in shown


BAD = {
  "poly1": [
    ({"task.loss": "poly1", "task.epsilon": "-2"}, "'task.epsilon' is -2.0; it must be at least"),
    ({"task.epsilon": "2"}, "the config chooses nothing that it registers (loss poly1): set task"),
  ],
  "gamma": [
    ({"augment": "gamma(2, 1)"}, "gamma takes exponents above 0, in order, not 2, 1"),
    ({"augment": "gamma(high=2, low=0.5, p=2)"}, "p, a number between 0 and 1, not 2"),
  ],
  "stripes": [
    ({"data.source": "stripes", "data.directions": "1"}, "'data.directions' is 1; it must be from"),
    ({"data.source": "stripes", "data.train": "tarin"}, "stripes has the splits train, test"),
  ],
  "cautious": [
    ({"optim.name": "cautious_adamw", "optim.caution": "yes"}, "takes float, not 'yes'"),
    ({"optim.name": "cautious_adamw", "optim.momentum": "0.5"}, "'optim.momentum' is 0.5 and has"),
  ],
  "inverse_root": [
    ({"optim.schedule.name": "inverse_root", "optim.schedule.timescale": "0"}, "must be above 0"),
    ({"optim.schedule.name": "inverse_root", "optim.schedule.timescale": "3 weeks"}, "500 steps"),
  ],
  "confident_errors": [
    ({"task.metrics": "confident_errors", "task.confidence": "1"}, "must be at least 0 and below"),
    ({"task.metrics": "confident_errors,confident_errrs"}, "Did you mean 'confident_errors'"),
  ],
}


@pytest.mark.parametrize(
  "name, values, message",
  [(name, values, message) for name, cases in BAD.items() for values, message in cases],
)
def test_bad_input_is_one_line(name, values, message):
  with pytest.raises(errors.UserError) as error:
    config = configs.from_arguments(*_arguments(words(values, name)))
    build.validate(config)
  assert message in str(error.value)


def _arguments(given):
  return given[0].removeprefix("--config="), given[1:], []


def test_a_module_that_nothing_is_chosen_of(capsys):
  assert errors.run(lambda: main.main(words({}, "cautious"))) == 2
  assert (
    "the config chooses nothing that it registers (optimizer cautious_adamw): set "
    "optim.name=cautious_adamw, or leave it out" in capsys.readouterr().err
  )


# What each computes, by itself


def part(kind, name, of=""):
  registry.import_modules(f"experiments.extending.{module}" for module in PARTS)
  return registry.part(kind, name, of).value


class Task:
  def __init__(self, **config):
    self.config = ConfigDict(config)


def test_poly1():
  logits, targets = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([[0.0, 1.0, 0.0]])
  p = np.exp(0) / np.exp([2.0, 0.0, -1.0]).sum()
  found = part("loss", "poly1", "classification")(Task(epsilon=2.0), logits, targets)
  np.testing.assert_allclose(found, [-np.log(p) + 2 * (1 - p)], rtol=1e-6)


def test_confident_errors():
  logits = jnp.array([[3.0, 0.0], [0.1, 0.0], [3.0, 0.0]])
  targets = jnp.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
  metric = part("metric", "confident_errors", "classification")
  np.testing.assert_array_equal(metric(Task(confidence=0.9), logits, targets), [1, 0, 0])


def test_caution_leaves_out_what_goes_against_the_gradient():
  config = type("Config", (), {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "caution": 1.0})
  cautious = part("optimizer", "cautious_adamw")(config, None, None)
  plain = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
  params = {"w": jnp.zeros(4)}
  states = [cautious.init(params), plain.init(params)]
  for gradient in ([1.0, 1, 1, -1], [1, -0.01, 1, -1]):
    gradient = {"w": jnp.array(gradient)}
    step, states[0] = cautious.update(gradient, states[0], params)
    known, states[1] = plain.update(gradient, states[1], params)
  assert float(known["w"][1]) > 0 and step["w"][1] == 0
  np.testing.assert_allclose(step["w"][0], known["w"][0] * 4 / (3 + 1), rtol=1e-6)


def test_gamma_is_drawn_for_each_image():
  images = jnp.full((64, 2, 2, 1), 0.5)
  gamma = part("augmentation", "gamma")(0.5, 2.0)
  found = gamma(jax.random.key(0), {"image": images}, {"image": "image"})["image"]
  exponents = np.log(np.asarray(found)) / np.log(0.5)
  assert exponents.min() >= 0.499 and exponents.max() <= 2.001
  assert len({round(float(e), 4) for e in exponents[:, 0, 0, 0]}) > 50
  np.testing.assert_array_equal(exponents[:, 0, 0], exponents[:, 1, 1])
